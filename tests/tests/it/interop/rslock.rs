//! The other client is the crate `rslock`.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redlock_redis_rs::{Error, Inspect, KeyState, LockBackend, RedisBackend, UnlockOutcome, async_trait};
use redlock_tests::server::{Server, eventually};
use rslock::{Lock, LockManager};

use crate::interop::{ADAPTERS, Harness, Other, SOON, TTL, respects_and_is_respected, soon};

struct Rslock {
    manager: LockManager,
    held: Mutex<HashMap<u64, Vec<Lock>>>,
    last: AtomicU64,
}

impl Rslock {
    async fn connect(servers: &[Server]) -> Self {
        Self { manager: manager(servers), held: Mutex::default(), last: AtomicU64::new(0) }
    }
}

#[async_trait]
impl Other for Rslock {
    /// One name after the other, as it cannot lock several at once.
    async fn lock(&self, resources: &[&str], ttl: Duration) -> Option<u64> {
        let mut locks = Vec::new();
        for name in resources {
            match self.manager.lock(*name, ttl).await {
                Ok(lock) => locks.push(lock),
                Err(_) => {
                    for lock in locks {
                        self.manager.unlock(&lock).await;
                    }
                    return None;
                }
            }
        }
        let number = self.last.fetch_add(1, Ordering::SeqCst);
        self.held.lock().unwrap().insert(number, locks);
        Some(number)
    }

    async fn extend(&self, lock: u64, ttl: Duration) -> bool {
        let locks = self.held.lock().unwrap().remove(&lock).unwrap();
        let mut extended = Vec::new();
        for lock in &locks {
            if let Ok(lock) = self.manager.extend(lock, ttl).await {
                extended.push(lock);
            }
        }
        let all = extended.len() == locks.len();
        self.held.lock().unwrap().insert(lock, extended);
        all
    }

    async fn unlock(&self, lock: u64) {
        let locks = self.held.lock().unwrap().remove(&lock).unwrap();
        for lock in locks {
            self.manager.unlock(&lock).await;
        }
    }
}

respects_and_is_respected!(Rslock::connect);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_names_given_to_it_are_one_key_and_do_not_exclude_ours() {
    for adapter in ADAPTERS {
        let harness = Harness::new(adapter);
        let theirs = manager(&harness.servers);
        let held = theirs.lock(&["a", "b"][..], TTL).await.unwrap();

        let beside = harness.ours().try_lock(["a", "b"], TTL).await.unwrap();
        let refused = harness.ours().try_lock("ab", TTL).await.unwrap_err();
        assert!(matches!(refused, Error::Contended(_)), "{refused}");
        assert_eq!(beside.unlock().await.unwrap(), UnlockOutcome::Released);

        theirs.unlock(&held).await;
        assert_eq!(soon(&harness.ours(), "ab").await.unlock().await.unwrap(), UnlockOutcome::Released);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_for_our_lock_and_gets_it_when_we_release_it() {
    for adapter in ADAPTERS {
        let harness = Harness::new(adapter);
        let lock = harness.ours().lock("a", TTL).await.unwrap();
        let theirs = manager(&harness.servers);
        let waiting = tokio::spawn(async move { theirs.acquire("a", TTL).await });
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!waiting.is_finished(), "it did not wait");

        let start = Instant::now();
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        let guard = waiting.await.unwrap().unwrap();
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        assert!(matches!(harness.ours().try_lock("a", TTL).await.unwrap_err(), Error::Contended(_)));
        guard.release().await;
        assert!(harness.has_only("a", None).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_of_theirs_that_is_dropped_is_not_released_and_one_of_ours_is() {
    for adapter in ADAPTERS {
        let harness = Harness::new(adapter);
        let ours = harness.ours();
        drop(ours.lock("a", TTL).await.unwrap());
        assert!(harness.has_only("a", None).await);

        let theirs = manager(&harness.servers);
        drop(theirs.acquire("a", TTL).await.unwrap());
        let refused = ours.try_lock("a", TTL).await.unwrap_err();
        assert!(matches!(refused, Error::Contended(_)), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_binary_tokens_can_be_inspected() {
    let servers = Server::start_some(3);
    let held = manager(&servers).lock("a", TTL).await.unwrap();
    assert!(eventually(SOON, || servers.iter().all(|server| server.calls("set") > 0)).await);
    let node = RedisBackend::open(servers[0].url()).unwrap();
    let states = node.inspect(Inspect::new(&"a".into(), SOON)).await.unwrap();
    let [state @ KeyState::Held { remaining, .. }] = &states[..] else { panic!("{states:?}") };
    assert_eq!(state, &KeyState::held(&held.val, *remaining));
}

fn manager(servers: &[Server]) -> LockManager {
    let mut manager = LockManager::new(servers.iter().map(Server::url).collect());
    // For all attempts, not only the first.
    manager.set_retry(1, Duration::from_millis(20));
    manager
}
