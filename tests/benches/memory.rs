//! The cost of a request to a node in memory, by the number of keys on the node.
//!
//! `cargo bench -p redlock-tests --bench memory`. The cost must not grow with the number of keys.

#![allow(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use std::time::{Duration, Instant};

use redlock_core::{Acquire, Extend, LockBackend, MemoryBackend, Release, Resources, Token, TokioRuntime};

const KEYS: [usize; 3] = [1_000, 10_000, 100_000];
/// Requests of each of three kinds.
const REQUESTS: u32 = 500;
const TTL: Duration = Duration::from_secs(600);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let token: Token = "0123456789abcdef0123456789abcdef01234567".parse().expect("a token");
    println!("{:>8} {:>14}", "keys", "us per request");
    for number in KEYS {
        let node = MemoryBackend::new(TokioRuntime::current());
        (0..number).for_each(|key| node.set(format!("key {key}"), "value", TTL));
        let start = Instant::now();
        for request in 0..REQUESTS {
            let names = Resources::from(format!("{request}"));
            let answers = (
                node.acquire(Acquire::new(&names, &token, TTL, TTL)).await,
                node.extend(Extend::new(&names, &token, TTL * 2, TTL)).await,
                node.release(Release::new(&names, &token, TTL)).await,
            );
            assert!(matches!(answers, (Ok(_), Ok(_), Ok(_))), "{answers:?}");
        }
        let each = start.elapsed() / (3 * REQUESTS);
        println!("{number:>8} {:>14.1}", each.as_secs_f64() * 1e6);
    }
}
