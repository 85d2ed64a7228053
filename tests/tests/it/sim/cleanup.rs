//! Pending releases: the node was down or silent, or its reply left the outcome unknown.

use std::{
    fmt, mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redlock_core::{BackendErrorKind, BoxFuture, Redlock, Runtime, UnlockOutcome};
use redlock_tests::{
    harness::{Harness, ms, s},
    sim_runtime::SimRuntime,
};

use crate::sim::odd_nodes::{Buffered, LateReleases, Overtaking, Stubborn};

#[test]
fn a_node_that_fails_a_release_is_retried_until_it_works() {
    for kind in [BackendErrorKind::Indeterminate, BackendErrorKind::Transient] {
        let harness = Harness::new(3);
        harness.run(async {
            let lock = harness.redlock().lock("x", s(30)).await.unwrap();
            harness.nodes[1].fail_next(3, kind);
            assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
            assert!(harness.nodes[1].get("x").is_some());
            harness.sleep(10_000).await;
            harness.assert_free("x");
            assert_eq!(harness.nodes[1].requests(), 1 + 3 + 1);
        });
        harness.assert_at_rest();
    }
}

#[test]
fn a_node_that_rejects_a_release_is_retried_slowly_until_it_is_repaired() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = harness.redlock().lock("x", s(30)).await.unwrap();
        harness.nodes[1].fail_next(8, BackendErrorKind::Rejected);
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        harness.sleep(7_900).await;
        assert!(harness.nodes[1].get("x").is_some());
        assert!(harness.nodes[1].requests() <= 2 + 7, "{}: about one a second", harness.nodes[1].requests());
        harness.sleep(3_000).await;
        harness.assert_free("x");
        assert_eq!(harness.nodes[1].requests(), 1 + 8 + 1);
    });
    harness.assert_at_rest();
}

#[test]
fn a_node_that_rejects_a_pending_release_is_left_alone_when_the_keys_have_expired() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = harness.redlock().lock("x", s(10)).await.unwrap();
        harness.nodes[1].fail_next(1, BackendErrorKind::Indeterminate);
        lock.unlock().await.unwrap();
        harness.nodes[1].fail_next(100, BackendErrorKind::Rejected);
        harness.sleep(30_000).await;
        assert!((8..=13).contains(&harness.nodes[1].requests()), "{}", harness.nodes[1].requests());
    });
    harness.assert_at_rest();
}

#[test]
fn a_node_that_stays_down_is_retried_less_and_less_often() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = harness.redlock().lock("x", s(2)).await.unwrap();
        harness.nodes[1].shut_down();
        lock.unlock().await.unwrap();
        harness.sleep(10_000).await;
        // After 100 ms, then after another 100, 200, 400 and 800.
        assert_eq!(harness.nodes[1].requests(), 2 + 5);
    });
}

#[test]
fn releases_that_time_out_are_given_up_after_a_ttl() {
    let harness = Harness::new(3);
    harness.run(async {
        let runtime = harness.runtime.clone();
        let redlock = harness.redlock_over(|node| LateReleases { node, runtime: runtime.clone() });
        let lock = redlock.lock("x", s(20)).await.unwrap();
        lock.unlock().await.unwrap_err();
        harness.sleep(30_000).await;
        // At most one a second, after the first few.
        assert!(harness.requests().iter().all(|requests| *requests < 1 + 25), "{:?}", harness.requests());
    });
    harness.assert_at_rest();
}

/// The node runs the release before its acquire, although it was sent after it, and replies to it later.
#[test]
fn a_release_that_overtook_its_acquire_is_retried_whichever_reply_comes_first() {
    for answer_delay in [ms(0), ms(50)] {
        let harness = Harness::new(3);
        harness.run(async {
            for node in &harness.nodes[1..] {
                node.set("x", "other", s(1));
            }
            let runtime = harness.runtime.clone();
            let redlock =
                harness.redlock_over(|node| Overtaking { node, runtime: runtime.clone(), answer_delay });
            redlock.try_lock("x", s(60)).await.unwrap_err();
            harness.sleep(20).await;
            assert!(harness.nodes[0].get("x").is_some(), "the acquire came after its release");
            harness.sleep(5_000).await;
            harness.assert_free("x");
        });
        harness.assert_at_rest();
    }
}

/// A server that is stopped for longer than the TTL, with acquires in its buffers that take effect at last,
/// after the releases of the next connection.
#[test]
fn an_acquire_that_comes_out_of_a_stopped_server_after_its_ttl_is_removed() {
    for outage in [s(10), s(30)] {
        let harness = Harness::new(3);
        harness.run(async {
            let (runtime, end) = (harness.runtime.clone(), harness.now() + outage);
            let redlock = harness.redlock_over(|node| Buffered { node, runtime: runtime.clone(), end });
            redlock.try_lock("x", s(4)).await.unwrap_err();
            runtime.sleep(end - harness.now() + ms(1)).await;
            assert!(harness.nodes[0].get("x").is_some(), "it has come out");
            harness.sleep(1_500).await;
            harness.assert_free("x");
            harness.sleep(10_000).await;
        });
        harness.assert_at_rest();
    }
}

#[test]
fn a_node_that_never_comes_back_is_not_retried_forever() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        harness.nodes[0].shut_down();
        redlock.lock("x", s(4)).await.unwrap().unlock().await.unwrap();
        harness.sleep(60_000).await;
        let asked = harness.nodes[0].requests();
        assert!(asked < 60, "{asked}: at most one a second");
        harness.sleep(60_000).await;
        assert_eq!(harness.nodes[0].requests(), asked);
    });
    harness.assert_at_rest();
}

