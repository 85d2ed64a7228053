//! How the fred adapter's connections are made, break and come back, and what fred's queues must not do.

use std::{
    error::Error as StdError,
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Error, Inspect, KeyState, LockBackend, Redlock,
    Resources, Token, TokioRuntime, UnlockOutcome,
};
use redlock_fred::{
    FredBackend,
    fred::{
        clients::Client,
        error::ErrorKind,
        interfaces::ClientLike,
        types::config::{Config, ReconnectPolicy},
    },
};
use redlock_tests::{
    adapter::Adapter,
    proxy::Proxy,
    server::{Server, eventually, everywhere},
    sim_runtime::poll_once,
};

use crate::connections::unresponsive::{black_hole, silent_listener};

pub(crate) const TTL: Duration = Duration::from_secs(60);
/// For work in the background.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// More than a request of 100 ms takes on a busy machine.
pub(crate) const QUICK: Duration = Duration::from_millis(1_500);
pub(crate) const SHORT: Duration = Duration::from_millis(100);

pub(crate) fn open(address: impl std::fmt::Display) -> FredBackend {
    FredBackend::open(&format!("redis://{address}")).expect("a URL")
}

/// A user-supplied client, which reconnects after `delay`.
pub(crate) fn client(url: &str, delay: Duration) -> Client {
    let millis = u32::try_from(delay.as_millis()).expect("a short delay");
    let config = Config::from_url(url).expect("a URL");
    Client::new(config, None, None, Some(ReconnectPolicy::new_constant(0, millis)))
}

pub(crate) async fn initialized(url: &str, delay: Duration) -> FredBackend {
    let client = client(url, delay);
    client.init().await.expect("a server");
    FredBackend::new(client).expect("a reconnect policy")
}

pub(crate) fn manager_of(nodes: impl IntoIterator<Item = FredBackend>) -> Redlock {
    Redlock::builder(TokioRuntime::current()).nodes(nodes).build().expect("nodes")
}

/// On a thread of its own, because the proxy blocks on its own runtime while it starts.
pub(crate) fn proxy_to(server: &Server) -> Proxy {
    thread::scope(|scope| scope.spawn(|| Proxy::to(server)).join()).expect("a proxy")
}

pub(crate) fn token() -> Token {
    "00112233445566778899aabbccddeeff".parse().expect("a token")
}

/// One request to one node, without a lock manager that cuts it off.
pub(crate) async fn acquire(
    node: &FredBackend,
    key: &str,
    timeout: Duration,
) -> Result<AcquireReply, BackendError> {
    node.acquire(Acquire::new(&Resources::from(key), &token(), TTL, timeout)).await
}

pub(crate) async fn fails_as(
    node: &FredBackend,
    key: &str,
    timeout: Duration,
    kind: BackendErrorKind,
) -> BackendError {
    let start = Instant::now();
    let error = acquire(node, key, timeout).await.expect_err("it fails");
    assert_eq!(error.kind(), kind, "{error}: {:?}", error.source());
    assert!(start.elapsed() < timeout + QUICK, "{error} took {:?}", start.elapsed());
    error
}

