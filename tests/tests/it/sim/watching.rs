//! Waiting for a lock of another process, which the nodes report to be free.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, LockBackend, MemoryBackend, Redlock,
    Release, ReleaseReply, Runtime as _, Watch, async_trait,
};
use redlock_tests::harness::{Harness, attempts, ms, s};

const TTL: Duration = Duration::from_secs(60);
/// Longer than any test takes: who gets the lock before has been woken.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// A manager of another process, which waits for a report and no delay.
fn waiter(harness: &Harness) -> Redlock {
    harness.builder().retry_delay(NEVER).retry_jitter(s(0)).retry_count(1).build().unwrap()
}

/// Lets a node's requests and replies take their time.
fn slow_down(harness: &Harness, one_way: Duration) {
    for node in &harness.nodes {
        node.delay_requests(one_way);
        node.delay_replies(one_way);
    }
}

#[test]
fn a_waiter_is_woken_by_the_release_of_another_process_and_uses_up_no_retry() {
    for nodes in [1, 3, 5] {
        let harness = Harness::new(nodes);
        let (holder, waiter) = (harness.redlock(), waiter(&harness));
        harness.run(async {
            for _ in 0..3 {
                let lock = holder.lock("x", TTL).await.unwrap();
                let released = async {
                    harness.sleep(1_000).await;
                    lock.unlock().await.unwrap();
                };
                let ((lock, took), ()) = tokio::join!(harness.timed(waiter.lock("x", TTL)), released);
                assert_eq!(took, s(1));
                let lock = lock.unwrap();
                assert_eq!(lock.attempts(), 2);
                lock.unlock().await.unwrap();
                // Who comes back at once looks before it tries.
                harness.sleep(1_000).await;
            }
        });
        harness.assert_at_rest();
    }
}

#[test]
fn a_waiter_is_woken_by_an_expiry_and_by_anybodys_deletion() {
    let harness = Harness::new(3);
    let (holder, waiter) = (harness.redlock(), waiter(&harness));
    harness.run(async {
        holder.lock("x", s(5)).await.unwrap().forget();
        let (lock, took) = harness.timed(waiter.lock("x", TTL)).await;
        assert_eq!((lock.unwrap().attempts(), took), (2, s(5)));
        harness.sleep(1_000).await;

        holder.lock("x", TTL).await.unwrap().forget();
        let flushed = async {
            harness.sleep(1_000).await;
            harness.nodes[0].clear();
            harness.sleep(1_000).await;
            harness.nodes[2].remove("x");
        };
        let ((lock, took), ()) = tokio::join!(harness.timed(waiter.lock("x", TTL)), flushed);
        // One that loses waits for a moment of its own before the next.
        assert!((s(2)..s(2) + ms(2)).contains(&took), "when a quorum is free: {took:?}");
        assert_eq!(lock.unwrap().attempts(), 3, "and once too early");
    });
}

#[test]
fn a_wait_for_several_resources_ends_when_all_are_free() {
    let harness = Harness::new(3);
    let (holder, waiter) = (harness.redlock(), waiter(&harness));
    harness.run(async {
        let (x, y) = (holder.lock("x", TTL).await.unwrap(), holder.lock("y", TTL).await.unwrap());
        let released = async {
            harness.sleep(1_000).await;
            x.unlock().await.unwrap();
            harness.sleep(1_000).await;
            y.unlock().await.unwrap();
        };
        let ((lock, took), ()) = tokio::join!(harness.timed(waiter.lock(["x", "y"], TTL)), released);
        assert_eq!((lock.unwrap().attempts(), took), (2, s(2)));
    });
}

#[test]
fn a_silent_or_dead_minority_keeps_no_report_back() {
    for fails in [MemoryBackend::stop, MemoryBackend::shut_down] {
        for node in 0..3 {
            let harness = Harness::new(3);
            let (holder, waiter) = (harness.redlock(), waiter(&harness));
            harness.run(async {
                let lock = holder.lock("x", TTL).await.unwrap();
                fails(&harness.nodes[node]);
                let released = async {
                    harness.sleep(10_000).await;
                    lock.unlock().await.unwrap();
                };
                let ((lock, took), ()) = tokio::join!(harness.timed(waiter.lock("x", TTL)), released);
                assert_eq!((lock.unwrap().attempts(), took), (2, s(10)));
            });
        }
    }
}

#[test]
fn a_waiter_that_is_dropped_or_gives_up_leaves_no_watch() {
    let harness = Harness::new(3);
    let (holder, waiter) = (harness.redlock(), waiter(&harness));
    harness.run(async {
        let lock = holder.lock("x", TTL).await.unwrap();
        assert!(harness.cancel_after(s(1), waiter.lock("x", TTL)).await.is_none());
        harness.sleep(10_000).await;
        let (gave_up, took) = harness.timed(waiter.lock("x", TTL).acquire_timeout(s(2))).await;
        assert_eq!((attempts(&gave_up.unwrap_err()), took <= s(2)), (2, true));
        lock.unlock().await.unwrap();
        harness.sleep(10_000).await;
    });
    harness.assert_at_rest();
    harness.assert_free("x");
}

