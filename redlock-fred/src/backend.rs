//! The backend: one request, one command.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, FredResult},
    types::Value,
};
use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BackendErrorKind, Extend, FencedReply,
    Inspect, KeyState, LockBackend, PerRuntime, Raise, Release, ReleaseReply, Replace, Resources,
    Runtime as _, ServerInfo, TokioRuntime, Watch,
    node_url::OpenError,
    redis::{Command, Reply, ServerAnswer, ServerProbe, Watcher, of_single_server},
};
use tokio::{runtime::Handle, time::Instant};

use crate::{
    client::{self, Request},
    command::to_arguments,
    connection::LazyConnection,
    error::{classify, classify_setup},
    given::Given,
    reply::{key_states, to_reply},
    url, watch,
};

/// A Redis or Valkey server as a node, over a client of fred.
///
/// ```no_run
/// use std::time::Duration;
/// use redlock_fred::{FredBackend, Redlock, TokioRuntime};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redlock = Redlock::builder(TokioRuntime::current())
///     .node(FredBackend::open("redis://a:6379")?)
///     .node(FredBackend::open("redis://b:6379")?)
///     .node(FredBackend::open("redis://c:6379")?)
///     .build()?;
/// let lock = redlock.lock("locks:account:322456", Duration::from_secs(10)).await?;
/// # drop(lock);
/// # Ok(())
/// # }
/// ```
///
/// Poll requests on a tokio runtime with a timer, as fred's commands need it. On another runtime they are
/// [rejected](BackendErrorKind::Rejected).
#[derive(Clone)]
pub struct FredBackend {
    connection: Connection,
    name: String,
}

#[derive(Clone)]
enum Connection {
    /// One for each current-thread runtime: a connection, and fred's task for it, make no progress while
    /// nobody drives their runtime.
    Own(Arc<PerRuntime<LazyConnection>>, Arc<PerRuntime<Watcher>>),
    Given(Arc<Given>),
}

impl FredBackend {
    /// A node by its URL, in any form that fred accepts: `redis://[user:password@]host[:port][/database]`,
    /// `redis-cluster://`, `redis-sentinel://`, and with the feature `rustls` `rediss://` and its kin.
    ///
    /// In the user and the password, characters with a meaning in URLs (`/`, `?`, `#`, `@`, `:`, `%`, a
    /// blank) are percent-encoded. What fred would ignore, such as a database in the query, is an error: two
    /// programs that lock in different databases do not exclude each other.
    ///
    /// Sends nothing yet: a server that is down is not an error here. The connection has `TCP_NODELAY`,
    /// keep-alive probes and, on Linux, a user timeout of 2 seconds. The first request makes it; when it
    /// breaks, the next request makes a new one.
    ///
    /// # Errors
    ///
    /// When the URL is invalid, has a part without a meaning here, or selects TLS without the feature
    /// `rustls`. No error contains any of its text.
    pub fn open(url: &str) -> Result<Self, OpenError> {
        let config = url::config(url)?;
        let name = url::name(&config);
        let watcher = {
            let config = config.clone();
            PerRuntime::new(move || watch::watcher(config.clone()))
        };
        let lazy = PerRuntime::new(move || LazyConnection::new(config.clone()));
        Ok(Self { connection: Connection::Own(Arc::new(lazy), Arc::new(watcher)), name })
    }

    /// A node by a client that has been initialized, and stays so while the node is in use. It keeps its
    /// [`ConnectionConfig`](fred::types::config::ConnectionConfig): see [`FredBackend::open`] for what a lock
    /// needs. While it is not connected, requests fail at once, with the reason.
    ///
    /// The node does not ask which server is behind the client, since that may change at any time: see
    /// [`LockBackend::server`]. So the lock manager cannot detect two nodes that lead to one server, and with
    /// [`max_ttl`](redlock_core::RedlockBuilder::max_ttl) the node has no vote unless you choose so.
    ///
    /// # Errors
    ///
    /// Of the kind [`ErrorKind::Config`] when the client has no reconnect policy: after the first lost
    /// connection it would never work again.
    pub fn new(client: Client) -> FredResult<Self> {
        if !client.has_reconnect_policy() {
            return Err(Error::new(ErrorKind::Config, "a client for locks needs a reconnect policy"));
        }
        let name = url::name(&client.client_config());
        Ok(Self { connection: Connection::Given(Arc::new(Given::new(client))), name })
    }

