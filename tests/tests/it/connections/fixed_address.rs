//! Nodes behind a fixed address that leads new connections to the current primary, as managed services, DNS
//! names and proxies do. Nothing closes the connections to the former primary.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use redlock_core::{
    Acquire, AcquireReply as Vote, BackendErrorKind, LockBackend, Redlock, Resources, Token, UnlockOutcome,
};
use redlock_tests::{
    adapter::Adapter,
    fake::{Command, Fake, Reply},
    proxy::Proxy,
    server::{Server, eventually},
};

use crate::connections::fred::{SOON, proxy_to};

const TTL: Duration = Duration::from_secs(60);
/// How often the users of the service try.
const PERIOD: Duration = Duration::from_millis(250);
/// Short, so that a keep-alive has to extend it soon after the failover.
const KEPT_TTL: Duration = Duration::from_secs(3);

/// A primary, its replica, and the address of both.
struct Service {
    servers: [Server; 2],
    address: Proxy,
}

impl Service {
    async fn start() -> Self {
        let options = ["--replica-serve-stale-data", "no", "--repl-diskless-sync-delay", "0"];
        let primary = Server::start_with(&options);
        let port = primary.port().to_string();
        let replica = Server::start_with(&["--replicaof", "127.0.0.1", &port]);
        let follows = || replica.command::<String>(&["INFO", "replication"]).contains("link_status:up");
        assert!(eventually(SOON, follows).await, "the replica does not follow");
        let address = proxy_to(&primary);
        Self { servers: [primary, replica], address }
    }

    /// The replica becomes the primary. The former one follows it and replies READONLY, or cannot follow it
    /// and replies MASTERDOWN.
    fn fail_over(&self, cut_off: bool) {
        let [former, primary] = &self.servers;
        self.address.lead_to(primary);
        primary.command::<()>(&["REPLICAOF", "NO", "ONE"]);
        let port = if cut_off { 1 } else { primary.port() };
        former.command::<()>(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
    }
}

async fn services() -> Vec<Service> {
    let mut services = Vec::new();
    for _ in 0..3 {
        services.push(Service::start().await);
    }
    services
}

fn manager(adapter: Adapter, services: &[Service]) -> Redlock {
    let nodes = services.iter().map(|service| service.address.url());
    adapter.manager_of(nodes).node_timeout(2 * PERIOD).build().expect("nodes")
}

/// The number of attempts until a lock was granted.
async fn tries(redlock: &Redlock, key: &str) -> usize {
    let start = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        match redlock.try_lock(key, TTL).await {
            Ok(lock) => {
                assert_eq!(lock.unlock().await.expect("nodes that reply"), UnlockOutcome::Released);
                return tries;
            }
            Err(error) => assert!(start.elapsed() < SOON, "{tries} tries: {error}"),
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn survives_a_failover(adapter: Adapter) {
    let services = services().await;
    let redlock = manager(adapter, &services);
    assert_eq!(tries(&redlock, "before").await, 1);
    let held = redlock.using("kept", KEPT_TTL, |_| async {
        // The replicas receive the keys before they become primaries.
        let replicated = || services.iter().all(|service| service.servers[1].get("kept").is_some());
        assert!(eventually(SOON, replicated).await, "not replicated");
        // Another connection may be made by then.
        tokio::time::sleep(PERIOD / 2).await;
        services[0].fail_over(false);
        services[1].fail_over(true);
        let tries = tries(&redlock, "after").await;
        tokio::time::sleep(KEPT_TTL + PERIOD).await;
        tries
    });
    let tries = held.await.unwrap_or_else(|error| panic!("{adapter:?}: {error}"));
    // The first attempt discovers the failover, unless an extension did before.
    assert!((1..=2).contains(&tries), "{adapter:?}: {tries}");
    for (number, service) in services.iter().enumerate() {
        let expected = if number < 2 { 2 } else { 1 };
        assert_eq!(service.address.connections(), expected, "{adapter:?}: service {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_behind_a_fixed_address_costs_redis_rs_a_try_or_two() {
    survives_a_failover(Adapter::RedisRs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_behind_a_fixed_address_costs_fred_a_try_or_two() {
    survives_a_failover(Adapter::Fred).await;
}

async fn acquire(node: &dyn LockBackend, timeout: Duration) -> Result<Vote, BackendErrorKind> {
    let token: Token = "00112233445566778899aabbccddeeff".parse().expect("a token");
    let resources = Resources::from("a");
    node.acquire(Acquire::new(&resources, &token, TTL, timeout)).await.map_err(|error| error.kind())
}

/// Sends requests one after the other and expects each reply at once. Returns the number of requests.
async fn asks(node: &dyn LockBackend, period: Duration, end: Instant, expected: BackendErrorKind) -> usize {
    let mut asked = 0;
    while Instant::now() < end {
        let start = Instant::now();
        assert_eq!(acquire(node, SOON).await, Err(expected));
        assert!(start.elapsed() < PERIOD, "waited {:?} for a connection", start.elapsed());
        asked += 1;
        tokio::time::sleep(period).await;
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_wrong_is_reconnected_at_a_bounded_rate_and_blocks_no_request() {
    let end = Instant::now() + Duration::from_secs(3);
    let mut tasks = Vec::new();
    for adapter in [Adapter::RedisRs, Adapter::Fred] {
        for (line, kind) in [
            ("-READONLY You can't write against a read only replica.", BackendErrorKind::Transient),
            ("-upstream failure", BackendErrorKind::Indeterminate),
        ] {
            for period in [PERIOD / 25, PERIOD] {
                tasks.push(tokio::spawn(async move {
                    let server = Fake::start(move |command| match &*command.words[0] {
                        "EVAL" => Reply::say(line),
                        _ => Reply::usual(command),
                    });
                    let asked = asks(&*adapter.open(&server.url()), period, end, kind).await;
                    (adapter, line, asked, server.connections())
                }));
            }
        }
    }
    for task in tasks {
        let (adapter, line, asked, connections) = task.await.expect("replies");
        // Two a second, and the first ones faster.
        assert!((3..=asked.min(12)).contains(&connections), "{adapter:?}, {line}: {connections} for {asked}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_on_an_abandoned_connection_get_their_replies() {
    for adapter in [Adapter::RedisRs, Adapter::Fred] {
        let evals = AtomicUsize::new(0);
        let server = Fake::start(move |command: &Command| {
            if !command.is_request() {
                return Reply::usual(command);
            }
            match evals.fetch_add(1, Ordering::SeqCst) {
                0 => Reply::say(":1"),
                1 => Reply::say("-READONLY You can't write against a read only replica."),
                _ => {
                    thread::sleep(PERIOD);
                    Reply::say(":1")
                }
            }
        });
        let node = adapter.open(&server.url());
        assert_eq!(acquire(&*node, SOON).await, Ok(Vote::Granted));
        // Another connection may be made by then.
        tokio::time::sleep(PERIOD / 2).await;
        let left = async {
            assert_eq!(acquire(&*node, SOON).await, Err(BackendErrorKind::Transient), "{adapter:?}");
            acquire(&*node, SOON).await
        };
        let replies = tokio::join!(left, acquire(&*node, SOON));
        assert_eq!(replies, (Ok(Vote::Granted), Ok(Vote::Granted)), "{adapter:?}");
        assert_eq!(server.connections(), 2, "{adapter:?}");
    }
}
