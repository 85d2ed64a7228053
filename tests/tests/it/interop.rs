//! One lock, seen through this library and through other clients on the same servers: each respects the
//! other.
//!
//! The scenarios are here; the other clients are in `bare.rs`, `rslock.rs` and `node.rs`.

mod bare;
mod node;
mod rslock;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use redlock_redis_rs::{Error, Lock, Redlock, UnlockOutcome, async_trait};
use redlock_tests::{
    adapter::Adapter,
    server::{Server, eventually},
};

/// A client of another implementation.
#[async_trait]
pub(crate) trait Other: Send + Sync {
    /// One attempt to lock all resources. Returns a number that identifies the lock, if it was granted.
    async fn lock(&self, resources: &[&str], ttl: Duration) -> Option<u64>;

    /// Whether a quorum confirmed it.
    async fn extend(&self, lock: u64, ttl: Duration) -> bool;

    async fn unlock(&self, lock: u64);
}

/// Every scenario runs with both adapters.
pub(crate) const ADAPTERS: [Adapter; 2] = [Adapter::RedisRs, Adapter::Fred];

/// Three servers, and the adapter that connects to them.
pub(crate) struct Harness {
    pub(crate) servers: Vec<Server>,
    adapter: Adapter,
}

impl Harness {
    pub(crate) fn new(adapter: Adapter) -> Self {
        Self { servers: Server::start_some(3), adapter }
    }

    /// A lock manager of ours, with a node timeout that tolerates a busy machine.
    pub(crate) fn ours(&self) -> Redlock {
        self.adapter
            .manager(&self.servers)
            .node_timeout(SOON)
            .retry_delay(Duration::from_millis(20))
            .retry_jitter(Duration::from_millis(15))
            .build()
            .unwrap()
    }

    fn values(&self, key: &str) -> Vec<Option<Vec<u8>>> {
        self.servers.iter().map(|server| server.command(&["GET", key])).collect()
    }

    /// The value that a quorum of the servers stores at a key.
    pub(crate) fn holder(&self, key: &str) -> Option<Vec<u8>> {
        let values = self.values(key);
        let count = |value: &Option<Vec<u8>>| values.iter().filter(|other| *other == value).count();
        values.iter().find(|value| value.is_some() && count(value) >= 2).cloned().flatten()
    }

    /// Whether soon no server stores any other value than this at a key.
    pub(crate) async fn has_only(&self, key: &str, value: Option<&[u8]>) -> bool {
        let fits = |found: Option<Vec<u8>>| found.is_none() || found.as_deref() == value;
        eventually(SOON, || self.values(key).into_iter().all(fits)).await
    }
}

/// The tests of one implementation, `$connect` to the servers.
macro_rules! respects_and_is_respected {
    ($connect:expr) => {
        $crate::interop::respects_and_is_respected! { $connect =>
            their_lock_is_contended_at_once_and_we_leave_no_keys
            they_fail_to_acquire_our_lock
            several_resources_are_all_or_nothing_both_ways
            a_lapsed_lock_can_be_acquired_and_a_late_unlock_leaves_the_new_one_alone
            no_update_is_lost_between_three_of_ours_and_three_of_theirs
        }
    };
    ($connect:expr => $($scenario:ident)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $scenario() {
            for adapter in $crate::interop::ADAPTERS {
                let harness = $crate::interop::Harness::new(adapter);
                let theirs: std::sync::Arc<dyn $crate::interop::Other> = std::sync::Arc::new(($connect)(&harness.servers).await);
                $crate::interop::$scenario(&harness, theirs).await;
            }
        }
    )* };
}
pub(crate) use respects_and_is_respected;