    /// What errors call this node. The default is the address, without credentials.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Runs a script whose reply counts together with those of other nodes.
    async fn ask_for<T: Send>(
        &self,
        command: Command<'_>,
        read: impl Fn(&Reply) -> Result<T, BackendError> + Send + Sync,
        resources: &Resources,
        timeout: Duration,
    ) -> Result<T, BackendError> {
        let request = pin!(async { read(&self.send(command, Deadline::after(timeout)).await?) });
        self.count(request, resources, timeout).await
    }

    /// Runs a request whose answer counts together with those of other nodes, so the server has to be known.
    async fn count<T: Send>(
        &self,
        request: impl Future<Output = Result<T, BackendError>> + Send,
        resources: &Resources,
        timeout: Duration,
    ) -> Result<T, BackendError> {
        let lazy = match &self.connection {
            Connection::Own(lazy, _) => lazy.get(),
            Connection::Given(_) => return request.await,
        };
        let Some(server) = lazy.server() else { return request.await };
        let (start, patience) = (Instant::now(), ServerProbe::patience(timeout));
        let ask = || async move {
            let asked = now();
            let left = patience.saturating_sub(start.elapsed());
            let answer = self.ask(&Command::server_info(resources), Deadline::after(left)).await?;
            Ok(answer.as_bytes().map(|text| ServerAnswer::parse(text, asked, now())))
        };
        server.along_with(|| lazy.made(), ask, request).await
    }

    /// Sends a command, once, and checks that the answer is one to it.
    async fn send(&self, command: Command<'_>, deadline: Deadline) -> Result<Reply, BackendError> {
        let reply = to_reply(&self.ask(&command, deadline).await?);
        if command.accepts(&reply) { Ok(reply) } else { Err(self.unexpected()) }
    }

    async fn ask(&self, command: &Command<'_>, deadline: Deadline) -> Result<Value, BackendError> {
        if Handle::try_current().is_err() {
            return Err(BackendError::new(BackendErrorKind::Rejected, "fred runs on tokio only"));
        }
        let request = Request {
            name: command.name(),
            arguments: to_arguments(command),
            first_key: command.first_key(),
        };
        let Deadline { timeout, end } = deadline;
        let left = end.saturating_duration_since(Instant::now());
        let answer = match &self.connection {
            Connection::Given(given) => {
                if let Some(why_not) = given.why_not_connected() {
                    return Err(why_not);
                }
                client::start(client::command(&given.client, request, left)).answer().await
            }
            Connection::Own(lazy, _) => match lazy.get().send(request, end) {
                Ok(sent) => sent.answer().await,
                Err(waiting) => match within(left, waiting).await {
                    Some(Ok(Ok(sent))) => sent.answer().await,
                    Some(Ok(Err(error))) => return Err(classify_setup(error)),
                    Some(Err(_)) => {
                        return Err(classify(Error::new(ErrorKind::Canceled, "The runtime is gone.")));
                    }
                    None => return Err(BackendError::timed_out(timeout)),
                },
            },
        };
        answer.map_err(|error| match error.kind() {
            ErrorKind::Timeout => BackendError::timed_out(timeout),
            ErrorKind::Canceled => self.why_not_sent(error),
            _ if self.leads_to_one_server() => of_single_server(classify(error), "`redis-cluster://`"),
            _ => classify(error),
        })
    }

    fn leads_to_one_server(&self) -> bool {
        match &self.connection {
            Connection::Own(lazy, _) => lazy.get().server().is_some(),
            Connection::Given(given) => !given.client.is_clustered(),
        }
    }

    /// The answer is none to the command. The next answers on this connection may belong to other requests,
    /// too.
    fn unexpected(&self) -> BackendError {
        match &self.connection {
            Connection::Own(lazy, _) => lazy.get().replace(),
            Connection::Given(given) => given.reconnect(),
        }
        Reply::unexpected()
    }

    /// fred cancels what it has not sent. It reported the reason before, if at all.
    fn why_not_sent(&self, error: Error) -> BackendError {
        match &self.connection {
            Connection::Given(given) => given.why_not_connected().unwrap_or_else(|| classify(error)),
            Connection::Own(..) => classify(error),
        }
    }
}

