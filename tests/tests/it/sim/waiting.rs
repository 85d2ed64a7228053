//! How long an acquire waits: silent nodes, retries, bounds.

use std::{future::IntoFuture, time::Duration};

use redlock_core::{BackendErrorKind, Error, LockBackend, MemoryBackend, UnlockOutcome};
use redlock_tests::harness::{Harness, answers, attempts, ms, s};

use crate::sim::odd_nodes::Far;

#[test]
fn a_minority_that_is_silent_or_slow_delays_no_call_that_the_others_decide() {
    const TRIP: Duration = Duration::from_millis(2);
    for (nodes, slow, fenced) in [(3, 1, false), (3, 1, true), (5, 2, false), (5, 2, true)] {
        for stops in [true, false] {
            let harness = Harness::new(nodes);
            harness.run(async {
                let case = format!("{nodes} nodes, stopped: {stops}, fenced: {fenced}");
                for (position, node) in harness.nodes.iter().enumerate() {
                    match position < slow {
                        true if stops => node.stop(),
                        true => node.delay_replies(ms(400)),
                        false => node.delay_replies(TRIP),
                    }
                }
                let builder = harness.builder();
                let redlock = if fenced { builder.fenced() } else { builder }.build().unwrap();
                let (lock, took) = harness.timed(redlock.lock("x", s(10))).await;
                let mut lock = lock.unwrap();
                assert_eq!(took, TRIP, "lock: {case}");
                let (extended, took) = harness.timed(lock.extend(s(10))).await;
                assert!(extended.is_ok());
                assert_eq!(took, TRIP, "extend: {case}");
                let parts = lock.into_parts();
                let (lock, took) = harness.timed(redlock.from_parts(&parts)).await;
                let lock = lock.unwrap();
                assert_eq!(took, TRIP, "from_parts: {case}");
                let (unlocked, took) = harness.timed(lock.unlock()).await;
                assert_eq!(unlocked.unwrap(), UnlockOutcome::Released);
                assert_eq!(took, TRIP, "unlock: {case}");
                let (used, took) = harness.timed(redlock.using("x", s(10), |_| async {})).await;
                assert!(used.is_ok());
                assert_eq!(took, 2 * TRIP, "using: {case}");
            });
        }
    }
}

#[test]
fn a_round_that_a_silent_node_decides_ends_with_the_node_timeout() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].stop();
        harness.nodes[1].set("x", "other", s(60));
        let (error, took) = harness.timed(harness.redlock().lock("x", s(10)).retry_count(0)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Contended(_)), "{error}");
        assert_eq!(answers(&error), "xrg");
        assert_eq!(took, ms(500), "a twentieth of the TTL");
        assert_eq!(harness.nodes[2].get("x"), None);
        assert_eq!(harness.nodes[1].get("x").as_deref(), Some("other"));
    });
}

#[test]
fn without_nodes_the_error_names_each_of_them_within_the_bound() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].shut_down();
        harness.nodes[1].stop();
        harness.nodes[2].fail_next(100, BackendErrorKind::Transient);
        let redlock = harness.redlock();
        let (error, took) = harness.timed(redlock.lock("x", s(10)).retry_count(3)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        assert_eq!(attempts(&error), 4);
        assert!(took <= 4 * (ms(300) + ms(500)), "{took:?}");
        let text = error.to_string();
        for part in
            ["\"x\"", "4 attempts", "node 0: indeterminate: connection refused", "node 2: transient: failed"]
        {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    });
}

#[test]
fn waiting_ends_before_the_deadline_with_a_last_attempt_close_to_it() {
    let harness = Harness::new(3);
    harness.run(async {
        for node in &harness.nodes {
            node.set("x", "other", s(60));
        }
        let request = harness.redlock().lock("x", s(10)).retry_forever().acquire_timeout(s(2));
        let (error, took) = harness.timed(request).await;
        assert!(matches!(error, Err(Error::Contended(_))));
        assert!((ms(1_490)..=ms(2_000)).contains(&took), "{took:?}");

        for node in &harness.nodes {
            node.stop();
        }
        let request = harness.redlock().lock("x", s(10)).retry_forever().acquire_timeout(ms(1_200));
        let (error, took) = harness.timed(request).await;
        assert!(matches!(error, Err(Error::NoQuorum(_))));
        assert!((ms(500)..=ms(1_200)).contains(&took), "{took:?}");
    });
}

