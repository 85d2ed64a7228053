//! Locks on real servers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use redlock_core::{Error, LockParts, MAX_TTL, Redlock, UnlockOutcome};
use redlock_tests::{
    adapter::Adapter,
    server::{Monitor, Server, eventually, everywhere},
};
use rstest::rstest;

/// So long that no key expires during a test, and that the node timeout, a twentieth of it, never ends a
/// request.
const TTL: Duration = Duration::from_secs(60);
/// For work in the background.
const SOON: Duration = Duration::from_secs(10);
const OTHER: &str = "00112233445566778899aabbccddeeff";
/// The script with which another implementation releases its lock.
const COMPARE_AND_DELETE: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_to_five_nodes_are_locked_extended_and_unlocked(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    for nodes in 1..=5 {
        let servers = Server::start_some(nodes);
        let ours = adapter.manager(&servers).build().unwrap();
        let theirs = adapter.manager(&servers).build().unwrap();

        let mut lock = ours.lock("a", TTL).await.unwrap();
        let token = lock.token().as_str().to_owned();
        assert_eq!((lock.attempts(), lock.replies().len()), (1, nodes));
        assert!(lock.is_valid() && lock.remaining() < TTL);
        assert!(eventually(SOON, || everywhere(&servers, "a", Some(&token))).await, "{nodes} nodes");

        assert!(theirs.try_lock("a", TTL).await.is_err(), "{nodes} nodes");
        assert!(everywhere(&servers, "a", Some(&token)), "{nodes} nodes");

        lock.extend(2 * TTL).await.unwrap();
        assert!(lock.remaining() > TTL);
        assert!(
            eventually(SOON, || servers.iter().all(|server| server.ttl("a") > Some(TTL))).await,
            "{nodes} nodes"
        );

        lock.extend(TTL).await.unwrap();
        assert!(servers.iter().all(|server| server.ttl("a") > Some(TTL)), "{nodes} nodes: made shorter");

        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released, "{nodes} nodes");
        assert!(eventually(SOON, || everywhere(&servers, "a", None)).await, "{nodes} nodes");
        let lock = theirs.try_lock("a", TTL).await.unwrap();
        assert_eq!(theirs.unlock(lock).await.unwrap(), UnlockOutcome::Released);
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_held_on_healthy_nodes_is_contended_however_many_they_are(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    for nodes in 1..=5 {
        let servers = Server::start_some(nodes);
        let redlock = adapter.manager(&servers).build().unwrap();
        for server in &servers {
            server.command::<()>(&["SET", "a", OTHER, "NX", "PX", "60000"]);
        }
        for _ in 0..10 {
            let refused = redlock.try_lock("a", TTL).await.unwrap_err();
            assert!(matches!(refused, Error::Contended(_)), "{nodes} nodes: {refused}");
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_resources_are_locked_all_or_not_at_all(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let ours = adapter.manager(&servers).build().unwrap();
    let theirs = adapter.manager(&servers).build().unwrap();

    let lock = ours.lock(["a", "b"], TTL).await.unwrap();
    let token = lock.token().as_str();
    for name in ["a", "b"] {
        assert!(eventually(SOON, || everywhere(&servers, name, Some(token))).await, "{name}");
    }
    let sets = || servers.iter().map(|server| server.calls("set")).collect::<Vec<_>>();
    let before = sets();
    for overlapping in [["b", "c"], ["c", "a"]] {
        let refused = theirs.try_lock(overlapping, TTL).await.unwrap_err();
        assert!(matches!(refused, Error::Contended(_)), "{refused}");
        assert!(everywhere(&servers, "c", None), "{overlapping:?}");
    }
    assert_eq!(sets(), before, "written, and removed again");
    let beside = theirs.try_lock(["c", "d"], TTL).await.unwrap();

    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    for name in ["a", "b"] {
        assert!(eventually(SOON, || everywhere(&servers, name, None)).await, "{name}");
    }
    let again = theirs.try_lock(["b", "a"], TTL).await.unwrap();
    assert_eq!(again.unlock().await.unwrap(), UnlockOutcome::Released);
    assert_eq!(beside.unlock().await.unwrap(), UnlockOutcome::Released);
}

/// The commands that all nodes run between two marks. A request before a mark comes before it on every
/// connection.
struct Recording {
    redlock: Redlock,
    monitors: Vec<Monitor>,
    marks: u32,
}

impl Recording {
    async fn start(redlock: &Redlock, servers: &[Server]) -> Self {
        // The connections are made first, because that takes commands, too.
        redlock.lock("warm up", TTL).await.expect("healthy nodes").forget();
        assert!(eventually(SOON, || servers.iter().all(|server| server.get("warm up").is_some())).await);
        // And the node learns from a release, too, what the server has.
        let lock = redlock.lock("released", TTL).await.expect("healthy nodes");
        assert!(eventually(SOON, || servers.iter().all(|server| server.get("released").is_some())).await);
        lock.unlock().await.expect("healthy nodes");
        assert!(eventually(SOON, || everywhere(servers, "released", None)).await);
        let monitors = servers.iter().map(Server::monitor).collect();
        Self { redlock: redlock.clone(), monitors, marks: 0 }
    }

    /// The commands since the last call, by node. A `PING` does not count: the redis-rs adapter checks with one
    /// whether a connection has ended, and now and then sends it before it is cancelled.
    async fn commands(&mut self) -> Vec<Vec<String>> {
        self.marks += 1;
        let mark = format!("mark {}.", self.marks);
        self.redlock.lock(&mark, TTL).await.expect("healthy nodes").forget();
        let mut received: Vec<_> = self.monitors.iter_mut().map(|monitor| monitor.until(&mark)).collect();
        received.iter_mut().for_each(|commands| commands.retain(|name| name != "PING"));
        received
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locking_extending_and_unlocking_are_one_command_each_on_every_node(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let [acquire, release] = servers[0].forms();
    let redlock = adapter.manager(&servers).build().unwrap();
    let mut recording = Recording::start(&redlock, &servers).await;
    recording.commands().await;

    let mut lock = redlock.lock(["a", "b"], TTL).await.unwrap();
    assert_eq!(recording.commands().await, [["EVAL"]; 3]);
    lock.extend(TTL).await.unwrap();
    assert_eq!(recording.commands().await, [["EVAL"]; 3]);
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert_eq!(recording.commands().await, [["EVAL"]; 3]);
    let mut lock = redlock.lock("c", TTL).await.unwrap();
    assert_eq!(recording.commands().await, [[acquire]; 3]);
    lock.extend(TTL).await.unwrap();
    assert_eq!(recording.commands().await, [["EVAL"]; 3]);
    drop(lock);
    assert!(eventually(SOON, || everywhere(&servers, "c", None)).await);
    let requests = |names: &Vec<String>| names.iter().filter(|name| **name == release).count();
    assert_eq!(recording.commands().await.iter().map(requests).collect::<Vec<_>>(), [1; 3]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlocking_a_lock_that_is_gone_reports_it_after_one_command_on_every_node(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let [_, release] = servers[0].forms();
    let redlock = adapter.manager(&servers).build().unwrap();
    let mut recording = Recording::start(&redlock, &servers).await;

    let lock = redlock.lock("a", TTL).await.unwrap();
    for server in &servers {
        assert!(eventually(SOON, || server.get("a").is_some()).await);
        server.command::<()>(&["DEL", "a"]);
    }
    recording.commands().await;
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld);
    assert_eq!(recording.commands().await, [[release]; 3]);
    assert_eq!(recording.commands().await, [[""; 0]; 3], "nothing in the background either");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_another_implementation_put_on_a_quorum_is_respected(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    for server in &servers[1..] {
        assert!(server.command::<bool>(&["SET", "a", OTHER, "NX", "PX", "60000"]));
    }
    let refused = redlock.lock("a", TTL).retry_count(1).await.unwrap_err();
    // A third one was seen under load, probably after a report of the release of our own key.
    assert!(matches!(&refused, Error::Contended(report) if (2..=3).contains(&report.attempts)), "{refused}");
    assert!(
        eventually(SOON, || everywhere(&servers[..1], "a", None)).await,
        "our key on the free node stays"
    );
    assert!(everywhere(&servers[1..], "a", Some(OTHER)));
    assert!(servers[1..].iter().all(|server| server.ttl("a").unwrap() <= TTL));

    for server in &servers[1..] {
        assert_eq!(server.command::<u32>(&["EVAL", COMPARE_AND_DELETE, "1", "a", OTHER]), 1);
    }
    assert_eq!(redlock.try_lock("a", TTL).await.unwrap().unlock().await.unwrap(), UnlockOutcome::Released);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_implementations_see_a_lock_as_they_see_their_own(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    let mut lock = redlock.lock("a", TTL).await.unwrap();
    let token = lock.token().as_str().to_owned();
    assert_eq!(token.len(), 40);
    assert!(token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
    for server in &servers {
        assert!(eventually(SOON, || server.get("a").as_ref() == Some(&token)).await);
        assert!(server.ttl("a").unwrap() <= TTL && server.ttl("a") > Some(TTL / 2));
        assert!(!server.command::<bool>(&["SET", "a", OTHER, "NX", "PX", "60000"]));
        assert_eq!(server.command::<u32>(&["EVAL", COMPARE_AND_DELETE, "1", "a", OTHER]), 0);
    }
    assert!(everywhere(&servers, "a", Some(&token)));

    for server in &servers {
        assert_eq!(server.command::<u32>(&["EVAL", COMPARE_AND_DELETE, "1", "a", &token]), 1);
    }
    let lost = lock.extend(TTL).await.unwrap_err();
    assert!(matches!(lost, Error::Lost(_)), "{lost}");
    assert!(!lock.is_valid());
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld);
    assert!(everywhere(&servers, "a", None));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_release_of_a_lock_leaves_the_next_holders_key_alone(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let short = Duration::from_secs(1);
    let ours = adapter.manager(&servers).node_timeout(TTL).build().unwrap();
    let theirs = adapter.manager(&servers).build().unwrap();

    let mut lapsed = ours.lock("a", short).await.unwrap();
    let next = theirs.lock("a", TTL).retry_forever().retry_delay(Duration::from_millis(50)).await.unwrap();
    let token = next.token().as_str();
    assert!(!lapsed.is_valid(), "two valid locks");
    assert!(matches!(lapsed.extend(short).await, Err(Error::Lost(_))));
    assert_eq!(lapsed.unlock().await.unwrap(), UnlockOutcome::NotHeld);

    ours.lock("behind the release", TTL).await.unwrap().forget();
    assert!(
        eventually(SOON, || servers.iter().all(|server| server.get("behind the release").is_some())).await
    );
    assert!(servers.iter().filter(|server| server.get("a").as_deref() == Some(token)).count() >= 2);
    assert_eq!(next.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn using_extends_the_lock_over_several_ttls_and_passes_the_result_through(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let short = Duration::from_secs(1);
    let redlock = adapter.manager(&servers).node_timeout(TTL).build().unwrap();
    let theirs = adapter.manager(&servers).build().unwrap();

    let start = Instant::now();
    let used = redlock.using("a", short, |lease| {
        let (servers, theirs) = (&servers, &theirs);
        async move {
            let mut token = None;
            while start.elapsed() < 5 * short / 2 {
                tokio::time::sleep(short / 5).await;
                assert!(matches!(theirs.try_lock("a", TTL).await, Err(Error::Contended(_))));
                // Not at once, because at first only a quorum of the servers is sure to have it.
                token = token.or_else(|| servers[0].get("a"));
            }
            assert!(lease.is_valid());
            assert!(token.is_some() && everywhere(servers, "a", token.as_deref()));
            "result"
        }
    });
    assert_eq!(used.await.unwrap(), "result");
    assert!(eventually(SOON, || everywhere(&servers, "a", None)).await);
    let extensions = servers[0].calls("pexpire");
    assert!((4..=10).contains(&extensions), "{extensions} extensions in 2.5 s, one in 0.33 to 0.5 s wanted");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_can_be_handed_to_another_process(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let servers = Server::start_some(3);
    let ours = adapter.manager(&servers).build().unwrap();
    let theirs = adapter.manager(&servers).build().unwrap();

    let lock = ours.lock(["a", "b"], TTL).await.unwrap();
    assert!(eventually(SOON, || everywhere(&servers, "b", Some(lock.token().as_str()))).await);
    let parts = lock.into_parts();
    let letter = serde_json::to_string(&parts).unwrap();
    let received: LockParts = serde_json::from_str(&letter).unwrap();
    assert_eq!(received, parts);
    assert!(matches!(ours.try_lock("b", TTL).await, Err(Error::Contended(_))), "it was not released");

    let mut lock = theirs.from_parts(&received).await.unwrap();
    assert_ne!(lock.token(), &parts.token);
    let again = ours.from_parts(&received).await.unwrap_err();
    assert!(matches!(again, Error::Lost(_)), "parts are taken once: {again}");
    lock.extend(2 * TTL).await.unwrap();
    assert!(eventually(SOON, || servers.iter().all(|server| server.ttl("b") > Some(TTL))).await);
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    for name in ["a", "b"] {
        assert!(eventually(SOON, || everywhere(&servers, name, None)).await);
    }
    let gone = ours.from_parts(&received).await.unwrap_err();
    assert!(matches!(gone, Error::Lost(_)), "{gone}");
    assert!(everywhere(&servers, "a", None), "what is gone is not put back");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_name_is_the_key_byte_for_byte(#[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    let long = "k".repeat(1024);
    let names = [
        " two  words ",
        "Zoë's 🔒 ключ",
        "nul\0byte",
        "\r\n*1\r\n$8\r\nFLUSHALL\r\n",
        "{a}:b",
        "\"'\\",
        &long,
    ];
    let lock = redlock.lock(&names[..], TTL).await.unwrap();
    let token = lock.token().as_str();
    for name in names {
        assert!(eventually(SOON, || everywhere(&servers, name, Some(token))).await, "{name:?}");
        assert!(matches!(redlock.try_lock(name, TTL).await, Err(Error::Contended(_))), "{name:?}");
    }
    assert_eq!(servers[0].command::<usize>(&["DBSIZE"]), names.len());
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(
        eventually(SOON, || servers.iter().all(|server| server.command::<usize>(&["DBSIZE"]) == 0)).await
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_years_and_a_blink_are_ttls(#[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter) {
    let servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    let mut lock = redlock.lock("long", MAX_TTL).await.unwrap();
    assert!(eventually(SOON, || servers.iter().all(|server| server.get("long").is_some())).await);
    lock.extend(MAX_TTL).await.unwrap();
    assert!(eventually(SOON, || servers.iter().all(|server| server.ttl("long") > Some(MAX_TTL - TTL))).await);
    assert!(lock.remaining() > MAX_TTL / 2);
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(eventually(SOON, || everywhere(&servers, "long", None)).await);

    let blink = Duration::from_millis(50);
    let lock = redlock.lock("short", blink).retry_forever().await.unwrap();
    assert!(lock.remaining() < blink);
    lock.forget();
    assert!(eventually(SOON, || everywhere(&servers, "short", None)).await);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contending_tasks_lose_no_update(#[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter) {
    const ADDS: u32 = 3;
    let servers = Server::start_some(3);
    let managers = [adapter.manager(&servers).build().unwrap(), adapter.manager(&servers).build().unwrap()];
    let total = Arc::new(AtomicU32::new(0));
    let inside = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (redlock, total, inside) = (managers[task % 2].clone(), total.clone(), inside.clone());
            tokio::spawn(async move {
                for _ in 0..ADDS {
                    let pause = Duration::from_millis(20);
                    let request = redlock.lock("total", TTL).retry_forever();
                    let lock = request.retry_delay(pause).retry_jitter(pause).await.unwrap();
                    assert!(!inside.swap(true, Ordering::SeqCst), "two are inside");
                    let before = total.load(Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    total.store(before + 1, Ordering::SeqCst);
                    assert!(inside.swap(false, Ordering::SeqCst), "two are inside");
                    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(total.load(Ordering::SeqCst), 16 * ADDS);
    assert!(eventually(SOON, || everywhere(&servers, "total", None)).await);
}
