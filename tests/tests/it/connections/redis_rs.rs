//! How the adapter's connections are made, break and come back.

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use redlock_redis_rs::{
    Acquire, AcquireReply, BackendErrorKind, Error, LockBackend, RedisBackend, Redlock, Resources, Token,
    TokioRuntime, UnlockOutcome,
    redis::aio::{ConnectionManager, ConnectionManagerConfig},
};
use redlock_tests::server::{Server, eventually, everywhere, manager};

use crate::connections::unresponsive::{black_hole, silent_listener};

const TTL: Duration = Duration::from_secs(60);
/// For work in the background.
const SOON: Duration = Duration::from_secs(10);
/// More than a request of 100 ms takes on a busy machine.
const QUICK: Duration = Duration::from_millis(1_500);

fn manager_of<B: LockBackend>(nodes: impl IntoIterator<Item = B>) -> Redlock {
    Redlock::builder(TokioRuntime::current()).nodes(nodes).build().expect("nodes")
}

fn open(address: impl std::fmt::Display) -> RedisBackend {
    RedisBackend::open(format!("redis://{address}")).expect("a URL")
}

fn lazy_manager(server: &Server) -> ConnectionManager {
    let config = ConnectionManagerConfig::new().set_number_of_retries(0);
    ConnectionManager::new_lazy_with_config(server.client(), config).expect("nothing is sent yet")
}

async fn works(redlock: &Redlock, servers: &[Server]) {
    let mut lock = redlock.lock("a", TTL).await.expect("healthy nodes");
    let token = lock.token().as_str().to_owned();
    assert!(eventually(SOON, || everywhere(servers, "a", Some(&token))).await);
    let refused = redlock.try_lock("a", TTL).await.expect_err("it is held");
    assert!(matches!(refused, Error::Contended(_)), "{refused}");
    lock.extend(2 * TTL).await.expect("healthy nodes");
    assert_eq!(lock.unlock().await.expect("healthy nodes"), UnlockOutcome::Released);
    assert!(eventually(SOON, || everywhere(servers, "a", None)).await);
}

/// One request to one node, without a lock manager that cuts it off.
async fn acquire(
    node: &(impl LockBackend + ?Sized),
    timeout: Duration,
) -> Result<AcquireReply, BackendErrorKind> {
    acquire_for(TTL, node, timeout).await
}

async fn acquire_for(
    ttl: Duration,
    node: &(impl LockBackend + ?Sized),
    timeout: Duration,
) -> Result<AcquireReply, BackendErrorKind> {
    let token: Token = "00112233445566778899aabbccddeeff".parse().expect("a token");
    let resources = Resources::from("a");
    let request = Acquire::new(&resources, &token, ttl, timeout);
    node.acquire(request).await.map_err(|error| error.kind())
}

