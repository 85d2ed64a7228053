//! Extending a lock, losing it, and handing it over.

use redlock_core::{BackendErrorKind, Error, LockBackend, UnlockOutcome};

use crate::bed::{Bed, Far, answers, ms, s};

#[test]
fn an_extension_counts_from_its_own_start() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock("x", s(10)).await.unwrap();
        bed.sleep(5_000).await;
        bed.nodes.iter().for_each(|node| node.delay_replies(ms(40)));
        lock.extend(s(20)).await.unwrap();
        assert_eq!(lock.remaining(), s(20) - ms(202) - ms(40));
        assert!(bed.nodes.iter().all(|node| node.ttl("x").unwrap() >= s(19)));
    });
}

#[test]
fn an_extension_never_makes_a_lock_shorter() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock("x", s(60)).await.unwrap();
        let before = lock.remaining();
        lock.extend(s(1)).await.unwrap();
        assert_eq!(lock.remaining(), before);
        bed.sleep(50_000).await;
        assert!(lock.is_valid());
        assert!(bed.redlock().try_lock("x", s(1)).await.is_err());
    });
}

#[test]
fn with_a_majority_of_keys_gone_an_extension_says_lost_and_the_rest_is_left_for_the_unlock() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock("x", s(10)).await.unwrap();
        bed.nodes[0].remove("x");
        bed.nodes[1].remove("x");
        let error = lock.extend(s(10)).await.unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "{error}");
        assert!(answers(&error).starts_with("rr"), "{error}");
        assert!(!lock.is_valid());
        assert_eq!(lock.remaining(), ms(0));
        bed.sleep(100).await;
        assert_eq!(bed.values("x"), [None, None, Some(lock.token().as_str().to_owned())]);
        assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))), "a loss is final");
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld);
        bed.assert_free("x");
    });
}

#[test]
fn what_has_lapsed_is_never_revived_even_when_the_keys_are_still_there() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock("x", s(10)).await.unwrap();
        // Past the validity, which is 9,898 ms, but before the keys expire.
        bed.sleep(9_898).await;
        assert!(bed.nodes[0].get("x").is_some());
        let requests = bed.requests();
        let error = lock.extend(s(10)).await.unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "{error}");
        assert_eq!(error.to_string(), "the lock on \"x\" is lost (its validity had run out)");
        assert_eq!(bed.requests(), requests, "nobody needs to be asked");
    });
}

#[test]
fn an_extension_that_is_confirmed_after_the_old_deadline_is_lost() {
    // Confirmed 1 ms before the old deadline, at it, and after it.
    for (delay, wins) in [(97, true), (98, false), (99, false), (400, false)] {
        let bed = Bed::new(3);
        bed.run(async {
            let redlock = bed.builder().node_timeout(s(5)).build().unwrap();
            let mut lock = redlock.lock("x", s(10)).await.unwrap();
            bed.sleep(9_800).await;
            bed.nodes.iter().for_each(|node| node.delay_replies(ms(delay)));
            let (extended, took) = bed.timed(lock.extend(s(10))).await;
            assert_eq!(extended.is_ok(), wins, "{delay}: {extended:?}");
            assert_eq!(lock.is_valid(), wins, "{delay}");
            assert!(took <= ms(98), "{delay}: noticed {took:?} later, the deadline is local");
            if let Err(error) = extended {
                assert!(matches!(error, Error::Lost(_)), "{error}");
            }
        });
    }
}

#[test]
fn an_extension_that_fails_keeps_the_old_validity_and_can_be_tried_again() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock("x", s(10)).await.unwrap();
        let before = lock.remaining();
        for kind in [BackendErrorKind::Transient, BackendErrorKind::Indeterminate, BackendErrorKind::Rejected]
        {
            bed.nodes.iter().for_each(|node| node.fail_next(1, kind));
            let error = lock.extend(s(30)).await.unwrap_err();
            let rejected = kind == BackendErrorKind::Rejected;
            assert_eq!(matches!(error, Error::Rejected(_)), rejected, "{error}");
            assert_eq!(matches!(error, Error::NoQuorum(_)), !rejected, "{error}");
            assert_eq!(lock.remaining(), before);
        }
        // Half an answer: one confirms, one has lost the key, one is silent. Neither extended nor lost.
        bed.nodes[1].remove("x");
        bed.nodes[2].fail_next(1, BackendErrorKind::Indeterminate);
        let error = lock.extend(s(30)).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        assert_eq!(lock.remaining(), before);
        lock.extend(s(30)).await.unwrap();
        assert!(lock.remaining() > s(29));
    });
}

