//! Locks that are handed over: one taker gets the lock, whatever is delivered twice, late or out of order.

use std::{cell::Cell, time::Duration};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Error, Extend, LockBackend, LockParts,
    MemoryBackend, Release, ReleaseReply, Runtime, UnlockOutcome, async_trait,
};
use redlock_tests::{
    harness::{Harness, Plain, ms, s},
    sim_runtime::SimRuntime,
};

#[test]
fn the_taker_has_a_token_of_its_own() {
    let harness = Harness::new(3);
    harness.run(async {
        let parts = harness.redlock().lock(["a", "b"], s(10)).await.unwrap().into_parts();
        let lock = harness.redlock().from_parts(&parts).await.unwrap();
        assert_ne!(lock.token(), &parts.token);
        for name in ["a", "b"] {
            assert_eq!(harness.values(name), vec![Some(lock.token().as_str().to_owned()); 3]);
        }
    });
}

#[test]
fn parts_can_be_taken_once() {
    let harness = Harness::new(3);
    harness.run(async {
        let parts = harness.redlock().lock("x", s(10)).await.unwrap().into_parts();
        let first = harness.redlock().from_parts(&parts).await.unwrap();
        let second = harness.redlock().from_parts(&parts).await.unwrap_err();
        assert!(matches!(second, Error::Lost(_)), "{second}");
        assert!(first.is_valid());
        assert_eq!(first.unlock().await.unwrap(), UnlockOutcome::Released);
    });
}

#[test]
fn at_most_one_of_concurrent_takers_gets_the_lock() {
    for seed in 0..200 {
        let harness = Harness::seeded(seed, 3);
        harness.run(async {
            let parts = harness.redlock().lock("x", s(10)).await.unwrap().into_parts();
            for (node, delay) in harness.nodes.iter().zip([1, 2, 3]) {
                node.delay_requests(ms(delay));
            }
            let (one, two) = (harness.redlock(), harness.redlock());
            let (first, second) = tokio::join!(one.from_parts(&parts), two.from_parts(&parts));
            assert!(first.is_err() || second.is_err(), "both have it");
            assert!(first.is_ok() || second.is_ok(), "of three nodes, one of two takers has two");
        });
    }
}

/// The message with the parts is delivered again after the first taker failed to unlock: the pending releases
/// of its lock delete no key of another owner.
#[test]
fn after_a_failed_unlock_neither_a_second_taker_nor_a_third_client_overlaps() {
    let harness = Harness::new(3);
    harness.run(async {
        let (first, second, third) = (harness.redlock(), harness.redlock(), harness.redlock());
        let parts = harness.redlock().lock("x", s(30)).await.unwrap().into_parts();
        let lock = first.from_parts(&parts).await.unwrap();
        // The releases are lost, and retried later.
        harness.nodes.iter().for_each(|node| node.fail_next(1, BackendErrorKind::Indeterminate));
        assert!(matches!(lock.unlock().await, Err(Error::NoQuorum(_))));
        let again = second.from_parts(&parts).await;
        assert!(matches!(again, Err(Error::Lost(_))), "{again:?}");
        let contender = third.lock("x", s(30)).retry_forever().await.unwrap();
        for _ in 0..30 {
            assert!(contender.is_valid());
            assert!(
                harness.nodes.iter().filter(|node| node.get("x").is_some()).count() >= 2,
                "{:?}",
                harness.values("x")
            );
            harness.sleep(900).await;
        }
    });
}

/// The giver's connection to a node: every request takes `delay` longer than for others, in order.
#[derive(Debug)]
struct Slow {
    node: MemoryBackend,
    runtime: SimRuntime,
    delay: Duration,
}

#[async_trait]
impl LockBackend for Slow {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.runtime.sleep(self.delay).await;
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.runtime.sleep(self.delay).await;
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.runtime.sleep(self.delay).await;
        self.node.release(request).await
    }
}

#[test]
fn an_acquire_of_the_giver_that_is_still_in_flight_leaves_no_key() {
    let harness = Harness::new(3);
    harness.run(async {
        let delays = Cell::new(0);
        let giver = harness.redlock_over(|node| {
            delays.set(delays.get() + 1);
            let delay = if delays.get() == 3 { ms(300) } else { ms(0) };
            Slow { node, runtime: harness.runtime.clone(), delay }
        });
        let parts = giver.lock("x", s(60)).await.unwrap().into_parts();
        let lock = harness.redlock().from_parts(&parts).await.unwrap();
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        harness.sleep(3_000).await;
        harness.assert_free("x");
    });
}

