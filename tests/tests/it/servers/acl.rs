//! The permissions that a user of the server needs, and the errors of a user that lacks one.

use std::time::Duration;

use redlock_redis_rs::{
    Acquire, AcquireReply, BackendErrorKind, Error, Extend, Inspect, KeyState, LockBackend, RedisBackend,
    Redlock, Release, ReleaseReply, Resources, Token, TokioRuntime, UnlockOutcome,
    redis::{self, Client},
};
use redlock_tests::server::{Server, eventually, everywhere};

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
/// As in the README.
const COMMANDS: [&str; 6] = ["+eval", "+get", "+set", "+del", "+pexpire", "+pttl"];
const TOKEN: &str = "00112233445566778899aabbccddeeff";

fn allow(server: &Server, commands: &[&str]) {
    let user = ["ACL", "SETUSER", "locker", "reset", "on", ">se/cr:t", "~locks:*"];
    server.command::<()>(&[&user, commands].concat());
}

/// A password in a URL is percent-encoded.
fn url(server: &Server) -> String {
    format!("redis://locker:se%2Fcr%3At@{}", server.address())
}

fn node(server: &Server) -> RedisBackend {
    RedisBackend::open(url(server)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_of_the_readme_can_lock_extend_inspect_and_unlock_and_nothing_else() {
    let servers = Server::start_some(3);
    servers.iter().for_each(|server| allow(server, &COMMANDS));
    let redlock = Redlock::builder(TokioRuntime::current()).nodes(servers.iter().map(node)).build().unwrap();
    let mut lock = redlock.lock(["locks:a", "locks:b"], TTL).await.unwrap();
    let token = lock.token().as_str().to_owned();
    assert!(eventually(SOON, || everywhere(&servers, "locks:b", Some(&token))).await);
    lock.extend(2 * TTL).await.unwrap();
    let locks = Resources::from(["locks:a", "locks:c"]);
    let seen = node(&servers[0]).inspect(Inspect::new(&locks, SOON)).await.unwrap();
    assert!(matches!(&seen[..], [KeyState::Held { .. }, KeyState::Free]), "{seen:?}");
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(eventually(SOON, || everywhere(&servers, "locks:b", None)).await);

    let client = Client::open(url(&servers[0])).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for words in ["SET others:a value", "GET others:a", "FLUSHALL", "CONFIG GET save", "KEYS *"] {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        let refused = command.exec_async(&mut connection).await.unwrap_err();
        assert_eq!(refused.code(), Some("NOPERM"), "{command:?}");
    }
}

/// The results of the four operations of a node: acquire, extend, inspect, release.
async fn ask_all(server: &Server) -> [Result<(), (BackendErrorKind, String)>; 4] {
    let node = node(server);
    let token: Token = TOKEN.parse().unwrap();
    let locks = Resources::from("locks:a");
    let acquired = node.acquire(Acquire::new(&locks, &token, TTL, SOON)).await;
    // The others use a key that exists in any case.
    server.command::<()>(&["SET", "locks:a", TOKEN, "PX", "60000"]);
    let extended = node.extend(Extend::new(&locks, &token, 2 * TTL, SOON)).await;
    let inspected = node.inspect(Inspect::new(&locks, SOON)).await;
    let released = node.release(Release::new(&locks, &token, SOON)).await;
    server.command::<()>(&["DEL", "locks:a"]);
    [
        acquired.map(|reply| assert_eq!(reply, AcquireReply::Granted)),
        extended.map(|reply| assert_eq!(reply, AcquireReply::Granted)),
        inspected.map(drop),
        released.map(|reply| assert_eq!(reply, ReleaseReply::Removed)),
    ]
    .map(|reply| reply.map_err(|error| (error.kind(), error.message().to_owned())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_permission_of_the_readme_is_needed_and_a_missing_one_is_reported_with_the_servers_text() {
    let server = Server::start();
    allow(&server, &COMMANDS);
    assert_eq!(ask_all(&server).await, [Ok(()), Ok(()), Ok(()), Ok(())]);
    for missing in COMMANDS {
        let others: Vec<_> = COMMANDS.into_iter().filter(|command| *command != missing).collect();
        allow(&server, &others);
        let replies = ask_all(&server).await;
        assert!(replies.iter().any(Result::is_err), "{missing} is not needed");
        for (kind, text) in replies.into_iter().filter_map(Result::err) {
            assert_eq!(kind, BackendErrorKind::Rejected, "{missing}: {text}");
            let known = ["NOPERM", "can't run this command", "no permissions to run"];
            assert!(known.iter().any(|known| text.contains(known)), "{missing}: {text}");
        }
    }
}

/// Where a removal has a command of its own, `SET` and that are enough for one resource.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_scripts_locks_where_the_server_has_native_commands() {
    let servers = Server::start_some(3);
    let release = servers[0].forms()[1];
    let removal = format!("+{release}");
    let allowed = if release == "EVAL" { &["+set"][..] } else { &["+set", &removal] };
    servers.iter().for_each(|server| allow(server, allowed));
    let redlock = Redlock::builder(TokioRuntime::current()).nodes(servers.iter().map(node)).build().unwrap();
    for _ in 0..2 {
        let locked = redlock.lock("locks:a", TTL).await;
        if release == "EVAL" {
            let error = locked.unwrap_err();
            assert!(matches!(error, Error::Rejected(_)), "{error}");
            assert!(error.to_string().contains("NOPERM") && error.to_string().contains("DELIFEQ"), "{error}");
            assert!(everywhere(&servers, "locks:a", None), "it cannot be released");
            continue;
        }
        let mut lock = locked.unwrap();
        assert!(eventually(SOON, || everywhere(&servers, "locks:a", Some(lock.token().as_str()))).await);
        assert!(matches!(lock.extend(TTL).await, Err(Error::Rejected(_))), "only a script extends");
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        assert!(eventually(SOON, || everywhere(&servers, "locks:a", None)).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_outside_of_the_users_pattern_is_rejected_with_the_servers_text() {
    let server = Server::start();
    allow(&server, &COMMANDS);
    let token: Token = TOKEN.parse().unwrap();
    let request = Resources::from(["locks:a", "others:a"]);
    let refused = node(&server).acquire(Acquire::new(&request, &token, TTL, SOON)).await.unwrap_err();
    assert_eq!(refused.kind(), BackendErrorKind::Rejected);
    assert!(refused.message().contains("NOPERM"), "{refused}");
    assert_eq!(server.get("locks:a"), None);
}
