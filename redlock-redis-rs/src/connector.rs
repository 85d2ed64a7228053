//! Makes a node's connections: to a server, a Cluster, or the server that a Sentinel names.

#[cfg(feature = "sentinel")]
use std::sync::Arc;
use std::{
    io,
    task::{Context, Poll, Waker},
    time::Duration,
};

#[cfg(feature = "sentinel")]
use futures_util::lock::Mutex;
#[cfg(any(feature = "smol-rustls", feature = "tokio-rustls"))]
use redis::TlsCertificates;
#[cfg(feature = "sentinel")]
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value,
    aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
#[cfg(feature = "cluster")]
use redis::{
    ProtocolVersion,
    cluster::{ClusterClient, ClusterClientBuilder},
};
#[cfg(feature = "sentinel")]
use redlock_core::PerRuntime;
use redlock_core::{Runtime, node_url::OpenError};

#[cfg(feature = "cluster")]
use crate::ordered_cluster::{Queued, TASK_ENDED};
use crate::{
    error::asks_for_another_connection,
    executor,
    login::{self, Driver},
    tls,
    url::{self, refused},
};

/// Makes connections to one node.
#[allow(clippy::large_enum_variant, reason = "a node has one, and keeps it behind a pointer")]
pub(crate) enum Connector {
    Server(Client),
    #[cfg(feature = "cluster")]
    Cluster(Box<ClusterClient>),
    #[cfg(feature = "sentinel")]
    Sentinel(Sentinels),
}

/// Returns the client for the caller's runtime. The client keeps connections to Sentinels, and one task at a
/// time locks it to look for the master. Each runtime has its own, so that a runtime that nobody drives does
/// not block the others.
#[cfg(feature = "sentinel")]
type Sentinels = Box<dyn Fn() -> Arc<Mutex<SentinelClient>> + Send + Sync>;

/// A connection to a node.
#[derive(Clone)]
pub(crate) enum Connection {
    Server {
        connection: MultiplexedConnection,
        _driver: Option<Driver>,
    },
    #[cfg(feature = "cluster")]
    Cluster(Queued),
}

impl Connector {
    /// A server at a URL.
    pub(crate) fn server(url: &str) -> Result<Self, OpenError> {
        let info = url::of_server(url)?;
        Client::open(info.set_tcp_settings(tcp_settings())).map(Self::Server).map_err(refused)
    }

    /// A server at a URL of `rediss://`.
    #[cfg(any(feature = "smol-rustls", feature = "tokio-rustls"))]
    pub(crate) fn tls_server(url: &str, certificates: TlsCertificates) -> Result<Self, OpenError> {
        let info = url::of_server(url)?.set_tcp_settings(tcp_settings());
        Client::build_with_tls(info, certificates).map(Self::Server).map_err(refused)
    }

