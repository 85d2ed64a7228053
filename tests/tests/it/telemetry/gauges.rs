//! Gauges: the locks that are held, and the nodes.

use metrics_exporter_prometheus::PrometheusHandle;
use redlock_core::{BackendErrorKind, Error, Lease, Redlock, Runtime};
use redlock_tests::harness::{Harness, s};
use rstest::rstest;

use crate::telemetry::capture::{exported, scrape};

/// How many locks are held, and since when the oldest one, in seconds since the start of the run.
fn held(harness: &Harness, exporter: &PrometheusHandle) -> (f64, Option<f64>) {
    held_by(harness, exporter, "")
}

fn held_by(harness: &Harness, exporter: &PrometheusHandle, labels: &str) -> (f64, Option<f64>) {
    let samples = scrape(exporter);
    let oldest = samples[&format!("redlock_oldest_lock_timestamp_seconds{labels}")];
    let start = harness.runtime.unix_time().as_secs_f64() - harness.runtime.elapsed().as_secs_f64();
    let oldest = (oldest > 0.0).then(|| ((oldest - start) * 1e3).round() / 1e3);
    (samples[&format!("redlock_locks_held{labels}")], oldest)
}

#[rstest]
fn a_lock_leaves_the_gauges_however_it_ends(
    #[values(
        "unlocked",
        "dropped",
        "forgotten",
        "handed over",
        "gone",
        "expired",
        "not noticed",
        "used",
        "aborted"
    )]
    end: &str,
) {
    let harness = Harness::new(3);
    exported(|exporter| {
        harness.run(async {
            let redlock = harness.redlock();
            assert_eq!(held(&harness, exporter), (0.0, None));
            // A view of it lives on.
            let mut lease = None;
            harness.sleep(5_000).await;
            if end == "used" || end == "aborted" {
                let during = |_: Lease| async {
                    harness.sleep(25_000).await;
                    assert_eq!(held(&harness, exporter), (1.0, Some(5.0)), "extended, but held since then");
                    harness.sleep(1_000).await;
                };
                let using = redlock.using("x", s(10), during);
                let done = harness.cancel_after(s(if end == "used" { 60 } else { 25 }) + s(1) / 2, using);
                assert_eq!(done.await.is_some(), end == "used");
            } else {
                let mut lock = redlock.lock("x", s(10)).await.unwrap();
                lease = Some(lock.lease());
                harness.sleep(1_000).await;
                assert!(redlock.try_lock("x", s(10)).await.is_err());
                assert_eq!(held(&harness, exporter), (1.0, Some(5.0)));
                match end {
                    "unlocked" => drop(lock.unlock().await.unwrap()),
                    "dropped" => drop(lock),
                    "forgotten" => lock.forget(),
                    "handed over" => drop(lock.into_parts()),
                    "gone" => {
                        harness.nodes.iter().for_each(|node| node.clear());
                        assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))));
                        assert_eq!(held(&harness, exporter), (0.0, None), "before the lock is dropped");
                    }
                    "expired" => {
                        lock.lease().lost().await;
                        assert_eq!(held(&harness, exporter), (0.0, None), "before the lock is dropped");
                    }
                    "not noticed" => {
                        harness.sleep(60_000).await;
                        assert_eq!(held(&harness, exporter), (1.0, Some(5.0)), "its owner may still work");
                    }
                    end => panic!("{end}?"),
                }
            }
            assert_eq!(held(&harness, exporter), (0.0, None));
            drop(lease);
        });
    });
}

