//! Names, ttls and settings, whatever they are, on nodes in memory and a simulated clock.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use arbitrary::{Arbitrary, Unstructured};
use redlock_core::{
    Acquire, AcquireReply, BackendError, ConfigError, Error, Extend, Lock, LockBackend, LockRequest, MAX_TTL,
    MemoryBackend, Redlock, RedlockBuilder, Release, ReleaseReply, Replace, Resources, Runtime,
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
    /// Of these, who is down while the first lock is asked for.
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
    for_ever: bool,
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
    /// In ms: when the request, or the wait for what is held, is given up.
    patience: u8,
}

/// How the first lock ends.
#[derive(Arbitrary, Debug)]
enum Ending {
    Unlock,
    Drop,
    /// Extended by a task for so many ms.
    Kept(u8),
    HandedOver,
}

/// A length of time: one that locks have, or any.
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
        let heard = Heard::default();
        let builder = Redlock::builder(harness.runtime.clone()).entropy(harness.sim.entropy());
        let built = self.settings.apply(builder, &harness.nodes, &heard).build();
        let Some(redlock) = self.settings.judge(harness.nodes.len(), built) else { return };
        harness.sim.run(self.act(&harness, &redlock));
        harness.assert_at_rest();

        let asked: BTreeSet<&String> = self.first.names.iter().chain(&self.second.names).collect();
        for name in heard.0.lock().expect("nobody panicked").iter() {
            assert!(asked.contains(name), "{name:?} was locked, and nobody asked for it");
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
                for name in &self.first.names {
                    assert!(
                        harness.holding(name, lock.token().as_str()) >= harness.quorum(),
                        "{name:?} is not locked"
                    );
                }
                Some(lock)
            }
            Some(Err(Error::InvalidRequest(told))) => {
                flaw.assert_told(&told, self.first.least_ttl(), drift);
                assert_eq!(harness.runtime.elapsed(), start, "it took time to refuse");
                assert!(
                    harness.nodes.iter().all(|node| node.requests() == 0),
                    "a node was asked all the same"
                );
                None
            }
            Some(Err(Error::NoQuorum(_))) | None => {
                assert!(
                    on.len() < harness.quorum(),
                    "not won, with {} of {} nodes",
                    on.len(),
                    harness.nodes.len()
                );
                None
            }
            Some(Err(error)) => panic!("nobody else is after it: {error}"),
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

    /// While the lock is held: somebody else's request, and an extension.
    async fn use_it(&self, harness: &Harness, redlock: &Redlock, mut lock: Lock, drift: f64) -> Lock {
        let token = lock.token().clone();
        let other = self.second.request(harness, redlock).await;
        let valid = lock.is_valid();
        let shared = self.second.names.iter().any(|name| self.first.names.contains(name));
        match other {
            Some(Ok(other)) => {
                assert_eq!(self.second.flaw(drift), Flaw::Nothing);
                assert!(!(shared && valid), "{:?} is locked twice", self.second.names);
                for name in &self.second.names {
                    assert!(
                        harness.holding(name, other.token().as_str()) >= harness.quorum(),
                        "{name:?} is not locked"
                    );
                }
                let unlocked = other.unlock().await.expect("every node answers");
                assert_eq!(unlocked, UnlockOutcome::Released);
            }
            Some(Err(Error::InvalidRequest(told))) => {
                self.second.flaw(drift).assert_told(&told, self.second.least_ttl(), drift);
            }
            Some(Err(Error::Contended(report))) => {
                assert!(shared, "{:?} is refused for {:?}", self.second.names, self.first.names);
                assert_eq!(report.resources.as_slice(), self.second.names);
            }
            Some(Err(error)) => panic!("every node answers, but: {error}"),
            None => assert!(shared, "{:?} waits for {:?}", self.second.names, self.first.names),
        }
        if lock.is_valid() {
            for name in &self.first.names {
                assert!(harness.holding(name, token.as_str()) >= harness.quorum(), "{name:?} is lost");
            }
        }

        let (before, ttl) = (lock.remaining(), self.extension.get());
        match lock.extend(ttl).await {
            Ok(()) => {
                assert!(lock.remaining() >= before, "an extension by {ttl:?} took time away");
                assert_not_too_long(lock.remaining(), ttl.max(self.first.ttl.get()), drift);
                for name in &self.first.names {
                    assert!(
                        harness.holding(name, token.as_str()) >= harness.quorum(),
                        "{name:?} is not extended"
                    );
                }
            }
            Err(Error::InvalidRequest(told)) => {
                let names = &self.first.names;
                Flaw::of(names, ttl, drift).assert_told(&told, ttl, drift);
                assert_eq!(lock.remaining(), before);
            }
            Err(Error::Lost(_)) => assert!(before.is_zero(), "lost with {before:?} to go"),
            Err(error) => panic!("every node answers, but: {error}"),
        }
        lock
    }

    async fn end(&self, harness: &Harness, redlock: &Redlock, lock: Lock) {
        let valid = lock.is_valid();
        match self.ending {
            Ending::Unlock => {
                let unlocked = lock.unlock().await.expect("every node answers");
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

    /// None when it was given up.
    async fn request(&self, harness: &Harness, redlock: &Redlock) -> Option<Result<Lock, Error>> {
        let mut request = redlock.lock(&self.names[..], self.ttl.get());
        request = self.retries.apply(request);
        if let Some(wait) = self.wait {
            request = request.acquire_timeout(wait.get());
        }
        if let Some(longest) = self.longest {
            request = request.max_hold(longest.get());
        }
        // Some time: who has no patience at all does not even ask.
        let patience = Duration::from_millis(u64::from(self.patience).max(1));
        harness.cancel_after(patience, request).await
    }
}

impl Settings {
    fn apply(&self, mut builder: RedlockBuilder, nodes: &[MemoryBackend], heard: &Heard) -> RedlockBuilder {
        for node in nodes {
            let node = if self.one_name { node.clone().with_name("one") } else { node.clone() };
            builder = builder.node(Listener { node, heard: heard.clone() });
        }
        if let Some(drift) = self.drift {
            builder = builder.drift_factor(drift);
        }
        if let Some(timeout) = self.node_timeout {
            builder = builder.node_timeout(timeout.get());
        }
        self.retries.apply(builder)
    }

    /// Whether the settings should have been refused, and were. What is refused is told in words.
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
                assert!(right, "{self:?} over {nodes} nodes is told as {error:?}");
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
        if self.for_ever {
            to = to.for_ever();
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

/// What a lock manager and a request have in common.
trait Retrying {
    fn count(self, count: u32) -> Self;
    fn for_ever(self) -> Self;
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

            fn for_ever(self) -> Self {
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

/// All names that nodes were asked about.
#[derive(Clone, Debug, Default)]
struct Heard(Arc<Mutex<BTreeSet<String>>>);

#[derive(Debug)]
struct Listener {
    node: MemoryBackend,
    heard: Heard,
}

impl Listener {
    fn hear(&self, resources: &Resources, ttl: Duration) {
        assert!(
            ttl <= MAX_TTL && ttl.subsec_nanos().is_multiple_of(1_000_000),
            "a node is asked for {ttl:?}"
        );
        self.heard.0.lock().expect("nobody panicked").extend(resources.iter().map(ToOwned::to_owned));
    }
}

#[async_trait]
impl LockBackend for Listener {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.hear(request.resources, request.ttl);
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.hear(request.resources, request.ttl);
        self.node.extend(request).await
    }

    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        self.hear(request.resources, request.ttl);
        self.node.replace(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.hear(request.resources, Duration::ZERO);
        self.node.release(request).await
    }

    fn name(&self) -> Option<&str> {
        self.node.name()
    }
}

/// All that was going on in the background is done: nodes that were down have been asked again.
const SETTLED: Duration = Duration::from_secs(3_600);
