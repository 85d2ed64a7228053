//! A connection that is made on demand, and replaced when it breaks.
//!
//! Written by hand, since redis-rs' `ConnectionManager` answers the first request after an outage with an
//! error of the outage.

use std::{
    fmt,
    future::Future,
    io, mem, slice,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value, aio::ConnectionLike};
use redlock_core::{
    PerRuntime, Runtime,
    reconnect::Reconnect,
    redis::{Dialect, ServerProbe, Watcher},
};
use tokio::sync::oneshot;

use crate::{
    connector::{Connection, Connector},
    executor::{self, unconstrained},
    watch,
};

/// One connection to one node. The first command makes it; the first command after it broke replaces it.
///
/// To a server it is a multiplexed connection. To a Cluster it is redis-rs' cluster connection, which
/// recovers by itself. To the master that a Sentinel names it is a multiplexed connection, too, and each new
/// one first asks the Sentinel again. Any connection is replaced when two seconds of requests bring no
/// answer. A connection to a server is also replaced when the server reports that it is the wrong one, or
/// answers with an unknown error. Connections are made at a bounded rate: see [`Reconnect`].
///
/// A command is sent at most once. A command in flight fails when the connection breaks. The next command,
/// also after a connection that ended while it was idle, is the first of a new connection. Commands that
/// arrive during connecting wait for the connection, and are sent in the order of their arrival; a command
/// whose caller has gone by then is not sent. Unlike redis-rs' `ConnectionManager`, it never answers with the
/// error of an earlier attempt.
///
/// Cheap to clone; clones share the connection. Poll its commands on a runtime that is compiled in; the
/// connection lives on the runtime of the command that makes it. A connection makes no progress while nobody
/// drives its runtime, so each of tokio's current-thread runtimes has a connection of its own, and all other
/// runtimes share one.
#[derive(Clone)]
pub struct LazyConnection {
    connector: Arc<Connector>,
    shared: Arc<PerRuntime<Shared>>,
    watcher: Arc<PerRuntime<Watcher>>,
}

/// The connection of one current-thread runtime, or of all other runtimes.
pub(crate) struct Shared {
    connector: Arc<Connector>,
    inner: Mutex<Inner>,
    /// As `made` there, to be read by each request.
    made: AtomicU64,
    server: ServerProbe,
    dialect: Dialect,
}

struct Inner {
    state: State,
    /// How many connections have been made.
    made: u64,
    /// Why the last attempt to connect failed, while there is no connection.
    failure: Option<RedisError>,
    reconnect: Reconnect,
    /// The last connection whose answers may belong to other commands.
    out_of_step: u64,
    /// How many commands are in flight.
    in_flight: usize,
    /// Since when none is. A connection that ends then ends unnoticed, as no command fails with it.
    idle_since: Option<Instant>,
}

enum State {
    Closed,
    Connecting(Vec<Waiting>),
    Open(Connection, RuntimeWatch),
}

/// Closed when the runtime of a connection has ended, and the connection with it.
type RuntimeWatch = oneshot::Sender<()>;

/// A command that waits for a connection, or for the error of making one.
type Waiting = Box<dyn Wait>;

trait Wait: Send {
    /// Whether its caller has gone.
    fn is_given_up(&self) -> bool;

    /// Continues with the connection, or ends with the error.
    fn go_on(self: Box<Self>, connected: RedisResult<Checkout>, runtime: &dyn Runtime);
}

struct WaitingCommand<T, C> {
    command: C,
    sender: oneshot::Sender<(u64, RedisResult<T>)>,
}

/// A connection, and which one it is.
struct Checkout {
    connection: Connection,
    number: u64,
}

