//! The backend: one request, one command.

use std::{
    any::TypeId,
    fmt,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
#[cfg(feature = "cluster")]
use redis::cluster_async::ClusterConnection;
use redis::{RedisError, Value, aio::ConnectionLike};
use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BackendErrorKind, Extend, FencedReply,
    Inspect, KeyState, LockBackend, Raise, Release, ReleaseReply, Replace, Resources, ServerInfo, Watch,
    redis::{Command, Dialect, Reply, ServerAnswer, ServerProbe, of_single_server},
};

use self::route::Route;
use crate::{
    command::Commands,
    connection::LazyConnection,
    error::classify,
    executor::{self, unconstrained},
    reply::{key_states, to_reply, without_attributes},
};

mod open;
mod route;

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
/// Poll requests on a runtime that is compiled in, as redis-rs' commands need it: on tokio with the feature
/// `tokio`, anywhere with `smol`. With both, a request that is polled inside of tokio runs there, others on
/// smol.
#[derive(Clone)]
pub struct RedisBackend<C = LazyConnection> {
    connection: C,
    name: Option<String>,
    line: Line,
    commands: Arc<Commands>,
}

/// What is known about the connection beside it.
#[derive(Clone)]
enum Line {
    /// The same connection, as it is one of this crate.
    Own(LazyConnection),
    /// One of the user.
    Given(Arc<Dialect>),
}

impl<C> RedisBackend<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    /// A node over an existing connection: `MultiplexedConnection` (which stays broken when it breaks),
    /// `ConnectionManager` (set `set_number_of_retries(0)`, otherwise every request to a node that is down
    /// waits for its retries; its first request after an outage fails, with an error of the outage),
    /// `ClusterConnection` (set `retries(0)`, otherwise it may send a command twice), or one of your own. For
    /// all, set `set_response_timeout(None)`, since each request has a timeout of its own, and a
    /// `set_pipeline_buffer_size` far above the number of requests in flight: beyond it (by default 50)
    /// redis-rs does not keep their order.
    ///
    /// The node does not ask which server is behind the connection, since that may change at any time: see
    /// [`LockBackend::server`]. So the lock manager cannot detect two nodes that lead to one server, and with
    /// [`max_ttl`](redlock_core::RedlockBuilder::max_ttl) the node has no vote unless you choose so.
    ///
    /// It learns from the first requests which commands the server has, and learns it anew when the server no
    /// longer knows one: the acquire that finds this out fails as [`BackendErrorKind::Transient`].
    ///
    /// The connection must keep commands for a key in order, write them to one server, and send none twice.
    /// If it does send one twice, the node still never takes its own key for another client's, and no key
    /// lives longer; but an acquire that is resent after its release leaves its key for a whole TTL.
    pub fn new(connection: C) -> Self {
        let dialect = if is_cluster(TypeId::of::<C>()) { Dialect::scripts() } else { Dialect::new() };
        let line = Line::Given(Arc::new(dialect));
        Self { connection, name: None, line, commands: Arc::default() }
    }

    /// What errors call this node. The default is the address for a URL or a client, and nothing for a
    /// connection.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Runs a script whose reply counts together with those of other nodes.
    async fn ask_for<T: Send>(
        &self,
        command: Command<'_>,
        read: impl Fn(&Reply) -> Result<T, BackendError> + Send + Sync,
        resources: &Resources,
        timeout: Duration,
        caller_enforces_timeout: bool,
    ) -> Result<T, BackendError> {
        let (route, limit) = (self.route(), (!caller_enforces_timeout).then_some(timeout));
        let asked = pin!(async { read(&self.send(&route, command).await?) });
        let request = pin!(self.within(limit, asked));
        self.count(&route, request, resources, timeout).await
    }

    /// Runs a request whose answer counts together with those of other nodes, so the server has to be known.
    async fn count<T: Send>(
        &self,
        route: &Route<'_>,
        request: impl Future<Output = Result<T, BackendError>> + Send,
        resources: &Resources,
        timeout: Duration,
    ) -> Result<T, BackendError> {
        let Some(server) = route.server() else { return request.await };
        let (start, patience) = (Instant::now(), ServerProbe::patience(timeout));
        let ask = || async move {
            let asked = Instant::now();
            let command = Command::server_info(resources);
            let left = patience.saturating_sub(start.elapsed());
            let answer = self.within(Some(left), pin!(self.ask(route, &command))).await?;
            Ok(match without_attributes(&answer) {
                Value::BulkString(text) => Some(ServerAnswer::parse(text, asked, Instant::now())),
                _ => None,
            })
        };
        server.along_with(|| route.made(), ask, request).await
    }

    /// Runs a request for as long as its caller does, or until the limit. Requests are pinned where they are
    /// made: each future that they move through would have room for them.
    async fn within<T>(
        &self,
        limit: Option<Duration>,
        request: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        if !executor::is_there() {
            let message = "called outside of a tokio runtime";
            return Err(BackendError::new(BackendErrorKind::Rejected, message));
        }
        // Unconstrained: a task that has used up its budget would find redis-rs' queue "full", and a later
        // request would overtake this one.
        let request = unconstrained(request);
        let Some((limit, runtime)) = limit.and_then(|limit| Some((limit, executor::current()?))) else {
            return request.await;
        };
        executor::within(&*runtime, limit, request).await.unwrap_or_else(|| Err(self.timed_out(limit)))
    }

    /// Sends a command, once, and checks that the answer is one to it.
    async fn send(&self, route: &Route<'_>, command: Command<'_>) -> Result<Reply, BackendError> {
        let reply = to_reply(self.ask(route, &command).await?);
        if command.accepts(&reply) { Ok(reply) } else { Err(route.unexpected()) }
    }

    /// Sends a command, once.
    async fn ask(&self, route: &Route<'_>, command: &Command<'_>) -> Result<Value, BackendError> {
        let command = self.commands.make(command);
        let answer = match route {
            Route::Own(shared) => shared.send(&command).await.and_then(Value::extract_error),
            Route::Given(_) => command.query_async(&mut self.connection.clone()).await,
        };
        answer.map_err(|error| self.classify(error))
    }

    fn classify(&self, error: RedisError) -> BackendError {
        let error = classify(error);
        if self.line.own().is_some_and(LazyConnection::leads_to_one_server) {
            of_single_server(error, "`RedisBackend::open_cluster`")
        } else {
            error
        }
    }

    fn route(&self) -> Route<'_> {
        match &self.line {
            Line::Own(own) => Route::Own(own.shared()),
            Line::Given(dialect) => Route::Given(dialect),
        }
    }
}

