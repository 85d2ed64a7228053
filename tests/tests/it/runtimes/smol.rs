//! Locks on real servers under smol. No thread of these tests is in a tokio runtime.

use std::{
    future::IntoFuture,
    thread,
    time::{Duration, Instant},
};

use redlock_redis_rs::{
    Error, LockBackend, RedisBackend, Redlock, RedlockBuilder, SmolRuntime, TokioRuntime, UnlockOutcome,
};
use redlock_tests::{
    server::{Server, everywhere},
    sim_runtime::poll_once,
};
use smol::Timer;

const TTL: Duration = Duration::from_secs(60);
/// For work in the background.
const SOON: Duration = Duration::from_secs(10);
/// More than a round takes on a busy machine, and less than the node timeout.
const QUICK: Duration = Duration::from_millis(1_500);
const NODE_TIMEOUT: Duration = Duration::from_secs(4);

fn manager(servers: &[Server]) -> RedlockBuilder {
    let open = |server: &Server| RedisBackend::open(server.url()).unwrap();
    Redlock::builder(SmolRuntime::new()).nodes(servers.iter().map(open))
}

fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < SOON {
        if condition() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

fn in_quick_time<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    let start = Instant::now();
    let output = smol::block_on(future.into_future());
    assert!(start.elapsed() < QUICK, "{what} took {:?}", start.elapsed());
    output
}

fn every_step_is_quick(redlock: &Redlock, healthy: &[Server]) {
    let mut lock = in_quick_time("lock", redlock.try_lock("a", TTL)).unwrap();
    in_quick_time("extend", lock.extend(2 * TTL)).unwrap();
    assert!(healthy.iter().all(|server| server.ttl("a") > Some(TTL)));
    assert!(in_quick_time("contend", redlock.try_lock("a", TTL)).is_err());
    assert_eq!(in_quick_time("unlock", lock.unlock()).unwrap(), UnlockOutcome::Released);
    assert!(soon(|| everywhere(healthy, "a", None)));
}

#[test]
fn locks_are_taken_extended_contended_and_released() {
    assert!(tokio::runtime::Handle::try_current().is_err());
    let servers = Server::start_some(3);
    let ours = manager(&servers).build().unwrap();
    let theirs = manager(&servers).build().unwrap();
    smol::block_on(async {
        let mut lock = ours.lock(["a", "b"], TTL).await.unwrap();
        let token = lock.token().as_str().to_owned();
        assert!(soon(|| everywhere(&servers, "a", Some(&token)) && everywhere(&servers, "b", Some(&token))));
        let refused = theirs.try_lock("b", TTL).await.unwrap_err();
        assert!(matches!(refused, Error::Contended(_)), "{refused}");
        lock.extend(2 * TTL).await.unwrap();
        assert!(soon(|| servers.iter().all(|server| server.ttl("a") > Some(TTL))));
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        assert!(soon(|| everywhere(&servers, "a", None) && everywhere(&servers, "b", None)));
    });
}

#[test]
fn a_waiter_gets_the_lock_when_it_is_released() {
    let servers = Server::start_some(3);
    let ours = manager(&servers).build().unwrap();
    let theirs = manager(&servers).build().unwrap();
    smol::block_on(async {
        let lock = ours.lock("a", TTL).await.unwrap();
        let waiter = smol::spawn(theirs.lock("a", TTL).retry_forever().into_future());
        Timer::after(Duration::from_millis(500)).await;
        assert!(!waiter.is_finished(), "two locks");
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        let lock = smol::future::or(async { Some(waiter.await) }, async {
            Timer::after(SOON).await;
            None
        });
        let lock = lock.await.expect("it waits in vain").unwrap();
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    });
}

#[test]
fn using_extends_the_lock_over_several_ttls() {
    let servers = Server::start_some(3);
    let short = Duration::from_secs(1);
    let redlock = manager(&servers).node_timeout(TTL).build().unwrap();
    let used = redlock.using("a", short, |lease| async move {
        Timer::after(5 * short / 2).await;
        lease.is_valid()
    });
    assert!(smol::block_on(used.into_future()).unwrap());
    assert!(soon(|| everywhere(&servers, "a", None)));
    let extensions = servers[0].calls("pexpire");
    assert!((5..=10).contains(&extensions), "{extensions} extensions in 2.5 s, about one in 0.33 s wanted");
}

