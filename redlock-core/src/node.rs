//! One node: its requests, and its state.

// Tests: tests/tests/it/sim/panics.rs, sim/errors.rs, sim/limits.rs.

use std::{
    future::poll_fn,
    num::NonZeroU64,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{Either, select},
};

use crate::{
    backend::{
        Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BackendErrorKind, Extend, FencedReply,
        LockBackend, Raise, Release, ReleaseReply, Replace,
    },
    claim::Claim,
    cleanup::CleanupQueue,
    inspect::{Inspect, KeyState},
    reply::NodeOutcome,
    resources::Resources,
    server::ServerInfo,
    settings::Settings,
    telemetry::{self, Telemetry, Verb},
    token::Token,
    watch::Watch,
};

#[derive(Debug)]
pub(crate) struct Node {
    backend: Box<dyn LockBackend>,
    pub(crate) name: Option<Arc<str>>,
    /// Its position in the builder.
    pub(crate) position: usize,
    pub(crate) settings: Arc<Settings>,
    pub(crate) telemetry: Arc<Telemetry>,
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
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let name = backend.name().map(Arc::from);
        let (silent, replied) = (AtomicBool::new(false), AtomicU64::new(0));
        Self {
            backend,
            name,
            position,
            settings,
            telemetry,
            cleanup: CleanupQueue::default(),
            silent,
            replied,
        }
    }

    /// Its name for people.
    pub(crate) fn label(&self) -> String {
        self.name.as_deref().map_or_else(|| format!("node {}", self.position), ToOwned::to_owned)
    }

    pub(crate) fn server(&self) -> Option<Arc<ServerInfo>> {
        self.backend.server()
    }

    pub(crate) fn uptime(&self) -> Result<Duration, BackendError> {
        self.backend.uptime()
    }

    pub(crate) fn can_fence(&self) -> bool {
        self.backend.can_fence()
    }

    pub(crate) fn can_annotate(&self) -> bool {
        self.backend.can_annotate()
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// A request. The first poll sends it, and whoever polls it cuts it off in time.
    pub(crate) fn ask<'a>(&'a self, ask: Ask<'a>) -> Asked<'a> {
        let logged = self.telemetry.request(&*self.settings.runtime, self.position, ask.verb(), ask.token());
        let replied_before = self.replied.load(Ordering::Relaxed);
        Asked { node: self, ask, call: None, counter: None, logged, replied_before }
    }

    /// Completes when the keys may be free. Returns whether the node says so: one that cannot tell has failed,
    /// and so has one that panics.
    pub(crate) async fn watch(&self, resources: &Resources, timeout: Duration, eager: bool) -> bool {
        let watching = async { self.backend.watch(Watch { resources, timeout, eager }).await };
        AssertUnwindSafe(watching).catch_unwind().await.is_ok_and(|watched| watched.is_ok())
    }

    /// Writes the note beside the claim's keys, or removes it. Whoever polls it cuts it off at the timeout.
    /// One that fails says nothing about the node, as its locks do not depend on it.
    pub(crate) async fn annotate(&self, claim: &Claim, note: Option<&str>, timeout: Duration) {
        let request = Annotate::new(&claim.resources, &claim.token, note, timeout);
        let request = Annotate { caller_enforces_timeout: true, ..request };
        let annotating = async { self.backend.annotate(request).await };
        let annotated = AssertUnwindSafe(annotating).catch_unwind().await;
        let annotated = annotated.unwrap_or_else(|panic| Err(BackendError::panicked(&*panic)));
        if let Err(error) = annotated {
            self.telemetry.not_annotated(self.position, &claim.token, &error.redact(&claim.token));
        }
    }

    /// The state of the keys, with their notes; nothing from a node that fails or panics.
    pub(crate) async fn inspect(&self, resources: &Resources, timeout: Duration) -> Vec<KeyState> {
        let inspecting = async { self.backend.inspect(Inspect::new(resources, timeout).with_notes()).await };
        match AssertUnwindSafe(inspecting).catch_unwind().await {
            Ok(Ok(states)) => states,
            _ => Vec::new(),
        }
    }

    /// Releases the claim's keys once more.
    pub(crate) async fn release(&self, claim: &Claim) -> NodeOutcome {
        let timeout = self.settings.timeout(claim.ledger.ttl());
        let mut asked = self.ask(Ask::Release(Release::new(&claim.resources, &claim.token, timeout)));
        let time_is_up = self.settings.runtime.sleep(timeout);
        let outcome = match select(poll_fn(|cx| asked.poll(cx)), time_is_up).await {
            Either::Left((outcome, _)) => Some(outcome),
            Either::Right(_) => None,
        };
        outcome.unwrap_or_else(|| asked.cut_off())
    }

    /// Records whether the node replied. Returns whether that says something about it: a timeout that was cut
    /// short, or that others disprove, does not.
    fn note(&self, outcome: &NodeOutcome, timeout: Duration, replied_before: u64) -> bool {
        let replied =
            !matches!(outcome, NodeOutcome::Failed(error) if error.kind() == BackendErrorKind::Indeterminate);
        if replied {
            self.replied.fetch_add(1, Ordering::Relaxed);
            self.silent.store(false, Ordering::Relaxed);
            return true;
        }
        let informative =
            self.settings.is_full(timeout) && self.replied.load(Ordering::Relaxed) == replied_before;
        if informative {
            self.silent.store(true, Ordering::Relaxed);
        }
        informative
    }
}

