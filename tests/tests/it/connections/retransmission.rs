//! Lost replies: we do not send a command again, and a client library that does so does no harm.

use std::{
    future::IntoFuture,
    time::{Duration, Instant},
};

use redlock_redis_rs::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, LockBackend, RedisBackend, Redlock, Token,
    TokioRuntime, UnlockOutcome,
    redis::{
        self, Client, RedisResult,
        aio::{ConnectionManager, ConnectionManagerConfig},
        cluster::ClusterClientBuilder,
        cluster_async::ClusterConnection,
    },
};
use redlock_tests::{
    cluster::Cluster,
    proxy::{Proxy, Then},
    server::Server,
};

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
/// A retransmitting cluster client waits longer before each retry, on a slow machine over ten seconds in all.
const PATIENTLY: Duration = Duration::from_secs(40);
/// How long the cluster client waits for a reply before it sends the command again.
const PATIENCE: Duration = Duration::from_millis(400);
const TOKEN: &str = "00112233445566778899aabbccddeeff";

fn manager_of(node: impl LockBackend) -> Redlock {
    Redlock::builder(TokioRuntime::current()).node(node).node_timeout(PATIENTLY).build().unwrap()
}

async fn acquire(node: &(impl LockBackend + ?Sized)) -> Result<AcquireReply, BackendError> {
    let token: Token = TOKEN.parse().unwrap();
    node.acquire(Acquire::new(&"a".into(), &token, TTL, SOON)).await
}

/// A reply is lost with its connection: the command has been sent once, the error is indeterminate, and a
/// later acquire with the same token is granted.
async fn acquire_once(proxies: &[Proxy], node: &(impl LockBackend + ?Sized)) {
    assert_eq!(acquire(node).await.unwrap(), AcquireReply::Granted);
    eat_one(proxies, TOKEN);
    let before = (sent(proxies, TOKEN), eaten(proxies));
    // The reply is held back, so that the connection does not break before we wait for the reply.
    proxies.iter().for_each(Proxy::hold);
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxies.iter().for_each(Proxy::release);
    };
    let failed = tokio::join!(acquire(node), release).0.unwrap_err();
    assert_eq!(failed.kind(), BackendErrorKind::Indeterminate, "{failed}");
    assert_eq!((sent(proxies, TOKEN), eaten(proxies)), (before.0 + 1, before.1 + 1), "{node:?}");
    let start = Instant::now();
    while let Err(error) = acquire(node).await {
        assert!(start.elapsed() < SOON, "{node:?}: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn go_on_asking(mut connection: ClusterConnection) {
    loop {
        let _: RedisResult<Option<String>> =
            redis::cmd("GET").arg("other").query_async(&mut connection).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn sent(proxies: &[Proxy], word: &str) -> usize {
    proxies.iter().map(|proxy| proxy.sent(word)).sum()
}

/// The next reply to a command with this word is lost with its connection.
fn eat_one(proxies: &[Proxy], word: &str) {
    proxies.iter().for_each(|proxy| proxy.eat_replies(word, 1, Then::Cut));
}

fn eaten(proxies: &[Proxy]) -> usize {
    proxies.iter().map(Proxy::eaten).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_retransmitted_by_a_cluster_client_neither_conflicts_with_our_key_nor_extends_it() {
    for retries in [None, Some(3)] {
        let (cluster, proxies) = Cluster::start_behind_proxies(3, &[]);
        let client = ClusterClientBuilder::new(proxies.iter().map(Proxy::url)).response_timeout(PATIENCE);
        let client = client.overall_response_timeout(None);
        let client = match retries {
            None => client,
            Some(retries) => client.retries(retries),
        };
        let connection = client.build().unwrap().get_async_connection().await.unwrap();
        let redlock = manager_of(RedisBackend::new(connection.clone()));
        // The client retransmits with the next command, whichever it is.
        let others = tokio::spawn(go_on_asking(connection));
        redlock.lock("a", TTL).await.unwrap().unlock().await.unwrap();

        // The reply comes too late.
        let before = sent(&proxies, "EVAL");
        let start = Instant::now();
        proxies.iter().for_each(|proxy| proxy.delay_replies(3 * PATIENCE / 2));
        let asked = tokio::spawn(redlock.try_lock("a", TTL).into_future());
        tokio::time::sleep(PATIENCE).await;
        proxies.iter().for_each(|proxy| proxy.delay_replies(Duration::ZERO));
        let lock = asked.await.unwrap().expect("ours, and not taken");
        assert!(start.elapsed() >= PATIENCE, "{:?}", start.elapsed());
        assert!(sent(&proxies, "EVAL") > before + 1, "not sent again");
        assert_eq!(cluster.get("a").as_deref(), Some(lock.token().as_str()));
        let left = cluster.servers[cluster.owner("a")].ttl("a").unwrap();
        assert!(left <= TTL - PATIENCE / 2, "extended by the retransmission: {left:?}");
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);

        // The reply is lost with its connection. The second extension and release find the effect of the
        // first.
        let owner = &proxies[cluster.owner("a")..][..1];
        eat_one(owner, "EVAL");
        let before = sent(owner, "EVAL");
        let mut lock = redlock.try_lock("a", TTL).await.expect("ours, and not taken");
        eat_one(owner, "PEXPIRE");
        lock.extend(2 * TTL).await.expect("ours still");
        eat_one(owner, "DEL");
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld, "the reply to the retransmission");
        assert_eq!((eaten(owner), sent(owner, "EVAL")), (3, before + 6), "each was sent twice");
        assert_eq!(cluster.get("a"), None);
        others.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_reply_is_lost_is_not_retransmitted_to_a_server() {
    let server = Server::start();
    let proxy = Proxy::to(&server);
    let config = ConnectionManagerConfig::new().set_number_of_retries(0);
    let client = Client::open(proxy.url()).unwrap();
    let managed = ConnectionManager::new_lazy_with_config(client, config).unwrap();
    let nodes: [Box<dyn LockBackend>; 2] =
        [Box::new(RedisBackend::open(proxy.url()).unwrap()), Box::new(RedisBackend::new(managed))];
    for node in nodes {
        acquire_once(std::slice::from_ref(&proxy), &*node).await;
        server.command::<()>(&["DEL", "a"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_reply_is_lost_is_not_retransmitted_to_a_cluster() {
    let (_cluster, proxies) = Cluster::start_behind_proxies(3, &[]);
    let node = RedisBackend::open_cluster(proxies.iter().map(Proxy::url)).unwrap();
    acquire_once(&proxies, &node).await;
}
