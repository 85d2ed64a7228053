//! Lost rounds, cancelled calls, dropped locks and failing nodes leave nothing behind on the nodes.

use redlock_core::{Error, LockBackend, UnlockOutcome};
use redlock_tests::{
    harness::{Harness, ms, s},
    sim_runtime::poll_once,
};

use crate::sim::odd_nodes::Far;

#[test]
fn the_late_acquire_of_a_stopped_node_is_rolled_back_when_it_resumes() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].stop();
        harness.nodes[1].set("x", "other", s(60));
        harness.redlock().lock("x", s(30)).retry_count(0).await.unwrap_err();
        harness.sleep(10_000).await;
        harness.nodes[0].resume();
        harness.sleep(10).await;
        assert_eq!(harness.nodes[0].get("x"), None, "a stale key for a whole TTL");
        harness.sleep(60_000).await;
    });
    harness.assert_at_rest();
}

#[test]
fn an_unlock_that_finds_nothing_takes_one_round() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = harness.redlock().lock("x", s(10)).await.unwrap();
        harness.nodes.iter().for_each(|node| node.clear());
        let (unlocked, took) = harness.timed(lock.unlock()).await;
        assert_eq!((unlocked.unwrap(), took), (UnlockOutcome::NotHeld, ms(0)));
        harness.sleep(30_000).await;
        assert_eq!(harness.requests(), [2, 2, 2], "one acquire, one release");
    });
    harness.assert_at_rest();
}

#[test]
fn unlocking_a_lapsed_lock_leaves_the_next_owner_alone() {
    let harness = Harness::new(3);
    harness.run(async {
        let old = harness.redlock().lock("x", s(1)).await.unwrap();
        harness.sleep(1_000).await;
        let new = harness.redlock().lock("x", s(10)).await.unwrap();
        assert!(!old.is_valid());
        assert_eq!(old.unlock().await.unwrap(), UnlockOutcome::NotHeld);
        assert!(harness.values("x").iter().all(|value| value.as_deref() == Some(new.token().as_str())));
        assert_eq!(new.unlock().await.unwrap(), UnlockOutcome::Released);
    });
}

#[test]
fn an_unlock_without_a_quorum_fails_within_a_node_timeout_and_is_completed_later() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = harness.redlock().lock("x", s(20)).await.unwrap();
        harness.nodes[0].stop();
        harness.nodes[1].shut_down();
        let (unlocked, took) = harness.timed(lock.unlock()).await;
        assert!(matches!(unlocked, Err(Error::NoQuorum(_))), "{unlocked:?}");
        assert!(took <= s(1), "{took:?}");
        harness.sleep(5_000).await;
        harness.nodes[0].resume();
        harness.nodes[1].start();
        harness.sleep(3_000).await;
        harness.assert_free("x");
    });
    harness.assert_at_rest();
}

#[test]
fn an_uncontended_lock_and_unlock_is_one_request_each_for_every_node() {
    for nodes in 1..=5 {
        for slow in [ms(0), ms(7)] {
            let harness = Harness::new(nodes);
            harness.run(async {
                harness.nodes[0].delay_replies(slow);
                harness.redlock().lock("x", s(10)).await.unwrap().unlock().await.unwrap();
                harness.sleep(30_000).await;
                assert_eq!(harness.requests(), vec![2; nodes], "{slow:?}");
            });
            harness.assert_at_rest();
        }
    }
}

/// The call is dropped at every possible time, with every kind of node fault, without contention and with it.
#[test]
fn a_lock_that_is_cancelled_anywhere_leaves_no_key_behind() {
    for (fault, taken) in [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (1, 1), (2, 1), (3, 1)] {
        for at in 0..130 {
            let harness = Harness::seeded(at, 3);
            harness.run(async {
                for node in &harness.nodes {
                    node.delay_requests(ms(3));
                    node.delay_replies(ms(4));
                }
                for node in &harness.nodes[..taken] {
                    node.set("x", "other", ms(60));
                }
                match fault {
                    1 => harness.nodes[2].stop(),
                    2 => harness.nodes[2].lose_next_replies(2),
                    3 => harness.nodes[2].delay_requests(ms(300)),
                    _ => {}
                }
                let redlock = harness.redlock();
                let request = redlock.lock("x", s(60)).retry_delay(ms(30)).retry_jitter(ms(5)).retry_count(2);
                let locked = harness.cancel_after(ms(at), request.into_future()).await;
                drop(locked);
                harness.sleep(1_000).await;
                harness.nodes[2].resume();
                harness.sleep(4_000).await;
                assert_eq!(
                    harness.values("x"),
                    [None, None, None],
                    "fault {fault}, {taken} taken, dropped at {at} ms"
                );
                harness.sleep(60_000).await;
            });
            harness.assert_at_rest();
        }
    }
}

#[test]
fn a_lock_request_that_is_never_polled_sends_nothing() {
    let harness = Harness::new(3);
    harness.run(async {
        drop(harness.redlock().lock("x", s(10)).into_future());
        harness.sleep(1_000).await;
    });
    assert_eq!(harness.requests(), [0, 0, 0]);
}

#[test]
fn a_lock_that_is_dropped_or_half_unlocked_is_released() {
    let harness = Harness::new(3);
    harness.run(async {
        drop(harness.redlock().lock("x", s(60)).await.unwrap());
        harness.sleep(1).await;
        harness.assert_free("x");

        let lock = harness.redlock().lock("x", s(60)).await.unwrap();
        drop(lock.unlock());
        harness.sleep(1).await;
        harness.assert_free("x");

        let lock = harness.redlock().lock("x", s(60)).await.unwrap();
        harness.nodes.iter().for_each(|node| node.delay_requests(ms(10)));
        let mut unlock = Box::pin(lock.unlock());
        assert!(poll_once(&mut unlock).await.is_pending());
        drop(unlock);
        harness.sleep(11).await;
        harness.assert_free("x");
    });
    harness.assert_at_rest();
}

#[test]
fn a_forgotten_lock_lives_for_its_ttl() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.redlock().lock("x", s(10)).await.unwrap().forget();
        harness.sleep(9_999).await;
        assert!(harness.redlock().try_lock("x", s(10)).await.is_err());
        harness.sleep(1).await;
        harness.redlock().try_lock("x", s(10)).await.unwrap().forget();
    });
}

#[test]
fn keys_that_a_straggler_grants_after_the_lock_is_gone_are_released() {
    let harness = Harness::new(3);
    harness.run(async {
        // On the last node the release overtakes the acquire, as is possible over a second connection.
        let redlock = harness.redlock_over(|node| {
            let delay = if node.name().unwrap() == "node 2" { ms(200) } else { ms(0) };
            Far { node, delay, runtime: harness.runtime.clone() }
        });
        let lock = redlock.lock("x", s(10)).await.unwrap();
        lock.unlock().await.unwrap();
        harness.sleep(100).await;
        assert_eq!(harness.requests(), [2, 2, 1]);
        harness.sleep(150).await;
        assert!(harness.nodes[2].get("x").is_some(), "the late acquire");
        harness.sleep(1_000).await;
        harness.assert_free("x");
        assert_eq!(harness.requests(), [2, 2, 3]);
    });
    harness.assert_at_rest();
}