#[test]
fn custom_delays_are_waited_for() {
    let harness = Harness::new(1);
    harness.run(async {
        harness.nodes[0].set("x", "other", s(60));
        let request =
            harness.redlock().lock("x", s(10)).retry_forever().retry_delays(|| [ms(10), ms(100), ms(1_000)]);
        let (error, took) = harness.timed(request).await;
        assert_eq!((attempts(&error.unwrap_err()), took), (4, ms(1_110)));
    });
}

/// Two contenders split four live nodes two to two, and a fifth one is silent: its vote could still decide
/// each round. While each contender waits for it, it keeps the other from winning.
#[test]
fn contenders_do_not_wait_for_a_silent_node_with_their_keys_in_each_others_way() {
    for seed in 0..20 {
        let harness = Harness::seeded(seed, 5);
        harness.run(async {
            harness.nodes[4].stop();
            let contend = async |home: [usize; 2]| {
                let redlock = harness.redlock_over(|node| {
                    let near = home.iter().any(|home| harness.nodes[*home].name() == node.name());
                    Far { node, delay: if near { ms(0) } else { ms(1) }, runtime: harness.runtime.clone() }
                });
                for _ in 0..20 {
                    let request =
                        redlock.lock("x", s(20)).retry_forever().retry_delay(ms(20)).retry_jitter(ms(10));
                    let lock = request.await.unwrap();
                    harness.sleep(5).await;
                    lock.unlock().await.unwrap();
                }
            };
            let (_, took) = harness.timed(async { tokio::join!(contend([0, 1]), contend([2, 3])) }).await;
            // The node timeout is a second, and the first round of each may take it.
            assert!(took < s(5), "seed {seed}: {took:?}");
        });
    }
}

#[test]
fn a_lone_client_waits_for_a_node_that_was_silent_before() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].stop();
        harness.nodes[1].shut_down();
        let redlock = harness.redlock();
        redlock.try_lock("x", s(20)).await.unwrap_err();
        // Back, but slower than the other node.
        harness.nodes[0].resume();
        harness.nodes[0].delay_replies(ms(300));
        let lock = redlock.try_lock("x", s(20)).await.unwrap();
        assert_eq!(lock.took(), ms(300));
    });
}

#[test]
fn a_node_that_answers_again_is_waited_for_under_contention() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        harness.nodes[2].stop();
        redlock.lock("y", s(10)).await.unwrap().unlock().await.unwrap();
        harness.sleep(2_000).await;
        harness.nodes[2].resume();
        redlock.lock("y", s(10)).await.unwrap().unlock().await.unwrap();
        harness.nodes[0].set("x", "other", s(60));
        harness.nodes[2].delay_replies(ms(5));
        let lock = redlock.lock("x", s(10)).await.unwrap();
        assert_eq!((lock.attempts(), lock.took()), (1, ms(5)));
    });
}

#[test]
fn contention_is_distinguished_from_silence_whichever_node_replies_first() {
    for slow in 1..3 {
        let harness = Harness::new(3);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.set("x", "other", s(60)));
            harness.nodes[0].shut_down();
            harness.nodes[slow].delay_replies(ms(5));
            let (error, took) = harness.timed(harness.redlock().try_lock("x", s(30))).await;
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Contended(_)), "{slow}: {error}");
            assert_eq!(took, ms(5), "{slow}");
        });
    }
}

#[test]
fn a_timeout_that_was_cut_short_says_nothing_about_a_node() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].set("x", "other", s(60));
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(5)));
        harness.nodes[0].delay_replies(ms(4));
        let redlock = harness.redlock();
        redlock.lock("y", ms(5)).retry_count(0).await.unwrap_err();
        let lock = redlock.lock("x", s(60)).await.unwrap();
        assert_eq!(lock.attempts(), 1);
    });
}

