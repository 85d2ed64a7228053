//! What an in-memory node does with the requests that wait for it, and with watches.

use std::time::Duration;

use redlock_core::{
    Acquire, AcquireReply, BackendErrorKind, LockBackend, MemoryBackend, Resources, Runtime as _, Token,
    Watch,
};
use redlock_tests::harness::{Harness, ms, s};

async fn acquire(node: &MemoryBackend) -> Result<AcquireReply, BackendErrorKind> {
    let (resources, token): (Resources, Token) = ("x".into(), "0".repeat(40).parse().unwrap());
    let request = Acquire::new(&resources, &token, s(60), s(5));
    node.acquire(request).await.map_err(|error| error.kind())
}

#[test]
fn requests_to_a_stopped_node_are_answered_when_it_starts_or_resumes() {
    for goes_on in [MemoryBackend::start, MemoryBackend::resume] {
        for delay in [ms(0), ms(50), ms(2_000)] {
            let harness = Harness::new(1);
            let node = &harness.nodes[0];
            harness.run(async {
                node.delay_requests(delay);
                node.stop();
                let going_on = async {
                    harness.sleep(1_000).await;
                    assert_eq!(node.get("x"), None);
                    goes_on(node);
                };
                let (both, ()) = tokio::join!(
                    harness.timed(async { tokio::join!(acquire(node), acquire(node)) }),
                    going_on
                );
                assert_eq!(
                    both,
                    ((Ok(AcquireReply::Granted), Ok(AcquireReply::Granted)), delay.max(s(1))),
                    "{delay:?}"
                );
                harness.sleep(1).await;
            });
            harness.assert_at_rest();
        }
    }
}

#[test]
fn requests_to_a_stopped_node_fail_at_once_when_it_is_shut_down_and_never_run() {
    let harness = Harness::new(1);
    let node = &harness.nodes[0];
    harness.run(async {
        node.stop();
        let ending = async {
            harness.sleep(1_000).await;
            node.shut_down();
        };
        let (failed, ()) = tokio::join!(harness.timed(acquire(node)), ending);
        assert_eq!(failed, (Err(BackendErrorKind::Indeterminate), s(1)));
        node.start();
        assert_eq!(node.get("x"), None);
        assert_eq!(
            harness.timed(acquire(node)).await,
            (Ok(AcquireReply::Granted), ms(0)),
            "it is not stopped any more"
        );
    });
    harness.assert_at_rest();
}

#[test]
fn a_request_that_timed_out_on_a_stopped_node_still_runs_when_it_resumes() {
    let harness = Harness::new(1);
    let node = &harness.nodes[0];
    harness.run(async {
        node.stop();
        assert_eq!(harness.timed(acquire(node)).await, (Err(BackendErrorKind::Indeterminate), s(5)));
        node.start();
        assert!(node.get("x").is_some());
    });
    harness.assert_at_rest();
}

async fn watch(node: &MemoryBackend, names: &[&str]) -> Result<(), BackendErrorKind> {
    let names = names.iter().copied().collect();
    node.watch(Watch::new(&names, s(100))).await.map_err(|error| error.kind())
}

/// What ended a watch of two keys of which `x` is held for 60 s, and when.
fn watched(happens: impl Fn(&Harness)) -> (Result<(), BackendErrorKind>, Duration) {
    let harness = Harness::new(1);
    let node = &harness.nodes[0];
    let watched = harness.run(async {
        node.set("x", "another's", s(60));
        let later = async {
            harness.sleep(1_000).await;
            happens(&harness);
        };
        let (watched, ()) = tokio::join!(harness.timed(watch(node, &["x", "y"])), later);
        harness.sleep(60_000).await;
        watched
    });
    assert_eq!(node.requests(), 0, "a watch has a connection of its own");
    harness.assert_at_rest();
    watched
}

#[test]
fn an_eager_watch_ends_with_a_change_and_any_other_with_what_is_there_then() {
    for (eager, ended) in [(true, s(1)), (false, s(30))] {
        let harness = Harness::new(1);
        let node = &harness.nodes[0];
        harness.run(async {
            node.set("x", "another's", s(20));
            let later = async {
                harness.sleep(1_000).await;
                node.set("x", "another's", s(29));
            };
            let names = "x".into();
            let request = Watch::new(&names, s(100));
            let request = if eager { request.eager() } else { request };
            let ((watched, took), ()) = tokio::join!(harness.timed(node.watch(request)), later);
            assert_eq!((watched.is_ok(), took), (true, ended));
        });
    }
}

#[test]
fn a_watch_ends_with_whatever_frees_its_last_key() {
    assert_eq!(watched(|_| {}), (Ok(()), s(60)), "the expiry");
    assert_eq!(watched(|harness| harness.nodes[0].remove("x")), (Ok(()), s(1)));
    assert_eq!(watched(|harness| harness.nodes[0].clear()), (Ok(()), s(1)));
    assert_eq!(watched(|harness| harness.nodes[0].remove("y")), (Ok(()), s(60)));
    let shortened = watched(|harness| harness.nodes[0].set("x", "another's", s(3)));
    assert_eq!(shortened, (Ok(()), s(4)));
    let lengthened = watched(|harness| harness.nodes[0].set("y", "another's", s(70)));
    assert_eq!(lengthened, (Ok(()), s(71)));
}

#[test]
fn a_watch_fails_with_its_node_and_takes_part_in_its_delays_and_failures() {
    let lost = (Err(BackendErrorKind::Indeterminate), s(1));
    assert_eq!(watched(|harness| harness.nodes[0].shut_down()), lost);
    let failed = watched(|harness| {
        harness.nodes[0].fail_next(1, BackendErrorKind::Transient);
        harness.nodes[0].remove("x");
    });
    assert_eq!(failed, (Err(BackendErrorKind::Transient), s(1)));
    let late = watched(|harness| {
        harness.nodes[0].delay_requests(s(2));
        harness.nodes[0].delay_replies(s(3));
        harness.nodes[0].remove("x");
    });
    assert_eq!(late, (Ok(()), s(6)));
    let stopped = watched(|harness| {
        let node = harness.nodes[0].clone();
        node.stop();
        node.remove("x");
        let resumed = harness.runtime.sleep(s(10));
        harness.runtime.spawn(Box::pin(async move {
            resumed.await;
            node.resume();
        }));
    });
    assert_eq!(stopped, (Ok(()), s(11)));
}

#[test]
fn a_watch_ends_at_its_timeout_and_at_once_when_its_node_is_down() {
    let harness = Harness::new(1);
    let node = &harness.nodes[0];
    harness.run(async {
        node.set("x", "another's", s(600));
        assert_eq!(harness.timed(watch(node, &["x"])).await, (Err(BackendErrorKind::Indeterminate), s(100)));
        assert_eq!(harness.timed(watch(node, &["y"])).await, (Ok(()), s(0)));
        assert!(harness.cancel_after(s(1), watch(node, &["x"])).await.is_none());
        harness.assert_at_rest();
        node.shut_down();
        assert_eq!(harness.timed(watch(node, &["y"])).await, (Err(BackendErrorKind::Indeterminate), s(0)));
    });
}
