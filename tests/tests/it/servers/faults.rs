//! Locks on real servers that are killed, stopped, restarted or emptied.

use std::{
    thread,
    time::{Duration, Instant},
};

use redlock_core::{Error, NodeOutcome, Redlock, UnlockOutcome};
use redlock_tests::{
    adapter::Adapter,
    server::{Server, eventually, everywhere},
};
use rstest::rstest;

/// So long that no key expires during a test.
const TTL: Duration = Duration::from_secs(60);
/// For work in the background.
const SOON: Duration = Duration::from_secs(10);
/// More than a round of healthy nodes takes on a busy machine, and less than the node timeout.
const QUICK: Duration = Duration::from_millis(1_500);
const NODE_TIMEOUT: Duration = Duration::from_secs(4);
const OTHER: &str = "00112233445566778899aabbccddeeff";

/// Makes the connections, so that a fault meets a manager that is in use.
async fn warm_up(redlock: &Redlock, servers: &[Server]) {
    redlock.lock("warm up", TTL).await.expect("healthy nodes").forget();
    assert!(eventually(SOON, || servers.iter().all(|server| server.get("warm up").is_some())).await);
}

async fn in_quick_time<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    let start = Instant::now();
    let output = future.await;
    assert!(start.elapsed() < QUICK, "{what} took {:?}", start.elapsed());
    output
}

