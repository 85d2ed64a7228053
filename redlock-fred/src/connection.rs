//! A client that is made on demand, and replaced when its connection breaks.

use std::{
    future::poll_fn,
    mem,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, FredResult},
    types::{
        Value,
        config::{Config, ConnectionConfig, TcpConfig},
    },
};
use redlock_core::{
    reconnect::Reconnect,
    redis::{Dialect, ServerProbe},
};
use socket2::TcpKeepalive;
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
    time::Instant,
};

use crate::{
    client::{self, Request, Sent},
    error::asks_for_another_connection,
};

/// One connection to one server. The first command makes it. The first command after it broke replaces it, or
/// when two seconds of requests brought no answer, or when the server reported that it is the wrong one, or
/// answered with an unknown error. Connections are made at a bounded rate: see [`Reconnect`].
///
/// Each connection has a client of its own, which does not reconnect: what was in its queues when the
/// connection broke is discarded with it, and cannot be sent later. Commands that arrive during connecting
/// wait for the connection, and are sent in the order of their arrival; a command whose caller has gone by
/// then is not sent.
pub(crate) struct LazyConnection {
    config: Config,
    state: Mutex<State>,
    /// How many connections have been made.
    made: AtomicU64,
    /// Separate from the state, which is locked while answers are recorded; always locked after it.
    reconnect: Mutex<Reconnect>,
    server: ServerProbe,
    dialect: Dialect,
}

enum State {
    Closed,
    Connecting(Vec<Waiting>),
    Open(Arc<Connected>),
}

/// A command that waits for a connection.
struct Waiting {
    request: Request,
    deadline: Instant,
    sender: oneshot::Sender<FredResult<Sent>>,
}

/// A client that has been connected, and the task that drives it.
struct Connected {
    client: Client,
    router: AbortHandle,
    /// Closed when that task has ended. A command without an answer by then never gets one.
    ended: watch::Receiver<()>,
    /// Set when a command has found that the connection is lost.
    broken: AtomicBool,
    /// Set when a command has found that the connection leads to the wrong server: another connection may
    /// lead to the right one.
    misled: AtomicBool,
    /// Set when answers may belong to other commands.
    out_of_step: AtomicBool,
}

impl LazyConnection {
    /// Connects with this `config`; sends nothing yet.
    pub(crate) fn new(mut config: Config) -> Self {
        // The one attempt to connect reports its failure.
        config.fail_fast = true;
        let dialect = client::dialect(&config);
        Self {
            config,
            state: Mutex::new(State::Closed),
            made: AtomicU64::new(0),
            reconnect: Mutex::default(),
            server: ServerProbe::new(),
            dialect,
        }
    }

    /// What is known of the server, unless it leads to a whole Cluster.
    pub(crate) fn server(&self) -> Option<&ServerProbe> {
        (!self.config.server.is_clustered()).then_some(&self.server)
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
        if let State::Open(connected) = &*self.state() {
            connected.out_of_step.store(true, Ordering::Release);
            connected.broken.store(true, Ordering::Release);
        }
    }

