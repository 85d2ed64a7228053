//! A history in which a raise meets a counter that is higher: what is special is that the holder's keys
//! vanish one after the other, between the requests of another client.

use std::{
    future::IntoFuture,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, BackendError, Extend, FencedReply, Lock, LockBackend, LockRequest,
    Raise, Redlock, Release, ReleaseReply,
};
use tokio::sync::watch;

use super::{Broken, Judge, Skew, Skewed, TokioRuntime, Violation, scripts::Scripts};
use crate::{
    adapter::Adapter,
    server::{Server, eventually},
};

/// Tells the history to three clients on three real servers, and returns what is wrong with their tokens.
///
/// 1. The first client gets the lock, with the token 1.
/// 2. Its key vanishes from the first server, where the second client gets it: the counter is 2 there.
/// 3. That key vanishes, too. The first client extends, and puts its key back: the counter is 3 there.
/// 4. Its key vanishes from the second server, where the second client gets it: the counter is 2 there. So
///    the second client has the lock, too, with the token 2.
/// 5. The first client extends again, with its token 1. **Its raise meets the 3** on the first server.
/// 6. Both release. The third client gets the lock from the first and the third server.
///
/// # Panics
///
/// When the history takes another course.
pub async fn late_raise(adapter: Adapter, broken: Option<Broken>) -> Vec<Violation> {
    let servers = Server::start_some(3);
    let judge = Judge::default();
    let mut clients = Vec::new();
    for number in 0..3 {
        clients.push(Client::new(number, adapter, &servers, broken).await);
    }
    let [one, two, three] = &clients[..] else { panic!("three clients") };

    let begun = judge.begin(RESOURCE);
    let mut first = one.request().await.expect("nobody has it");
    one.won(&judge, begun, &first);
    let token = Some(first.token().as_str().to_owned());
    // What comes late would change the history.
    assert!(eventually(TTL, || servers.iter().all(|server| server.get(RESOURCE[0]) == token)).await);
    servers[0].command::<()>(&["DEL", RESOURCE[0]]);
    two.gates[1].close();
    let begun = judge.begin(RESOURCE);
    let second = tokio::spawn(two.request().into_future());
    assert!(eventually(TTL, || servers[0].get(RESOURCE[0]).is_some()).await);

    servers[0].command::<()>(&["DEL", RESOURCE[0]]);
    first.extend(TTL).await.expect("two servers have its keys");
    assert!(eventually(TTL, || servers[0].get(RESOURCE[0]) == token && one.has_all_replies()).await);

    servers[1].command::<()>(&["DEL", RESOURCE[0]]);
    two.gates[1].open();
    let second = second.await.expect("no panic").expect("two servers have granted it");
    two.won(&judge, begun, &second);

    first.extend(TTL).await.expect("two servers have its keys");
    drop((first.unlock().await, second.unlock().await));
    let free = || servers.iter().all(|server| server.get(RESOURCE[0]).is_none());
    assert!(eventually(TTL, || free() && one.has_all_replies() && two.has_all_replies()).await);
    three.gates[1].close();
    let begun = judge.begin(RESOURCE);
    let third = three.request().await.expect("nobody has it");
    three.won(&judge, begun, &third);
    judge.verdict().2
}

struct Client {
    number: usize,
    redlock: Redlock,
    gates: Vec<Arc<Gate>>,
}

impl Client {
    async fn new(number: usize, adapter: Adapter, servers: &[Server], broken: Option<Broken>) -> Self {
        let mut gates = Vec::new();
        for server in servers {
            let node = Scripts::new(adapter.open(&server.url()), server, broken).await;
            gates.push(Arc::new(Gate { node, closed: watch::Sender::new(false), under_way: Arc::default() }));
        }
        // Without proposals, the tokens are small.
        let runtime = Skewed { runtime: TokioRuntime::current(), by: Skew::Unset };
        let redlock = Redlock::builder(runtime).nodes(gates.clone()).fenced().node_timeout(TTL / 2);
        Self { number, redlock: redlock.build().expect("valid settings"), gates }
    }

    fn request(&self) -> LockRequest {
        self.redlock.try_lock(RESOURCE, TTL)
    }

    fn won(&self, judge: &Judge, begun: u64, lock: &Lock) {
        let fence = lock.fence().expect("a fenced lock").get();
        judge.complete(self.number, RESOURCE, begun, fence, Instant::now());
    }

    fn has_all_replies(&self) -> bool {
        self.gates.iter().all(|gate| Arc::strong_count(&gate.under_way) == 1)
    }
}

/// A node that acquires nothing while the gate is closed.
#[derive(Debug)]
struct Gate {
    node: Scripts,
    closed: watch::Sender<bool>,
    /// Each request has a clone while it lasts.
    under_way: Arc<()>,
}

impl Gate {
    fn close(&self) {
        self.closed.send_replace(true);
    }

    fn open(&self) {
        self.closed.send_replace(false);
    }
}

#[async_trait]
impl LockBackend for Gate {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let _under_way = self.under_way.clone();
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        let _under_way = self.under_way.clone();
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let _under_way = self.under_way.clone();
        self.node.release(request).await
    }

    fn can_fence(&self) -> bool {
        self.node.can_fence()
    }

    async fn acquire_fenced(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        let _under_way = self.under_way.clone();
        // Fails only without a sender.
        let _ = self.closed.subscribe().wait_for(|closed| !closed).await;
        self.node.acquire_fenced(request).await
    }

    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        let _under_way = self.under_way.clone();
        self.node.raise(request).await
    }
}

const RESOURCE: &[&str] = &["x"];
const TTL: Duration = Duration::from_secs(60);