#[test]
fn a_stopped_or_killed_node_does_not_slow_a_round_down() {
    for kill in [false, true] {
        let mut servers = Server::start_some(3);
        let redlock = manager(&servers).node_timeout(NODE_TIMEOUT).build().unwrap();
        smol::block_on(redlock.lock("warm up", TTL).into_future()).unwrap().forget();
        assert!(soon(|| servers.iter().all(|server| server.get("warm up").is_some())));
        if kill {
            servers[0].kill();
        } else {
            servers[0].pause();
        }
        every_step_is_quick(&redlock, &servers[1..]);
        let unconnected = manager(&servers).node_timeout(NODE_TIMEOUT).build().unwrap();
        every_step_is_quick(&unconnected, &servers[1..]);
        if kill {
            servers[0].restart();
        } else {
            servers[0].resume();
        }
        let back = || {
            let lock = smol::block_on(redlock.lock("b", TTL).into_future()).unwrap();
            lock.forget();
            soon(|| servers[0].get("b").is_some())
        };
        assert!(back(), "not used again");
    }
}

#[test]
fn a_request_that_is_dropped_at_any_await_leaves_no_key() {
    let servers = Server::start_some(3);
    for number in 0..50 {
        // Half of them while the connections are made.
        let redlock = manager(&servers).node_timeout(SOON).build().unwrap();
        smol::block_on(async {
            if number % 2 == 0 {
                redlock.lock("warm", TTL).await.unwrap().unlock().await.unwrap();
            }
            let mut request = redlock.lock(format!("key {number}"), TTL).into_future();
            drop(poll_once(&mut request).await);
            drop(request);
        });
    }
    assert!(soon(|| servers.iter().all(|server| server.command::<usize>(&["DBSIZE"]) == 0)));
}

#[test]
fn a_release_stays_behind_its_acquire_while_the_connection_is_made() {
    let server = [Server::start()];
    for number in 0..100 {
        // A new manager for each lock, so that pending releases are retried only after the check below.
        let redlock = manager(&server).node_timeout(SOON).build().unwrap();
        let mut request = redlock.lock(format!("key {number}"), TTL).into_future();
        smol::block_on(async { drop(poll_once(&mut request).await) });
        drop(request);
    }
    thread::sleep(Duration::from_millis(300));
    assert_eq!(server[0].command::<usize>(&["DBSIZE"]), 0);
}

#[test]
fn a_lock_that_is_dropped_on_another_thread_is_released() {
    let servers = Server::start_some(3);
    let redlock = manager(&servers).build().unwrap();
    for kept_alive in [false, true] {
        let lock = smol::block_on(redlock.lock("a", TTL).into_future()).unwrap();
        assert!(soon(|| servers.iter().all(|server| server.get("a").is_some())));
        let held: Box<dyn Send> = if kept_alive { Box::new(lock.keep_alive()) } else { Box::new(lock) };
        thread::spawn(move || drop(held)).join().unwrap();
        assert!(soon(|| everywhere(&servers, "a", None)), "kept alive: {kept_alive}");
    }
}

#[test]
fn a_node_keeps_working_under_smol_when_the_tokio_runtime_that_it_connected_on_is_gone() {
    let server = Server::start();
    let node: std::sync::Arc<dyn LockBackend> =
        std::sync::Arc::new(RedisBackend::open(server.url()).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let redlock = Redlock::builder(TokioRuntime::current()).node(node.clone()).build().unwrap();
        redlock.lock("a", TTL).await.unwrap().unlock().await.unwrap();
    });
    drop(runtime);
    let redlock = Redlock::builder(SmolRuntime::new()).node(node).build().unwrap();
    let lock = smol::block_on(redlock.try_lock("a", TTL).into_future()).expect("the very first request");
    assert_eq!(smol::block_on(lock.unlock()).unwrap(), UnlockOutcome::Released);
}
