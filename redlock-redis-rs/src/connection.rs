//! A connection that is made when it is needed, and made again when it broke.

use std::{
    fmt,
    future::Future,
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError,
    RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::{sync::oneshot, task::unconstrained};

/// One multiplexed connection to one server: made at the first command, replaced at the first command after it
/// broke.
///
/// A command is sent once or not at all: the one that finds the connection broken fails. Commands that arrive while
/// a connection is made wait for it, and are sent in the order of their arrival; those that nobody waits for any more
/// by then are not sent. Unlike redis-rs' `ConnectionManager` it never answers with the error of an earlier attempt,
/// whatever the error was.
///
/// Cheap to clone; clones share the connection. Its commands need to be polled on the tokio runtime.
#[derive(Clone)]
pub struct Reconnecting(Arc<Link>);

struct Link {
    client: Client,
    config: AsyncConnectionConfig,
    state: Mutex<State>,
}

struct State {
    line: Line,
    /// How many connections have been made.
    made: u64,
}

enum Line {
    Closed,
    Connecting(Vec<Waiting>),
    Open(MultiplexedConnection),
}

/// A command that waits for a connection, or for the error of making one.
type Waiting = Box<dyn FnOnce(RedisResult<Used>) + Send>;

/// A connection, and which one it is.
struct Used {
    connection: MultiplexedConnection,
    number: u64,
}

impl Reconnecting {
    /// Connects as `client` does; nothing is sent yet.
    pub(crate) fn new(client: Client) -> Self {
        // Each request has a timeout of its own; what takes longer than that is nobody's concern.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None);
        Self(Arc::new(Link { client, config, state: Mutex::new(State { line: Line::Closed, made: 0 }) }))
    }

    /// What to tell of the server in errors: its address and database, without credentials.
    pub(crate) fn name(&self) -> String {
        let info = self.0.client.get_connection_info();
        match info.redis_settings().db() {
            0 => info.addr().to_string(),
            db => format!("{}/{db}", info.addr()),
        }
    }

    /// The connection; or, while there is none, the answer of a command that waits for it.
    fn connection_or_answer<T, C, F>(&self, command: impl FnOnce() -> C) -> Result<Used, Answer<T>>
    where
        T: Send + 'static,
        C: FnOnce(MultiplexedConnection) -> F + Send + 'static,
        F: Future<Output = RedisResult<T>> + Send + 'static,
    {
        let mut state = self.0.state();
        let number = state.made;
        if let Line::Open(connection) = &state.line {
            return Ok(Used { connection: connection.clone(), number });
        }
        let (waiting, answer) = wait_for_connection(command());
        if let Line::Connecting(queue) = &mut state.line {
            queue.push(waiting);
        } else {
            state.line = Line::Connecting(vec![waiting]);
            // A runtime that is being shut down drops the task on the spot, and that takes the lock.
            drop(state);
            // On its own, so that it goes on when the first to wait gives up.
            drop(tokio::spawn(Connecting { link: self.0.clone(), finished: false }.run()));
        }
        Err(answer)
    }

    async fn answered<T>(&self, answer: Answer<T>) -> RedisResult<T> {
        // Without an answer: the runtime that made the connection has been shut down.
        let closed = |_| (NO_CONNECTION, Err(io::Error::from(io::ErrorKind::BrokenPipe).into()));
        let (number, result) = answer.await.unwrap_or_else(closed);
        self.0.note(number, result)
    }
}

/// What came of a command that waited, and on which connection.
type Answer<T> = oneshot::Receiver<(u64, RedisResult<T>)>;

fn wait_for_connection<T, C, F>(command: C) -> (Waiting, Answer<T>)
where
    T: Send + 'static,
    C: FnOnce(MultiplexedConnection) -> F + Send + 'static,
    F: Future<Output = RedisResult<T>> + Send + 'static,
{
    let (sender, answer) = oneshot::channel();
    let waiting = move |connected: RedisResult<Used>| match connected {
        Err(error) => drop(sender.send((NO_CONNECTION, Err(error)))),
        Ok(_) if sender.is_closed() => {}
        Ok(Used { connection, number }) => {
            let mut sending = Box::pin(unconstrained(async move {
                let result = command(connection).await;
                drop(sender.send((number, result)));
            }));
            // The first poll puts the command into the connection's queue, so it is done here, in order.
            if sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                drop(tokio::spawn(sending));
            }
        }
    };
    (Box::new(waiting), answer)
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a connection that turned out to be broken, unless it has been replaced already.
    fn note<T>(&self, number: u64, result: RedisResult<T>) -> RedisResult<T> {
        if result.as_ref().is_err_and(RedisError::is_unrecoverable_error) {
            let mut state = self.state();
            if state.made == number && matches!(state.line, Line::Open(_)) {
                state.line = Line::Closed;
            }
        }
        result
    }
}

