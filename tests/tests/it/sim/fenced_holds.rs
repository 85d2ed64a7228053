//! Held locks with fencing tokens, who has a say in a token, and what is refused.

use std::num::NonZeroU64;

use redlock_core::{ConfigError, Error, InvalidRequest, LockParts, MAX_TTL, Redlock, UnlockOutcome};
use redlock_tests::harness::{Harness, answers, ms, s};

use crate::sim::{
    fencing::{AHEAD, between_the_trips, counters, counting, fenced, number},
    odd_nodes::Stubborn,
};

#[test]
fn an_extension_keeps_the_token_and_raises_nodes_that_have_lost_their_counters() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = fenced(&harness).lock("x", s(10)).await.unwrap();
        let fence = lock.fence();
        harness.nodes[0].remove_counter("x");
        lock.extend(s(10)).await.unwrap();
        assert_eq!(lock.fence(), fence);
        assert_eq!(harness.nodes[0].counter("x"), fence);
        assert_eq!(harness.requests(), [2, 2, 2]);
        let guard = lock.keep_alive();
        harness.nodes[1].remove_counter("x");
        harness.sleep(60_000).await;
        assert!(guard.is_valid());
        assert_eq!(guard.fence(), fence);
        assert_eq!(harness.nodes[1].counter("x"), fence);
        assert_eq!(guard.unlock().await.unwrap(), UnlockOutcome::Released);
    });
}

#[test]
fn a_node_that_lost_everything_gets_the_keys_and_the_counter_back() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = fenced(&harness).lock(["x", "y"], s(10)).await.unwrap();
        harness.nodes[0].clear();
        lock.extend(s(10)).await.unwrap();
        harness.sleep(1).await;
        for name in ["x", "y"] {
            assert_eq!(harness.nodes[0].get(name).as_deref(), Some(lock.token().as_str()));
            assert_eq!(harness.nodes[0].counter(name), lock.fence());
        }
    });
}

#[test]
fn an_extension_does_not_depend_on_the_counters() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = fenced(&harness).lock("x", s(10)).await.unwrap();
        let fence = lock.fence();
        harness.nodes[0].set_counter("x", number(AHEAD));
        harness.nodes[1].set_counter("x", number(AHEAD));
        lock.extend(s(20)).await.unwrap();
        assert_eq!(lock.fence(), fence);
        let fence = fence.map(NonZeroU64::get);
        assert_eq!(counters(&harness, "x"), [Some(AHEAD), Some(AHEAD), fence]);
        assert!(harness.nodes.iter().all(|node| node.ttl("x").unwrap() > s(19)));
        harness.nodes.iter().for_each(|node| node.remove("x"));
        assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))));
    });
}

#[test]
fn a_hand_over_keeps_the_token() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = fenced(&harness).lock("x", s(10)).await.unwrap();
        let fence = lock.fence();
        let parts = lock.into_parts();
        assert_eq!(parts.fence, fence);
        let text = serde_json::to_string(&parts).unwrap();
        let parts: LockParts = serde_json::from_str(&text).unwrap();
        harness.nodes[2].clear();
        // A manager whose own locks have no token.
        let mut lock = harness.redlock().from_parts(&parts).await.unwrap();
        assert_eq!(lock.fence(), fence);
        assert_ne!(lock.token(), &parts.token);
        harness.sleep(1).await;
        assert_eq!(harness.nodes[2].counter("x"), fence, "what it puts back has the counter");
        harness.nodes[0].remove_counter("x");
        lock.extend(s(10)).await.unwrap();
        assert_eq!(harness.nodes[0].counter("x"), fence);
        lock.unlock().await.unwrap();
        assert!(fenced(&harness).lock("x", s(10)).await.unwrap().fence() > fence);
    });
}

