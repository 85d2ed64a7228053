//! The guard against servers that restart without their keys.

use std::time::{Duration, Instant};

use redlock_redis_rs::{
    BackendErrorKind, Error, LockBackend, RedisBackend,
    redis::{Client, aio::ConnectionManager},
};
use redlock_tests::{
    adapter::Adapter,
    server::{Server, eventually, everywhere},
};

/// The server counts whole seconds, of which one is not sure.
const MAX_TTL: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(10);
const BOTH: [Adapter; 2] = [Adapter::RedisRs, Adapter::Fred];

/// How many nodes are within their guard, by an error.
fn waiting(error: &Error) -> usize {
    error.to_string().matches("s, and may have forgotten locks from before: it votes after 3000 ms").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_restarted_empty_have_no_vote_for_the_longest_ttl() {
    let mut servers = Server::start_some(3);
    let managers = BOTH.map(|adapter| {
        adapter.manager(&servers).max_ttl(MAX_TTL).node_timeout(SOON / 10).build().expect("nodes")
    });
    // They have just started, as far as anybody knows.
    for redlock in &managers {
        let lock = redlock.lock("a", MAX_TTL).retry_forever().acquire_timeout(SOON).await.unwrap();
        lock.unlock().await.unwrap();
    }
    let held = managers[0].lock("held", MAX_TTL).await.unwrap();
    let restarted = Instant::now();
    servers[0].restart_empty();
    servers[1].restart_empty();
    for redlock in &managers {
        // The first requests find their connections broken.
        let start = Instant::now();
        let why = loop {
            let error = redlock.try_lock("a", MAX_TTL).await.unwrap_err();
            if waiting(&error) > 0 || start.elapsed() > SOON {
                break error;
            }
        };
        assert!(matches!(why, Error::NoQuorum(_)) && waiting(&why) > 0, "{why}");
        assert!(held.is_valid() || restarted.elapsed() >= MAX_TTL / 2, "too slow to show anything");
    }
    let locks = managers.iter().map(|redlock| async {
        let lock = redlock.lock("held", MAX_TTL).retry_forever().acquire_timeout(SOON).await.unwrap();
        let took = restarted.elapsed();
        assert!(!held.is_valid() && took >= MAX_TTL, "after {took:?}");
        lock.unlock().await.unwrap();
    });
    futures_util::future::join_all(locks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hides_its_uptime_is_rejected_unless_it_may_vote() {
    let servers = Server::start_some(3);
    let user = ["ACL", "SETUSER", "locker", "reset", "on", ">secret", "~*", "+eval", "+get", "+set", "+del"];
    servers.iter().for_each(|server| server.command::<()>(&user));
    for adapter in BOTH {
        let urls = || servers.iter().map(|server| format!("redis://locker:secret@{}", server.address()));
        let builder = || adapter.manager_of(urls()).max_ttl(MAX_TTL).node_timeout(SOON / 10);
        let error = builder().build().unwrap().lock("a", MAX_TTL).await.unwrap_err();
        assert!(matches!(error, Error::Rejected(_)), "{error}");
        let text = "rejected: its server does not reveal how long it has been running: allow its user to call \
                    INFO, or build with `unknown_uptime_votes()`";
        assert!(error.to_string().contains(text), "{error}");
        assert!(eventually(SOON, || everywhere(&servers, "a", None)).await, "its keys are removed");
        let chosen = builder().unknown_uptime_votes().build().unwrap();
        chosen.lock("a", MAX_TTL).await.unwrap().unlock().await.unwrap();
        assert!(eventually(SOON, || everywhere(&servers, "a", None)).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_connection_of_the_user_the_uptime_is_unknown() {
    let server = Server::start();
    let connection = ConnectionManager::new(Client::open(server.url()).unwrap()).await.unwrap();
    let error = RedisBackend::new(connection).uptime().unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Rejected);
    assert!(error.message().contains("open the node by its URL"), "{error}");
    // Nothing has been asked yet.
    assert_eq!(Adapter::Fred.open(&server.url()).uptime().unwrap_err().kind(), BackendErrorKind::Transient);
}
