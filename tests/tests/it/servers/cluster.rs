//! Nodes that are Redis Clusters.

use std::{
    future::IntoFuture,
    time::{Duration, Instant},
};

use redlock_redis_rs::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Error, Extend, Inspect, KeyState, LockBackend,
    RedisBackend, Redlock, Release, ReleaseReply, Resources, SmolRuntime, Token, TokioRuntime, UnlockOutcome,
    redis::cluster::ClusterClientBuilder,
};
use redlock_tests::{adapter::Adapter, cluster::Cluster, server::eventually, sim_runtime::poll_once};

use crate::{cli::process::CommandLine, servers::ordering::use_up_budget};

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
const QUICK: Duration = Duration::from_millis(1_500);
const TOKEN: &str = "00112233445566778899aabbccddeeff";

fn open(cluster: &Cluster) -> RedisBackend {
    RedisBackend::open_cluster(cluster.urls()).unwrap()
}

fn manager_of<B: LockBackend>(node: B) -> Redlock {
    Redlock::builder(TokioRuntime::current()).node(node).node_timeout(SOON).build().unwrap()
}

async fn acquire(
    node: &RedisBackend,
    resources: impl Into<Resources>,
    timeout: Duration,
) -> Result<AcquireReply, BackendError> {
    let token: Token = TOKEN.parse().unwrap();
    node.acquire(Acquire::new(&resources.into(), &token, TTL, timeout)).await
}

async fn release(node: &RedisBackend, resource: &str) -> Result<ReleaseReply, BackendError> {
    let token: Token = TOKEN.parse().unwrap();
    node.release(Release::new(&resource.into(), &token, SOON)).await
}

