//! The assumptions of the algorithm, each shown by what happens without it.

use redlock_tests::harness::{Harness, s};

/// A majority that keeps everything is not enough: any two quorums have to share a node that remembers.
#[test]
fn one_node_of_a_quorum_that_loses_its_keys_before_the_ttl_is_enough_for_two_holders() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[2].shut_down();
        let first = harness.redlock().lock("x", s(30)).await.unwrap();
        harness.nodes[2].start();
        // Nodes 0 and 2, a majority, keep all that they have ever written.
        harness.nodes[1].clear();
        let second = harness.redlock().try_lock("x", s(30)).await.unwrap();
        assert!(first.is_valid() && second.is_valid());
    });
}

#[test]
fn a_node_that_stays_down_until_its_lost_keys_would_have_expired_does_no_harm() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[2].shut_down();
        let first = harness.redlock().lock("x", s(30)).await.unwrap();
        harness.nodes[2].start();
        harness.nodes[1].clear();
        harness.nodes[1].shut_down();
        assert!(harness.redlock().try_lock("x", s(30)).await.is_err());
        harness.sleep(30_000).await;
        assert!(!first.is_valid());
        harness.nodes[1].start();
        assert!(harness.redlock().try_lock("x", s(30)).await.is_ok());
    });
}
