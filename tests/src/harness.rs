//! In-memory nodes and lock managers on a simulated runtime.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, Error, Extend, LockBackend, MemoryBackend, NodeOutcome, NodeReply,
    Redlock, RedlockBuilder, Release, ReleaseReply, Runtime, async_trait,
};

use crate::sim_runtime::{Sim, SimRuntime};

/// In-memory nodes, and the simulation that runs them and their clients.
#[derive(Debug)]
pub struct Harness {
    /// The run.
    pub sim: Sim,
    /// The runtime of the nodes, and of the managers.
    pub runtime: SimRuntime,
    /// The nodes, named "node 0" and so on.
    pub nodes: Vec<MemoryBackend>,
}

impl Harness {
    /// A run with the seed 1.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self::seeded(1, nodes)
    }

    /// A run with this seed.
    #[must_use]
    pub fn seeded(seed: u64, nodes: usize) -> Self {
        let sim = Sim::new(seed);
        let runtime = sim.runtime();
        let node = |number| MemoryBackend::new(runtime.clone()).with_name(format!("node {number}"));
        let nodes = (0..nodes).map(node).collect();
        Self { sim, runtime, nodes }
    }

    /// A manager with the defaults.
    #[must_use]
    pub fn redlock(&self) -> Redlock {
        self.builder().build().expect("nodes")
    }

    /// A builder for a manager of all nodes.
    pub fn builder(&self) -> RedlockBuilder {
        Redlock::builder(self.runtime.clone()).nodes(self.nodes.clone()).entropy(self.sim.entropy())
    }

    /// A manager over wrapped nodes.
    #[must_use]
    pub fn redlock_over<B: LockBackend>(&self, wrap: impl Fn(MemoryBackend) -> B) -> Redlock {
        let nodes = self.nodes.iter().cloned().map(wrap);
        Redlock::builder(self.runtime.clone())
            .nodes(nodes)
            .entropy(self.sim.entropy())
            .build()
            .expect("nodes")
    }

    /// Runs the test to its end.
    pub fn run<T>(&self, test: impl Future<Output = T>) -> T {
        self.sim.run(test)
    }

    /// The simulated time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.runtime.now()
    }

    /// Waits this many ms.
    pub async fn sleep(&self, millis: u64) {
        self.runtime.sleep(ms(millis)).await;
    }

    /// The output of `future`, and how long it took.
    pub async fn timed<T>(&self, future: impl IntoFuture<Output = T>) -> (T, Duration) {
        let start = self.now();
        let output = future.await;
        (output, self.now() - start)
    }

    /// Drops the future after this time, unless it is done.
    pub async fn cancel_after<T>(&self, after: Duration, future: impl IntoFuture<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.runtime.sleep(after) => None,
            output = future.into_future() => Some(output),
        }
    }

    /// The value of a key on each node.
    #[must_use]
    pub fn values(&self, key: &str) -> Vec<Option<String>> {
        self.nodes.iter().map(|node| node.get(key)).collect()
    }

    /// Panics if a node has the key.
    pub fn assert_free(&self, key: &str) {
        assert!(self.values(key).iter().all(Option::is_none), "{:?}", self.values(key));
    }

    /// How many requests each node has received.
    #[must_use]
    pub fn requests(&self) -> Vec<u64> {
        self.nodes.iter().map(MemoryBackend::requests).collect()
    }

    /// More than half of the nodes.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    /// On how many nodes a key holds this value.
    #[must_use]
    pub fn holding(&self, key: &str, value: &str) -> usize {
        self.nodes.iter().filter(|node| node.get(key).as_deref() == Some(value)).count()
    }

    /// Panics if tasks or timers are left.
    pub fn assert_at_rest(&self) {
        assert_eq!((self.runtime.tasks(), self.runtime.timers()), (0, 0), "tasks and timers");
    }
}

/// A node that can do what every backend has to, and nothing more.
#[derive(Debug)]
pub struct Plain(pub MemoryBackend);

#[async_trait]
impl LockBackend for Plain {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.0.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.0.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.0.release(request).await
    }
}

/// One letter for each node's reply: `g`ranted, `r`efused, re`m`oved, `n`ot held, `x` failed, `l`ate, `.` not
/// waited for.
#[must_use]
pub fn answers(error: &Error) -> String {
    let answer = |answer: &NodeReply| match answer.outcome {
        NodeOutcome::Granted => 'g',
        NodeOutcome::Refused => 'r',
        NodeOutcome::Removed => 'm',
        NodeOutcome::NotHeld => 'n',
        NodeOutcome::Failed(_) => 'x',
        NodeOutcome::Late => 'l',
        NodeOutcome::Pending => '.',
        _ => '?',
    };
    error.report().expect("an error of an attempt").replies.iter().map(answer).collect()
}

/// How many attempts were made before this error.
#[must_use]
pub fn attempts(error: &Error) -> u32 {
    error.report().expect("an error of an attempt").attempts
}

/// A duration of ms.
#[must_use]
pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A duration of seconds.
#[must_use]
pub fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
