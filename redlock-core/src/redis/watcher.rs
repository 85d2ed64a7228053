//! Watching keys over a connection of its own.

// Tests: redis/watcher/tests.rs; tests/tests/it/servers/watching.rs.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_channel::oneshot::{self, Sender};
use futures_util::future::{Either, join_all, select};

use super::watched_keys::WatchedKeys;
use crate::{
    backend::{BackendError, BackendErrorKind},
    reconnect::Reconnect,
    runtime::{BoxFuture, Runtime},
    watch::Watch,
};

/// [`LockBackend::watch`](crate::LockBackend::watch) over a connection that is there for nothing else, for a
/// server with RESP3 and client-side caching (Redis from 6.0, Valkey).
///
/// The first watch makes the connection, with `HELLO 3` and `CLIENT TRACKING ON`. A watched key is read with
/// `GET`. The server remembers that, and reports the next change of the key: its removal, its expiry, but
/// also its extension, so the key is read again, unless all of its watches are eager. All watches share the
/// connection and the readings. It is closed 10 seconds after the last watch.
///
/// When the server refuses such a connection, watches are rejected for 30 seconds before it is asked again;
/// when it cannot be reached, connections are made at the rate of [`Reconnect`].
pub struct Watcher {
    connect: Box<dyn Fn(Reports) -> Connecting + Send + Sync>,
    reread: Option<Duration>,
    state: Mutex<State>,
}

/// A connection over which the server tracks what is read.
pub trait TrackedConnection: Send + Sync + 'static {
    /// Reads a key with `GET`: whether it is free. A value of another type is not free.
    ///
    /// # Errors
    ///
    /// [`BackendErrorKind::Rejected`] when this key may not be read; after other errors the connection is
    /// dropped.
    fn is_free(&self, name: Arc<str>) -> BoxFuture<Result<bool, BackendError>>;
}

type Connecting = BoxFuture<Result<Arc<dyn TrackedConnection>, BackendError>>;

/// What the server reports over one connection of a [`Watcher`].
#[derive(Clone, Debug)]
pub struct Reports {
    watcher: Weak<Watcher>,
    connection: u64,
}

#[derive(Default)]
struct State {
    keys: WatchedKeys<Sender<Result<(), BackendError>>>,
    reconnect: Reconnect,
    /// Until when watches are rejected, and why.
    refused: Option<(Instant, BackendError)>,
    /// Whether there is a task with a connection.
    runs: bool,
    /// The number of the last connection.
    connection: u64,
    is_lost: bool,
    /// Since when nothing is watched, if so.
    empty_since: Option<Instant>,
    waker: Option<Waker>,
}

enum Step {
    Read(Vec<Arc<str>>),
    Lost,
    Idle,
}

impl Watcher {
    /// Makes its connections with `connect`, which logs in, turns tracking on, and passes on what the server
    /// reports. An error of the kind [`BackendErrorKind::Rejected`] says that the server does not let this
    /// client watch. It has two seconds.
    pub fn new(connect: impl Fn(Reports) -> Connecting + Send + Sync + 'static) -> Self {
        Self::with(Box::new(connect), None)
    }

    /// As [`Watcher::new`], for a client that does not pass on every report: keys that are watched are also
    /// read again after each such time.
    pub fn rereading(
        every: Duration,
        connect: impl Fn(Reports) -> Connecting + Send + Sync + 'static,
    ) -> Self {
        Self::with(Box::new(connect), Some(every))
    }

    fn with(connect: Box<dyn Fn(Reports) -> Connecting + Send + Sync>, reread: Option<Duration>) -> Self {
        Self { connect, reread, state: Mutex::default() }
    }

