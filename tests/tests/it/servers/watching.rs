//! What wakes a watch on a real server, and what keeps a node from watching.

use std::{sync::Arc, time::Duration};

use redlock_core::{BackendErrorKind, LockBackend, Redlock, Resources, Watch};
use redlock_redis_rs::{
    RedisBackend,
    redis::{Value, sentinel::SentinelNodeConnectionInfo},
};
use redlock_tests::{
    adapter::Adapter::{self, Fred, RedisRs},
    fake::{Fake, Reply},
    proxy::Proxy,
    sentinel,
    server::{Server, eventually, manager},
};
use rstest::rstest;
use tokio::{runtime::Builder, task::JoinHandle};

const TTL: Duration = Duration::from_secs(60);
/// For what is bound to happen: a machine may be busy.
const LONG: Duration = Duration::from_secs(60);
/// The commands of other libraries.
const THEIR_RELEASE: &str =
    r#"if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) else return 0 end"#;

type Watched = Result<(), (BackendErrorKind, String)>;

async fn watch(node: &dyn LockBackend, name: &str) -> Watched {
    let names = Resources::from(name);
    let watched = node.watch(Watch::new(&names, LONG)).await;
    watched.map_err(|error| (error.kind(), format!("{error}: {error:?}")))
}

fn begin(node: &Arc<dyn LockBackend>, name: &'static str) -> JoinHandle<Watched> {
    let node = node.clone();
    tokio::spawn(async move { watch(&*node, name).await })
}

