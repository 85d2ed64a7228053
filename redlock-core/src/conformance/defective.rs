//! A backend that breaks the contract in one way.

// Tests: conformance/tests.rs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    future::{pending, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::{Asked, FaultOutcome, NodeControl, defects::Defect};
use crate::{
    Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BackendErrorKind, Extend, FencedReply,
    Inspect, KeyState, LockBackend, MAX_TTL, MemoryBackend, Raise, Release, ReleaseReply, Replace, Resources,
    Runtime as _, ServerInfo, Token, TokioRuntime, Watch,
};

mod fencing;
mod notes;
mod verbs;
mod watching;

/// A node in memory, with wrong requests to it.
#[derive(Clone)]
pub(super) struct Defective {
    defect: Defect,
    is_second: bool,
    runtime: TokioRuntime,
    made: Instant,
    node: MemoryBackend,
    down: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    was_down: Arc<AtomicBool>,
    granted: Arc<Mutex<BTreeSet<String>>>,
    answers: Arc<Mutex<VecDeque<Result<AcquireReply, BackendError>>>>,
    acquires: Arc<Mutex<Vec<String>>>,
    /// The last note of each key, and whose it is.
    notes: Arc<Mutex<BTreeMap<String, (Token, String)>>>,
    /// Whether the last release came through the second instance.
    released_by_second: Arc<AtomicBool>,
    watch: Arc<tokio::sync::Mutex<()>>,
}

impl Defective {
    pub(super) fn new(defect: Defect, runtime: &TokioRuntime) -> Self {
        Self {
            defect,
            is_second: false,
            runtime: runtime.clone(),
            made: runtime.now(),
            node: MemoryBackend::new(runtime.clone()),
            down: Arc::default(),
            stopped: Arc::default(),
            was_down: Arc::default(),
            granted: Arc::default(),
            answers: Arc::default(),
            acquires: Arc::default(),
            notes: Arc::default(),
            released_by_second: Arc::default(),
            watch: Arc::default(),
        }
    }

    /// Another instance for the same node.
    pub(super) fn second(&self) -> Self {
        if self.defect == Defect::KeysStayInTheInstance {
            Self::new(self.defect, &self.runtime)
        } else {
            Self { is_second: true, ..self.clone() }
        }
    }

    fn names(&self, names: &Resources) -> Resources {
        let bend = |name: &str| match self.defect {
            Defect::NamesTrimmed => name.trim().to_owned(),
            Defect::NamesCutAtNul => name.split('\0').next().unwrap_or_default().to_owned(),
            Defect::NamesCutAt255Bytes => name.chars().take(255).collect(),
            Defect::NamesInLowerCase => name.to_lowercase(),
            Defect::NamesNormalized => name.replace("e\u{301}", "é"),
            Defect::NamesEscaped => name.replace('\n', "\\n"),
            _ => name.to_owned(),
        };
        names.iter().map(bend).collect()
    }

    fn token(&self, token: &Token) -> Token {
        let text = token.as_str();
        let bent = match self.defect {
            Defect::TokensInLowerCase => text.to_lowercase(),
            Defect::TokensCutAt32Digits => text[..32].to_owned(),
            Defect::TokensAsNumbers => format!("{:0>32}", text.trim_start_matches('0')),
            _ => text.to_owned(),
        };
        bent.parse().unwrap()
    }

    fn ttl(&self, ttl: Duration) -> Duration {
        let millis = u64::try_from(ttl.as_millis()).unwrap();
        match self.defect {
            Defect::TtlWithoutEnd => MAX_TTL,
            Defect::TtlInSeconds => Duration::from_secs(millis).min(MAX_TTL),
            Defect::TtlRoundedUpToSeconds => Duration::from_secs(millis.div_ceil(1000)),
            Defect::TtlATenthShort => ttl - ttl / 10,
            Defect::TtlOfOneMillisecondIsNone if millis == 1 => MAX_TTL,
            Defect::TtlOf32Bits => Duration::from_millis(millis & u64::from(u32::MAX)),
            _ => ttl,
        }
    }

    fn timeout(&self, timeout: Duration) -> Result<Duration, BackendError> {
        match self.defect {
            Defect::TimeoutIgnored => Ok(MAX_TTL),
            Defect::TimeoutOfItsOwn => Ok(timeout.min(Duration::from_millis(500))),
            Defect::LongTimeoutIsAnError if timeout == MAX_TTL => {
                Err(BackendError::new(BackendErrorKind::Rejected, "timeout out of range"))
            }
            _ => Ok(timeout),
        }
    }

    /// The steps before every request.
    async fn troubled(&self, timeout: Duration) -> Result<(), BackendError> {
        let down = self.down.load(Ordering::Relaxed);
        match self.defect {
            Defect::ShortTimeoutIsNone if timeout < Duration::from_millis(1) => pending().await,
            Defect::HangsWhileDown if down => pending().await,
            Defect::BrokenForever if self.was_down.load(Ordering::Relaxed) => {
                Err(BackendError::new(BackendErrorKind::Indeterminate, "broken"))
            }
            Defect::DownIsRejected if down => {
                Err(BackendError::new(BackendErrorKind::Rejected, "no such node"))
            }
            _ => Ok(()),
        }
    }