#[async_trait]
impl<C> LockBackend for RedisBackend<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let Acquire { resources, timeout, caller_enforces_timeout, .. } = request;
        let limit = (!caller_enforces_timeout).then_some(timeout);
        let route = self.route();
        let send = |command| self.send(&route, command);
        let asked = pin!(route.dialect().acquire(request, || route.made(), send));
        let request = pin!(self.within(limit, asked));
        self.count(&route, request, resources, timeout).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        let Extend { resources, timeout, caller_enforces_timeout, .. } = request;
        let command = Command::extend(&request);
        self.ask_for(command, Reply::vote, resources, timeout, caller_enforces_timeout).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let limit = (!request.caller_enforces_timeout).then_some(request.timeout);
        let route = self.route();
        let send = |command| self.send(&route, command);
        let asked = pin!(route.dialect().release(request, || route.made(), send));
        self.within(limit, asked).await
    }

    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        let Replace { resources, timeout, caller_enforces_timeout, .. } = request;
        let command = Command::replace(&request);
        self.ask_for(command, Reply::vote, resources, timeout, caller_enforces_timeout).await
    }

    fn can_fence(&self) -> bool {
        true
    }

    async fn acquire_fenced(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        let AcquireFenced { resources, timeout, caller_enforces_timeout, .. } = request;
        let command = Command::acquire_fenced(&request);
        self.ask_for(command, Reply::fenced, resources, timeout, caller_enforces_timeout).await
    }

    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        let Raise { resources, timeout, caller_enforces_timeout, .. } = request;
        let command = Command::raise(&request);
        self.ask_for(command, Reply::fenced, resources, timeout, caller_enforces_timeout).await
    }

    fn can_annotate(&self) -> bool {
        true
    }

    async fn annotate(&self, request: Annotate<'_>) -> Result<(), BackendError> {
        let limit = (!request.caller_enforces_timeout).then_some(request.timeout);
        let route = self.route();
        let asked = pin!(self.send(&route, Command::annotate(&request)));
        self.within(limit, asked).await.map(drop)
    }

    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        let Inspect { resources, timeout, .. } = request;
        let route = self.route();
        let looking = pin!(async {
            let answer = self.ask(&route, &Command::inspect(&request)).await?;
            key_states(without_attributes(&answer), &request).ok_or_else(|| route.unexpected())
        });
        let request = pin!(self.within(Some(timeout), looking));
        self.count(&route, request, resources, timeout).await
    }

    /// Rejected over a connection that is not of this crate, and to a Cluster.
    async fn watch(&self, request: Watch<'_>) -> Result<(), BackendError> {
        let cannot = |why| BackendError::new(BackendErrorKind::Rejected, why);
        let watcher = self.line.own().and_then(LazyConnection::watcher);
        let watcher = watcher.ok_or_else(|| cannot("this connection cannot watch keys"))?;
        let runtime = executor::current().ok_or_else(|| cannot("called outside of a tokio runtime"))?;
        watcher.watch(&runtime, request).await
    }

    /// A request that waited in vain for a connection fails with the reason: the pause before the next
    /// attempt may be longer than the timeout.
    fn timed_out(&self, timeout: Duration) -> BackendError {
        let error = BackendError::timed_out(timeout);
        match self.line.own().and_then(LazyConnection::failure) {
            Some(failure) => error.with_source(failure),
            None => error,
        }
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Known for a connection that this crate makes to a server.
    fn server(&self) -> Option<Arc<ServerInfo>> {
        let shared = self.line.own()?.shared();
        shared.server()?.server(shared.made())
    }

    /// Known for a connection that this crate makes to a server, if the user may call `INFO`.
    fn uptime(&self) -> Result<Duration, BackendError> {
        let cannot = |why| BackendError::new(BackendErrorKind::Rejected, why);
        let own = self.line.own().ok_or_else(|| cannot(GIVEN))?;
        let shared = own.shared();
        let server = shared.server();
        let server = server.ok_or_else(|| cannot(CLUSTER))?;
        server.uptime(shared.made(), Instant::now())
    }
}

