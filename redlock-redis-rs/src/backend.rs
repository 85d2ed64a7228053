//! The backend: one request, one command.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use redis::{Client, Cmd, IntoConnectionInfo, RedisResult, aio::ConnectionLike};
use redlock_core::{Acquire, BackendError, Extend, LockBackend, Release, Released, Reply};
use tokio::task::unconstrained;

use crate::{
    class::classify,
    connection::{self, Reconnecting},
    scripts,
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
/// Requests need to be polled on the tokio runtime, as redis-rs' commands do.
#[derive(Clone)]
pub struct RedisBackend<C = Reconnecting> {
    connection: C,
    name: String,
}

impl RedisBackend {
    /// A node by its URL (`redis://`, `redis+unix://`, or `rediss://` with one of redis-rs' TLS features), or
    /// anything that redis-rs makes a [`redis::ConnectionInfo`] of.
    ///
    /// Nothing is sent yet: a server that is down is no error here. The connection has `TCP_NODELAY` on, keep-alive
    /// probes and, on Linux, a user timeout of 2 seconds; it is made at the first request, and made again when it
    /// broke.
    ///
    /// # Errors
    ///
    /// When the URL makes no sense.
    pub fn open(url: impl IntoConnectionInfo) -> RedisResult<Self> {
        Ok(Self::from_client(connection::client(url)?))
    }

    /// A node by a client, whose socket options are left as they are: see [`RedisBackend::open`] for those that
    /// a lock needs. Nothing is sent yet.
    #[must_use]
    pub fn from_client(client: Client) -> Self {
        let connection = Reconnecting::new(client);
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
    /// for its retries), or one of your own.
    ///
    /// The connection must not send a command twice, keep commands in order, and write them to one server.
    pub fn new(connection: C) -> Self {
        Self { connection, name: String::new() }
    }

    /// What errors call this node. The default is the address for a URL or a client, and nothing for a connection.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    async fn run(&self, command: Cmd, timeout: Duration) -> Result<bool, BackendError> {
        // Unconstrained: a task that has done much already would find redis-rs' queue "full", and what it asks later
        // would overtake this.
        match unconstrained(tokio::time::timeout(timeout, self.send(&command))).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(classify(error)),
            Err(_) => Err(BackendError::timed_out(timeout)),
        }
    }

    /// Sends the command, once. When the connection turns out at the first poll to be broken already, the command has
    /// not been in its queue, and a connection that mends itself has been told so: then it gets a second chance.
    async fn send(&self, command: &Cmd) -> RedisResult<bool> {
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
        let command = scripts::eval(scripts::ACQUIRE, request.resources, request.token, Some(request.ttl));
        let granted = self.run(command, request.timeout).await?;
        Ok(if granted { Reply::Granted } else { Reply::Refused })
    }

    async fn extend(&self, request: Extend<'_>) -> Result<Reply, BackendError> {
        let command = scripts::eval(scripts::EXTEND, request.resources, request.token, Some(request.ttl));
        let granted = self.run(command, request.timeout).await?;
        Ok(if granted { Reply::Granted } else { Reply::Refused })
    }

    async fn release(&self, request: Release<'_>) -> Result<Released, BackendError> {
        let command = scripts::eval(scripts::RELEASE, request.resources, request.token, None);
        let removed = self.run(command, request.timeout).await?;
        Ok(if removed { Released::Removed } else { Released::NotHeld })
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
