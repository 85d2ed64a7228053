//! Locks that are kept alive: `using` and `KeepAlive`.

use std::{cell::Cell, time::Duration};

use redlock_core::{BackendErrorKind, Error, Runtime, UnlockOutcome};
use redlock_tests::harness::{Harness, ms, s};

/// How long `using` took, and what it returned, when the keys are stolen 100 ms after the start.
fn stolen(ttl: Duration) -> (Result<(), Error>, Duration) {
    let harness = Harness::new(3);
    harness.run(async {
        let nodes = harness.nodes.clone();
        let runtime = harness.runtime.clone();
        harness.runtime.spawn(Box::pin(async move {
            runtime.sleep(ms(100)).await;
            nodes.iter().for_each(|node| node.set("x", "thief", s(60)));
        }));
        let runtime = harness.runtime.clone();
        harness.timed(harness.redlock().using("x", ttl, |_| async move { runtime.sleep(s(60)).await })).await
    })
}

#[test]
fn a_routine_whose_lock_is_stolen_is_stopped_before_the_validity_ends() {
    for (ttl, validity) in [(s(1), ms(988)), (s(2), ms(1_978))] {
        let (result, took) = stolen(ttl);
        assert!(matches!(result, Err(Error::Lost(_))), "{result:?}");
        assert!(took <= validity, "{took:?}");
        assert!((ttl / 3..=ttl / 2).contains(&took), "the first extension finds it: {took:?}");
    }
}

#[test]
fn a_routine_is_stopped_at_the_deadline_whatever_the_nodes_do() {
    let faults: [fn(&Harness); 4] = [
        |harness| harness.nodes.iter().for_each(|node| node.stop()),
        |harness| harness.nodes.iter().for_each(|node| node.shut_down()),
        |harness| harness.nodes.iter().for_each(|node| node.delay_requests(s(600))),
        |harness| {
            harness.nodes.iter().for_each(|node| node.fail_next(usize::MAX, BackendErrorKind::Transient))
        },
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let harness = Harness::new(3);
        harness.run(async {
            let (guard, runtime) = (Stopped::default(), harness.runtime.clone());
            let stopped = guard.flag.clone();
            let running = harness.redlock().lock("x", s(1)).using(|_| async move {
                let _guard = guard;
                runtime.sleep(s(60)).await;
            });
            let disturbed = async {
                harness.sleep(10).await;
                fault(&harness);
            };
            let ((result, took), ()) = tokio::join!(harness.timed(running), disturbed);
            assert!(matches!(result, Err(Error::Lost(_))), "{number}: {result:?}");
            assert_eq!(took, ms(988), "{number}");
            assert!(stopped.get(), "{number}: the routine is dropped");
        });
    }
}

#[derive(Default)]
struct Stopped {
    flag: std::rc::Rc<Cell<bool>>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.flag.set(true);
    }
}

#[test]
fn a_routine_that_sees_the_loss_returns_its_own_result() {
    let harness = Harness::new(3);
    harness.run(async {
        let nodes = harness.nodes.clone();
        let result = harness.redlock().using("x", s(1), |lease| async move {
            nodes.iter().for_each(|node| node.clear());
            lease.lost().await;
            assert!(!lease.is_valid());
            assert_eq!(lease.remaining(), ms(0));
            Err::<(), _>("my own error")
        });
        assert_eq!(result.await.unwrap(), Err("my own error"));
    });
}

#[test]
fn a_result_is_not_hidden_by_an_unlock_that_fails() {
    let harness = Harness::new(3);
    harness.run(async {
        let nodes = harness.nodes.clone();
        let result = harness.redlock().using("x", s(1), |_| async move {
            nodes.iter().for_each(|node| node.shut_down());
            42
        });
        assert_eq!(result.await.unwrap(), 42);
    });
}

#[test]
fn using_settles_at_once_when_the_routine_is_done_while_an_extension_hangs() {
    // One node hangs: `using` does not wait. All hang: it waits no longer than the round of the unlock, 300
    // ms.
    for (hanging, most) in [(1, ms(0)), (3, ms(300))] {
        let harness = Harness::new(3);
        harness.run(async {
            let (nodes, runtime) = (harness.nodes.clone(), harness.runtime.clone());
            let result = harness.redlock().using("x", s(6), |_| async move {
                runtime.sleep(ms(1_900)).await;
                nodes[..hanging].iter().for_each(|node| node.stop());
                runtime.sleep(ms(200)).await;
                "done"
            });
            let (result, took) = harness.timed(result).await;
            assert_eq!(result.unwrap(), "done");
            assert!((ms(2_100)..=ms(2_100) + most).contains(&took), "{hanging}: {took:?}");
            harness.nodes.iter().for_each(|node| node.resume());
            harness.sleep(10_000).await;
            harness.assert_free("x");
        });
        harness.assert_at_rest();
    }
}

