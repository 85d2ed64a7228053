//! Getting a lock: votes, retries, and what goes wrong on the way.

use redlock_core::{BackendErrorKind, Error, Lock, LockBackend, Resources, Runtime};

use crate::bed::{Bed, Far, LateReleases, Resending, answers, attempts, ms, s};

#[test]
fn a_tie_is_contended_at_once_and_leaves_no_key() {
    for (nodes, taken) in [(2, vec![1]), (4, vec![2, 3])] {
        let bed = Bed::new(nodes);
        bed.run(async {
            for node in &taken {
                bed.nodes[*node].set("x", "other", s(60));
            }
            let (error, took) = bed.timed(bed.redlock().lock("x", s(10)).retry_count(0)).await;
            assert!(matches!(error, Err(Error::Contended(_))), "{error:?}");
            assert_eq!(took, ms(0));
            for (node, value) in bed.values("x").into_iter().enumerate() {
                assert_eq!(value.as_deref(), taken.contains(&node).then_some("other"), "node {node}");
            }
        });
        bed.assert_at_rest();
    }
}

#[test]
fn the_own_key_of_a_lost_round_is_no_obstacle_to_the_next() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes[1].set("x", "other", ms(250));
        bed.nodes[2].shut_down();
        // Never before the other's key has expired.
        let request =
            bed.redlock().lock("x", s(60)).retry_count(10).retry_delay(ms(280)).retry_jitter(ms(20));
        let (lock, took) = bed.timed(request).await;
        let lock = lock.unwrap();
        assert_eq!(lock.attempts(), 2);
        assert!((ms(260)..=ms(300)).contains(&took), "{took:?}");
        assert_eq!(bed.nodes[0].get("x").as_deref(), Some(lock.token().as_str()));
    });
}

#[test]
fn three_contenders_that_split_the_nodes_all_get_their_turn_soon() {
    for seed in 0..50 {
        let bed = Bed::seeded(seed, 3);
        // Each is next door to another node, so that each gets that one and hears from the others too late.
        let contend = async |home: usize| {
            let redlock = bed.redlock_over(|node| {
                let delay = if node.name() == bed.nodes[home].name() { ms(0) } else { ms(1) };
                Far { node, delay, runtime: bed.runtime.clone() }
            });
            let lock: Lock = redlock.lock("x", s(10)).retry_count(8).await.unwrap();
            let from = bed.now();
            bed.sleep(5).await;
            let to = bed.now();
            let attempts = lock.attempts();
            lock.unlock().await.unwrap();
            (from, to, attempts)
        };
        bed.run(async {
            let (a, b, c) = tokio::join!(contend(0), contend(1), contend(2));
            let mut holds = [a, b, c];
            holds.sort_unstable();
            assert!(holds.iter().all(|(_, _, attempts)| *attempts > 1), "seed {seed}: no split: {holds:?}");
            assert!(holds.windows(2).all(|pair| pair[0].1 <= pair[1].0), "seed {seed}: {holds:?}");
        });
        assert!(bed.runtime.elapsed() < ms(1_500), "seed {seed}: {:?}", bed.runtime.elapsed());
    }
}

#[test]
fn answers_that_come_after_the_validity_are_no_votes_and_are_cleaned_up() {
    for delay in [295, 299, 600] {
        let bed = Bed::new(3);
        bed.run(async {
            for node in &bed.nodes {
                node.delay_replies(ms(delay));
            }
            // Long enough to hear them all: what refuses them has to be the validity.
            let redlock = bed.builder().node_timeout(s(5)).build().unwrap();
            let error = redlock.lock("x", ms(300)).retry_count(0).await.unwrap_err();
            assert!(matches!(error, Error::Unavailable(_)), "{delay}: {error}");
            bed.sleep(700).await;
        });
        // Removed by a release, not by their ttl: every node was asked for both.
        assert!(bed.requests().iter().all(|requests| *requests >= 2), "{:?}", bed.requests());
        bed.assert_free("x");
    }
}

#[test]
fn a_lock_is_never_returned_without_validity() {
    for delay in 285..300 {
        let bed = Bed::new(1);
        bed.run(async {
            bed.nodes[0].delay_replies(ms(delay));
            let redlock = bed.builder().node_timeout(s(5)).build().unwrap();
            // 300 ms, less 3 ms of drift, less 2 ms of precision.
            match redlock.try_lock("x", ms(300)).await {
                Ok(lock) => {
                    assert!(delay < 295, "{delay}");
                    assert_eq!(lock.remaining(), ms(295 - delay));
                }
                Err(error) => assert!(delay >= 295, "{delay}: {error}"),
            }
        });
    }
}

