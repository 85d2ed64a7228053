//! Fencing tokens: the trips that they take, and that they are unique and in order.

use std::{num::NonZeroU64, time::Duration};

use redlock_core::{Error, MemoryBackend, NodeOutcome, Redlock, Runtime};
use redlock_tests::harness::{Harness, answers, ms, s};

/// A number that no wall clock reaches.
pub(crate) const AHEAD: u64 = 1 << 52;

pub(crate) fn number(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap()
}

pub(crate) fn fenced(harness: &Harness) -> Redlock {
    harness.builder().fenced().build().unwrap()
}

/// Nodes whose next grants of "x" count these numbers.
pub(crate) fn counting(next: &[u64]) -> Harness {
    let harness = Harness::new(next.len());
    for (node, next) in harness.nodes.iter().zip(next) {
        node.set_counter("x", number(next - 1));
    }
    harness
}

pub(crate) fn counters(harness: &Harness, resource: &str) -> Vec<Option<u64>> {
    harness.nodes.iter().map(|node| node.counter(resource).map(NonZeroU64::get)).collect()
}

#[test]
fn nodes_that_agree_take_one_trip_and_the_token_is_the_wall_clock() {
    let harness = Harness::new(3);
    harness.run(async {
        let clock = u64::try_from(harness.runtime.unix_time().as_micros()).unwrap();
        let lock = fenced(&harness).lock("x", s(10)).await.unwrap();
        assert_eq!(lock.fence(), Some(number(clock)));
        assert_eq!(lock.lease().fence(), lock.fence());
        assert!(lock.replies().iter().all(|reply| reply.fence == lock.fence()), "{:?}", lock.replies());
        assert_eq!(harness.requests(), [1, 1, 1]);
        let guard = lock.keep_alive();
        assert_eq!(guard.fence(), Some(number(clock)));
        guard.unlock().await.unwrap();
        harness.assert_free("x");
        assert_eq!(counters(&harness, "x"), [Some(clock); 3], "counters outlive the keys");

        let next = fenced(&harness).lock("x", s(10)).await.unwrap();
        assert_eq!(next.fence(), Some(number(clock + 1)), "in the same microsecond");
    });
}

#[test]
fn locks_have_a_token_only_if_they_were_requested_with_one() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let first = redlock.lock("x", s(10)).fenced().await.unwrap();
        let fence = first.fence().unwrap();
        assert!(redlock.try_lock("x", s(10)).await.is_err(), "a lock without a token does not get past it");
        first.unlock().await.unwrap();
        let without = redlock.lock("x", s(10)).await.unwrap();
        assert_eq!((without.fence(), without.lease().fence()), (None, None));
        assert!(without.replies().iter().all(|reply| reply.fence.is_none()));
        assert!(redlock.try_lock("x", s(10)).fenced().await.is_err());
        without.unlock().await.unwrap();
        assert_eq!(counters(&harness, "x"), [Some(fence.get()); 3]);
        assert!(redlock.lock("x", s(10)).fenced().await.unwrap().fence().unwrap() > fence);
    });
}

#[test]
fn a_routine_sees_the_token_of_its_lock() {
    let harness = Harness::new(3);
    harness.run(async {
        let used = harness.redlock().using("x", s(10), |lease| async move { lease.fence() }).fenced();
        assert_eq!(used.await.unwrap(), harness.nodes[0].counter("x"));
    });
}

#[test]
fn nodes_that_disagree_are_raised_to_the_highest_number_in_a_second_trip() {
    let harness = counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 15]);
    harness.run(async {
        let lock = fenced(&harness).lock("x", s(10)).await.unwrap();
        assert_eq!(lock.fence(), Some(number(AHEAD + 20)));
        assert_eq!(lock.attempts(), 1);
        assert!(lock.replies().iter().all(|reply| reply.fence == lock.fence()), "{:?}", lock.replies());
        assert_eq!(harness.requests(), [2, 2, 2]);
        assert_eq!(counters(&harness, "x"), [Some(AHEAD + 20); 3]);
        drop(lock);
        harness.sleep(1).await;
        let next = fenced(&harness).lock("x", s(10)).await.unwrap();
        assert_eq!(next.fence(), Some(number(AHEAD + 21)));
        assert_eq!(harness.requests(), [4, 4, 4], "they agree from then on");
    });
}

#[test]
fn a_majority_that_agrees_is_enough() {
    let harness = counting(&[AHEAD + 10, AHEAD + 30, AHEAD + 10]);
    harness.run(async {
        let lock = fenced(&harness).lock("x", s(10)).await.unwrap();
        assert_eq!((lock.fence(), harness.requests()), (Some(number(AHEAD + 10)), vec![1, 1, 1]));
        let fences = [10, 30, 10].map(|next| Some(number(AHEAD + next)));
        assert!(lock.replies().iter().map(|reply| reply.fence).eq(fences), "{:?}", lock.replies());
    });
}