#[test]
fn a_lock_is_extended_every_third_to_half_of_its_ttl_and_no_more_often() {
    let harness = Harness::new(3);
    harness.run(async {
        let runtime = harness.runtime.clone();
        harness.redlock().using("x", s(1), |_| async move { runtime.sleep(ms(500)).await }).await.unwrap();
        assert_eq!(harness.requests(), [3, 3, 3], "acquire, one extension, release");

        harness.nodes.iter().for_each(|node| node.delay_replies(ms(20)));
        let runtime = harness.runtime.clone();
        harness.redlock().using("x", s(1), |_| async move { runtime.sleep(s(100)).await }).await.unwrap();
        for requests in harness.requests() {
            assert!((220..=260).contains(&requests), "{requests} in a hundred TTLs");
        }
    });
}

#[test]
fn failing_extensions_are_retried_at_a_bounded_rate() {
    let harness = Harness::new(3);
    harness.run(async {
        let (nodes, runtime) = (harness.nodes.clone(), harness.runtime.clone());
        let result = harness.redlock().using("x", s(10), |_| async move {
            nodes.iter().for_each(|node| node.fail_next(usize::MAX, BackendErrorKind::Transient));
            runtime.sleep(s(60)).await;
        });
        assert!(matches!(result.await, Err(Error::Lost(_))));
        for requests in harness.requests() {
            assert!((6..=12).contains(&requests), "{requests} in one TTL");
        }
    });
}

#[test]
fn one_failed_extension_is_no_loss() {
    let faults: [fn(&Harness); 3] = [
        |harness| harness.nodes.iter().for_each(|node| node.lose_next_replies(1)),
        |harness| harness.nodes.iter().for_each(|node| node.fail_next(1, BackendErrorKind::Transient)),
        |harness| harness.nodes.iter().for_each(|node| node.fail_next(1, BackendErrorKind::Rejected)),
    ];
    for fault in faults {
        let harness = Harness::new(3);
        harness.run(async {
            let (runtime, harness) = (harness.runtime.clone(), &harness);
            let result = harness.redlock().using("x", s(1), |lease| async move {
                runtime.sleep(ms(10)).await;
                fault(harness);
                runtime.sleep(s(10)).await;
                lease.is_valid()
            });
            assert!(result.await.unwrap());
        });
    }
}

#[test]
fn nothing_is_left_when_using_is_over() {
    for over_at in [ms(1), ms(333), ms(334), ms(5_000)] {
        let harness = Harness::new(3);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.delay_replies(ms(2)));
            let runtime = harness.runtime.clone();
            harness
                .redlock()
                .using("x", s(1), |_| async move { runtime.sleep(over_at).await })
                .await
                .unwrap();
            harness.sleep(60).await;
            harness.assert_at_rest();
        });
    }
}

#[test]
fn using_that_is_dropped_drops_the_routine_and_releases() {
    let harness = Harness::new(3);
    harness.run(async {
        let (guard, runtime) = (Stopped::default(), harness.runtime.clone());
        let stopped = guard.flag.clone();
        let redlock = harness.redlock();
        let using = redlock.using("x", s(1), |_| async move {
            let _guard = guard;
            runtime.sleep(s(60)).await;
        });
        assert!(harness.cancel_after(s(5), using).await.is_none());
        assert!(stopped.get());
        harness.sleep(10).await;
        harness.assert_free("x");
        harness.assert_at_rest();
    });
}

#[test]
fn using_has_the_options_of_a_lock() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let other = redlock.lock("x", s(60)).await.unwrap();
        let (result, took) = harness.timed(redlock.using("x", s(1), |_| async {}).retry_count(0)).await;
        assert!(matches!(&result, Err(Error::Contended(report)) if report.attempts == 1), "{result:?}");
        assert_eq!(took, ms(0), "a single attempt");
        let waiting = redlock.using("x", s(1), |_| async {}).retry_forever().acquire_timeout(s(5));
        let (result, took) = harness.timed(waiting).await;
        assert!(matches!(result, Err(Error::Contended(_))), "{result:?}");
        assert!((ms(4_900)..=s(5)).contains(&took), "{took:?}");
        other.unlock().await.unwrap();

        let (runtime, ttl) = (harness.runtime.clone(), s(1));
        let held = redlock.using("x", ttl, |_| async move { runtime.sleep(s(60)).await }).max_hold(s(5));
        let (result, took) = harness.timed(held).await;
        assert!(matches!(result, Err(Error::Lost(_))), "{result:?}");
        assert!((ms(4_940)..=s(5)).contains(&took), "{took:?}");
        // In any order.
        let late = redlock.lock("x", ttl).retry_count(2).using(|_| async { 1 }).retry_delay(ms(7));
        assert_eq!(late.await.unwrap(), 1);
        harness.sleep(10).await;
    });
    harness.assert_at_rest();
}

