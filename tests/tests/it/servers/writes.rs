//! How many writes the commands of many tasks take.

use std::time::Duration;

use redlock_tests::{adapter::Adapter, server::Server};
use tokio::task::JoinSet;

const TTL: Duration = Duration::from_secs(60);
const TASKS: usize = 64;
/// A tenth of the commands of all tasks. The rest is room for a busy machine, whose server may get a write in
/// two parts.
const READS: f64 = 13.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_many_tasks_send_at_the_same_time_goes_out_together() {
    let server = Server::start();
    let redlock = Adapter::RedisRs.manager([&server]).build().unwrap();
    // So that the node has a connection, and knows the server's commands.
    for _ in 0..3 {
        redlock.lock("a", TTL).await.unwrap().unlock().await.unwrap();
    }
    let reads = || server.info("stats", "total_reads_processed");
    let of_the_question = reads() - reads();
    let before = reads();
    let tasks = (0..TASKS).map(|task| {
        let redlock = redlock.clone();
        async move { redlock.lock(format!("{task}"), TTL).await.unwrap().unlock().await.unwrap() }
    });
    tasks.collect::<JoinSet<_>>().join_all().await;
    let reads = reads() - before + of_the_question;
    assert!(reads <= READS, "{reads} reads of {} commands", 2 * TASKS);
}
