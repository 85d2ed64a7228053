//! Extending a lock, losing it, and handing it over.

use redlock_core::{BackendErrorKind, Error, LockBackend, UnlockOutcome};
use redlock_tests::harness::{Harness, answers, ms, s};

use crate::sim::odd_nodes::Far;

#[test]
fn an_extension_counts_from_its_own_start() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
        harness.sleep(5_000).await;
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(40)));
        lock.extend(s(20)).await.unwrap();
        assert_eq!(lock.remaining(), s(20) - ms(202) - ms(40));
        assert!(harness.nodes.iter().all(|node| node.ttl("x").unwrap() >= s(19)));
    });
}

#[test]
fn an_extension_never_makes_a_lock_shorter() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(60)).await.unwrap();
        let before = lock.remaining();
        lock.extend(s(1)).await.unwrap();
        assert_eq!(lock.remaining(), before);
        harness.sleep(50_000).await;
        assert!(lock.is_valid());
        assert!(harness.redlock().try_lock("x", s(1)).await.is_err());
    });
}

#[test]
fn an_extension_without_a_majority_of_keys_reports_the_loss_and_leaves_the_rest_to_the_unlock() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
        harness.nodes[0].remove("x");
        harness.nodes[1].remove("x");
        let error = lock.extend(s(10)).await.unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "{error}");
        assert!(answers(&error).starts_with("rr"), "{error}");
        assert!(!lock.is_valid());
        assert_eq!(lock.remaining(), ms(0));
        harness.sleep(100).await;
        assert_eq!(harness.values("x"), [None, None, Some(lock.token().as_str().to_owned())]);
        assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))), "a loss is final");
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld);
        harness.assert_free("x");
    });
}

#[test]
fn a_lapsed_lock_is_never_revived_although_its_keys_are_still_there() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
        // Past the validity, which is 9,898 ms, but before the keys expire.
        harness.sleep(9_898).await;
        assert!(harness.nodes[0].get("x").is_some());
        let requests = harness.requests();
        let error = lock.extend(s(10)).await.unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "{error}");
        assert_eq!(error.to_string(), "the lock on \"x\" is lost (its validity had run out)");
        assert_eq!(harness.requests(), requests, "no request is necessary");
    });
}