#[test]
fn a_pending_release_with_a_long_ttl_does_not_keep_a_short_one_waiting() {
    let harness = Harness::new(3);
    harness.run(async {
        let long = harness.redlock().lock("long", s(3_600)).await.unwrap();
        let short = harness.redlock().lock("short", s(30)).await.unwrap();
        harness.nodes[0].fail_next(2, BackendErrorKind::Indeterminate);
        long.unlock().await.unwrap();
        short.unlock().await.unwrap();
        harness.sleep(5_000).await;
        harness.assert_free("short");
        harness.assert_free("long");
    });
    harness.assert_at_rest();
}

#[test]
fn the_pending_releases_of_an_extended_lock_are_kept_as_long_as_the_extended_keys_live() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(1)).await.unwrap();
        lock.extend(s(60)).await.unwrap();
        harness.nodes[0].shut_down();
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        harness.sleep(10_000).await;
        harness.nodes[0].start();
        harness.sleep(2_000).await;
        harness.assert_free("x");
    });
    harness.assert_at_rest();
}

#[test]
fn a_pending_release_that_always_fails_does_not_keep_the_others_waiting() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock_over(Stubborn);
        let [bad, good] =
            [redlock.lock("stubborn", s(60)).await.unwrap(), redlock.lock("x", s(60)).await.unwrap()];
        bad.unlock().await.unwrap_err();
        harness.nodes.iter().for_each(|node| node.fail_next(1, BackendErrorKind::Indeterminate));
        good.unlock().await.unwrap_err();
        harness.sleep(10_000).await;
        harness.assert_free("x");
        assert!(harness.nodes[0].get("stubborn").is_some());
    });
}

#[test]
fn a_node_has_no_more_than_a_thousand_or_so_pending_releases() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        harness.nodes[0].shut_down();
        for number in 0..1_100 {
            redlock.lock(format!("{number}"), s(3_600)).await.unwrap().unlock().await.unwrap();
        }
        let before = harness.nodes[0].requests();
        harness.nodes[0].start();
        harness.sleep(10_000).await;
        assert_eq!(harness.nodes[0].requests() - before, 1_024);
    });
    harness.assert_at_rest();
}

#[test]
fn pending_releases_of_a_dropped_or_stalled_task_are_taken_over_by_the_next() {
    for stands_still in [false, true] {
        let harness = Harness::new(3);
        let idle = Idle { runtime: harness.runtime.clone(), idle: Arc::default(), shelf: Arc::default() };
        harness.run(async {
            let redlock = Redlock::builder(idle.clone()).nodes(harness.nodes.clone()).build().unwrap();
            let [first, second] =
                [redlock.lock("a", s(60)).await.unwrap(), redlock.lock("b", s(60)).await.unwrap()];
            harness.nodes[0].fail_next(2, BackendErrorKind::Indeterminate);
            idle.idle.store(true, Ordering::Relaxed);
            first.unlock().await.unwrap();
            idle.idle.store(false, Ordering::Relaxed);
            let mut shelf = mem::take(&mut *idle.shelf.lock().unwrap());
            if stands_still {
                harness.sleep(10_000).await;
            } else {
                shelf.clear();
            }
            second.unlock().await.unwrap();
            harness.sleep(5_000).await;
            harness.assert_free("a");
            harness.assert_free("b");
            let requests = harness.requests();
            shelf.into_iter().for_each(|task| harness.runtime.spawn(task));
            harness.sleep(5_000).await;
            assert_eq!(harness.requests(), requests, "what goes on finds nothing to do");
        });
    }
}

#[test]
fn pending_releases_that_expire_one_after_the_other_do_not_keep_a_later_one_waiting() {
    for offset in (0..1_000).step_by(100) {
        let harness = Harness::new(3);
        harness.run(async {
            let redlock = harness.redlock();
            let long = redlock.lock("long", s(60)).await.unwrap();
            harness.nodes[1].shut_down();
            for number in 0..40 {
                redlock.lock(format!("{number}"), s(3)).await.unwrap().unlock().await.unwrap();
                harness.sleep(400).await;
            }
            harness.sleep(offset).await;
            long.unlock().await.unwrap();
            harness.nodes[1].start();
            // The pause after the last failure.
            harness.sleep(1_100).await;
            harness.assert_free("long");
        });
    }
}

/// A runtime that may not run the tasks spawned on it, like one that nobody drives.
#[derive(Clone)]
struct Idle {
    runtime: SimRuntime,
    idle: Arc<AtomicBool>,
    shelf: Arc<Mutex<Vec<BoxFuture<()>>>>,
}

impl Runtime for Idle {
    fn now(&self) -> Instant {
        self.runtime.now()
    }

    fn unix_time(&self) -> Duration {
        self.runtime.unix_time()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.runtime.sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<()>) {
        if self.idle.load(Ordering::Relaxed) {
            self.shelf.lock().unwrap().push(task);
        } else {
            self.runtime.spawn(task);
        }
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Idle")
    }
}

#[test]
fn keys_rewritten_by_overlapping_extensions_are_removed() {
    for gap in [1, 50] {
        let harness = Harness::new(3);
        harness.run(async {
            let mut lock = harness.redlock().lock(["x", "z"], s(30)).await.unwrap();
            harness.nodes[2].remove("z");
            harness.nodes[2].delay_replies(ms(20));
            lock.extend(s(30)).await.unwrap();
            harness.sleep(gap).await;
            harness.nodes[2].set("z", "other", s(300));
            lock.extend(s(30)).await.unwrap();
            harness.sleep(100).await;
            harness.nodes[2].fail_next(1, BackendErrorKind::Indeterminate);
            lock.unlock().await.unwrap();
            harness.sleep(5_000).await;
            harness.assert_free("x");
        });
    }
}
