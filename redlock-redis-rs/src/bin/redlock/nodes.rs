//! The nodes, and what they said.

use std::{
    env,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use redlock_redis_rs::{
    Acquire, AcquireReply, BackendError, BoxFuture, Extend, Inspect, KeyState, LockBackend, NodeOutcome,
    RedisBackend, Redlock, Release, ReleaseReply, Runtime, Token, TokioRuntime, async_trait,
    node_url::{InvalidUrl, OpenError},
};
use tokio::time::{sleep, timeout};

use crate::{
    arguments,
    exit::{Failure, USAGE},
    output::Output,
};

/// The nodes that the arguments or the environment name.
pub(crate) fn open(nodes: &arguments::Nodes) -> Result<Vec<RedisBackend>, Failure> {
    let listed = match env::var(VARIABLE) {
        Ok(listed) => listed,
        // It is of no interest beside nodes that are given.
        Err(env::VarError::NotUnicode(_)) if nodes.urls.is_empty() => {
            return Err(Failure::new(USAGE, format!("{VARIABLE} is not UTF-8")));
        }
        Err(_) => String::new(),
    };
    open_given(&nodes.urls, &listed)
}

/// The nodes that are given; when there are none, those that are listed.
pub(crate) fn open_given(given: &[String], listed: &str) -> Result<Vec<RedisBackend>, Failure> {
    let (urls, from): (Vec<&str>, _) = if given.is_empty() {
        let separated = listed.split([',', ' ', '\t', '\n']);
        (separated.filter(|url| !url.is_empty()).collect(), VARIABLE)
    } else {
        (given.iter().map(String::as_str).collect(), "--node")
    };
    if urls.is_empty() {
        return Err(Failure::new(USAGE, format!("no nodes: give --node URL for each, or set {VARIABLE}")));
    }
    let open = |(position, url): (usize, &&str)| {
        open_one(url).map_err(|error| {
            // The URL itself may have a password in it, or be what a separator in a password has left of one.
            let hint = if listed.contains('@') { ENCODE } else { "" };
            Failure::new(USAGE, format!("{from}: number {}: {error}{hint}", position + 1))
        })
    };
    urls.iter().enumerate().map(open).collect()
}

fn open_one(url: &str) -> Result<RedisBackend, OpenError> {
    if url.contains("://") {
        RedisBackend::open(url)
    } else if url.contains('@') {
        // With a user, an address is a URL. So what a comma in a password has cut off is not taken for a
        // node.
        Err(InvalidUrl::Scheme.into())
    } else {
        RedisBackend::open(format!("redis://{url}"))
    }
}

/// A lock manager over the nodes, and what listens to them.
pub(crate) fn listen(
    nodes: Vec<RedisBackend>,
    output: &Output,
) -> Result<(Redlock, Arc<NodeMonitor>), Failure> {
    let heard = nodes
        .iter()
        .map(|node| NodeStatus {
            name: node.name().unwrap_or_default().to_owned(),
            last: None,
            failing: false,
        })
        .collect();
    let monitor = Arc::new(NodeMonitor {
        output: output.clone(),
        under_way: AtomicUsize::new(0),
        warns: AtomicBool::new(false),
        heard: Mutex::new(Hearing { nodes: heard, no_quorum: false }),
    });
    let runtime = Counting { runtime: TokioRuntime::current(), monitor: monitor.clone() };
    let nodes = nodes.into_iter().enumerate();
    let nodes = nodes.map(|(position, node)| ListenedTo { node, position, monitor: monitor.clone() });
    let redlock = Redlock::builder(runtime).nodes(nodes).build()?;
    Ok((redlock, monitor))
}

/// Listens to what the nodes answer.
#[derive(Debug)]
pub(crate) struct NodeMonitor {
    output: Output,
    /// Requests that are not answered yet, and tasks that have not asked theirs.
    under_way: AtomicUsize,
    /// Whether to say when a quorum fails: nothing else would tell before long.
    warns: AtomicBool,
    heard: Mutex<Hearing>,
}

#[derive(Debug)]
struct Hearing {
    nodes: Vec<NodeStatus>,
    /// Whether it has been said that there is no quorum.
    no_quorum: bool,
}

#[derive(Debug)]
struct NodeStatus {
    name: String,
    last: Option<String>,
    failing: bool,
}

impl NodeMonitor {
    pub(crate) fn warn(&self, warns: bool) {
        self.warns.store(warns, Ordering::SeqCst);
    }

    /// What each node said last.
    pub(crate) fn summary(&self) -> String {
        let words = |heard: &NodeStatus| {
            format!("{}: {}", heard.name, heard.last.as_deref().unwrap_or("no answer yet"))
        };
        self.hearing().nodes.iter().map(words).collect::<Vec<_>>().join("; ")
    }

    /// Waits until what was asked in the background has been answered: for `patience` at most.
    pub(crate) async fn all_answered(&self, patience: Duration) {
        let answered = async {
            while self.under_way.load(Ordering::SeqCst) > 0 {
                sleep(POLL_INTERVAL).await;
            }
        };
        let _ = timeout(patience, answered).await;
    }

    fn answered(&self, node: usize, verb: &str, took: Duration, answer: &NodeOutcome) {
        let mut hearing = self.hearing();
        let quorum = hearing.nodes.len() / 2 + 1;
        let heard = &mut hearing.nodes[node];
        heard.failing = matches!(answer, NodeOutcome::Failed(_));
        heard.last = Some(answer.to_string());
        let name = heard.name.clone();
        let working = hearing.nodes.iter().filter(|heard| !heard.failing).count();
        let news = self.warns.load(Ordering::SeqCst) && (working < quorum) != hearing.no_quorum;
        if news {
            hearing.no_quorum = working < quorum;
        }
        drop(hearing);

        self.output.verbose(|| format!("{name}: {verb}: {answer} ({})", millis(took)));
        if news && working < quorum {
            self.output.print(format!("no quorum of nodes works ({})", self.summary()));
        } else if news {
            self.output.print("a quorum of nodes works again");
        }
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node that is listened to. Nothing is changed.
#[derive(Debug)]
struct ListenedTo {
    node: RedisBackend,
    position: usize,
    monitor: Arc<NodeMonitor>,
}

impl ListenedTo {
    async fn listen<T>(
        &self,
        verb: &str,
        token: &Token,
        request: impl Future<Output = Result<T, BackendError>>,
        told: impl FnOnce(&T) -> NodeOutcome,
    ) -> Result<T, BackendError> {
        let start = Instant::now();
        let asked = Asked::new(&self.monitor, self.position, verb, start);
        let answer = request.await.map_err(|error| error.redact(token));
        let told = answer.as_ref().map_or_else(|error| NodeOutcome::Failed(error.clone()), told);
        asked.answered(&told);
        answer
    }
}

#[async_trait]
impl LockBackend for ListenedTo {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.listen("acquire", request.token, self.node.acquire(request), granted).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.listen("extend", request.token, self.node.extend(request), granted).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let removed = |released: &ReleaseReply| match released {
            ReleaseReply::Removed => NodeOutcome::Removed,
            _ => NodeOutcome::NotHeld,
        };
        self.listen("release", request.token, self.node.release(request), removed).await
    }

    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        self.node.inspect(request).await
    }

    fn name(&self) -> Option<&str> {
        self.node.name()
    }

    fn server_id(&self) -> Option<Arc<str>> {
        self.node.server_id()
    }
}

/// A request under way; one that is dropped was cut off.
struct Asked<'a> {
    monitor: &'a NodeMonitor,
    node: usize,
    verb: &'a str,
    start: Instant,
    heard: bool,
}