/// Makes a connection.
struct Connecting {
    link: Arc<Link>,
    finished: bool,
}

impl Connecting {
    async fn run(mut self) {
        let made = self.link.client.get_multiplexed_async_connection_with_config(&self.link.config).await;
        self.finished = true;
        let mut state = self.link.state();
        let Line::Connecting(queue) = mem::replace(&mut state.line, Line::Closed) else { return };
        match made {
            Ok(connection) => {
                state.made += 1;
                let number = state.made;
                // Under the lock, so that what arrives from now on comes behind; what waited does not take it.
                for waiting in queue {
                    waiting(Ok(Used { connection: connection.clone(), number }));
                }
                state.line = Line::Open(connection);
            }
            Err(error) => {
                drop(state);
                queue.into_iter().for_each(|waiting| waiting(Err(error.clone())));
            }
        }
    }
}

impl Drop for Connecting {
    /// When the runtime went away in the middle, the next command begins again on its own.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut state = self.link.state();
        if let Line::Connecting(queue) = &mut state.line {
            let queue = mem::take(queue);
            state.line = Line::Closed;
            drop(state);
            drop(queue);
        }
    }
}

impl ConnectionLike for Reconnecting {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let owned = || {
                let command = command.clone();
                |mut connection: MultiplexedConnection| async move {
                    connection.req_packed_command(&command).await
                }
            };
            match self.connection_or_answer(owned) {
                Ok(mut used) => self.0.note(used.number, used.connection.req_packed_command(command).await),
                Err(answer) => self.answered(answer).await,
            }
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let owned = || {
                let pipeline = pipeline.clone();
                move |mut connection: MultiplexedConnection| async move {
                    connection.req_packed_commands(&pipeline, offset, count).await
                }
            };
            match self.connection_or_answer(owned) {
                Ok(mut used) => {
                    let result = used.connection.req_packed_commands(pipeline, offset, count).await;
                    self.0.note(used.number, result)
                }
                Err(answer) => self.answered(answer).await,
            }
        })
    }

    fn get_db(&self) -> i64 {
        self.0.client.get_connection_info().redis_settings().db()
    }
}

impl fmt::Debug for Reconnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reconnecting").field(&self.name()).finish()
    }
}

/// A client for a URL, with the socket options that a lock needs.
pub(crate) fn client(url: impl IntoConnectionInfo) -> RedisResult<Client> {
    let info: ConnectionInfo = url.into_connection_info()?;
    let keep_alive = TcpKeepalive::new().with_time(SILENCE);
    // Without delay, as each request is small and waits for nothing else.
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keep_alive);
    // What the kernel could not deliver for so long is thrown away with the connection. Else it would deliver every
    // acquire of a network cut when the network heals, each of them long given up and good for a whole ttl.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
    let settings = settings.set_user_timeout(SILENCE);
    Client::open(info.set_tcp_settings(settings))
}

/// The number of no connection: they are counted from 1.
const NO_CONNECTION: u64 = 0;
/// How long making a connection may take, the login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the other side's kernel may be silent before the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(2);