#[test]
fn an_extension_that_is_confirmed_after_the_old_deadline_is_lost() {
    // Confirmed 1 ms before the old deadline, at it, and after it.
    for (delay, wins) in [(97, true), (98, false), (99, false), (400, false)] {
        let harness = Harness::new(3);
        harness.run(async {
            let redlock = harness.builder().node_timeout(s(5)).build().unwrap();
            let mut lock = redlock.lock("x", s(10)).await.unwrap();
            harness.sleep(9_800).await;
            harness.nodes.iter().for_each(|node| node.delay_replies(ms(delay)));
            let (extended, took) = harness.timed(lock.extend(s(10))).await;
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
fn an_extension_that_fails_keeps_the_old_validity_and_can_be_retried() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
        let before = lock.remaining();
        for kind in [BackendErrorKind::Transient, BackendErrorKind::Indeterminate, BackendErrorKind::Rejected]
        {
            harness.nodes.iter().for_each(|node| node.fail_next(1, kind));
            let error = lock.extend(s(30)).await.unwrap_err();
            let rejected = kind == BackendErrorKind::Rejected;
            assert_eq!(matches!(error, Error::Rejected(_)), rejected, "{error}");
            assert_eq!(matches!(error, Error::NoQuorum(_)), !rejected, "{error}");
            assert_eq!(lock.remaining(), before);
        }
        // An inconclusive round: one node confirms, one has lost the key, one is silent. Neither extended nor
        // lost.
        harness.nodes[1].remove("x");
        harness.nodes[2].fail_next(1, BackendErrorKind::Indeterminate);
        let error = lock.extend(s(30)).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        assert_eq!(lock.remaining(), before);
        lock.extend(s(30)).await.unwrap();
        assert!(lock.remaining() > s(29));
    });
}

#[test]
fn a_node_that_restarted_empty_holds_the_key_again_after_an_extension() {
    // Its reply comes before the quorum is complete, or after.
    for slow in [ms(0), ms(20)] {
        let harness = Harness::new(3);
        harness.run(async {
            let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
            harness.nodes[0].clear();
            harness.nodes[0].delay_replies(slow);
            lock.extend(s(10)).await.unwrap();
            harness.sleep(50).await;
            assert_eq!(harness.nodes[0].get("x").as_deref(), Some(lock.token().as_str()), "{slow:?}");
            // Its vote counts from the next extension.
            harness.nodes[1].shut_down();
            lock.extend(s(10)).await.unwrap();
            harness.nodes[1].start();
            lock.unlock().await.unwrap();
            harness.sleep(2_000).await;
            harness.assert_free("x");
        });
        harness.assert_at_rest();
    }
}

#[test]
fn a_key_that_is_being_rewritten_does_not_outlive_the_lock() {
    for delay in 0..30 {
        let harness = Harness::seeded(delay, 3);
        harness.run(async {
            let redlock = harness.redlock_over(|node| {
                let delay = if node.name().unwrap() == "node 0" { ms(delay) } else { ms(0) };
                Far { node, delay, runtime: harness.runtime.clone() }
            });
            let mut lock = redlock.lock("x", s(60)).await.unwrap();
            harness.sleep(100).await;
            harness.nodes[0].clear();
            lock.extend(s(60)).await.unwrap();
            lock.unlock().await.unwrap();
            harness.sleep(10_000).await;
            harness.assert_free("x");
        });
        harness.assert_at_rest();
    }
}

#[test]
fn an_extension_does_not_displace_another_owner() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
        harness.nodes[0].set("x", "other", s(60));
        lock.extend(s(10)).await.unwrap();
        harness.sleep(100).await;
        assert_eq!(harness.nodes[0].get("x").as_deref(), Some("other"));
        harness.nodes[1].set("x", "other", s(60));
        assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))));
    });
}

#[test]
fn a_client_that_was_stopped_past_its_validity_knows_that_it_has_lost() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
        let keep_alive = harness.redlock().lock("y", s(10)).await.unwrap().keep_alive();
        // No timer fires and no task runs meanwhile, as on a suspended machine whose clock goes on.
        harness.runtime.stall(s(11));
        assert!(!lock.is_valid());
        assert!(!keep_alive.is_valid());
        assert_eq!(lock.remaining(), ms(0));
        assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))));
        keep_alive.lost().await;
    });
}

#[test]
fn a_lock_that_is_handed_over_continues_with_its_new_owner() {
    let harness = Harness::new(3);
    harness.run(async {
        let parts = harness.redlock().lock(["a", "b"], s(10)).await.unwrap().into_parts();
        harness.sleep(5_000).await;
        let text = serde_json::to_string(&parts).unwrap();
        let parts = serde_json::from_str(&text).unwrap();
        let lock = harness.redlock().from_parts(&parts).await.unwrap();
        assert_eq!(lock.remaining(), s(10) - ms(102));
        assert!(harness.redlock().try_lock("b", s(1)).await.is_err());
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        harness.assert_free("a");
        harness.assert_free("b");
    });
}

#[test]
fn parts_of_a_lock_that_is_gone_or_invalid_are_refused_and_not_lost() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut parts = harness.redlock().lock("a", s(10)).await.unwrap().into_parts();
        harness.nodes.iter().for_each(|node| node.shut_down());
        let error = harness.redlock().from_parts(&parts).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        harness.nodes.iter().for_each(|node| node.start());
        harness.redlock().from_parts(&parts).await.unwrap().forget();
        harness.sleep(10_000).await;
        let error = harness.redlock().from_parts(&parts).await.unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "{error}");
        harness.assert_free("a");
        parts.resources.push("a".to_owned());
        let error = harness.redlock().from_parts(&parts).await.unwrap_err();
        assert!(matches!(error, Error::InvalidRequest(_)), "{error}");
    });
}

