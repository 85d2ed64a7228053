//! A server that is stopped while many locks come and go, and then continues with the requests that its
//! kernel has buffered.

use std::time::{Duration, Instant};

use redlock_tests::{
    adapter::Adapter,
    server::{Server, eventually},
};
use rstest::rstest;

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
const NODE_TIMEOUT: Duration = Duration::from_millis(100);
/// Longer than a silent connection is kept. What the server then reads from it ends anywhere, for example
/// between an acquire and its release.
const STOPPED: Duration = Duration::from_secs(3);
/// More than 1,024 while it is stopped.
const PERIOD: Duration = Duration::from_micros(1_500);

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_stays_on_a_server_that_was_stopped_under_load(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).node_timeout(NODE_TIMEOUT).build().expect("nodes");
    redlock.lock("first", TTL).await.expect("healthy nodes").unlock().await.expect("healthy nodes");
    servers[0].pause();
    let end = Instant::now() + STOPPED;
    let mut tasks = Vec::new();
    let mut ticks = tokio::time::interval(PERIOD);
    while Instant::now() < end {
        ticks.tick().await;
        let (redlock, number) = (redlock.clone(), tasks.len());
        tasks.push(tokio::spawn(async move {
            if let Ok(lock) = redlock.try_lock(format!("key {number}"), TTL).await {
                tokio::time::sleep(NODE_TIMEOUT / 5).await;
                drop(lock.unlock().await);
            }
        }));
    }
    let number = tasks.len();
    for task in tasks {
        task.await.expect("no panic");
    }
    servers[0].resume();
    let left = || servers[0].command::<usize>(&["DBSIZE"]);
    assert!(eventually(SOON, || left() == 0).await, "{adapter:?}: {} keys of {number} stay", left());
    assert!(number > 1_024, "only {number} locks");
}