#[test]
fn validity_counts_from_the_round_that_won() {
    let bed = Bed::new(3);
    bed.run(async {
        for node in &bed.nodes {
            node.set("x", "other", ms(1_500));
        }
        let lock = bed.redlock().lock("x", ms(500)).retry_count(20).await.unwrap();
        assert!(lock.attempts() > 1);
        assert_eq!(lock.remaining(), ms(493));
    });
}

#[test]
fn a_silent_minority_costs_nothing() {
    for (nodes, silent) in [(3, 1), (5, 2)] {
        let bed = Bed::new(nodes);
        bed.run(async {
            for node in &bed.nodes {
                node.delay_replies(ms(3));
            }
            for node in &bed.nodes[..silent] {
                node.stop();
            }
            let redlock = bed.redlock();
            let (lock, took) = bed.timed(redlock.lock("x", s(30))).await;
            assert_eq!(took, ms(3), "lock");
            let mut lock = lock.unwrap();
            let (extended, took) = bed.timed(lock.extend(s(30))).await;
            extended.unwrap();
            assert_eq!(took, ms(3), "extend");
            let (unlocked, took) = bed.timed(lock.unlock()).await;
            unlocked.unwrap();
            assert_eq!(took, ms(3), "unlock");
        });
    }
}

#[test]
fn a_round_that_a_silent_node_decides_ends_with_the_node_timeout() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes[0].stop();
        bed.nodes[1].set("x", "other", s(60));
        let (error, took) = bed.timed(bed.redlock().lock("x", s(10)).retry_count(0)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Contended(_)), "{error}");
        assert_eq!(answers(&error), "xrg");
        assert_eq!(took, ms(500), "a twentieth of the ttl");
        assert_eq!(bed.nodes[2].get("x"), None);
        assert_eq!(bed.nodes[1].get("x").as_deref(), Some("other"));
    });
}

#[test]
fn an_acquire_that_the_client_library_sends_again_is_granted() {
    let bed = Bed::new(3);
    bed.run(async {
        let redlock = bed.redlock_over(Resending);
        let mut lock = redlock.try_lock("x", s(10)).await.unwrap();
        lock.extend(s(10)).await.unwrap();
        lock.unlock().await.unwrap();
    });
    bed.assert_free("x");
}

#[test]
fn nodes_that_reject_end_it_at_once() {
    let bed = Bed::new(3);
    bed.run(async {
        for node in &bed.nodes[..2] {
            node.fail_next(100, BackendErrorKind::Rejected);
        }
        let (error, took) = bed.timed(bed.redlock().lock("x", s(10)).retry_forever()).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Rejected(_)), "{error}");
        assert_eq!((attempts(&error), took), (1, ms(0)));
        // A single one is outvoted.
        bed.nodes[0].fail_next(0, BackendErrorKind::Rejected);
        bed.redlock().try_lock("x", s(10)).await.unwrap().unlock().await.unwrap();
    });
    bed.assert_free("x");
}

#[test]
fn without_nodes_the_error_names_each_of_them_within_the_bound() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes[0].shut_down();
        bed.nodes[1].stop();
        bed.nodes[2].fail_next(100, BackendErrorKind::Unavailable);
        let redlock = bed.redlock();
        let (error, took) = bed.timed(redlock.lock("x", s(10)).retry_count(3)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert_eq!(attempts(&error), 4);
        assert!(took <= 4 * (ms(300) + ms(500)), "{took:?}");
        let text = error.to_string();
        for part in
            ["\"x\"", "4 attempts", "node 0: unreachable: connection refused", "node 2: unavailable: failed"]
        {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    });
}

#[test]
fn the_late_release_of_a_lost_round_deletes_nothing_that_counts() {
    let bed = Bed::new(3);
    bed.run(async {
        let runtime = bed.runtime.clone();
        let redlock = bed.redlock_over(|node| LateReleases { node, runtime: runtime.clone() });
        // The first round gets the first node only. Its key goes before the second round, as a bare command can do
        // it, but the release is still under way.
        bed.nodes[1].set("x", "other", ms(100));
        bed.nodes[2].set("x", "other", ms(100));
        let thief = bed.nodes[0].clone();
        bed.runtime.spawn({
            let runtime = bed.runtime.clone();
            Box::pin(async move {
                runtime.sleep(ms(50)).await;
                thief.remove("x");
            })
        });
        let lock = redlock.lock("x", s(10)).retry_delay(ms(200)).retry_jitter(ms(0)).await.unwrap();
        assert_eq!(lock.attempts(), 2);
        bed.sleep(3_000).await;
        let token = lock.token().as_str();
        assert_eq!(bed.values("x"), [Some(token.to_owned()), Some(token.to_owned()), Some(token.to_owned())]);
        assert!(bed.redlock().try_lock("x", s(10)).await.is_err());
    });
}