    /// Waits until the keys may be free. The connection lives on `runtime`, which drops its tasks when it ends;
    /// then watches end with an error.
    ///
    /// # Errors
    ///
    /// Those of [`LockBackend::watch`](crate::LockBackend::watch).
    pub async fn watch(
        self: &Arc<Self>,
        runtime: &Arc<dyn Runtime>,
        request: Watch<'_>,
    ) -> Result<(), BackendError> {
        let timeout = runtime.sleep(request.timeout);
        let (sender, ended) = oneshot::channel();
        let (number, driver) = {
            let now = runtime.now();
            let mut state = self.state();
            if let Some((until, error)) = &state.refused
                && now < *until
            {
                return Err(error.clone());
            }
            let number = state.keys.add(request.resources, request.eager, sender);
            state.empty_since = None;
            let driver = (!state.runs).then(|| state.begin(now));
            (number, driver)
        };
        // Without the lock: a runtime that shuts down drops the task on the spot.
        match driver {
            Some((delay, connection)) => {
                let driver = Driver { watcher: self.clone(), runtime: runtime.clone(), connection };
                runtime.spawn(Box::pin(driver.run(delay)));
            }
            None => self.wake(),
        }
        let _watching = Watching { watcher: self, runtime, number };
        match select(ended, timeout).await {
            Either::Left((ended, _)) => ended.unwrap_or_else(|_| Err(lost())),
            Either::Right(_) => Err(BackendError::timed_out(request.timeout)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let waker = self.state().waker.take();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Reports {
    /// The server has reported the change of a key.
    pub fn changed(&self, name: &[u8]) {
        // Names of locks are text, so this is another's.
        let Ok(name) = std::str::from_utf8(name) else { return };
        self.report(|state| state.keys.changed(name));
    }

    /// The server has reported that any key may have been changed, as after `FLUSHALL`; or reports were lost.
    pub fn all_changed(&self) {
        self.report(|state| {
            state.keys.all_changed();
            Vec::new()
        });
    }

    /// The connection is lost. Later reports over it have no effect.
    pub fn lost(&self) {
        self.report(|state| {
            state.is_lost = true;
            Vec::new()
        });
    }

    /// `note` returns the watches that end at once.
    fn report(&self, note: impl FnOnce(&mut State) -> Vec<Sender<Result<(), BackendError>>>) {
        let Some(watcher) = self.watcher.upgrade() else { return };
        let mut state = watcher.state();
        if state.connection == self.connection {
            let ended = note(&mut state);
            // The others go first: the task has nothing to do when all who watched the key are eager.
            let waker = if state.has_work() { state.waker.take() } else { None };
            drop(state);
            ended.into_iter().for_each(|ended| drop(ended.send(Ok(()))));
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl State {
    /// Begins another connection: after which delay, and its number.
    fn begin(&mut self, now: Instant) -> (Duration, u64) {
        self.runs = true;
        self.is_lost = false;
        self.connection += 1;
        (self.reconnect.begin(now), self.connection)
    }

    /// Whether the task with the connection has to be woken. That nothing is watched any more, it notices by
    /// itself.
    fn has_work(&self) -> bool {
        self.is_lost || self.keys.has_unread()
    }
}

/// A watch under way. When it is dropped, the keys that only it waited for are forgotten.
struct Watching<'a> {
    watcher: &'a Watcher,
    runtime: &'a Arc<dyn Runtime>,
    number: u64,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let sender = {
            let mut state = self.watcher.state();
            let sender = state.keys.remove(self.number);
            if state.keys.is_empty() {
                state.empty_since = Some(self.runtime.now());
            }
            sender
        };
        drop(sender);
    }
}

/// The task with the connection. When it ends, or is dropped with its runtime, so do the watches.
struct Driver {
    watcher: Arc<Watcher>,
    runtime: Arc<dyn Runtime>,
    connection: u64,
}

impl Driver {
    async fn run(self, delay: Duration) {
        if !delay.is_zero() {
            self.runtime.sleep(delay).await;
        }
        let Err(error) = self.drive().await else { return };
        let ended = {
            let mut state = self.watcher.state();
            if error.kind() == BackendErrorKind::Rejected {
                state.refused = Some((self.runtime.now() + REFUSED, error.clone()));
            }
            state.runs = false;
            state.keys.end_all()
        };
        ended.into_iter().for_each(|ended| drop(ended.send(Err(error.clone()))));
    }

    /// Reads what is to be read, until nothing is watched any more.
    async fn drive(&self) -> Result<(), BackendError> {
        let reports = Reports { watcher: Arc::downgrade(&self.watcher), connection: self.connection };
        let connection = self.in_time((self.watcher.connect)(reports)).await??;
        self.watcher.state().reconnect.connected();
        loop {
            let names = match self.next().await {
                Step::Read(names) => names,
                Step::Lost => return Err(lost()),
                Step::Idle => return Ok(()),
            };
            let asked = names.iter().map(|name| connection.is_free(name.clone()));
            let answers = self.in_time(join_all(asked)).await?;
            self.watcher.state().reconnect.answered(self.runtime.now());
            for (name, answer) in names.iter().zip(answers) {
                let (answer, ended) = match answer {
                    Ok(is_free) => (Ok(()), self.watcher.state().keys.read(name, is_free)),
                    Err(error) if error.kind() == BackendErrorKind::Rejected => {
                        (Err(error), self.watcher.state().keys.give_up(name))
                    }
                    Err(error) => return Err(error),
                };
                ended.into_iter().for_each(|ended| drop(ended.send(answer.clone())));
            }
        }
    }

    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, BackendError> {
        match select(pin!(answer), self.runtime.sleep(SILENCE)).await {
            Either::Left((answer, _)) => Ok(answer),
            Either::Right(_) => Err(BackendError::timed_out(SILENCE)),
        }
    }

    async fn next(&self) -> Step {
        let (mut idle, mut reread) = (None, self.watcher.reread.map(|every| self.runtime.sleep(every)));
        poll_fn(|cx| {
            let mut state = self.watcher.state();
            state.waker = Some(cx.waker().clone());
            if state.is_lost {
                return Poll::Ready(Step::Lost);
            }
            if !state.keys.is_empty()
                && let Some(every) = &mut reread
                && every.as_mut().poll(cx).is_ready()
            {
                reread = None;
                state.keys.all_changed();
            }
            let names = state.keys.take_unread(BATCH);
            if !names.is_empty() {
                return Poll::Ready(Step::Read(names));
            }
            // It runs on while keys are watched, so that a watch that ends need not wake this task.
            while idle.get_or_insert_with(|| self.runtime.sleep(IDLE)).as_mut().poll(cx).is_ready() {
                let now = self.runtime.now();
                let left = match state.empty_since.filter(|_| state.keys.is_empty()) {
                    Some(since) => IDLE.saturating_sub(now.saturating_duration_since(since)),
                    None => IDLE,
                };
                if left.is_zero() {
                    // Under the lock, so that the next watch begins another.
                    state.runs = false;
                    return Poll::Ready(Step::Idle);
                }
                idle = Some(self.runtime.sleep(left));
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Driver {
    /// After its end, another may have begun already.
    fn drop(&mut self) {
        let ended = {
            let mut state = self.watcher.state();
            if !state.runs || state.connection != self.connection {
                return;
            }
            state.runs = false;
            state.keys.end_all()
        };
        drop(ended);
    }
}

fn lost() -> BackendError {
    BackendError::new(BackendErrorKind::Indeterminate, "the connection for watching is lost")
}

/// How long a connection without a watch is kept.
const IDLE: Duration = Duration::from_secs(10);
/// For how long a server that refuses is not asked again.
const REFUSED: Duration = Duration::from_secs(30);
/// How long the server may take for an answer before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(2);
/// How many keys are read at once.
const BATCH: usize = 256;

#[cfg(test)]
mod tests;
