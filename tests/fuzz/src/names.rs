//! Any names, TTLs and settings, on nodes in memory and a simulated clock.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use arbitrary::{Arbitrary, Unstructured};
use redlock_core::{
    Acquire, AcquireReply, BackendError, ConfigError, Error, Extend, Lock, LockBackend, LockRequest, MAX_TTL,
    MemoryBackend, Redlock, RedlockBuilder, Release, ReleaseReply, Replace, Resources, Runtime, Token,
    UnlockOutcome, async_trait,
};
use redlock_tests::harness::Harness;

use crate::oracle::{Flaw, assert_not_too_long};

pub fn check(data: &[u8]) {
    let Ok(scene) = Scene::arbitrary_take_rest(Unstructured::new(data)) else { return };
    scene.play();
}

#[derive(Arbitrary, Debug)]
struct Scene {
    seed: u64,
    nodes: u8,
    /// Which of the nodes are down during the first request, as bits.
    down: u8,
    settings: Settings,
    first: Asked,
    second: Asked,
    extension: Span,
    ending: Ending,
}

#[derive(Arbitrary, Debug)]
struct Settings {
    drift: Option<f64>,
    node_timeout: Option<Span>,
    retries: Retries,
    /// The same name for all nodes, which is refused.
    one_name: bool,
}

#[derive(Arbitrary, Debug)]
struct Retries {
    count: Option<u32>,
    forever: bool,
    delay: Option<Span>,
    jitter: Option<Span>,
    delays: Option<Vec<Span>>,
}

#[derive(Arbitrary, Debug)]
struct Asked {
    names: Vec<String>,
    ttl: Span,
    retries: Retries,
    wait: Option<Span>,
    longest: Option<Span>,
    /// In ms: when the request is cancelled.
    patience: u8,
}

/// How the first lock ends.
#[derive(Arbitrary, Debug)]
enum Ending {
    Unlock,
    Drop,
    /// Kept alive for this many ms.
    Kept(u8),
    HandedOver,
}

/// A duration: one of a usual size, or any.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Span {
    Micros(u32),
    Any(Duration),
}

impl Span {
    fn get(self) -> Duration {
        match self {
            Self::Micros(micros) => Duration::from_micros(micros.into()),
            Self::Any(duration) => duration,
        }
    }
}

impl Scene {
    fn play(self) {
        let harness = Harness::seeded(self.seed, usize::from(self.nodes % 6));
        let requested = RequestedNames::default();
        let builder = Redlock::builder(harness.runtime.clone()).entropy(harness.sim.entropy());
        let built = self.settings.apply(builder, &harness.nodes, &requested).build();
        let Some(redlock) = self.settings.judge(harness.nodes.len(), built) else { return };
        harness.sim.run(self.act(&harness, &redlock));
        harness.assert_at_rest();

        let expected: BTreeSet<&String> = self.first.names.iter().chain(&self.second.names).collect();
        for name in requested.0.lock().expect("nobody panicked").iter() {
            assert!(expected.contains(name), "a node received {name:?}, which is in no request");
        }
    }

    async fn act(&self, harness: &Harness, redlock: &Redlock) {
        let drift = self.settings.drift.unwrap_or(0.01);
        let down = |(position, _): &(usize, &MemoryBackend)| self.down >> position & 1 == 1;
        let (off, on): (Vec<_>, Vec<_>) = harness.nodes.iter().enumerate().partition(down);
        off.iter().for_each(|(_, node)| node.shut_down());

        let flaw = self.first.flaw(drift);
        let start = harness.runtime.elapsed();
        let won = self.first.request(harness, redlock).await;
        off.iter().for_each(|(_, node)| node.start());
        let held = match won {
            Some(Ok(lock)) => {
                assert_eq!(flaw, Flaw::Nothing);
                assert!(on.len() >= harness.quorum(), "won without a quorum");
                assert_not_too_long(lock.remaining(), self.first.least_ttl(), drift);
                assert_held(harness, &self.first.names, lock.token());
                Some(lock)
            }
            Some(Err(Error::InvalidRequest(invalid))) => {
                flaw.assert_reported(&invalid, self.first.least_ttl(), drift);
                assert_eq!(harness.runtime.elapsed(), start, "the refusal took time");
                assert!(harness.nodes.iter().all(|node| node.requests() == 0), "a node received a request");
                None
            }
            Some(Err(Error::NoQuorum(_))) | None => {
                assert!(
                    on.len() < harness.quorum(),
                    "no lock, with {} of {} nodes",
                    on.len(),
                    harness.nodes.len()
                );
                None
            }
            Some(Err(error)) => panic!("no other client wants the lock: {error}"),
        };
        if let Some(lock) = held {
            let lock = self.use_it(harness, redlock, lock, drift).await;
            self.end(harness, redlock, lock).await;
        }
        harness.runtime.sleep(SETTLED).await;
        for name in self.first.names.iter().chain(&self.second.names) {
            harness.assert_free(name);
        }
    }

