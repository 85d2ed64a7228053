//! The backend: one request, one command.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
#[cfg(any(feature = "smol-rustls", feature = "tokio-rustls"))]
use redis::TlsCertificates;
#[cfg(feature = "cluster")]
use redis::cluster::ClusterClient;
#[cfg(feature = "sentinel")]
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo};
use redis::{Client, Cmd, FromRedisValue, IntoConnectionInfo, RedisResult, aio::ConnectionLike};
use redlock_core::{
    Acquire, BackendError, BackendErrorKind, Extend, Inspect, KeyState, LockBackend, Release, Released, Reply,
};

use crate::{
    class::classify,
    connection::Reconnecting,
    exec::{Executor, unconstrained},
    scripts,
    source::Source,
};

/// A Redis or Valkey server as a node, over any asynchronous connection of redis-rs that can be cloned.
///
/// ```no_run
/// use std::time::Duration;
/// use redlock_redis_rs::{RedisBackend, Redlock, TokioRuntime};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redlock = Redlock::builder(TokioRuntime::current())
///     .node(RedisBackend::open("redis://a:6379")?)
///     .node(RedisBackend::open("redis://b:6379")?)
///     .node(RedisBackend::open("redis://c:6379")?)
///     .build()?;
/// let lock = redlock.lock("locks:account:322456", Duration::from_secs(10)).await?;
/// # drop(lock);
/// # Ok(())
/// # }
/// ```
///
/// Requests need to be polled on a runtime that is compiled in, as redis-rs' commands do: on tokio with the feature
/// `tokio`, anywhere with `smol`. With both, a request that is polled inside of tokio runs there, others on smol.
#[derive(Clone)]
pub struct RedisBackend<C = Reconnecting> {
    connection: C,
    name: String,
}

impl RedisBackend {
    /// A node by its URL (`redis://`, `redis+unix://`, or `rediss://` with the feature `tokio-rustls` or `smol-rustls`),
    /// or anything that redis-rs makes a [`redis::ConnectionInfo`] of.
    ///
    /// Nothing is sent yet: a server that is down is no error here. The connection has `TCP_NODELAY` on, keep-alive
    /// probes and, on Linux, a user timeout of 2 seconds; it is made at the first request, and made again when it
    /// broke.
    ///
    /// # Errors
    ///
    /// When the URL makes no sense.
    pub fn open(url: impl IntoConnectionInfo) -> RedisResult<Self> {
        Source::server(url).map(Self::lazy)
    }

    /// A node by its `rediss://` URL, with a certificate authority in place of the system's, a certificate for the
    /// client, or both. Otherwise as [`RedisBackend::open`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use redlock_redis_rs::{RedisBackend, redis::{ClientTlsConfig, TlsCertificates}};
    ///
    /// let certificates = TlsCertificates {
    ///     root_cert: Some(std::fs::read("ca.pem")?),
    ///     client_tls: Some(ClientTlsConfig {
    ///         client_cert: std::fs::read("client.pem")?,
    ///         client_key: std::fs::read("client.key")?,
    ///     }),
    /// };
    /// let node = RedisBackend::open_tls("rediss://a.example:6379", certificates)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the URL or a certificate makes no sense, or the URL is not one of `rediss://`.
    #[cfg(any(feature = "smol-rustls", feature = "tokio-rustls"))]
    pub fn open_tls(url: impl IntoConnectionInfo, certificates: TlsCertificates) -> RedisResult<Self> {
        Source::tls_server(url, certificates).map(Self::lazy)
    }

    /// A node by a client, whose socket options are left as they are: see [`RedisBackend::open`] for those that
    /// a lock needs. Nothing is sent yet.
    #[must_use]
    pub fn from_client(client: Client) -> Self {
        Self::lazy(Source::Server(client))
    }

    /// A node that is a whole Redis Cluster, by the URLs of some of its servers.
    ///
    /// Nothing is sent yet. Its connections have the socket options of [`RedisBackend::open`], and send each command
    /// once. A server of the Cluster has 2 seconds for an answer, also when a request is given more.
    ///
    /// A request's resources have to be in one slot, as those with the same hash tag are
    /// (`{account:1}:balance`, `{account:1}:history`); else the node rejects it with CROSSSLOT.
    ///
    /// # Errors
    ///
    /// When there is no URL, when one makes no sense, or when they differ in their credentials or in TLS.
    #[cfg(feature = "cluster")]
    pub fn open_cluster(urls: impl IntoIterator<Item = impl IntoConnectionInfo>) -> RedisResult<Self> {
        let (source, name) = Source::cluster(urls)?;
        Ok(Self::lazy(source).named(name))
    }

    /// A node that is a whole Redis Cluster, by a client with settings of its own. Nothing is sent yet.
    ///
    /// The client needs `retries(0)`, since a command must not be sent twice, and a `response_timeout`; for the socket
    /// options that a lock needs see [`RedisBackend::open`].
    #[cfg(feature = "cluster")]
    #[must_use]
    pub fn from_cluster_client(client: ClusterClient) -> Self {
        Self::lazy(Source::cluster_client(client))
    }

