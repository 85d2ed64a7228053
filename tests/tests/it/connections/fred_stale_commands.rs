//! Commands that fred's queues must not send later, and commands that must not be sent again.

use std::time::{Duration, Instant};

use redlock_core::{
    AcquireReply, BackendErrorKind, Error, LockBackend, Release, ReleaseReply, Resources, UnlockOutcome,
};
use redlock_fred::FredBackend;
use redlock_tests::{
    adapter::Adapter,
    proxy::Then,
    server::{Server, eventually},
    sim_runtime::poll_once,
};

use crate::connections::fred::{
    QUICK, SHORT, SOON, TTL, acquire, fails_as, initialized, open, proxy_to, token, works,
};

/// The keys that abandoned requests, or requests whose futures were dropped, have left on the server.
async fn stale_keys(server: &Server) -> usize {
    // It is not visible from outside whether a queue is empty.
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.command(&["DBSIZE"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_to_a_node_that_is_down_do_not_take_effect_later() {
    let mut server = Server::start();
    let opened = open(server.address());
    let given = initialized(&server.url(), 2 * SHORT).await;
    for node in [&opened, &given] {
        assert_eq!(acquire(node, "before", SOON).await.unwrap(), AcquireReply::Granted);
    }
    server.kill();
    for number in 0..30 {
        let key = format!("key {number}");
        for node in [&opened, &given] {
            drop(poll_once(&mut Box::pin(acquire(node, &format!("dropped {number}"), SHORT))).await);
            fails_as(node, &key, Duration::from_millis(20), BackendErrorKind::Indeterminate).await;
        }
    }
    server.restart();
    for node in [&opened, &given] {
        let mut reply = acquire(node, "after", SOON).await;
        let start = Instant::now();
        while reply.is_err() && start.elapsed() < SOON {
            tokio::time::sleep(SHORT).await;
            reply = acquire(node, "after", SOON).await;
        }
        assert_eq!(reply.unwrap(), AcquireReply::Granted);
    }
    assert_eq!(stale_keys(&server).await, 1, "only what was asked afterwards");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_requests_are_not_sent_when_the_connection_is_made() {
    let server = Server::start();
    let proxy = proxy_to(&server);
    proxy.hold();
    let node = open(format_args!("127.0.0.1:{}", proxy.port()));
    for number in 0..5 {
        let key = format!("dropped {number}");
        assert!(poll_once(&mut Box::pin(acquire(&node, &key, SOON))).await.is_pending());
    }
    let mut kept = Box::pin(acquire(&node, "kept", SOON));
    assert!(poll_once(&mut kept).await.is_pending());
    proxy.release();
    assert_eq!(kept.await.unwrap(), AcquireReply::Granted);
    assert_eq!(stale_keys(&server).await, 1);
    assert_eq!((proxy.sent(token().as_str()), proxy.connections()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_timed_out_before_a_client_reconnects_are_not_sent_then() {
    let server = Server::start();
    let proxy = proxy_to(&server);
    let node = initialized(&proxy.url(), Duration::from_secs(1)).await;
    assert_eq!(acquire(&node, "before", SOON).await.unwrap(), AcquireReply::Granted);
    let sent = proxy.sent(token().as_str());
    proxy.cut();
    for number in 0..5 {
        // fred queues these, because it reports that it is connected during its first delay.
        drop(poll_once(&mut Box::pin(acquire(&node, &format!("dropped {number}"), SHORT))).await);
        fails_as(&node, &format!("key {number}"), SHORT, BackendErrorKind::Indeterminate).await;
    }
    assert!(eventually(SOON, || proxy.connections() == 2).await);
    let keys = stale_keys(&server).await;
    // The first of them may have been written before the end of the connection was noticed.
    let more = proxy.sent(token().as_str()) - sent;
    assert!(more <= 1 && keys <= 1 + more, "{more} of 10 sent, and {} stale keys", keys - 1);
    assert_eq!(acquire(&node, "after", SOON).await.unwrap(), AcquireReply::Granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_reply_is_lost_is_not_retransmitted() {
    let server = Server::start();
    for opened in [true, false] {
        server.command::<()>(&["FLUSHALL"]);
        let proxy = proxy_to(&server);
        let node = match opened {
            true => FredBackend::open(&proxy.url()).unwrap(),
            false => initialized(&proxy.url(), Duration::ZERO).await,
        };
        assert_eq!(acquire(&node, "warm", SOON).await.unwrap(), AcquireReply::Granted);
        let sent = proxy.sent(token().as_str());
        proxy.eat_replies(token().as_str(), 1, Then::Cut);
        fails_as(&node, "a", SOON, BackendErrorKind::Indeterminate).await;
        assert_eq!(proxy.eaten(), 1);
        assert!(server.get("a").is_some(), "the server has run it");
        let start = Instant::now();
        let mut reply = acquire(&node, "a", SOON).await;
        while reply.is_err() && start.elapsed() < SOON {
            tokio::time::sleep(SHORT).await;
            reply = acquire(&node, "a", SOON).await;
        }
        assert_eq!(reply.unwrap(), AcquireReply::Granted, "opened: {opened}");
        let (resources, token) = (Resources::from("a"), token());
        let released = node.release(Release::new(&resources, &token, SOON)).await.unwrap();
        assert_eq!(released, ReleaseReply::Removed);
        assert_eq!(stale_keys(&server).await, 1, "the lost request has run a second time");
        assert_eq!(proxy.sent(token.as_str()), sent + 3, "opened: {opened}: sent again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_acquired_although_a_nodes_reply_is_lost() {
    let server = Server::start();
    let proxy = proxy_to(&server);
    let redlock = Adapter::Fred.manager_of([proxy.url()]).build().unwrap();
    redlock.lock("warm", TTL).await.unwrap().unlock().await.unwrap();
    proxy.eat_replies("PX", 1, Then::Cut);
    let lock = redlock.lock("a", TTL).await.expect("not taken by our own lost request");
    assert_eq!((proxy.eaten(), lock.attempts()), (1, 2));
    assert_eq!(server.get("a").as_deref(), Some(lock.token().as_str()));
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert_eq!(server.get("a"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_connection_costs_the_timeout_and_leaves_no_stale_key() {
    let server = Server::start();
    let proxy = proxy_to(&server);
    let redlock = Adapter::Fred.manager_of([proxy.url()]).node_timeout(3 * SHORT).build().unwrap();
    redlock.lock("warm", TTL).await.unwrap().unlock().await.unwrap();
    proxy.hold();
    let start = Instant::now();
    for number in 0..5 {
        let failed = redlock.try_lock(format!("key {number}"), TTL).await.unwrap_err();
        assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
        assert!(failed.to_string().contains("no answer within 300 ms"), "{failed}");
    }
    assert!(start.elapsed() < 5 * QUICK, "{:?}", start.elapsed());
    proxy.release();
    let gone = || server.calls("set") >= 6 && server.command::<usize>(&["DBSIZE"]) == 0;
    assert!(eventually(SOON, gone).await, "{} keys", server.command::<usize>(&["DBSIZE"]));
    works(&redlock, std::slice::from_ref(&server)).await;
}
