//! What real servers reply when they cannot serve a request, or refuse it.

use std::{error::Error as _, fs, thread, time::Duration};

use redlock_core::{BackendErrorKind, Error, NodeOutcome, Redlock, UnlockOutcome};
use redlock_tests::{
    adapter::Adapter,
    server::{Server, eventually, everywhere},
};
use rstest::rstest;

const TTL: Duration = Duration::from_secs(60);
/// For work in the background.
const SOON: Duration = Duration::from_secs(10);

fn start_with_password(number: usize, password: &str) -> Vec<Server> {
    (0..number).map(|_| Server::start_with_password(password)).collect()
}

fn url(server: &Server, credentials: &str) -> String {
    format!("redis://{credentials}@{}", server.address())
}

/// Whether an error has the server's text. redis-rs spells some of the codes its own way: `ReadOnly`.
fn says(error: &Error, words: &str) -> bool {
    error.to_string().to_lowercase().contains(&words.to_lowercase())
}

/// The first attempt is rejected, although more are allowed, with the node's own text: one of `words`.
async fn rejects_at_once(redlock: &Redlock, words: &[&str]) {
    let endless = redlock.lock("a", TTL).retry_forever().into_future();
    let failed = tokio::time::timeout(SOON, endless).await.expect("no retries").expect_err("rejected");
    let Error::Rejected(report) = &failed else { panic!("{failed}") };
    assert_eq!(report.attempts, 1);
    assert!(words.iter().any(|words| says(&failed, words)), "{failed}");
    let rejected = |reply: &&_| matches!(reply, NodeOutcome::Failed(error) if error.kind() == BackendErrorKind::Rejected);
    assert!(report.replies.iter().map(|reply| &reply.outcome).filter(rejected).count() >= 2, "{failed}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_on_a_majority_is_rejected_at_once(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = start_with_password(3, "right");
    let passwords = [":right", ":wrong", ":wrong"];
    let urls: Vec<String> =
        servers.iter().zip(passwords).map(|(server, password)| url(server, password)).collect();
    rejects_at_once(&adapter.manager_of(urls).build().unwrap(), &["WRONGPASS"]).await;
    assert!(
        eventually(SOON, || everywhere(&servers, "a", None)).await,
        "the key on the node that took it stays"
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_password_on_a_majority_is_rejected_at_once(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = start_with_password(3, "right");
    let urls = [url(&servers[0], ":right"), servers[1].url(), servers[2].url()];
    rejects_at_once(&adapter.manager_of(urls).build().unwrap(), &["NOAUTH"]).await;
    assert!(
        eventually(SOON, || everywhere(&servers, "a", None)).await,
        "the key on the node that took it stays"
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_on_a_minority_does_not_matter(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = start_with_password(3, "right");
    let passwords = [":wrong", ":right", ":right"];
    let urls: Vec<String> =
        servers.iter().zip(passwords).map(|(server, password)| url(server, password)).collect();
    let mut lock = adapter.manager_of(urls).build().unwrap().try_lock("a", TTL).await.unwrap();
    lock.extend(TTL).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_the_permissions_is_rejected_at_once(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    for rules in [["~*", "-@all", "+set"], ["~other:*", "+@all", "+eval"], ["~*", "+eval", "-set"]] {
        for server in &servers {
            server.command::<()>(&[
                "ACL", "SETUSER", "weak", "reset", "on", ">secret", rules[0], rules[1], rules[2],
            ]);
        }
        let weak =
            adapter.manager_of(servers.iter().map(|server| url(server, "weak:secret"))).build().unwrap();
        // In a script the server's text is another: this one on Redis, that one on Valkey.
        let in_script: &[&str] = &["can't run this command", "no permissions to run"];
        let words: &[&str] = if rules[2] == "-set" { in_script } else { &["NOPERM"] };
        rejects_at_once(&weak, words).await;
        assert!(everywhere(&servers, "a", None));
    }
}

fn is_list(server: &Server, key: &str) -> bool {
    server.command::<String>(&["TYPE", key]) == "list"
        && server.command::<Vec<String>>(&["LRANGE", key, "0", "-1"]) == ["x", "y"]
        && server.command::<i64>(&["PTTL", key]) == -1
}

fn make_list(server: &Server, key: &str) {
    server.command::<()>(&["DEL", key]);
    server.command::<()>(&["RPUSH", key, "x", "y"]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_is_rejected_and_left_alone(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    servers.iter().for_each(|server| make_list(server, "a"));
    rejects_at_once(&redlock, &["WRONGTYPE"]).await;
    let failed = redlock.try_lock(["b", "a"], TTL).await.unwrap_err();
    assert!(matches!(failed, Error::Rejected(_)), "{failed}");
    assert!(servers.iter().all(|server| is_list(server, "a")));
    assert!(eventually(SOON, || everywhere(&servers, "b", None)).await);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_key_that_became_another_type_is_left_alone_and_its_neighbours_are_released(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    for released_by_drop in [false, true] {
        let mut lock = redlock.lock(["a", "b", "c"], TTL).await.unwrap();
        for server in &servers {
            assert!(eventually(SOON, || server.get("c").is_some()).await);
            make_list(server, "b");
        }
        let failed = lock.extend(2 * TTL).await.unwrap_err();
        assert!(matches!(failed, Error::Rejected(_)) && says(&failed, "WRONGTYPE"), "{failed}");
        assert!(servers.iter().all(|server| server.ttl("a").unwrap() <= TTL), "extended in part");
        if released_by_drop {
            drop(lock);
        } else {
            let failed = lock.unlock().await.unwrap_err();
            assert!(matches!(failed, Error::Rejected(_)) && says(&failed, "WRONGTYPE"), "{failed}");
        }
        for name in ["a", "c"] {
            assert!(eventually(SOON, || everywhere(&servers, name, None)).await, "{name}");
        }
        for server in &servers {
            assert!(is_list(server, "b"));
            server.command::<()>(&["DEL", "b"]);
        }
    }
}

/// While the servers are `broken` no lock is granted: there is no quorum, and the error has the server's own
/// `word`. Once they are `healed` the same manager works. A lock that was held before can be released if
/// `releases` is set.
async fn unavailable(
    adapter: Adapter,
    servers: &[Server],
    word: &str,
    releases: bool,
    broken: impl Fn(&Server),
    healed: impl Fn(&Server),
) {
    let redlock = adapter.manager(servers).node_timeout(Duration::from_secs(1)).build().expect("nodes");
    let held = redlock.lock("held", TTL).await.expect("healthy nodes");
    assert!(eventually(SOON, || servers.iter().all(|server| server.get("held").is_some())).await);

    servers.iter().for_each(broken);
    let failed = redlock.lock("a", TTL).retry_count(1).await.expect_err(word);
    let Error::NoQuorum(report) = &failed else { panic!("{word}: {failed}") };
    assert_eq!(report.attempts, 2, "it may heal, so it is tried again");
    for reply in &report.replies {
        match &reply.outcome {
            NodeOutcome::Failed(error) => assert_eq!(error.kind(), BackendErrorKind::Transient, "{failed}"),
            NodeOutcome::Pending => {}
            other => panic!("{other}: {failed}"),
        }
    }
    assert!(word.split('|').any(|word| says(&failed, word)), "{failed}");
    if releases {
        assert_eq!(held.unlock().await.expect(word), UnlockOutcome::Released);
        assert!(eventually(SOON, || everywhere(servers, "held", None)).await, "{word}");
    } else {
        drop(held);
    }

    servers.iter().for_each(healed);
    let mut lock = redlock.lock("a", TTL).await.expect(word);
    lock.extend(TTL).await.expect(word);
    assert_eq!(lock.unlock().await.expect(word), UnlockOutcome::Released);
    assert!(
        eventually(SOON, || everywhere(servers, "a", None) && everywhere(servers, "held", None)).await,
        "{word}"
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_printed_once(#[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter) {
    let mut servers = [Server::start()];
    let redlock = adapter.manager(&servers).build().unwrap();
    set("maxmemory", "1")(&servers[0]);
    let failed = redlock.try_lock("a", TTL).await.unwrap_err().to_string();
    assert_eq!(failed.matches("'maxmemory'").count(), 1, "{failed}");
    servers[0].kill();
    let redlock = adapter.manager(&servers).build().unwrap();
    let failed = redlock.try_lock("a", TTL).await.unwrap_err().to_string();
    assert_eq!(failed.matches("Connection refused").count(), 1, "{failed}");
}

fn set(parameter: &'static str, value: &'static str) -> impl Fn(&Server) {
    move |server| server.command(&["CONFIG", "SET", parameter, value])
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_out_of_memory_fail_transiently_but_release(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    unavailable(adapter, &servers, "OOM", true, set("maxmemory", "1"), set("maxmemory", "0")).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_lack_replicas_fail_transiently(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let (broken, healed) = (set("min-replicas-to-write", "1"), set("min-replicas-to-write", "0"));
    unavailable(adapter, &servers, "NOREPLICAS", false, broken, healed).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_became_replicas_fail_transiently(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let (primary, servers) = (Server::start(), Server::start_some(3));
    let port = primary.port().to_string();
    let broken = |server: &Server| server.command(&["REPLICAOF", "127.0.0.1", &port]);
    let healed = |server: &Server| server.command(&["REPLICAOF", "NO", "ONE"]);
    unavailable(adapter, &servers, "READONLY", false, broken, healed).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_without_their_primary_fail_transiently(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let (mut primary, servers) = (Server::start(), Server::start_some(3));
    primary.kill();
    let port = primary.port().to_string();
    let broken = |server: &Server| {
        set("replica-serve-stale-data", "no")(server);
        server.command(&["REPLICAOF", "127.0.0.1", &port])
    };
    let healed = |server: &Server| server.command(&["REPLICAOF", "NO", "ONE"]);
    unavailable(adapter, &servers, "MASTERDOWN|READONLY", false, broken, healed).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_cannot_write_their_snapshot_fail_transiently(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let snapshot = |server: &Server, outcome: &str| {
        server.command::<()>(&["BGSAVE"]);
        let done = format!("rdb_last_bgsave_status:{outcome}\r\n");
        poll(|| server.command::<String>(&["INFO", "persistence"]).contains(&done));
    };
    let broken = |server: &Server| {
        // A file cannot replace a folder.
        fs::create_dir(server.folder().join("dump.rdb")).expect("a new folder");
        set("save", "3600 1")(server);
        snapshot(server, "err");
    };
    let healed = |server: &Server| {
        fs::remove_dir(server.folder().join("dump.rdb")).expect("an empty folder");
        snapshot(server, "ok");
    };
    unavailable(adapter, &servers, "MISCONF", false, broken, healed).await;
}

/// One server, because a busy one occupies a whole processor.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_busy_with_a_script_fails_transiently(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = [Server::start_with(&["--lua-time-limit", "1"])];
    let word = "BUSY";
    let broken = |server: &Server| {
        let mut connection = server.connection().expect("a connection");
        thread::spawn(move || {
            let endless = redis::cmd("EVAL").arg("while true do end").arg(0).exec(&mut connection);
            assert!(endless.is_err(), "killed");
        });
        poll(|| server.try_command::<()>(&["PING"]).is_err());
    };
    let healed = |server: &Server| server.command(&["SCRIPT", "KILL"]);
    unavailable(adapter, &servers, word, false, broken, healed).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_still_loads_its_data_fails_transiently(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let mut server = Server::start_with(&[
        "--key-load-delay",
        "20000",
        "--loading-process-events-interval-bytes",
        "1024",
        "--rdbcompression",
        "no",
    ]);
    let fill = "for key = 1, 1000 do redis.call('SET', key, string.rep('v', 1024)) end";
    server.command::<()>(&["EVAL", fill, "0"]);
    let redlock = adapter.manager([&server]).build().unwrap();
    redlock.lock("warm up", TTL).await.unwrap().forget();
    server.command::<()>(&["SAVE"]);

    server.restart_without_waiting();
    let loads = || server.try_command::<()>(&["PING"]).is_err_and(|error| error.code() == Some("LOADING"));
    assert!(eventually(SOON, loads).await, "20 s of data are loaded already");
    let failed = redlock.lock("a", TTL).retry_count(1).await.unwrap_err();
    assert!(matches!(&failed, Error::NoQuorum(report) if report.attempts == 2), "{failed}");
    assert!(says(&failed, "LOADING"), "{failed}");

    server.command::<()>(&["CONFIG", "SET", "key-load-delay", "0"]);
    let lock = redlock.lock("a", TTL).retry_count(50).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(server.get("warm up").is_some());
}

/// Waits, for ten seconds at most, until a server shows the effect of a command.
fn poll(shows: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if shows() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("the server does not show it");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_printed_reveals_a_password_or_a_whole_token(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let mut server = Server::start_with_password("right");
    server.command::<()>(&["ACL", "SETUSER", "someone", "on", ">s3cret", "~*", "+@all"]);
    let url = |user: &str| format!("redis://{user}:s3cret@{}", server.address());
    let node = adapter.open(&url("someone"));
    assert_eq!(node.name().unwrap(), server.address());

    let mut printed = vec![format!("{node:?}")];
    let redlock = adapter.manager_of([url("someone")]).build().unwrap();
    let lock = redlock.lock("a", TTL).await.unwrap();
    let token = lock.token().as_str().to_owned();
    let contended = redlock.try_lock("a", TTL).await.unwrap_err();
    let nobody = adapter.manager_of([url("nobody")]).build().unwrap();
    let rejected = nobody.try_lock("a", TTL).await.unwrap_err();
    printed.push(format!("{redlock:?} {lock:?} {:?} {:?}", lock.token(), lock.replies()));
    printed.push(format!("{:?}", lock.keep_alive().stop().into_parts()));
    server.kill();
    let unavailable = redlock.try_lock("a", TTL).await.unwrap_err();
    for error in [contended, rejected, unavailable] {
        assert!(error.to_string().contains(&server.address()), "{error}");
        printed.push(format!("{error} {error:?} {:?}", error.source()));
    }
    for text in printed {
        assert!(!text.contains("s3cret") && !text.contains(&token), "{text}");
    }
}