    /// While the lock is held: another client's request, and an extension.
    async fn use_it(&self, harness: &Harness, redlock: &Redlock, mut lock: Lock, drift: f64) -> Lock {
        let token = lock.token().clone();
        let other = self.second.request(harness, redlock).await;
        let valid = lock.is_valid();
        let shared = self.second.names.iter().any(|name| self.first.names.contains(name));
        match other {
            Some(Ok(other)) => {
                assert_eq!(self.second.flaw(drift), Flaw::Nothing);
                assert!(!(shared && valid), "{:?} is locked twice", self.second.names);
                assert_held(harness, &self.second.names, other.token());
                let unlocked = other.unlock().await.expect("every node replies");
                assert_eq!(unlocked, UnlockOutcome::Released);
            }
            Some(Err(Error::InvalidRequest(invalid))) => {
                self.second.flaw(drift).assert_reported(&invalid, self.second.least_ttl(), drift);
            }
            Some(Err(Error::Contended(report))) => {
                assert!(shared, "{:?} is refused for {:?}", self.second.names, self.first.names);
                assert_eq!(report.resources.as_slice(), self.second.names);
            }
            Some(Err(error)) => panic!("every node replies, but: {error}"),
            None => assert!(shared, "{:?} waits for {:?}", self.second.names, self.first.names),
        }
        if lock.is_valid() {
            assert_held(harness, &self.first.names, &token);
        }

        let (before, ttl) = (lock.remaining(), self.extension.get());
        match lock.extend(ttl).await {
            Ok(()) => {
                assert!(lock.remaining() >= before, "an extension by {ttl:?} shortened the validity");
                assert_not_too_long(lock.remaining(), ttl.max(self.first.ttl.get()), drift);
                assert_held(harness, &self.first.names, &token);
            }
            Err(Error::InvalidRequest(invalid)) => {
                let names = &self.first.names;
                Flaw::of(names, ttl, drift).assert_reported(&invalid, ttl, drift);
                assert_eq!(lock.remaining(), before);
            }
            Err(Error::Lost(_)) => assert!(before.is_zero(), "lost with {before:?} to go"),
            Err(error) => panic!("every node replies, but: {error}"),
        }
        lock
    }

    async fn end(&self, harness: &Harness, redlock: &Redlock, lock: Lock) {
        let valid = lock.is_valid();
        match self.ending {
            Ending::Unlock => {
                let unlocked = lock.unlock().await.expect("every node replies");
                assert!(!valid || unlocked == UnlockOutcome::Released, "it was held");
            }
            Ending::Drop => drop(lock),
            Ending::Kept(millis) => {
                let longest = self.first.longest.map(Span::get);
                let kept = lock.keep_alive();
                harness.runtime.sleep(Duration::from_millis(millis.into())).await;
                assert!(!valid || longest.is_some() || kept.is_valid(), "not kept alive");
                drop(kept);
            }
            Ending::HandedOver => {
                let parts = lock.into_parts();
                match redlock.from_parts(&parts).await {
                    Ok(lock) => drop(lock),
                    Err(error) => assert!(!valid, "it was held: {error}"),
                }
            }
        }
    }
}

impl Asked {
    fn flaw(&self, drift: f64) -> Flaw {
        Flaw::of(&self.names, self.least_ttl(), drift)
    }

    fn least_ttl(&self) -> Duration {
        self.longest.map_or(self.ttl.get(), |longest| longest.get().min(self.ttl.get()))
    }

    /// `None` when it was cancelled.
    async fn request(&self, harness: &Harness, redlock: &Redlock) -> Option<Result<Lock, Error>> {
        let mut request = redlock.lock(&self.names[..], self.ttl.get());
        request = self.retries.apply(request);
        if let Some(wait) = self.wait {
            request = request.acquire_timeout(wait.get());
        }
        if let Some(longest) = self.longest {
            request = request.max_hold(longest.get());
        }
        // At least 1 ms: a request that is cancelled at once sends nothing.
        let patience = Duration::from_millis(u64::from(self.patience).max(1));
        harness.cancel_after(patience, request).await
    }
}

