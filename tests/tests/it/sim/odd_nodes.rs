//! In-memory nodes behind a wrapper that delays, repeats or refuses requests.

use std::time::{Duration, Instant};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, LockBackend, MemoryBackend, Release,
    ReleaseReply, Runtime, async_trait,
};
use redlock_tests::{
    harness::{ms, s},
    sim_runtime::SimRuntime,
};

/// A node behind a client library that has sent every request twice.
#[derive(Debug)]
pub(crate) struct Resending(pub(crate) MemoryBackend);

#[async_trait]
impl LockBackend for Resending {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.0.acquire(request).await?;
        self.0.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.0.extend(request).await?;
        self.0.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.0.release(request).await
    }
}

/// A node that an acquire reaches after `delay`, and every other request after 2 ms.
#[derive(Debug)]
pub(crate) struct Far {
    pub(crate) node: MemoryBackend,
    pub(crate) delay: Duration,
    pub(crate) runtime: SimRuntime,
}

#[async_trait]
impl LockBackend for Far {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.runtime.sleep(self.delay).await;
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.runtime.sleep(ms(2)).await;
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.runtime.sleep(ms(2)).await;
        self.node.release(request).await
    }
}

/// A node whose releases take another path: they arrive a second late, whatever has happened since.
#[derive(Debug)]
pub(crate) struct LateReleases {
    pub(crate) node: MemoryBackend,
    pub(crate) runtime: SimRuntime,
}

#[async_trait]
impl LockBackend for LateReleases {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let (node, runtime) = (self.node.clone(), self.runtime.clone());
        let (resources, token, timeout) = (request.resources.clone(), request.token.clone(), request.timeout);
        self.runtime.spawn(Box::pin(async move {
            runtime.sleep(s(1)).await;
            // Nobody waits for the reply any more.
            let _ = node.release(Release::new(&resources, &token, timeout)).await;
        }));
        self.runtime.sleep(request.timeout).await;
        Err(BackendError::timed_out(request.timeout))
    }
}

/// A node that is stopped until `end`, and then runs the acquires that it received meanwhile, but not the
/// releases.
#[derive(Debug)]
pub(crate) struct Buffered {
    pub(crate) node: MemoryBackend,
    pub(crate) runtime: SimRuntime,
    pub(crate) end: Instant,
}

#[async_trait]
impl LockBackend for Buffered {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let left = self.end.saturating_duration_since(self.runtime.now());
        if left.is_zero() {
            return self.node.acquire(request).await;
        }
        let (node, runtime) = (self.node.clone(), self.runtime.clone());
        let (resources, token, ttl) = (request.resources.clone(), request.token.clone(), request.ttl);
        self.runtime.spawn(Box::pin(async move {
            runtime.sleep(left).await;
            // Nobody waits for the reply any more.
            let _ = node.acquire(Acquire::new(&resources, &token, ttl, ttl)).await;
        }));
        self.runtime.sleep(request.timeout).await;
        Err(BackendError::timed_out(request.timeout))
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        if self.runtime.now() >= self.end {
            return self.node.release(request).await;
        }
        self.runtime.sleep(request.timeout).await;
        Err(BackendError::timed_out(request.timeout))
    }
}

/// A node whose acquires take 10 ms if the key is free. Its releases take another, faster path, but their
/// replies a slower one.
#[derive(Debug)]
pub(crate) struct Overtaking {
    pub(crate) node: MemoryBackend,
    pub(crate) runtime: SimRuntime,
    pub(crate) answer_delay: Duration,
}

#[async_trait]
impl LockBackend for Overtaking {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        if self.node.get(&request.resources.as_slice()[0]).is_none() {
            self.runtime.sleep(ms(10)).await;
        }
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let reply = self.node.release(request).await;
        self.runtime.sleep(self.answer_delay).await;
        reply
    }
}

/// A node that does not release the resource "stubborn".
#[derive(Debug)]
pub(crate) struct Stubborn(pub(crate) MemoryBackend);

#[async_trait]
impl LockBackend for Stubborn {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.0.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.0.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        if request.resources.iter().any(|name| name == "stubborn") {
            return Err(BackendError::new(BackendErrorKind::Transient, "no"));
        }
        self.0.release(request).await
    }
}
