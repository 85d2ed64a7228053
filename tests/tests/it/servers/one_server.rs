//! A real server under several addresses is one server.

use std::{future::IntoFuture, time::Duration};

use redlock_redis_rs::{
    Error, LockBackend, NodeOutcome, Redlock, SmolRuntime, TokioRuntime, UnlockOutcome,
    redis::{Client, aio::ConnectionManager},
};
use redlock_tests::{
    adapter::Adapter,
    proxy::Proxy,
    server::{ReservedPort, Server},
};

use crate::cli::process::CommandLine;

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
const BOTH: [Adapter; 2] = [Adapter::RedisRs, Adapter::Fred];

/// The server at its address and at another one, and a third node.
fn urls(server: &Server, user: &str, third: &str) -> [String; 3] {
    let url = |host: &str| format!("redis://{user}{host}:{}", server.port());
    [url("127.0.0.1"), url("localhost"), format!("redis://{third}")]
}

fn manager(adapter: Adapter, urls: [String; 3]) -> Redlock {
    adapter.manager_of(urls).node_timeout(SOON).build().unwrap()
}

fn assert_one_vote(error: &Error, server: &Server) {
    assert!(matches!(error, Error::NoQuorum(_)), "{error}");
    let replies = &error.report().unwrap().replies;
    let granted = replies.iter().filter(|node| matches!(node.outcome, NodeOutcome::Granted));
    assert_eq!(granted.count(), 1, "{error}");
    let text = error.to_string();
    let port = server.port();
    let says =
        |host: &str| text.contains(&format!("rejected: the same server as {host}:{port}, which has voted"));
    assert!(says("127.0.0.1") || says("localhost"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_under_two_names_has_one_vote_and_the_error_has_the_reason() {
    let (servers, nobody) = (Server::start_some(2), ReservedPort::new());
    let nobody = format!("127.0.0.1:{}", nobody.number());
    for adapter in BOTH {
        let redlock = manager(adapter, urls(&servers[0], "", &nobody));
        // The first requests of its connections and later ones, also many at a time.
        let attempt = |number| tokio::spawn(redlock.try_lock(format!("a{number}"), TTL).into_future());
        for failed in (0..20).map(attempt).collect::<Vec<_>>() {
            assert_one_vote(&failed.await.unwrap().unwrap_err(), &servers[0]);
        }
        assert_one_vote(&redlock.try_lock("a", TTL).await.unwrap_err(), &servers[0]);

        let redlock = manager(adapter, urls(&servers[0], "", &servers[1].address()));
        let mut lock = redlock.lock("a", TTL).await.unwrap();
        lock.extend(2 * TTL).await.unwrap();
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    }
}

#[test]
fn the_command_does_not_wait_for_a_quorum_that_one_server_cannot_be() {
    let server = Server::start();
    let nodes = ["127.0.0.1", "localhost"].map(|host| format!("{host}:{}", server.port()));
    let ended =
        CommandLine::bare("run x").variable("REDLOCK_NODES", &nodes.join(",")).script("true").finish();
    assert_eq!(ended.code, 78, "{ended:?}");
    assert!(ended.err.contains("rejected: the same server as "), "{ended:?}");
    assert_eq!(server.get("x"), None);
}

#[test]
fn inspecting_counts_a_server_once_too() {
    let (server, nobody) = (Server::start(), ReservedPort::new());
    let nodes = urls(&server, "", &format!("127.0.0.1:{}", nobody.number()));
    let ended = CommandLine::bare("status x y").variable("REDLOCK_NODES", &nodes.join(" ")).finish();
    assert_eq!(ended.code, 69, "{ended:?}");
    let same =
        format!("localhost:{port}: rejected: the same server as 127.0.0.1:{port}\n", port = server.port());
    assert_eq!(ended.out.matches(&same).count(), 2, "{ended:?}");
}

#[test]
fn a_server_under_two_names_has_one_vote_on_smol_too() {
    let (server, nobody) = (Server::start(), ReservedPort::new());
    let nodes = urls(&server, "", &format!("127.0.0.1:{}", nobody.number()));
    let nodes = nodes.iter().map(|url| Adapter::RedisRs.open(url));
    let redlock = Redlock::builder(SmolRuntime::new()).nodes(nodes).node_timeout(SOON).build().unwrap();
    assert_one_vote(&smol::block_on(redlock.try_lock("a", TTL).into_future()).unwrap_err(), &server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarted_is_identified_again_before_it_votes() {
    let (mut server, nobody) = (Server::start(), ReservedPort::new());
    let nobody = format!("127.0.0.1:{}", nobody.number());
    let managers = BOTH.map(|adapter| manager(adapter, urls(&server, "", &nobody)));
    for _ in 0..2 {
        for redlock in &managers {
            // The first request after a restart finds the connection broken.
            let attempts = redlock.lock("a", TTL).retry_count(1);
            assert_one_vote(&attempts.await.unwrap_err(), &server);
        }
        server.kill();
        server.restart();
    }
}

/// As a name in DNS, or a service behind a fixed address, may do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_moves_to_the_server_of_another_node_costs_a_vote() {
    let (servers, nobody) = (Server::start_some(2), ReservedPort::new());
    for adapter in BOTH {
        let moving = Proxy::to(&servers[1]);
        let nobody = format!("redis://127.0.0.1:{}", nobody.number());
        let redlock = manager(adapter, [servers[0].url(), moving.url(), nobody]);
        // One of its own, since a request on its way while the connection is cut may leave a key behind.
        let resource = format!("{adapter:?}");
        redlock.lock(&*resource, TTL).await.unwrap().unlock().await.unwrap();
        moving.lead_to(&servers[0]);
        moving.cut();
        // The first request may find the connection broken.
        let error = redlock.lock(&*resource, TTL).retry_count(1).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        assert!(error.to_string().contains("rejected: the same server as "), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_identify_itself_keeps_its_vote() {
    let (server, nobody) = (Server::start(), ReservedPort::new());
    let nobody = format!("127.0.0.1:{}", nobody.number());
    let user = ["ACL", "SETUSER", "locker", "reset", "on", ">secret", "~*"];
    let may = ["+eval", "+get", "+set", "+del", "+pexpire", "+pttl"];
    for adapter in BOTH {
        server.command::<()>(&[&user[..], &may].concat());
        let redlock = manager(adapter, urls(&server, "locker:secret@", &nobody));
        let mut lock = redlock.try_lock("a", TTL).await.expect("it keeps its vote");
        lock.extend(TTL).await.unwrap();
        server.command::<()>(&["DEL", "a"]);
        drop(lock);

        server.command::<()>(&[&user[..], &may, &["+info"]].concat());
        let redlock = manager(adapter, urls(&server, "locker:secret@", &nobody));
        assert_one_vote(&redlock.try_lock("a", TTL).await.unwrap_err(), &server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_identified_once_and_a_user_supplied_one_never() {
    let server = Server::start();
    let asked = || server.calls("info");
    let before = asked();
    let redlock = Redlock::builder(TokioRuntime::current());
    let redlock = redlock.node(Adapter::RedisRs.open(&server.url())).node_timeout(SOON).build().unwrap();
    for _ in 0..5 {
        redlock.lock("a", TTL).await.unwrap().unlock().await.unwrap();
    }
    // Each look at the statistics is an INFO command, too. The question is one for each of four sections.
    assert_eq!(asked() - before, 1 + 4);
    let connection = ConnectionManager::new(Client::open(server.url()).unwrap()).await.unwrap();
    let node = redlock_redis_rs::RedisBackend::new(connection);
    assert_eq!(node.server(), None);
}
