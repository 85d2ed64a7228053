//! One node: its requests, and its state.

// Tests: tests/tests/it/sim/panics.rs, sim/errors.rs, sim/limits.rs.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{Either, select},
};

use crate::{
    backend::{
        Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, LockBackend, Release, ReleaseReply,
        Replace,
    },
    claim::Claim,
    cleanup::CleanupQueue,
    settings::Settings,
    telemetry::{Label, NodesTelemetry, Verb},
    token::Token,
    validity::Ttl,
};

#[derive(Debug)]
pub(crate) struct Node {
    backend: Box<dyn LockBackend>,
    /// Its position in the builder.
    pub(crate) position: usize,
    pub(crate) settings: Arc<Settings>,
    pub(crate) telemetry: Arc<NodesTelemetry>,
    pub(crate) cleanup: CleanupQueue,
    /// Whether the last request had no reply, and none has come since.
    silent: AtomicBool,
    replied: AtomicU64,
}

impl Node {
    pub(crate) fn new(
        position: usize,
        backend: Box<dyn LockBackend>,
        settings: Arc<Settings>,
        telemetry: Arc<NodesTelemetry>,
    ) -> Self {
        let (silent, replied) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { backend, position, settings, telemetry, cleanup: CleanupQueue::default(), silent, replied }
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.backend.name()
    }

    pub(crate) fn server_id(&self) -> Option<Arc<str>> {
        self.backend.server_id()
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    pub(crate) async fn acquire(
        &self,
        claim: &Claim,
        ttl: Ttl,
        timeout: Duration,
    ) -> Result<AcquireReply, BackendError> {
        let request = Acquire::new(&claim.resources, &claim.token, ttl.get(), timeout);
        self.ask(Verb::Acquire, timeout, &[&claim.token], async { self.backend.acquire(request).await }).await
    }

    pub(crate) async fn extend(
        &self,
        claim: &Claim,
        ttl: Ttl,
        timeout: Duration,
    ) -> Result<AcquireReply, BackendError> {
        let request = Extend::new(&claim.resources, &claim.token, ttl.get(), timeout);
        self.ask(Verb::Extend, timeout, &[&claim.token], async { self.backend.extend(request).await }).await
    }

    /// Replaces the token of `old` with the claim's.
    pub(crate) async fn replace(
        &self,
        claim: &Claim,
        old: &Claim,
        ttl: Ttl,
        timeout: Duration,
    ) -> Result<AcquireReply, BackendError> {
        let request = Replace::new(&claim.resources, &old.token, &claim.token, ttl.get(), timeout);
        let tokens = [&claim.token, &old.token];
        self.ask(Verb::Replace, timeout, &tokens, async { self.backend.replace(request).await }).await
    }

    pub(crate) async fn release(&self, claim: &Claim) -> Result<ReleaseReply, BackendError> {
        let timeout = self.settings.timeout(claim.ledger.ttl());
        let request = Release::new(&claim.resources, &claim.token, timeout);
        self.ask(Verb::Release, timeout, &[&claim.token], async { self.backend.release(request).await }).await
    }

    /// A request that ignores its timeout is cut off, because a round must end. One that panics has failed,
    /// like one without a reply, because its panic must not end a round halfway. The call of the backend's
    /// method belongs in `request`, too. Every token is redacted, whatever the backend returns; the first of
    /// `tokens` is the holder's.
    async fn ask<T: Label>(
        &self,
        verb: Verb,
        timeout: Duration,
        tokens: &[&Token],
        request: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let runtime = &*self.settings.runtime;
        let logged = self.telemetry.request(runtime, self.position, verb, tokens[0]);
        let before = self.replied.load(Ordering::Relaxed);
        let with_timeout = async {
            match select(pin!(request), runtime.sleep(timeout)).await {
                Either::Left((reply, _)) => reply,
                Either::Right(_) => Err(BackendError::timed_out(timeout)),
            }
        };
        let reply = AssertUnwindSafe(with_timeout)
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(BackendError::panicked(&*panic)))
            .map_err(|error| tokens.iter().fold(error, |error, token| error.redact(token)));
        let mut informative = true;
        if reply.as_ref().is_err_and(|error| error.kind() == BackendErrorKind::Indeterminate) {
            informative = self.settings.is_full(timeout) && self.replied.load(Ordering::Relaxed) == before;
            if informative {
                self.silent.store(true, Ordering::Relaxed);
            }
        } else {
            self.replied.fetch_add(1, Ordering::Relaxed);
            self.silent.store(false, Ordering::Relaxed);
        }
        logged.answered(&reply, informative);
        reply
    }
}