impl<'a> Asked<'a> {
    fn new(monitor: &'a NodeMonitor, node: usize, verb: &'a str, start: Instant) -> Self {
        monitor.under_way.fetch_add(1, Ordering::SeqCst);
        Self { monitor, node, verb, start, heard: false }
    }

    fn answered(mut self, answer: &NodeOutcome) {
        self.heard = true;
        self.monitor.answered(self.node, self.verb, self.start.elapsed(), answer);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.heard {
            let took = self.start.elapsed();
            let answer = NodeOutcome::Failed(BackendError::timed_out(took));
            self.monitor.answered(self.node, self.verb, took, &answer);
        }
        self.monitor.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A runtime that counts the tasks that have not begun: what they will ask is under way too.
#[derive(Debug)]
struct Counting {
    runtime: TokioRuntime,
    monitor: Arc<NodeMonitor>,
}

impl Runtime for Counting {
    fn now(&self) -> Instant {
        self.runtime.now()
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

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}

const VARIABLE: &str = "REDLOCK_NODES";
/// Where a list has a user or a password in it.
const ENCODE: &str = "; in a user name or password, commas, blanks and any of /?#@:% have to be percent-encoded (%2C, %20, ...)";
const POLL_INTERVAL: Duration = Duration::from_millis(1);
