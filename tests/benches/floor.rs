//! The cost of a lock and its unlock on three servers, against the floor: the same two round trips, written
//! by hand.
//!
//! `cargo bench -p redlock-tests --bench floor`. Both alternate within one run, so that noise of the machine
//! affects both; the ratio is the figure to look at.

#![allow(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use std::time::{Duration, Instant};

use redis::{Script, aio::MultiplexedConnection};
use redlock_redis_rs::{RedisBackend, Redlock, TokioRuntime};
use redlock_tests::server::Server;

const BLOCKS: usize = 20;
const BLOCK: usize = 250;
const TTL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    let servers = Server::start_some(3);
    let redlock = Redlock::builder(TokioRuntime::current())
        .nodes(servers.iter().map(|server| RedisBackend::open(server.url()).expect("a URL")))
        .build()
        .expect("three nodes");
    let mut by_hand = ByHand::connect(&servers).await;

    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for block in 0..=BLOCKS {
        let mut library = Vec::with_capacity(BLOCK);
        for _ in 0..BLOCK {
            let start = Instant::now();
            let lock = redlock.try_lock("bench", TTL).await.expect("no other client");
            lock.unlock().await.expect("held");
            library.push(start.elapsed());
        }
        let mut hand = Vec::with_capacity(BLOCK);
        for number in 0..BLOCK {
            let start = Instant::now();
            by_hand.lock_and_unlock(number).await;
            hand.push(start.elapsed());
        }
        // The first block warms up.
        if block > 0 {
            ours.extend(library);
            floor.extend(hand);
        }
    }
    println!("lock and unlock on three servers, {} of each", ours.len());
    println!("{:<10} {:>8} {:>8} {:>8}", "us", "p50", "p90", "p99");
    for (name, times) in [("library", &mut ours), ("by hand", &mut floor)] {
        times.sort_unstable();
        let figures = [50, 90, 99].map(|percent| percentile(times, percent).as_secs_f64() * 1e6);
        println!("{name:<10} {:>8.1} {:>8.1} {:>8.1}", figures[0], figures[1], figures[2]);
    }
    let ratio = percentile(&ours, 50).as_secs_f64() / percentile(&floor, 50).as_secs_f64();
    println!("ratio of the medians: {ratio:.2}");
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Three connections. Each request goes to all of them at once, and waits for all replies. There are no
/// timeouts, no retries and no clean-up.
struct ByHand {
    connections: [MultiplexedConnection; 3],
    release: Script,
}

impl ByHand {
    async fn connect(servers: &[Server]) -> Self {
        let connect = |server: &Server| {
            let client = server.client();
            async move { client.get_multiplexed_async_connection().await.expect("a connection") }
        };
        let connections =
            [connect(&servers[0]).await, connect(&servers[1]).await, connect(&servers[2]).await];
        let release =
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
        Self { connections, release: Script::new(release) }
    }

    async fn lock_and_unlock(&mut self, number: usize) {
        let token = format!("{number:040x}");
        let set = || {
            let mut command = redis::cmd("SET");
            command.arg("floor").arg(&token).arg("NX").arg("PX").arg(TTL.as_millis() as u64);
            command
        };
        let [a, b, c] = &mut self.connections;
        let commands = [set(), set(), set()];
        let (x, y, z): (redis::RedisResult<String>, redis::RedisResult<String>, redis::RedisResult<String>) =
            tokio::join!(commands[0].query_async(a), commands[1].query_async(b), commands[2].query_async(c));
        assert!(x.is_ok() && y.is_ok() && z.is_ok(), "no other client");
        let mut release = self.release.key("floor");
        release.arg(&token);
        let (x, y, z): (redis::RedisResult<i64>, redis::RedisResult<i64>, redis::RedisResult<i64>) =
            tokio::join!(release.invoke_async(a), release.invoke_async(b), release.invoke_async(c));
        assert_eq!((x.ok(), y.ok(), z.ok()), (Some(1), Some(1), Some(1)), "held");
    }
}