impl LazyConnection {
    /// Connects to what `connector` leads to; nothing is sent yet.
    pub(crate) fn new(connector: Connector) -> Self {
        let connector = Arc::new(connector);
        let shared = {
            let connector = connector.clone();
            PerRuntime::new(move || Shared::new(connector.clone()))
        };
        let watcher = {
            let connector = connector.clone();
            PerRuntime::new(move || watch::watcher(connector.clone()))
        };
        Self { connector, shared: Arc::new(shared), watcher: Arc::new(watcher) }
    }

    /// What errors call the node.
    pub(crate) fn name(&self) -> Option<String> {
        self.connector.name()
    }

    /// Whether it leads to one server at a time, and not to a Cluster.
    pub(crate) fn leads_to_one_server(&self) -> bool {
        self.connector.is_one_server()
    }

    /// The part for the caller's runtime.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.get()
    }

    /// What watches keys, over a connection of its own; `None` for a Cluster.
    pub(crate) fn watcher(&self) -> Option<Arc<Watcher>> {
        self.connector.is_one_server().then(|| self.watcher.get())
    }

    /// Why the last attempt to connect failed, when there has been no connection since.
    pub(crate) fn failure(&self) -> Option<RedisError> {
        self.shared.get().inner().failure.clone()
    }
}

impl Shared {
    fn new(connector: Arc<Connector>) -> Self {
        let inner = Inner {
            state: State::Closed,
            made: 0,
            failure: None,
            reconnect: Reconnect::new(),
            out_of_step: NO_CONNECTION,
            in_flight: 0,
            idle_since: None,
        };
        // The servers of a Cluster may differ, and a connection to it is to all of them.
        let dialect = if connector.is_one_server() { Dialect::new() } else { Dialect::scripts() };
        let made = AtomicU64::new(inner.made);
        Self { connector, inner: Mutex::new(inner), made, server: ServerProbe::new(), dialect }
    }

    /// What is known of the server, unless it leads to a whole Cluster.
    pub(crate) fn server(&self) -> Option<&ServerProbe> {
        self.connector.is_one_server().then_some(&self.server)
    }

    /// The forms of requests that the server has.
    pub(crate) fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    /// How many connections have been made.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Drops the connection: each of its answers, also of those still to come, may belong to the command
    /// before.
    pub(crate) fn replace(&self) {
        let mut inner = self.inner();
        if matches!(inner.state, State::Open(..)) {
            inner.out_of_step = inner.made;
            inner.state = State::Closed;
        }
    }

