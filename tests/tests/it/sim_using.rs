//! Locks that are kept alive: `using` and `KeepAlive`.

use std::{cell::Cell, time::Duration};

use redlock_core::{BackendErrorKind, Error, Runtime, UnlockOutcome};

use crate::bed::{Bed, ms, s};

/// How long `using` took, and what it gave, when somebody steals the keys 100 ms after the start.
fn stolen(ttl: Duration) -> (Result<(), Error>, Duration) {
    let bed = Bed::new(3);
    bed.run(async {
        let nodes = bed.nodes.clone();
        let runtime = bed.runtime.clone();
        bed.runtime.spawn(Box::pin(async move {
            runtime.sleep(ms(100)).await;
            nodes.iter().for_each(|node| node.set("x", "thief", s(60)));
        }));
        let runtime = bed.runtime.clone();
        bed.timed(bed.redlock().using("x", ttl, |_| async move { runtime.sleep(s(60)).await })).await
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
    let troubles: [fn(&Bed); 4] = [
        |bed| bed.nodes.iter().for_each(|node| node.stop()),
        |bed| bed.nodes.iter().for_each(|node| node.shut_down()),
        |bed| bed.nodes.iter().for_each(|node| node.delay_requests(s(600))),
        |bed| bed.nodes.iter().for_each(|node| node.fail_next(usize::MAX, BackendErrorKind::Transient)),
    ];
    for (number, trouble) in troubles.into_iter().enumerate() {
        let bed = Bed::new(3);
        bed.run(async {
            let (guard, runtime) = (Stopped::default(), bed.runtime.clone());
            let stopped = guard.flag.clone();
            let running = bed.redlock().lock("x", s(1)).using(|_| async move {
                let _guard = guard;
                runtime.sleep(s(60)).await;
            });
            let troubled = async {
                bed.sleep(10).await;
                trouble(&bed);
            };
            let ((result, took), ()) = tokio::join!(bed.timed(running), troubled);
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
fn a_routine_that_sees_the_loss_gives_its_own_result() {
    let bed = Bed::new(3);
    bed.run(async {
        let nodes = bed.nodes.clone();
        let result = bed.redlock().using("x", s(1), |lease| async move {
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
    let bed = Bed::new(3);
    bed.run(async {
        let nodes = bed.nodes.clone();
        let result = bed.redlock().using("x", s(1), |_| async move {
            nodes.iter().for_each(|node| node.shut_down());
            42
        });
        assert_eq!(result.await.unwrap(), 42);
    });
}

#[test]
fn using_settles_at_once_when_the_routine_is_done_while_an_extension_hangs() {
    // One node hangs: nothing is waited for. All of them: no longer than the unlock's round, 300 ms.
    for (hanging, most) in [(1, ms(0)), (3, ms(300))] {
        let bed = Bed::new(3);
        bed.run(async {
            let (nodes, runtime) = (bed.nodes.clone(), bed.runtime.clone());
            let result = bed.redlock().using("x", s(6), |_| async move {
                runtime.sleep(ms(1_900)).await;
                nodes[..hanging].iter().for_each(|node| node.stop());
                runtime.sleep(ms(200)).await;
                "done"
            });
            let (result, took) = bed.timed(result).await;
            assert_eq!(result.unwrap(), "done");
            assert!((ms(2_100)..=ms(2_100) + most).contains(&took), "{hanging}: {took:?}");
            bed.nodes.iter().for_each(|node| node.resume());
            bed.sleep(10_000).await;
            bed.assert_free("x");
        });
        bed.assert_at_rest();
    }
}

#[test]
fn a_lock_is_extended_every_third_to_half_of_its_ttl_and_no_oftener() {
    let bed = Bed::new(3);
    bed.run(async {
        let runtime = bed.runtime.clone();
        bed.redlock().using("x", s(1), |_| async move { runtime.sleep(ms(500)).await }).await.unwrap();
        assert_eq!(bed.requests(), [3, 3, 3], "acquire, one extension, release");

        bed.nodes.iter().for_each(|node| node.delay_replies(ms(20)));
        let runtime = bed.runtime.clone();
        bed.redlock().using("x", s(1), |_| async move { runtime.sleep(s(100)).await }).await.unwrap();
        for requests in bed.requests() {
            assert!((220..=260).contains(&requests), "{requests} in a hundred ttls");
        }
    });
}

#[test]
fn failing_extensions_are_tried_again_at_a_bounded_rate() {
    let bed = Bed::new(3);
    bed.run(async {
        let (nodes, runtime) = (bed.nodes.clone(), bed.runtime.clone());
        let result = bed.redlock().using("x", s(10), |_| async move {
            nodes.iter().for_each(|node| node.fail_next(usize::MAX, BackendErrorKind::Transient));
            runtime.sleep(s(60)).await;
        });
        assert!(matches!(result.await, Err(Error::Lost(_))));
        for requests in bed.requests() {
            assert!((6..=12).contains(&requests), "{requests} in one ttl");
        }
    });
}

#[test]
fn one_failed_extension_is_no_loss() {
    let troubles: [fn(&Bed); 3] = [
        |bed| bed.nodes.iter().for_each(|node| node.lose_next_replies(1)),
        |bed| bed.nodes.iter().for_each(|node| node.fail_next(1, BackendErrorKind::Transient)),
        |bed| bed.nodes.iter().for_each(|node| node.fail_next(1, BackendErrorKind::Rejected)),
    ];
    for trouble in troubles {
        let bed = Bed::new(3);
        bed.run(async {
            let (runtime, bed) = (bed.runtime.clone(), &bed);
            let result = bed.redlock().using("x", s(1), |lease| async move {
                runtime.sleep(ms(10)).await;
                trouble(bed);
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
        let bed = Bed::new(3);
        bed.run(async {
            bed.nodes.iter().for_each(|node| node.delay_replies(ms(2)));
            let runtime = bed.runtime.clone();
            bed.redlock().using("x", s(1), |_| async move { runtime.sleep(over_at).await }).await.unwrap();
            bed.sleep(60).await;
            bed.assert_at_rest();
        });
    }
}

#[test]
fn using_that_is_dropped_drops_the_routine_and_releases() {
    let bed = Bed::new(3);
    bed.run(async {
        let (guard, runtime) = (Stopped::default(), bed.runtime.clone());
        let stopped = guard.flag.clone();
        let redlock = bed.redlock();
        let using = redlock.using("x", s(1), |_| async move {
            let _guard = guard;
            runtime.sleep(s(60)).await;
        });
        assert!(bed.cancel_after(s(5), using).await.is_none());
        assert!(stopped.get());
        bed.sleep(10).await;
        bed.assert_free("x");
        bed.assert_at_rest();
    });
}

#[test]
fn a_lock_is_held_no_longer_than_the_longest_hold() {
    for (ttl, longest) in [(s(1), s(5)), (s(10), s(5)), (s(4), s(5))] {
        let bed = Bed::new(3);
        bed.run(async {
            let runtime = bed.runtime.clone();
            let request = bed.redlock().lock("x", ttl).max_hold(longest);
            let (result, took) =
                bed.timed(request.using(|_| async move { runtime.sleep(s(60)).await })).await;
            assert!(matches!(result, Err(Error::Lost(_))), "{result:?}");
            assert!(took <= longest && took >= longest - ms(60), "ttl {ttl:?}: {took:?}");
        });
    }
}

#[test]
fn a_guard_keeps_a_lock_alive_until_it_is_stopped() {
    let bed = Bed::new(3);
    bed.run(async {
        let guard = bed.redlock().lock("x", s(1)).await.unwrap().keep_alive();
        let lease = guard.lease();
        bed.sleep(10_000).await;
        assert!(guard.is_valid() && lease.is_valid());
        assert!(lease.remaining() > ms(500) && lease.remaining() < s(1), "{:?}", lease.remaining());
        let lock = guard.stop();
        assert!(lock.is_valid());
        bed.sleep(1_000).await;
        assert!(!lease.is_valid(), "nobody extends it any more");
        drop(lock);

        let guard = bed.redlock().lock("x", s(1)).await.unwrap().keep_alive();
        let lease = guard.lease();
        bed.sleep(10_000).await;
        assert_eq!(guard.unlock().await.unwrap(), UnlockOutcome::Released);
        assert!(!lease.is_valid());
        lease.lost().await;
        bed.sleep(100).await;
        bed.assert_free("x");
        bed.assert_at_rest();
    });
}

#[test]
fn a_node_that_flaps_does_not_bring_a_lock_down() {
    let bed = Bed::new(3);
    bed.run(async {
        let node = bed.nodes[0].clone();
        let runtime = bed.runtime.clone();
        bed.runtime.spawn(Box::pin(async move {
            for _ in 0..600 {
                node.shut_down();
                runtime.sleep(ms(500)).await;
                node.clear();
                node.start();
                runtime.sleep(ms(500)).await;
            }
        }));
        let runtime = bed.runtime.clone();
        let held = bed.redlock().using("x", s(3), |lease| async move {
            runtime.sleep(s(600)).await;
            lease.is_valid()
        });
        assert!(held.await.unwrap());
        assert!(bed.requests()[0] < 3 * 610, "{:?}", bed.requests());
        bed.sleep(10_000).await;
    });
    bed.assert_at_rest();
}

#[test]
fn a_lock_that_is_kept_alive_late_is_extended_at_once() {
    let bed = Bed::new(3);
    bed.run(async {
        let lock = bed.redlock().lock("x", s(10)).await.unwrap();
        bed.sleep(7_000).await;
        let guard = lock.keep_alive();
        bed.sleep(60_000).await;
        assert!(guard.is_valid());
        guard.unlock().await.unwrap();

        // Won so late that little is left.
        bed.nodes.iter().for_each(|node| node.delay_replies(ms(700)));
        let redlock = bed.builder().node_timeout(s(1)).build().unwrap();
        let (nodes, runtime) = (bed.nodes.clone(), bed.runtime.clone());
        let routine = redlock.using("y", s(1), |lease| async move {
            nodes.iter().for_each(|node| node.delay_replies(ms(0)));
            runtime.sleep(s(5)).await;
            lease.is_valid()
        });
        assert!(routine.await.unwrap());
    });
}