#[async_trait]
impl LockBackend for FredBackend {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let Acquire { resources, timeout, .. } = request;
        let deadline = Deadline::after(timeout);
        let send = |command| self.send(command, deadline);
        match &self.connection {
            Connection::Given(given) => given.dialect.acquire(request, || 0, send).await,
            Connection::Own(lazy, _) => {
                let lazy = lazy.get();
                let asked = pin!(lazy.dialect().acquire(request, || lazy.made(), send));
                self.count(asked, resources, timeout).await
            }
        }
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.ask_for(Command::extend(&request), Reply::vote, request.resources, request.timeout).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let deadline = Deadline::after(request.timeout);
        let send = |command| self.send(command, deadline);
        match &self.connection {
            Connection::Given(given) => given.dialect.release(request, || 0, send).await,
            Connection::Own(lazy, _) => {
                let lazy = lazy.get();
                lazy.dialect().release(request, || lazy.made(), send).await
            }
        }
    }

    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        self.ask_for(Command::replace(&request), Reply::vote, request.resources, request.timeout).await
    }

    fn can_fence(&self) -> bool {
        true
    }

    async fn acquire_fenced(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        let command = Command::acquire_fenced(&request);
        self.ask_for(command, Reply::fenced, request.resources, request.timeout).await
    }

    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        self.ask_for(Command::raise(&request), Reply::fenced, request.resources, request.timeout).await
    }

    fn can_annotate(&self) -> bool {
        true
    }

    async fn annotate(&self, request: Annotate<'_>) -> Result<(), BackendError> {
        self.send(Command::annotate(&request), Deadline::after(request.timeout)).await.map(drop)
    }

    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        let answer = self.ask(&Command::inspect(&request), Deadline::after(request.timeout)).await?;
        key_states(&answer, &request).ok_or_else(|| self.unexpected())
    }

    /// Rejected over a client of the user, and to a Cluster.
    async fn watch(&self, request: Watch<'_>) -> Result<(), BackendError> {
        let cannot = |why| BackendError::new(BackendErrorKind::Rejected, why);
        let Connection::Own(lazy, watcher) = &self.connection else {
            return Err(cannot("this client cannot watch keys"));
        };
        let runtime = watch::runtime().ok_or_else(|| cannot("fred runs on tokio only"))?;
        if lazy.get().server().is_none() {
            return Err(cannot("a Cluster cannot watch keys"));
        }
        watcher.get().watch(&runtime, request).await
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    /// Known for a connection that this crate makes to a server.
    fn server(&self) -> Option<Arc<ServerInfo>> {
        let Connection::Own(lazy, _) = &self.connection else { return None };
        let lazy = lazy.get();
        lazy.server()?.server(lazy.made())
    }

    /// Known for a connection that this crate makes to a server, if the user may call `INFO`.
    fn uptime(&self) -> Result<Duration, BackendError> {
        let cannot = |why| BackendError::new(BackendErrorKind::Rejected, why);
        let Connection::Own(lazy, _) = &self.connection else {
            return Err(cannot(GIVEN));
        };
        let lazy = lazy.get();
        let server = lazy.server();
        let server = server.ok_or_else(|| cannot(CLUSTER))?;
        server.uptime(lazy.made(), now())
    }
}

impl fmt::Debug for FredBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FredBackend").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The time of the server's uptime: the real one, also where tokio's is paused.
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// When a request ends, and how long it had for all of its commands.
#[derive(Clone, Copy)]
struct Deadline {
    timeout: Duration,
    end: Instant,
}

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self { timeout, end: Instant::now() + timeout.min(LONGEST) }
    }
}

/// The output of the future, or `None` when it takes longer than `timeout`.
///
/// The timer is not one of tokio itself, which fires only while its runtime is driven: a request may move to
/// another runtime.
async fn within<T>(timeout: Duration, mut future: impl Future<Output = T> + Unpin) -> Option<T> {
    let mut timer = TokioRuntime::current().sleep(timeout);
    poll_fn(|cx| match Pin::new(&mut future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Why the uptime of a server is not known.
const GIVEN: &str =
    "it is not known how long the server of this client has been running: open the node by its URL";
const CLUSTER: &str =
    "it is not known how long a Cluster's servers have been running: lock on single servers";
/// Longer than any wait for an answer, and short enough to be added to an instant.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_future_of_a_request_has_no_room_for_the_question_about_the_server() {
        let node = FredBackend::open("redis://127.0.0.1:1").unwrap();
        let (resources, token) = ("a".into(), "0".repeat(40).parse().unwrap());
        let second = Duration::from_secs(1);
        let acquire = size_of_val(&*node.acquire(Acquire::new(&resources, &token, second, second)));
        let extend = size_of_val(&*node.extend(Extend::new(&resources, &token, second, second)));
        let release = size_of_val(&*node.release(Release::new(&resources, &token, second)));
        // A release asks none.
        assert!(acquire.max(extend) < 2 * release, "{acquire}, {extend}, {release}");
    }
}
