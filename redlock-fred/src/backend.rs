//! The backend: one request, one command.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, EventInterface, FredResult},
    types::{Value, config::Server},
};
use redlock_core::{
    Acquire, BackendError, BackendErrorKind, Extend, Inspect, KeyState, LockBackend, Release, Released,
    Replace, Reply, Resources,
    node_url::OpenError,
    redis::{READ_SERVER_ID, ServerId, of_single_server},
};
use tokio::{
    runtime::Handle,
    sync::broadcast::{Receiver, error::TryRecvError},
    time::Instant,
};

use crate::{
    answer::{done, key_states},
    class::classify,
    client,
    connection::Reconnecting,
    scripts, url,
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
/// Requests need to be polled on a tokio runtime with a timer, as fred's commands do. On another they are
/// [rejected](BackendErrorKind::Rejected).
#[derive(Clone)]
pub struct FredBackend {
    line: Line,
    name: String,
    /// The server behind a connection of ours.
    server: Arc<ServerId>,
}

#[derive(Clone)]
enum Line {
    Own(Arc<Reconnecting>),
    Given(Arc<Given>),
}

/// A client of the user's.
struct Given {
    client: Client,
    errors: Mutex<Errors>,
}

/// What fred reports apart from the answers: why a client is not connected.
struct Errors {
    receiver: Receiver<(Error, Option<Server>)>,
    last: Option<Error>,
}

impl FredBackend {
    /// A node by its URL, in any form that fred knows: `redis://[user:password@]host[:port][/database]`,
    /// `redis-cluster://`, `redis-sentinel://`, and with the feature `rustls` `rediss://` and its kin.
    ///
    /// In the user and the password, what has a meaning in a URL (`/`, `?`, `#`, `@`, `:`, `%`, a blank) is
    /// percent-encoded. What fred would not heed, such as a database in the query, is an error: two programs that lock
    /// in different databases do not exclude each other.
    ///
    /// Nothing is sent yet: a server that is down is no error here. The connection has `TCP_NODELAY` on, keep-alive
    /// probes and, on Linux, a user timeout of 2 seconds; it is made at the first request, and made again at the
    /// first request after it broke.
    ///
    /// # Errors
    ///
    /// When the URL makes no sense, says what has no meaning here, or asks for TLS without the feature `rustls`. No error
    /// has any of its text.
    pub fn open(url: &str) -> Result<Self, OpenError> {
        let link = Reconnecting::new(url::config(url)?);
        let name = url::name(link.config());
        Ok(Self { line: Line::Own(Arc::new(link)), name, server: Arc::default() })
    }

    /// A node by a client that has been initialized, and stays so for as long as the node is used. Its
    /// [`ConnectionConfig`](fred::types::config::ConnectionConfig) is left as it is: see [`FredBackend::open`] for
    /// what a lock needs. While it is not connected, requests fail at once.
    ///
    /// Which server is behind it is not asked, as it may be another one at any time: see [`LockBackend::server_id`].
    /// Two nodes that lead to one server are then not noticed.
    ///
    /// # Errors
    ///
    /// Of the kind [`ErrorKind::Config`] when the client has no reconnect policy: after the first lost connection it
    /// would never work again.
    pub fn new(client: Client) -> FredResult<Self> {
        if !client.has_reconnect_policy() {
            return Err(Error::new(ErrorKind::Config, "a client for locks needs a reconnect policy"));
        }
        let name = url::name(&client.client_config());
        let errors = Mutex::new(Errors { receiver: client.error_rx(), last: None });
        Ok(Self { line: Line::Given(Arc::new(Given { client, errors })), name, server: Arc::default() })
    }

    /// What errors call this node. The default is the address, without credentials.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Runs a script that may grant: then the server has to be known.
    async fn ask_for_vote(
        &self,
        arguments: Vec<Value>,
        resources: &Resources,
        timeout: Duration,
    ) -> Result<Reply, BackendError> {
        let request = async {
            let granted = done(&self.run(arguments, timeout).await?)?;
            Ok(if granted { Reply::Granted } else { Reply::Refused })
        };
        let link = match &self.line {
            Line::Own(link) if self.leads_to_one_server() => link,
            _ => return request.await,
        };
        let (start, patience) = (Instant::now(), ServerId::patience(timeout));
        let ask = || async move {
            let question = scripts::arguments(READ_SERVER_ID, resources, None, None);
            let answer = self.run(question, patience.saturating_sub(start.elapsed())).await?;
            Ok(answer.as_bytes().and_then(ServerId::of_answer))
        };
        self.server.along_with(|| link.made(), ask, request).await
    }

    async fn run(&self, arguments: Vec<Value>, timeout: Duration) -> Result<Value, BackendError> {
        if Handle::try_current().is_err() {
            return Err(BackendError::new(BackendErrorKind::Rejected, "fred runs on tokio only"));
        }
        let deadline = Instant::now() + timeout.min(LONGEST);
        let answer = match &self.line {
            Line::Given(given) => {
                client::start(client::eval(&given.client, arguments, timeout.min(LONGEST))).answer().await
            }
            Line::Own(link) => match link.send(arguments, deadline) {
                Ok(sent) => sent.answer().await,
                Err(waiting) => match tokio::time::timeout_at(deadline, waiting).await {
                    Ok(Ok(Ok(sent))) => sent.answer().await,
                    Ok(Ok(Err(error))) => return Err(classify(error)),
                    Ok(Err(_)) => {
                        return Err(classify(Error::new(ErrorKind::Canceled, "The runtime is gone.")));
                    }
                    Err(_) => return Err(BackendError::timed_out(timeout)),
                },
            },
        };
        answer.map_err(|error| match error.kind() {
            ErrorKind::Timeout => BackendError::timed_out(timeout),
            ErrorKind::Canceled => self.why_not_connected(error),
            _ if self.leads_to_one_server() => of_single_server(classify(error), "`redis-cluster://`"),
            _ => classify(error),
        })
    }

    fn leads_to_one_server(&self) -> bool {
        match &self.line {
            Line::Own(link) => !link.config().server.is_clustered(),
            Line::Given(given) => !given.client.is_clustered(),
        }
    }

    /// fred cancels what it has not sent. Why, it told before, if at all.
    fn why_not_connected(&self, error: Error) -> BackendError {
        match &self.line {
            Line::Given(given) if !given.client.is_connected() => match given.last_error() {
                Some(error) => classify(error),
                None => BackendError::new(BackendErrorKind::Indeterminate, "the client is not connected"),
            },
            _ => classify(error),
        }
    }
}

impl Given {
    fn last_error(&self) -> Option<Error> {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match errors.receiver.try_recv() {
                Ok((error, _)) => errors.last = Some(error),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return errors.last.clone(),
            }
        }
    }
}

