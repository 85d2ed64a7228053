//! The guard against nodes that restart without their keys.

use std::{sync::Arc, time::Duration};

use redlock_core::{
    Acquire, AcquireReply, BackendError, ConfigError, Error, Extend, InvalidRequest, LockBackend,
    MemoryBackend, Redlock, Release, ReleaseReply, ServerInfo, ServerRole, async_trait,
};
use redlock_tests::harness::{Harness, Plain, answers, attempts, ms};

const TTL: Duration = Duration::from_secs(30);

fn guarded(harness: &Harness) -> Redlock {
    harness.builder().max_ttl(TTL).build().unwrap()
}

/// A lock on nodes 0 and 1 only, the second of which then restarts without it.
async fn half_forgotten(harness: &Harness, redlock: &Redlock) -> redlock_core::Lock {
    harness.nodes[2].shut_down();
    let lock = redlock.lock("x", TTL).await.unwrap();
    harness.nodes[2].start();
    harness.nodes[1].restart_empty();
    lock
}

/// This is the positive control of the next test.
#[test]
fn without_the_guard_a_node_that_restarts_empty_lets_two_clients_have_a_lock() {
    let harness = Harness::new(3);
    harness.run(async {
        let first = half_forgotten(&harness, &harness.redlock()).await;
        let second = harness.redlock().try_lock("x", TTL).await.unwrap();
        assert!(first.is_valid() && second.is_valid());
    });
}

#[test]
fn with_the_guard_nobody_else_gets_the_lock_while_it_is_valid() {
    let harness = Harness::new(3);
    harness.run(async {
        // Also node 2, which restarted with its keys, has to wait: nobody can tell them apart.
        let first = half_forgotten(&harness, &guarded(&harness)).await;
        let second = guarded(&harness);
        let mut tries = 0;
        while first.is_valid() {
            let error = second.try_lock("x", TTL).await.unwrap_err();
            assert!(matches!(error, Error::NoQuorum(_)), "{error}");
            assert_eq!(answers(&error), "rxx");
            tries += 1;
            harness.sleep(100).await;
        }
        assert!(tries > 200, "{tries}");
        first.forget();
        harness.sleep(1_000).await;
        drop(second.try_lock("x", TTL).await.unwrap());
    });
}

#[test]
fn a_node_within_its_guard_says_why_it_has_no_vote_and_keeps_no_key_of_a_lost_round() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].restart_empty();
        harness.nodes[1].restart_empty();
        harness.sleep(12_000).await;
        let error = guarded(&harness).try_lock("x", TTL).await.unwrap_err();
        let why = "node 1: transient: its server has been running for 12 s, and may have forgotten locks from \
                   before: it votes after 30 s";
        assert!(error.to_string().contains(why), "{error}");
        harness.sleep(1_000).await;
        harness.assert_free("x");
        // Not a moment later, and not earlier.
        harness.sleep(16_999).await;
        assert!(guarded(&harness).try_lock("x", TTL).await.is_err());
        harness.sleep(1).await;
        drop(guarded(&harness).try_lock("x", TTL).await.unwrap());
    });
}

#[test]
fn a_minority_within_its_guard_costs_nothing_and_waiting_goes_on_until_the_majority_is_out_of_it() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].restart_empty();
        let lock = guarded(&harness).try_lock("x", TTL).await.unwrap();
        lock.unlock().await.unwrap();
        harness.nodes[1].restart_empty();
        let (lock, took) = harness.timed(guarded(&harness).lock("x", TTL).retry_forever()).await;
        drop(lock.unwrap());
        assert!((TTL - ms(1)..TTL + ms(400)).contains(&took), "{took:?}");
    });
}

/// The counters of a node that restarts empty begin anew.
#[test]
fn a_fencing_token_needs_nodes_out_of_their_guard_too() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = guarded(&harness);
        let first = redlock.lock("x", TTL).fenced().await.unwrap();
        let before = first.fence().unwrap();
        first.unlock().await.unwrap();
        harness.nodes[1..].iter().for_each(MemoryBackend::restart_empty);
        let error = redlock.lock("x", TTL).fenced().retry_count(0).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        assert!(error.to_string().contains("may have forgotten locks"), "{error}");
        let later = redlock.lock("x", TTL).fenced().retry_forever().await.unwrap();
        assert!(later.fence().unwrap() > before);
    });
}

