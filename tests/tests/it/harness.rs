//! In-memory nodes and lock managers on a simulated runtime.

use std::{
    fmt,
    future::Future,
    time::{Duration, Instant},
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Error, Extend, LockBackend, MemoryBackend,
    NodeOutcome, Redlock, RedlockBuilder, Release, ReleaseReply, Runtime, async_trait,
};
use redlock_tests::sim_runtime::{Sim, SimRuntime};

pub(crate) struct Harness {
    pub(crate) sim: Sim,
    pub(crate) runtime: SimRuntime,
    pub(crate) nodes: Vec<MemoryBackend>,
}

impl Harness {
    pub(crate) fn new(nodes: usize) -> Self {
        Self::seeded(1, nodes)
    }

    pub(crate) fn seeded(seed: u64, nodes: usize) -> Self {
        let sim = Sim::new(seed);
        let runtime = sim.runtime();
        let node = |number| MemoryBackend::new(runtime.clone()).with_name(format!("node {number}"));
        let nodes = (0..nodes).map(node).collect();
        Self { sim, runtime, nodes }
    }

    /// A manager with the defaults.
    pub(crate) fn redlock(&self) -> Redlock {
        self.builder().build().unwrap()
    }

    pub(crate) fn builder(&self) -> RedlockBuilder {
        Redlock::builder(self.runtime.clone()).nodes(self.nodes.clone()).entropy(self.sim.entropy())
    }

    /// A manager whose nodes are behind something that gets in between.
    pub(crate) fn redlock_over<B: LockBackend>(&self, wrap: impl Fn(MemoryBackend) -> B) -> Redlock {
        let nodes = self.nodes.iter().cloned().map(wrap);
        Redlock::builder(self.runtime.clone()).nodes(nodes).entropy(self.sim.entropy()).build().unwrap()
    }

    pub(crate) fn run<T>(&self, test: impl Future<Output = T>) -> T {
        self.sim.run(test)
    }

    pub(crate) fn now(&self) -> Instant {
        self.runtime.now()
    }

    pub(crate) async fn sleep(&self, millis: u64) {
        self.runtime.sleep(ms(millis)).await;
    }

    /// What `future` gives, and how long it took.
    pub(crate) async fn timed<T>(&self, future: impl IntoFuture<Output = T>) -> (T, Duration) {
        let start = self.now();
        let output = future.await;
        (output, self.now() - start)
    }

    /// Drops the future after `after`, unless it is done by then.
    pub(crate) async fn cancel_after<T>(
        &self,
        after: Duration,
        future: impl IntoFuture<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            () = self.runtime.sleep(after) => None,
            output = future.into_future() => Some(output),
        }
    }

    /// The values under a key, by node.
    pub(crate) fn values(&self, key: &str) -> Vec<Option<String>> {
        self.nodes.iter().map(|node| node.get(key)).collect()
    }

    pub(crate) fn assert_free(&self, key: &str) {
        assert!(self.values(key).iter().all(Option::is_none), "{:?}", self.values(key));
    }

    pub(crate) fn requests(&self) -> Vec<u64> {
        self.nodes.iter().map(MemoryBackend::requests).collect()
    }

    /// Neither tasks nor timers are left.
    pub(crate) fn assert_at_rest(&self) {
        assert_eq!((self.runtime.tasks(), self.runtime.timers()), (0, 0), "tasks and timers");
    }
}

/// What each node said, in short: `g`ranted, `r`efused, re`m`oved, `n`ot held, `x` failed, `l`ate, `.` not
/// waited for.
pub(crate) fn answers(error: &Error) -> String {
    let answer = |answer: &redlock_core::NodeReply| match answer.outcome {
        NodeOutcome::Granted => 'g',
        NodeOutcome::Refused => 'r',
        NodeOutcome::Removed => 'm',
        NodeOutcome::NotHeld => 'n',
        NodeOutcome::Failed(_) => 'x',
        NodeOutcome::Late => 'l',
        NodeOutcome::Pending => '.',
        _ => '?',
    };
    error.report().unwrap().replies.iter().map(answer).collect()
}