    /// The Cluster that the servers at these URLs belong to, and its name.
    #[cfg(feature = "cluster")]
    pub(crate) fn cluster(
        urls: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<(Self, String), OpenError> {
        let servers = url::of_cluster(urls)?;
        let name = url::addresses(&servers);
        let client = ClusterClientBuilder::new(servers)
            // A command is sent once.
            .retries(0)
            .connection_timeout(CONNECT_TIMEOUT)
            // Without one, looking up a slot on a server that hangs would never end.
            .response_timeout(SILENCE)
            .overall_response_timeout(None)
            // Reports a broken connection at once, and not only with the next command.
            .use_protocol(ProtocolVersion::RESP3)
            .tcp_settings(tcp_settings())
            .build()
            .map_err(refused)?;
        Ok((Self::cluster_client(client), name))
    }

    #[cfg(feature = "cluster")]
    pub(crate) fn cluster_client(client: ClusterClient) -> Self {
        Self::Cluster(Box::new(client))
    }

    /// The server that the Sentinels at these URLs name as `master`, and its name.
    #[cfg(feature = "sentinel")]
    pub(crate) fn sentinel(
        urls: impl IntoIterator<Item = impl AsRef<str>>,
        master: String,
        login: SentinelNodeConnectionInfo,
    ) -> Result<(Self, String), OpenError> {
        let sentinels = url::of_sentinels(urls)?.into_iter();
        let sentinels: Vec<_> = sentinels.map(|sentinel| sentinel.set_tcp_settings(tcp_settings())).collect();
        let name = format!("{master}@{}", url::addresses(&sentinels));
        let login = login.set_tcp_settings(tcp_settings());
        let client = move || {
            let (sentinels, master, login) = (sentinels.clone(), master.clone(), Some(login.clone()));
            SentinelClient::build(sentinels, master, login, SentinelServerType::Master)
        };
        client().map_err(refused)?;
        let clients = PerRuntime::new(move || Mutex::new(client().expect("one was made of the same")));
        Ok((Self::Sentinel(Box::new(move || clients.get())), name))
    }

    #[cfg(feature = "sentinel")]
    pub(crate) fn sentinel_client(client: SentinelClient) -> Self {
        let client = Arc::new(Mutex::new(client));
        Self::Sentinel(Box::new(move || client.clone()))
    }

    /// What errors call a server: its address and database, without credentials. `None` for a Cluster or a
    /// Sentinel.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Self::Server(client) => {
                let info = client.get_connection_info();
                Some(match info.redis_settings().db() {
                    0 => url::address(info),
                    db => format!("{}/{db}", url::address(info)),
                })
            }
            #[cfg(any(feature = "cluster", feature = "sentinel"))]
            _ => None,
        }
    }

    pub(crate) fn is_one_server(&self) -> bool {
        match self {
            Self::Server(_) => true,
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => false,
            #[cfg(feature = "sentinel")]
            Self::Sentinel(_) => true,
        }
    }

    pub(crate) fn db(&self) -> i64 {
        match self {
            Self::Server(client) => client.get_connection_info().redis_settings().db(),
            #[cfg(any(feature = "cluster", feature = "sentinel"))]
            _ => 0,
        }
    }

    /// Whether connections are encrypted, as far as can be seen from outside.
    #[cfg(any(feature = "smol-rustls", feature = "tokio-rustls"))]
    pub(crate) fn may_use_tls(&self) -> bool {
        match self {
            Self::Server(client) => {
                matches!(client.get_connection_info().addr(), redis::ConnectionAddr::TcpTls { .. })
            }
            #[cfg(any(feature = "cluster", feature = "sentinel"))]
            _ => true,
        }
    }

    /// Connects; the tasks that the connection needs run on `runtime`. The server has sent a reply when this
    /// returns.
    pub(crate) async fn connect(&self, runtime: &dyn Runtime) -> RedisResult<Connection> {
        tls::prepare(self);
        match self {
            Self::Server(client) => connect_to_server(client, runtime).await,
            // It is asked for its slots whenever it is connected to.
            #[cfg(feature = "cluster")]
            Self::Cluster(client) => {
                let connection = client.get_async_connection().await?;
                Ok(Connection::Cluster(Queued::new(connection, runtime)))
            }
            #[cfg(feature = "sentinel")]
            Self::Sentinel(clients) => {
                let client = clients();
                let mut client = client.lock().await;
                connect_to_server(&client.async_get_client().await?, runtime).await
            }
        }
    }

    /// Connects for watching keys, with RESP3; what the server pushes goes to `pushes`. Not for a Cluster, whose
    /// servers would each have to be watched.
    pub(crate) async fn connect_to_watch(
        &self,
        pushes: impl AsyncPushSender,
    ) -> RedisResult<MultiplexedConnection> {
        tls::prepare(self);
        let config = config().set_push_sender(pushes);
        match self {
            Self::Server(client) => login::connect_to_watch(client, &config).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => {
                Err((redis::ErrorKind::InvalidClientConfig, "A Cluster is not watched").into())
            }
            #[cfg(feature = "sentinel")]
            Self::Sentinel(clients) => {
                let client = clients();
                let client = client.lock().await.async_get_client().await?;
                login::connect_to_watch(&client, &config).await
            }
        }
    }

    /// Whether a connection with this answer is broken.
    pub(crate) fn is_over(&self, answer: Result<&[Value], &RedisError>) -> bool {
        match self {
            // It recovers by itself when one of its servers is gone, and keeps the order of commands to the
            // others. It accepts no more commands only once its task has ended with its runtime.
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => answer.is_err_and(|error| {
                let text = error.to_string();
                text.contains(TASK_ENDED) || text.contains(CLUSTER_TASK_ENDED)
            }),
            _ => answer.is_err_and(RedisError::is_unrecoverable_error),
        }
    }

    /// Whether a connection with this answer works but leads to the wrong server: another connection may lead
    /// to the right one, behind an address or a Sentinel.
    pub(crate) fn is_misled(&self, answer: Result<&[Value], &RedisError>) -> bool {
        match self {
            // It rediscovers its servers by itself, and an error of one is no reason to leave the others.
            #[cfg(feature = "cluster")]
            Self::Cluster(_) => false,
            _ => asks_for_another_connection(answer),
        }
    }
}

