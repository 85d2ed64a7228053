//! What is left behind on the nodes: by lost rounds, cancelled calls, dropped locks and failing nodes. Nothing.

use redlock_core::{Error, LockBackend, UnlockOutcome};
use redlock_tests::sim::poll_once;

use crate::bed::{Bed, Far, ms, s};

#[test]
fn the_late_acquire_of_a_stopped_node_is_undone_when_it_goes_on() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes[0].stop();
        bed.nodes[1].set("x", "other", s(60));
        bed.redlock().lock("x", s(30)).retry_count(0).await.unwrap_err();
        bed.sleep(10_000).await;
        bed.nodes[0].resume();
        bed.sleep(10).await;
        assert_eq!(bed.nodes[0].get("x"), None, "a ghost for a whole ttl");
        bed.sleep(60_000).await;
    });
    bed.assert_at_rest();
}

#[test]
fn an_unlock_that_finds_nothing_takes_one_round() {
    let bed = Bed::new(3);
    bed.run(async {
        let lock = bed.redlock().lock("x", s(10)).await.unwrap();
        bed.nodes.iter().for_each(|node| node.clear());
        let (unlocked, took) = bed.timed(lock.unlock()).await;
        assert_eq!((unlocked.unwrap(), took), (UnlockOutcome::NotHeld, ms(0)));
        bed.sleep(30_000).await;
        assert_eq!(bed.requests(), [2, 2, 2], "one acquire, one release");
    });
    bed.assert_at_rest();
}

#[test]
fn unlocking_what_has_lapsed_leaves_the_next_owner_alone() {
    let bed = Bed::new(3);
    bed.run(async {
        let old = bed.redlock().lock("x", s(1)).await.unwrap();
        bed.sleep(1_000).await;
        let new = bed.redlock().lock("x", s(10)).await.unwrap();
        assert!(!old.is_valid());
        assert_eq!(old.unlock().await.unwrap(), UnlockOutcome::NotHeld);
        assert!(bed.values("x").iter().all(|value| value.as_deref() == Some(new.token().as_str())));
        assert_eq!(new.unlock().await.unwrap(), UnlockOutcome::Released);
    });
}

#[test]
fn an_unlock_without_a_quorum_says_so_in_a_node_timeout_and_is_made_up_for() {
    let bed = Bed::new(3);
    bed.run(async {
        let lock = bed.redlock().lock("x", s(20)).await.unwrap();
        bed.nodes[0].stop();
        bed.nodes[1].shut_down();
        let (unlocked, took) = bed.timed(lock.unlock()).await;
        assert!(matches!(unlocked, Err(Error::NoQuorum(_))), "{unlocked:?}");
        assert!(took <= s(1), "{took:?}");
        bed.sleep(5_000).await;
        bed.nodes[0].resume();
        bed.nodes[1].start();
        bed.sleep(3_000).await;
        bed.assert_free("x");
    });
    bed.assert_at_rest();
}

#[test]
fn an_uncontended_lock_and_unlock_is_one_request_each_for_every_node() {
    for nodes in 1..=5 {
        for slow in [ms(0), ms(7)] {
            let bed = Bed::new(nodes);
            bed.run(async {
                bed.nodes[0].delay_replies(slow);
                bed.redlock().lock("x", s(10)).await.unwrap().unlock().await.unwrap();
                bed.sleep(30_000).await;
                assert_eq!(bed.requests(), vec![2; nodes], "{slow:?}");
            });
            bed.assert_at_rest();
        }
    }
}

/// The call is dropped after every possible time, with every kind of node trouble, for a lone client and against
/// another's keys.
#[test]
fn a_lock_that_is_cancelled_anywhere_leaves_no_key_behind() {
    for (trouble, taken) in [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (1, 1), (2, 1), (3, 1)] {
        for at in 0..130 {
            let bed = Bed::seeded(at, 3);
            bed.run(async {
                for node in &bed.nodes {
                    node.delay_requests(ms(3));
                    node.delay_replies(ms(4));
                }
                for node in &bed.nodes[..taken] {
                    node.set("x", "other", ms(60));
                }
                match trouble {
                    1 => bed.nodes[2].stop(),
                    2 => bed.nodes[2].lose_next_replies(2),
                    3 => bed.nodes[2].delay_requests(ms(300)),
                    _ => {}
                }
                let redlock = bed.redlock();
                let request = redlock.lock("x", s(60)).retry_delay(ms(30)).retry_jitter(ms(5)).retry_count(2);
                let locked = bed.cancel_after(ms(at), request.into_future()).await;
                drop(locked);
                bed.sleep(1_000).await;
                bed.nodes[2].resume();
                bed.sleep(4_000).await;
                assert_eq!(
                    bed.values("x"),
                    [None, None, None],
                    "trouble {trouble}, {taken} taken, dropped at {at} ms"
                );
                bed.sleep(60_000).await;
            });
            bed.assert_at_rest();
        }
    }
}

#[test]
fn a_lock_that_is_never_polled_asks_nobody() {
    let bed = Bed::new(3);
    bed.run(async {
        drop(bed.redlock().lock("x", s(10)).into_future());
        bed.sleep(1_000).await;
    });
    assert_eq!(bed.requests(), [0, 0, 0]);
}

#[test]
fn a_lock_that_is_dropped_or_half_unlocked_is_released() {
    let bed = Bed::new(3);
    bed.run(async {
        drop(bed.redlock().lock("x", s(60)).await.unwrap());
        bed.sleep(1).await;
        bed.assert_free("x");

        let lock = bed.redlock().lock("x", s(60)).await.unwrap();
        drop(lock.unlock());
        bed.sleep(1).await;
        bed.assert_free("x");

        let lock = bed.redlock().lock("x", s(60)).await.unwrap();
        bed.nodes.iter().for_each(|node| node.delay_requests(ms(10)));
        let mut unlock = Box::pin(lock.unlock());
        assert!(poll_once(&mut unlock).await.is_pending());
        drop(unlock);
        bed.sleep(11).await;
        bed.assert_free("x");
    });
    bed.assert_at_rest();
}

#[test]
fn a_forgotten_lock_lives_for_its_ttl() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.redlock().lock("x", s(10)).await.unwrap().forget();
        bed.sleep(9_999).await;
        assert!(bed.redlock().try_lock("x", s(10)).await.is_err());
        bed.sleep(1).await;
        bed.redlock().try_lock("x", s(10)).await.unwrap().forget();
    });
}

#[test]
fn what_a_straggler_grants_after_the_lock_is_gone_is_released_again() {
    let bed = Bed::new(3);
    bed.run(async {
        // To the last node the release overtakes the acquire, as it can over a second connection.
        let redlock = bed.redlock_over(|node| {
            let delay = if node.name().unwrap() == "node 2" { ms(200) } else { ms(0) };
            Far { node, delay, runtime: bed.runtime.clone() }
        });
        let lock = redlock.lock("x", s(10)).await.unwrap();
        lock.unlock().await.unwrap();
        bed.sleep(100).await;
        assert_eq!(bed.requests(), [2, 2, 1]);
        bed.sleep(150).await;
        assert!(bed.nodes[2].get("x").is_some(), "the late acquire");
        bed.sleep(1_000).await;
        bed.assert_free("x");
        assert_eq!(bed.requests(), [2, 2, 3]);
    });
    bed.assert_at_rest();
}