#[test]
fn a_node_that_restarted_empty_holds_the_key_again_after_an_extension() {
    // Answering before the quorum is complete, and after.
    for slow in [ms(0), ms(20)] {
        let bed = Bed::new(3);
        bed.run(async {
            let mut lock = bed.redlock().lock("x", s(10)).await.unwrap();
            bed.nodes[0].clear();
            bed.nodes[0].delay_replies(slow);
            lock.extend(s(10)).await.unwrap();
            bed.sleep(50).await;
            assert_eq!(bed.nodes[0].get("x").as_deref(), Some(lock.token().as_str()), "{slow:?}");
            // Its vote counts from the next extension on.
            bed.nodes[1].shut_down();
            lock.extend(s(10)).await.unwrap();
            bed.nodes[1].start();
            lock.unlock().await.unwrap();
            bed.sleep(2_000).await;
            bed.assert_free("x");
        });
        bed.assert_at_rest();
    }
}

#[test]
fn a_key_that_is_being_put_back_does_not_outlive_the_lock() {
    for delay in 0..30 {
        let bed = Bed::seeded(delay, 3);
        bed.run(async {
            let redlock = bed.redlock_over(|node| {
                let delay = if node.name().unwrap() == "node 0" { ms(delay) } else { ms(0) };
                Far { node, delay, runtime: bed.runtime.clone() }
            });
            let mut lock = redlock.lock("x", s(60)).await.unwrap();
            bed.sleep(100).await;
            bed.nodes[0].clear();
            lock.extend(s(60)).await.unwrap();
            lock.unlock().await.unwrap();
            bed.sleep(10_000).await;
            bed.assert_free("x");
        });
        bed.assert_at_rest();
    }
}

#[test]
fn another_owner_is_not_pushed_aside_by_an_extension() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock("x", s(10)).await.unwrap();
        bed.nodes[0].set("x", "other", s(60));
        lock.extend(s(10)).await.unwrap();
        bed.sleep(100).await;
        assert_eq!(bed.nodes[0].get("x").as_deref(), Some("other"));
        bed.nodes[1].set("x", "other", s(60));
        assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))));
    });
}

#[test]
fn a_client_that_was_stopped_past_its_validity_knows_that_it_has_lost() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock("x", s(10)).await.unwrap();
        let keep_alive = bed.redlock().lock("y", s(10)).await.unwrap().keep_alive();
        // No timer fires and no task runs meanwhile, as in a suspended machine whose clock counts it.
        bed.runtime.stall(s(11));
        assert!(!lock.is_valid());
        assert!(!keep_alive.is_valid());
        assert_eq!(lock.remaining(), ms(0));
        assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))));
        keep_alive.lost().await;
    });
}

#[test]
fn a_lock_that_is_handed_over_goes_on_with_its_new_owner() {
    let bed = Bed::new(3);
    bed.run(async {
        let parts = bed.redlock().lock(["a", "b"], s(10)).await.unwrap().into_parts();
        bed.sleep(5_000).await;
        let text = serde_json::to_string(&parts).unwrap();
        let parts = serde_json::from_str(&text).unwrap();
        let lock = bed.redlock().from_parts(&parts).await.unwrap();
        assert_eq!(lock.remaining(), s(10) - ms(102));
        assert!(bed.redlock().try_lock("b", s(1)).await.is_err());
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        bed.assert_free("a");
        bed.assert_free("b");
    });
}

#[test]
fn parts_of_a_lock_that_is_gone_or_makes_no_sense_are_refused_and_not_lost() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut parts = bed.redlock().lock("a", s(10)).await.unwrap().into_parts();
        bed.nodes.iter().for_each(|node| node.shut_down());
        let error = bed.redlock().from_parts(&parts).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        bed.nodes.iter().for_each(|node| node.start());
        bed.redlock().from_parts(&parts).await.unwrap().forget();
        bed.sleep(10_000).await;
        let error = bed.redlock().from_parts(&parts).await.unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "{error}");
        bed.assert_free("a");
        parts.resources.push("a".to_owned());
        let error = bed.redlock().from_parts(&parts).await.unwrap_err();
        assert!(matches!(error, Error::InvalidRequest(_)), "{error}");
    });
}

