//! The lock manager.

// Tests: tests/tests/it/sim/locking.rs, sim/handover.rs, sim/using.rs.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    annotation,
    error::Error,
    fence::MAX_FENCE,
    hold::HoldLimits,
    invalid::InvalidRequest,
    lease::{Lease, LeaseState},
    lock::{Acquisition, Lock, LockParts, UnlockOutcome},
    nodes::Nodes,
    note::Note,
    request::LockRequest,
    resources::Resources,
    retry::RetryPolicy,
    takeover::Takeover,
    telemetry::{Call, Kind, Outcome},
    using::Using,
    validity::MAX_TTL,
};

/// A lock manager over independent nodes. Clones are cheap, and share their nodes.
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
    key_prefix: Option<Arc<str>>,
    note: Option<Note>,
}

impl Redlock {
    pub(crate) fn new(
        nodes: Arc<Nodes>,
        retry: RetryPolicy,
        key_prefix: Option<Arc<str>>,
        note: Option<Note>,
    ) -> Self {
        Self { nodes, retry, key_prefix, note }
    }

    /// Locks one resource or several, all or nothing, for `ttl`, with the retries of the manager's
    /// configuration.
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
    /// Calls of one lock manager, clones included, that want the same resource queue in the order in which they
    /// were first polled, and one at a time makes attempts. When the lock ends here, the next call gets it in
    /// one round trip. A call in the queue uses up its retries with the time of their delays, and makes the
    /// last attempt in any case. After 64 hand-overs in a row, or a second, the next call waits for about a
    /// sixteenth of that time (2 ms to 150 ms) before it tries, so that other processes get the lock, too.
    ///
    /// # Errors
    ///
    /// The request returns [`Error::Contended`], [`Error::NoQuorum`] or [`Error::Rejected`] when the last
    /// attempt failed, and [`Error::InvalidRequest`] before anything is sent.
    ///
    /// # Cancellation
    ///
    /// Dropping the future at any time removes, in the background, the keys that it may have written.
    pub fn lock(&self, resources: impl Into<Resources>, ttl: Duration) -> LockRequest {
        let names = resources.into();
        // The only place where names become keys: everything behind it has the keys.
        let keys = match &self.key_prefix {
            Some(prefix) => names.with_prefix(prefix),
            None => names,
        };
        LockRequest::new(self.nodes.clone(), self.retry.clone(), self.note.clone(), keys, ttl)
    }

    /// As [`Redlock::lock`] with a single attempt, at once: it waits for no other call.
    pub fn try_lock(&self, resources: impl Into<Resources>, ttl: Duration) -> LockRequest {
        self.lock(resources, ttl).retry_count(0)
    }