#[test]
fn the_last_attempt_waits_for_silent_nodes_too() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        harness.nodes[1].stop();
        harness.nodes[2].stop();
        redlock.try_lock("y", s(10)).await.unwrap_err();
        harness.nodes[1].resume();
        harness.nodes[2].resume();
        harness.nodes[0].set("x", "other", s(60));
        harness.nodes[1].delay_replies(ms(5));
        harness.nodes[2].delay_replies(ms(5));
        assert_eq!(redlock.try_lock("x", s(10)).await.unwrap().took(), ms(5));
    });
}

#[test]
fn a_bounded_wait_is_used_when_it_is_shorter_than_a_node_timeout() {
    for (ttl, wait) in [(s(60), s(2)), (s(60), s(3)), (s(10), ms(500)), (s(3_600), s(60))] {
        let harness = Harness::new(3);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.set("x", "other", wait / 2));
            let request =
                harness.redlock().lock("x", ttl).retry_forever().retry_delay(ms(50)).retry_jitter(ms(0));
            let (lock, took) = harness.timed(request.acquire_timeout(wait)).await;
            assert!(lock.is_ok(), "{ttl:?}, {wait:?}: {lock:?} after {took:?}");
        });
    }
}

#[test]
fn a_lock_that_lapses_shortly_before_the_end_of_a_bounded_wait_is_won() {
    for seed in 0..20 {
        for (wait, lapses) in [(s(3), ms(2_800)), (s(3), ms(2_940)), (s(30), ms(29_900)), (ms(400), ms(340))]
        {
            let harness = Harness::seeded(seed, 3);
            harness.run(async {
                for node in &harness.nodes {
                    node.delay_replies(ms(2));
                    node.set("x", "other", lapses);
                }
                let request = harness.redlock().lock("x", s(60)).retry_forever().acquire_timeout(wait);
                let (lock, took) = harness.timed(request).await;
                assert!(lock.is_ok(), "{lapses:?} of {wait:?}: {lock:?} after {took:?}");
                assert!(took <= wait, "{took:?}");
            });
        }
    }
}

#[test]
fn nodes_that_are_back_shortly_before_the_end_of_a_bounded_wait_are_asked() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(MemoryBackend::shut_down);
        let back = async {
            harness.sleep(2_800).await;
            harness.nodes.iter().for_each(MemoryBackend::start);
        };
        let request = harness.redlock().lock("x", s(60)).retry_forever().acquire_timeout(s(3));
        let (lock, ()) = tokio::join!(request.into_future(), back);
        assert!(lock.is_ok(), "{lock:?}");
    });
}

/// The expected duration of a round must neither leave too little time for a slow last round, nor end it
/// late.
#[test]
fn nodes_that_turn_slow_or_silent_during_a_bounded_wait_do_not_lengthen_it() {
    for seed in 0..20 {
        let harness = Harness::seeded(seed, 3);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.set("x", "other", s(60)));
            let silence = async {
                harness.sleep(2_000).await;
                harness.nodes.iter().for_each(MemoryBackend::stop);
            };
            let request = harness.redlock().lock("x", s(60)).retry_forever().acquire_timeout(s(3));
            let ((error, took), ()) = tokio::join!(harness.timed(request), silence);
            assert!(matches!(error, Err(Error::NoQuorum(_))), "{error:?}");
            assert!(took <= s(3), "{took:?}");
        });
        let harness = Harness::seeded(seed, 3);
        harness.run(async {
            for node in &harness.nodes {
                node.set("x", "other", ms(1_990));
                node.delay_replies(ms(400));
            }
            let request = harness.redlock().lock("x", s(60)).retry_forever().acquire_timeout(s(3));
            let (lock, took) = harness.timed(request).await;
            assert!(lock.is_ok(), "{lock:?} after {took:?}");
        });
    }
}

#[test]
fn a_retry_count_bounds_the_attempts_of_a_bounded_wait_to_its_end() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.set("x", "other", s(60)));
        let request = harness.redlock().lock("x", s(10)).retry_delay(s(2)).retry_jitter(ms(0));
        let (error, took) = harness.timed(request.clone().retry_count(1).acquire_timeout(s(3))).await;
        assert_eq!((attempts(&error.unwrap_err()), took), (2, s(2)));
        let (error, took) = harness.timed(request.retry_forever().acquire_timeout(s(3))).await;
        assert_eq!((attempts(&error.unwrap_err()), took), (3, ms(2_950)), "at 0, 2 and 2.95 s");
    });
}

