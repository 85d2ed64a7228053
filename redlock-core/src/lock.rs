//! A lock that its owner holds, and its parts, for a hand-over.

// Tests: tests/tests/it/sim/locking.rs, sim/extending.rs, sim/releasing.rs, sim/handover.rs.

use std::{
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join;

use crate::{
    annotation,
    error::Error,
    hold::HoldUntil,
    lease::{Lease, LeaseState},
    reply::NodeReply,
    resources::Resources,
    rounds,
    telemetry::{Call, Kind, Loss, Outcome},
    token::Token,
    validity::Ttl,
};

/// A lock: yours for as long as [`is_valid`](Lock::is_valid) returns true.
///
/// Dropping it releases it in the background, on a runtime that runs its tasks. [`unlock`](Lock::unlock)
/// releases it and returns whether it was still held. [`forget`](Lock::forget) leaves it until its TTL
/// ends. With a [`min_hold`](crate::LockRequest::min_hold) that has not passed, the first two leave it as
/// well.
#[derive(Debug)]
#[must_use = "a lock that is dropped is released"]
pub struct Lock {
    state: Arc<LeaseState>,
    ttl: Ttl,
    acquisition: Acquisition,
    /// Whether `Drop` still has to release it.
    armed: bool,
}

/// How a lock was won.
#[derive(Debug)]
pub(crate) struct Acquisition {
    pub(crate) attempts: u32,
    pub(crate) took: Duration,
    pub(crate) replies: Vec<NodeReply>,
    /// When it may be released, and when a keep-alive ends, if it has such a time. Boxed, as few locks do.
    pub(crate) until: Option<Box<HoldUntil>>,
}

impl Lock {
    pub(crate) fn new(state: LeaseState, ttl: Ttl, acquisition: Acquisition) -> Self {
        Self { state: Arc::new(state), ttl, acquisition, armed: true }
    }

    /// The locked resources.
    #[must_use]
    pub fn resources(&self) -> &Resources {
        &self.state.claim.resources
    }

    /// The value that is stored at the keys.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.state.claim.token
    }

    /// The fencing token, if the lock was requested with one: see
    /// [`RedlockBuilder::fenced`](crate::RedlockBuilder::fenced) and
    /// [`LockRequest::fenced`](crate::LockRequest::fenced). It is below 2^53, and extensions do not change it.
    ///
    /// No other lock on one of these resources ever has the same number, and every lock that is requested after
    /// this one was won has a higher one. Send it with each write: a resource that remembers the highest number
    /// and refuses a lower one is safe from a holder that was paused for so long that it has lost its lock. This
    /// does not depend on clocks.
    #[must_use]
    pub fn fence(&self) -> Option<NonZeroU64> {
        self.state.fence
    }

    /// Whether the lock is valid now: no other client can hold it at this instant.
    ///
    /// Any amount of time can pass between this call and your next step.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.state.remaining().is_some()
    }

    /// How long the lock stays valid without an extension: the TTL, minus the time of acquiring it, minus
    /// clock drift. It is zero when the lock is no longer valid.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.state.remaining().unwrap_or_default()
    }

    /// The number of attempts that it took to get the lock, including the last one. Waiting for other calls of
    /// the same lock manager is no attempt.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.acquisition.attempts
    }

    /// How long the winning attempt took, from its first request to its decision.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.acquisition.took
    }

    /// The reply of each node at the moment when the last attempt won.
    #[must_use]
    pub fn replies(&self) -> &[NodeReply] {
        &self.acquisition.replies
    }

    /// A view of the lock, for the code that it guards.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease::new(self.state.clone())
    }

    /// Extends the lock to `ttl` from now. It never shortens the lock: if its remaining validity is longer,
    /// it requests that from the nodes.
    ///
    /// This is one attempt, without retries. Nodes that have lost the lock's keys get them back.
    ///
    /// # Errors
    ///
    /// * [`Error::Lost`] when the validity has ended, before or meanwhile, or when the nodes report that the
    ///   keys are gone. The lock is over: stop the work that it guards.
    /// * [`Error::NoQuorum`] or [`Error::Rejected`] when no quorum confirmed it. The lock keeps its validity,
    ///   so you can try again.
    /// * [`Error::InvalidRequest`] for a TTL that is too short or too long.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the validity as it was.
    pub async fn extend(&mut self, ttl: Duration) -> Result<(), Error> {
        let ttl = self.state.nodes.ttl(ttl)?;
        self.state.extend(ttl).await?;
        self.ttl = ttl;
        Ok(())
    }

    /// Releases the lock: one attempt, decided by a quorum.
    ///
    /// With a [`min_hold`](crate::LockRequest::min_hold) that has not passed, a valid lock is over here,
    /// but keeps others out: nothing is sent.
    ///
    /// # Errors
    ///
    /// [`Error::NoQuorum`] or [`Error::Rejected`] when no quorum replied whether the lock was still held. The
    /// lock is over all the same. On nodes that did not release it, the release is retried in the background,
    /// until the keys have expired.
    ///
    /// # Cancellation
    ///
    /// Dropping the future releases the lock in the background.
    pub async fn unlock(mut self) -> Result<UnlockOutcome, Error> {
        self.armed = false;
        release(&self.state, self.hold_until(|until| until.min)).await
    }

    /// Ends the lock without releasing it: its keys stay until their TTL ends.
    pub fn forget(mut self) {
        self.armed = false;
        self.state.end();
        drop(self.state.take_ticket());
    }

    /// Takes the lock apart, to hand it to another process, which takes it over with
    /// [`Redlock::from_parts`](crate::Redlock::from_parts). The lock and its leases end in this process. If
    /// no process takes it over, it ends with its TTL.
    ///
    /// The hand-over includes only nodes that have confirmed the lock's keys. Keys that may still reach other
    /// nodes are removed in the background.
    #[must_use]
    pub fn into_parts(mut self) -> LockParts {
        self.armed = false;
        let remaining = self.remaining();
        let LeaseState { nodes, claim, .. } = &*self.state;
        self.state.end();
        drop(self.state.take_ticket());
        // The process that takes the lock over cannot know of them.
        let unsettled = (0..nodes.len()).filter(|node| claim.ledger.is_unsettled(*node)).collect();
        drop(nodes.release_from(claim, unsettled));
        let now = nodes.now();
        let left = self.acquisition.until.as_ref().map(|until| until.left(now)).unwrap_or_default();
        LockParts {
            remaining,
            longest_ttl: claim.ledger.ttl().get(),
            max_hold: left.max,
            min_hold: left.min,
            fence: self.fence(),
            ..LockParts::new(self.resources().as_slice(), self.token().clone(), self.ttl.get())
        }
    }

    pub(crate) fn state(&self) -> &Arc<LeaseState> {
        &self.state
    }

    pub(crate) fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// One of the moments that bound how long it is held, if it has that one.
    pub(crate) fn hold_until(&self, which: impl FnOnce(&HoldUntil) -> Option<Instant>) -> Option<Instant> {
        self.acquisition.until.as_deref().and_then(which)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.armed {
            let LeaseState { nodes, claim, .. } = &*self.state;
            if self.state.keep(self.hold_until(|until| until.min)).is_some() {
                nodes.telemetry().kept(&claim.token);
                return;
            }
            self.state.end();
            drop(nodes.release_all(claim).then_pass_on(self.state.take_ticket()));
            annotation::remove_later(nodes, claim);
            nodes.telemetry().dropped(&claim.token);
        }
    }
}

