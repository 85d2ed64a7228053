//! The nodes of one lock manager, and how each of them is asked.

use std::{
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    future::{Either, select},
};

use crate::{
    backend::{
        Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, LockBackend, Release, ReleaseReply,
        Replace,
    },
    claim::Claim,
    cleanup::CleanupQueue,
    entropy::Entropy,
    extensions::ExtensionQueue,
    fan_out::FanOut,
    invalid::InvalidRequest,
    reply::{NodeOutcome, NodeReply},
    resources::Resources,
    runtime::{BoxFuture, Runtime},
    telemetry::{Label, NodesTelemetry, Request, Verb},
    token::Token,
    validity::{Drift, Ttl},
};

/// Everything that the locks of one manager share.
pub(crate) struct Nodes {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) drift: Drift,
    /// For each node in each round; `None` is a share of the ttl.
    pub(crate) node_timeout: Option<Duration>,
    pub(crate) entropy: Mutex<Entropy>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) telemetry: NodesTelemetry,
    pub(crate) extensions: ExtensionQueue,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) backend: Box<dyn LockBackend>,
    pub(crate) cleanup: CleanupQueue,
    /// Whether the last request went without an answer, and nothing was answered since it was asked.
    silent: AtomicBool,
    answered: AtomicU64,
}

impl Node {
    pub(crate) fn new(backend: Box<dyn LockBackend>) -> Self {
        let (silent, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { backend, cleanup: CleanupQueue::default(), silent, answered }
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }
}

impl Nodes {
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn now(&self) -> Instant {
        self.runtime.now()
    }