/// A node in memory with reports of its own.
#[derive(Clone, Debug)]
struct Reporting {
    node: MemoryBackend,
    reports: Reports,
    watches: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reports {
    Lost,
    Rejected,
    /// Although nothing has changed.
    AtOnce,
    Panics,
}

#[async_trait]
impl LockBackend for Reporting {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.node.release(request).await
    }

    async fn watch(&self, _: Watch<'_>) -> Result<(), BackendError> {
        self.watches.fetch_add(1, Ordering::Relaxed);
        match self.reports {
            Reports::Lost => std::future::pending().await,
            Reports::Rejected => Err(BackendError::new(BackendErrorKind::Rejected, "no watches")),
            Reports::AtOnce => Ok(()),
            Reports::Panics => panic!("on purpose"),
        }
    }
}

/// With such reports: how long a waiter took for a lock that was held for 1 s more, its attempts, and how
/// often a node was asked to watch.
fn with_reports(reports: Reports) -> (Duration, u32, usize) {
    let harness = Harness::new(3);
    slow_down(&harness, ms(1));
    let watches = Arc::new(AtomicUsize::new(0));
    let holder = harness.redlock();
    let waiter = harness.redlock_over(|node| Reporting { node, reports, watches: watches.clone() });
    let (took, attempts) = harness.run(async {
        let lock = holder.lock("x", TTL).await.unwrap();
        let released = async {
            harness.sleep(1_000).await;
            lock.unlock().await.unwrap();
        };
        let ((lock, took), ()) = tokio::join!(harness.timed(waiter.lock("x", TTL).retry_forever()), released);
        (took, lock.unwrap().attempts())
    });
    (took, attempts, watches.load(Ordering::Relaxed))
}

#[test]
fn without_reports_the_delay_serves() {
    for reports in [Reports::Lost, Reports::Rejected, Reports::Panics] {
        let (took, attempts, watches) = with_reports(reports);
        assert!(took < ms(1_320), "{reports:?}: {took:?}");
        assert!(attempts <= 8, "{reports:?}: {attempts}");
        assert!(watches <= 3 * 8, "{reports:?}: {watches}");
    }
}

#[test]
fn reports_that_are_wrong_again_and_again_cost_a_bounded_number_of_rounds() {
    let (took, attempts, _) = with_reports(Reports::AtOnce);
    assert!(took < ms(1_320), "{took:?}");
    assert!(attempts < 60, "{attempts} in a second");
}

/// How many rounds `clients` of one resource need for each success, and in what time, on average, they pass
/// it on. Each is a process of its own.
fn contention(seed: u64, clients: usize, hold: Duration, one_way: Duration) -> (f64, Duration) {
    let harness = Harness::seeded(seed, 3);
    slow_down(&harness, one_way);
    let clients: Vec<Redlock> = (0..clients).map(|_| harness.redlock()).collect();
    let turns = clients.len() as u32 * TURNS;
    let held = AtomicUsize::new(0);
    let ((rounds, took), held) = harness.run(async {
        let client = |redlock: &Redlock| {
            let (redlock, harness, held) = (redlock.clone(), &harness, &held);
            async move {
                let mut rounds = 0;
                for _ in 0..TURNS {
                    let lock = redlock.lock("x", TTL).retry_forever().await.unwrap();
                    assert_eq!(held.fetch_add(1, Ordering::Relaxed), 0, "two have it");
                    harness.runtime.sleep(hold).await;
                    held.fetch_sub(1, Ordering::Relaxed);
                    rounds += lock.attempts();
                    lock.unlock().await.unwrap();
                    // Others are faster than who comes back.
                    harness.runtime.sleep(PAUSE).await;
                }
                rounds
            }
        };
        let all = futures_util::future::join_all(clients.iter().map(client));
        let (rounds, took) = harness.timed(all).await;
        ((rounds.into_iter().sum::<u32>(), took), held.load(Ordering::Relaxed))
    });
    assert_eq!(held, 0);
    (f64::from(rounds) / f64::from(turns), took / turns)
}

const TURNS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(3);

#[test]
fn many_clients_of_one_resource_neither_stampede_nor_sleep() {
    for seed in 0..3 {
        for (clients, one_way) in [(2, 100), (4, 100), (16, 100), (16, 1_000)] {
            let one_way = Duration::from_micros(one_way);
            let (rounds, each) = contention(seed, clients, ms(1), one_way);
            assert!(rounds < 3.0, "{clients} clients, {one_way:?}: {rounds} rounds for each success");
            assert!(
                each < ms(1) + PAUSE / clients as u32 + 8 * one_way,
                "{clients} clients, {one_way:?}: {each:?}"
            );
        }
    }
}