pub(crate) fn attempts(error: &Error) -> u32 {
    error.report().unwrap().attempts
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A node behind a client library that has sent every request twice.
pub(crate) struct Resending(pub(crate) MemoryBackend);

#[async_trait]
impl LockBackend for Resending {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.0.acquire(request).await?;
        self.0.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.0.extend(request).await?;
        self.0.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.0.release(request).await
    }
}

/// A node that an acquire needs some time to get to, and everything else 2 ms.
pub(crate) struct Far {
    pub(crate) node: MemoryBackend,
    pub(crate) delay: Duration,
    pub(crate) runtime: SimRuntime,
}

#[async_trait]
impl LockBackend for Far {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.runtime.sleep(self.delay).await;
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.runtime.sleep(ms(2)).await;
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.runtime.sleep(ms(2)).await;
        self.node.release(request).await
    }
}

/// A node whose releases take another way: they arrive a second late, whatever has happened since.
pub(crate) struct LateReleases {
    pub(crate) node: MemoryBackend,
    pub(crate) runtime: SimRuntime,
}

#[async_trait]
impl LockBackend for LateReleases {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let (node, runtime) = (self.node.clone(), self.runtime.clone());
        let (resources, token, timeout) = (request.resources.clone(), request.token.clone(), request.timeout);
        self.runtime.spawn(Box::pin(async move {
            runtime.sleep(s(1)).await;
            // Nobody is there any more to hear the answer.
            let _ = node.release(Release::new(&resources, &token, timeout)).await;
        }));
        self.runtime.sleep(request.timeout).await;
        Err(BackendError::timed_out(request.timeout))
    }
}

/// A node that is stopped until `end`, and then runs the acquires of the meantime, but no release of it.
pub(crate) struct Buffered {
    pub(crate) node: MemoryBackend,
    pub(crate) runtime: SimRuntime,
    pub(crate) end: Instant,
}

#[async_trait]
impl LockBackend for Buffered {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let left = self.end.saturating_duration_since(self.runtime.now());
        if left.is_zero() {
            return self.node.acquire(request).await;
        }
        let (node, runtime) = (self.node.clone(), self.runtime.clone());
        let (resources, token, ttl) = (request.resources.clone(), request.token.clone(), request.ttl);
        self.runtime.spawn(Box::pin(async move {
            runtime.sleep(left).await;
            // Nobody is there any more to hear the answer.
            let _ = node.acquire(Acquire::new(&resources, &token, ttl, ttl)).await;
        }));
        self.runtime.sleep(request.timeout).await;
        Err(BackendError::timed_out(request.timeout))
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        if self.runtime.now() >= self.end {
            return self.node.release(request).await;
        }
        self.runtime.sleep(request.timeout).await;
        Err(BackendError::timed_out(request.timeout))
    }
}

/// A node whose acquires take 10 ms where the key is free. Its releases take another, faster way, but their
/// answers a slower one.
pub(crate) struct Overtaking {
    pub(crate) node: MemoryBackend,
    pub(crate) runtime: SimRuntime,
    pub(crate) answer_delay: Duration,
}

#[async_trait]
impl LockBackend for Overtaking {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        if self.node.get(&request.resources.as_slice()[0]).is_none() {
            self.runtime.sleep(ms(10)).await;
        }
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let answer = self.node.release(request).await;
        self.runtime.sleep(self.answer_delay).await;
        answer
    }
}

/// A node that does not release the resource "stubborn".
#[derive(Debug)]
pub(crate) struct Stubborn(pub(crate) MemoryBackend);

#[async_trait]
impl LockBackend for Stubborn {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.0.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.0.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        if request.resources.iter().any(|name| name == "stubborn") {
            return Err(BackendError::new(BackendErrorKind::Transient, "no"));
        }
        self.0.release(request).await
    }
}

impl fmt::Debug for Resending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resending")
    }
}

impl fmt::Debug for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Far")
    }
}

impl fmt::Debug for Overtaking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overtaking")
    }
}

impl fmt::Debug for Buffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffered")
    }
}

impl fmt::Debug for LateReleases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LateReleases")
    }
}