#[test]
fn using_is_sent_to_another_thread_when_its_routine_can_be() {
    fn sent<T: Send + 'static>(future: T) -> T {
        future
    }
    let harness = Harness::new(3);
    harness.run(async {
        let used = sent(harness.redlock().using("x", s(1), |lease| async move { lease.is_valid() }));
        assert!(sent(used.into_future()).await.unwrap());
        // A routine that cannot be sent runs in place.
        let count = std::rc::Rc::new(Cell::new(0));
        let counted = count.clone();
        let used = harness.redlock().using("x", s(1), |_| async move { counted.set(counted.get() + 1) });
        used.await.unwrap();
        assert_eq!(count.get(), 1);
    });
}

#[test]
fn a_lock_is_held_no_longer_than_the_longest_hold() {
    for (ttl, longest) in [(s(1), s(5)), (s(10), s(5)), (s(4), s(5))] {
        let harness = Harness::new(3);
        harness.run(async {
            let runtime = harness.runtime.clone();
            let request = harness.redlock().lock("x", ttl).max_hold(longest);
            let (result, took) =
                harness.timed(request.using(|_| async move { runtime.sleep(s(60)).await })).await;
            assert!(matches!(result, Err(Error::Lost(_))), "{result:?}");
            assert!(took <= longest && took >= longest - ms(60), "TTL {ttl:?}: {took:?}");
        });
    }
}

#[test]
fn a_guard_keeps_a_lock_alive_until_it_is_stopped() {
    let harness = Harness::new(3);
    harness.run(async {
        let guard = harness.redlock().lock("x", s(1)).await.unwrap().keep_alive();
        let lease = guard.lease();
        harness.sleep(10_000).await;
        assert!(guard.is_valid() && lease.is_valid());
        assert!(lease.remaining() > ms(500) && lease.remaining() < s(1), "{:?}", lease.remaining());
        let lock = guard.stop();
        assert!(lock.is_valid());
        harness.sleep(1_000).await;
        assert!(!lease.is_valid(), "nobody extends it any more");
        drop(lock);

        let guard = harness.redlock().lock("x", s(1)).await.unwrap().keep_alive();
        let lease = guard.lease();
        harness.sleep(10_000).await;
        assert_eq!(guard.unlock().await.unwrap(), UnlockOutcome::Released);
        assert!(!lease.is_valid());
        lease.lost().await;
        harness.sleep(100).await;
        harness.assert_free("x");
        harness.assert_at_rest();
    });
}

#[test]
fn a_node_that_flaps_does_not_bring_a_lock_down() {
    let harness = Harness::new(3);
    harness.run(async {
        let node = harness.nodes[0].clone();
        let runtime = harness.runtime.clone();
        harness.runtime.spawn(Box::pin(async move {
            for _ in 0..600 {
                node.shut_down();
                runtime.sleep(ms(500)).await;
                node.clear();
                node.start();
                runtime.sleep(ms(500)).await;
            }
        }));
        let runtime = harness.runtime.clone();
        let held = harness.redlock().using("x", s(3), |lease| async move {
            runtime.sleep(s(600)).await;
            lease.is_valid()
        });
        assert!(held.await.unwrap());
        assert!(harness.requests()[0] < 3 * 610, "{:?}", harness.requests());
        harness.sleep(10_000).await;
    });
    harness.assert_at_rest();
}

#[test]
fn a_lock_that_is_kept_alive_late_is_extended_at_once() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = harness.redlock().lock("x", s(10)).await.unwrap();
        harness.sleep(7_000).await;
        let guard = lock.keep_alive();
        harness.sleep(60_000).await;
        assert!(guard.is_valid());
        guard.unlock().await.unwrap();

        // Granted so late that little of the validity is left.
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(700)));
        let redlock = harness.builder().node_timeout(s(1)).build().unwrap();
        let (nodes, runtime) = (harness.nodes.clone(), harness.runtime.clone());
        let routine = redlock.using("y", s(1), |lease| async move {
            nodes.iter().for_each(|node| node.delay_replies(ms(0)));
            runtime.sleep(s(5)).await;
            lease.is_valid()
        });
        assert!(routine.await.unwrap());
    });
}