    /// Runs `routine` under a lock, which is extended while the routine runs and released afterwards. When
    /// the lock is lost, the routine is dropped at an await, no later than the validity ends.
    ///
    /// Await the request, or change options for this call first, as for [`lock`](Self::lock).
    ///
    /// A background task extends the lock: on a runtime with several threads it continues while the routine
    /// blocks. A routine that completes always returns its result, even if the lock was lost meanwhile or
    /// cannot be released. A routine that has to know checks its [`Lease`] before it commits.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn example(redlock: redlock_core::Redlock) -> Result<(), redlock_core::Error> {
    /// let ttl = Duration::from_secs(10);
    /// let total = redlock.using("nightly-report", ttl, |lease| async move {
    ///     let mut total = 0;
    ///     for part in 0..100 {
    ///         if !lease.is_valid() {
    ///             break;
    ///         }
    ///         total += part;
    ///     }
    ///     total
    /// });
    /// // One attempt: if another process holds the lock, it does the work.
    /// assert_eq!(total.retry_count(0).max_hold(60 * ttl).await?, 4950);
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
    /// Dropping the future drops the routine, and releases the lock in the background, unless a
    /// [`min_hold`](LockRequest::min_hold) has not passed: the routine had begun.
    pub fn using<F, Fut>(
        &self,
        resources: impl Into<Resources>,
        ttl: Duration,
        routine: F,
    ) -> LockRequest<Using<F>>
    where
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
    /// The lock gets a new token, which replaces the old one on a quorum of nodes. That uses the parts up: of
    /// several processes with the same parts at most one gets the lock, and the others get [`Error::Lost`].
    ///
    /// A lock with a [fencing token](Lock::fence) keeps it: it is the same hold. Its [note](crate::Note) is
    /// that of this lock manager, if it has one. The names are those of the parts: a
    /// [`key_prefix`](crate::RedlockBuilder::key_prefix) is part of them already.
    ///
    /// The clocks of two processes have nothing in common, so a new validity begins here, if a quorum of
    /// nodes still holds the lock. It lasts for the TTL, or for the remaining validity at
    /// [`Lock::into_parts`] if that was longer. When the hand-over took longer than the remaining validity,
    /// another client may, in rare cases, have held the lock in between.
    ///
    /// This is one attempt, without retries.
    ///
    /// # Errors
    ///
    /// * [`Error::Lost`] when no quorum holds the lock any more: it lapsed, or another process took the
    ///   parts.
    /// * [`Error::NoQuorum`] when no quorum replied either way. Keys that were taken are released. Another
    ///   try may succeed if a quorum of nodes still has the old token.
    /// * [`Error::Rejected`] when so many nodes reject it that no quorum is left. Backends that cannot
    ///   [replace](crate::LockBackend::replace) tokens do so.
    /// * [`Error::InvalidRequest`] for parts that are invalid, or have a fencing token that a node cannot
    ///   [count](crate::LockBackend::can_fence); nothing was sent.
    ///
    /// # Cancellation
    ///
    /// Dropping the future releases the taken keys, in the background, also before a
    /// [`min_hold`](LockParts::min_hold) has passed.
    pub async fn from_parts(&self, parts: &LockParts) -> Result<Lock, Error> {
        let nodes = &self.nodes;
        let resources = Resources::from(&parts.resources[..]);
        resources.validate()?;
        let ttl = nodes.ttl(parts.ttl)?;
        let longest = nodes.ttl(parts.longest_ttl.max(parts.ttl))?;
        let hold = HoldLimits { min: parts.min_hold, max: parts.max_hold };
        let least = hold.least_ttl(nodes.settings())?;
        if let Some(fence) = parts.fence {
            nodes.check_fencing()?;
            if fence.get() > MAX_FENCE {
                return Err(InvalidRequest::FenceTooHigh { fence, max: MAX_FENCE }.into());
            }
        }
        let start = nodes.now();
        let asked = ttl.max(nodes.drift().ttl_for(parts.remaining.min(MAX_TTL), longest));
        let asked = match parts.max_hold {
            // The rest of the longest hold may be too short for a TTL: then the lock is over.
            Some(left) => nodes.ttl(asked.get().min(left)).map_err(|_| Error::lapsed(resources.clone()))?,
            None => asked,
        };
        let asked = least.map_or(asked, |least| least.max(asked));
        let takeover = Takeover::new(
            nodes,
            resources,
            parts.token.clone(),
            parts.fence,
            asked,
            longest,
            self.note.clone(),
        );
        let claim = takeover.claim();
        let take_over = move || async move {
            let mut won = takeover.decide().await?;
            let until = hold.from(start);
            if let Some(until) = &until {
                won.valid_until = until.cut(won.valid_until);
            }
            won.ticket.hold(start, won.valid_until);
            let took = nodes.now().saturating_duration_since(start);
            let state = LeaseState::new(nodes.clone(), won.claim, won.valid_until, won.ticket, won.fence);
            let replies = won.replies;
            let lock = Lock::new(state, ttl, Acquisition { attempts: 1, took, replies, until });
            annotation::write(nodes, &lock.state().claim).await;
            Ok(lock)
        };
        let (telemetry, clock) = (nodes.telemetry(), &**nodes.runtime());
        let call = Call::begin(telemetry, Kind::Extend, clock, &claim.resources, Some(&claim.token));
        call.watch(take_over, |_| Outcome::Extended).await
    }
}