/// A key whose slot is on the server at `position`.
fn key_on(cluster: &Cluster, position: usize) -> String {
    (0..).map(|number| format!("key {number}")).find(|key| cluster.owner(key) == position).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_clusters_are_three_nodes() {
    let clusters = [(); 3].map(|()| Cluster::start(1, &[]));
    let redlock = Redlock::builder(TokioRuntime::current()).nodes(clusters.iter().map(open)).build().unwrap();
    let mut lock = redlock.lock("a", TTL).await.unwrap();
    let token = Some(lock.token().as_str().to_owned());
    assert!(eventually(SOON, || clusters.iter().all(|cluster| cluster.get("a") == token)).await);
    assert!(matches!(redlock.try_lock("a", TTL).await, Err(Error::Contended(_))));
    lock.extend(2 * TTL).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    assert!(eventually(SOON, || clusters.iter().all(|cluster| cluster.get("a").is_none())).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_every_server_are_locked_extended_inspected_and_released() {
    let cluster = Cluster::start(3, &[]);
    let own = ClusterClientBuilder::new(cluster.urls()).retries(0).response_timeout(SOON).build().unwrap();
    let connection = own.get_async_connection().await.unwrap();
    let one_url = RedisBackend::open_cluster([cluster.servers[2].url()]).unwrap();
    assert_eq!(one_url.name().unwrap(), cluster.servers[2].address());
    assert_eq!(open(&cluster).name().unwrap().split(',').count(), 3);
    every_key_works(&cluster, &open(&cluster)).await;
    every_key_works(&cluster, &one_url).await;
    every_key_works(&cluster, &RedisBackend::from_cluster_client(own)).await;
    every_key_works(&cluster, &RedisBackend::new(connection)).await;
}

async fn every_key_works(cluster: &Cluster, node: &(impl LockBackend + Clone)) {
    let redlock = manager_of(node.clone());
    for number in 0..20 {
        let names = [format!("{{account:{number}}}:balance"), format!("{{account:{number}}}:history")];
        let mut lock = redlock.lock(&names[..], TTL).await.unwrap();
        let token = Some(lock.token().as_str().to_owned());
        assert!(names.iter().all(|name| cluster.get(name) == token), "{names:?}");
        assert!(matches!(redlock.try_lock(&names[0], TTL).await, Err(Error::Contended(_))));
        lock.extend(2 * TTL).await.unwrap();
        let resources = Resources::from(&names[..]);
        let seen = node.inspect(Inspect::new(&resources, SOON)).await.unwrap();
        let long =
            |state: &KeyState| matches!(state, KeyState::Held { remaining: Some(left), .. } if *left > TTL);
        assert!(seen.iter().all(long), "{seen:?}");
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        assert!(names.iter().all(|name| cluster.get(name).is_none()), "{names:?}");
    }
}

#[test]
fn a_cluster_is_a_node_under_smol_too() {
    let cluster = Cluster::start(3, &[]);
    let redlock =
        Redlock::builder(SmolRuntime::new()).node(open(&cluster)).node_timeout(SOON).build().unwrap();
    smol::block_on(async {
        for number in 0..10 {
            let name = format!("key {number}");
            let mut lock = redlock.lock(&name, TTL).await.unwrap();
            assert_eq!(cluster.get(&name).as_deref(), Some(lock.token().as_str()));
            lock.extend(TTL).await.unwrap();
            assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_of_different_slots_are_rejected_with_the_servers_text() {
    let cluster = Cluster::start(3, &[]);
    let names = [key_on(&cluster, 0), key_on(&cluster, 1)];
    let rejected = acquire(&open(&cluster), &names[..], SOON).await.unwrap_err();
    assert_eq!(rejected.kind(), BackendErrorKind::Rejected, "{rejected}");
    assert!(
        rejected.message().starts_with("CROSSSLOT Keys in request don't hash to the same slot"),
        "{rejected}"
    );
    assert!(names.iter().all(|name| cluster.get(name).is_none()));
    let failed = manager_of(open(&cluster)).lock(&names[..], TTL).await.unwrap_err();
    assert!(matches!(&failed, Error::Rejected(report) if report.attempts == 1), "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_costs_a_request_that_writes_nothing_and_is_then_followed() {
    let cluster = Cluster::start(3, &[]);
    let node = open(&cluster);
    let key = key_on(&cluster, 0);
    assert_eq!(acquire(&node, &*key, SOON).await.unwrap(), AcquireReply::Granted);
    assert_eq!(release(&node, &key).await.unwrap(), ReleaseReply::Removed);

    cluster.move_slot(&key, 1);
    assert_eq!(cluster.owner(&key), 1);
    let moved = acquire(&node, &*key, SOON).await.unwrap_err();
    assert_eq!(moved.kind(), BackendErrorKind::Transient, "{moved}");
    assert!(moved.message().starts_with("MOVED"), "{moved}");
    assert_eq!(cluster.get(&key), None);
    assert_eq!(acquire(&node, &*key, SOON).await.unwrap(), AcquireReply::Granted);
    assert_eq!(release(&node, &key).await.unwrap(), ReleaseReply::Removed);

    cluster.move_slot(&key, 2);
    let lock = manager_of(node).lock(&*key, TTL).await.expect("the second round");
    assert_eq!(lock.attempts(), 2);
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_fails_its_own_slots_by_the_timeout_and_comes_back() {
    let mut cluster = Cluster::start(3, &["--cluster-require-full-coverage", "no"]);
    let keys = [key_on(&cluster, 0), key_on(&cluster, 1), key_on(&cluster, 2)];
    let node = open(&cluster);
    for key in &keys {
        assert_eq!(acquire(&node, &**key, SOON).await.unwrap(), AcquireReply::Granted);
    }
    cluster.servers[1].kill();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        let sent = Instant::now();
        let failed = acquire(&node, &*keys[1], Duration::from_secs(1)).await.unwrap_err();
        assert!(sent.elapsed() < 2 * QUICK, "{:?}", sent.elapsed());
        let may_heal = matches!(failed.kind(), BackendErrorKind::Indeterminate | BackendErrorKind::Transient);
        assert!(may_heal, "{failed}");
        for key in [&keys[0], &keys[2]] {
            assert_eq!(
                acquire(&node, &**key, SOON).await.unwrap(),
                AcquireReply::Granted,
                "{:?}",
                start.elapsed()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.servers[1].restart();
    let start = Instant::now();
    while acquire(&node, &*keys[1], SOON).await.is_err() {
        assert!(start.elapsed() < SOON, "not used again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_down_as_a_whole_is_reported_by_the_timeout_and_comes_back() {
    let mut cluster = Cluster::start(3, &[]);
    let (used, unused) = (open(&cluster), open(&cluster));
    assert_eq!(acquire(&used, "a", SOON).await.unwrap(), AcquireReply::Granted);
    // The others reply CLUSTERDOWN once they have noticed.
    let owner = cluster.owner("a");
    cluster.servers[(owner + 1) % 3].kill();
    let start = Instant::now();
    let down = loop {
        match acquire(&used, "a", SOON).await {
            Ok(_) => assert!(start.elapsed() < SOON, "not noticed"),
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(down.kind(), BackendErrorKind::Transient, "{down}");
    assert!(down.message().starts_with("CLUSTERDOWN"), "{down}");

    for server in &mut cluster.servers {
        server.kill();
    }
    for node in [&used, &unused] {
        for _ in 0..5 {
            let sent = Instant::now();
            let down = acquire(node, "a", Duration::from_secs(1)).await.unwrap_err();
            assert_eq!(down.kind(), BackendErrorKind::Indeterminate, "{down}");
            assert!(sent.elapsed() < 2 * QUICK, "{:?}", sent.elapsed());
        }
    }
    for server in &mut cluster.servers {
        server.restart();
    }
    for node in [&used, &unused] {
        let start = Instant::now();
        while let Err(error) = acquire(node, "a", SOON).await {
            assert!(start.elapsed() < SOON, "not used again: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_master_delays_only_its_own_slots_and_leaves_no_stale_keys() {
    let cluster = Cluster::start(3, &["--cluster-require-full-coverage", "no"]);
    let keys = [key_on(&cluster, 0), key_on(&cluster, 1), key_on(&cluster, 2)];
    let node = open(&cluster);
    let redlock =
        Redlock::builder(TokioRuntime::current()).node(node.clone()).node_timeout(QUICK / 5).build().unwrap();
    for key in &keys {
        redlock.lock(&**key, TTL).await.unwrap().unlock().await.unwrap();
    }
    cluster.servers[1].pause();
    for _ in 0..5 {
        let start = Instant::now();
        let failed = redlock.try_lock(&*keys[1], TTL).await.unwrap_err();
        assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
        assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
        for key in [&keys[0], &keys[2]] {
            let start = Instant::now();
            redlock.try_lock(&**key, TTL).await.unwrap().unlock().await.unwrap();
            assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
        }
    }
    cluster.servers[1].resume();
    let start = Instant::now();
    while acquire(&node, "a", SOON).await.is_err() || redlock.try_lock(&*keys[1], TTL).await.is_err() {
        assert!(start.elapsed() < SOON, "not used again");
    }
    assert!(eventually(SOON, || cluster.get(&keys[1]).is_none()).await, "a stale key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_stays_behind_its_acquire_while_the_connection_is_made_and_in_a_task_without_budget() {
    let cluster = Cluster::start(3, &[]);
    let shared = manager_of(open(&cluster));
    shared.lock("warm", TTL).await.unwrap().unlock().await.unwrap();
    for number in 0..100 {
        // New managers, so that pending releases are retried only after the check below.
        let redlock = if number % 2 == 0 { shared.clone() } else { manager_of(open(&cluster)) };
        let task = tokio::spawn(async move {
            let mut request = redlock.lock(format!("key {number}"), TTL).into_future();
            use_up_budget().await;
            drop(poll_once(&mut request).await);
            // Dropped here: the release is sent after the acquire.
        });
        task.await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let left: Vec<Vec<String>> =
        cluster.servers.iter().map(|server| server.command(&["KEYS", "*"])).collect();
    assert!(left.iter().all(Vec::is_empty), "{left:?}");
}

#[test]
fn a_cluster_is_connected_to_again_when_the_runtime_of_its_connection_is_gone() {
    let cluster = Cluster::start(1, &[]);
    let node = open(&cluster);
    for _ in 0..3 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        assert_eq!(
            runtime.block_on(acquire(&node, "a", SOON)).expect("the first request"),
            AcquireReply::Granted
        );
        assert_eq!(runtime.block_on(release(&node, "a")).unwrap(), ReleaseReply::Removed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_masters_of_one_cluster_are_no_nodes_of_their_own() {
    let cluster = Cluster::start(3, &[]);
    for adapter in [Adapter::RedisRs, Adapter::Fred] {
        let redlock = adapter.manager(&cluster.servers).node_timeout(SOON).build().unwrap();
        for (names, code) in [(&["a"][..], "MOVED "), (&["a", "b"], "CROSSSLOT ")] {
            let lock = redlock.lock(names, TTL).retry_forever().into_future();
            let error = tokio::time::timeout(SOON, lock).await.expect("no endless wait").unwrap_err();
            assert!(matches!(error, Error::Rejected(_)), "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("rejected: {code}")), "{adapter:?}: {text}");
            assert!(
                text.contains("a Cluster is one node") && text.contains("cluster"),
                "{adapter:?}: {text}"
            );
            assert!(eventually(SOON, || names.iter().all(|name| cluster.get(name).is_none())).await);
        }
    }
    let ended = CommandLine::new(&cluster.servers, "run --wait 3 a").script("true").finish();
    assert_eq!(ended.code, 78, "{ended:?}");
    assert!(ended.err.contains("a Cluster is one node"), "{ended:?}");
}

#[tokio::test]
async fn urls_that_make_no_cluster_are_refused_at_once() {
    assert!(RedisBackend::open_cluster([""; 0]).is_err());
    assert!(RedisBackend::open_cluster(["nonsense"]).is_err());
    assert!(RedisBackend::open_cluster(["redis://:a@127.0.0.1:1", "redis://:b@127.0.0.1:2"]).is_err());
    let no_cluster = redlock_tests::server::Server::start();
    let node = RedisBackend::open_cluster([no_cluster.url()]).unwrap();
    let failed = acquire(&node, "a", SOON).await.unwrap_err();
    assert!(failed.to_string().contains("cluster support disabled"), "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_of_a_lost_key_is_refused() {
    let cluster = Cluster::start(1, &[]);
    let node = open(&cluster);
    let token: Token = TOKEN.parse().unwrap();
    let refused = node.extend(Extend::new(&"a".into(), &token, TTL, SOON)).await.unwrap();
    assert_eq!(refused, AcquireReply::Refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_wants_other_credentials_rejects_with_the_servers_text() {
    let cluster = Cluster::start(1, &[]);
    cluster.servers[0].command::<()>(&["ACL", "SETUSER", "locker", "on", ">secret", "~*", "+@all"]);
    let url = |user: &str| format!("redis://{user}@{}", cluster.servers[0].address());
    let node = |user: &str| RedisBackend::open_cluster([url(user)]).unwrap();
    assert!(!format!("{:?}", node("locker:secret")).contains("secret"));
    assert_eq!(acquire(&node("locker:secret"), "a", SOON).await.unwrap(), AcquireReply::Granted);
    let wrong = acquire(&node("locker:wrong"), "a", SOON).await.unwrap_err();
    assert_eq!(wrong.kind(), BackendErrorKind::Rejected, "{wrong}");
    let source = std::error::Error::source(&wrong).map(ToString::to_string);
    assert!(source.as_ref().is_some_and(|text| text.contains("WRONGPASS")), "{source:?}");
    // Discovering the slots needs further permissions than the commands of a lock.
    let commands = ["~*", "-@all", "+eval", "+get", "+set", "+del", "+pexpire", "+pttl"];
    cluster.servers[0].command::<()>(&[&["ACL", "SETUSER", "locker"][..], &commands].concat());
    let weak = acquire(&node("locker:secret"), "a", SOON).await.unwrap_err();
    assert_eq!(weak.kind(), BackendErrorKind::Rejected, "{weak}");
    assert!(weak.message().contains("NOPERM"), "{weak}");
    cluster.servers[0].command::<()>(&["ACL", "SETUSER", "locker", "+cluster|slots", "+ping"]);
    assert_eq!(acquire(&node("locker:secret"), "b", SOON).await.unwrap(), AcquireReply::Granted);
}