#[test]
fn a_lease_of_a_lock_that_was_handed_over_or_forgotten_is_not_valid() {
    let bed = Bed::new(3);
    bed.run(async {
        let guard = bed.redlock().lock("x", s(60)).await.unwrap().keep_alive();
        let lease = guard.lease();
        let parts = guard.stop().into_parts();
        assert!(!lease.is_valid(), "it is the other process' now, and may be the next one's soon");
        lease.lost().await;
        bed.redlock().from_parts(&parts).await.unwrap().unlock().await.unwrap();

        let guard = bed.redlock().lock("x", s(60)).await.unwrap().keep_alive();
        let lease = guard.lease();
        guard.stop().forget();
        assert!(!lease.is_valid());
    });
}

#[test]
fn a_key_is_not_put_back_after_the_lock_was_handed_over() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock("x", s(30)).await.unwrap();
        bed.sleep(1).await;
        bed.nodes[2].clear();
        bed.nodes[2].delay_replies(ms(500));
        lock.extend(s(30)).await.unwrap();
        let parts = lock.into_parts();
        bed.redlock().from_parts(&parts).await.unwrap().unlock().await.unwrap();
        bed.sleep(2_000).await;
        bed.assert_free("x");
    });
}

#[test]
fn keys_that_are_there_are_not_forgotten_when_putting_others_back_is_refused() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock(["a", "b"], s(30)).await.unwrap();
        bed.nodes[0].set("b", "other", s(300));
        lock.extend(s(30)).await.unwrap();
        bed.sleep(1).await;
        bed.nodes[0].fail_next(1, BackendErrorKind::Indeterminate);
        lock.unlock().await.unwrap();
        bed.sleep(5_000).await;
        bed.assert_free("a");
    });
}

#[test]
fn a_loss_is_told_from_silence_whichever_node_answers_first() {
    // One node is down. Of the others, which have both lost the key, one answers later.
    for slow in 1..3 {
        let bed = Bed::new(3);
        bed.run(async {
            let mut lock = bed.redlock().lock("x", s(30)).await.unwrap();
            bed.nodes.iter().for_each(|node| node.clear());
            bed.nodes[0].shut_down();
            bed.nodes[slow].delay_replies(ms(5));
            let error = lock.extend(s(30)).await.unwrap_err();
            assert!(matches!(error, Error::Lost(_)), "{slow}: {error}");

            bed.nodes.iter().for_each(|node| node.start());
            let lock = bed.redlock().lock("x", s(30)).await.unwrap();
            bed.nodes.iter().for_each(|node| node.clear());
            bed.nodes[0].shut_down();
            assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld, "{slow}");
        });
    }
}

#[test]
fn a_handover_that_finds_the_lock_lost_does_not_keep_the_rest_alive() {
    let bed = Bed::new(3);
    bed.run(async {
        let parts = bed.redlock().lock("x", s(30)).await.unwrap().into_parts();
        bed.nodes[1].clear();
        bed.nodes[2].clear();
        assert!(matches!(bed.redlock().from_parts(&parts).await, Err(Error::Lost(_))));
        bed.sleep(100).await;
        bed.assert_free("x");
    });
}

/// The validity has to rest on keys that a quorum has now: one that was lost and put back is as good as the others.
#[test]
fn a_short_extension_asks_for_what_is_left_of_a_longer_validity() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock("x", s(100)).await.unwrap();
        for node in [1, 2, 0] {
            bed.nodes[node].clear();
            lock.extend(s(5)).await.unwrap();
            bed.sleep(1_000).await;
        }
        assert!(lock.remaining() > s(90));
        for node in &bed.nodes {
            assert!(node.ttl("x").unwrap() > lock.remaining(), "{:?}", node.ttl("x"));
        }
        bed.sleep(50_000).await;
        assert!(lock.is_valid());
        assert!(bed.redlock().try_lock("x", s(10)).await.is_err());
    });
}
