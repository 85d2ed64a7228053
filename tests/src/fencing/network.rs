//! The way to a server: requests and replies are lost, late or sent twice.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rand::{RngExt, rngs::ChaCha8Rng};
use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, BackendError, BackendErrorKind, Extend, FencedReply, LockBackend,
    Raise, Release, ReleaseReply, ServerInfo,
};

use super::{World, scripts::Scripts};

/// What a network has done to requests.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests that were not sent.
    pub lost_requests: AtomicU64,
    /// Requests that were sent late.
    pub late_requests: AtomicU64,
    /// Replies that were dropped.
    pub lost_replies: AtomicU64,
    /// Replies that were late.
    pub late_replies: AtomicU64,
    /// Requests that were sent once more, later.
    pub repeats: AtomicU64,
    /// Requests for a second trip: to raise counters.
    pub raises: AtomicU64,
}

impl Counts {
    pub(super) fn copy(&self) -> Self {
        let copy = |count: &AtomicU64| AtomicU64::new(count.load(Ordering::Relaxed));
        Self {
            lost_requests: copy(&self.lost_requests),
            late_requests: copy(&self.late_requests),
            lost_replies: copy(&self.lost_replies),
            late_replies: copy(&self.late_replies),
            repeats: copy(&self.repeats),
            raises: copy(&self.raises),
        }
    }
}

/// A client's way to a server.
#[derive(Debug)]
pub(super) struct Wire {
    node: Arc<Scripts>,
    world: Arc<World>,
    rng: Mutex<ChaCha8Rng>,
}

/// What happens to a request.
struct Fate {
    request_is_lost: bool,
    request_is_late_by: Duration,
    reply_is_lost: bool,
    reply_is_late_by: Duration,
    repeated_after: Option<Duration>,
}

impl Wire {
    pub(super) fn new(node: Scripts, world: &Arc<World>, rng: ChaCha8Rng) -> Arc<Self> {
        Arc::new(Self { node: Arc::new(node), world: world.clone(), rng: Mutex::new(rng) })
    }

    fn fate(&self) -> Fate {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let mut late =
            || Duration::from_micros(if rng.random_bool(0.25) { rng.random_range(0..5_000) } else { 0 });
        let (request_is_late_by, reply_is_late_by) = (late(), late());
        let repeated = rng.random_bool(0.05).then(|| rng.random_range(0..50_000));
        Fate {
            request_is_lost: rng.random_bool(0.05),
            request_is_late_by,
            reply_is_lost: rng.random_bool(0.05),
            reply_is_late_by,
            repeated_after: repeated.map(Duration::from_micros),
        }
    }

    /// What the client sees of a request, which `repeat` sends once more. A release may overtake its acquire
    /// here.
    async fn pass<T>(
        &self,
        request: impl Future<Output = Result<T, BackendError>> + Send,
        repeat: impl FnOnce(Duration) + Send,
    ) -> Result<T, BackendError> {
        let (fate, counts) = (self.fate(), &self.world.counts);
        if let Some(after) = fate.repeated_after {
            repeat(after);
        }
        if fate.request_is_lost {
            counts.lost_requests.fetch_add(1, Ordering::Relaxed);
            return Err(lost());
        }
        if !fate.request_is_late_by.is_zero() {
            counts.late_requests.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(fate.request_is_late_by).await;
        }
        let reply = request.await;
        if !fate.reply_is_late_by.is_zero() {
            counts.late_replies.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(fate.reply_is_late_by).await;
        }
        if fate.reply_is_lost {
            counts.lost_replies.fetch_add(1, Ordering::Relaxed);
            return Err(lost());
        }
        reply
    }
}

#[async_trait]
impl LockBackend for Wire {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.pass(self.node.acquire(request), |_| ()).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.pass(self.node.extend(request), |_| ()).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.pass(self.node.release(request), |_| ()).await
    }

    fn can_fence(&self) -> bool {
        self.node.can_fence()
    }

    async fn acquire_fenced(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        let repeat = |after| {
            self.world.counts.repeats.fetch_add(1, Ordering::Relaxed);
            let (node, ttl, proposal) = (self.node.clone(), request.ttl, request.proposal);
            let (resources, token) = (request.resources.clone(), request.token.clone());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let acquire = Acquire::new(&resources, &token, ttl, SOON);
                let _ = node.acquire_fenced(AcquireFenced::new(acquire, proposal, None)).await;
            });
        };
        // An error of the scripts shows in the client's own requests.
        let repeat = |after| {
            if self.node.is_right() {
                repeat(after)
            }
        };
        self.pass(self.node.acquire_fenced(request), repeat).await
    }

    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        if request.ttl.is_none() {
            self.world.counts.raises.fetch_add(1, Ordering::Relaxed);
        }
        let repeat = |after| {
            self.world.counts.repeats.fetch_add(1, Ordering::Relaxed);
            let (node, fence) = (self.node.clone(), request.fence);
            let (resources, token) = (request.resources.clone(), request.token.clone());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let _ = node.raise(Raise::new(&resources, &token, fence, None, SOON)).await;
            });
        };
        let repeat = |after| {
            if self.node.is_right() {
                repeat(after)
            }
        };
        self.pass(self.node.raise(request), repeat).await
    }

    fn name(&self) -> Option<&str> {
        self.node.name()
    }

    fn timed_out(&self, timeout: Duration) -> BackendError {
        self.node.timed_out(timeout)
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        self.node.server()
    }

    fn uptime(&self) -> Result<Duration, BackendError> {
        self.node.uptime()
    }
}

fn lost() -> BackendError {
    BackendError::new(BackendErrorKind::Indeterminate, "lost on purpose")
}

const SOON: Duration = Duration::from_secs(1);
