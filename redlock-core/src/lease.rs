//! A held lock: until when it is valid, how it ends, and a view of it for the code that it guards.

// Tests: below for late extensions; tests/tests/it/sim/extending.rs, sim/keep_alive.rs, sim/using.rs.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};

use crate::{
    annotation,
    claim::Claim,
    error::Error,
    latch::Latch,
    nodes::Nodes,
    resources::Resources,
    rounds,
    telemetry::{Call, Kind, LockTelemetry, Loss, Outcome},
    ticket::Ticket,
    validity::Ttl,
    votes::LostRound,
};

/// A view of a lock that another task holds and extends. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Lease {
    state: Arc<LeaseState>,
}

impl Lease {
    pub(crate) fn new(state: Arc<LeaseState>) -> Self {
        Self { state }
    }

    /// Whether the lock is valid now, see [`Lock::is_valid`](crate::Lock::is_valid).
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.state.remaining().is_some()
    }

    /// How long the lock stays valid without another extension, see
    /// [`Lock::remaining`](crate::Lock::remaining).
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.state.remaining().unwrap_or_default()
    }

    /// The locked resources.
    #[must_use]
    pub fn resources(&self) -> &Resources {
        &self.state.claim.resources
    }

    /// The lock's fencing token, see [`Lock::fence`](crate::Lock::fence).
    #[must_use]
    pub fn fence(&self) -> Option<NonZeroU64> {
        self.state.fence
    }

    /// Completes when the lock is lost or released: no later than its validity ends, whatever the network
    /// does.
    pub async fn lost(&self) {
        self.state.ended().await;
    }
}

/// The shared state of a lock, its leases and its keep-alive.
#[derive(Debug)]
pub(crate) struct LeaseState {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) claim: Arc<Claim>,
    /// The fencing token, if it has one.
    pub(crate) fence: Option<NonZeroU64>,
    state: Mutex<State>,
    over: Latch,
    /// Those who wait in this process for the lock are behind it.
    ticket: Mutex<Ticket>,
    telemetry: LockTelemetry,
}

#[derive(Clone, Copy, Debug)]
struct State {
    valid_until: Instant,
    /// Released, or known to be lost. It never changes back.
    over: bool,
}

impl LeaseState {
    pub(crate) fn new(
        nodes: Arc<Nodes>,
        claim: Arc<Claim>,
        valid_until: Instant,
        ticket: Ticket,
        fence: Option<NonZeroU64>,
    ) -> Self {
        let state = Mutex::new(State { valid_until, over: false });
        let telemetry = LockTelemetry::begin(nodes.telemetry(), &**nodes.runtime());
        Self { nodes, claim, fence, state, over: Latch::default(), ticket: Mutex::new(ticket), telemetry }
    }