async fn ends_by_its_timeout(node: &(impl LockBackend + ?Sized)) {
    for _ in 0..2 {
        let start = Instant::now();
        let reply = acquire(node, Duration::from_millis(100)).await;
        assert_eq!(reply, Err(BackendErrorKind::Indeterminate), "{node:?}");
        assert!(start.elapsed() < QUICK, "{node:?} took {:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_connection_locks() {
    let servers = Server::start_some(3);
    works(&manager_of(servers.iter().map(|server| RedisBackend::from_client(server.client()))), &servers)
        .await;
    works(&manager_of(servers.iter().map(|server| RedisBackend::new(lazy_manager(server)))), &servers).await;
    let mut nodes = Vec::new();
    for server in &servers {
        let connection = server.client().get_multiplexed_async_connection().await.unwrap();
        nodes.push(RedisBackend::new(connection).with_name(server.address()));
    }
    works(&manager_of(nodes), &servers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_sent_twice_is_granted_twice_and_its_key_lives_no_longer() {
    let server = Server::start();
    let node = open(server.address());
    assert_eq!(acquire(&node, SOON).await, Ok(AcquireReply::Granted));
    assert_eq!(acquire_for(2 * TTL, &node, SOON).await, Ok(AcquireReply::Granted));
    assert!(server.ttl("a").unwrap() <= TTL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_and_a_database_are_addresses_too() {
    let servers = [Server::start_with(&["--unixsocket", "socket"])];
    let path = servers[0].folder().join("socket");
    let node = RedisBackend::open(format!("redis+unix://{}", path.display())).unwrap();
    assert_eq!(node.name().unwrap(), path.to_str().unwrap());
    works(&manager_of([node]), &servers).await;

    let node = open(format_args!("{}/3", servers[0].address()));
    assert_eq!(node.name().unwrap(), format!("{}/3", servers[0].address()));
    let lock = manager_of([node]).lock("a", TTL).await.unwrap();
    assert_eq!(servers[0].get("a"), None);
    assert!(servers[0].command::<String>(&["INFO", "keyspace"]).contains("db3:keys=1"));
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_down_when_it_is_opened_is_used_once_it_is_up() {
    let mut servers = [Server::start()];
    servers[0].kill();
    let redlock = manager(&servers).build().unwrap();
    for _ in 0..2 {
        let failed = redlock.try_lock("a", TTL).await.unwrap_err();
        assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
    }
    servers[0].restart();
    let lock = redlock.try_lock("a", TTL).await.expect("the very first request");
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_request_after_an_idle_time_with_a_restart_works() {
    let mut servers = [Server::start()];
    let redlock = manager(&servers).build().unwrap();
    for _ in 0..3 {
        let lock = redlock.try_lock("a", TTL).await.expect("the very first request");
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        servers[0].restart();
        // It is not visible from outside when the client notices the end of its connection.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_after_an_idle_time_with_a_restart_all_work_and_requests_in_a_row_are_one_command_each() {
    let mut server = Server::start();
    let node = Arc::new(open(server.address()));
    for restarts in [true, false] {
        let asked: Vec<_> = (0..20)
            .map(|_| {
                let node = node.clone();
                tokio::spawn(async move { acquire(&*node, SOON).await })
            })
            .collect();
        for reply in asked {
            assert_eq!(reply.await.unwrap(), Ok(AcquireReply::Granted));
        }
        if restarts {
            server.restart();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    for _ in 0..500 {
        assert_eq!(acquire(&*node, SOON).await, Ok(AcquireReply::Granted));
    }
    // The check for the end of an idle connection sends next to nothing.
    let stats = server.command::<String>(&["INFO", "commandstats"]);
    let pings = stats.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
    let pings = pings.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().unwrap());
    assert!(pings < 25, "{pings}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_manager_works_again_after_an_outage() {
    let mut servers = [Server::start()];
    let redlock = manager_of([RedisBackend::new(lazy_manager(&servers[0]))]);
    works(&redlock, &servers).await;
    servers[0].kill();
    for _ in 0..3 {
        let failed = redlock.try_lock("a", TTL).await.unwrap_err();
        assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
    }
    servers[0].restart();
    let lock = redlock.lock("a", TTL).retry_count(2).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_login_is_retried_by_the_next_request() {
    let mut servers = [Server::start_with_password("right")];
    let without = open(servers[0].address());
    let early = open(format_args!(":soon@{}", servers[0].address()));
    for node in [&without, &early, &without, &early] {
        assert_eq!(acquire(node, SOON).await, Err(BackendErrorKind::Rejected));
    }
    servers[0].set_password("soon");
    assert_eq!(acquire(&early, SOON).await, Ok(AcquireReply::Granted));
    assert_eq!(acquire(&without, SOON).await, Err(BackendErrorKind::Rejected));
    servers[0].set_password("");
    assert_eq!(acquire(&without, SOON).await, Ok(AcquireReply::Granted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_listener_that_never_answers_ends_by_its_timeout() {
    let unaccepted = TcpListener::bind("127.0.0.1:0").unwrap();
    ends_by_its_timeout(&open(unaccepted.local_addr().unwrap())).await;

    let silent = silent_listener();
    ends_by_its_timeout(&open(silent)).await;

    let servers = Server::start_some(2);
    let nodes = [open(silent), open(servers[0].address()), open(servers[1].address())];
    let start = Instant::now();
    works(&manager_of(nodes), &servers).await;
    assert!(start.elapsed() < TTL / 20, "less than a node timeout for all steps, not {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_black_hole_ends_by_its_timeout() {
    let (address, _full) = black_hole().await;
    ends_by_its_timeout(&open(address)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timeout_of_a_request_reaches_every_kind_of_connection() {
    let server = Server::start();
    let opened = open(server.address());
    let managed = RedisBackend::new(lazy_manager(&server));
    let plain = RedisBackend::new(server.client().get_multiplexed_async_connection().await.unwrap());
    for node in [&opened as &dyn LockBackend, &managed, &plain] {
        assert_eq!(acquire(node, SOON).await, Ok(AcquireReply::Granted));
    }
    server.pause();
    for node in [&opened as &dyn LockBackend, &managed, &plain] {
        ends_by_its_timeout(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_within_a_long_timeout_is_waited_for() {
    let server = Server::start();
    let node = open(server.address());
    assert_eq!(acquire(&node, SOON).await, Ok(AcquireReply::Granted));
    // Longer than redis-rs waits by default.
    server.command::<()>(&["CLIENT", "PAUSE", "900", "ALL"]);
    assert_eq!(acquire(&node, SOON).await, Ok(AcquireReply::Granted));
}
