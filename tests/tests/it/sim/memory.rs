//! What an in-memory node does with the requests that wait for it.

use redlock_core::{Acquire, AcquireReply, BackendErrorKind, LockBackend, MemoryBackend, Resources, Token};
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