#[async_trait]
impl LockBackend for FredBackend {
    async fn acquire(&self, request: Acquire<'_>) -> Result<Reply, BackendError> {
        let arguments =
            scripts::arguments(scripts::ACQUIRE, request.resources, Some(request.token), Some(request.ttl));
        self.ask_for_vote(arguments, request.resources, request.timeout).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<Reply, BackendError> {
        let arguments =
            scripts::arguments(scripts::EXTEND, request.resources, Some(request.token), Some(request.ttl));
        self.ask_for_vote(arguments, request.resources, request.timeout).await
    }

    async fn release(&self, request: Release<'_>) -> Result<Released, BackendError> {
        let arguments = scripts::arguments(scripts::RELEASE, request.resources, Some(request.token), None);
        let removed = done(&self.run(arguments, request.timeout).await?)?;
        Ok(if removed { Released::Removed } else { Released::NotHeld })
    }

    async fn replace(&self, request: Replace<'_>) -> Result<Reply, BackendError> {
        let mut arguments =
            scripts::arguments(scripts::REPLACE, request.resources, Some(request.new), Some(request.ttl));
        arguments.push(Value::from(request.old.as_str()));
        self.ask_for_vote(arguments, request.resources, request.timeout).await
    }

    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        let arguments = scripts::arguments(scripts::INSPECT, request.resources, None, None);
        let answer = self.run(arguments, request.timeout).await?;
        key_states(&answer, request.resources)
    }

    fn name(&self) -> &str {
        &self.name
    }

    /// Known for a connection that this crate makes to a server, when the server's user may use `INFO`.
    fn server_id(&self) -> Option<Arc<str>> {
        self.server.get()
    }
}

impl fmt::Debug for FredBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FredBackend").field("name", &self.name).finish_non_exhaustive()
    }
}

/// More than anybody waits for an answer, and little enough to be added to a time.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