#[test]
fn parts_without_a_token_or_with_one_that_is_too_high() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut parts = harness.redlock().lock("x", s(10)).await.unwrap().into_parts();
        assert_eq!(parts.fence, None);
        let mut json = serde_json::to_value(&parts).unwrap();
        json.as_object_mut().unwrap().remove("fence");
        assert_eq!(serde_json::from_value::<LockParts>(json).unwrap(), parts, "of an older release");
        let requests = harness.requests();
        for (fence, max) in [(1 << 53, (1 << 53) - 1), (u64::MAX, (1 << 53) - 1)] {
            parts.fence = Some(number(fence));
            let error = harness.redlock().from_parts(&parts).await.unwrap_err();
            let expected = InvalidRequest::FenceTooHigh { fence: number(fence), max };
            assert!(matches!(&error, Error::InvalidRequest(invalid) if *invalid == expected), "{error}");
        }
        parts.fence = Some(number(1));
        let error = harness.redlock_over(Stubborn).from_parts(&parts).await.unwrap_err();
        assert!(matches!(error, Error::InvalidRequest(InvalidRequest::FencingUnsupported { .. })), "{error}");
        assert_eq!(harness.requests(), requests, "nothing was sent");
        assert!(harness.redlock().from_parts(&parts).await.is_ok(), "and nothing was lost");
    });
}

#[test]
fn a_backend_without_counters_is_refused_before_anything_is_sent() {
    let harness = Harness::new(3);
    harness.run(async {
        let builder = || Redlock::builder(harness.runtime.clone()).node(harness.nodes[0].clone());
        let builder = || builder().node(Stubborn(harness.nodes[1].clone())).node(harness.nodes[2].clone());
        let error = builder().fenced().build().unwrap_err();
        assert!(matches!(&error, ConfigError::FencingUnsupported { node } if node == "node 1"), "{error}");
        let redlock = builder().build().unwrap();
        let error = redlock.lock("x", s(10)).fenced().await.unwrap_err();
        let expected = InvalidRequest::FencingUnsupported { node: "node 1".to_owned() };
        assert!(matches!(&error, Error::InvalidRequest(invalid) if *invalid == expected), "{error}");
        assert_eq!(harness.requests(), [0, 0, 0]);
        redlock.lock("x", s(10)).await.unwrap().unlock().await.unwrap();
    });
}

#[test]
fn quorums_and_lifetimes_out_of_their_range_are_refused() {
    let harness = Harness::new(5);
    for quorum in [0, 1, 2, 6] {
        let error = harness.builder().fence_quorum(quorum).build().unwrap_err();
        assert!(matches!(error, ConfigError::InvalidFenceQuorum { least: 3, nodes: 5, .. }), "{error}");
    }
    for ttl in [ms(0), ms(59_999), MAX_TTL + ms(1)] {
        let error = harness.builder().fence_counter_ttl(ttl).build().unwrap_err();
        assert!(matches!(error, ConfigError::InvalidFenceCounterTtl { .. }), "{error}");
    }
    harness.builder().fenced().fence_quorum(5).fence_counter_ttl(MAX_TTL).build().unwrap();
}

#[test]
fn a_server_behind_two_nodes_has_the_token_once() {
    let harness = counting(&[AHEAD + 10, AHEAD + 20]);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.delay_requests(ms(1)));
        let other_way = harness.nodes[0].clone().with_name("other way");
        let redlock = harness.builder().fenced().node(other_way).build().unwrap();
        let removing = async {
            between_the_trips(&harness).await;
            harness.nodes[1].set("x", "other", s(60));
        };
        let (lock, ()) = tokio::join!(redlock.lock("x", s(10)).retry_count(0), removing);
        let error = lock.unwrap_err();
        assert!(matches!(error, Error::Contended(_)), "{error}");
        assert_eq!(answers(&error), "grx");
        harness.sleep(100).await;
        assert_eq!(harness.nodes[0].get("x"), None);
    });
}

#[test]
fn a_node_without_a_vote_has_no_say_in_the_token() {
    let harness = counting(&[AHEAD + 10, AHEAD + 30, AHEAD + 20]);
    harness.run(async {
        harness.nodes[1].shut_down();
        harness.nodes[1].start();
        let redlock = harness.builder().fenced().max_ttl(s(60)).build().unwrap();
        let lock = redlock.lock("x", s(10)).await.unwrap();
        assert_eq!(lock.fence(), Some(number(AHEAD + 20)));
        assert_eq!(lock.replies()[1].fence, None, "{:?}", lock.replies());
    });
}