    fn bent<T>(&self, answer: Result<T, BackendError>) -> Result<T, BackendError> {
        let timed_out = self.stopped.load(Ordering::Relaxed) && answer.is_err();
        match self.defect {
            Defect::TimeoutIsTransient if timed_out => {
                Err(BackendError::new(BackendErrorKind::Transient, "timed out"))
            }
            Defect::TimeoutIsRejected if timed_out => {
                Err(BackendError::new(BackendErrorKind::Rejected, "timed out"))
            }
            _ => answer,
        }
    }

    fn holds(&self, name: &str, token: &Token) -> bool {
        self.node.get(name).as_deref() == Some(token.as_str())
    }

    fn foreign(&self, name: &str, token: &Token) -> bool {
        self.node.get(name).is_some_and(|value| value != token.as_str())
    }

    fn lengthen(&self, name: &str, ttl: Duration) {
        if let Some(value) = self.node.get(name) {
            self.node.set(name, value, ttl);
        }
    }

    /// The request as the caller gets it: not started, as it should be, or started.
    fn begun<'a, T: Send + 'a>(&self, mut request: Asked<'a, T>) -> Asked<'a, T> {
        if self.defect == Defect::SentBeforeThePoll {
            match request.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => return Box::pin(ready(answer)),
                Poll::Pending => {}
            }
        }
        request
    }
}

#[rustfmt::skip]
impl LockBackend for Defective {
    fn acquire<'a, 'b, 'f>(&'a self, request: Acquire<'b>) -> Asked<'f, Result<AcquireReply, BackendError>>
    where 'a: 'f, 'b: 'f, Self: 'f {
        self.begun(Box::pin(self.take(request)))
    }

    fn extend<'a, 'b, 'f>(&'a self, request: Extend<'b>) -> Asked<'f, Result<AcquireReply, BackendError>>
    where 'a: 'f, 'b: 'f, Self: 'f {
        self.begun(Box::pin(self.lengthened(request)))
    }

    fn replace<'a, 'b, 'f>(&'a self, request: Replace<'b>) -> Asked<'f, Result<AcquireReply, BackendError>>
    where 'a: 'f, 'b: 'f, Self: 'f {
        Box::pin(self.replaced(request))
    }

    fn release<'a, 'b, 'f>(&'a self, request: Release<'b>) -> Asked<'f, Result<ReleaseReply, BackendError>>
    where 'a: 'f, 'b: 'f, Self: 'f {
        self.begun(Box::pin(self.removed(request)))
    }

    fn can_fence(&self) -> bool {
        true
    }

    fn acquire_fenced<'a, 'b, 'f>(&'a self, request: AcquireFenced<'b>) -> Asked<'f, Result<FencedReply, BackendError>>
    where 'a: 'f, 'b: 'f, Self: 'f {
        Box::pin(self.counted(request))
    }

    fn raise<'a, 'b, 'f>(&'a self, request: Raise<'b>) -> Asked<'f, Result<FencedReply, BackendError>>
    where 'a: 'f, 'b: 'f, Self: 'f {
        Box::pin(self.raised(request))
    }

    fn can_annotate(&self) -> bool {
        true
    }

    fn annotate<'a, 'b, 'f>(&'a self, request: Annotate<'b>) -> Asked<'f, Result<(), BackendError>>
    where 'a: 'f, 'b: 'f, Self: 'f {
        Box::pin(self.annotated(request))
    }

    fn inspect<'a, 'b, 'f>(&'a self, request: Inspect<'b>) -> Asked<'f, Result<Vec<KeyState>, BackendError>>
    where 'a: 'f, 'b: 'f, Self: 'f {
        Box::pin(self.looked(request))
    }

    fn watch<'a, 'b, 'f>(&'a self, request: Watch<'b>) -> Asked<'f, Result<(), BackendError>>
    where 'a: 'f, 'b: 'f, Self: 'f {
        Box::pin(self.watched(request))
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        let by_instance = self.is_second && self.defect == Defect::IdentityIsTheInstances;
        let instance = ServerInfo { id: Some("the second".into()), ..ServerInfo::default() };
        if by_instance { Some(instance.into()) } else { self.node.server() }
    }

    fn uptime(&self) -> Result<Duration, BackendError> {
        let age = self.runtime.now() - self.made;
        match self.defect {
            Defect::UptimeRunsFast => Ok(2 * age),
            Defect::UptimeIsTransient => Err(BackendError::new(BackendErrorKind::Transient, "not yet")),
            Defect::UptimeOutlivesARestart => Ok(age),
            _ => self.node.uptime(),
        }
    }
}

impl fmt::Debug for Defective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.defect.fmt(f)
    }
}

#[async_trait]
impl NodeControl for Defective {
    async fn commands(&self) -> Option<u64> {
        Some(self.node.requests())
    }

    async fn stop(&self) -> FaultOutcome {
        self.stopped.store(true, Ordering::Relaxed);
        self.node.stop();
        FaultOutcome::Done
    }

    async fn resume(&self) {
        self.stopped.store(false, Ordering::Relaxed);
        self.node.resume();
    }

    async fn shut_down(&self) -> FaultOutcome {
        self.down.store(true, Ordering::Relaxed);
        self.was_down.store(true, Ordering::Relaxed);
        self.node.shut_down();
        FaultOutcome::Done
    }

    async fn start(&self) {
        self.node.start();
        self.down.store(false, Ordering::Relaxed);
    }

    async fn restart_empty(&self) -> FaultOutcome {
        self.node.restart_empty();
        FaultOutcome::Done
    }
}
