//! Which keys a name becomes on real servers, and how long they stay.

use std::time::Duration;

use redlock_core::UnlockOutcome;
use redlock_tests::{
    adapter::Adapter,
    server::{Server, eventually, everywhere},
};
use rstest::rstest;

const TTL: Duration = Duration::from_secs(60);
/// For work in the background.
const SOON: Duration = Duration::from_secs(10);

fn keys(server: &Server) -> Vec<String> {
    let mut keys: Vec<String> = server.command(&["KEYS", "*"]);
    keys.sort_unstable();
    keys
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_the_name_behind_the_prefix_or_the_name_alone(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let prefixed = adapter.manager(&servers).key_prefix("{locks}:").build().unwrap();
    let plain = adapter.manager(&servers).build().unwrap();
    let mut lock = prefixed.lock(["a", "b"], TTL).await.unwrap();
    let other = plain.lock("a", TTL).await.unwrap();
    let expected = ["a", "{locks}:a", "{locks}:b"];
    assert!(eventually(SOON, || servers.iter().all(|server| keys(server) == expected)).await);
    lock.extend(TTL).await.unwrap();
    assert!(plain.try_lock("{locks}:b", TTL).await.is_err());

    let taken = plain.from_parts(&lock.into_parts()).await.unwrap();
    assert_eq!(taken.resources().as_slice(), ["{locks}:a", "{locks}:b"]);
    assert!(eventually(SOON, || servers.iter().all(|server| keys(server) == expected)).await);
    assert_eq!(taken.unlock().await.unwrap(), UnlockOutcome::Released);
    assert_eq!(other.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(eventually(SOON, || servers.iter().all(|server| keys(server).is_empty())).await);

    // One resource has commands of its own, the first time scripts that find out about them.
    for _ in 0..3 {
        let lock = prefixed.lock("a", TTL).fenced().await.unwrap();
        assert!(eventually(SOON, || everywhere(&servers, "{locks}:a", Some(lock.token().as_str()))).await);
        let has_counter = |server: &Server| keys(server).iter().all(|key| key.contains("{locks}"));
        assert!(servers.iter().all(has_counter), "{:?}", keys(&servers[0]));
        lock.unlock().await.unwrap();
        let lock = prefixed.lock("a", TTL).await.unwrap();
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        assert!(eventually(SOON, || everywhere(&servers, "{locks}:a", None)).await);
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_stay_for_the_shortest_hold_without_their_manager(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    let lock = redlock.lock("a", Duration::from_secs(5)).min_hold(TTL).await.unwrap();
    let token = lock.token().as_str().to_owned();
    assert!(matches!(lock.unlock().await.unwrap(), UnlockOutcome::Kept { .. }));
    drop(redlock);
    assert!(eventually(SOON, || everywhere(&servers, "a", Some(&token))).await);
    for server in &servers {
        let left = server.ttl("a").unwrap();
        assert!(left > TTL - SOON && left <= TTL + TTL / 90, "{left:?}");
    }
    let other = adapter.manager(&servers).build().unwrap();
    assert!(other.try_lock("a", TTL).await.is_err());

    let lock = other.lock("b", TTL).min_hold(Duration::from_millis(300)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(eventually(SOON, || everywhere(&servers, "b", None)).await);
}
