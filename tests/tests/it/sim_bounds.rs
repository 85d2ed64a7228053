//! What a call leaves behind when it returns, and what bounds it.

use redlock_core::Error;

use crate::bed::{Bed, ms, s};

#[test]
fn keys_of_a_lock_that_was_not_won_are_gone_from_reachable_nodes_when_it_returns() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes[0].delay_requests(ms(20));
        for node in &bed.nodes[1..] {
            node.delay_requests(ms(30));
            node.set("x", "other", s(60));
        }
        let error = bed.redlock().try_lock("x", s(10)).await.unwrap_err();
        assert!(matches!(error, Error::Contended(_)), "{error}");
        assert_eq!(bed.nodes[0].get("x"), None);
    });
}

#[test]
fn a_node_timeout_ends_with_the_validity_that_a_lock_could_have() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes.iter().for_each(|node| node.stop());
        let redlock = bed.builder().node_timeout(s(60)).build().unwrap();
        let (error, took) = bed.timed(redlock.try_lock("x", s(1))).await;
        assert!(matches!(error, Err(Error::NoQuorum(_))), "{error:?}");
        assert!(took <= ms(988), "{took:?}");
    });
}

#[test]
fn a_lock_that_was_extended_is_kept_alive_at_the_pace_of_its_new_ttl() {
    let bed = Bed::new(3);
    bed.run(async {
        let mut lock = bed.redlock().lock("x", s(6)).await.unwrap();
        lock.extend(s(60)).await.unwrap();
        let before = bed.requests();
        let guard = lock.keep_alive();
        bed.sleep(19_000).await;
        assert_eq!(bed.requests(), before);
        assert!(guard.lease().remaining() > s(40));
    });
}
