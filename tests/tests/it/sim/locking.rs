//! Acquiring a lock: votes, retries, and faults on the way.

use redlock_core::{BackendErrorKind, Error, Lock, LockBackend, Resources, Runtime};
use redlock_tests::harness::{Harness, attempts, ms, s};

use crate::sim::odd_nodes::{Far, LateReleases, Resending};

#[test]
fn a_tie_is_contended_at_once_and_leaves_no_key() {
    for (nodes, taken) in [(2, vec![1]), (4, vec![2, 3])] {
        let harness = Harness::new(nodes);
        harness.run(async {
            for node in &taken {
                harness.nodes[*node].set("x", "other", s(60));
            }
            let (error, took) = harness.timed(harness.redlock().lock("x", s(10)).retry_count(0)).await;
            assert!(matches!(error, Err(Error::Contended(_))), "{error:?}");
            assert_eq!(took, ms(0));
            for (node, value) in harness.values("x").into_iter().enumerate() {
                assert_eq!(value.as_deref(), taken.contains(&node).then_some("other"), "node {node}");
            }
        });
        harness.assert_at_rest();
    }
}

#[test]
fn the_key_of_a_lost_round_is_no_obstacle_to_the_next() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[1].set("x", "other", ms(250));
        harness.nodes[2].shut_down();
        let (lock, took) = harness.timed(harness.redlock().lock("x", s(60)).retry_delay(s(1))).await;
        let lock = lock.unwrap();
        assert_eq!(
            (lock.attempts(), took),
            (2, ms(250)),
            "the node reports that the other's key has expired"
        );
        assert_eq!(harness.nodes[0].get("x").as_deref(), Some(lock.token().as_str()));
    });
}

#[test]
fn three_contenders_that_split_the_nodes_all_get_their_turn_soon() {
    for seed in 0..50 {
        let harness = Harness::seeded(seed, 3);
        // Each contender is close to another node, so that it gets that one, and the others reply too late.
        let contend = async |home: usize| {
            let redlock = harness.redlock_over(|node| {
                let delay = if node.name() == harness.nodes[home].name() { ms(0) } else { ms(1) };
                Far { node, delay, runtime: harness.runtime.clone() }
            });
            let lock: Lock = redlock.lock("x", s(10)).retry_count(8).await.unwrap();
            let from = harness.now();
            harness.sleep(5).await;
            let to = harness.now();
            let attempts = lock.attempts();
            lock.unlock().await.unwrap();
            (from, to, attempts)
        };
        harness.run(async {
            let (a, b, c) = tokio::join!(contend(0), contend(1), contend(2));
            let mut holds = [a, b, c];
            holds.sort_unstable();
            assert!(holds.iter().all(|(_, _, attempts)| *attempts > 1), "seed {seed}: no split: {holds:?}");
            assert!(holds.windows(2).all(|pair| pair[0].1 <= pair[1].0), "seed {seed}: {holds:?}");
        });
        assert!(harness.runtime.elapsed() < ms(1_500), "seed {seed}: {:?}", harness.runtime.elapsed());
    }
}

#[test]
fn replies_after_the_validity_are_no_votes_and_are_cleaned_up() {
    for delay in [295, 299, 600] {
        let harness = Harness::new(3);
        harness.run(async {
            for node in &harness.nodes {
                node.delay_replies(ms(delay));
            }
            // Long enough to wait for every reply, so that only the validity can reject them.
            let redlock = harness.builder().node_timeout(s(5)).build().unwrap();
            let error = redlock.lock("x", ms(300)).retry_count(0).await.unwrap_err();
            assert!(matches!(error, Error::NoQuorum(_)), "{delay}: {error}");
            harness.sleep(700).await;
        });
        // The keys are removed by a release, not by their TTL: every node received both requests.
        assert!(harness.requests().iter().all(|requests| *requests >= 2), "{:?}", harness.requests());
        harness.assert_free("x");
    }
}

