//! What the nodes answer, while `redlock run` asks them.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use redlock_redis_rs::{
    Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BoxFuture, Extend, FencedReply, Inspect,
    KeyState, LockBackend, NodeOutcome, NodeReply, Raise, RedisBackend, Redlock, RedlockBuilder, Release,
    ReleaseReply, Runtime, ServerInfo, Token, TokioRuntime, Watch, async_trait,
};
use tokio::time::{sleep, timeout};

use crate::{
    exit::Failure,
    output::{Output, readable},
};

/// A lock manager over the nodes, and the monitor of what they answer.
pub(crate) fn monitored(
    nodes: Vec<RedisBackend>,
    output: &Output,
    quiet: bool,
    max_ttl: Option<Duration>,
) -> Result<(Redlock, Arc<NodeMonitor>), Failure> {
    let statuses = nodes
        .iter()
        .map(|node| NodeStatus {
            name: node.name().unwrap_or_default().to_owned(),
            last: None,
            failing: false,
            has_no_vote: None,
        })
        .collect();
    let monitor = Arc::new(NodeMonitor {
        output: output.clone(),
        under_way: AtomicUsize::new(0),
        warns: AtomicBool::new(false),
        state: Mutex::new(State {
            nodes: statuses,
            no_quorum: false,
            minority: if quiet { Minority::Reported } else { Minority::NoLock },
        }),
    });
    let runtime = CountingRuntime { runtime: TokioRuntime::current(), monitor: monitor.clone() };
    let nodes = nodes.into_iter().enumerate();
    let nodes = nodes.map(|(position, node)| MonitoredNode { node, position, monitor: monitor.clone() });
    let builder = Redlock::builder(runtime).nodes(nodes);
    let redlock = max_ttl.into_iter().fold(builder, RedlockBuilder::max_ttl).build()?;
    Ok((redlock, monitor))
}

/// Knows what each node answered last.
#[derive(Debug)]
pub(crate) struct NodeMonitor {
    output: Output,
    /// Requests without an answer yet, and background tasks that have not begun.
    under_way: AtomicUsize,
    /// Whether to report that a quorum fails: nothing else would report it before long.
    warns: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    nodes: Vec<NodeStatus>,
    /// Whether it has been reported that there is no quorum.
    no_quorum: bool,
    minority: Minority,
}

/// Whether to report that a minority of the nodes does not work: once, when there is a lock that it may
/// endanger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Minority {
    NoLock,
    Watched,
    Reported,
}

#[derive(Debug)]
struct NodeStatus {
    name: String,
    last: Option<String>,
    failing: bool,
    /// Why it has no vote, though it answers: it is the same server as another node.
    has_no_vote: Option<String>,
}

impl NodeMonitor {
    pub(crate) fn warn(&self, warns: bool) {
        self.warns.store(warns, Ordering::SeqCst);
    }

    /// What each node answered last.
    pub(crate) fn summary(&self) -> String {
        let words =
            |node: &NodeStatus| format!("{}: {}", node.name, node.last.as_deref().unwrap_or(NO_ANSWER));
        self.state().nodes.iter().map(words).collect::<Vec<_>>().join("; ")
    }

    /// Waits until all requests in the background have been answered, for `patience` at most.
    pub(crate) async fn all_answered(&self, patience: Duration) {
        let answered = async {
            while self.under_way.load(Ordering::SeqCst) > 0 {
                sleep(POLL_INTERVAL).await;
            }
        };
        let _ = timeout(patience, answered).await;
    }

    /// There is a lock, by these replies.
    pub(crate) fn acquired(&self, replies: &[NodeReply]) {
        let mut state = self.state();
        for reply in replies {
            if matches!(reply.outcome, NodeOutcome::Failed(_))
                && let Some(node) = state.nodes.get_mut(reply.node).filter(|node| !node.failing)
            {
                node.has_no_vote = Some(reply.outcome.to_string());
            }
        }
        if state.minority == Minority::NoLock {
            state.minority = Minority::Watched;
        }
    }

    /// Reports a minority that does not work, if there is one and it has not been reported.
    pub(crate) fn check_minority(&self) {
        self.report_minority(|node| node.fault());
    }

    /// As [`check_minority`](Self::check_minority), when nobody waits for answers any more.
    pub(crate) fn finish(&self) {
        self.report_minority(|node| {
            node.fault().or_else(|| node.last.is_none().then(|| NO_ANSWER.to_owned()))
        });
    }

    fn report_minority(&self, fault: impl Fn(&NodeStatus) -> Option<String>) {
        let mut state = self.state();
        let faults: Vec<String> =
            state.nodes.iter().filter_map(|node| Some(format!("{}: {}", node.name, fault(node)?))).collect();
        let working = state.nodes.len() - faults.len();
        if state.minority == Minority::Watched && !faults.is_empty() && working > state.nodes.len() / 2 {
            state.minority = Minority::Reported;
            drop(state);
            let faults = faults.join("; ");
            self.output
                .print(format!("a minority of the nodes does not work ({faults}): the others hold the lock"));
        }
    }

