//! Nodes whose address comes from a Sentinel.

use std::time::{Duration, Instant};

use redlock_redis_rs::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Error, LockBackend, RedisBackend, Redlock,
    SmolRuntime, Token, TokioRuntime, UnlockOutcome,
    redis::{
        ConnectionAddr, RedisConnectionInfo,
        sentinel::{SentinelClientBuilder, SentinelNodeConnectionInfo, SentinelServerType},
    },
};
use redlock_tests::{
    sentinel::{MASTER, Watched},
    server::{Server, eventually},
    sim_runtime::poll_once,
};

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
const TOKEN: &str = "00112233445566778899aabbccddeeff";

fn open(watched: &Watched) -> RedisBackend {
    open_as(watched, MASTER, SentinelNodeConnectionInfo::default())
}

fn open_as(watched: &Watched, master: &str, login: SentinelNodeConnectionInfo) -> RedisBackend {
    RedisBackend::open_sentinel([watched.sentinel.url()], master, login).unwrap()
}

fn login(user: &str, password: &str) -> SentinelNodeConnectionInfo {
    let info = RedisConnectionInfo::default().set_username(user).set_password(password);
    SentinelNodeConnectionInfo::default().set_redis_connection_info(info)
}

fn manager_of(node: RedisBackend) -> Redlock {
    Redlock::builder(TokioRuntime::current()).node(node).node_timeout(SOON / 10).build().unwrap()
}

async fn acquire(node: &RedisBackend, key: &str, timeout: Duration) -> Result<AcquireReply, BackendError> {
    let token: Token = TOKEN.parse().unwrap();
    node.acquire(Acquire::new(&key.into(), &token, TTL, timeout)).await
}

