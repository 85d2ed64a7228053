//! Locks on real servers that are handed over twice.

use std::time::Duration;

use redlock_core::Error;
use redlock_tests::{
    adapter::Adapter,
    server::{Server, eventually, everywhere},
};
use rstest::rstest;

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);

/// The message with the parts is delivered again after the first taker failed to unlock. The second taker
/// does not get the lock, and the releases that are still pending do not delete the keys of a third client.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_delivered_again_after_a_failed_unlock_yield_no_second_lock(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let manager = || adapter.manager(&servers).node_timeout(Duration::from_millis(500)).build().unwrap();
    let (giver, first, second, third) = (manager(), manager(), manager(), manager());
    let parts = giver.lock("a", TTL).await.unwrap().into_parts();
    let taken = first.from_parts(&parts).await.unwrap();
    let token = taken.token().as_str();
    let hold = || servers.iter().filter(|server| server.get("a").as_deref() == Some(token)).count();
    assert!(eventually(SOON, || hold() >= 2).await);

    servers[1..].iter().for_each(Server::pause);
    let failed = taken.unlock().await.unwrap_err();
    assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
    servers[1..].iter().for_each(Server::resume);
    let again = second.from_parts(&parts).await.unwrap_err();
    assert!(matches!(again, Error::Lost(_)), "{again}");

    let held = third.lock("a", TTL).retry_forever().await.unwrap();
    let token = held.token().as_str().to_owned();
    assert!(eventually(SOON, || everywhere(&servers, "a", Some(&token))).await);
    let again = second.from_parts(&parts).await.unwrap_err();
    assert!(matches!(again, Error::Lost(_)), "{again}");
    let refused = giver.try_lock("a", TTL).await.unwrap_err();
    assert!(matches!(refused, Error::Contended(_)), "{refused}");
    // Longer than the delay before pending releases are retried.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(everywhere(&servers, "a", Some(&token)), "something that was pending has touched it");
    assert!(held.is_valid());
}
