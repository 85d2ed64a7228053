//! A connection that is made when it is needed, and made again when it broke.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError,
    RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

/// One multiplexed connection to one server: made at the first command, replaced at the first command after it
/// broke.
///
/// A command is sent once or not at all: the one that finds the connection broken fails. Commands that arrive while
/// a connection is made wait for it, and the attempt goes on when they stop waiting. Unlike redis-rs'
/// `ConnectionManager` it never answers with the error of an earlier attempt, whatever the error was.
///
/// Cheap to clone; clones share the connection. Its commands need to be polled on the tokio runtime.
#[derive(Clone)]
pub struct Reconnecting(Arc<Link>);

struct Link {
    client: Client,
    config: AsyncConnectionConfig,
    /// The connection, or the attempt to make one.
    current: Mutex<Option<Attempt>>,
}

type Attempt = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

impl Reconnecting {
    /// Connects as `client` does; nothing is sent yet.
    pub(crate) fn new(client: Client) -> Self {
        // Each request has a timeout of its own; what takes longer than that is nobody's concern.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None);
        Self(Arc::new(Link { client, config, current: Mutex::new(None) }))
    }

    /// What to tell of the server in errors: its address and database, without credentials.
    pub(crate) fn name(&self) -> String {
        let info = self.0.client.get_connection_info();
        match info.redis_settings().db() {
            0 => info.addr().to_string(),
            db => format!("{}/{db}", info.addr()),
        }
    }

    fn attempt(&self) -> Attempt {
        let mut current = self.current();
        match &*current {
            Some(attempt) if !matches!(attempt.peek(), Some(Err(_))) => attempt.clone(),
            _ => {
                let (client, config) = (self.0.client.clone(), self.0.config.clone());
                let connect =
                    async move { client.get_multiplexed_async_connection_with_config(&config).await };
                let attempt = connect.boxed().shared();
                // Goes on when its first user stops waiting: the next one finds it further on.
                drop(tokio::spawn(attempt.clone()));
                current.insert(attempt).clone()
            }
        }
    }

    /// Forgets a connection that broke, unless it has been replaced already.
    fn discard(&self, broken: &Attempt) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|attempt| attempt.ptr_eq(broken)) {
            *current = None;
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Attempt>> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note<T>(&self, used: &Attempt, result: RedisResult<T>) -> RedisResult<T> {
        if result.as_ref().is_err_and(RedisError::is_unrecoverable_error) {
            self.discard(used);
        }
        result
    }
}

impl ConnectionLike for Reconnecting {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let attempt = self.attempt();
            let mut connection = attempt.clone().await?;
            self.note(&attempt, connection.req_packed_command(command).await)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let attempt = self.attempt();
            let mut connection = attempt.clone().await?;
            self.note(&attempt, connection.req_packed_commands(pipeline, offset, count).await)
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

/// How long making a connection may take, the login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the other side's kernel may be silent before the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(2);
