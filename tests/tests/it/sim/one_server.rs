//! Nodes that lead to the same server share one vote.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Error, Extend, LockBackend, MemoryBackend,
    NodeOutcome, Redlock, Release, ReleaseReply, Runtime, ServerInfo, async_trait,
};
use redlock_tests::{
    harness::{Harness, answers, attempts, ms, s},
    sim_runtime::SimRuntime,
};

/// A manager whose nodes lead to the given nodes of the harness.
fn leading_to(harness: &Harness, nodes: &[usize]) -> Redlock {
    let nodes =
        (0..).zip(nodes).map(|(number, to)| harness.nodes[*to].clone().with_name(format!("way {number}")));
    Redlock::builder(harness.runtime.clone()).nodes(nodes).entropy(harness.sim.entropy()).build().unwrap()
}

#[test]
fn one_server_is_no_majority_of_three_and_the_error_has_the_reason() {
    let harness = Harness::new(2);
    harness.nodes[1].shut_down();
    harness.run(async {
        let error = leading_to(&harness, &[0, 0, 1]).lock("a", s(10)).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        let reason = "way 1: rejected: the same server as way 0, which has voted";
        assert!(error.to_string().contains(reason), "{error}");
        harness.assert_free("a");
        harness.nodes[1].start();
        let lock = leading_to(&harness, &[0, 0, 1]).lock("a", s(10)).await.unwrap();
        assert_eq!(harness.values("a"), [(); 2].map(|()| Some(lock.token().as_str().to_owned())));
        lock.unlock().await.unwrap();
        harness.assert_free("a");
        // Until the possible keys on the node that was down have been removed.
        harness.sleep(20_000).await;
    });
    harness.assert_at_rest();
}

#[test]
fn nodes_that_leave_no_quorum_of_servers_are_a_mistake_of_configuration() {
    let harness = Harness::new(2);
    harness.run(async {
        for nodes in [&[0, 0, 0][..], &[0, 0], &[0, 0, 0, 1], &[0, 1, 0, 1, 0]] {
            let redlock = leading_to(&harness, nodes);
            let error = redlock.lock("a", s(10)).retry_forever().await.unwrap_err();
            assert!(matches!(error, Error::Rejected(_)) && attempts(&error) == 1, "{nodes:?}: {error}");
            harness.sleep(1).await;
            harness.assert_free("a");
        }
        // Two servers are a quorum of three nodes.
        drop(leading_to(&harness, &[0, 1, 0]).lock("a", s(10)).await.unwrap());
    });
}

#[test]
fn extensions_and_hand_overs_count_a_server_once_too() {
    let harness = Harness::new(2);
    harness.run(async {
        let redlock = leading_to(&harness, &[0, 0, 1]);
        let mut lock = redlock.lock("a", s(10)).await.unwrap();
        harness.nodes[1].shut_down();
        let error = lock.extend(s(10)).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)) && answers(&error).contains('g'), "{error}");
        harness.nodes[1].start();
        lock.extend(s(10)).await.unwrap();
        let parts = lock.into_parts();
        harness.nodes[1].shut_down();
        let error = redlock.from_parts(&parts).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        assert!(error.to_string().contains("the same server as"), "{error}");
    });
}

#[test]
fn the_order_of_the_replies_does_not_matter() {
    let harness = Harness::new(2);
    harness.nodes[1].shut_down();
    harness.run(async {
        let error = behind(&harness, Way::to(&harness, ms(5), false)).try_lock("a", s(10)).await.unwrap_err();
        assert_eq!(answers(&error), "xgx", "{error}");
        let NodeOutcome::Failed(first) = &error.report().unwrap().replies[0].outcome else {
            panic!("{error}")
        };
        assert_eq!(first.kind(), BackendErrorKind::Rejected, "{error}");
        assert!(first.message().starts_with("the same server as server 0"), "{error}");
    });
}

#[test]
fn a_node_that_did_not_grant_takes_no_vote_from_another_of_its_server() {
    let harness = Harness::new(2);
    harness.run(async {
        let lock = behind(&harness, Way::to(&harness, ms(0), true)).try_lock("a", s(10)).await.unwrap();
        assert!(matches!(lock.replies()[0].outcome, NodeOutcome::Refused), "{:?}", lock.replies());
    });
}

/// A manager of three nodes: this one, and the harness's.
fn behind(harness: &Harness, way: Way) -> Redlock {
    let nodes = harness.nodes.iter().enumerate();
    let nodes = nodes.map(|(number, node)| node.clone().with_name(format!("server {number}")));
    Redlock::builder(harness.runtime.clone())
        .node(way)
        .nodes(nodes)
        .entropy(harness.sim.entropy())
        .build()
        .unwrap()
}

/// Another path to the harness's first node, whose server is known from the first reply on.
#[derive(Debug)]
struct Way {
    node: MemoryBackend,
    runtime: SimRuntime,
    delay: Duration,
    refuses: bool,
    answered: AtomicBool,
}

impl Way {
    fn to(harness: &Harness, delay: Duration, refuses: bool) -> Self {
        let (node, runtime) = (harness.nodes[0].clone(), harness.runtime.clone());
        Self { node, runtime, delay, refuses, answered: AtomicBool::new(false) }
    }
}

#[async_trait]
impl LockBackend for Way {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.runtime.sleep(self.delay).await;
        self.answered.store(true, Ordering::Relaxed);
        if self.refuses { Ok(AcquireReply::Refused) } else { self.node.acquire(request).await }
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.node.release(request).await
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        self.answered.load(Ordering::Relaxed).then(|| self.node.server()).flatten()
    }
}