    pub(crate) fn with_entropy<T>(&self, draw: impl FnOnce(&mut Entropy) -> T) -> T {
        draw(&mut self.entropy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn ttl(&self, ttl: Duration) -> Result<Ttl, InvalidRequest> {
        Ttl::new(ttl, self.drift)
    }

    /// How long each node has for its answer: never longer than a lock of this ttl would be valid.
    pub(crate) fn timeout(&self, ttl: Ttl) -> Duration {
        let share = || (ttl.get() / TIMEOUT_SHARE).clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        self.node_timeout.unwrap_or_else(share).min(self.drift.validity(ttl))
    }

    /// How long a node has for its answer at most, whatever the ttl.
    pub(crate) fn longest_timeout(&self) -> Duration {
        self.node_timeout.unwrap_or(MAX_TIMEOUT)
    }

    /// A new claim with a token of its own.
    pub(crate) fn claim(&self, resources: Resources, ttl: Ttl) -> Arc<Claim> {
        let token = self.with_entropy(Token::random);
        Arc::new(Claim::new(resources, token, ttl, self.len()))
    }

    /// Asks all nodes to put the claim's keys there.
    pub(crate) fn acquire_all(
        self: &Arc<Self>,
        claim: &Arc<Claim>,
        timeout: Duration,
    ) -> FanOut<Result<AcquireReply, BackendError>> {
        let ttl = claim.ledger.ttl();
        self.fan(|node| {
            let (nodes, claim) = (self.clone(), claim.clone());
            Box::pin(async move {
                claim.ledger.begin_write(node);
                nodes.put(node, &claim, ttl, timeout).await
            })
        })
    }

    /// Puts the keys of a lock that is held back on a node that has lost them, unless it is being released.
    pub(crate) fn put_back(
        self: &Arc<Self>,
        node: usize,
        claim: &Arc<Claim>,
        ttl: Ttl,
        timeout: Duration,
    ) -> BoxFuture<()> {
        let (nodes, claim) = (self.clone(), claim.clone());
        Box::pin(async move {
            if claim.ledger.begin_rewrite(node) {
                // The outcome is in the ledger; nobody votes on it.
                let _ = nodes.put(node, &claim, ttl, timeout).await;
            }
        })
    }

    /// Asks all nodes to extend the claim's keys.
    pub(crate) fn extend_all(
        self: &Arc<Self>,
        claim: &Arc<Claim>,
        ttl: Ttl,
        timeout: Duration,
    ) -> FanOut<Result<AcquireReply, BackendError>> {
        claim.ledger.raise_ttl(ttl);
        self.fan(|node| {
            let (nodes, claim) = (self.clone(), claim.clone());
            Box::pin(async move {
                let request = Extend::new(&claim.resources, &claim.token, ttl.get(), timeout);
                let logged = nodes.logged(node, Verb::Extend, &claim.token);
                let asked = async { nodes.nodes[node].backend.extend(request).await };
                let answer = nodes.with_timeout(node, timeout, &[&claim.token], logged, asked).await;
                claim.ledger.finish_extension(node, &answer);
                answer
            })
        })
    }

    /// Asks all nodes to put the claim's token in the place of that of `old`.
    pub(crate) fn replace_all(
        self: &Arc<Self>,
        claim: &Arc<Claim>,
        old: &Arc<Claim>,
        ttl: Ttl,
        timeout: Duration,
    ) -> FanOut<Result<AcquireReply, BackendError>> {
        self.fan(|node| {
            let (nodes, claim, old) = (self.clone(), claim.clone(), old.clone());
            Box::pin(async move {
                claim.ledger.begin_write(node);
                let request = Replace::new(&claim.resources, &old.token, &claim.token, ttl.get(), timeout);
                let logged = nodes.logged(node, Verb::Replace, &claim.token);
                let asked = async { nodes.nodes[node].backend.replace(request).await };
                let answer =
                    nodes.with_timeout(node, timeout, &[&old.token, &claim.token], logged, asked).await;
                if let Ok(AcquireReply::Granted) = answer {
                    old.ledger.replaced(node);
                }
                if claim.ledger.finish_write(node, &answer) {
                    nodes.schedule_release(node, &claim);
                }
                answer
            })
        })
    }

    /// Asks all nodes to remove the claim's keys. Each that does not is asked again later, in the background.
    pub(crate) fn release_all(
        self: &Arc<Self>,
        claim: &Arc<Claim>,
    ) -> FanOut<Result<ReleaseReply, BackendError>> {
        self.release_from(claim, 0..self.len())
    }

    /// As [`Nodes::release_all`], but only some nodes.
    pub(crate) fn release_from(
        self: &Arc<Self>,
        claim: &Arc<Claim>,
        nodes: impl IntoIterator<Item = usize>,
    ) -> FanOut<Result<ReleaseReply, BackendError>> {
        let requests = nodes.into_iter().map(|node| (node, self.release_and_record(node, claim)));
        FanOut::new(self.runtime.clone(), requests).run_on_drop()
    }

    fn release_and_record(
        self: &Arc<Self>,
        node: usize,
        claim: &Arc<Claim>,
    ) -> BoxFuture<Result<ReleaseReply, BackendError>> {
        let (nodes, claim) = (self.clone(), claim.clone());
        Box::pin(async move {
            claim.ledger.begin_removal(node);
            let answer = nodes.release(node, &claim).await;
            if claim.ledger.finish_removal(node, &answer) {
                nodes.schedule_release(node, &claim);
            }
            answer
        })
    }

    /// One release on one node; nothing is recorded.
    pub(crate) async fn release(&self, node: usize, claim: &Claim) -> Result<ReleaseReply, BackendError> {
        let timeout = self.timeout(claim.ledger.ttl());
        let request = Release::new(&claim.resources, &claim.token, timeout);
        let logged = self.logged(node, Verb::Release, &claim.token);
        let asked = async { self.nodes[node].backend.release(request).await };
        self.with_timeout(node, timeout, &[&claim.token], logged, asked).await
    }

    /// What to tell of answers; nodes that are not among them were not waited for.
    pub(crate) fn answers(&self, answers: &[Option<NodeOutcome>]) -> Vec<NodeReply> {
        let answer = |(node, answer): (usize, &Option<NodeOutcome>)| NodeReply {
            node,
            name: self.nodes[node].backend.name().map(ToOwned::to_owned),
            outcome: answer.clone().unwrap_or(NodeOutcome::Pending),
        };
        answers.iter().enumerate().map(answer).collect()
    }

    /// Why a node has no vote whose server has voted over another one.
    pub(crate) fn same_server(&self, as_node: usize) -> BackendError {
        let name = self.nodes[as_node].backend.name();
        let other = name.map_or_else(|| format!("node {as_node}"), ToOwned::to_owned);
        let message =
            format!("the same server as {other}, which has voted: each node needs a server of its own");
        BackendError::new(BackendErrorKind::Rejected, message)
    }

    async fn put(
        self: &Arc<Self>,
        node: usize,
        claim: &Arc<Claim>,
        ttl: Ttl,
        timeout: Duration,
    ) -> Result<AcquireReply, BackendError> {
        let request = Acquire::new(&claim.resources, &claim.token, ttl.get(), timeout);
        let logged = self.logged(node, Verb::Acquire, &claim.token);
        let asked = async { self.nodes[node].backend.acquire(request).await };
        let answer = self.with_timeout(node, timeout, &[&claim.token], logged, asked).await;
        if claim.ledger.finish_write(node, &answer) {
            self.schedule_release(node, claim);
        }
        answer
    }

    /// A backend that does not keep its time is cut off: a round must end. One that panics has failed, as one
    /// without an answer: its panic must not end a round half-way. The call of its method belongs in
    /// `request`, too. Nobody is told of a whole token, whatever the backend says.
    async fn with_timeout<T: Label>(
        &self,
        node: usize,
        timeout: Duration,
        secrets: &[&Token],
        logged: Request<'_>,
        request: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let node = &self.nodes[node];
        let before = node.answered.load(Ordering::Relaxed);
        let answered = async {
            match select(pin!(request), self.runtime.sleep(timeout)).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Err(BackendError::timed_out(timeout)),
            }
        };
        let answer = AssertUnwindSafe(answered)
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(BackendError::panicked(&*panic)))
            .map_err(|error| secrets.iter().fold(error, |error, token| error.redact(token)));
        let mut informative = true;
        if answer.as_ref().is_err_and(|error| error.kind() == BackendErrorKind::Indeterminate) {
            // A timeout that was cut short, by a short ttl or a bounded wait, says nothing about the node.
            let had_time = timeout >= self.node_timeout.unwrap_or(MIN_TIMEOUT).min(MIN_TIMEOUT);
            informative = had_time && node.answered.load(Ordering::Relaxed) == before;
            if informative {
                node.silent.store(true, Ordering::Relaxed);
            }
        } else {
            node.answered.fetch_add(1, Ordering::Relaxed);
            node.silent.store(false, Ordering::Relaxed);
        }
        logged.answered(&answer, informative);
        answer
    }

    fn logged<'a>(&'a self, node: usize, verb: Verb, token: &'a Token) -> Request<'a> {
        self.telemetry.request(&*self.runtime, node, verb, token)
    }

    fn fan<T: Send + 'static>(&self, request: impl Fn(usize) -> BoxFuture<T>) -> FanOut<T> {
        FanOut::new(self.runtime.clone(), (0..self.len()).map(|node| (node, request(node))))
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes")
            .field("runtime", &self.runtime)
            .field("drift", &self.drift)
            .field("node_timeout", &self.node_timeout)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

/// The default node timeout is a twentieth of the ttl ...
const TIMEOUT_SHARE: u32 = 20;
/// ... but not less than this ...
pub(crate) const MIN_TIMEOUT: Duration = Duration::from_millis(50);
/// ... and not more than this: however long a lock lives, nobody wants to wait for a dead node for long.
const MAX_TIMEOUT: Duration = Duration::from_secs(2);