/// Every operation works and is quick, although the servers that are not `healthy` are faulty.
async fn every_step_is_quick(redlock: &Redlock, healthy: &[Server]) {
    let mut lock = in_quick_time("lock", redlock.try_lock("a", TTL)).await.expect("a quorum is healthy");
    in_quick_time("extend", lock.extend(2 * TTL)).await.expect("a quorum is healthy");
    assert!(healthy.iter().all(|server| server.ttl("a") > Some(TTL)));
    assert!(in_quick_time("contend", redlock.try_lock("a", TTL)).await.is_err());
    assert_eq!(
        in_quick_time("unlock", lock.unlock()).await.expect("a quorum is healthy"),
        UnlockOutcome::Released
    );
    assert!(everywhere(healthy, "a", None), "a quorum is all of them");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_does_not_slow_a_round_down(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let mut servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).node_timeout(NODE_TIMEOUT).build().unwrap();
    warm_up(&redlock, &servers).await;
    servers[0].kill();
    every_step_is_quick(&redlock, &servers[1..]).await;
    // And a node that was never up.
    let redlock = adapter.manager(&servers).node_timeout(NODE_TIMEOUT).build().unwrap();
    every_step_is_quick(&redlock, &servers[1..]).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_does_not_slow_a_round_down(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).node_timeout(NODE_TIMEOUT).build().unwrap();
    warm_up(&redlock, &servers).await;
    servers[0].pause();
    every_step_is_quick(&redlock, &servers[1..]).await;
    let redlock = adapter.manager(&servers).node_timeout(NODE_TIMEOUT).build().unwrap();
    every_step_is_quick(&redlock, &servers[1..]).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_and_a_stopped_node_of_five_do_not_slow_a_round_down(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let mut servers = Server::start_some(5);
    let redlock = adapter.manager(&servers).node_timeout(NODE_TIMEOUT).build().unwrap();
    warm_up(&redlock, &servers).await;
    servers[0].kill();
    servers[1].pause();
    every_step_is_quick(&redlock, &servers[2..]).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_held_on_the_healthy_majority_is_contended_although_a_minority_is_dead(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let mut servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).node_timeout(NODE_TIMEOUT).build().unwrap();
    warm_up(&redlock, &servers).await;
    for server in &servers {
        server.command::<()>(&["SET", "a", OTHER, "NX", "PX", "60000"]);
    }
    servers[0].kill();
    for _ in 0..20 {
        let refused = redlock.try_lock("a", TTL).await.unwrap_err();
        assert!(matches!(refused, Error::Contended(_)), "{refused}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_neither_hangs_a_contended_round_nor_keeps_a_stale_key(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let node_timeout = Duration::from_millis(500);
    let redlock = adapter.manager(&servers).node_timeout(node_timeout).build().unwrap();
    warm_up(&redlock, &servers).await;
    servers[1].command::<()>(&["SET", "a", OTHER, "NX", "PX", "60000"]);
    let sets: Vec<u64> = servers.iter().map(|server| server.calls("set")).collect();
    servers[0].pause();

    let refused = in_quick_time("lock", redlock.try_lock("a", TTL)).await.unwrap_err();
    assert!(matches!(refused, Error::Contended(_)), "{refused}");
    assert!(everywhere(&servers[1..2], "a", Some(OTHER)));
    let removed = || servers[2].calls("set") > sets[2] && servers[2].get("a").is_none();
    assert!(eventually(SOON, removed).await, "our key stays on the free node");

    servers[0].resume();
    let removed = || servers[0].calls("set") > sets[0] && servers[0].get("a").is_none();
    assert!(eventually(SOON, removed).await, "the late SET left a stale key");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_after_the_validity_win_no_lock_and_leave_no_keys(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let ttl = Duration::from_millis(300);
    let redlock = adapter.manager(&servers).node_timeout(NODE_TIMEOUT).build().unwrap();
    warm_up(&redlock, &servers).await;
    let sets: Vec<u64> = servers.iter().map(|server| server.calls("set")).collect();
    for server in &servers {
        server.command::<()>(&["CLIENT", "PAUSE", "600", "ALL"]);
    }
    let refused = in_quick_time("lock", redlock.try_lock("a", ttl)).await.unwrap_err();
    assert!(matches!(refused, Error::NoQuorum(_)), "{refused}");
    let removed =
        |(server, before): (&Server, &u64)| server.calls("set") > *before && server.get("a").is_none();
    assert!(eventually(SOON, || servers.iter().zip(&sets).all(removed)).await, "a key stays");
    let expired: Vec<f64> = servers.iter().map(|server| server.info("stats", "expired_keys")).collect();
    assert_eq!(expired, [0.0; 3], "the keys were released");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_nodes_are_down_the_error_names_each_of_them(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let mut servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).node_timeout(NODE_TIMEOUT).retry_delay(Duration::from_millis(50));
    let redlock = redlock.retry_jitter(Duration::ZERO).build().unwrap();
    warm_up(&redlock, &servers).await;
    servers.iter_mut().for_each(Server::kill);

    let failed = in_quick_time("lock", redlock.lock("a", TTL).retry_count(2)).await.unwrap_err();
    let Error::NoQuorum(report) = &failed else { panic!("{failed}") };
    assert_eq!(report.attempts, 3);
    assert!(servers.iter().all(|server| failed.to_string().contains(&server.address())), "{failed}");
    assert!(failed.to_string().contains("Connection refused"), "{failed}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_nodes_are_down_the_error_has_the_reason_of_each_of_them(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let mut servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    servers.iter_mut().for_each(Server::kill);
    for _ in 0..20 {
        let failed = redlock.try_lock("a", TTL).await.unwrap_err();
        for reply in &failed.report().unwrap().replies {
            assert!(matches!(reply.outcome, NodeOutcome::Failed(_)), "{failed}");
            assert!(reply.to_string().contains("Connection refused"), "{failed}");
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_nodes_are_stopped_the_round_ends_with_the_node_timeout(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let node_timeout = Duration::from_millis(300);
    let redlock = adapter.manager(&servers).node_timeout(node_timeout).build().unwrap();
    warm_up(&redlock, &servers).await;
    servers.iter().for_each(Server::pause);
    let failed = in_quick_time("lock", redlock.lock("a", TTL).retry_count(1)).await.unwrap_err();
    assert!(matches!(&failed, Error::NoQuorum(report) if report.attempts == 2), "{failed}");
    assert!(failed.to_string().contains("no answer within 300"), "{failed}");
    servers.iter().for_each(Server::resume);
    let lock = redlock.lock("b", TTL).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(eventually(SOON, || everywhere(&servers, "a", None)).await, "stale keys");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_works_again_by_itself_when_a_majority_is_back(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let mut servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).node_timeout(NODE_TIMEOUT).build().unwrap();
    warm_up(&redlock, &servers).await;
    servers[..2].iter_mut().for_each(Server::kill);
    for _ in 0..3 {
        let failed = redlock.try_lock("a", TTL).await.unwrap_err();
        assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
    }
    servers[..2].iter_mut().for_each(Server::restart);
    let lock = in_quick_time("lock", redlock.lock("a", TTL).retry_count(1)).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(eventually(SOON, || everywhere(&servers, "a", None)).await);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_rewrites_the_key_on_a_node_that_has_lost_it(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let mut servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    let mut lock = redlock.lock(["a", "b"], TTL).await.unwrap();
    let token = lock.token().as_str().to_owned();
    assert!(eventually(SOON, || everywhere(&servers, "a", Some(&token))).await);

    servers[0].command::<()>(&["FLUSHALL"]);
    lock.extend(2 * TTL).await.unwrap();
    for name in ["a", "b"] {
        assert!(eventually(SOON, || everywhere(&servers, name, Some(&token))).await, "flushed");
    }
    assert!(servers[0].ttl("a") > Some(TTL));

    servers[1].restart_empty();
    assert_eq!(servers[1].get("a"), None);
    let mut extensions = 0;
    while servers[1].get("a").is_none() {
        extensions += 1;
        assert!(extensions <= 3, "not put back on the node that restarted");
        lock.extend(2 * TTL).await.unwrap();
        eventually(Duration::from_secs(1), || servers[1].get("a").is_some()).await;
    }
    assert!(everywhere(&servers, "a", Some(&token)) && everywhere(&servers, "b", Some(&token)));
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(eventually(SOON, || everywhere(&servers, "a", None)).await);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_outlives_the_restart_of_durable_nodes(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let mut servers = Server::start_some_with(3, &["--appendonly", "yes", "--appendfsync", "always"]);
    let redlock = adapter.manager(&servers).build().unwrap();
    let mut lock = redlock.lock("a", TTL).await.unwrap();
    let token = lock.token().as_str().to_owned();
    assert!(eventually(SOON, || everywhere(&servers, "a", Some(&token))).await);

    servers.iter_mut().for_each(Server::restart);
    assert!(everywhere(&servers, "a", Some(&token)));
    assert!(servers.iter().all(|server| server.ttl("a").unwrap() <= TTL));
    assert!(matches!(redlock.try_lock("a", TTL).await, Err(Error::Contended(_))));
    lock.extend(2 * TTL).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(eventually(SOON, || everywhere(&servers, "a", None)).await);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_and_data_may_be_flushed_while_a_lock_is_held(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    for (flush, found) in
        [(["SCRIPT", "FLUSH"], UnlockOutcome::Released), (["FLUSHALL", "SYNC"], UnlockOutcome::NotHeld)]
    {
        let lock = redlock.lock("a", TTL).await.unwrap();
        let token = lock.token().as_str().to_owned();
        assert!(eventually(SOON, || everywhere(&servers, "a", Some(&token))).await);
        for server in &servers {
            server.command::<()>(&flush);
        }
        assert_eq!(in_quick_time("unlock", lock.unlock()).await.unwrap(), found, "{flush:?}");
        assert!(eventually(SOON, || everywhere(&servers, "a", None)).await, "{flush:?}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_a_quorum_lost_is_lost_and_its_last_key_stays_until_it_is_unlocked_or_dropped(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    for unlock in [true, false] {
        let mut lock = redlock.lock("a", TTL).await.unwrap();
        let token = lock.token().as_str().to_owned();
        assert!(eventually(SOON, || everywhere(&servers, "a", Some(&token))).await);
        for server in &servers[..2] {
            server.command::<()>(&["DEL", "a"]);
        }
        for _ in 0..2 {
            let lost = lock.extend(TTL).await.unwrap_err();
            assert!(matches!(lost, Error::Lost(_)), "{lost}");
        }
        assert!(!lock.is_valid());
        redlock.lock("behind", TTL).await.unwrap().forget();
        assert!(eventually(SOON, || servers.iter().all(|server| server.get("behind").is_some())).await);
        assert!(everywhere(&servers[..2], "a", None), "rewritten although the lock is lost");
        assert!(everywhere(&servers[2..], "a", Some(&token)), "deleted behind the holder's back");
        if unlock {
            assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld);
        } else {
            drop(lock);
        }
        assert!(eventually(SOON, || everywhere(&servers, "a", None)).await);
        for server in &servers {
            server.command::<()>(&["DEL", "behind"]);
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_dropped_in_mid_round_leaves_no_key(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).node_timeout(TTL).build().unwrap();
    warm_up(&redlock, &servers).await;
    servers[1].command::<()>(&["SET", "a", OTHER, "NX", "PX", "60000"]);
    let sets = servers[0].calls("set");
    servers[0].pause();

    let request = tokio::spawn(redlock.lock("a", TTL).into_future());
    assert!(eventually(SOON, || servers[2].get("a").is_some()).await);
    assert!(!request.is_finished(), "one of three has granted, one is silent");
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());

    assert!(eventually(SOON, || everywhere(&servers[2..], "a", None)).await);
    servers[0].resume();
    let removed = || servers[0].calls("set") > sets && servers[0].get("a").is_none();
    assert!(eventually(SOON, removed).await, "the late SET left a stale key");
    assert!(everywhere(&servers[1..2], "a", Some(OTHER)));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_lock_is_released_in_the_background_from_any_thread(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    for own_thread in [false, true] {
        for kept_alive in [false, true] {
            let lock = redlock.lock("a", TTL).await.unwrap();
            assert!(eventually(SOON, || servers.iter().all(|server| server.get("a").is_some())).await);
            let held: Box<dyn Send> = if kept_alive { Box::new(lock.keep_alive()) } else { Box::new(lock) };
            if own_thread {
                thread::spawn(move || drop(held)).join().expect("no panic without a runtime");
            } else {
                drop(held);
            }
            assert!(eventually(SOON, || everywhere(&servers, "a", None)).await, "{own_thread} {kept_alive}");
        }
    }
}
