//! A network that is cut for twenty seconds: the kernel drops every packet, and no side receives an error.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redlock_core::{Acquire, BackendErrorKind, LockBackend, Redlock, Token};
use redlock_tests::{
    adapter::Adapter,
    netns::Namespace,
    server::{Server, eventually},
};

const CUT: Duration = Duration::from_secs(20);
/// Far longer than the test, so that any key that is left behind is still there at its end.
const TTL: Duration = Duration::from_secs(600);
const TIMEOUT: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(400);
/// How soon a node is used again: the next request makes a new connection.
const SOON: Duration = Duration::from_secs(10);

/// One adapter, during the cut and after it.
struct Client {
    adapter: Adapter,
    redlock: Redlock,
    /// A node of its own, on which nothing is ever released.
    bare: Arc<dyn LockBackend>,
}

impl Client {
    fn new(adapter: Adapter, servers: &[Server]) -> Self {
        let redlock = adapter.manager(servers).node_timeout(TIMEOUT).build().unwrap();
        Self { adapter, redlock, bare: adapter.open(&servers[0].url()) }
    }

    fn name(&self, what: &str) -> String {
        format!("{what}:{:?}", self.adapter)
    }

    async fn acquire(&self, name: &str, token: u32) -> Result<(), BackendErrorKind> {
        let token: Token = format!("{token:032x}").parse().unwrap();
        let acquired = self.bare.acquire(Acquire::new(&name.into(), &token, TTL, TIMEOUT)).await;
        acquired.map(drop).map_err(|error| error.kind())
    }

    /// Makes the connections and uses them.
    async fn warm_up(&self) {
        self.redlock.lock(self.name("warm"), TTL).await.unwrap().unlock().await.unwrap();
        self.acquire(&self.name("bare-before"), 0).await.unwrap();
    }

    /// Until the time is over: locks on the reachable nodes, and sends acquires to the node that is cut off.
    async fn go_on(&self, cut: Duration) -> u32 {
        let start = Instant::now();
        let mut number = 0;
        while start.elapsed() < cut {
            number += 1;
            let lock = self.redlock.try_lock(self.name(&format!("cut-{number}")), TTL).await.unwrap();
            let asked = self.acquire(&self.name(&format!("bare-{number}")), number).await;
            assert_eq!(asked, Err(BackendErrorKind::Indeterminate), "{:?}", self.adapter);
            match number % 3 {
                0 => drop(lock),
                _ => drop(lock.unlock().await.unwrap()),
            }
            tokio::time::sleep(PAUSE).await;
        }
        number
    }

    /// Locks until a lock has its key also on the node that was cut off.
    async fn uses_again(&self, server: &Server) -> bool {
        let start = Instant::now();
        while start.elapsed() < SOON {
            let lock = self.redlock.try_lock(self.name("after"), TTL).await.unwrap();
            let held = || server.get(&self.name("after")).as_deref() == Some(lock.token().as_str());
            let held = eventually(TIMEOUT, held).await;
            lock.unlock().await.unwrap();
            if held {
                return true;
            }
        }
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_made_while_the_network_was_cut_never_take_effect() {
    let namespace = Arc::new(Namespace::new());
    let mut servers = vec![Server::start_in(&namespace)];
    servers.extend(Server::start_some(2));
    let clients = [Adapter::RedisRs, Adapter::Fred].map(|adapter| Client::new(adapter, &servers));
    for client in &clients {
        client.warm_up().await;
    }
    let before = servers[0].command::<Vec<String>>(&["KEYS", "*"]);

    namespace.cut();
    let [one, other] = &clients;
    let (one, other) = tokio::join!(one.go_on(CUT), other.go_on(CUT));
    assert!(one >= 10 && other >= 10, "only {one} and {other} locks");
    namespace.heal();

    for client in &clients {
        assert!(client.uses_again(&servers[0]).await, "{:?} does not use the node again", client.adapter);
    }
    // The kernels retransmit what they still have within two minutes at most, mostly at once. They have
    // nothing of ours.
    let stale_keys = || -> Vec<String> {
        let keys: Vec<String> = servers[0].command(&["KEYS", "*"]);
        keys.into_iter().filter(|key| !before.contains(key)).collect()
    };
    let start = Instant::now();
    while start.elapsed() < SOON {
        assert_eq!(stale_keys(), Vec::<String>::new(), "{:?} after the cut", start.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
}