/// Begins a watch of the key "a", which another client holds, and returns when the server has been asked for
/// it.
async fn begun(node: &Arc<dyn LockBackend>, server: &Server) -> JoinHandle<Watched> {
    server.command::<()>(&["SET", "a", "theirs", "PX", "600000"]);
    let before = server.calls("get");
    let watching = begin(node, "a");
    assert!(eventually(LONG, || server.calls("get") > before).await);
    watching
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_woken_by_whatever_frees_its_key(#[values(RedisRs, Fred)] adapter: Adapter) {
    let server = Server::start();
    let node = adapter.open(&server.url());
    let frees: [&[&str]; 7] = [
        &["EVAL", THEIR_RELEASE, "1", "a", "theirs"],
        &["DEL", "a"],
        &["UNLINK", "a"],
        &["RENAME", "a", "b"],
        &["PEXPIRE", "a", "30"],
        &["FLUSHALL"],
        &["FLUSHDB"],
    ];
    for frees in frees {
        let watching = begun(&node, &server).await;
        server.command::<Value>(frees);
        assert_eq!(watching.await.unwrap(), Ok(()), "{frees:?}");
    }
    assert_eq!(watch(&*node, "free").await, Ok(()));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_an_extension_or_another_owner(#[values(RedisRs, Fred)] adapter: Adapter) {
    let server = Server::start();
    let node = adapter.open(&server.url());
    let watching = begun(&node, &server).await;
    for changes in [&["PEXPIRE", "a", "700000"][..], &["SET", "a", "another's", "PX", "600000"]] {
        let before = server.calls("get");
        server.command::<Value>(changes);
        assert!(eventually(LONG, || server.calls("get") > before).await, "it is read again");
        assert!(!watching.is_finished(), "{changes:?}");
    }
    server.command::<()>(&["DEL", "a"]);
    assert_eq!(watching.await.unwrap(), Ok(()));
}

/// The number of connections, without the one that counts.
fn connections(server: &Server) -> usize {
    server.command::<String>(&["CLIENT", "LIST"]).lines().count() - 1
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watches_share_one_connection_and_a_lock_that_nobody_waits_for_needs_none(
    #[values(RedisRs, Fred)] adapter: Adapter,
) {
    let server = Server::start();
    let redlock = adapter.manager([&server]).build().unwrap();
    redlock.lock("a", TTL).await.unwrap().unlock().await.unwrap();
    drop(redlock);
    let gets = server.calls("get");
    assert!(eventually(LONG, || connections(&server) == 0).await);

    let node = adapter.open(&server.url());
    let first = begun(&node, &server).await;
    let others: Vec<_> = (0..100).map(|_| begin(&node, "a")).collect();
    server.command::<()>(&["DEL", "a"]);
    for watching in others.into_iter().chain([first]) {
        assert_eq!(watching.await.unwrap(), Ok(()));
    }
    assert_eq!(connections(&server), 1);
    // One before the release, one after it, and those of watches that began later.
    assert!(server.calls("get") - gets < 60, "{}", server.calls("get"));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_connection_and_the_next_one_makes_another(
    #[values(RedisRs, Fred)] adapter: Adapter,
) {
    let mut server = Server::start();
    let node = adapter.open(&server.url());
    for kills in [false, true] {
        let watching = begun(&node, &server).await;
        if kills {
            server.restart_empty();
        } else {
            server.command::<u64>(&["CLIENT", "KILL", "TYPE", "normal"]);
        }
        let (kind, text) = watching.await.unwrap().unwrap_err();
        assert_eq!(kind, BackendErrorKind::Indeterminate, "{text}");
    }
    let watching = begun(&node, &server).await;
    server.command::<()>(&["DEL", "a"]);
    assert_eq!(watching.await.unwrap(), Ok(()));
}

/// Two multi-thread runtimes share a connection, which ends with the one that made it.
#[rstest]
fn a_watch_ends_with_the_runtime_of_its_connection(#[values(RedisRs, Fred)] adapter: Adapter) {
    let server = Server::start();
    let node = adapter.open(&server.url());
    let runtime = || Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    first.block_on(async { drop(begun(&node, &server).await) });
    let others = {
        let node = node.clone();
        second.spawn(async move { watch(&*node, "a").await })
    };
    assert!(second.block_on(eventually(LONG, || server.calls("get") > 0)));
    first.shutdown_timeout(LONG);
    let (kind, text) = second.block_on(others).unwrap().unwrap_err();
    assert_eq!(kind, BackendErrorKind::Indeterminate, "{text}");
    let again = second.block_on(begun(&node, &server));
    server.command::<()>(&["DEL", "a"]);
    assert_eq!(second.block_on(again).unwrap(), Ok(()));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_needs_the_permission_to_watch_and_one_without_it_is_rejected_once(
    #[values(RedisRs, Fred)] adapter: Adapter,
) {
    let server = Server::start();
    let user = ["ACL", "SETUSER", "locker", "reset", "on", ">secret", "~a", "+get", "+ping"];
    let url = format!("redis://locker:secret@{}", server.address());
    server.command::<()>(&[&user[..], &["+client|tracking", "+client|id"]].concat());
    server.command::<()>(&["SET", "a", "theirs", "PX", "600000"]);
    let node = adapter.open(&url);
    let watching = begin(&node, "a");
    assert!(eventually(LONG, || server.calls("get") > 0).await);
    server.command::<()>(&["DEL", "a"]);
    assert_eq!(watching.await.unwrap(), Ok(()));
    let (kind, text) = watch(&*node, "b").await.unwrap_err();
    assert_eq!(kind, BackendErrorKind::Rejected, "{text}");
    assert!(text.contains("NOPERM"), "{text}");

    server.command::<()>(&user);
    let node = adapter.open(&url);
    let made = |server: &Server| {
        let stats: String = server.command(&["INFO", "stats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = made(&server);
    for _ in 0..5 {
        let (kind, text) = watch(&*node, "a").await.unwrap_err();
        assert_eq!(kind, BackendErrorKind::Rejected, "{text}");
        assert!(text.contains("NOPERM"), "{text}");
    }
    assert_eq!(made(&server) - before, 2, "of which one counts");
}

/// A server, or a proxy before it, that knows neither RESP3 nor tracking.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_watch_is_asked_once(#[values(RedisRs, Fred)] adapter: Adapter) {
    for (command, refusal) in [
        ("HELLO", Reply::say("-ERR unknown command 'HELLO'")),
        ("HELLO", Reply::Close),
        ("HELLO", Reply::SayAndClose("-ERR unknown command 'HELLO'".to_owned())),
        ("CLIENT", Reply::say("-ERR unknown command 'CLIENT'")),
        ("CLIENT", Reply::Close),
    ] {
        let fake = Fake::start({
            let refusal = refusal.clone();
            move |asked| match &*asked.words[0] {
                "HELLO" if command != "HELLO" => {
                    Reply::say("%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3")
                }
                word if word == command => refusal.clone(),
                _ => Reply::usual(asked),
            }
        });
        let node = adapter.open(&fake.url());
        for _ in 0..5 {
            let (kind, text) = watch(&*node, "a").await.unwrap_err();
            assert_eq!(kind, BackendErrorKind::Rejected, "{command} {refusal:?}: {text}");
        }
        assert_eq!(fake.connections(), 1, "{command} {refusal:?}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_or_is_down_can_be_watched_later(
    #[values(RedisRs, Fred)] adapter: Adapter,
) {
    let mut server = Server::start();
    let proxy = Proxy::to(&server);
    proxy.swallow_first(1);
    let node = adapter.open(&proxy.url());
    let (kind, text) = watch(&*node, "a").await.unwrap_err();
    assert_eq!(kind, BackendErrorKind::Indeterminate, "{text}");
    assert_eq!(watch(&*node, "a").await, Ok(()));

    let node = adapter.open(&server.url());
    server.kill();
    let (kind, text) = watch(&*node, "a").await.unwrap_err();
    assert_eq!(kind, BackendErrorKind::Indeterminate, "{text}");
    server.restart();
    assert_eq!(watch(&*node, "a").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_extended_and_released_wakes_a_watch() {
    let servers = [Server::start()];
    let redlock = manager(&servers).build().unwrap();
    let mut lock = redlock.lock("b", TTL).await.unwrap();
    let node = RedisRs.open(&servers[0].url());
    let watching = begin(&node, "b");
    assert!(eventually(LONG, || servers[0].calls("get") > 0).await);
    lock.extend(2 * TTL).await.unwrap();
    lock.unlock().await.unwrap();
    assert_eq!(watching.await.unwrap(), Ok(()));
}

/// A manager of another process, which waits for a report and no delay.
fn patient(adapter: Adapter, servers: &[Server]) -> Redlock {
    adapter.manager(servers).retry_delay(24 * 60 * LONG).retry_count(1).build().unwrap()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_had_as_soon_as_another_library_releases_it_or_its_holder_is_dead(
    #[values(RedisRs, Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    for dies in [false, true] {
        // One that has just released the lock would look before it tries.
        let redlock = patient(adapter, &servers);
        let ttl = if dies { "1500" } else { "600000" };
        for server in &servers {
            server.command::<()>(&["SET", "a", "theirs", "PX", ttl]);
        }
        let before: Vec<u64> = servers.iter().map(|server| server.calls("get")).collect();
        let waiting = {
            let redlock = redlock.clone();
            tokio::spawn(async move { redlock.lock("a", TTL).await })
        };
        if !dies {
            let watched = || {
                servers.iter().zip(&before).filter(|(server, before)| server.calls("get") > **before).count()
            };
            assert!(eventually(LONG, || watched() >= 2).await);
            for server in &servers {
                server.command::<Value>(&["EVAL", THEIR_RELEASE, "1", "a", "theirs"]);
            }
        }
        let lock = waiting.await.unwrap().unwrap();
        assert!(lock.attempts() > 1);
        lock.unlock().await.unwrap();
        let gone = || servers.iter().all(|server| server.get("a").is_none());
        assert!(eventually(LONG, gone).await);
    }
}

/// The user of the README may not watch.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_permission_to_watch_the_delay_serves(#[values(RedisRs, Fred)] adapter: Adapter) {
    let servers = Server::start_some(3);
    let rights = ["+eval", "+get", "+set", "+del", "+pexpire", "+pttl", "+ping"];
    for server in &servers {
        let user = ["ACL", "SETUSER", "locker", "reset", "on", ">secret", "~a"];
        server.command::<()>(&[&user[..], &rights].concat());
        server.command::<()>(&["SET", "a", "theirs", "PX", "1000"]);
    }
    let urls = servers.iter().map(|server| format!("redis://locker:secret@{}", server.address()));
    let redlock = adapter.manager_of(urls).build().unwrap();
    let lock = redlock.lock("a", TTL).retry_forever().retry_delay(Duration::from_millis(100)).await.unwrap();
    assert!(lock.attempts() > 1);
    lock.unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_that_a_sentinel_names_is_watched() {
    let group = sentinel::Watched::start(&[]);
    let node = RedisBackend::open_sentinel(
        [group.sentinel.url()],
        sentinel::MASTER,
        SentinelNodeConnectionInfo::default(),
    );
    let node: Arc<dyn LockBackend> = Arc::new(node.unwrap());
    let watching = begun(&node, &group.servers[0]).await;
    group.servers[0].command::<()>(&["DEL", "a"]);
    assert_eq!(watching.await.unwrap(), Ok(()));
}
