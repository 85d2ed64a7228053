//! A lock that its owner holds, and what is left behind when it is handed over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    error::Error,
    keep_alive::{KeepAlive, Lease},
    lease::LeaseState,
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
    hold: Arc<LeaseState>,
    ttl: Ttl,
    won: Acquisition,
    /// Whether dropping it still has to release it.
    armed: bool,
}

/// How a lock was won.
#[derive(Debug)]
pub(crate) struct Acquisition {
    pub(crate) attempts: u32,
    pub(crate) took: Duration,
    pub(crate) votes: Vec<NodeReply>,
    /// Keep-alive ends here.
    pub(crate) longest: Option<Instant>,
}

impl Lock {
    pub(crate) fn new(hold: LeaseState, ttl: Ttl, won: Acquisition) -> Self {
        Self { hold: Arc::new(hold), ttl, won, armed: true }
    }

    /// What is locked.
    #[must_use]
    pub fn resources(&self) -> &Resources {
        &self.hold.claim.resources
    }

    /// The value that stands under the keys.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.hold.claim.token
    }

    /// Whether the lock is valid now: no other client can hold it at this instant.
    ///
    /// Between this answer and what you do next any amount of time can pass.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.hold.remaining().is_some()
    }

    /// How long the lock stays valid without an extension: ttl, less what acquiring took, less clock drift.
    /// Zero when it is not valid any more.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.hold.remaining().unwrap_or_default()
    }

    /// How many rounds it took to get the lock, the last one included.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.won.attempts
    }

    /// How long the round took that won the lock, from its first request to its decision.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.won.took
    }

    /// What each node had said when the last round was won.
    #[must_use]
    pub fn replies(&self) -> &[NodeReply] {
        &self.won.votes
    }

    /// A view of the lock, to give to what it guards.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease::new(self.hold.clone())
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
        let ttl = self.hold.nodes.ttl(ttl)?;
        self.hold.extend(ttl).await?;
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
        release(&self.hold).await
    }

    /// Lets a task extend the lock until the guard is dropped: see [`KeepAlive`].
    pub fn keep_alive(self) -> KeepAlive {
        let (ttl, longest) = (self.ttl, self.won.longest);
        KeepAlive::new(self, ttl, longest)
    }

    /// Ends the lock without releasing it: its keys stay until their ttl has passed.
    pub fn forget(mut self) {
        self.armed = false;
        self.hold.end();
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
        let (hold, remaining) = (&self.hold, self.remaining());
        let (nodes, claim) = (&hold.nodes, &hold.claim);
        hold.end();
        // Whoever takes the lock cannot know of them.
        drop(nodes.release_from(claim, (0..nodes.len()).filter(|node| claim.ledger.is_unsettled(*node))));
        let now = nodes.now();
        LockParts {
            remaining,
            longest_ttl: claim.ledger.ttl().get(),
            max_hold: self.won.longest.map(|longest| longest.saturating_duration_since(now)),
            ..LockParts::new(self.resources().as_slice(), self.token().clone(), self.ttl.get())
        }
    }

    pub(crate) fn hold(&self) -> &Arc<LeaseState> {
        &self.hold
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.armed {
            let hold = &self.hold;
            hold.end();
            drop(hold.nodes.release_all(&hold.claim));
            telemetry::dropped(&hold.claim.token);
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
    /// The value under their keys.
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

async fn release(hold: &LeaseState) -> Result<UnlockOutcome, Error> {
    let release = async {
        hold.end();
        match rounds::release(&hold.nodes, &hold.claim).await {
            Ok(true) => Ok(UnlockOutcome::Released),
            Ok(false) => {
                hold.report_lost(Loss::Gone);
                Ok(UnlockOutcome::NotHeld)
            }
            Err(defeated) => Err(defeated.into_holder_error(&hold.claim)),
        }
    };
    let claim = &hold.claim;
    let call = Call::begin(Kind::Unlock, &*hold.nodes.runtime, &claim.resources, Some(&claim.token));
    call.watch(release, |outcome| match outcome {
        UnlockOutcome::Released => Outcome::Released,
        UnlockOutcome::NotHeld => Outcome::NotHeld,
    })
    .await
}