impl Line {
    fn own(&self) -> Option<&LazyConnection> {
        match self {
            Self::Own(own) => Some(own),
            Self::Given(_) => None,
        }
    }
}

impl<C> fmt::Debug for RedisBackend<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whether commands over a connection of this type may go to servers that differ.
#[cfg(feature = "cluster")]
fn is_cluster(connection: TypeId) -> bool {
    connection == TypeId::of::<ClusterConnection>()
}

#[cfg(not(feature = "cluster"))]
fn is_cluster(_: TypeId) -> bool {
    false
}

/// Why the uptime of a server is not known.
const GIVEN: &str =
    "it is not known how long the server of this connection has been running: open the node by its URL";
const CLUSTER: &str =
    "it is not known how long a Cluster's servers have been running: lock on single servers";

#[cfg(all(test, feature = "tokio"))]
mod tests {
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use redis::{Cmd, Pipeline, RedisFuture, RedisResult};

    use super::*;

    /// A connection with one result for every command, within one poll. It counts the commands.
    #[derive(Clone)]
    struct Answering {
        result: RedisResult<Value>,
        written: Arc<AtomicUsize>,
    }

    impl Answering {
        fn new(result: RedisResult<Value>) -> Self {
            Self { result, written: Arc::default() }
        }
    }

    impl ConnectionLike for Answering {
        fn req_packed_command<'a>(&'a mut self, _: &'a Cmd) -> RedisFuture<'a, Value> {
            self.written.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { self.result.clone() })
        }

