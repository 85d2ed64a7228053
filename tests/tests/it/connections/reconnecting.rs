//! When a node's connection is replaced, and how often a new one is made, with both adapters.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use redlock_core::{Acquire, AcquireReply as Vote, BackendErrorKind, LockBackend, Resources, Token};
use redlock_tests::{
    adapter::Adapter,
    fake::{Fake, Reply},
    server::Server,
};

use crate::connections::fred::proxy_to;

const TTL: Duration = Duration::from_secs(60);
/// Seconds, not forever.
const BOUND: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_millis(50);
const ADAPTERS: [Adapter; 2] = [Adapter::RedisRs, Adapter::Fred];

async fn acquire(node: &dyn LockBackend, timeout: Duration) -> Result<Vote, BackendErrorKind> {
    let token: Token = "00112233445566778899aabbccddeeff".parse().expect("a token");
    let resources = Resources::from("a");
    node.acquire(Acquire::new(&resources, &token, TTL, timeout)).await.map_err(|error| error.kind())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_swallows_everything_is_replaced_after_seconds() {
    for adapter in ADAPTERS {
        let server = Server::start();
        let proxy = proxy_to(&server);
        let node = adapter.open(&proxy.url());
        assert_eq!(acquire(&*node, TTL).await, Ok(Vote::Granted));
        assert_eq!(proxy.connections(), 1);

        proxy.swallow();
        let start = Instant::now();
        let mut asked = 0;
        // 500 requests a second, none of which waits for another.
        let answered = Arc::new(AtomicUsize::new(0));
        while answered.load(Ordering::Relaxed) == 0 && start.elapsed() < BOUND {
            let (node, answered) = (node.clone(), answered.clone());
            tokio::spawn(async move {
                if acquire(&*node, TIMEOUT).await.is_ok() {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
            asked += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let took = start.elapsed();
        assert!(answered.load(Ordering::Relaxed) > 0, "{adapter:?}: not used again after {took:?}");
        assert!(asked > 100, "{asked} requests");
        assert_eq!(proxy.connections(), 2, "{adapter:?}");
    }
}

/// When a server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closes {
    AtOnce,
    AfterTheHandshake,
    AfterEachReply,
}

fn closing(closes: Closes) -> Fake {
    let greet = move || if closes == Closes::AtOnce { Reply::Close } else { Reply::Nothing };
    Fake::start_with_greeting(greet, move |command| match &*command.words[0] {
        "EVAL" if closes == Closes::AfterEachReply => Reply::SayAndClose(":1".to_owned()),
        "EVAL" => Reply::Close,
        _ => Reply::usual(command),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_closes_its_connections_is_connected_to_at_a_bounded_rate() {
    let mut tasks = Vec::new();
    let mut servers = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    for adapter in ADAPTERS {
        for closes in [Closes::AtOnce, Closes::AfterTheHandshake, Closes::AfterEachReply] {
            let server = closing(closes);
            let node = adapter.open(&server.url());
            servers.push((adapter, closes, server));
            for _ in 0..TASKS {
                let node = node.clone();
                tasks.push(tokio::spawn(async move {
                    while Instant::now() < end {
                        let _ = acquire(&*node, 4 * TIMEOUT).await;
                    }
                }));
            }
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    for (adapter, closes, server) in servers {
        let connections = server.connections();
        // It does connect again; with so many tasks, on a machine that is busy otherwise, seldom.
        assert!((2..40).contains(&connections), "{adapter:?}, {closes:?}: {connections} connections");
    }
}

/// How many tasks send requests to one node.
const TASKS: usize = 1_000;