    /// The connection; or, while there is none, the answer of a command that waits for it. The command is in
    /// flight from now on.
    fn connection_or_answer<T, C, F>(
        self: &Arc<Self>,
        command: impl FnOnce() -> C,
    ) -> (InFlight<'_>, Result<Checkout, Answer<T>>)
    where
        T: Send + 'static,
        C: FnOnce(Connection) -> F + Send + 'static,
        F: Future<Output = RedisResult<T>> + Send + 'static,
    {
        // Before the lock, so that it is dropped after it: its destructor takes the lock, too.
        let in_flight = InFlight { shared: self };
        let mut inner = self.inner();
        inner.in_flight += 1;
        let number = inner.made;
        let now = Instant::now();
        let was_idle =
            inner.idle_since.take().is_some_and(|since| now.saturating_duration_since(since) >= IDLE);
        if let State::Open(connection, watch) = &inner.state
            && !inner.reconnect.is_silent(now)
            && !watch.is_closed()
            && !(was_idle && connection.has_ended())
        {
            return (in_flight, Ok(Checkout { connection: connection.clone(), number }));
        }
        let (waiting, answer) = wait_for_connection(command());
        if let State::Connecting(queue) = &mut inner.state {
            if queue.len() == queue.capacity() {
                // Before it grows: callers come and go while the server is away.
                queue.retain(|waiting| !waiting.is_given_up());
            }
            queue.push(waiting);
        } else {
            let delay = inner.reconnect.begin(now);
            inner.state = State::Connecting(vec![waiting]);
            // A runtime that shuts down drops the task on the spot, and that takes the lock.
            drop(inner);
            let connecting = Connecting { shared: self.clone(), finished: false };
            // In a task of its own, so that it continues when the first to wait gives up. Without a runtime
            // it ends here.
            if let Some(runtime) = executor::current() {
                runtime.spawn(Box::pin(connecting.run(delay)));
            }
        }
        (in_flight, Err(answer))
    }
}

/// The result of a command that waited, and the number of its connection.
type Answer<T> = oneshot::Receiver<(u64, RedisResult<T>)>;

fn wait_for_connection<T, C, F>(command: C) -> (Waiting, Answer<T>)
where
    T: Send + 'static,
    C: FnOnce(Connection) -> F + Send + 'static,
    F: Future<Output = RedisResult<T>> + Send + 'static,
{
    let (sender, answer) = oneshot::channel();
    (Box::new(WaitingCommand { command, sender }), answer)
}

impl<T, C, F> Wait for WaitingCommand<T, C>
where
    T: Send + 'static,
    C: FnOnce(Connection) -> F + Send + 'static,
    F: Future<Output = RedisResult<T>> + Send + 'static,
{
    fn is_given_up(&self) -> bool {
        self.sender.is_closed()
    }

    fn go_on(self: Box<Self>, connected: RedisResult<Checkout>, runtime: &dyn Runtime) {
        let Self { command, sender } = *self;
        match connected {
            Err(error) => drop(sender.send((NO_CONNECTION, Err(error)))),
            Ok(_) if sender.is_closed() => {}
            Ok(Checkout { connection, number }) => {
                let mut sending = Box::pin(unconstrained(async move {
                    let result = command(connection).await;
                    drop(sender.send((number, result)));
                }));
                // The first poll puts the command into the connection's queue, so it is done here, in order.
                if sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                    runtime.spawn(sending);
                }
            }
        }
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A command is no longer in flight.
    fn leave(&mut self, now: Instant) {
        self.in_flight -= 1;
        if self.in_flight == 0 {
            self.idle_since = Some(now);
        }
    }

    /// Drops a connection that turned out to be broken, or to lead to the wrong server, unless it has been
    /// replaced already. Commands in flight keep it, and get their answers. An answer out of step becomes an
    /// error.
    fn note<T: Values>(
        &mut self,
        connector: &Connector,
        number: u64,
        result: RedisResult<T>,
        now: Instant,
    ) -> RedisResult<T> {
        if number != NO_CONNECTION && self.out_of_step == number {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "answers out of step").into());
        }
        if number != NO_CONNECTION && self.made == number {
            let answer = result.as_ref().map(Values::values);
            if !answer.is_err_and(RedisError::is_io_error) {
                self.reconnect.answered(now);
            }
            // The wrong server stays while the next request would have to wait for the right one.
            let is_left =
                connector.is_over(answer) || connector.is_misled(answer) && self.reconnect.may_begin(now);
            if is_left && matches!(self.state, State::Open(..)) {
                self.state = State::Closed;
            }
        }
        result
    }
}

/// Makes a connection.
struct Connecting {
    shared: Arc<Shared>,
    finished: bool,
}

impl Connecting {
    async fn run(mut self, delay: Duration) {
        let Some(runtime) = executor::current() else { return };
        if !delay.is_zero() {
            runtime.sleep(delay).await;
        }
        let made = self.shared.connector.connect(&*runtime).await;
        self.finished = true;
        let mut inner = self.shared.inner();
        let State::Connecting(queue) = mem::replace(&mut inner.state, State::Closed) else { return };
        match made {
            Ok(connection) => {
                inner.made += 1;
                self.shared.made.store(inner.made, Ordering::Release);
                inner.reconnect.connected();
                inner.failure = None;
                let number = inner.made;
                // Under the lock, so that later commands come after these, which do not take it.
                for waiting in queue {
                    waiting.go_on(Ok(Checkout { connection: connection.clone(), number }), &*runtime);
                }
                let (watch, replaced) = oneshot::channel();
                runtime.spawn(Box::pin(async move { drop(replaced.await) }));
                inner.state = State::Open(connection, watch);
            }
            Err(error) => {
                inner.failure = Some(error.clone());
                drop(inner);
                queue.into_iter().for_each(|waiting| waiting.go_on(Err(error.clone()), &*runtime));
            }
        }
    }
}