#[test]
fn a_quorum_that_agrees_or_was_raised_waits_for_no_other_node() {
    for (next, trips) in [([10, 10, 10], 1), ([10, 20, 10], 2)] {
        let harness = counting(&next.map(|next| AHEAD + next));
        harness.run(async {
            harness.nodes[..2].iter().for_each(|node| node.delay_requests(ms(1)));
            harness.nodes[2].stop();
            let lock = fenced(&harness).lock("x", s(10)).await.unwrap();
            assert_eq!(lock.took(), ms(trips), "{next:?}");
            assert!(matches!(lock.replies()[2].outcome, NodeOutcome::Pending), "{next:?}");
        });
    }
}

#[test]
fn a_number_that_is_higher_than_the_one_raised_to_is_adopted() {
    let harness = counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 30]);
    harness.run(async {
        let redlock = with_a_slow_node(&harness);
        // After the grants, before the raise: two nodes are left, of which one has not voted yet.
        let removing = async {
            between_the_trips(&harness).await;
            harness.nodes[1].remove("x");
        };
        let (lock, ()) = tokio::join!(redlock.lock("x", s(10)), removing);
        let lock = lock.unwrap();
        assert_eq!(lock.fence(), Some(number(AHEAD + 30)));
        assert_eq!(lock.attempts(), 1);
        assert_eq!(harness.requests(), [3, 3, 3]);
        assert_eq!(counters(&harness, "x"), [AHEAD + 30, AHEAD + 20, AHEAD + 30].map(Some));
    });
}

#[test]
fn a_node_that_fails_between_the_trips_is_made_up_for_by_one_that_has_not_voted() {
    let harness = counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 15]);
    harness.run(async {
        let redlock = with_a_slow_node(&harness);
        let failing = async {
            between_the_trips(&harness).await;
            harness.nodes[1].shut_down();
        };
        let (lock, ()) = tokio::join!(redlock.lock("x", s(10)), failing);
        let lock = lock.unwrap();
        assert_eq!((lock.fence(), lock.attempts()), (Some(number(AHEAD + 20)), 1));
        assert_eq!(counters(&harness, "x"), [Some(AHEAD + 20); 3]);
        assert!(matches!(lock.replies()[1].outcome, NodeOutcome::Failed(_)), "{:?}", lock.replies());
        assert_eq!(lock.replies()[1].fence, None);
    });
}

/// Its counters may be of yesterday, although it has the key.
#[test]
fn a_node_that_restarts_between_its_grant_and_its_raise_has_a_vote_only_without_a_guard() {
    let outcome = |guarded: bool| {
        let harness = counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 15]);
        harness.nodes[0].delay_requests(ms(1));
        harness.nodes[1].delay_requests(ms(3));
        harness.nodes[2].shut_down();
        harness.run(async {
            let builder = harness.builder().fenced();
            let builder = if guarded { builder.max_ttl(s(30)) } else { builder };
            let redlock = builder.build().unwrap();
            // The first node has granted, and the second not yet.
            let restarting = async {
                harness.runtime.sleep(ms(2)).await;
                harness.nodes[0].shut_down();
                harness.nodes[0].start();
            };
            let (lock, ()) = tokio::join!(redlock.lock("x", s(10)).retry_count(0), restarting);
            let releases = u64::from(guarded);
            assert_eq!(harness.requests()[..2], [2 + releases; 2], "both were asked to raise");
            lock.map(|lock| lock.fence())
        })
    };
    assert_eq!(outcome(false).unwrap(), Some(number(AHEAD + 20)));
    let error = outcome(true).unwrap_err();
    assert!(matches!(error, Error::NoQuorum(_)), "{error}");
    assert_eq!(answers(&error), "xgx", "{error}");
    assert!(error.to_string().contains("may have forgotten locks"), "{error}");
}

/// What the raise of a round meets, whose two fast nodes disagree: others have the keys of the `gone` nodes,
/// and the `down` ones have failed.
async fn raised(harness: &Harness, gone: &[usize], down: &[usize]) -> Result<Option<NonZeroU64>, Error> {
    let redlock = with_a_slow_node(harness);
    let changing = async {
        between_the_trips(harness).await;
        gone.iter().for_each(|node| harness.nodes[*node].set("x", "other", s(60)));
        down.iter().for_each(|node| harness.nodes[*node].shut_down());
    };
    let (lock, ()) = tokio::join!(redlock.lock("x", s(10)).retry_count(0), changing);
    // It is dropped, and so released.
    lock.map(|lock| lock.fence())
}