#[test]
fn several_resources_are_all_or_nothing() {
    let bed = Bed::new(3);
    bed.run(async {
        let redlock = bed.redlock();
        let lock = redlock.try_lock(["a", "b"], s(10)).await.unwrap();
        let error = redlock.try_lock(["b", "c"], s(10)).await.unwrap_err();
        assert!(matches!(error, Error::Contended(_)), "{error}");
        bed.assert_free("c");
        let other = redlock.try_lock("c", s(10)).await.unwrap();
        assert_eq!(lock.unlock().await.unwrap(), redlock_core::Unlock::Released);
        bed.assert_free("a");
        bed.assert_free("b");
        drop(other);
    });
}

#[test]
fn waiting_ends_in_time_with_a_last_attempt_close_to_the_end() {
    let bed = Bed::new(3);
    bed.run(async {
        for node in &bed.nodes {
            node.set("x", "other", s(60));
        }
        let request = bed.redlock().lock("x", s(10)).retry_forever().wait_at_most(s(2));
        let (error, took) = bed.timed(request).await;
        assert!(matches!(error, Err(Error::Contended(_))));
        assert!((ms(1_490)..=ms(2_000)).contains(&took), "{took:?}");

        for node in &bed.nodes {
            node.stop();
        }
        let request = bed.redlock().lock("x", s(10)).retry_forever().wait_at_most(ms(1_200));
        let (error, took) = bed.timed(request).await;
        assert!(matches!(error, Err(Error::Unavailable(_))));
        assert!((ms(500)..=ms(1_200)).contains(&took), "{took:?}");
    });
}

#[test]
fn delays_of_ones_own_are_waited_for() {
    let bed = Bed::new(1);
    bed.run(async {
        bed.nodes[0].set("x", "other", s(60));
        let request =
            bed.redlock().lock("x", s(10)).retry_forever().retry_delays(|| [ms(10), ms(100), ms(1_000)]);
        let (error, took) = bed.timed(request).await;
        assert_eq!((attempts(&error.unwrap_err()), took), (4, ms(1_110)));
    });
}

#[test]
fn a_lock_tells_how_it_was_won() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes[0].set("x", "other", s(60));
        bed.nodes[2].delay_replies(ms(5));
        let lock = bed.redlock().lock("x", s(10)).await.unwrap();
        let votes: Vec<String> = lock.votes().iter().map(ToString::to_string).collect();
        assert_eq!(votes, ["node 0: refused", "node 1: granted", "node 2: granted"]);
        assert_eq!(lock.attempts(), 1);
        assert_eq!(*lock.resources(), Resources::from("x"));
        assert_eq!(lock.remaining(), s(10) - ms(102) - ms(5));
    });
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_delays() {
    let run = |seed| {
        let bed = Bed::seeded(seed, 3);
        bed.run(async {
            bed.nodes[0].set("x", "other", ms(700));
            bed.nodes[1].set("x", "other", ms(700));
            let lock = bed.redlock().lock("x", s(10)).retry_forever().await.unwrap();
            (lock.token().clone(), lock.attempts(), bed.runtime.elapsed())
        })
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).0, run(6).0);
    assert_ne!(run(5).2, run(6).2);
}

/// Four live nodes split two to two by two contenders, and a fifth that is silent: each round could still be tipped by
/// that one. Waiting for it, each contender keeps the other from winning.
#[test]
fn contenders_do_not_wait_for_a_silent_node_with_their_keys_in_each_others_way() {
    for seed in 0..20 {
        let bed = Bed::seeded(seed, 5);
        bed.run(async {
            bed.nodes[4].stop();
            let contend = async |home: [usize; 2]| {
                let redlock = bed.redlock_over(|node| {
                    let near = home.iter().any(|home| bed.nodes[*home].name() == node.name());
                    Far { node, delay: if near { ms(0) } else { ms(1) }, runtime: bed.runtime.clone() }
                });
                for _ in 0..20 {
                    let request =
                        redlock.lock("x", s(20)).retry_forever().retry_delay(ms(20)).retry_jitter(ms(10));
                    let lock = request.await.unwrap();
                    bed.sleep(5).await;
                    lock.unlock().await.unwrap();
                }
            };
            let (_, took) = bed.timed(async { tokio::join!(contend([0, 1]), contend([2, 3])) }).await;
            // The node timeout is a second, and the first round of each may take it.
            assert!(took < s(5), "seed {seed}: {took:?}");
        });
    }
}