    fn answered(&self, node: usize, verb: &str, took: Duration, answer: &NodeOutcome) {
        let mut state = self.state();
        let quorum = state.nodes.len() / 2 + 1;
        let status = &mut state.nodes[node];
        status.failing = matches!(answer, NodeOutcome::Failed(_));
        status.last = Some(answer.to_string());
        let name = status.name.clone();
        let working = state.nodes.iter().filter(|node| !node.failing).count();
        let news = self.warns.load(Ordering::SeqCst) && (working < quorum) != state.no_quorum;
        if news {
            state.no_quorum = working < quorum;
        }
        drop(state);

        self.output.verbose(|| format!("{name}: {verb}: {answer} ({})", readable(took)));
        if news && working < quorum {
            self.output.print(format!("no quorum of nodes works ({})", self.summary()));
        } else if news {
            self.output.print("a quorum of nodes works again");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeStatus {
    fn fault(&self) -> Option<String> {
        self.has_no_vote.clone().or_else(|| self.last.clone().filter(|_| self.failing))
    }
}

/// A node whose answers go through the monitor, unchanged.
#[derive(Debug)]
struct MonitoredNode {
    node: RedisBackend,
    position: usize,
    monitor: Arc<NodeMonitor>,
}

impl MonitoredNode {
    async fn observe<T>(
        &self,
        verb: &str,
        token: &Token,
        request: impl Future<Output = Result<T, BackendError>>,
        outcome: impl FnOnce(&T) -> NodeOutcome,
    ) -> Result<T, BackendError> {
        let start = Instant::now();
        let pending = PendingRequest::new(self, verb, start);
        let answer = request.await.map_err(|error| error.redact(token));
        let outcome = answer.as_ref().map_or_else(|error| NodeOutcome::Failed(error.clone()), outcome);
        pending.answered(&outcome);
        answer
    }
}

#[async_trait]
impl LockBackend for MonitoredNode {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.observe("acquire", request.token, self.node.acquire(request), granted).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.observe("extend", request.token, self.node.extend(request), granted).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let removed = |released: &ReleaseReply| match released {
            ReleaseReply::Removed => NodeOutcome::Removed,
            _ => NodeOutcome::NotHeld,
        };
        self.observe("release", request.token, self.node.release(request), removed).await
    }

    fn can_fence(&self) -> bool {
        self.node.can_fence()
    }

    async fn acquire_fenced(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        self.observe("acquire", request.token, self.node.acquire_fenced(request), counted).await
    }

    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        let verb = if request.ttl.is_some() { "extend" } else { "raise" };
        self.observe(verb, request.token, self.node.raise(request), counted).await
    }

    fn can_annotate(&self) -> bool {
        self.node.can_annotate()
    }

    /// Its answer is not one to the lock: a node is well without it. But its removal is sent last of all.
    async fn annotate(&self, request: Annotate<'_>) -> Result<(), BackendError> {
        let _under_way = UnderWay::new(&self.monitor);
        self.node.annotate(request).await
    }

    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        self.node.inspect(request).await
    }

    async fn watch(&self, request: Watch<'_>) -> Result<(), BackendError> {
        self.node.watch(request).await
    }

    fn timed_out(&self, timeout: Duration) -> BackendError {
        self.node.timed_out(timeout)
    }

    fn name(&self) -> Option<&str> {
        self.node.name()
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        self.node.server()
    }

    fn uptime(&self) -> Result<Duration, BackendError> {
        self.node.uptime()
    }
}

/// A request that has to be answered before the process ends.
struct UnderWay<'a>(&'a NodeMonitor);

impl<'a> UnderWay<'a> {
    fn new(monitor: &'a NodeMonitor) -> Self {
        monitor.under_way.fetch_add(1, Ordering::SeqCst);
        Self(monitor)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request under way. When it is dropped without an answer, it has timed out.
struct PendingRequest<'a> {
    node: &'a MonitoredNode,
    verb: &'a str,
    start: Instant,
    answered: bool,
    // Dropped last, when the answer has been reported.
    _under_way: UnderWay<'a>,
}

impl<'a> PendingRequest<'a> {
    fn new(node: &'a MonitoredNode, verb: &'a str, start: Instant) -> Self {
        Self { node, verb, start, answered: false, _under_way: UnderWay::new(&node.monitor) }
    }

    fn answered(mut self, answer: &NodeOutcome) {
        self.answered = true;
        self.node.monitor.answered(self.node.position, self.verb, self.start.elapsed(), answer);
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let took = self.start.elapsed();
            let answer = NodeOutcome::Failed(self.node.timed_out(took));
            self.node.monitor.answered(self.node.position, self.verb, took, &answer);
        }
    }
}

/// A runtime that counts the tasks that have not begun: their requests are under way too.
#[derive(Debug)]
struct CountingRuntime {
    runtime: TokioRuntime,
    monitor: Arc<NodeMonitor>,
}

impl Runtime for CountingRuntime {
    fn now(&self) -> Instant {
        self.runtime.now()
    }

    fn unix_time(&self) -> Duration {
        self.runtime.unix_time()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.runtime.sleep(duration)
    }

    fn spawn(&self, mut task: BoxFuture<()>) {
        let monitor = self.monitor.clone();
        monitor.under_way.fetch_add(1, Ordering::SeqCst);
        self.runtime.spawn(Box::pin(async move {
            let begun = std::future::poll_fn(|cx| std::task::Poll::Ready(task.as_mut().poll(cx))).await;
            monitor.under_way.fetch_sub(1, Ordering::SeqCst);
            if begun.is_pending() {
                task.await;
            }
        }));
    }
}

fn granted(reply: &AcquireReply) -> NodeOutcome {
    match reply {
        AcquireReply::Granted => NodeOutcome::Granted,
        _ => NodeOutcome::Refused,
    }
}

fn counted(reply: &FencedReply) -> NodeOutcome {
    match reply {
        FencedReply::Granted { .. } => NodeOutcome::Granted,
        _ => NodeOutcome::Refused,
    }
}

const NO_ANSWER: &str = "no answer yet";
const POLL_INTERVAL: Duration = Duration::from_millis(1);