/// Whether the lock was still held when it was unlocked, and whether it is held on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnlockOutcome {
    /// A quorum of nodes held the lock until now.
    Released,
    /// No quorum held it any more: it had lapsed, or its keys were deleted. Another client may have held it
    /// meanwhile.
    NotHeld,
    /// It is held on: its [`min_hold`](crate::LockRequest::min_hold) has not passed. Nothing was sent, and
    /// the keys stay until their TTL ends, also without this process.
    #[non_exhaustive]
    Kept {
        /// For how long nobody else gets the lock, at least: its validity when it was unlocked. Its keys outlive
        /// that by clock drift, and by up to a TTL if an extension was under way.
        remaining: Duration,
    },
}

/// A lock that is held, but not by this process. Anyone who knows its token can take, extend and release the
/// lock, so treat it as a secret. One process can take it over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LockParts {
    /// The names of the resources.
    pub resources: Vec<String>,
    /// The value at their keys.
    pub token: Token,
    /// The last TTL of the lock.
    pub ttl: Duration,
    /// The remaining validity when the lock was taken apart. Taking the lock over does not shorten it. The
    /// default is zero.
    #[cfg_attr(feature = "serde", serde(default))]
    pub remaining: Duration,
    /// The longest TTL that was requested from a node: how long a key may still live. The default is `ttl`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub longest_ttl: Duration,
    /// The rest of [`max_hold`](crate::LockRequest::max_hold) when the lock was taken apart. It is the bound
    /// after the hand-over. The default is `None`: no bound.
    #[cfg_attr(feature = "serde", serde(default))]
    pub max_hold: Option<Duration>,
    /// The rest of [`min_hold`](crate::LockRequest::min_hold) when the lock was taken apart. It counts on
    /// from the hand-over. The default is `None`: the lock may be released at any time.
    #[cfg_attr(feature = "serde", serde(default))]
    pub min_hold: Option<Duration>,
    /// The [fencing token](Lock::fence), which stays the same after the hand-over. The default is `None`: the
    /// lock has none.
    #[cfg_attr(feature = "serde", serde(default))]
    pub fence: Option<NonZeroU64>,
}

impl LockParts {
    /// The parts of a lock of another library, or of a stored one: its resources, the value at their keys,
    /// and its new TTL. The other fields have their defaults.
    #[must_use]
    pub fn new(resources: impl Into<Resources>, token: Token, ttl: Duration) -> Self {
        let resources = resources.into().as_slice().to_vec();
        let remaining = Duration::ZERO;
        let (max_hold, min_hold) = (None, None);
        Self { resources, token, ttl, remaining, longest_ttl: ttl, max_hold, min_hold, fence: None }
    }
}

impl From<Lock> for LockParts {
    fn from(lock: Lock) -> Self {
        lock.into_parts()
    }
}

async fn release(state: &LeaseState, min: Option<Instant>) -> Result<UnlockOutcome, Error> {
    let LeaseState { nodes, claim, .. } = state;
    let release = || async {
        if let Some(remaining) = state.keep(min) {
            return Ok(UnlockOutcome::Kept { remaining });
        }
        state.end();
        // The removal is sent right behind the release, which does not wait for it.
        let released = rounds::release(nodes, claim, state.take_ticket());
        match join(released, annotation::remove(nodes, claim)).await.0 {
            Ok(true) => Ok(UnlockOutcome::Released),
            Ok(false) => {
                state.report_lost(Loss::Gone);
                Ok(UnlockOutcome::NotHeld)
            }
            Err(lost) => Err(lost.into_holder_error(claim)),
        }
    };
    let (telemetry, clock) = (nodes.telemetry(), &**nodes.runtime());
    let call = Call::begin(telemetry, Kind::Unlock, clock, &claim.resources, Some(&claim.token));
    call.watch(release, |outcome| match outcome {
        UnlockOutcome::Released => Outcome::Released,
        UnlockOutcome::NotHeld => Outcome::NotHeld,
        UnlockOutcome::Kept { .. } => Outcome::Kept,
    })
    .await
}