impl Connection {
    /// Whether the connection has ended, so that no further command would be sent. redis-rs reports this only
    /// in reply to a command, and then without saying whether that was sent. So this sends a harmless
    /// command, and cancels it at once if the connection is alive.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Server { connection, .. } => {
                let (mut connection, ping) = (connection.clone(), redis::cmd("PING"));
                let mut asked = connection.req_packed_command(&ping);
                let polled = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                matches!(polled, Poll::Ready(Err(error)) if error.is_unrecoverable_error())
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(connection) => connection.has_ended(),
        }
    }
}

impl Connection {
    /// As [`ConnectionLike`] does, without a box to a server.
    pub(crate) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Server { connection, .. } => connection.send_packed_command(command).await,
            #[cfg(feature = "cluster")]
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server { connection, .. } => connection.req_packed_command(command),
            #[cfg(feature = "cluster")]
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server { connection, .. } => connection.req_packed_commands(pipeline, offset, count),
            #[cfg(feature = "cluster")]
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server { connection, .. } => connection.get_db(),
            #[cfg(feature = "cluster")]
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

async fn connect_to_server(client: &Client, runtime: &dyn Runtime) -> RedisResult<Connection> {
    let too_long = || Err(io::Error::from(io::ErrorKind::TimedOut).into());
    let config = config();
    let connecting = login::connect(client, &config);
    let connected = executor::within(runtime, CONNECT_TIMEOUT, connecting).await.unwrap_or_else(too_long);
    connected.map(|(connection, _driver)| Connection::Server { connection, _driver })
}

fn config() -> AsyncConnectionConfig {
    // Each request has a timeout of its own, so the connection needs none.
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE)
}

/// The socket options that a lock needs.
pub(crate) fn tcp_settings() -> TcpSettings {
    let keep_alive = TcpKeepalive::new().with_time(SILENCE);
    // Without delay, since each write is small and nothing follows it before its replies.
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keep_alive);
    // The kernel discards what it could not deliver for so long, with the connection. Otherwise it would
    // deliver every acquire of a network cut when the network heals: each was given up long ago, and would
    // hold its keys for a whole TTL.
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
    let settings = settings.set_user_timeout(SILENCE);
    settings
}

/// How many commands may wait to be written. When the queue is full, later commands overtake those that wait
/// for room.
const QUEUE: usize = 1 << 16;
/// How long connecting may take, including the login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the other side's kernel may be silent before the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(2);
/// The error of redis-rs for a cluster connection whose task has ended.
#[cfg(feature = "cluster")]
const CLUSTER_TASK_ENDED: &str = "redis_cluster: Unable to";
