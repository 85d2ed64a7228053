//! What real servers answer when they cannot, or will not, do what they are asked.

use std::{fs, thread, time::Duration};

use redlock_redis_rs::{Answer, BackendErrorKind, Error, RedisBackend, Redlock, TokioRuntime, Unlock};
use redlock_tests::server::{Server, eventually, everywhere, manager};

const TTL: Duration = Duration::from_secs(60);
/// For what is done in the background.
const SOON: Duration = Duration::from_secs(10);

fn manager_of(urls: impl IntoIterator<Item = String>) -> Redlock {
    let nodes = urls.into_iter().map(|url| RedisBackend::open(url).expect("a URL"));
    Redlock::builder(TokioRuntime::current()).nodes(nodes).build().expect("nodes")
}

fn start_with_password(number: usize, password: &str) -> Vec<Server> {
    (0..number).map(|_| Server::start_with_password(password)).collect()
}

fn url(server: &Server, credentials: &str) -> String {
    format!("redis://{credentials}@{}", server.address())
}

/// Whether an error has the server's words. Some of its codes come in redis-rs' spelling: `ReadOnly`.
fn says(error: &Error, words: &str) -> bool {
    error.to_string().to_lowercase().contains(&words.to_lowercase())
}

/// The lock is rejected in the first of any number of rounds, in the node's own `words`.
async fn rejects_at_once(redlock: &Redlock, words: &str) {
    let endless = redlock.lock("a", TTL).retry_forever().into_future();
    let failed = tokio::time::timeout(SOON, endless).await.expect("no retries").expect_err("rejected");
    let Error::Rejected(report) = &failed else { panic!("{failed}") };
    assert_eq!(report.attempts, 1);
    assert!(says(&failed, words), "{failed}");
    let rejected =
        |answer: &&_| matches!(answer, Answer::Failed(error) if error.kind() == BackendErrorKind::Rejected);
    assert!(report.answers.iter().map(|answer| &answer.answer).filter(rejected).count() >= 2, "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_on_a_majority_is_rejected_at_once() {
    let servers = start_with_password(3, "right");
    let passwords = [":right", ":wrong", ":wrong"];
    let urls: Vec<String> =
        servers.iter().zip(passwords).map(|(server, password)| url(server, password)).collect();
    rejects_at_once(&manager_of(urls), "cannot log in: Password authentication failed").await;
    assert!(
        eventually(SOON, || everywhere(&servers, "a", None)).await,
        "the key on the node that took it stays"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_password_on_a_majority_is_rejected_at_once() {
    let servers = start_with_password(3, "right");
    let urls = [url(&servers[0], ":right"), servers[1].url(), servers[2].url()];
    rejects_at_once(&manager_of(urls), "NOAUTH").await;
    assert!(
        eventually(SOON, || everywhere(&servers, "a", None)).await,
        "the key on the node that took it stays"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_on_a_minority_is_of_no_account() {
    let servers = start_with_password(3, "right");
    let passwords = [":wrong", ":right", ":right"];
    let urls: Vec<String> =
        servers.iter().zip(passwords).map(|(server, password)| url(server, password)).collect();
    let mut lock = manager_of(urls).try_lock("a", TTL).await.unwrap();
    lock.extend(TTL).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), Unlock::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_the_permissions_is_rejected_at_once() {
    let servers = Server::start_some(3);
    for rules in [["~*", "+@all", "-eval"], ["~other:*", "+@all", "+eval"], ["~*", "+eval", "-set"]] {
        for server in &servers {
            server.command::<()>(&[
                "ACL", "SETUSER", "weak", "reset", "on", ">secret", rules[0], rules[1], rules[2],
            ]);
        }
        let weak = manager_of(servers.iter().map(|server| url(server, "weak:secret")));
        // In a script the server has other words for the same.
        let words = if rules[2] == "-set" { "can't run this command" } else { "NOPERM" };
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_is_rejected_and_left_alone() {
    let servers = Server::start_some(3);
    let redlock = manager(&servers).build().unwrap();
    servers.iter().for_each(|server| make_list(server, "a"));
    rejects_at_once(&redlock, "WRONGTYPE").await;
    let failed = redlock.try_lock(["b", "a"], TTL).await.unwrap_err();
    assert!(matches!(failed, Error::Rejected(_)), "{failed}");
    assert!(servers.iter().all(|server| is_list(server, "a")));
    assert!(eventually(SOON, || everywhere(&servers, "b", None)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_key_that_became_another_type_is_left_alone_and_its_neighbours_are_released() {
    let servers = Server::start_some(3);
    let redlock = manager(&servers).build().unwrap();
    for released_by_drop in [false, true] {
        let mut lock = redlock.lock(["a", "b", "c"], TTL).await.unwrap();
        for server in &servers {
            assert!(eventually(SOON, || server.get("c").is_some()).await);
            make_list(server, "b");
        }
        let failed = lock.extend(2 * TTL).await.unwrap_err();
        assert!(matches!(failed, Error::Rejected(_)) && says(&failed, "WRONGTYPE"), "{failed}");
        assert!(servers.iter().all(|server| server.ttl("a") <= TTL), "extended in part");
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

/// While the servers are `broken` no lock is got, for want of nodes, and the error has the server's own `word`; once
/// they are `healed` the same manager works. A lock that was held already can be released where `releases` says so.
async fn unavailable(
    servers: &[Server],
    word: &str,
    releases: bool,
    broken: impl Fn(&Server),
    healed: impl Fn(&Server),
) {
    let redlock = manager(servers).node_timeout(Duration::from_secs(1)).build().expect("nodes");
    let held = redlock.lock("held", TTL).await.expect("healthy nodes");
    assert!(eventually(SOON, || servers.iter().all(|server| server.get("held").is_some())).await);

    servers.iter().for_each(broken);
    let failed = redlock.lock("a", TTL).retry_count(1).await.expect_err(word);
    let Error::Unavailable(report) = &failed else { panic!("{word}: {failed}") };
    assert_eq!(report.attempts, 2, "it may heal, so it is tried again");
    for answer in &report.answers {
        match &answer.answer {
            Answer::Failed(error) => assert_eq!(error.kind(), BackendErrorKind::Unavailable, "{failed}"),
            Answer::Pending => {}
            other => panic!("{other}: {failed}"),
        }
    }
    assert!(says(&failed, word), "{failed}");
    if releases {
        assert_eq!(held.unlock().await.expect(word), Unlock::Released);
        assert!(eventually(SOON, || everywhere(servers, "held", None)).await, "{word}");
    } else {
        drop(held);
    }

    servers.iter().for_each(healed);
    let mut lock = redlock.lock("a", TTL).await.expect(word);
    lock.extend(TTL).await.expect(word);
    assert_eq!(lock.unlock().await.expect(word), Unlock::Released);
    assert!(
        eventually(SOON, || everywhere(servers, "a", None) && everywhere(servers, "held", None)).await,
        "{word}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_told_once() {
    let mut servers = [Server::start()];
    let redlock = manager(&servers).build().unwrap();
    set("maxmemory", "1")(&servers[0]);
    let failed = redlock.try_lock("a", TTL).await.unwrap_err().to_string();
    assert_eq!(failed.matches("'maxmemory'").count(), 1, "{failed}");
    servers[0].kill();
    let redlock = manager(&servers).build().unwrap();
    let failed = redlock.try_lock("a", TTL).await.unwrap_err().to_string();
    assert_eq!(failed.matches("Connection refused").count(), 1, "{failed}");
}

fn set(parameter: &'static str, value: &'static str) -> impl Fn(&Server) {
    move |server| server.command(&["CONFIG", "SET", parameter, value])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_out_of_memory_are_unavailable_but_release() {
    let servers = Server::start_some(3);
    unavailable(&servers, "OOM", true, set("maxmemory", "1"), set("maxmemory", "0")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_lack_replicas_are_unavailable() {
    let servers = Server::start_some(3);
    let (broken, healed) = (set("min-replicas-to-write", "1"), set("min-replicas-to-write", "0"));
    unavailable(&servers, "NOREPLICAS", false, broken, healed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_became_replicas_are_unavailable() {
    let (primary, servers) = (Server::start(), Server::start_some(3));
    let port = primary.port().to_string();
    let broken = |server: &Server| server.command(&["REPLICAOF", "127.0.0.1", &port]);
    let healed = |server: &Server| server.command(&["REPLICAOF", "NO", "ONE"]);
    unavailable(&servers, "READONLY", false, broken, healed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_without_their_primary_are_unavailable() {
    let (mut primary, servers) = (Server::start(), Server::start_some(3));
    primary.kill();
    let port = primary.port().to_string();
    let broken = |server: &Server| {
        set("replica-serve-stale-data", "no")(server);
        server.command(&["REPLICAOF", "127.0.0.1", &port])
    };
    let healed = |server: &Server| server.command(&["REPLICAOF", "NO", "ONE"]);
    unavailable(&servers, "MASTERDOWN", false, broken, healed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_cannot_write_their_snapshot_are_unavailable() {
    let servers = Server::start_some(3);
    let snapshot = |server: &Server, outcome: &str| {
        server.command::<()>(&["BGSAVE"]);
        let done = format!("rdb_last_bgsave_status:{outcome}\r\n");
        poll(|| server.command::<String>(&["INFO", "persistence"]).contains(&done));
    };
    let broken = |server: &Server| {
        // A file cannot take the place of a folder.
        fs::create_dir(server.folder().join("dump.rdb")).expect("a new folder");
        set("save", "3600 1")(server);
        snapshot(server, "err");
    };
    let healed = |server: &Server| {
        fs::remove_dir(server.folder().join("dump.rdb")).expect("an empty folder");
        snapshot(server, "ok");
    };
    unavailable(&servers, "MISCONF", false, broken, healed).await;
}

/// One server: a busy one takes all of a processor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_busy_with_a_script_is_unavailable() {
    let servers = [Server::start_with(&["--busy-reply-threshold", "1"])];
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
    unavailable(&servers, word, false, broken, healed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_still_loads_its_data_is_unavailable() {
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
    let redlock = manager(std::slice::from_ref(&server)).build().unwrap();
    redlock.lock("warm up", TTL).await.unwrap().forget();
    server.command::<()>(&["SAVE"]);

    server.restart_unheard();
    let loads = || server.try_command::<()>(&["PING"]).is_err_and(|error| error.code() == Some("LOADING"));
    assert!(eventually(SOON, loads).await, "20 s of data are loaded already");
    let failed = redlock.lock("a", TTL).retry_count(1).await.unwrap_err();
    assert!(matches!(&failed, Error::Unavailable(report) if report.attempts == 2), "{failed}");
    assert!(says(&failed, "LOADING"), "{failed}");

    server.command::<()>(&["CONFIG", "SET", "key-load-delay", "0"]);
    let lock = redlock.lock("a", TTL).retry_count(50).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), Unlock::Released);
    assert!(server.get("warm up").is_some());
}

/// Waits, for ten seconds at most, until a server shows what it was told to do.
fn poll(shows: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if shows() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("the server does not show it");
}
