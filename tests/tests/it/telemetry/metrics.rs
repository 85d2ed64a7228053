//! What is counted and timed.

use redlock_tests::harness::{Harness, ms, s};

use crate::{
    sim::{
        fencing::{AHEAD, counting, fenced},
        odd_nodes::Stubborn,
    },
    telemetry::capture::{lose_and_fail, metered},
};

#[test]
fn metrics_count_what_happened() {
    let harness = Harness::new(3);
    let ((), metrics) = metered(|| harness.run(lose_and_fail(&harness, &harness.redlock())));
    let expected = [
        ("redlock_locks_total{outcome=granted}", 3),
        ("redlock_locks_total{outcome=contended}", 1),
        ("redlock_locks_total{outcome=no_quorum}", 2),
        ("redlock_locks_total{outcome=rejected}", 1),
        ("redlock_rounds_total{outcome=won}", 3),
        // The manager itself holds the lock, so only the last retry leads to a round.
        ("redlock_rounds_total{outcome=refused}", 1),
        ("redlock_rounds_total{outcome=no_quorum}", 2),
        ("redlock_rounds_total{outcome=rejected}", 1),
        ("redlock_extensions_total{outcome=extended}", 2),
        ("redlock_unlocks_total{outcome=released}", 1),
        ("redlock_unlocks_total{outcome=not_held}", 1),
        ("redlock_unlocks_total{outcome=dropped}", 1),
        ("redlock_lost_total{reason=gone}", 1),
        ("redlock_lost_total{reason=expired}", 0),
        ("redlock_pending_releases{node=node 2}", 0),
        ("redlock_lock_duration_seconds{outcome=granted}", 0),
        ("redlock_node_requests_total{node=node 0,verb=acquire,outcome=granted}", 4),
        ("redlock_node_requests_total{node=node 0,verb=acquire,outcome=rejected}", 1),
    ];
    for (name, value) in expected {
        assert_eq!(metrics.get(name), Some(&value), "{name} in {metrics:#?}");
    }
    assert!(metrics.keys().all(|name| !name.contains("secret")), "{metrics:#?}");
}

#[test]
fn metrics_time_waiting_and_holding_on_the_clock_of_the_runtime() {
    let harness = Harness::new(1);
    let ((), metrics) = metered(|| {
        harness.run(async {
            harness.nodes[0].delay_replies(ms(7));
            let lock = harness.redlock().lock("x", s(10)).await.unwrap();
            harness.sleep(500).await;
            drop(lock.into_parts());
            let request = harness.redlock().lock("x", s(10)).into_future();
            assert!(harness.cancel_after(ms(50), request).await.is_none());
            harness.sleep(100).await;
        });
    });
    assert_eq!(metrics["redlock_lock_duration_seconds{outcome=granted}"], 7);
    assert_eq!(metrics["redlock_lock_duration_seconds{outcome=cancelled}"], 50);
    assert_eq!(metrics["redlock_hold_duration_seconds{}"], 500);
    // An acquire, another, and the release of the second.
    assert_eq!(metrics["redlock_node_request_duration_seconds{node=node 0}"], 21);
}

#[test]
fn locks_that_are_kept_are_counted_however_they_ended() {
    let harness = Harness::new(3);
    let ((), metrics) = metered(|| {
        harness.run(async {
            let redlock = harness.builder().label("jobs").build().unwrap();
            let job = |name: &str| redlock.lock(name, s(10)).min_hold(s(10));
            job("x").await.unwrap().unlock().await.unwrap();
            drop(job("y").await.unwrap());
            job("z").using(async |_| ()).await.unwrap();
        });
    });
    assert_eq!(metrics["redlock_unlocks_total{manager=jobs,outcome=kept}"], 3);
    let unlocks = metrics.iter().filter(|(name, _)| name.starts_with("redlock_unlocks_total"));
    assert_eq!(unlocks.map(|(_, number)| number).sum::<i64>(), 3, "{metrics:#?}");
    assert_eq!(metrics["redlock_locks_held{manager=jobs}"], 0, "nobody holds them");
    assert_eq!(metrics["redlock_lost_total{manager=jobs,reason=expired}"], 0);
}

#[test]
fn second_trips_for_fencing_tokens_are_counted() {
    let harness = counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 15]);
    let ((), metrics) = metered(|| {
        harness.run(async {
            let redlock = fenced(&harness);
            redlock.lock("x", s(10)).await.unwrap().unlock().await.unwrap();
            redlock.lock("x", s(10)).await.unwrap().unlock().await.unwrap();
        });
    });
    assert_eq!(metrics["redlock_rounds_total{outcome=won}"], 2);
    assert_eq!(metrics["redlock_fence_raises_total{outcome=done}"], 1, "they agree from then on");
    let raised = "redlock_node_requests_total{node=node 0,verb=raise,outcome=granted}";
    assert_eq!(metrics[raised], 1);
}

#[test]
fn pending_releases_are_a_gauge_that_comes_back_to_zero() {
    let pending = |seconds: u64, keep: bool| {
        let harness = Harness::new(3);
        let mut kept = None;
        let ((), metrics) = metered(|| {
            let redlock = harness.redlock_over(Stubborn);
            harness.run(async {
                drop(redlock.lock("stubborn", s(10)).await.unwrap());
                harness.sleep(seconds * 1_000).await;
            });
            kept = keep.then_some((redlock, harness));
        });
        [0, 1, 2].map(|node| metrics[&format!("redlock_pending_releases{{node={node}}}")])
    };
    assert_eq!(pending(1, true), [1, 1, 1]);
    assert_eq!(pending(12, true), [0, 0, 0], "their keys have expired");
    assert_eq!(pending(1, false), [0, 0, 0], "what is pending ends with its runtime");
}