#[test]
fn keys_that_only_an_extension_confirmed_are_handed_over_too() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[2].lose_next_replies(1);
        let mut lock = harness.redlock().lock("x", s(30)).await.unwrap();
        harness.sleep(10).await;
        harness.nodes[1].clear();
        lock.extend(s(30)).await.unwrap();
        harness.nodes[1].clear();
        let parts = lock.into_parts();
        harness.sleep(100).await;
        let lock = harness.redlock().from_parts(&parts).await.unwrap();
        assert!(lock.is_valid());
    });
}

#[test]
fn a_handover_shortens_nothing() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
        lock.extend(s(3_600)).await.unwrap();
        lock.extend(s(10)).await.unwrap();
        let before = lock.remaining();
        assert!(before > s(3_500));
        let lock = harness.redlock().from_parts(&lock.into_parts()).await.unwrap();
        assert!(lock.remaining() >= before, "{:?} of {before:?}", lock.remaining());
        assert_eq!(lock.into_parts().ttl, s(10));
    });
}

#[test]
fn a_release_is_pending_for_as_long_as_a_key_of_the_giver_may_live() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
        lock.extend(s(3_600)).await.unwrap();
        lock.extend(s(10)).await.unwrap();
        let parts = lock.into_parts();
        // Down at the hand-over in the first case, at the unlock in the second.
        harness.nodes[0].shut_down();
        let lock = harness.redlock().from_parts(&parts).await.unwrap();
        harness.nodes[1].shut_down();
        harness.nodes[0].start();
        let _ = lock.unlock().await;
        harness.sleep(60_000).await;
        harness.nodes[1].start();
        harness.sleep(5_000).await;
        harness.assert_free("x");
    });
}

#[test]
fn the_old_token_does_not_stay_where_it_was_not_replaced() {
    let harness = Harness::new(3);
    harness.run(async {
        let parts = harness.redlock().lock(["a", "b"], s(60)).await.unwrap().into_parts();
        // One node has lost one of the keys, so it cannot replace the other.
        harness.nodes[0].remove("a");
        let lock = harness.redlock().from_parts(&parts).await.unwrap();
        harness.sleep(1).await;
        for name in ["a", "b"] {
            assert_eq!(harness.values(name), vec![Some(lock.token().as_str().to_owned()); 3], "{name}");
        }
        lock.unlock().await.unwrap();
        harness.sleep(1).await;
        harness.assert_free("b");
    });
}

#[test]
fn the_longest_hold_goes_with_the_lock() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = harness.redlock().lock("x", s(2)).max_hold(s(10)).await.unwrap();
        harness.sleep(1_000).await;
        let parts = lock.into_parts();
        assert_eq!(parts.max_hold, Some(s(9)));
        let start = harness.now();
        let kept = harness.redlock().from_parts(&parts).await.unwrap().keep_alive();
        kept.lost().await;
        let held = harness.now() - start;
        assert!((s(7)..=s(9)).contains(&held), "{held:?}");

        let mut over = harness.redlock().lock("y", s(2)).max_hold(s(10)).await.unwrap().into_parts();
        over.max_hold = Some(ms(1));
        let error = harness.redlock().from_parts(&over).await.unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "{error}");
    });
}

#[test]
fn a_taker_that_gives_up_leaves_no_key_of_its_own() {
    for after in 0..5 {
        let harness = Harness::new(3);
        harness.run(async {
            let parts = harness.redlock().lock("x", s(60)).await.unwrap().into_parts();
            for node in &harness.nodes {
                node.delay_requests(ms(2));
                node.delay_replies(ms(2));
            }
            let redlock = harness.redlock();
            assert!(harness.cancel_after(ms(after), redlock.from_parts(&parts)).await.is_none(), "{after}");
            harness.sleep(2_000).await;
            for value in harness.values("x").into_iter().flatten() {
                assert_eq!(value, parts.token.as_str(), "{after}");
            }
        });
    }
}

#[test]
fn parts_of_an_earlier_version_and_of_others_have_defaults() {
    let token = "0".repeat(40);
    let text = format!(r#"{{"resources":["a"],"token":"{token}","ttl":{{"secs":10,"nanos":0}}}}"#);
    let parts: LockParts = serde_json::from_str(&text).unwrap();
    assert_eq!((parts.remaining, parts.max_hold), (ms(0), None));
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.set("a", token.as_str(), s(5)));
        let lock = harness.redlock().from_parts(&parts).await.unwrap();
        assert!(lock.remaining() > s(9));
    });
}

#[test]
fn a_backend_that_cannot_take_over_reports_it() {
    let harness = Harness::new(3);
    harness.run(async {
        let parts = harness.redlock().lock("x", s(10)).await.unwrap().into_parts();
        let error = harness.redlock_over(Plain).from_parts(&parts).await.unwrap_err();
        assert!(matches!(error, Error::Rejected(_)), "{error}");
        assert!(error.to_string().contains("this backend cannot take over locks"), "{error}");
        assert!(harness.redlock().from_parts(&parts).await.is_ok(), "nothing was lost");
    });
}