impl Settings {
    fn apply(
        &self,
        mut builder: RedlockBuilder,
        nodes: &[MemoryBackend],
        requested: &RequestedNames,
    ) -> RedlockBuilder {
        for node in nodes {
            let node = if self.one_name { node.clone().with_name("one") } else { node.clone() };
            builder = builder.node(Recorder { node, requested: requested.clone() });
        }
        if let Some(drift) = self.drift {
            builder = builder.drift_factor(drift);
        }
        if let Some(timeout) = self.node_timeout {
            builder = builder.node_timeout(timeout.get());
        }
        self.retries.apply(builder)
    }

    /// Checks that the settings were refused if and only if they are invalid, and for the right reason.
    fn judge(&self, nodes: usize, built: Result<Redlock, ConfigError>) -> Option<Redlock> {
        let drift = self.drift.is_none_or(|drift| (0.0..1.0).contains(&drift));
        let timeout = self.node_timeout.is_none_or(|timeout| timeout.get() > Duration::ZERO);
        let named = !self.one_name || nodes < 2;
        match built {
            Ok(redlock) => {
                assert!(drift && timeout && named && nodes > 0, "built of {self:?} over {nodes} nodes");
                Some(redlock)
            }
            Err(error) => {
                let right = match error {
                    ConfigError::InvalidDriftFactor { .. } => !drift,
                    ConfigError::ZeroNodeTimeout => !timeout,
                    ConfigError::NoNodes => nodes == 0,
                    ConfigError::DuplicateNode { ref name } => !named && name == "one",
                    _ => false,
                };
                assert!(right, "{self:?} over {nodes} nodes is reported as {error:?}");
                None
            }
        }
    }
}

impl Retries {
    fn apply<T: Retrying>(&self, mut to: T) -> T {
        if let Some(count) = self.count {
            to = to.count(count);
        }
        if self.forever {
            to = to.forever();
        }
        if let Some(delay) = self.delay {
            to = to.delay(delay.get());
        }
        if let Some(jitter) = self.jitter {
            to = to.jitter(jitter.get());
        }
        if let Some(delays) = &self.delays {
            to = to.delays(delays.iter().map(|delay| delay.get()).collect());
        }
        to
    }
}

/// The settings that a lock manager and a request have in common.
trait Retrying {
    fn count(self, count: u32) -> Self;
    fn forever(self) -> Self;
    fn delay(self, delay: Duration) -> Self;
    fn jitter(self, jitter: Duration) -> Self;
    fn delays(self, delays: Vec<Duration>) -> Self;
}

macro_rules! retrying {
    ($($of:ty),*) => {$(
        impl Retrying for $of {
            fn count(self, count: u32) -> Self {
                self.retry_count(count)
            }

            fn forever(self) -> Self {
                self.retry_forever()
            }

            fn delay(self, delay: Duration) -> Self {
                self.retry_delay(delay)
            }

            fn jitter(self, jitter: Duration) -> Self {
                self.retry_jitter(jitter)
            }

            fn delays(self, delays: Vec<Duration>) -> Self {
                self.retry_delays(move || delays.clone())
            }
        }
    )*};
}

retrying!(RedlockBuilder, LockRequest);

/// All names that nodes have received.
#[derive(Clone, Debug, Default)]
struct RequestedNames(Arc<Mutex<BTreeSet<String>>>);

#[derive(Debug)]
struct Recorder {
    node: MemoryBackend,
    requested: RequestedNames,
}

impl Recorder {
    fn record(&self, resources: &Resources, ttl: Duration) {
        assert!(
            ttl <= MAX_TTL && ttl.subsec_nanos().is_multiple_of(1_000_000),
            "a node receives the TTL {ttl:?}"
        );
        self.requested.0.lock().expect("nobody panicked").extend(resources.iter().map(ToOwned::to_owned));
    }
}

#[async_trait]
impl LockBackend for Recorder {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.record(request.resources, request.ttl);
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.record(request.resources, request.ttl);
        self.node.extend(request).await
    }

    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        self.record(request.resources, request.ttl);
        self.node.replace(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.record(request.resources, Duration::ZERO);
        self.node.release(request).await
    }

    fn name(&self) -> Option<&str> {
        self.node.name()
    }
}

/// Panics unless a quorum holds each of the names for this token.
fn assert_held(harness: &Harness, names: &[String], token: &Token) {
    for name in names {
        assert!(
            harness.holding(name, token.as_str()) >= harness.quorum(),
            "{name:?} is not held by a quorum"
        );
    }
}

/// By then the background work is done: pending releases have reached the nodes that were down.
const SETTLED: Duration = Duration::from_secs(3_600);