impl Drop for Connecting {
    /// When the runtime ends during connecting, the next command starts over.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut inner = self.shared.inner();
        if let State::Connecting(queue) = &mut inner.state {
            let queue = mem::take(queue);
            inner.state = State::Closed;
            drop(inner);
            drop(queue);
        }
    }
}

/// A command in flight. If it is dropped before its end, it was given up.
struct InFlight<'a> {
    shared: &'a Shared,
}

impl InFlight<'_> {
    /// The command has its answer, over the connection with this number.
    fn end<T: Values>(self, number: u64, result: RedisResult<T>) -> RedisResult<T> {
        let shared = self.shared;
        mem::forget(self);
        let (mut inner, now) = (shared.inner(), Instant::now());
        inner.leave(now);
        inner.note(&shared.connector, number, result, now)
    }

    /// Waits for the answer of a command that waits for a connection.
    async fn answered<T: Values>(self, answer: Answer<T>) -> RedisResult<T> {
        // No answer: the runtime that made the connection has shut down.
        let closed = |_| (NO_CONNECTION, Err(io::Error::from(io::ErrorKind::BrokenPipe).into()));
        let (number, result) = answer.await.unwrap_or_else(closed);
        self.end(number, result)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let (mut inner, now) = (self.shared.inner(), Instant::now());
        inner.leave(now);
        inner.reconnect.given_up(now);
    }
}

/// The answer to a command, or to several.
trait Values {
    fn values(&self) -> &[Value];
}

impl Values for Value {
    fn values(&self) -> &[Value] {
        slice::from_ref(self)
    }
}

impl Values for Vec<Value> {
    fn values(&self) -> &[Value] {
        self
    }
}

impl Shared {
    /// Sends a command once it has been polled. The connection's own way to do so is [`ConnectionLike`], which
    /// boxes what it returns.
    pub(crate) async fn send(self: &Arc<Self>, command: &Cmd) -> RedisResult<Value> {
        let owned = || {
            let command = command.clone();
            |mut connection: Connection| async move { connection.send(&command).await }
        };
        match self.connection_or_answer(owned) {
            (in_flight, Ok(mut checkout)) => {
                let result = checkout.connection.send(command).await;
                in_flight.end(checkout.number, result)
            }
            (in_flight, Err(answer)) => in_flight.answered(answer).await,
        }
    }
}

impl ConnectionLike for LazyConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let shared = self.shared.get();
        Box::pin(async move { shared.send(command).await })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let shared = self.shared.get();
            let owned = || {
                let pipeline = pipeline.clone();
                move |mut connection: Connection| async move {
                    connection.req_packed_commands(&pipeline, offset, count).await
                }
            };
            match shared.connection_or_answer(owned) {
                (in_flight, Ok(mut checkout)) => {
                    let result = checkout.connection.req_packed_commands(pipeline, offset, count).await;
                    in_flight.end(checkout.number, result)
                }
                (in_flight, Err(answer)) => in_flight.answered(answer).await,
            }
        })
    }

    fn get_db(&self) -> i64 {
        self.connector.db()
    }
}

impl fmt::Debug for LazyConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LazyConnection").field(&self.name()).finish()
    }
}

/// The number of no connection: they are counted from 1.
const NO_CONNECTION: u64 = 0;
/// How long a connection has to be idle to be checked before it is used: more than the time between two
/// successive requests.
const IDLE: Duration = Duration::from_millis(1);