/// Locks on the new master, within `bound`.
async fn works_again(redlock: &Redlock, watched: &Watched, bound: Duration) {
    let start = Instant::now();
    loop {
        let why = match redlock.try_lock("new", TTL).await {
            Ok(lock) => {
                let there = watched.servers[1].get("new").as_deref() == Some(lock.token().as_str());
                let unlocked = lock.unlock().await;
                if there {
                    assert_eq!(unlocked.unwrap(), UnlockOutcome::Released);
                    return;
                }
                // Until the Sentinel demotes it, the old master acts as a master. That may happen between
                // lock and unlock.
                format!("on the old master, and unlocked: {unlocked:?}")
            }
            Err(error) => error.to_string(),
        };
        assert!(start.elapsed() < bound, "not after {bound:?}: {why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A lock on the old master, which has reached the replica.
async fn hold(redlock: &Redlock, watched: &Watched) -> redlock_redis_rs::Lock {
    let lock = redlock.lock("old", TTL).await.unwrap();
    let token = Some(lock.token().as_str().to_owned());
    assert_eq!(watched.servers[0].get("old"), token);
    assert!(eventually(SOON, || watched.servers[1].get("old") == token).await, "not replicated");
    lock
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_is_found_and_found_again_when_it_was_killed() {
    let mut watched = Watched::start(&[]);
    let node = open(&watched);
    assert_eq!(node.name().unwrap(), format!("{MASTER}@{}", watched.sentinel.address()));
    let redlock = manager_of(node);
    let mut lock = hold(&redlock, &watched).await;
    lock.extend(TTL).await.unwrap();

    watched.servers[0].kill();
    let failed = redlock.try_lock("new", TTL).await.unwrap_err();
    assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
    watched.wait_for_failover();
    works_again(&redlock, &watched, SOON).await;
    lock.extend(TTL).await.expect("the replica has it");
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert_eq!(watched.servers[1].get("old"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_is_left_once_it_is_a_replica() {
    let watched = Watched::start(&[]);
    let redlock = manager_of(open(&watched));
    let lock = hold(&redlock, &watched).await;
    watched.fail_over();
    // The Sentinel needs about 10 seconds to demote the old master, which grants locks until then.
    works_again(&redlock, &watched, 4 * SOON).await;
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_became_a_replica_under_a_living_connection_is_left() {
    let watched = Watched::start(&[]);
    let redlock = manager_of(open(&watched));
    let lock = hold(&redlock, &watched).await;
    // A Sentinel disconnects the clients of the old master; a manual failover does not.
    let (port, own) = (watched.servers[1].port().to_string(), watched.servers[0].port().to_string());
    watched.sentinel.command::<()>(&["SENTINEL", "REMOVE", MASTER]);
    watched.servers[1].command::<()>(&["REPLICAOF", "NO", "ONE"]);
    watched.servers[0].command::<()>(&["REPLICAOF", "127.0.0.1", &port]);
    watched.sentinel.command::<()>(&["SENTINEL", "MONITOR", MASTER, "127.0.0.1", &port, "1"]);
    assert_ne!(port, own);

    let failed = redlock.try_lock("new", TTL).await.unwrap_err();
    assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
    assert!(failed.to_string().contains("READONLY"), "{failed}");
    works_again(&redlock, &watched, SOON).await;
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_hangs_is_left_for_the_new_one() {
    let watched = Watched::start(&[]);
    let redlock = manager_of(open(&watched));
    let lock = hold(&redlock, &watched).await;
    watched.servers[0].pause();
    // Its connection stays open, because its kernel is alive.
    let failed = redlock.try_lock("new", TTL).await.unwrap_err();
    assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
    watched.wait_for_failover();
    works_again(&redlock, &watched, SOON).await;
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    watched.servers[0].resume();
    works_again(&redlock, &watched, SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_the_new_master_never_had_is_not_held() {
    let mut watched = Watched::start(&[]);
    let redlock = manager_of(open(&watched));
    let lock = hold(&redlock, &watched).await;
    watched.servers[1].command::<()>(&["CONFIG", "SET", "replica-read-only", "no"]);
    watched.servers[1].command::<()>(&["DEL", "old"]);
    watched.servers[0].kill();
    watched.wait_for_failover();
    works_again(&redlock, &watched, SOON).await;
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld);
}

#[test]
fn a_runtime_that_stalls_while_it_asks_does_not_block_the_lookups_of_others() {
    let watched = Watched::start(&[]);
    let node = open(&watched);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = async |key: &str| acquire(&node, key, SOON / 2).await.unwrap();
    let (asked, asking) = (runtime(), runtime());
    assert_eq!(asked.block_on(ask("a")), AcquireReply::Granted);
    let mut request = Box::pin(ask("b"));
    asking.block_on(async {
        assert!(poll_once(&mut request).await.is_pending());
        // A task of its own makes the connection, and asks the Sentinel now.
        tokio::task::yield_now().await;
    });
    let start = Instant::now();
    assert_eq!(runtime().block_on(ask("c")), AcquireReply::Granted);
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    assert_eq!(asking.block_on(request), AcquireReply::Granted);
}

#[test]
fn a_sentinel_is_queried_under_smol_too() {
    let mut watched = Watched::start(&[]);
    let node = open(&watched);
    let redlock = Redlock::builder(SmolRuntime::new()).node(node).node_timeout(SOON / 10).build().unwrap();
    smol::block_on(async {
        redlock.lock("a", TTL).await.unwrap().unlock().await.unwrap();
        watched.servers[0].kill();
        watched.wait_for_failover();
        let lock = redlock.lock("a", TTL).retry_count(20).await.unwrap();
        assert_eq!(watched.servers[1].get("a").as_deref(), Some(lock.token().as_str()));
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_login_is_that_of_the_master_and_database_and_client_are_settings_too() {
    let watched = Watched::start(&[]);
    let user = ["ACL", "SETUSER", "locker", "on", ">secret", "~*", "+@all"];
    watched.servers[0].command::<()>(&user);
    let right = open_as(&watched, MASTER, login("locker", "secret"));
    assert_eq!(acquire(&right, "a", SOON).await.unwrap(), AcquireReply::Granted);
    assert!(!format!("{right:?}").contains("secret"));
    let wrong = open_as(&watched, MASTER, login("locker", "wrong"));
    let refused = acquire(&wrong, "a", SOON).await.unwrap_err();
    assert_eq!(refused.kind(), BackendErrorKind::Rejected, "{refused}");

    let sentinel = ConnectionAddr::Tcp("127.0.0.1".to_owned(), watched.sentinel.port());
    let client = SentinelClientBuilder::new([sentinel], MASTER, SentinelServerType::Master).unwrap();
    let client = client.set_client_to_redis_username("locker").set_client_to_redis_password("secret");
    let node = RedisBackend::from_sentinel_client(client.set_client_to_redis_db(3).build().unwrap());
    assert_eq!(acquire(&node, "b", SOON).await.unwrap(), AcquireReply::Granted);
    assert_eq!(watched.servers[0].get("b"), None);
    assert!(watched.servers[0].command::<String>(&["INFO", "keyspace"]).contains("db3:keys=1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_the_master_needs_to_be_allowed_to_ask_its_role() {
    let watched = Watched::start(&[]);
    let commands = ["~locks:*", "+eval", "+get", "+set", "+del", "+pexpire", "+pttl"];
    let user = ["ACL", "SETUSER", "locker", "on", ">secret"];
    watched.servers[0].command::<()>(&[&user[..], &commands].concat());
    let node = open_as(&watched, MASTER, login("locker", "secret"));
    let refused = acquire(&node, "locks:a", SOON).await.unwrap_err();
    assert_eq!(refused.kind(), BackendErrorKind::Rejected, "{refused}");
    assert!(refused.message().contains("NOPERM"), "{refused}");
    watched.servers[0].command::<()>(&[&user[..], &["+role"]].concat());
    assert_eq!(acquire(&node, "locks:a", SOON).await.unwrap(), AcquireReply::Granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_are_down_or_know_no_such_master_are_reported_by_the_timeout() {
    let mut watched = Watched::start(&[]);
    let unknown = open_as(&watched, "unknown", SentinelNodeConnectionInfo::default());
    let failed = acquire(&unknown, "a", SOON).await.unwrap_err();
    assert_eq!(failed.kind(), BackendErrorKind::Transient, "{failed}");

    let no_sentinel = [watched.servers[0].url()];
    let wrong =
        RedisBackend::open_sentinel(no_sentinel, MASTER, SentinelNodeConnectionInfo::default()).unwrap();
    let failed = acquire(&wrong, "a", SOON).await.unwrap_err();
    assert_eq!(failed.kind(), BackendErrorKind::Rejected, "{failed}");

    // One of several is enough.
    let dead = Server::start();
    let urls = [dead.url(), watched.servers[0].url(), watched.sentinel.url()];
    drop(dead);
    let node = RedisBackend::open_sentinel(urls, MASTER, SentinelNodeConnectionInfo::default()).unwrap();
    assert_eq!(acquire(&node, "a", SOON).await.unwrap(), AcquireReply::Granted);

    watched.sentinel.kill();
    let node = open(&watched);
    let start = Instant::now();
    let failed = acquire(&node, "a", SOON).await.unwrap_err();
    assert_eq!(failed.kind(), BackendErrorKind::Indeterminate, "{failed}");
    watched.sentinel.restart();
    watched.sentinel.pause();
    let failed = acquire(&node, "a", SOON).await.unwrap_err();
    assert_eq!(failed.kind(), BackendErrorKind::Indeterminate, "{failed}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    watched.sentinel.resume();
    assert!(RedisBackend::open_sentinel([""; 0], MASTER, SentinelNodeConnectionInfo::default()).is_err());
}
