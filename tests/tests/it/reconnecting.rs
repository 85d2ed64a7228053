//! When a node's connection is replaced, and how often one is made, over both adapters.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use redlock_core::{Acquire, BackendErrorKind, LockBackend, Reply, Resources, Token};
use redlock_tests::{adapter::Adapter, server::Server};

use crate::fred_connections::proxy_to;

const TTL: Duration = Duration::from_secs(60);
/// Seconds, not for ever.
const BOUND: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_millis(50);
const ADAPTERS: [Adapter; 2] = [Adapter::RedisRs, Adapter::Fred];

async fn acquire(node: &dyn LockBackend, timeout: Duration) -> Result<Reply, BackendErrorKind> {
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
        assert_eq!(acquire(&*node, TTL).await, Ok(Reply::Granted));
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

/// A server that has answers for a handshake, and 1 for every `EVAL`; and how many connections it took.
fn closing(closes: Closes) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = listener.local_addr().expect("a bound address");
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            counter.fetch_add(1, Ordering::Relaxed);
            if closes != Closes::AtOnce {
                thread::spawn(move || answer(stream.expect("a connection"), closes));
            }
        }
    });
    (address, connections)
}

fn answer(mut stream: TcpStream, closes: Closes) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        let sent = String::from_utf8_lossy(&buffer[..read]);
        let mut answers = String::new();
        for (word, answer) in [("PING", "+PONG"), ("SETINFO", "+OK"), ("ID", ":1"), ("INFO", "$0\r\n")] {
            let line = format!("\r\n{word}\r\n");
            answers.extend(sent.matches(&line).map(|_| format!("{answer}\r\n")));
        }
        let ends = sent.contains("EVAL");
        if ends && closes == Closes::AfterEachReply {
            answers.push_str(":1\r\n");
        }
        // Who has gone away needs no answer.
        if stream.write_all(answers.as_bytes()).is_err() || ends {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_closes_its_connections_is_connected_to_at_a_bounded_rate() {
    let mut tasks = Vec::new();
    let mut counters = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    for adapter in ADAPTERS {
        for closes in [Closes::AtOnce, Closes::AfterTheHandshake, Closes::AfterEachReply] {
            let (address, connections) = closing(closes);
            counters.push((adapter, closes, connections));
            let node = adapter.open(&format!("redis://{address}"));
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
    for (adapter, closes, connections) in counters {
        let connections = connections.load(Ordering::Relaxed);
        assert!((5..40).contains(&connections), "{adapter:?}, {closes:?}: {connections} connections");
    }
}

/// How many ask one node.
const TASKS: usize = 1_000;
