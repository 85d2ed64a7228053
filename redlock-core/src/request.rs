//! A request for a lock, and its options.

// Tests: tests/tests/it/sim/waiting.rs, sim/using.rs.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    attempts::{self, Options},
    error::Error,
    hold::HoldLimits,
    lock::Lock,
    nodes::Nodes,
    note::Note,
    resources::Resources,
    retry::{Delay, DelaySource, RetryPolicy},
    telemetry::{Call, Kind, Outcome},
};

/// A request for a lock: await it, or change its options first.
///
/// [`Redlock::lock`](crate::Redlock::lock) creates one that returns a [`Lock`].
/// [`Redlock::using`](crate::Redlock::using) creates one that runs a routine under the lock; then `R` is
/// [`Using`](crate::Using).
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until the request is awaited"]
pub struct LockRequest<R = ()> {
    nodes: Arc<Nodes>,
    resources: Resources,
    ttl: Duration,
    options: Options,
    routine: R,
}

impl<R> LockRequest<R> {
    /// As [`RedlockBuilder::retry_count`](crate::RedlockBuilder::retry_count), for this call.
    pub fn retry_count(mut self, count: u32) -> Self {
        self.options.retry.count = Some(count);
        self
    }

    /// As [`RedlockBuilder::retry_forever`](crate::RedlockBuilder::retry_forever), for this call.
    pub fn retry_forever(mut self) -> Self {
        self.options.retry.count = None;
        self
    }

    /// As [`RedlockBuilder::retry_delay`](crate::RedlockBuilder::retry_delay), for this call.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.options.retry.delay.set_delay(delay);
        self
    }

    /// As [`RedlockBuilder::retry_jitter`](crate::RedlockBuilder::retry_jitter), for this call.
    pub fn retry_jitter(mut self, jitter: Duration) -> Self {
        self.options.retry.delay.set_jitter(jitter);
        self
    }

    /// As [`RedlockBuilder::retry_delays`](crate::RedlockBuilder::retry_delays), for this call.
    pub fn retry_delays<F, I>(mut self, delays: F) -> Self
    where
        F: Fn() -> I + Send + Sync + 'static,
        I: IntoIterator<Item = Duration>,
        I::IntoIter: Send + 'static,
    {
        self.options.retry.delay = Delay::Custom(DelaySource::new(delays));
        self
    }

    /// Gives up after `timeout` at the latest (or 50 ms, when that is longer), counted from the first poll.
    /// The retry count still bounds the attempts: to wait for all of this time, add
    /// [`retry_forever`](Self::retry_forever). The default is no bound.
    ///
    /// Part of it is reserved for the last attempt: one and a half times the longest attempt of this call so
    /// far, but at least 50 ms. Before the first attempt has ended, it is a quarter of the timeout, or the
    /// node timeout if that is shorter.
    pub fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.options.acquire_timeout = Some(timeout);
        self
    }

    /// The longest time that [`using`](LockRequest::using) and [`Lock::keep_alive`] hold the lock, counted
    /// from the attempt that won it. It shortens a longer TTL, and no extension exceeds it. The default is no
    /// bound.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.options.hold.max = Some(max_hold);
        self
    }

    /// The shortest time for which the lock keeps others out, counted from the start of the attempt that won
    /// it. With it, one of many machines runs a job once a period, however short the job is and however their
    /// clocks differ: choose a time that is longer than the clocks differ, and shorter than the period. The
    /// default is none.
    ///
    /// * Before it has passed, [`Lock::unlock`], the end of [`using`](LockRequest::using) and dropping the lock
    ///   leave the keys to their TTL, and send nothing: they stay when the process has ended. `unlock` returns
    ///   [`UnlockOutcome::Kept`](crate::UnlockOutcome::Kept). Later, all of them release the lock as usual.
    /// * A request that is dropped before it has won leaves nothing behind, and a lock that is lost is lost.
    /// * The keys' TTL is the longer of the request's and of what `min_hold` takes with clock drift. It may not
    ///   be over [`max_ttl`](crate::RedlockBuilder::max_ttl). [`Lock::keep_alive`] extends the lock by the
    ///   request's.
    /// * Nothing shortens the life of a key: after a job that ends early, the lock stays for all of the TTL if
    ///   that is longer, or for up to a TTL more when it has been extended.
    ///
    /// A `min_hold` over [`max_hold`](Self::max_hold) is
    /// [`InvalidRequest::MinHoldTooLong`](crate::InvalidRequest::MinHoldTooLong).
    pub fn min_hold(mut self, min_hold: Duration) -> Self {
        self.options.hold.min = Some(min_hold);
        self
    }

    /// As [`RedlockBuilder::fenced`](crate::RedlockBuilder::fenced), for this call. With a backend that has no
    /// fencing tokens it fails as
    /// [`InvalidRequest::FencingUnsupported`](crate::InvalidRequest::FencingUnsupported).
    pub fn fenced(mut self) -> Self {
        self.options.fenced = true;
        self
    }

    /// As [`RedlockBuilder::note`](crate::RedlockBuilder::note), for this call. With a backend that cannot
    /// store notes it fails as
    /// [`InvalidRequest::NotesUnsupported`](crate::InvalidRequest::NotesUnsupported).
    pub fn note(mut self, note: impl Into<Note>) -> Self {
        self.options.note = Some(note.into());
        self
    }

    /// Splits off the routine.
    pub(crate) fn split(self) -> (LockRequest, R) {
        let Self { nodes, resources, ttl, options, routine } = self;
        (LockRequest { nodes, resources, ttl, options, routine: () }, routine)
    }
}

impl LockRequest {
    pub(crate) fn new(
        nodes: Arc<Nodes>,
        retry: RetryPolicy,
        note: Option<Note>,
        resources: Resources,
        ttl: Duration,
    ) -> Self {
        let fenced = nodes.always_fences();
        let hold = HoldLimits::default();
        let options = Options { retry, acquire_timeout: None, hold, fenced, note };
        Self { nodes, resources, ttl, options, routine: () }
    }

    pub(crate) fn with_routine<R>(self, routine: R) -> LockRequest<R> {
        let Self { nodes, resources, ttl, options, routine: () } = self;
        LockRequest { nodes, resources, ttl, options, routine }
    }

    async fn run(self) -> Result<Lock, Error> {
        let Self { nodes, resources, ttl, options, routine: () } = &self;
        let call = Call::begin(nodes.telemetry(), Kind::Lock, &**nodes.runtime(), resources, None);
        let acquire = || attempts::acquire(nodes, resources, *ttl, options);
        call.watch(acquire, |lock| {
            let (attempts, token, fence) = (lock.attempts(), lock.token(), lock.fence());
            Outcome::Granted { attempts, token, fence }
        })
        .await
    }
}

impl IntoFuture for LockRequest {
    type Output = Result<Lock, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
