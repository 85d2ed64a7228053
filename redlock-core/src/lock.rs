//! A lock that its owner holds, and what is left behind when it is handed over.

// Tests: tests/tests/it/sim/locking.rs, sim/extending.rs, sim/releasing.rs, sim/handover.rs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    error::Error,
    lease::{Lease, LeaseState},
    reply::NodeReply,
    resources::Resources,
    rounds,
    telemetry::{self, Call, Kind, Loss, Outcome},
    token::Token,
    validity::Ttl,
};

/// A lock: yours for as long as [`is_valid`](Lock::is_valid) says so.
///
/// Dropping it releases it in the background, on a runtime that runs its tasks; [`unlock`](Lock::unlock)
/// releases it and says whether it was still held. [`forget`](Lock::forget) leaves it to its ttl.
#[derive(Debug)]
#[must_use = "a lock that is dropped is released"]
pub struct Lock {
    state: Arc<LeaseState>,
    ttl: Ttl,
    acquisition: Acquisition,
    /// Whether dropping it still has to release it.
    armed: bool,
}

/// How a lock was won.
#[derive(Debug)]
pub(crate) struct Acquisition {
    pub(crate) attempts: u32,
    pub(crate) took: Duration,
    pub(crate) replies: Vec<NodeReply>,
    /// Keep-alive ends here.
    pub(crate) keep_until: Option<Instant>,
}

impl Lock {
    pub(crate) fn new(state: LeaseState, ttl: Ttl, acquisition: Acquisition) -> Self {
        Self { state: Arc::new(state), ttl, acquisition, armed: true }
    }

    /// What is locked.
    #[must_use]
    pub fn resources(&self) -> &Resources {
        &self.state.claim.resources
    }

    /// The value that is stored at the keys.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.state.claim.token
    }

    /// Whether the lock is valid now: no other client can hold it at this instant.
    ///
    /// Between this answer and what you do next any amount of time can pass.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.state.remaining().is_some()
    }

    /// How long the lock stays valid without an extension: ttl, less what acquiring took, less clock drift.
    /// Zero when it is not valid any more.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.state.remaining().unwrap_or_default()
    }

    /// How many rounds it took to get the lock, the last one included.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.acquisition.attempts
    }

    /// How long the round took that won the lock, from its first request to its decision.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.acquisition.took
    }

    /// What each node had said when the last round was won.
    #[must_use]
    pub fn replies(&self) -> &[NodeReply] {
        &self.acquisition.replies
    }

    /// A view of the lock, to give to what it guards.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease::new(self.state.clone())
    }

    /// Makes the lock last for `ttl` from now. It never makes it shorter: when more than that is left, it
    /// asks the nodes for what is left.
    ///
    /// One round: it is not retried. Nodes that have lost the lock's keys get them back.
    ///
    /// # Errors
    ///
    /// * [`Error::Lost`] when the validity has run out, before or meanwhile, or when the nodes say that the
    ///   keys are gone. The lock is over: stop what it guards.
    /// * [`Error::NoQuorum`] or [`Error::Rejected`] when no quorum confirmed it. The lock keeps the validity
    ///   that it had, so it can be tried again.
    /// * [`Error::InvalidRequest`] for a ttl that is too short or too long.
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

    /// Releases the lock: one round, decided at a quorum.
    ///
    /// # Errors
    ///
    /// [`Error::NoQuorum`] or [`Error::Rejected`] when no quorum said whether the lock was still held. It is
    /// over all the same; nodes that did not release it are asked again in the background, until its keys
    /// have expired.
    ///
    /// # Cancellation
    ///
    /// Dropping the future releases the lock in the background.
    pub async fn unlock(mut self) -> Result<UnlockOutcome, Error> {
        self.armed = false;
        release(&self.state).await
    }

    /// Ends the lock without releasing it: its keys stay until their ttl has passed.
    pub fn forget(mut self) {
        self.armed = false;
        self.state.end();
    }

    /// Takes the lock apart, to hand it to another process, which makes a lock of it again by
    /// [`Redlock::from_parts`](crate::Redlock::from_parts). Here it ends, for its leases too. If nobody takes
    /// it over, it ends with its ttl.
    ///
    /// Nodes that have not said that they hold the lock's keys are left out: keys that may still get there
    /// are removed in the background.
    #[must_use]
    pub fn into_parts(mut self) -> LockParts {
        self.armed = false;
        let remaining = self.remaining();
        let LeaseState { nodes, claim, .. } = &*self.state;
        self.state.end();
        // Whoever takes the lock cannot know of them.
        drop(nodes.release_from(claim, (0..nodes.len()).filter(|node| claim.ledger.is_unsettled(*node))));
        let now = nodes.now();
        LockParts {
            remaining,
            longest_ttl: claim.ledger.ttl().get(),
            max_hold: self.acquisition.keep_until.map(|longest| longest.saturating_duration_since(now)),
            ..LockParts::new(self.resources().as_slice(), self.token().clone(), self.ttl.get())
        }
    }

    pub(crate) fn state(&self) -> &Arc<LeaseState> {
        &self.state
    }

    pub(crate) fn ttl(&self) -> Ttl {
        self.ttl
    }

    pub(crate) fn keep_until(&self) -> Option<Instant> {
        self.acquisition.keep_until
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.armed {
            let LeaseState { nodes, claim, .. } = &*self.state;
            self.state.end();
            drop(nodes.release_all(claim));
            telemetry::dropped(&claim.token);
        }
    }
}

