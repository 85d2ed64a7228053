//! The memory that requests keep while a proxy swallows them, and after their connection has been replaced.
//!
//! `cargo bench -p redlock-tests --bench silence`. Each adapter sends 2,000 requests a second for half a
//! minute, over connections that never reply once they are set up. The process must not grow with the number
//! of requests: a connection is replaced after two seconds, which bounds how many are under way.

#![allow(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use std::{fs, sync::Arc, thread, time::Duration};

use redlock_core::{Acquire, LockBackend, Resources, Token};
use redlock_tests::{adapter::Adapter, proxy::Proxy, server::Server};

const SECONDS: u32 = 30;
const REQUESTS: u32 = 2_000;
const TIMEOUT: Duration = Duration::from_millis(50);
/// The number of steps in a second: timers are no finer.
const TICKS: u32 = 100;
/// By then a new connection has been set up.
const HANDSHAKE: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() {
    println!("{:>8} {:>8} {:>12} {:>14}", "adapter", "second", "KiB grown", "connections");
    for adapter in [Adapter::RedisRs, Adapter::Fred] {
        let server = Server::start();
        let proxy = Arc::new(Proxy::forgetful(&server));
        let node = adapter.open(&proxy.url());
        // Warms up: the tasks of one timeout, and the allocator's own memory.
        ask(&node, REQUESTS).await;
        swallow(&proxy);
        let before = resident();
        for second in 1..=SECONDS {
            ask(&node, REQUESTS).await;
            let grown = resident().saturating_sub(before);
            let name = format!("{adapter:?}");
            println!("{name:>8} {second:>8} {grown:>12} {:>14}", proxy.connections());
        }
    }
}

/// Sends this many requests within a second, and waits for no reply.
async fn ask(node: &Arc<dyn LockBackend>, requests: u32) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / TICKS);
    for _ in 0..TICKS {
        ticks.tick().await;
        for _ in 0..requests / TICKS {
            let node = node.clone();
            tokio::spawn(async move {
                let token: Token = "00112233445566778899aabbccddeeff".parse().expect("a token");
                let resources = Resources::from("a");
                drop(node.acquire(Acquire::new(&resources, &token, TIMEOUT, TIMEOUT)).await);
            });
        }
    }
}

/// From now on, the proxy swallows each connection once it has been set up.
fn swallow(proxy: &Arc<Proxy>) {
    let proxy = Arc::downgrade(proxy);
    thread::spawn(move || {
        while let Some(proxy) = proxy.upgrade() {
            let there = proxy.connections();
            thread::sleep(HANDSHAKE);
            proxy.swallow_first(there);
        }
    });
}

/// In KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
