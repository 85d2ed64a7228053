//! The lock manager.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    builder::RedlockBuilder,
    error::Error,
    keep_alive::Lease,
    lease::LeaseState,
    lock::{Acquisition, Lock, LockParts, UnlockOutcome},
    nodes::Nodes,
    request::LockRequest,
    resources::Resources,
    retry::RetryPolicy,
    rounds::Taking,
    runtime::Runtime,
    telemetry::{Call, Kind, Outcome},
    validity::MAX_TTL,
};

/// A lock manager over independent nodes. Cheap to clone; clones share their nodes.
///
/// ```
/// use std::time::Duration;
/// use redlock_core::{MemoryBackend, Redlock, TokioRuntime, UnlockOutcome};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = TokioRuntime::current();
/// let redlock = Redlock::builder(runtime.clone())
///     .nodes((0..3).map(|_| MemoryBackend::new(runtime.clone())))
///     .build()?;
///
/// let mut lock = redlock.lock("locks:account:322456", Duration::from_secs(10)).await?;
/// assert!(redlock.try_lock("locks:account:322456", Duration::from_secs(10)).await.is_err());
/// lock.extend(Duration::from_secs(10)).await?;
/// assert_eq!(lock.unlock().await?, UnlockOutcome::Released);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Redlock {
    nodes: Arc<Nodes>,
    retry: RetryPolicy,
}

impl Redlock {
    /// Starts to make a lock manager that runs on `runtime`.
    pub fn builder(runtime: impl Runtime) -> RedlockBuilder {
        RedlockBuilder::new(Arc::new(runtime))
    }

    pub(crate) fn new(nodes: Arc<Nodes>, retry: RetryPolicy) -> Self {
        Self { nodes, retry }
    }

    /// Locks one resource or several, all or nothing, for `ttl`, retrying as the manager is configured.
    ///
    /// Await the request, or change options for this call first:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn example(redlock: redlock_core::Redlock) -> Result<(), redlock_core::Error> {
    /// let ttl = Duration::from_secs(10);
    /// let lock = redlock.lock(["account:1", "account:2"], ttl).retry_forever().acquire_timeout(ttl).await?;
    /// # drop(lock);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Awaiting it gives [`Error::Contended`], [`Error::NoQuorum`] or [`Error::Rejected`] when the last round
    /// was lost, and [`Error::InvalidRequest`] before anything is sent.
    ///
    /// # Cancellation
    ///
    /// Dropping the future at any time removes, in the background, what it may have put on the nodes.
    pub fn lock(&self, resources: impl Into<Resources>, ttl: Duration) -> LockRequest {
        LockRequest::new(self.nodes.clone(), self.retry.clone(), resources.into(), ttl)
    }

    /// As [`Redlock::lock`] with a single attempt.
    pub fn try_lock(&self, resources: impl Into<Resources>, ttl: Duration) -> LockRequest {
        self.lock(resources, ttl).retry_count(0)
    }

    /// Runs `routine` under a lock that is extended while it runs and released afterwards. When the lock is
    /// lost, the routine is dropped where it awaits, no later than the validity runs out.
    ///
    /// The extending is a task of its own: on a runtime with several threads it goes on while the routine
    /// blocks. The routine's result always comes through, also when the lock was lost meanwhile or cannot be
    /// released; a routine that has to know asks its [`Lease`] before it commits.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn example(redlock: redlock_core::Redlock) -> Result<(), redlock_core::Error> {
    /// let total = redlock.using("nightly-report", Duration::from_secs(10), |lease| async move {
    ///     let mut total = 0;
    ///     for part in 0..100 {
    ///         if !lease.is_valid() {
    ///             break;
    ///         }
    ///         total += part;
    ///     }
    ///     total
    /// });
    /// assert_eq!(total.await?, 4950);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Redlock::lock`], and [`Error::Lost`] when the routine was dropped.
    ///
    /// # Cancellation
    ///
    /// Dropping the future drops the routine, and releases the lock in the background.
    pub fn using<R, F, Fut>(
        &self,
        resources: R,
        ttl: Duration,
        routine: F,
    ) -> impl Future<Output = Result<Fut::Output, Error>> + use<R, F, Fut>
    where
        R: Into<Resources>,
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        self.lock(resources, ttl).using(routine)
    }

    /// As [`Lock::extend`].
    ///
    /// # Errors
    ///
    /// As [`Lock::extend`].
    pub async fn extend(&self, lock: &mut Lock, ttl: Duration) -> Result<(), Error> {
        lock.extend(ttl).await
    }

    /// As [`Lock::unlock`].
    ///
    /// # Errors
    ///
    /// As [`Lock::unlock`].
    pub async fn unlock(&self, lock: Lock) -> Result<UnlockOutcome, Error> {
        lock.unlock().await
    }

    /// Takes over a lock that another process took apart with [`Lock::into_parts`].
    ///
    /// The lock gets a new token: it takes the place of the old one on a quorum of nodes. That uses the parts
    /// up: of several that take the same parts one at most has the lock, and the others get [`Error::Lost`].
    ///
    /// The clocks of two processes have nothing in common, so the lock is valid only from here on, when a
    /// quorum of nodes still holds it: for its ttl, or for what was left of a longer validity when it was
    /// taken apart. When the hand-over took longer than the validity that was left, another client may, in
    /// rare cases, have held the lock in between.
    ///
    /// One round: it is not retried.
    ///
    /// # Errors
    ///
    /// * [`Error::Lost`] when no quorum holds it any more: it lapsed, or somebody else took the parts.
    /// * [`Error::NoQuorum`] when no quorum said so. What was taken is released; it can be tried again, and
    ///   works where a quorum of nodes still has the parts.
    /// * [`Error::Rejected`] when so many nodes reject it that no quorum is left, as backends do that cannot
    ///   [replace](crate::LockBackend::replace) tokens.
    /// * [`Error::InvalidRequest`] for parts that are invalid; nothing was sent.
    ///
    /// # Cancellation
    ///
    /// Dropping the future releases, in the background, what was taken.
    pub async fn from_parts(&self, parts: &LockParts) -> Result<Lock, Error> {
        let nodes = &self.nodes;
        let resources = Resources::from(&parts.resources[..]);
        resources.validate()?;
        let ttl = nodes.ttl(parts.ttl)?;
        let longest = nodes.ttl(parts.longest_ttl.max(parts.ttl))?;
        let start = nodes.now();
        let asked = ttl.max(nodes.drift.ttl_for(parts.remaining.min(MAX_TTL), longest));
        let asked = match parts.max_hold {
            // What is left of the longest hold may be too short for a ttl: then the lock is over.
            Some(left) => nodes.ttl(asked.get().min(left)).map_err(|_| Error::lapsed(resources.clone()))?,
            None => asked,
        };
        let taking = Taking::new(nodes, resources, parts.token.clone(), asked, longest);
        let claim = taking.claim();
        let take = async {
            let (claim, valid_until, votes) = taking.decide().await?;
            let took = nodes.now().saturating_duration_since(start);
            let longest = parts.max_hold.and_then(|left| start.checked_add(left));
            let hold = LeaseState::new(nodes.clone(), claim, valid_until);
            Ok(Lock::new(hold, ttl, Acquisition { attempts: 1, took, votes, longest }))
        };
        let call = Call::begin(Kind::Extend, &*nodes.runtime, &claim.resources, Some(&claim.token));
        call.watch(take, |_| Outcome::Extended).await
    }
}