        fn req_packed_commands<'a>(
            &'a mut self,
            _: &'a Pipeline,
            _: usize,
            _: usize,
        ) -> RedisFuture<'a, Vec<Value>> {
            unreachable!("a request is one command")
        }

        fn get_db(&self) -> i64 {
            0
        }
    }

    #[test]
    fn the_future_of_a_request_has_no_room_for_the_question_about_the_server() {
        let node = RedisBackend::open("redis://127.0.0.1:1").unwrap();
        let (resources, token) = ("a".into(), "0".repeat(40).parse().unwrap());
        let second = Duration::from_secs(1);
        let acquire = size_of_val(&*node.acquire(Acquire::new(&resources, &token, second, second)));
        let extend = size_of_val(&*node.extend(Extend::new(&resources, &token, second, second)));
        let release = size_of_val(&*node.release(Release::new(&resources, &token, second)));
        // A release asks none.
        assert!(acquire.max(extend) < 2 * release, "{acquire}, {extend}, {release}");
    }

    #[tokio::test]
    async fn a_command_that_may_have_been_written_is_not_sent_again_however_soon_it_fails() {
        let connection = Answering::new(Err(io::Error::from(io::ErrorKind::BrokenPipe).into()));
        let written = Arc::clone(&connection.written);
        let answers = results_from(&RedisBackend::new(connection)).await;
        assert_eq!(answers, [Err(BackendErrorKind::Indeterminate); 3]);
        assert_eq!(written.load(Ordering::Relaxed), 3, "one for each request");
    }

    /// How an answer is read for the three requests with a vote: whether it grants them, or the kind of the
    /// error.
    async fn results_of(answer: &Value) -> [Result<bool, BackendErrorKind>; 3] {
        results_from(&RedisBackend::new(Answering::new(Ok(answer.clone())))).await
    }

    async fn results_from(node: &impl LockBackend) -> [Result<bool, BackendErrorKind>; 3] {
        let (resources, token) = ("a".into(), "0".repeat(40).parse().expect("a token"));
        let (ttl, timeout) = (Duration::from_secs(1), Duration::from_secs(60));
        let acquired = node.acquire(Acquire::new(&resources, &token, ttl, timeout)).await;
        let extended = node.extend(Extend::new(&resources, &token, ttl, timeout)).await;
        let released = node.release(Release::new(&resources, &token, timeout)).await;
        [
            acquired.map(|reply| reply == AcquireReply::Granted),
            extended.map(|reply| reply == AcquireReply::Granted),
            released.map(|released| released == ReleaseReply::Removed),
        ]
        .map(|result| result.map_err(|error| error.kind()))
    }

    #[tokio::test]
    async fn only_small_numbers_are_replies() {
        assert_eq!(results_of(&Value::Int(1)).await, [Ok(true); 3]);
        assert_eq!(results_of(&Value::Int(0)).await, [Ok(false); 3]);
        for answer in [
            Value::Int(6),
            Value::Int(-1),
            Value::Okay,
            Value::Nil,
            Value::Boolean(true),
            Value::SimpleString("1".to_owned()),
            Value::BulkString(b"1".to_vec()),
            Value::Array(vec![Value::Int(1)]),
        ] {
            assert_eq!(results_of(&answer).await, [Err(BackendErrorKind::Indeterminate); 3], "{answer:?}");
        }
    }

    #[tokio::test]
    async fn an_inspection_without_one_state_per_key_is_no_reply() {
        let free = Value::Array(vec![Value::Nil, Value::Int(-2)]);
        let held = Value::Array(vec![Value::BulkString(b"ab".to_vec()), Value::Int(5)]);
        let (resources, timeout) = (["a", "b"].into(), Duration::from_secs(60));
        for (answer, right) in [
            (Value::Array(vec![free.clone(), held.clone()]), true),
            (Value::Array(vec![held.clone()]), false),
            (Value::Array(vec![free.clone(), free.clone(), held]), false),
            (Value::Array(vec![free, Value::Int(1)]), false),
            (Value::Nil, false),
        ] {
            let node = RedisBackend::new(Answering::new(Ok(answer.clone())));
            let states = node.inspect(Inspect::new(&resources, timeout)).await;
            assert_eq!(states.map(|states| states.len()).ok(), right.then_some(2), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_note_is_read_if_and_only_if_it_was_requested() {
        let (value, name) = (Value::BulkString(b"01234567".to_vec()), "a".into());
        let keys = |parts: &[Value]| Value::Array(vec![Value::Array(parts.to_vec())]);
        let plain = keys(&[value.clone(), Value::Int(5)]);
        let noted = |note| keys(&[value.clone(), Value::Int(5), note]);
        let note = Value::BulkString(b"note 01234567 \xff".to_vec());
        let held = KeyState::held(b"01234567", Some(Duration::from_millis(5)));
        let with_note = held.clone().with_note(b"\xff");
        for (answer, without, with) in [
            (plain, Some(&held), None),
            (noted(Value::Nil), None, Some(&held)),
            (noted(note), None, Some(&with_note)),
            (noted(Value::Int(1)), None, None),
        ] {
            let node = RedisBackend::new(Answering::new(Ok(answer.clone())));
            let inspect = Inspect::new(&name, Duration::from_secs(60));
            let states = [node.inspect(inspect).await, node.inspect(inspect.with_notes()).await];
            let states = states.map(|states| states.ok().and_then(|states| states.into_iter().next()));
            assert_eq!(states.each_ref().map(Option::as_ref), [without, with], "{answer:?}");
        }
    }
}
