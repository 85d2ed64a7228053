//! Requests take effect in the order in which they were first polled. Otherwise a release overtakes its
//! acquire, and the key stays.

use std::{future::poll_fn, task::Poll, time::Duration};

use redlock_core::Redlock;
use redlock_tests::{adapter::Adapter, server::Server, sim_runtime::poll_once};
use rstest::rstest;

const TTL: Duration = Duration::from_secs(30);
const NUMBER: usize = 100;

fn redlock(adapter: Adapter, server: &Server) -> Redlock {
    // So that pending releases are retried only after the test has counted the keys.
    adapter.manager([server]).node_timeout(Duration::from_secs(10)).build().unwrap()
}

/// The number of keys after every release had time to arrive, but before any is retried, a second later.
async fn keys_left(server: &Server) -> usize {
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.command(&["DBSIZE"])
}

/// Uses up what tokio allows a task before it yields: from now on its channels are never ready.
pub(crate) async fn use_up_budget() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    (0..1_000).for_each(|_| sender.send(()).unwrap());
    poll_fn(|cx| {
        while receiver.poll_recv(cx).is_ready() {}
        Poll::Ready(())
    })
    .await;
    assert!(!receiver.is_empty());
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_release_stays_behind_its_acquire_while_the_connection_is_made(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let server = Server::start();
    for number in 0..NUMBER {
        let redlock = redlock(adapter, &server);
        let mut request = redlock.lock(format!("key {number}"), TTL).into_future();
        // Ready only if this thread was delayed so long that the connection was made meanwhile.
        drop(poll_once(&mut request).await);
        drop(request);
    }
    assert_eq!(keys_left(&server).await, 0);
}

#[rstest]
#[tokio::test]
async fn a_release_stays_behind_its_acquire_in_a_task_without_budget(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let server = Server::start();
    let redlock = redlock(adapter, &server);
    redlock.lock("warm", TTL).await.unwrap().unlock().await.unwrap();
    for number in 0..NUMBER {
        let redlock = redlock.clone();
        let task = tokio::spawn(async move {
            let mut request = redlock.lock(format!("key {number}"), TTL).into_future();
            use_up_budget().await;
            assert!(poll_once(&mut request).await.is_pending());
        });
        task.await.unwrap();
    }
    assert_eq!(keys_left(&server).await, 0);
}