    /// The remaining validity; `None` when it has ended or the lease is over.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        let state = self.state();
        let now = self.nodes.now();
        if state.over {
            None
        } else {
            state.valid_until.checked_duration_since(now).filter(|left| !left.is_zero())
        }
    }

    pub(crate) fn valid_until(&self) -> Instant {
        self.state().valid_until
    }

    /// Ends the lease in this process: it is released, lost, or handed over.
    pub(crate) fn end(&self) {
        let disputed = self.claim.ledger.close();
        let before = {
            let mut state = self.state();
            let before = *state;
            state.over = true;
            before
        };
        self.over.set();
        if !before.over {
            let Claim { resources, token, .. } = &*self.claim;
            self.nodes.usual_rivals.release(resources, disputed, || self.nodes.now());
            let (manager, clock) = (self.nodes.telemetry(), &**self.nodes.runtime());
            self.telemetry.ended(manager, clock, resources, token, before.valid_until);
        }
    }

    /// Ends a lease that is valid, before `min`, without a release: its keys stay. Returns for how long it
    /// would have been valid.
    pub(crate) fn keep(&self, min: Option<Instant>) -> Option<Duration> {
        let min = min?;
        let left = self.remaining().filter(|_| self.nodes.now() < min)?;
        self.end();
        drop(self.take_ticket());
        Some(left)
    }

    /// The place in the queue of the process: dropping it passes the turn on.
    pub(crate) fn take_ticket(&self) -> Ticket {
        self.ticket.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Completes when the lease is over or its validity has ended, whatever the nodes do: the deadline is
    /// local.
    pub(crate) async fn ended(&self) {
        while let Some(left) = self.remaining() {
            if let Either::Left(_) = select(self.over.wait(), self.nodes.runtime().sleep(left)).await {
                return;
            }
        }
        if !self.state().over {
            self.report_lost(Loss::Expired);
        }
    }

    /// Asks all nodes to let the keys live for `ttl` from now, or for the remaining validity if that is
    /// longer: the validity has to rest on the keys that the nodes confirm now, since others may have been
    /// lost and written again. An extension counts only if a quorum confirms it while the lease is still
    /// valid. Otherwise the validity stays as it was.
    pub(crate) async fn extend(&self, ttl: Ttl) -> Result<(), Error> {
        self.extend_within(ttl, Duration::MAX, None).await
    }

    /// As [`LeaseState::extend`], but waits for replies no longer than `timeout`, and for a validity that ends
    /// at `most`.
    pub(crate) async fn extend_within(
        &self,
        ttl: Ttl,
        timeout: Duration,
        most: Option<Instant>,
    ) -> Result<(), Error> {
        let Claim { resources, token, .. } = &*self.claim;
        let (telemetry, clock) = (self.nodes.telemetry(), &**self.nodes.runtime());
        let call = Call::begin(telemetry, Kind::Extend, clock, resources, Some(token));
        call.watch(|| self.confirm(ttl, timeout, most), |()| Outcome::Extended).await
    }

    /// Reports a loss to operators, once.
    pub(crate) fn report_lost(&self, loss: Loss) {
        let Claim { resources, token, .. } = &*self.claim;
        self.telemetry.lost(self.nodes.telemetry(), resources, token, loss);
    }

    async fn confirm(&self, ttl: Ttl, timeout: Duration, most: Option<Instant>) -> Result<(), Error> {
        let start = self.nodes.now();
        let deadline = self.valid_until();
        let left = deadline.saturating_duration_since(start);
        let ttl = ttl.max(self.nodes.drift().ttl_for(left, self.claim.ledger.ttl()));
        let extended = if self.remaining().is_some() {
            rounds::extend(&self.nodes, &self.claim, self.fence, ttl, start, deadline, timeout).await
        } else {
            Err(LostRound::lapsed())
        };
        let cut = |valid_until: Instant| most.map_or(valid_until, |most| most.min(valid_until));
        let lost = match extended {
            Ok((valid_until, _)) if self.extend_to(cut(valid_until)) => {
                self.ticket.lock().unwrap_or_else(PoisonError::into_inner).stay(self.valid_until());
                annotation::write(&self.nodes, &self.claim).await;
                return Ok(());
            }
            Ok((_, replies)) => LostRound { attempts: 1, replies, ..LostRound::lapsed() },
            Err(lost) => lost,
        };
        let lapsed = self.remaining().is_none();
        if lost.no_quorum_holds || lapsed {
            if !lapsed {
                self.report_lost(Loss::Gone);
            }
            self.end();
            drop(self.take_ticket());
            return Err(Error::Lost(lost.report(&self.claim)));
        }
        Err(lost.into_holder_error(&self.claim))
    }

    /// Moves the deadline, unless it has passed: a lost lease stays lost.
    fn extend_to(&self, valid_until: Instant) -> bool {
        let mut state = self.state();
        // Read under the lock: once a caller has seen it lapsed, it stays lapsed.
        let now = self.nodes.now();
        let alive = !state.over && now < state.valid_until;
        if alive {
            state.valid_until = state.valid_until.max(valid_until);
        }
        alive
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::Admission, entropy::Entropy, fencing::Fencing, memory::MemoryBackend,
        runtime::tests::IdleRuntime, settings::Settings, validity::Drift,
    };

    const TTL: Duration = Duration::from_secs(1);

    fn held(runtime: &Arc<IdleRuntime>) -> LeaseState {
        let drift = Drift::new(0.01).unwrap();
        let settings = Settings {
            runtime: runtime.clone(),
            drift,
            node_timeout: None,
            admission: Admission::default(),
            fencing: Fencing::default(),
        };
        let backend = MemoryBackend::new(runtime.clone());
        let entropy = Entropy::of_system().unwrap();
        let nodes = Arc::new(Nodes::new(settings, vec![Box::new(backend)], entropy, None));
        let claim = nodes.claim("a".into(), nodes.ttl(TTL).unwrap(), None);
        let valid_until = nodes.now() + TTL;
        let ticket = nodes.waiters.outside(&claim.resources);
        LeaseState::new(nodes, claim, valid_until, ticket, None)
    }

    #[test]
    fn an_extension_moves_the_deadline_of_a_valid_lease_only() {
        let runtime = Arc::new(IdleRuntime::default());
        let lease = held(&runtime);
        let later = lease.valid_until() + TTL;
        assert!(lease.extend_to(later));
        assert_eq!(lease.valid_until(), later);

        *runtime.ahead.lock().unwrap() += 3 * TTL;
        assert!(!lease.extend_to(later + 10 * TTL), "it has lapsed");
        assert_eq!(lease.remaining(), None);

        let lease = held(&runtime);
        lease.end();
        assert!(!lease.extend_to(lease.valid_until() + TTL), "it is over");
        assert_eq!(lease.remaining(), None);
    }
}