#[test]
fn a_lone_client_waits_for_a_node_that_was_silent_before() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes[0].stop();
        bed.nodes[1].shut_down();
        let redlock = bed.redlock();
        redlock.try_lock("x", s(20)).await.unwrap_err();
        // Back, but slower than the other.
        bed.nodes[0].resume();
        bed.nodes[0].delay_replies(ms(300));
        let lock = redlock.try_lock("x", s(20)).await.unwrap();
        assert_eq!(lock.took(), ms(300));
    });
}

#[test]
fn contention_is_told_from_silence_whichever_node_answers_first() {
    for slow in 1..3 {
        let bed = Bed::new(3);
        bed.run(async {
            bed.nodes.iter().for_each(|node| node.set("x", "other", s(60)));
            bed.nodes[0].shut_down();
            bed.nodes[slow].delay_replies(ms(5));
            let (error, took) = bed.timed(bed.redlock().try_lock("x", s(30))).await;
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Contended(_)), "{slow}: {error}");
            assert_eq!(took, ms(5), "{slow}");
        });
    }
}

#[test]
fn a_timeout_that_was_cut_short_says_nothing_about_a_node() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes[0].set("x", "other", s(60));
        bed.nodes.iter().for_each(|node| node.delay_replies(ms(5)));
        bed.nodes[0].delay_replies(ms(4));
        let redlock = bed.redlock();
        redlock.lock("y", ms(5)).retry_count(0).await.unwrap_err();
        let lock = redlock.lock("x", s(60)).await.unwrap();
        assert_eq!(lock.attempts(), 1);
    });
}

#[test]
fn the_last_attempt_waits_for_silent_nodes_too() {
    let bed = Bed::new(3);
    bed.run(async {
        let redlock = bed.redlock();
        bed.nodes[1].stop();
        bed.nodes[2].stop();
        redlock.try_lock("y", s(10)).await.unwrap_err();
        bed.nodes[1].resume();
        bed.nodes[2].resume();
        bed.nodes[0].set("x", "other", s(60));
        bed.nodes[1].delay_replies(ms(5));
        bed.nodes[2].delay_replies(ms(5));
        assert_eq!(redlock.try_lock("x", s(10)).await.unwrap().took(), ms(5));
    });
}

#[test]
fn a_bounded_wait_is_used_when_it_is_shorter_than_a_node_timeout() {
    for (ttl, wait) in [(s(60), s(2)), (s(60), s(3)), (s(10), ms(500)), (s(3_600), s(60))] {
        let bed = Bed::new(3);
        bed.run(async {
            bed.nodes.iter().for_each(|node| node.set("x", "other", wait / 2));
            let request =
                bed.redlock().lock("x", ttl).retry_forever().retry_delay(ms(50)).retry_jitter(ms(0));
            let (lock, took) = bed.timed(request.wait_at_most(wait)).await;
            assert!(lock.is_ok(), "{ttl:?}, {wait:?}: {lock:?} after {took:?}");
        });
    }
}

#[test]
fn a_bounded_wait_is_not_overrun_by_the_clean_up() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes[1].set("x", "other", s(60));
        bed.nodes[2].set("x", "other", s(60));
        bed.nodes[0].delay_replies(ms(0));
        let redlock = bed.builder().node_timeout(s(1)).build().unwrap();
        bed.nodes[1].delay_replies(ms(900));
        bed.nodes[2].delay_replies(ms(900));
        let stopping = async {
            bed.sleep(1).await;
            bed.nodes[0].stop();
        };
        let request = redlock.lock("x", s(60)).retry_forever().wait_at_most(s(1));
        let ((error, took), ()) = tokio::join!(bed.timed(request), stopping);
        assert!(error.is_err());
        assert!(took <= s(1), "{took:?}");
    });
}

#[test]
fn a_wait_of_nothing_is_a_single_attempt() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes.iter().for_each(|node| node.delay_replies(ms(20)));
        let lock = bed.redlock().lock("x", s(10)).retry_forever().wait_at_most(s(0)).await.unwrap();
        assert_eq!((lock.attempts(), lock.took()), (1, ms(20)));
        let (error, took) =
            bed.timed(bed.redlock().lock("x", s(10)).retry_forever().wait_at_most(s(0))).await;
        assert!(matches!(error, Err(Error::Contended(_))));
        assert!(took <= ms(50), "{took:?}");
    });
}