#[test]
fn extensions_and_hand_overs_count_nodes_that_have_restarted() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = guarded(&harness);
        let mut lock = redlock.lock("x", TTL).await.unwrap();
        for node in 0..3 {
            harness.nodes[node].restart_empty();
            // The first writes the key again, and the second counts it.
            lock.extend(TTL).await.unwrap();
            lock.extend(TTL).await.unwrap();
            harness.sleep(1).await;
        }
        let lock = redlock.from_parts(&lock.into_parts()).await.unwrap();
        lock.unlock().await.unwrap();
        harness.sleep(1).await;
        harness.assert_free("x");
    });
}

#[test]
fn a_longer_ttl_than_the_longest_is_refused_everywhere() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = guarded(&harness);
        let too_long = |error| match error {
            Error::InvalidRequest(InvalidRequest::TtlTooLong { ttl, max }) => {
                assert_eq!((ttl, max), (TTL + ms(1), TTL));
            }
            error => panic!("{error}"),
        };
        let error = redlock.lock("x", TTL + ms(1)).await.unwrap_err();
        assert!(error.to_string().contains("30.001s") && error.to_string().contains("30s"), "{error}");
        too_long(error);
        too_long(redlock.using("x", TTL + ms(1), |_| async {}).await.unwrap_err());
        let mut lock = redlock.lock("x", TTL).await.unwrap();
        too_long(lock.extend(TTL + ms(1)).await.unwrap_err());
        assert!(lock.is_valid());
        drop(lock);
        harness.sleep(1).await;
        let longer = harness.redlock().lock("x", TTL + ms(1)).await.unwrap();
        too_long(redlock.from_parts(&longer.into_parts()).await.unwrap_err());
    });
}

#[test]
fn a_longest_ttl_without_any_validity_is_a_mistake_of_configuration() {
    let harness = Harness::new(1);
    let build = |max_ttl| harness.builder().max_ttl(max_ttl).build();
    for max_ttl in [ms(0), ms(2), Duration::MAX] {
        assert!(matches!(build(max_ttl), Err(ConfigError::InvalidMaxTtl(_))), "{max_ttl:?}");
    }
    assert!(build(ms(3)).is_ok());
}

#[test]
fn a_node_with_an_unknown_uptime_votes_only_where_that_was_chosen() {
    let harness = Harness::new(3);
    let builder = || {
        let nodes = harness.nodes.iter().cloned().map(Plain);
        Redlock::builder(harness.runtime.clone()).nodes(nodes).entropy(harness.sim.entropy())
    };
    harness.run(async {
        let error = builder().max_ttl(TTL).build().unwrap().lock("x", TTL).await.unwrap_err();
        assert!(matches!(error, Error::Rejected(_)) && attempts(&error) == 1, "{error}");
        assert!(error.to_string().contains("`unknown_uptime_votes()`"), "{error}");
        harness.sleep(1).await;
        harness.assert_free("x");
        drop(builder().max_ttl(TTL).unknown_uptime_votes().build().unwrap().lock("x", TTL).await.unwrap());
        drop(builder().build().unwrap().lock("y", TTL).await.unwrap());
    });
}

#[test]
fn a_server_with_a_risk_has_no_vote_where_only_safe_ones_may() {
    let harness = Harness::new(3);
    let with = |role| {
        let node = move |node| Playing { node, role };
        let nodes = harness.nodes.iter().cloned().map(node);
        Redlock::builder(harness.runtime.clone()).nodes(nodes).entropy(harness.sim.entropy())
    };
    harness.run(async {
        let redlock = with(Some(ServerRole::Replica)).safe_servers_only().build().unwrap();
        let error = redlock.lock("x", TTL).await.unwrap_err();
        assert!(matches!(error, Error::Rejected(_)), "{error}");
        assert!(error.to_string().contains("it is a replica"), "{error}");
        let error = with(None).safe_servers_only().build().unwrap().lock("x", TTL).await.unwrap_err();
        assert!(error.to_string().contains("does not reveal its role"), "{error}");
        harness.sleep(1).await;
        harness.assert_free("x");
        let safe = with(Some(ServerRole::Primary)).safe_servers_only().build().unwrap();
        let mut lock = safe.lock("x", TTL).await.unwrap();
        lock.extend(TTL).await.unwrap();
        drop(with(Some(ServerRole::Replica)).build().unwrap().lock("y", TTL).await.unwrap());
    });
}

/// A node whose server says that it has this role.
#[derive(Debug)]
pub(crate) struct Playing {
    pub(crate) node: MemoryBackend,
    pub(crate) role: Option<ServerRole>,
}

#[async_trait]
impl LockBackend for Playing {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.node.release(request).await
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        let mut server = ServerInfo::clone(&*self.node.server()?);
        server.role = self.role;
        Some(Arc::new(server))
    }
}