#[test]
fn a_bounded_wait_is_not_overrun_by_the_clean_up() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[1].set("x", "other", s(60));
        harness.nodes[2].set("x", "other", s(60));
        harness.nodes[0].delay_replies(ms(0));
        let redlock = harness.builder().node_timeout(s(1)).build().unwrap();
        harness.nodes[1].delay_replies(ms(900));
        harness.nodes[2].delay_replies(ms(900));
        let stopping = async {
            harness.sleep(1).await;
            harness.nodes[0].stop();
        };
        let request = redlock.lock("x", s(60)).retry_forever().acquire_timeout(s(1));
        let ((error, took), ()) = tokio::join!(harness.timed(request), stopping);
        assert!(error.is_err());
        assert!(took <= s(1), "{took:?}");
    });
}

#[test]
fn a_wait_of_nothing_is_a_single_attempt() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(20)));
        let lock = harness.redlock().lock("x", s(10)).retry_forever().acquire_timeout(s(0)).await.unwrap();
        assert_eq!((lock.attempts(), lock.took()), (1, ms(20)));
        let (error, took) =
            harness.timed(harness.redlock().lock("x", s(10)).retry_forever().acquire_timeout(s(0))).await;
        assert!(matches!(error, Err(Error::Contended(_))));
        assert!(took <= ms(50), "{took:?}");
    });
}

#[test]
fn a_bounded_wait_that_is_over_distinguishes_contention_from_silence() {
    for slow in 1..3 {
        let harness = Harness::new(3);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.set("x", "other", s(60)));
            harness.nodes[0].shut_down();
            harness.nodes[slow].delay_replies(ms(5));
            let request = harness.redlock().lock("x", s(30)).retry_forever().acquire_timeout(s(1));
            let (error, took) = harness.timed(request).await;
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Contended(_)), "{slow}: {error}");
            assert!(took <= s(1), "{took:?}");
        });
    }
}

#[test]
fn a_round_that_others_follow_does_not_wait_for_the_reason_of_a_silent_node() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].shut_down();
        harness.nodes[1].shut_down();
        harness.nodes[2].stop();
        let request =
            harness.redlock().lock("x", s(10)).retry_count(1).retry_delay(ms(70)).retry_jitter(ms(0));
        let (error, took) = harness.timed(request).await;
        assert_eq!(answers(&error.unwrap_err()), "xxx");
        assert_eq!(took, ms(70) + ms(500), "only the last one waits, for its node timeout");
    });
}

#[test]
fn a_certain_result_is_returned_without_waiting_for_a_silent_node() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let mut lock = redlock.try_lock("held", s(10)).await.unwrap();
        let gone = redlock.try_lock("gone", s(10)).await.unwrap();
        harness.nodes[2].stop();
        for node in &harness.nodes[..2] {
            node.set("x", "other", s(60));
            node.remove("gone");
            node.fail_next(1, BackendErrorKind::Rejected);
        }
        let (error, took) = harness.timed(lock.extend(s(10))).await;
        assert!(matches!(error, Err(Error::Rejected(_))), "{error:?}");
        assert_eq!(took, ms(0), "rejected");
        let (error, took) = harness.timed(redlock.try_lock("x", s(10))).await;
        assert!(matches!(error, Err(Error::Contended(_))), "{error:?}");
        assert_eq!(took, ms(0), "contended");
        let (unlocked, took) = harness.timed(gone.unlock()).await;
        assert_eq!((unlocked.unwrap(), took), (UnlockOutcome::NotHeld, ms(0)));
        harness.nodes[..2].iter().for_each(|node| node.remove("held"));
        let (error, took) = harness.timed(lock.extend(s(10))).await;
        assert!(matches!(error, Err(Error::Lost(_))), "{error:?}");
        assert_eq!(took, ms(0), "lost");
    });
}