#[test]
fn a_round_whose_raise_fails_is_lost_for_the_reason_that_the_nodes_give() {
    for (gone, down, replies, contended) in [
        (&[0, 1][..], &[][..], "rr.", true),
        (&[0], &[1], "rxg", true),
        (&[], &[0, 1], "xxg", false),
        (&[0, 1, 2], &[], "rr.", true),
    ] {
        let harness = counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 15]);
        harness.run(async {
            let error = raised(&harness, gone, down).await.unwrap_err();
            assert_eq!(answers(&error), replies, "{error}");
            assert_eq!(matches!(error, Error::Contended(_)), contended, "{error}");
            assert_eq!(matches!(error, Error::NoQuorum(_)), !contended, "{error}");
            harness.nodes.iter().for_each(MemoryBackend::start);
            harness.sleep(5_000).await;
            for (node, value) in harness.values("x").into_iter().enumerate() {
                assert_eq!(value.as_deref(), gone.contains(&node).then_some("other"), "node {node}");
            }
        });
    }
}

#[test]
fn a_round_whose_raise_fails_is_followed_by_another() {
    let harness = counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 15]);
    harness.run(async {
        let redlock = with_a_slow_node(&harness);
        let removing = async {
            between_the_trips(&harness).await;
            harness.nodes[0].remove("x");
            harness.nodes[1].remove("x");
        };
        let (lock, ()) = tokio::join!(redlock.lock("x", s(10)), removing);
        let lock = lock.unwrap();
        assert_eq!(lock.attempts(), 2);
        assert!(lock.fence() > Some(number(AHEAD + 20)));
        // The slow node grants later.
        harness.runtime.sleep(ms(10)).await;
        assert_eq!(harness.values("x"), vec![Some(lock.token().as_str().to_owned()); 3]);
    });
}

#[test]
fn the_second_trip_has_to_end_within_the_validity_too() {
    // Confirmed 1 ms before the validity of 295 ms ends, at its end, and after it.
    for (delay, wins) in [(147, true), (148, false), (200, false)] {
        let harness = counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 15]);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.delay_replies(ms(delay)));
            let redlock = harness.builder().fenced().node_timeout(s(5)).build().unwrap();
            let (lock, took) = harness.timed(redlock.lock("x", ms(300)).retry_count(0)).await;
            // With the trip that removes its keys.
            assert!(took <= ms(295 + delay), "{took:?}");
            match lock {
                Ok(lock) => assert_eq!((wins, lock.remaining()), (true, ms(295 - 2 * delay))),
                Err(error) => assert!(!wins && matches!(error, Error::NoQuorum(_)), "{error}"),
            }
            harness.sleep(1_000).await;
        });
        harness.assert_free("x");
    }
}

#[test]
fn the_second_trip_does_not_exceed_the_time_of_the_call() {
    let harness = counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 15]);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(60)));
        let request = harness.redlock().lock("x", s(10)).fenced().retry_count(0).acquire_timeout(ms(100));
        let (lock, took) = harness.timed(request).await;
        assert!(matches!(lock, Err(Error::NoQuorum(_))), "{lock:?}");
        assert_eq!(took, ms(100));
        harness.sleep(1_000).await;
    });
    harness.assert_free("x");
}

#[test]
fn a_call_that_is_dropped_during_the_raise_leaves_no_key() {
    let harness = counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 15]);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.delay_requests(ms(10)));
        for after in [11, 15, 19] {
            let redlock = fenced(&harness);
            assert!(harness.cancel_after(ms(after), redlock.lock("x", s(60))).await.is_none());
            assert!(harness.nodes[0].get("x").is_some(), "{after}");
            harness.sleep(100).await;
            harness.assert_free("x");
            for (node, ahead) in harness.nodes.iter().zip([10, 20, 15]) {
                node.set_counter("x", number(AHEAD + after * 100 + ahead));
            }
        }
    });
    harness.assert_at_rest();
}