#[test]
fn a_lock_is_never_returned_without_validity() {
    for delay in 285..300 {
        let harness = Harness::new(1);
        harness.run(async {
            harness.nodes[0].delay_replies(ms(delay));
            let redlock = harness.builder().node_timeout(s(5)).build().unwrap();
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
    let harness = Harness::new(3);
    harness.run(async {
        for node in &harness.nodes {
            node.set("x", "other", ms(1_500));
        }
        let lock = harness.redlock().lock("x", ms(500)).retry_count(20).await.unwrap();
        assert!(lock.attempts() > 1);
        assert_eq!(lock.remaining(), ms(493));
    });
}

#[test]
fn an_acquire_that_the_client_library_retransmits_is_granted() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock_over(Resending);
        let mut lock = redlock.try_lock("x", s(10)).await.unwrap();
        lock.extend(s(10)).await.unwrap();
        lock.unlock().await.unwrap();
    });
    harness.assert_free("x");
}

#[test]
fn nodes_that_reject_end_it_at_once() {
    let harness = Harness::new(3);
    harness.run(async {
        for node in &harness.nodes[..2] {
            node.fail_next(100, BackendErrorKind::Rejected);
        }
        let (error, took) = harness.timed(harness.redlock().lock("x", s(10)).retry_forever()).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Rejected(_)), "{error}");
        assert_eq!((attempts(&error), took), (1, ms(0)));
        // A single node is outvoted.
        harness.nodes[0].fail_next(0, BackendErrorKind::Rejected);
        harness.redlock().try_lock("x", s(10)).await.unwrap().unlock().await.unwrap();
    });
    harness.assert_free("x");
}

#[test]
fn the_late_release_of_a_lost_round_deletes_nothing_that_counts() {
    let harness = Harness::new(3);
    harness.run(async {
        let runtime = harness.runtime.clone();
        let redlock = harness.redlock_over(|node| LateReleases { node, runtime: runtime.clone() });
        // The first round gets the first node only. Its key is deleted before the second round by a bare
        // command, but the release is still in flight.
        harness.nodes[1].set("x", "other", ms(100));
        harness.nodes[2].set("x", "other", ms(100));
        let thief = harness.nodes[0].clone();
        harness.runtime.spawn({
            let runtime = harness.runtime.clone();
            Box::pin(async move {
                runtime.sleep(ms(50)).await;
                thief.remove("x");
            })
        });
        let lock = redlock.lock("x", s(10)).retry_delay(ms(200)).retry_jitter(ms(0)).await.unwrap();
        assert_eq!(lock.attempts(), 2);
        harness.sleep(3_000).await;
        let token = lock.token().as_str();
        assert_eq!(
            harness.values("x"),
            [Some(token.to_owned()), Some(token.to_owned()), Some(token.to_owned())]
        );
        assert!(harness.redlock().try_lock("x", s(10)).await.is_err());
    });
}

#[test]
fn several_resources_are_all_or_nothing() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let lock = redlock.try_lock(["a", "b"], s(10)).await.unwrap();
        let error = redlock.try_lock(["b", "c"], s(10)).await.unwrap_err();
        assert!(matches!(error, Error::Contended(_)), "{error}");
        harness.assert_free("c");
        let other = redlock.try_lock("c", s(10)).await.unwrap();
        assert_eq!(lock.unlock().await.unwrap(), redlock_core::UnlockOutcome::Released);
        harness.assert_free("a");
        harness.assert_free("b");
        drop(other);
    });
}

#[test]
fn a_lock_knows_how_it_was_won() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].set("x", "other", s(60));
        harness.nodes[2].delay_replies(ms(5));
        let lock = harness.redlock().lock("x", s(10)).await.unwrap();
        let votes: Vec<String> = lock.replies().iter().map(ToString::to_string).collect();
        assert_eq!(votes, ["node 0: refused", "node 1: granted", "node 2: granted"]);
        assert_eq!(lock.attempts(), 1);
        assert_eq!(*lock.resources(), Resources::from("x"));
        assert_eq!(lock.remaining(), s(10) - ms(102) - ms(5));
    });
}

#[test]
fn the_same_seed_draws_the_same_tokens_and_delays() {
    let run = |seed| {
        let harness = Harness::seeded(seed, 3);
        harness.run(async {
            harness.nodes[0].fail_next(6, BackendErrorKind::Transient);
            harness.nodes[1].fail_next(6, BackendErrorKind::Transient);
            let lock = harness.redlock().lock("x", s(10)).retry_forever().await.unwrap();
            (lock.token().clone(), lock.attempts(), harness.runtime.elapsed())
        })
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).0, run(6).0);
    assert_ne!(run(5).2, run(6).2);
}