#[test]
fn a_lease_of_a_lock_that_was_handed_over_or_forgotten_is_not_valid() {
    let harness = Harness::new(3);
    harness.run(async {
        let guard = harness.redlock().lock("x", s(60)).await.unwrap().keep_alive();
        let lease = guard.lease();
        let parts = guard.stop().into_parts();
        assert!(!lease.is_valid(), "it is the other process' now, and may be the next one's soon");
        lease.lost().await;
        harness.redlock().from_parts(&parts).await.unwrap().unlock().await.unwrap();

        let guard = harness.redlock().lock("x", s(60)).await.unwrap().keep_alive();
        let lease = guard.lease();
        guard.stop().forget();
        assert!(!lease.is_valid());
    });
}

#[test]
fn a_key_is_not_rewritten_after_the_lock_was_handed_over() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(30)).await.unwrap();
        harness.sleep(1).await;
        harness.nodes[2].clear();
        harness.nodes[2].delay_replies(ms(500));
        lock.extend(s(30)).await.unwrap();
        let parts = lock.into_parts();
        harness.redlock().from_parts(&parts).await.unwrap().unlock().await.unwrap();
        harness.sleep(2_000).await;
        harness.assert_free("x");
    });
}

#[test]
fn existing_keys_are_not_forgotten_when_rewriting_others_is_refused() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock(["a", "b"], s(30)).await.unwrap();
        harness.nodes[0].set("b", "other", s(300));
        lock.extend(s(30)).await.unwrap();
        harness.sleep(1).await;
        harness.nodes[0].fail_next(1, BackendErrorKind::Indeterminate);
        lock.unlock().await.unwrap();
        harness.sleep(5_000).await;
        harness.assert_free("a");
    });
}

#[test]
fn a_loss_is_distinguished_from_silence_whichever_node_replies_first() {
    // One node is down. The others have both lost the key, and one of them replies later.
    for slow in 1..3 {
        let harness = Harness::new(3);
        harness.run(async {
            let mut lock = harness.redlock().lock("x", s(30)).await.unwrap();
            harness.nodes.iter().for_each(|node| node.clear());
            harness.nodes[0].shut_down();
            harness.nodes[slow].delay_replies(ms(5));
            let error = lock.extend(s(30)).await.unwrap_err();
            assert!(matches!(error, Error::Lost(_)), "{slow}: {error}");

            harness.nodes.iter().for_each(|node| node.start());
            let lock = harness.redlock().lock("x", s(30)).await.unwrap();
            harness.nodes.iter().for_each(|node| node.clear());
            harness.nodes[0].shut_down();
            assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld, "{slow}");
        });
    }
}

#[test]
fn a_handover_that_finds_the_lock_lost_does_not_keep_the_rest_alive() {
    let harness = Harness::new(3);
    harness.run(async {
        let parts = harness.redlock().lock("x", s(30)).await.unwrap().into_parts();
        harness.nodes[1].clear();
        harness.nodes[2].clear();
        assert!(matches!(harness.redlock().from_parts(&parts).await, Err(Error::Lost(_))));
        harness.sleep(100).await;
        harness.assert_free("x");
    });
}

/// The validity has to rest on keys that a quorum stores now: a rewritten key counts like the others.
#[test]
fn a_short_extension_requests_the_rest_of_a_longer_validity() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(100)).await.unwrap();
        for node in [1, 2, 0] {
            harness.nodes[node].clear();
            lock.extend(s(5)).await.unwrap();
            harness.sleep(1_000).await;
        }
        assert!(lock.remaining() > s(90));
        for node in &harness.nodes {
            assert!(node.ttl("x").unwrap() > lock.remaining(), "{:?}", node.ttl("x"));
        }
        harness.sleep(50_000).await;
        assert!(lock.is_valid());
        assert!(harness.redlock().try_lock("x", s(10)).await.is_err());
    });
}