#[test]
fn a_higher_quorum_keeps_tokens_in_order_although_nodes_lose_their_counters() {
    let harness = Harness::new(5);
    harness.run(async {
        // The proposals are no help: this clock is a day behind.
        let redlock = |behind: i64| {
            let process = harness.sim.process(0);
            process.skew_wall_clock(-behind);
            let builder = Redlock::builder(process).nodes(harness.nodes.clone());
            builder.entropy(harness.sim.entropy()).fenced().fence_quorum(4).build().unwrap()
        };
        harness.nodes[4].shut_down();
        let first = redlock(0).lock("x", s(10)).await.unwrap();
        let fence = first.fence().unwrap();
        first.unlock().await.unwrap();
        harness.nodes[4].start();
        harness.nodes[0].clear();
        harness.nodes[1].clear();
        let second = redlock(86_400_000).lock("x", s(10)).await.unwrap();
        assert!(second.fence().unwrap() > fence);
        drop(second);
        harness.sleep(1).await;

        harness.nodes[0].shut_down();
        harness.nodes[1].shut_down();
        let error = redlock(0).lock("x", s(10)).retry_count(0).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "three of five are too few: {error}");
        assert_eq!(answers(&error), "xxggg");
        let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
        lock.extend(s(20)).await.unwrap();
    });
}

#[test]
fn tokens_are_in_order_whatever_the_wall_clocks_show() {
    for seed in 0..20 {
        let harness = Harness::seeded(seed, 3);
        harness.run(async {
            let skews = [0, 3_600_000, -3_600_000, 50, -1_700_000_000_000, 900, i64::from(i32::MAX) * 1_000];
            let clients = skews.map(|skew| {
                let process = harness.sim.process(0);
                process.skew_wall_clock(skew);
                let builder = Redlock::builder(process).nodes(harness.nodes.clone());
                builder.entropy(harness.sim.entropy()).fenced().build().unwrap()
            });
            let mut last = None;
            for turn in 0..60 {
                let client = &clients[(turn * turn + turn) % clients.len()];
                let lost = &harness.nodes[turn % 3];
                if turn % 4 == 0 {
                    lost.shut_down();
                }
                let lock = client.lock("x", s(10)).await.unwrap();
                assert!(lock.fence() > last, "seed {seed}, turn {turn}");
                last = lock.fence();
                lock.unlock().await.unwrap();
                lost.start();
                harness.sleep(turn as u64).await;
            }
            let limit = harness.runtime.unix_time() + s(2);
            assert!(u128::from(last.unwrap().get()) < limit.as_micros(), "clocks ahead use up nothing");
        });
    }
}

#[test]
fn locks_on_overlapping_resources_have_tokens_in_order() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.set_counter("x", number(AHEAD)));
        let redlock = fenced(&harness);
        let both = redlock.lock(["x", "y"], s(10)).await.unwrap();
        assert_eq!(both.fence(), Some(number(AHEAD + 1)));
        assert_eq!(counters(&harness, "y"), [Some(AHEAD + 1); 3], "both have the number");
        both.unlock().await.unwrap();
        let one = redlock.lock("y", s(10)).await.unwrap();
        assert_eq!(one.fence(), Some(number(AHEAD + 2)));
        one.unlock().await.unwrap();
        let both = redlock.lock(["y", "x"], s(10)).await.unwrap();
        assert_eq!(both.fence(), Some(number(AHEAD + 3)));
    });
}

#[test]
fn counters_expire_only_when_they_are_unused_and_the_clock_is_ahead_of_them_then() {
    let harness = Harness::new(3);
    harness.run(async {
        let day = Duration::from_secs(86_400);
        let lock = fenced(&harness).lock("x", s(10)).await.unwrap();
        let fence = lock.fence();
        lock.unlock().await.unwrap();
        harness.runtime.sleep(day - ms(1)).await;
        assert_eq!(harness.nodes[0].counter("x"), fence);
        let mut lock = fenced(&harness).lock("x", 2 * day).await.unwrap();
        harness.runtime.sleep(day - ms(1)).await;
        lock.extend(2 * day).await.unwrap();
        harness.runtime.sleep(day - ms(1)).await;
        assert_eq!(harness.nodes[0].counter("x"), lock.fence(), "an extension uses it");
        let last = lock.fence();
        lock.unlock().await.unwrap();
        harness.sleep(2).await;
        assert_eq!(harness.nodes[0].counter("x"), None);
        assert!(fenced(&harness).lock("x", s(10)).await.unwrap().fence() > last);

        let forever = harness.builder().fenced().fence_counters_forever().build().unwrap();
        let kept = forever.lock("y", s(10)).await.unwrap().fence();
        harness.runtime.sleep(1_000 * day).await;
        assert_eq!(harness.nodes[0].counter("y"), kept);
    });
}

/// The third node is so slow that the others decide what follows from their grants, after 1 ms.
fn with_a_slow_node(harness: &Harness) -> Redlock {
    for (node, delay) in harness.nodes.iter().zip([1, 1, 5]) {
        node.delay_requests(ms(delay));
    }
    fenced(harness)
}

/// Until the raise is under way.
pub(crate) async fn between_the_trips(harness: &Harness) {
    harness.runtime.sleep(Duration::from_micros(1_500)).await;
}