#[test]
fn the_oldest_lock_is_that_of_all_managers_of_a_process() {
    let harness = Harness::new(3);
    exported(|exporter| {
        harness.run(async {
            let redlock = harness.redlock();
            let lock = async |redlock: &Redlock, name: &str| redlock.lock(name, s(60)).await.unwrap();
            let first = lock(&redlock, "a").await;
            harness.sleep(1_000).await;
            let other = harness.redlock();
            assert_eq!(held(&harness, exporter), (1.0, Some(0.0)), "a new manager does not forget them");
            let second = lock(&other, "b").await;
            harness.sleep(1_000).await;
            let third = lock(&redlock, "c").await;
            assert_eq!(held(&harness, exporter), (3.0, Some(0.0)));

            let labelled = harness.builder().label("reports").build().unwrap();
            let fourth = lock(&labelled, "d").await;
            assert_eq!(held(&harness, exporter), (3.0, Some(0.0)), "it has gauges of its own");
            assert_eq!(held_by(&harness, exporter, r#"{manager="reports"}"#), (1.0, Some(2.0)));
            drop((labelled, fourth));
            assert_eq!(held_by(&harness, exporter, r#"{manager="reports"}"#), (0.0, None));

            first.unlock().await.unwrap();
            assert_eq!(held(&harness, exporter), (2.0, Some(1.0)));
            drop((second, other));
            assert_eq!(held(&harness, exporter), (1.0, Some(2.0)), "a manager takes its part with it");
            third.unlock().await.unwrap();
            assert_eq!(held(&harness, exporter), (0.0, None));
        });
    });
}

#[test]
fn a_lock_that_is_taken_over_is_held_since_then() {
    let harness = Harness::new(3);
    exported(|exporter| {
        harness.run(async {
            let redlock = harness.redlock();
            let parts = redlock.lock("x", s(10)).await.unwrap().into_parts();
            harness.sleep(2_000).await;
            let lock = redlock.from_parts(&parts).await.unwrap();
            assert_eq!(held(&harness, exporter), (1.0, Some(2.0)));
            lock.unlock().await.unwrap();
            assert!(redlock.from_parts(&parts).await.is_err());
            assert_eq!(held(&harness, exporter), (0.0, None));
        });
    });
}

/// What is shown of each node.
fn healthy(exporter: &PrometheusHandle, manager: &str) -> [f64; 3] {
    let samples = scrape(exporter);
    [0, 1, 2].map(|node| samples[&format!(r#"redlock_node_healthy{{node="node {node}"{manager}}}"#)])
}

#[test]
fn a_node_is_healthy_until_it_fails_and_after_it_recovers() {
    let harness = Harness::new(3);
    exported(|exporter| {
        harness.run(async {
            let redlock = harness.redlock();
            let cycle = async || redlock.lock("x", s(10)).await.unwrap().unlock().await.unwrap();
            assert_eq!(healthy(exporter, ""), [1.0; 3], "nothing is known of them yet");
            cycle().await;
            assert_eq!(healthy(exporter, ""), [1.0; 3]);
            for kind in
                [BackendErrorKind::Indeterminate, BackendErrorKind::Transient, BackendErrorKind::Rejected]
            {
                harness.nodes[1].fail_next(1, kind);
                let lock = redlock.lock("x", s(10)).await.unwrap();
                assert_eq!(healthy(exporter, ""), [1.0, 0.0, 1.0], "{kind:?}, also when no line is logged");
                lock.unlock().await.unwrap();
                harness.sleep(1_000).await;
                assert_eq!(healthy(exporter, ""), [1.0; 3]);
            }
        });
    });
}

#[test]
fn a_node_is_unhealthy_while_one_manager_says_so_and_that_manager_lives() {
    let harness = Harness::new(3);
    exported(|exporter| {
        harness.run(async {
            let (one, other) = (harness.redlock(), harness.redlock());
            let labelled = harness.builder().label("reports").build().unwrap();
            harness.nodes[0].shut_down();
            one.lock("x", s(1)).await.unwrap().forget();
            other.lock("y", s(1)).await.unwrap().forget();
            assert_eq!(healthy(exporter, ""), [0.0, 1.0, 1.0]);
            assert_eq!(healthy(exporter, r#",manager="reports""#), [1.0; 3], "it has asked no node");
            harness.nodes[0].start();
            one.lock("z", s(1)).await.unwrap().forget();
            assert_eq!(healthy(exporter, ""), [0.0, 1.0, 1.0], "the other one knows nothing of it");
            drop(other);
            assert_eq!(healthy(exporter, ""), [1.0; 3]);
            drop(labelled);
        });
    });
}