    /// A node that is the server which Sentinels, by their URLs, name as `master`; `login` is how to log in to it.
    ///
    /// Nothing is sent yet. The Sentinels are asked for the address before each connection is made: at the first
    /// request, when the connection broke, when the server turned out to be read-only, and when it has been asked for
    /// 2 seconds without an answer. Socket options are those of [`RedisBackend::open`], also where `login` has others.
    ///
    /// A replica that is promoted may lack the latest keys. It counts as a server that has lost them.
    ///
    /// # Errors
    ///
    /// When there is no URL, or when one makes no sense.
    #[cfg(feature = "sentinel")]
    pub fn open_sentinel(
        urls: impl IntoIterator<Item = impl IntoConnectionInfo>,
        master: impl Into<String>,
        login: SentinelNodeConnectionInfo,
    ) -> RedisResult<Self> {
        let (source, name) = Source::sentinel(urls, master.into(), login)?;
        Ok(Self::lazy(source).named(name))
    }

    /// A node that is the server which Sentinels name, by a client for its master with settings of its own (say,
    /// certificates). Nothing is sent yet. For the socket options that a lock needs see [`RedisBackend::open`].
    #[cfg(feature = "sentinel")]
    #[must_use]
    pub fn from_sentinel_client(client: SentinelClient) -> Self {
        Self::lazy(Source::sentinel_client(client))
    }

    fn lazy(source: Source) -> Self {
        let connection = Reconnecting::new(source);
        let name = connection.name();
        Self { connection, name }
    }
}

impl<C> RedisBackend<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    /// A node over an existing connection: `MultiplexedConnection` (which stays broken when it breaks),
    /// `ConnectionManager` (better with `set_number_of_retries(0)`: else every request to a node that is down waits
    /// for its retries), `ClusterConnection` (better with `retries(0)`: else it may send a command twice), or one of
    /// your own. All are better with `set_response_timeout(None)`, since each request has a timeout of its own, and with
    /// `set_pipeline_buffer_size`, far above how many requests are under way at a time: beyond it (by default 50)
    /// redis-rs does not keep their order.
    ///
    /// The connection keeps commands for a key in order, writes them to one server, and does not send one twice. When
    /// it does, a key of this node's own is never taken for somebody else's, and lives no longer; but an acquire that
    /// is sent again after its release leaves its key for a whole ttl.
    pub fn new(connection: C) -> Self {
        Self { connection, name: String::new() }
    }

    /// What errors call this node. The default is the address for a URL or a client, and nothing for a connection.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    async fn run<T: FromRedisValue>(&self, command: Cmd, timeout: Duration) -> Result<T, BackendError> {
        let executor = Executor::current().ok_or_else(|| {
            BackendError::new(BackendErrorKind::Rejected, "asked outside of the tokio runtime")
        })?;
        // Unconstrained: a task that has done much already would find redis-rs' queue "full", and what it asks later
        // would overtake this.
        match unconstrained(executor.within(timeout, self.send(&command))).await {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(error)) => Err(classify(error)),
            None => Err(BackendError::timed_out(timeout)),
        }
    }

    /// Sends the command, once. When the connection turns out at the first poll to be broken already, the command has
    /// not been in its queue, and a connection that mends itself has been told so: then it gets a second chance.
    async fn send<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        {
            let mut connection = self.connection.clone();
            let mut reply = pin!(command.query_async(&mut connection));
            match poll_fn(|cx| Poll::Ready(reply.as_mut().poll(cx))).await {
                Poll::Pending => return reply.await,
                Poll::Ready(Err(error)) if error.is_unrecoverable_error() => {}
                Poll::Ready(reply) => return reply,
            }
        }
        command.query_async(&mut self.connection.clone()).await
    }
}

#[async_trait]
impl<C> LockBackend for RedisBackend<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    async fn acquire(&self, request: Acquire<'_>) -> Result<Reply, BackendError> {
        let command =
            scripts::eval(scripts::ACQUIRE, request.resources, Some(request.token), Some(request.ttl));
        let granted = self.run(command, request.timeout).await?;
        Ok(if granted { Reply::Granted } else { Reply::Refused })
    }

    async fn extend(&self, request: Extend<'_>) -> Result<Reply, BackendError> {
        let command =
            scripts::eval(scripts::EXTEND, request.resources, Some(request.token), Some(request.ttl));
        let granted = self.run(command, request.timeout).await?;
        Ok(if granted { Reply::Granted } else { Reply::Refused })
    }

    async fn release(&self, request: Release<'_>) -> Result<Released, BackendError> {
        let command = scripts::eval(scripts::RELEASE, request.resources, Some(request.token), None);
        let removed = self.run(command, request.timeout).await?;
        Ok(if removed { Released::Removed } else { Released::NotHeld })
    }

    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        let command = scripts::eval(scripts::INSPECT, request.resources, None, None);
        let keys: Vec<(Option<Vec<u8>>, i64)> = self.run(command, request.timeout).await?;
        let state = |(value, ttl): (Option<Vec<u8>>, i64)| match value {
            Some(value) => KeyState::held(&value, u64::try_from(ttl).ok().map(Duration::from_millis)),
            None => KeyState::Free,
        };
        Ok(keys.into_iter().map(state).collect())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl<C> fmt::Debug for RedisBackend<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend").field("name", &self.name).finish_non_exhaustive()
    }
}
