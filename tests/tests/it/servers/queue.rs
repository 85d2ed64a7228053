//! The waiters of one manager, on real servers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use redlock_tests::{adapter::Adapter, server::Server};
use rstest::rstest;

/// So long that nothing expires during a test, however busy the machine is.
const TTL: Duration = Duration::from_secs(60);
const TASKS: u32 = 16;
const TURNS: u32 = 200;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_process_take_turns_and_each_turn_is_one_attempt(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    // The connections are there before the first turn.
    redlock.lock("a", TTL).await.unwrap().unlock().await.unwrap();
    let turns = Arc::new(AtomicU32::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (redlock, turns) = (redlock.clone(), turns.clone());
            tokio::spawn(async move {
                let (mut own, mut attempts) = (0, 0);
                while turns.fetch_add(1, Ordering::Relaxed) < TURNS {
                    // Only a turn ends the wait, not a delay that passes on a busy machine.
                    let lock = redlock.lock("a", TTL).retry_forever().retry_delay(TTL).await.unwrap();
                    own += 1;
                    attempts += lock.attempts();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    lock.unlock().await.unwrap();
                }
                (own, attempts)
            })
        })
        .collect();
    let mut of_tasks = Vec::new();
    for task in tasks {
        of_tasks.push(task.await.unwrap());
    }
    let (least, most) = (of_tasks.iter().map(|of| of.0).min(), of_tasks.iter().map(|of| of.0).max());
    assert!(least >= Some(TURNS / TASKS - 1) && most <= Some(TURNS / TASKS + 2), "{of_tasks:?}");
    assert!(of_tasks.iter().all(|(own, attempts)| own == attempts), "{of_tasks:?}");
}
