//! The nodes of one lock manager, and requests to all of them at once. The ledger of the claim records their
//! replies.

// Tests: tests/tests/it/sim/locking.rs, sim/extending.rs, sim/cleanup.rs.

use std::{
    fmt,
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admission::Admission,
    backend::LockBackend,
    claim::Claim,
    entropy::{Draw, Entropy},
    extender::Extender,
    fan_out::FanOut,
    invalid::InvalidRequest,
    node::Node,
    note::Note,
    resources::Resources,
    rivals::UsualRivals,
    runtime::{PerRuntime, Runtime},
    settings::Settings,
    telemetry::Telemetry,
    ticket::Waiters,
    token::Token,
    tracked::{Action, Request},
    validity::{Drift, Ttl},
};

/// Everything that the locks of one manager share.
pub(crate) struct Nodes {
    settings: Arc<Settings>,
    telemetry: Arc<Telemetry>,
    entropy: Entropy,
    nodes: Arc<[Arc<Node>]>,
    pub(crate) extenders: PerRuntime<Extender>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) usual_rivals: UsualRivals,
}

impl Nodes {
    /// `label`: the manager's, for operators.
    pub(crate) fn new(
        settings: Settings,
        backends: Vec<Box<dyn LockBackend>>,
        entropy: Entropy,
        label: Option<&str>,
    ) -> Self {
        let settings = Arc::new(settings);
        let telemetry = Arc::new(Telemetry::new(label, backends.iter().map(|backend| backend.name())));
        let node =
            |(position, backend)| Arc::new(Node::new(position, backend, settings.clone(), telemetry.clone()));
        let nodes = backends.into_iter().enumerate().map(node).collect();
        let extenders = {
            let settings = settings.clone();
            PerRuntime::for_each(move || Extender::new(settings.clone()))
        };
        let (waiters, usual_rivals) = (Arc::default(), UsualRivals::default());
        Self { settings, telemetry, entropy, nodes, extenders, waiters, usual_rivals }
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn get(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    pub(crate) fn runtime(&self) -> &Arc<dyn Runtime> {
        &self.settings.runtime
    }

    pub(crate) fn now(&self) -> Instant {
        self.settings.now()
    }

    pub(crate) fn drift(&self) -> Drift {
        self.settings.drift
    }

    pub(crate) fn timeout(&self, ttl: Ttl) -> Duration {
        self.settings.timeout(ttl)
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    pub(crate) fn with_entropy<T>(&self, draw: impl FnOnce(&mut Draw<'_>) -> T) -> T {
        self.entropy.draw(draw)
    }

    pub(crate) fn ttl(&self, ttl: Duration) -> Result<Ttl, InvalidRequest> {
        self.settings.ttl(ttl)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn admission(&self) -> &Admission {
        &self.settings.admission
    }

    /// A new claim with a token of its own.
    pub(crate) fn claim(&self, resources: Resources, ttl: Ttl, note: Option<Note>) -> Arc<Claim> {
        let token = self.with_entropy(Token::random);
        Arc::new(Claim::new(resources, token, ttl, self.len()).with_note(note))
    }

    /// Whether each lock has a fencing token.
    pub(crate) fn always_fences(&self) -> bool {
        self.settings.fencing.always
    }

    /// How many nodes have to have a fencing token.
    pub(crate) fn fence_quorum(&self) -> usize {
        self.settings.fencing.quorum(self.len())
    }

    /// A node without counters makes no fencing tokens.
    pub(crate) fn check_fencing(&self) -> Result<(), InvalidRequest> {
        match self.nodes.iter().find(|node| !node.can_fence()) {
            Some(node) => Err(InvalidRequest::FencingUnsupported { node: node.label() }),
            None => Ok(()),
        }
    }

    /// A node that cannot store notes has no place for one.
    pub(crate) fn check_notes(&self) -> Result<(), InvalidRequest> {
        match self.nodes.iter().find(|node| !node.can_annotate()) {
            Some(node) => Err(InvalidRequest::NotesUnsupported { node: node.label() }),
            None => Ok(()),
        }
    }

    /// Writes the claim's keys on all nodes. With a proposal for the fencing token, they count.
    pub(crate) fn acquire_all(&self, claim: &Arc<Claim>, proposal: Option<u64>, timeout: Duration) -> FanOut {
        self.ask(None, claim, Action::Acquire(claim.ledger.ttl(), proposal), timeout)
    }

    /// Raises the counters of the claim's resources on all nodes.
    pub(crate) fn raise_all(&self, claim: &Arc<Claim>, to: NonZeroU64, timeout: Duration) -> FanOut {
        self.ask(None, claim, Action::Raise(to), timeout)
    }

    /// Writes the keys of a lock that is held on nodes that have lost them, unless it is being released.
    pub(crate) fn put_back(
        &self,
        nodes: Vec<usize>,
        claim: &Arc<Claim>,
        fence: Option<NonZeroU64>,
        ttl: Ttl,
        timeout: Duration,
    ) -> FanOut {
        self.ask(Some(nodes), claim, Action::PutBack(ttl, fence), timeout)
    }

    /// Extends the claim's keys on all nodes.
    pub(crate) fn extend_all(
        &self,
        claim: &Arc<Claim>,
        fence: Option<NonZeroU64>,
        ttl: Ttl,
        timeout: Duration,
    ) -> FanOut {
        claim.ledger.raise_ttl(ttl);
        self.ask(None, claim, Action::Extend(ttl, fence), timeout)
    }

    /// Replaces the token of `old` with the claim's on all nodes.
    pub(crate) fn replace_all(
        &self,
        claim: &Arc<Claim>,
        old: &Arc<Claim>,
        ttl: Ttl,
        timeout: Duration,
    ) -> FanOut {
        self.ask(None, claim, Action::Replace(old.clone(), ttl), timeout)
    }

    /// Removes the claim's keys on all nodes. It is retried in the background on nodes that fail.
    pub(crate) fn release_all(&self, claim: &Arc<Claim>) -> FanOut {
        self.ask(None, claim, Action::Release, self.timeout(claim.ledger.ttl())).run_on_drop()
    }

    /// As [`Nodes::release_all`], but on some nodes only.
    pub(crate) fn release_from(&self, claim: &Arc<Claim>, nodes: Vec<usize>) -> FanOut {
        self.ask(Some(nodes), claim, Action::Release, self.timeout(claim.ledger.ttl())).run_on_drop()
    }

    /// A proposal for the nodes' counters: it has no say in what is a fencing token, but spares the second trip
    /// in most rounds.
    pub(crate) fn fence_proposal(&self) -> u64 {
        u64::try_from(self.runtime().unix_time().as_micros()).unwrap_or(u64::MAX)
    }

    fn ask(&self, only: Option<Vec<usize>>, claim: &Arc<Claim>, action: Action, timeout: Duration) -> FanOut {
        let request = Request { claim: claim.clone(), action, timeout };
        FanOut::new(self.runtime().clone(), self.nodes.clone(), only, request)
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes")
            .field("settings", &self.settings)
            .field("nodes", &self.nodes)
            .field("waiters", &self.waiters)
            .finish_non_exhaustive()
    }
}
