//! What a call leaves behind when it returns, and what bounds it.

use redlock_core::Error;
use redlock_tests::harness::{Harness, ms, s};

#[test]
fn keys_of_a_failed_acquire_are_gone_from_reachable_nodes_when_it_returns() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].delay_requests(ms(20));
        for node in &harness.nodes[1..] {
            node.delay_requests(ms(30));
            node.set("x", "other", s(60));
        }
        let error = harness.redlock().try_lock("x", s(10)).await.unwrap_err();
        assert!(matches!(error, Error::Contended(_)), "{error}");
        assert_eq!(harness.nodes[0].get("x"), None);
    });
}

#[test]
fn a_node_timeout_ends_with_the_validity_that_a_lock_could_have() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.stop());
        let redlock = harness.builder().node_timeout(s(60)).build().unwrap();
        let (error, took) = harness.timed(redlock.try_lock("x", s(1))).await;
        assert!(matches!(error, Err(Error::NoQuorum(_))), "{error:?}");
        assert!(took <= ms(988), "{took:?}");
    });
}

#[test]
fn a_lock_that_was_extended_is_kept_alive_at_the_rate_of_its_new_ttl() {
    let harness = Harness::new(3);
    harness.run(async {
        let mut lock = harness.redlock().lock("x", s(6)).await.unwrap();
        lock.extend(s(60)).await.unwrap();
        let before = harness.requests();
        let guard = lock.keep_alive();
        harness.sleep(19_000).await;
        assert_eq!(harness.requests(), before);
        assert!(guard.lease().remaining() > s(40));
    });
}