pub(crate) async fn their_lock_is_contended_at_once_and_we_leave_no_keys(
    harness: &Harness,
    theirs: Arc<dyn Other>,
) {
    let ours = harness.ours();
    let held = theirs.lock(&["a"], TTL).await.expect("nobody holds it");
    assert!(eventually(SOON, || harness.holder("a").is_some()).await);
    let value = harness.holder("a");

    for attempt in 0..10 {
        let start = Instant::now();
        let refused = ours.try_lock("a", TTL).await.unwrap_err();
        assert!(matches!(&refused, Error::Contended(report) if report.attempts == 1), "{refused}");
        assert!(start.elapsed() < SOON / 2, "it waited: {:?}", start.elapsed());
        assert!(theirs.extend(held, TTL).await, "after attempt {attempt}");
    }
    assert!(harness.has_only("a", value.as_deref()).await, "we left something");
    assert_eq!(harness.holder("a"), value, "their key was touched");

    theirs.unlock(held).await;
    let lock = soon(&ours, "a").await;
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

pub(crate) async fn they_fail_to_acquire_our_lock(harness: &Harness, theirs: Arc<dyn Other>) {
    let mut lock = harness.ours().lock("a", TTL).await.unwrap();
    let token = lock.token().as_str().as_bytes().to_vec();

    let stop = Arc::new(AtomicBool::new(false));
    let pressing = tokio::spawn({
        let (theirs, stop) = (theirs.clone(), stop.clone());
        async move {
            let mut attempts = 0;
            while attempts < 10 || !stop.load(Ordering::SeqCst) {
                assert_eq!(theirs.lock(&["a"], TTL).await, None, "attempt {attempts}");
                attempts += 1;
            }
        }
    });
    for round in 2..=10 {
        lock.extend(TTL * round).await.unwrap();
        assert!(lock.remaining() > TTL * (round - 1), "{:?}", lock.remaining());
    }
    stop.store(true, Ordering::SeqCst);
    pressing.await.unwrap();
    assert!(harness.has_only("a", Some(&token)).await, "they left something");
    assert_eq!(harness.holder("a"), Some(token), "our key was touched");

    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    let held = they_soon(&*theirs, "a").await;
    assert!(harness.ours().try_lock("a", TTL).await.is_err());
    theirs.unlock(held).await;
    assert!(harness.has_only("a", None).await);
}

pub(crate) async fn several_resources_are_all_or_nothing_both_ways(
    harness: &Harness,
    theirs: Arc<dyn Other>,
) {
    let ours = harness.ours();
    for names in [["a", "b"], ["b", "a"]] {
        let held = theirs.lock(&names, TTL).await.expect("nobody holds them");
        for overlapping in [["b", "c"], ["c", "a"], ["a", "b"], ["b", "a"]] {
            let refused = ours.try_lock(overlapping, TTL).await.unwrap_err();
            assert!(matches!(refused, Error::Contended(_)), "{names:?}, {overlapping:?}: {refused}");
        }
        assert!(harness.has_only("c", None).await, "{names:?}: we left something");
        let beside = ours.try_lock(["d", "c"], TTL).await.unwrap();
        assert!(theirs.extend(held, TTL).await, "{names:?}");
        theirs.unlock(held).await;
        assert_eq!(beside.unlock().await.unwrap(), UnlockOutcome::Released);

        let lock = soon(&ours, names).await;
        let token = lock.token().as_str().as_bytes();
        for overlapping in [&["b", "c"][..], &["c", "a"], &["a", "b"], &["b", "a"], &["b"]] {
            assert_eq!(theirs.lock(overlapping, TTL).await, None, "{names:?}, {overlapping:?}");
        }
        assert!(harness.has_only("c", None).await, "{names:?}: they left something");
        for name in names {
            assert_eq!(harness.holder(name).as_deref(), Some(token), "{names:?}");
        }
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        for name in ["a", "b", "c", "d"] {
            assert!(harness.has_only(name, None).await, "{name} is left");
        }
    }
}

pub(crate) async fn a_lapsed_lock_can_be_acquired_and_a_late_unlock_leaves_the_new_one_alone(
    harness: &Harness,
    theirs: Arc<dyn Other>,
) {
    let ours = harness.ours();
    let start = Instant::now();
    let late = theirs.lock(&["a"], SHORT).await.expect("nobody holds it");
    let lock = soon(&ours, "a").await;
    assert!(start.elapsed() > SHORT - CLOCK, "their TTL was cut to {:?}", start.elapsed());
    let token = lock.token().as_str().as_bytes().to_vec();
    theirs.unlock(late).await;
    assert_eq!(harness.holder("a"), Some(token), "their late unlock removed our key");
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);

    let start = Instant::now();
    let late = soon_for(&ours, "a", SHORT).await;
    let held = they_soon(&*theirs, "a").await;
    assert!(start.elapsed() > SHORT - CLOCK, "our TTL was cut to {:?}", start.elapsed());
    assert!(!late.is_valid());
    let value = harness.holder("a");
    assert!(value.is_some());
    assert_eq!(late.unlock().await.unwrap(), UnlockOutcome::NotHeld);
    assert_eq!(harness.holder("a"), value, "our late unlock removed their key");
    assert!(theirs.extend(held, TTL).await);
    theirs.unlock(held).await;
}