    /// Sends a command. While there is no connection, returns a receiver, which gets the command once it has
    /// been sent, or the error of connecting. Must be called on a tokio runtime.
    pub(crate) fn send(
        self: &Arc<Self>,
        request: Request,
        deadline: Instant,
    ) -> Result<Sent, oneshot::Receiver<FredResult<Sent>>> {
        let now = Instant::now().into_std();
        let mut state = self.state();
        let is_silent = self.reconnect().is_silent(now);
        if let State::Open(connected) = &*state
            && connected.is_usable()
            && !connected.misled.load(Ordering::Acquire)
            && !is_silent
        {
            let connected = connected.clone();
            drop(state);
            return Ok(connected.send(self, request, deadline));
        }
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting { request, deadline, sender };
        if let State::Connecting(queue) = &mut *state {
            if queue.len() == queue.capacity() {
                // Before it grows: callers come and go while the server is away.
                queue.retain(|waiting| !waiting.sender.is_closed());
            }
            queue.push(waiting);
        } else {
            let delay = self.reconnect().begin(now);
            let former = mem::replace(&mut *state, State::Connecting(vec![waiting]));
            // A runtime that shuts down drops the task on the spot, and that takes the lock.
            drop(state);
            // Commands in flight over a connection that still answers keep it, and get their answers.
            if let State::Open(former) = former
                && (is_silent || !former.is_usable())
            {
                former.end();
            }
            // In a task of its own, so that it continues when the first to wait gives up.
            drop(tokio::spawn(Connecting { lazy: self.clone(), finished: false }.run(delay)));
        }
        Err(receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reconnect(&self) -> MutexGuard<'_, Reconnect> {
        self.reconnect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what an answer, or its absence, shows about a connection, unless it has been replaced.
    fn note(&self, number: u64, answer: &FredResult<Value>) {
        if self.made.load(Ordering::Acquire) != number {
            return;
        }
        let now = Instant::now().into_std();
        match answer {
            Err(error) if *error.kind() == ErrorKind::Timeout => self.reconnect().given_up(now),
            Err(error) if is_broken(error) => {}
            _ => self.reconnect().answered(now),
        }
    }
}

impl Connected {
    async fn connect(config: Config) -> FredResult<Self> {
        let client = Client::new(config, None, Some(connection_config()), None);
        // fred bounds each step by itself. This covers a task of fred that ends silently.
        let router = match tokio::time::timeout(LAST_RESORT, client.init()).await {
            Ok(router) => router?,
            Err(_) => return Err(Error::new(ErrorKind::Timeout, "Connecting takes too long.")),
        };
        let (alive, ended) = watch::channel(());
        let abort = router.abort_handle();
        tokio::spawn(async move {
            drop(router.await);
            drop(alive);
        });
        Ok(Self {
            client,
            router: abort,
            ended,
            broken: AtomicBool::new(false),
            misled: AtomicBool::new(false),
            out_of_step: AtomicBool::new(false),
        })
    }

    fn send(self: Arc<Self>, lazy: &Arc<LazyConnection>, request: Request, deadline: Instant) -> Sent {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let command = client::command(&self.client, request, timeout);
        let number = lazy.made.load(Ordering::Acquire);
        client::start(self.attend(lazy.clone(), number, command))
    }

    /// Ends it, with the commands in flight.
    fn end(&self) {
        self.router.abort();
    }

    /// Waits for an answer, and keeps the connection until then.
    async fn attend(
        self: Arc<Self>,
        lazy: Arc<LazyConnection>,
        number: u64,
        command: impl Future<Output = FredResult<Value>>,
    ) -> FredResult<Value> {
        let mut ended = self.ended.clone();
        let mut ended = pin!(ended.changed());
        let mut command = pin!(command);
        let answer = poll_fn(|cx| match command.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(answer),
            Poll::Pending => {
                ended.as_mut().poll(cx).map(|_| Err(Error::new(ErrorKind::IO, "Connection closed.")))
            }
        })
        .await;
        let answer = match answer {
            Ok(_) if self.out_of_step.load(Ordering::Acquire) => {
                Err(Error::new(ErrorKind::IO, "Answers out of step."))
            }
            answer => answer,
        };
        // Before the caller gets the error, and before fred's task ends: the next command, a release for
        // example, has to use a new connection.
        if answer.as_ref().is_err_and(is_broken) {
            self.broken.store(true, Ordering::Release);
        }
        lazy.note(number, &answer);
        // A Cluster's client rediscovers its servers by itself. The wrong server stays while the next request
        // would have to wait for the right one.
        if answer.as_ref().is_err_and(asks_for_another_connection)
            && !self.client.is_clustered()
            && lazy.reconnect().may_begin(Instant::now().into_std())
        {
            self.misled.store(true, Ordering::Release);
        }
        answer
    }

    fn is_usable(&self) -> bool {
        !self.broken.load(Ordering::Acquire) && !self.router.is_finished()
    }
}

impl Drop for Connected {
    /// fred's task would keep the client alive.
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes a connection.
struct Connecting {
    lazy: Arc<LazyConnection>,
    finished: bool,
}

impl Connecting {
    /// fred waits for an answer of the server before it uses a connection.
    async fn run(mut self, delay: Duration) {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let made = Connected::connect(self.lazy.config.clone()).await;
        self.finished = true;
        let mut state = self.lazy.state();
        let State::Connecting(queue) = mem::replace(&mut *state, State::Closed) else { return };
        match made {
            Ok(connected) => {
                let connected = Arc::new(connected);
                self.lazy.made.fetch_add(1, Ordering::AcqRel);
                self.lazy.reconnect().connected();
                // Under the lock, so that later commands come after these.
                for Waiting { request, deadline, sender } in queue {
                    if !sender.is_closed() {
                        drop(sender.send(Ok(connected.clone().send(&self.lazy, request, deadline))));
                    }
                }
                *state = State::Open(connected);
            }
            Err(error) => {
                drop(state);
                queue.into_iter().for_each(|waiting| drop(waiting.sender.send(Err(error.clone()))));
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
        let mut state = self.lazy.state();
        if let State::Connecting(queue) = &mut *state {
            let queue = mem::take(queue);
            *state = State::Closed;
            drop(state);
            drop(queue);
        }
    }
}

/// Whether this is the end of a connection. All commands in flight then fail with the same error.
fn is_broken(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::IO | ErrorKind::Canceled)
        || error.details().starts_with("CLUSTERDOWN")
        || error.details() == "Failed to route command."
}

/// The options that a lock needs.
pub(crate) fn connection_config() -> ConnectionConfig {
    ConnectionConfig {
        connection_timeout: STEP,
        internal_command_timeout: STEP,
        tcp: TcpConfig {
            // Each request is small and nothing follows it.
            nodelay: Some(true),
            keepalive: Some(TcpKeepalive::new().with_time(SILENCE)),
            // The kernel discards what it could not deliver for so long, with the connection. Otherwise it
            // would deliver every acquire of a network cut when the network heals: each was given up long
            // ago, and would hold its keys for a whole TTL.
            #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
            user_timeout: Some(SILENCE),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    }
}

/// How long each step of connecting may take: reaching the server, and logging in.
const STEP: Duration = Duration::from_secs(1);
const LAST_RESORT: Duration = Duration::from_secs(30);
/// How long the other side's kernel may be silent before the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(2);
