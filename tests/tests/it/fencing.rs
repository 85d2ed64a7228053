//! The checks of the run with fencing tokens on real servers find each error, and nothing else.

use std::time::Duration;

use redlock_tests::{
    adapter::Adapter,
    fencing::{Broken, Plan, late_raise, run},
};

fn plan(seconds: u64, broken: Option<Broken>) -> Plan {
    Plan { length: Duration::from_secs(seconds), seed: 1, clients: 8, nodes: 3, restarts: false, broken }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_unique_and_in_order_though_locks_overlap() {
    let report = run(&plan(4, None)).await;
    assert_eq!(report.violations, []);
    assert!(report.acquires > 0 && report.removed > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_larger_quorum_and_the_restart_guard_survive_servers_that_lose_their_counters() {
    let report = run(&Plan { nodes: 5, restarts: true, ..plan(8, None) }).await;
    assert_eq!(report.violations, []);
    assert!(report.acquires > 0 && report.restarts > 0, "{report:?}");
}

/// Those that a few locks show. The other one has a history of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_scripts_are_found() {
    for broken in Broken::ALL.into_iter().filter(|broken| *broken != Broken::RaiseLowers) {
        let report = run(&plan(120, Some(broken))).await;
        assert_ne!(report.violations, [], "{broken:?} in {} locks", report.acquires);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_raise_lowers_no_counter() {
    for adapter in [Adapter::RedisRs, Adapter::Fred] {
        assert_eq!(late_raise(adapter, None).await, [], "{adapter:?}");
    }
    assert_ne!(late_raise(Adapter::RedisRs, Some(Broken::RaiseLowers)).await, []);
}