pub(crate) async fn no_update_is_lost_between_three_of_ours_and_three_of_theirs(
    harness: &Harness,
    theirs: Arc<dyn Other>,
) {
    let counter = Arc::new(Counter::default());
    let mut tasks = Vec::new();
    for _ in 0..CONTENDERS {
        let (ours, account) = (harness.ours(), counter.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                let mut lock = soon(&ours, "counter").await;
                account.update().await;
                if round % 2 == 0 {
                    lock.extend(TTL).await.unwrap();
                    account.update().await;
                }
                assert!(lock.is_valid());
                assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
            }
        }));
        let (theirs, account) = (theirs.clone(), counter.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                let held = they_soon(&*theirs, "counter").await;
                account.update().await;
                if round % 2 == 0 {
                    assert!(theirs.extend(held, TTL).await);
                    account.update().await;
                }
                theirs.unlock(held).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let updates = 2 * CONTENDERS * (ROUNDS + ROUNDS / 2);
    assert_eq!(counter.value.load(Ordering::SeqCst), updates, "an update was lost");
}

/// What the lock guards: a counter that loses overlapping updates, and detects them.
#[derive(Default)]
struct Counter {
    value: AtomicU32,
    busy: AtomicBool,
}

impl Counter {
    async fn update(&self) {
        assert!(!self.busy.swap(true, Ordering::SeqCst), "two hold the lock");
        let seen = self.value.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.value.store(seen + 1, Ordering::SeqCst);
        self.busy.store(false, Ordering::SeqCst);
    }
}

/// Our lock, once it is free.
pub(crate) async fn soon(ours: &Redlock, resources: impl Into<redlock_redis_rs::Resources>) -> Lock {
    soon_for(ours, resources, TTL).await
}

async fn soon_for(ours: &Redlock, resources: impl Into<redlock_redis_rs::Resources>, ttl: Duration) -> Lock {
    ours.lock(resources, ttl).retry_forever().acquire_timeout(LONG).await.unwrap()
}

/// Their lock, once it is free.
async fn they_soon(theirs: &dyn Other, resource: &str) -> u64 {
    let start = Instant::now();
    let mut delay = Duration::from_millis(5);
    loop {
        if let Some(lock) = theirs.lock(&[resource], TTL).await {
            return lock;
        }
        assert!(start.elapsed() < LONG, "they never got it");
        // Unequal delays, so that clients that collided do not collide again.
        delay = Duration::from_millis(5 + (delay.as_millis() as u64 * 7 + 3) % 31);
        tokio::time::sleep(delay).await;
    }
}

/// So long that no key expires during a test.
pub(crate) const TTL: Duration = Duration::from_secs(60);
/// So short that a test can wait for it.
const SHORT: Duration = Duration::from_secs(1);
/// By how much the servers' clocks may differ from ours.
const CLOCK: Duration = Duration::from_millis(50);
/// For work in the background.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// For a lock with many contenders.
const LONG: Duration = Duration::from_secs(120);
const CONTENDERS: u32 = 3;
const ROUNDS: u32 = 10;