/// A request to one node.
#[derive(Clone, Copy)]
pub(crate) enum Ask<'a> {
    Acquire(Acquire<'a>),
    AcquireFenced(AcquireFenced<'a>),
    Extend(Extend<'a>),
    Raise(Raise<'a>),
    Replace(Replace<'a>),
    Release(Release<'a>),
}

impl<'a> Ask<'a> {
    fn verb(&self) -> Verb {
        match self {
            Self::Acquire(_) | Self::AcquireFenced(_) => Verb::Acquire,
            Self::Extend(_) | Self::Raise(Raise { ttl: Some(_), .. }) => Verb::Extend,
            Self::Raise(_) => Verb::Raise,
            Self::Replace(_) => Verb::Replace,
            Self::Release(_) => Verb::Release,
        }
    }

    /// The holder's.
    fn token(&self) -> &'a Token {
        match self {
            Self::Acquire(request) => request.token,
            Self::AcquireFenced(request) => request.token,
            Self::Extend(request) => request.token,
            Self::Raise(request) => request.token,
            Self::Replace(request) => request.new,
            Self::Release(request) => request.token,
        }
    }

    fn timeout(&self) -> Duration {
        match self {
            Self::Acquire(request) => request.timeout,
            Self::AcquireFenced(request) => request.timeout,
            Self::Extend(request) => request.timeout,
            Self::Raise(request) => request.timeout,
            Self::Replace(request) => request.timeout,
            Self::Release(request) => request.timeout,
        }
    }

    /// The error without a token in it, whatever the backend returns.
    fn redact(&self, error: BackendError) -> BackendError {
        let error = error.redact(self.token());
        if let Self::Replace(request) = self { error.redact(request.old) } else { error }
    }

    fn call(self, backend: &'a dyn LockBackend) -> Call<'a> {
        let caller_enforces_timeout = true;
        match self {
            Self::Acquire(request) => {
                Call::Write(backend.acquire(Acquire { caller_enforces_timeout, ..request }))
            }
            Self::Extend(request) => {
                Call::Write(backend.extend(Extend { caller_enforces_timeout, ..request }))
            }
            Self::AcquireFenced(request) => {
                Call::Fenced(backend.acquire_fenced(AcquireFenced { caller_enforces_timeout, ..request }))
            }
            Self::Raise(request) => Call::Fenced(backend.raise(Raise { caller_enforces_timeout, ..request })),
            Self::Replace(request) => {
                Call::Write(backend.replace(Replace { caller_enforces_timeout, ..request }))
            }
            Self::Release(request) => {
                Call::Removal(backend.release(Release { caller_enforces_timeout, ..request }))
            }
        }
    }
}

/// A request to one node under way.
pub(crate) struct Asked<'a> {
    node: &'a Node,
    ask: Ask<'a>,
    call: Option<Call<'a>>,
    /// In the reply of a node that counts.
    counter: Option<NonZeroU64>,
    logged: telemetry::Request<'a>,
    replied_before: u64,
}

impl Asked<'_> {
    /// The first poll calls the backend. One that panics has failed, like one without a reply, because its
    /// panic must not end a round halfway.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<NodeOutcome> {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let call = self.call.get_or_insert_with(|| self.ask.call(&*self.node.backend));
            let polled = call.poll(cx);
            if polled.is_ready() {
                self.call = None;
            }
            polled
        }));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Ok((outcome, counter)))) => {
                self.counter = counter;
                Poll::Ready(self.end(outcome))
            }
            Ok(Poll::Ready(Err(error))) => Poll::Ready(self.fail(error)),
            Err(panic) => Poll::Ready(self.fail(BackendError::panicked(&*panic))),
        }
    }

    /// The node's counter, if it granted and counts.
    pub(crate) fn counter(&self) -> Option<NonZeroU64> {
        self.counter
    }

    /// Ends a request that has used up its timeout.
    pub(crate) fn cut_off(&mut self) -> NodeOutcome {
        let cut = catch_unwind(AssertUnwindSafe(|| {
            self.call = None;
            self.node.backend.timed_out(self.ask.timeout())
        }));
        self.fail(cut.unwrap_or_else(|panic| BackendError::panicked(&*panic)))
    }

    fn fail(&self, error: BackendError) -> NodeOutcome {
        self.end(NodeOutcome::Failed(self.ask.redact(error)))
    }

    fn end(&self, outcome: NodeOutcome) -> NodeOutcome {
        let informative = self.node.note(&outcome, self.ask.timeout(), self.replied_before);
        self.logged.answered(&outcome, informative);
        outcome
    }
}

/// The future of a method of the backend.
enum Call<'a> {
    Write(Reply<'a, AcquireReply>),
    Fenced(Reply<'a, FencedReply>),
    Removal(Reply<'a, ReleaseReply>),
}

type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

impl Call<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(NodeOutcome, Option<NonZeroU64>), BackendError>> {
        match self {
            Self::Write(reply) => reply.as_mut().poll(cx).map_ok(|reply| (reply.into(), None)),
            Self::Fenced(reply) => reply.as_mut().poll(cx).map_ok(|reply| match reply {
                FencedReply::Granted { counter } => (NodeOutcome::Granted, Some(counter)),
                FencedReply::Refused => (NodeOutcome::Refused, None),
            }),
            Self::Removal(reply) => reply.as_mut().poll(cx).map_ok(|reply| (reply.into(), None)),
        }
    }
}
