//! The nodes of one lock manager, and requests to all of them at once. The ledger of the claim records their
//! replies.

// Tests: tests/tests/it/sim/locking.rs, sim/extending.rs, sim/cleanup.rs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    backend::{AcquireReply, BackendError, LockBackend, ReleaseReply},
    claim::Claim,
    entropy::Entropy,
    extender::Extender,
    fan_out::FanOut,
    invalid::InvalidRequest,
    node::Node,
    reaper::schedule_release,
    resources::Resources,
    runtime::{BoxFuture, PerRuntime, Runtime},
    settings::Settings,
    telemetry::NodesTelemetry,
    ticket::Waiters,
    token::Token,
    validity::{Drift, Ttl},
};

/// Everything that the locks of one manager share.
pub(crate) struct Nodes {
    settings: Arc<Settings>,
    telemetry: Arc<NodesTelemetry>,
    entropy: Mutex<Entropy>,
    nodes: Vec<Arc<Node>>,
    pub(crate) extenders: PerRuntime<Extender>,
    pub(crate) waiters: Arc<Waiters>,
}

impl Nodes {
    pub(crate) fn new(settings: Settings, backends: Vec<Box<dyn LockBackend>>, entropy: Entropy) -> Self {
        let settings = Arc::new(settings);
        let telemetry = Arc::new(NodesTelemetry::new(backends.iter().map(|backend| backend.name())));
        let node =
            |(position, backend)| Arc::new(Node::new(position, backend, settings.clone(), telemetry.clone()));
        let nodes = backends.into_iter().enumerate().map(node).collect();
        let extenders = {
            let settings = settings.clone();
            PerRuntime::for_each(move || Extender::new(settings.clone()))
        };
        let (entropy, waiters) = (Mutex::new(entropy), Arc::default());
        Self { settings, telemetry, entropy, nodes, extenders, waiters }
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

    pub(crate) fn telemetry(&self) -> &NodesTelemetry {
        &self.telemetry
    }

    pub(crate) fn with_entropy<T>(&self, draw: impl FnOnce(&mut Entropy) -> T) -> T {
        draw(&mut self.entropy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn ttl(&self, ttl: Duration) -> Result<Ttl, InvalidRequest> {
        Ttl::new(ttl, self.drift())
    }

    /// A new claim with a token of its own.
    pub(crate) fn claim(&self, resources: Resources, ttl: Ttl) -> Arc<Claim> {
        let token = self.with_entropy(Token::random);
        Arc::new(Claim::new(resources, token, ttl, self.len()))
    }

    /// Writes the claim's keys on all nodes.
    pub(crate) fn acquire_all(
        &self,
        claim: &Arc<Claim>,
        timeout: Duration,
    ) -> FanOut<Result<AcquireReply, BackendError>> {
        let ttl = claim.ledger.ttl();
        self.fan_out(|node| {
            let claim = claim.clone();
            Box::pin(async move {
                claim.ledger.begin_write(node.position);
                write(&node, &claim, ttl, timeout).await
            })
        })
    }

    /// Writes the keys of a lock that is held on a node that has lost them, unless it is being released.
    pub(crate) fn put_back(
        &self,
        node: usize,
        claim: &Arc<Claim>,
        ttl: Ttl,
        timeout: Duration,
    ) -> BoxFuture<()> {
        let (node, claim) = (self.nodes[node].clone(), claim.clone());
        Box::pin(async move {
            if claim.ledger.begin_rewrite(node.position) {
                // The outcome is in the ledger, and is no vote.
                let _ = write(&node, &claim, ttl, timeout).await;
            }
        })
    }

    /// Extends the claim's keys on all nodes.
    pub(crate) fn extend_all(
        &self,
        claim: &Arc<Claim>,
        ttl: Ttl,
        timeout: Duration,
    ) -> FanOut<Result<AcquireReply, BackendError>> {
        claim.ledger.raise_ttl(ttl);
        self.fan_out(|node| {
            let claim = claim.clone();
            Box::pin(async move {
                let reply = node.extend(&claim, ttl, timeout).await;
                claim.ledger.finish_extension(node.position, &reply);
                reply
            })
        })
    }

    /// Replaces the token of `old` with the claim's on all nodes.
    pub(crate) fn replace_all(
        &self,
        claim: &Arc<Claim>,
        old: &Arc<Claim>,
        ttl: Ttl,
        timeout: Duration,
    ) -> FanOut<Result<AcquireReply, BackendError>> {
        self.fan_out(|node| {
            let (claim, old) = (claim.clone(), old.clone());
            Box::pin(async move {
                claim.ledger.begin_write(node.position);
                let reply = node.replace(&claim, &old, ttl, timeout).await;
                if let Ok(AcquireReply::Granted) = reply {
                    old.ledger.replaced(node.position);
                }
                finish_write(&node, &claim, reply)
            })
        })
    }

    /// Removes the claim's keys on all nodes. It is retried in the background on nodes that fail.
    pub(crate) fn release_all(&self, claim: &Arc<Claim>) -> FanOut<Result<ReleaseReply, BackendError>> {
        self.release_from(claim, 0..self.len())
    }

    /// As [`Nodes::release_all`], but on some nodes only.
    pub(crate) fn release_from(
        &self,
        claim: &Arc<Claim>,
        nodes: impl IntoIterator<Item = usize>,
    ) -> FanOut<Result<ReleaseReply, BackendError>> {
        let requests = nodes.into_iter().map(|node| (node, remove(self.nodes[node].clone(), claim.clone())));
        FanOut::new(self.runtime().clone(), requests).run_on_drop()
    }

    fn fan_out<T: Send + 'static>(&self, request: impl Fn(Arc<Node>) -> BoxFuture<T>) -> FanOut<T> {
        let requests = self.nodes.iter().map(|node| (node.position, request(node.clone())));
        FanOut::new(self.runtime().clone(), requests)
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

async fn write(
    node: &Arc<Node>,
    claim: &Arc<Claim>,
    ttl: Ttl,
    timeout: Duration,
) -> Result<AcquireReply, BackendError> {
    let reply = node.acquire(claim, ttl, timeout).await;
    finish_write(node, claim, reply)
}

fn finish_write(
    node: &Arc<Node>,
    claim: &Arc<Claim>,
    reply: Result<AcquireReply, BackendError>,
) -> Result<AcquireReply, BackendError> {
    if claim.ledger.finish_write(node.position, &reply) {
        schedule_release(node, claim);
    }
    reply
}

fn remove(node: Arc<Node>, claim: Arc<Claim>) -> BoxFuture<Result<ReleaseReply, BackendError>> {
    Box::pin(async move {
        claim.ledger.begin_removal(node.position);
        let reply = node.release(&claim).await;
        if claim.ledger.finish_removal(node.position, &reply) {
            schedule_release(&node, &claim);
        }
        reply
    })
}