pub(crate) async fn works(redlock: &Redlock, servers: &[Server]) {
    let mut lock = redlock.lock("a", TTL).await.expect("healthy nodes");
    let token = lock.token().as_str().to_owned();
    assert!(eventually(SOON, || everywhere(servers, "a", Some(&token))).await);
    let refused = redlock.try_lock("a", TTL).await.expect_err("it is held");
    assert!(matches!(refused, Error::Contended(_)), "{refused}");
    lock.extend(2 * TTL).await.expect("healthy nodes");
    assert_eq!(lock.unlock().await.expect("healthy nodes"), UnlockOutcome::Released);
    assert!(eventually(SOON, || everywhere(servers, "a", None)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_supplied_client_locks() {
    let servers = Server::start_some(3);
    let mut nodes = Vec::new();
    for server in &servers {
        nodes.push(initialized(&server.url(), SHORT).await);
    }
    assert_eq!(nodes[0].name().unwrap(), servers[0].address());
    works(&manager_of(nodes), &servers).await;
}

#[tokio::test]
async fn a_client_that_would_not_reconnect_is_refused() {
    let server = Server::start();
    let config = Config::from_url(&server.url()).unwrap();
    let refused = FredBackend::new(Client::new(config, None, None, None)).unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::Config);
    assert!(refused.to_string().contains("reconnect policy"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_not_initialized_fails_at_once() {
    let mut server = Server::start();
    let client = client(&server.url(), SHORT);
    let node = FredBackend::new(client.clone()).unwrap();
    let start = Instant::now();
    let error = fails_as(&node, "a", TTL, BackendErrorKind::Indeterminate).await;
    assert!(error.message().contains("not connected"), "{error}");
    assert!(start.elapsed() < QUICK);

    server.kill();
    client.init().await.unwrap_err();
    // fred reports the reason separately, and a little later.
    tokio::time::sleep(SHORT / 2).await;
    let start = Instant::now();
    let error = fails_as(&node, "a", TTL, BackendErrorKind::Indeterminate).await;
    assert!(error.source().unwrap().to_string().contains("Connection refused"), "{error}");
    assert!(start.elapsed() < QUICK);

    server.restart();
    client.init().await.unwrap();
    assert_eq!(acquire(&node, "b", TTL).await.unwrap(), AcquireReply::Granted);
    assert_eq!(server.get("a"), None, "what failed has come out of a queue");
}

#[tokio::test]
async fn a_request_that_is_sent_twice_is_granted_twice() {
    let server = Server::start();
    let node = open(server.address());
    for _ in 0..2 {
        assert_eq!(acquire(&node, "a", SOON).await.unwrap(), AcquireReply::Granted);
    }
    assert!(server.ttl("a").unwrap() <= TTL);
}

#[tokio::test]
async fn a_node_shows_what_is_stored_at_each_key() {
    let server = Server::start();
    let node = open(server.address());
    acquire(&node, "held", SOON).await.unwrap();
    server.command::<()>(&["SET", "binary", "x"]);
    server.command::<()>(&["SETRANGE", "binary", "3", "y"]);
    let asked = Resources::from(["free", "held", "binary"]);
    let states = node.inspect(Inspect::new(&asked, SOON)).await.unwrap();
    let [KeyState::Free, KeyState::Held { holder, remaining: Some(left), .. }, binary] = &states[..] else {
        panic!("{states:?}");
    };
    assert_eq!((holder.as_str(), *binary == KeyState::held(b"x\0\0y", None)), ("00112233", true));
    assert!((TTL - SOON..=TTL).contains(left), "{left:?}");

    server.command::<()>(&["RPUSH", "list", "element"]);
    let error = node.inspect(Inspect::new(&"list".into(), SOON)).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Rejected);
    assert!(error.message().contains("WRONGTYPE"), "{error}");
}

#[tokio::test]
async fn a_database_is_part_of_the_address() {
    let server = Server::start();
    let node = open(format_args!("{}/3", server.address()));
    assert_eq!(node.name().unwrap(), format!("{}/3", server.address()));
    assert_eq!(acquire(&node, "a", SOON).await.unwrap(), AcquireReply::Granted);
    assert_eq!(server.get("a"), None);
    assert!(server.command::<String>(&["INFO", "keyspace"]).contains("db3:keys=1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_down_when_it_is_opened_is_used_once_it_is_up() {
    let mut servers = [Server::start()];
    servers[0].kill();
    let redlock = Adapter::Fred.manager(&servers).build().unwrap();
    for _ in 0..2 {
        let start = Instant::now();
        let failed = redlock.try_lock("a", TTL).await.unwrap_err();
        assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
        assert!(failed.to_string().contains("Connection refused"), "{failed}");
        assert!(start.elapsed() < QUICK, "less than the node timeout, not {:?}", start.elapsed());
    }
    servers[0].restart();
    let lock = redlock.try_lock("a", TTL).await.expect("the very first request");
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_request_after_an_idle_time_with_a_restart_works() {
    let mut servers = [Server::start()];
    let redlock = Adapter::Fred.manager(&servers).build().unwrap();
    for _ in 0..3 {
        let lock = redlock.try_lock("a", TTL).await.expect("the very first request");
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        servers[0].restart();
        // It is not visible from outside when the client notices the end of its connection.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_supplied_client_works_again_after_an_outage() {
    let mut servers = [Server::start()];
    let redlock = manager_of([initialized(&servers[0].url(), SHORT).await]);
    works(&redlock, &servers).await;
    servers[0].kill();
    for _ in 0..3 {
        let failed = redlock.try_lock("a", TTL).await.unwrap_err();
        assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
    }
    servers[0].restart();
    let lock = redlock.lock("a", TTL).retry_count(5).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_fails_the_requests_in_flight_at_once() {
    let mut server = Server::start();
    let node = open(server.address());
    assert_eq!(acquire(&node, "warm", SOON).await.unwrap(), AcquireReply::Granted);
    for number in 0..5 {
        server.pause();
        let (task_node, key) = (node.clone(), format!("key {number}"));
        let task =
            tokio::spawn(async move { acquire(&task_node, &key, TTL).await.map_err(|error| error.kind()) });
        tokio::time::sleep(Duration::from_millis(20)).await;
        server.kill();
        let start = Instant::now();
        // Meanwhile the client notices the end. A request that meets any state in between ends as well.
        while start.elapsed() < SHORT {
            let error = acquire(&node, "b", TTL).await.unwrap_err();
            assert_eq!(error.kind(), BackendErrorKind::Indeterminate, "{error}");
        }
        assert_eq!(task.await.unwrap(), Err(BackendErrorKind::Indeterminate));
        assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
        server.restart();
        assert_eq!(acquire(&node, "warm", SOON).await.unwrap(), AcquireReply::Granted);
        assert_eq!(server.get("b"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_login_is_rejected_and_retried_by_the_next_request() {
    let mut server = Server::start_with_password("right");
    let without = open(server.address());
    let early = open(format_args!(":soon@{}", server.address()));
    for (node, words) in [(&without, "NOAUTH"), (&early, "WRONGPASS"), (&without, "NOAUTH")] {
        let error = fails_as(node, "a", SOON, BackendErrorKind::Rejected).await;
        assert!(error.message().starts_with(words), "{error}");
    }
    server.set_password("soon");
    assert_eq!(acquire(&early, "a", SOON).await.unwrap(), AcquireReply::Granted);
    fails_as(&without, "a", SOON, BackendErrorKind::Rejected).await;
    server.set_password("");
    assert_eq!(acquire(&without, "a", SOON).await.unwrap(), AcquireReply::Granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_supplied_client_that_cannot_log_in_again_is_rejected() {
    let mut server = Server::start_with_password("right");
    let node = initialized(&format!("redis://:right@{}", server.address()), SHORT).await;
    assert_eq!(acquire(&node, "a", SOON).await.unwrap(), AcquireReply::Granted);
    server.set_password("changed");
    server.command::<()>(&["CLIENT", "KILL", "TYPE", "normal"]);
    let start = Instant::now();
    let mut reply = acquire(&node, "a", SHORT).await;
    while !reply.as_ref().is_err_and(|error| error.kind() == BackendErrorKind::Rejected)
        && start.elapsed() < SOON
    {
        tokio::time::sleep(SHORT / 4).await;
        reply = acquire(&node, "a", SHORT).await;
    }
    assert!(reply.unwrap_err().message().starts_with("WRONGPASS"));
    server.set_password("right");
    let start = Instant::now();
    while acquire(&node, "a", SHORT).await.is_err() {
        assert!(start.elapsed() < SOON, "fred goes on trying");
        tokio::time::sleep(SHORT / 4).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_listener_that_never_answers_ends_by_its_timeout() {
    let unaccepted = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent_listener();
    for address in [unaccepted.local_addr().unwrap(), silent] {
        let node = open(address);
        for _ in 0..2 {
            fails_as(&node, "a", SHORT, BackendErrorKind::Indeterminate).await;
        }
    }
    let servers = Server::start_some(2);
    let nodes = [open(silent), open(servers[0].address()), open(servers[1].address())];
    let start = Instant::now();
    works(&manager_of(nodes), &servers).await;
    assert!(start.elapsed() < TTL / 20, "less than a node timeout for all steps, not {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_black_hole_ends_by_its_timeout() {
    let (address, _full) = black_hole().await;
    let node = open(address);
    for _ in 0..2 {
        fails_as(&node, "a", SHORT, BackendErrorKind::Indeterminate).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timeout_of_a_request_is_kept_on_every_connection() {
    let server = Server::start();
    let nodes = [open(server.address()), initialized(&server.url(), SHORT).await];
    for node in &nodes {
        assert_eq!(acquire(node, "a", Duration::MAX).await.unwrap(), AcquireReply::Granted);
        fails_as(node, "b", Duration::ZERO, BackendErrorKind::Indeterminate).await;
    }
    assert_eq!(server.get("b"), None, "no TTL does not mean forever");
    server.pause();
    for node in &nodes {
        for _ in 0..2 {
            let error = fails_as(node, "a", SHORT, BackendErrorKind::Indeterminate).await;
            assert!(error.message().contains("no answer within 100 ms"), "{error}");
        }
    }
}

#[test]
fn a_request_outside_of_tokio_is_rejected_and_a_new_runtime_works() {
    let server = Server::start();
    let node = open(server.address());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for round in 0..3 {
        let reply = runtime().block_on(acquire(&node, "a", SOON));
        assert_eq!(reply.unwrap(), AcquireReply::Granted, "runtime {round}");
        let error = smol::block_on(acquire(&node, "a", SOON)).unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Rejected, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_node_closes_its_connection() {
    let server = Server::start();
    let clients = || server.command::<String>(&["CLIENT", "LIST", "TYPE", "normal"]).lines().count();
    let alone = clients();
    let node = open(server.address());
    assert_eq!(acquire(&node, "a", SOON).await.unwrap(), AcquireReply::Granted);
    assert_eq!(clients(), alone + 1);
    let kept = node.clone();
    drop(node);
    assert_eq!(acquire(&kept, "a", SOON).await.unwrap(), AcquireReply::Granted);
    drop(poll_once(&mut Box::pin(acquire(&kept, "last", SOON))).await);
    drop(kept);
    assert!(eventually(SOON, || clients() == alone).await, "{} connections", clients());
    assert!(server.get("last").is_some(), "closed before the last request was sent");
}