/// What unlocking found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnlockOutcome {
    /// A quorum of nodes held the lock until now.
    Released,
    /// No quorum held it any more: it had lapsed, or its keys were deleted. Somebody else may have had it
    /// meanwhile.
    NotHeld,
}

/// A lock that is held, but by nobody in this process. Anyone who knows its token can take, extend and
/// release the lock, so treat it as a secret. It can be taken once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LockParts {
    /// The names of the resources.
    pub resources: Vec<String>,
    /// The value at their keys.
    pub token: Token,
    /// The ttl that the lock had last.
    pub ttl: Duration,
    /// What was left of the validity when the lock was taken apart. Taking it does not make that shorter. The
    /// default is zero.
    #[cfg_attr(feature = "serde", serde(default))]
    pub remaining: Duration,
    /// The longest ttl that nodes were asked for: how long a key may still live. The default is `ttl`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub longest_ttl: Duration,
    /// What was left of [`max_hold`](crate::LockRequest::max_hold) when the lock was taken apart; from its
    /// taking on, this is the bound. The default is `None`: no bound.
    #[cfg_attr(feature = "serde", serde(default))]
    pub max_hold: Option<Duration>,
}

impl LockParts {
    /// The parts of a lock of another library, or of one that was written down: its resources, the value
    /// under their keys, and the ttl that it is to have. The rest has its defaults.
    #[must_use]
    pub fn new(resources: impl Into<Resources>, token: Token, ttl: Duration) -> Self {
        let resources = resources.into().as_slice().to_vec();
        Self { resources, token, ttl, remaining: Duration::ZERO, longest_ttl: ttl, max_hold: None }
    }
}

impl From<Lock> for LockParts {
    fn from(lock: Lock) -> Self {
        lock.into_parts()
    }
}

async fn release(state: &LeaseState) -> Result<UnlockOutcome, Error> {
    let LeaseState { nodes, claim, .. } = state;
    let release = async {
        state.end();
        match rounds::release(nodes, claim).await {
            Ok(true) => Ok(UnlockOutcome::Released),
            Ok(false) => {
                state.report_lost(Loss::Gone);
                Ok(UnlockOutcome::NotHeld)
            }
            Err(lost) => Err(lost.into_holder_error(claim)),
        }
    };
    let call = Call::begin(Kind::Unlock, &**nodes.runtime(), &claim.resources, Some(&claim.token));
    call.watch(release, |outcome| match outcome {
        UnlockOutcome::Released => Outcome::Released,
        UnlockOutcome::NotHeld => Outcome::NotHeld,
    })
    .await
}
