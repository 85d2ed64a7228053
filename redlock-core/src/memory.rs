//! An in-process node, for unit tests, examples and simulations.

// Tests: below; tests/tests/it/sim/memory.rs, conformance/tests.rs.

use std::{fmt, num::NonZeroU64, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::{Either, select};

use self::server::{Armed, Counting, Failure, Order, Outcome, Server, Verb, counter_ttl, unreachable};
use crate::{
    backend::{
        Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BackendErrorKind, Extend, FencedReply,
        LockBackend, Raise, Release, ReleaseReply, Replace,
    },
    inspect::{Inspect, KeyState},
    resources::Resources,
    runtime::Runtime,
    server::ServerInfo,
    validity::MAX_TTL,
    watch::Watch,
};

mod keys;
mod register;
mod server;

pub use self::register::{FencedRegister, StaleFence};

/// An in-process node, on the runtime's clocks. It keeps the contract of [`LockBackend`], as a server does,
/// and a test can stop, slow down, fail or wipe it.
///
/// Clones are cheap, and are the same node: a test keeps one and passes another to the lock manager. Two
/// clones in one lock manager are one server, which has one vote.
///
/// ```
/// use std::time::Duration;
/// use redlock_core::{Error, MemoryBackend, Redlock, TokioRuntime};
///
/// // On a paused clock the test takes no time, however long it waits.
/// #[tokio::main(flavor = "current_thread", start_paused = true)]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let runtime = TokioRuntime::current();
///     let nodes = [(); 3].map(|()| MemoryBackend::new(runtime.clone()));
///     let redlock = Redlock::builder(runtime).nodes(nodes.clone()).build()?;
///
///     nodes[0].stop();
///     let lock = redlock.lock("report", Duration::from_secs(10)).await?;
///     nodes[1].shut_down();
///     let error = redlock.lock("other", Duration::from_secs(10)).await.unwrap_err();
///     assert!(matches!(error, Error::NoQuorum(_)));
///     assert!(lock.is_valid());
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct MemoryBackend {
    name: Option<String>,
    node: Arc<Server>,
}

impl MemoryBackend {
    /// An empty, healthy node.
    #[must_use]
    pub fn new(runtime: impl Runtime) -> Self {
        Self { name: None, node: Arc::new(Server::new(runtime)) }
    }

    /// The same node under a name, which errors show. The default is none.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Stops the node as SIGSTOP stops a process: requests wait, and run when it [resumes](Self::resume),
    /// even if their callers have gone.
    pub fn stop(&self) {
        self.node.state().stopped = true;
    }

    /// Lets a stopped node run again, beginning with the requests that waited.
    pub fn resume(&self) {
        self.node.state().stopped = false;
        self.node.run_due();
    }

    /// Shuts the node down: requests fail at once as [`BackendErrorKind::Indeterminate`], and so do those
    /// that waited. The node keeps its keys, which still expire: see [`restart_empty`](Self::restart_empty) for
    /// one that forgets them.
    pub fn shut_down(&self) {
        let waiting = {
            let mut state = self.node.state();
            state.down = true;
            (std::mem::take(&mut state.inbox), std::mem::take(&mut state.watches))
        };
        // Without the lock, because it wakes waiting tasks.
        drop(waiting);
    }

    /// Starts a node that was shut down. Its [uptime](LockBackend::uptime) counts from now; until then it has
    /// been running forever. A node that was only stopped [resumes](Self::resume).
    pub fn start(&self) {
        let now = self.node.runtime.now();
        {
            let mut state = self.node.state();
            if state.down {
                state.down = false;
                state.started = Some(now);
            }
        }
        self.resume();
    }

    /// Restarts the node without its keys, as a server that keeps nothing on disk: requests that waited fail as
    /// [`BackendErrorKind::Indeterminate`].
    pub fn restart_empty(&self) {
        self.shut_down();
        self.clear();
        self.start();
    }

    /// From now on requests arrive and run this much later. The default is zero.
    pub fn delay_requests(&self, delay: Duration) {
        self.node.state().request_delay = delay.min(MAX_TTL);
    }

    /// From now on requests run at once, but their replies come this much later. The default is zero.
    pub fn delay_replies(&self, delay: Duration) {
        self.node.state().reply_delay = delay;
    }

    /// The next `requests` requests fail as `kind` and do not run.
    pub fn fail_next(&self, requests: usize, kind: BackendErrorKind) {
        self.node.state().failures = Some((requests, Failure::Refuse(kind)));
    }

    /// The next `requests` requests run, but their replies are lost: they fail as
    /// [`BackendErrorKind::Indeterminate`].
    pub fn lose_next_replies(&self, requests: usize) {
        self.node.state().failures = Some((requests, Failure::LoseReply));
    }

    /// Removes all keys, counters and notes.
    pub fn clear(&self) {
        self.node.change(|state| {
            state.keys.clear();
            state.counters.clear();
            state.notes.clear();
        });
    }

    /// Stores a value at a key, as another client could, for [`MAX_TTL`] at most.
    pub fn set(&self, resource: impl Into<String>, value: impl Into<String>, ttl: Duration) {
        let expires = self.node.runtime.now() + ttl.min(MAX_TTL);
        self.node.change(|state| state.keys.put(&resource.into(), value.into(), expires));
    }

    /// Removes a key, whatever its value.
    pub fn remove(&self, resource: &str) {
        self.node.change(|state| state.keys.remove(resource));
    }

    /// The value at a key that has not expired.
    #[must_use]
    pub fn get(&self, resource: &str) -> Option<String> {
        self.with_key(resource, |value, _| value.to_owned())
    }

    /// The remaining TTL of a key.
    #[must_use]
    pub fn ttl(&self, resource: &str) -> Option<Duration> {
        self.with_key(resource, |_, ttl| ttl)
    }

    /// Passes the value and the remaining TTL of a key that has not expired to `look`, both of the same instant,
    /// and returns its result; `None` when there is no such key.
    ///
    /// # Panics
    ///
    /// Does not return, or panics, when `look` uses this node.
    pub fn with_key<T>(&self, resource: &str, look: impl FnOnce(&str, Duration) -> T) -> Option<T> {
        let now = self.node.runtime.now();
        self.node.state().keys.get(resource, now).map(|key| look(key.value(), key.expires() - now))
    }

    /// The counter of a resource for [fencing tokens](crate::Lock::fence); `None` before its first fenced grant,
    /// and when it has expired.
    #[must_use]
    pub fn counter(&self, resource: &str) -> Option<NonZeroU64> {
        let now = self.node.runtime.now();
        self.node.state().counters.get(resource, now).map(|counter| *counter.value())
    }

    /// Sets the counter of a resource to any number, forever.
    pub fn set_counter(&self, resource: &str, counter: NonZeroU64) {
        let expires = self.node.runtime.now() + MAX_TTL;
        self.node.change(|state| state.counters.put(resource, counter, expires));
    }

    /// Removes the counter of a resource, as a server may that loses data.
    pub fn remove_counter(&self, resource: &str) {
        self.node.change(|state| state.counters.remove(resource));
    }

    /// The [note](crate::Note) that is stored beside a key and has not expired, whoever holds the key by
    /// now.
    #[must_use]
    pub fn note(&self, resource: &str) -> Option<String> {
        let now = self.node.runtime.now();
        self.node.state().notes.get(resource, now).map(|note| note.value().text.clone())
    }

    /// How many requests have arrived so far, failed ones included, but not those of a
    /// [`watch`](LockBackend::watch).
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.node.state().requests
    }

    /// The number of keys and notes.
    #[cfg(all(test, feature = "conformance"))]
    pub(crate) fn keys(&self) -> usize {
        let now = self.node.runtime.now();
        let mut state = self.node.state();
        state.keys.expire(now);
        state.notes.expire(now);
        state.keys.len() + state.notes.len()
    }

    async fn ask<T: Answerable>(&self, order: Order, timeout: Duration) -> Result<T, BackendError> {
        self.within(timeout, self.reply(order)).await.map(T::from_outcome)
    }

    async fn reply(&self, order: Order) -> Result<Outcome, BackendError> {
        let outcome = self.node.arrive(order)?.await.unwrap_or_else(|_| Err(unreachable("connection reset")));
        self.on_its_way_back().await;
        outcome
    }

    async fn on_its_way_back(&self) {
        let delay = self.node.state().reply_delay;
        if !delay.is_zero() {
            self.node.runtime.sleep(delay).await;
        }
    }

    /// Looks at the keys, and again whenever they may have become free. Who is eager takes a change for that.
    async fn until_free(&self, resources: &Resources, eager: bool) -> Result<(), BackendError> {
        loop {
            let order = Order { verb: Verb::Watch, resources: resources.clone() };
            let Outcome::Held(Armed { changed, expires }) = self.reply(order).await? else { return Ok(()) };
            let left = expires.saturating_duration_since(self.node.runtime.now());
            match select(changed, self.node.runtime.sleep(left)).await {
                Either::Left((Err(_), _)) => return Err(unreachable("connection reset")),
                Either::Left((Ok(()), _)) if eager => {
                    self.on_its_way_back().await;
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    async fn within<T>(
        &self,
        timeout: Duration,
        request: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        match select(pin!(request), self.node.runtime.sleep(timeout)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(BackendError::timed_out(timeout)),
        }
    }
}

#[async_trait]
impl LockBackend for MemoryBackend {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let verb = Verb::Acquire(request.ttl, request.token.clone(), None);
        self.ask(Order { verb, resources: request.resources.clone() }, request.timeout).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        let verb = Verb::Extend(request.ttl, request.token.clone());
        self.ask(Order { verb, resources: request.resources.clone() }, request.timeout).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let verb = Verb::Release(request.token.clone());
        self.ask(Order { verb, resources: request.resources.clone() }, request.timeout).await
    }

    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        let verb = Verb::Replace(request.ttl, request.old.clone(), request.new.clone());
        self.ask(Order { verb, resources: request.resources.clone() }, request.timeout).await
    }

    fn can_fence(&self) -> bool {
        true
    }

    async fn acquire_fenced(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        let counting = Counting { proposal: request.proposal, ttl: counter_ttl(request.counter_ttl) };
        let verb = Verb::Acquire(request.ttl, request.token.clone(), Some(counting));
        self.ask(Order { verb, resources: request.resources.clone() }, request.timeout).await
    }

    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        let Raise { resources, token, fence, ttl, timeout, .. } = request;
        let (token, counter_ttl) = (token.clone(), counter_ttl(request.counter_ttl));
        let verb = Verb::Raise { token, fence, ttl, counter_ttl };
        self.ask(Order { verb, resources: resources.clone() }, timeout).await
    }

    fn can_annotate(&self) -> bool {
        true
    }

    async fn annotate(&self, request: Annotate<'_>) -> Result<(), BackendError> {
        let verb = Verb::Annotate(request.token.clone(), request.note.map(ToOwned::to_owned));
        self.ask(Order { verb, resources: request.resources.clone() }, request.timeout).await
    }

    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        let order = Order { verb: Verb::Inspect(request.notes), resources: request.resources.clone() };
        self.ask(order, request.timeout).await
    }

    async fn watch(&self, request: Watch<'_>) -> Result<(), BackendError> {
        self.within(request.timeout, self.until_free(request.resources, request.eager)).await
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Its identity, and no risks.
    fn server(&self) -> Option<Arc<ServerInfo>> {
        Some(self.node.info.clone())
    }

    /// Since it was last started after it was shut down; [`Duration::MAX`] if never.
    fn uptime(&self) -> Result<Duration, BackendError> {
        let now = self.node.runtime.now();
        let started = self.node.state().started;
        Ok(started.map_or(Duration::MAX, |started| now.saturating_duration_since(started)))
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend").field("name", &self.name).finish_non_exhaustive()
    }
}

trait Answerable {
    fn from_outcome(outcome: Outcome) -> Self;
}

impl Answerable for AcquireReply {
    fn from_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Yes => Self::Granted,
            _ => Self::Refused,
        }
    }
}

impl Answerable for FencedReply {
    fn from_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Counted(counter) => Self::Granted { counter },
            _ => Self::Refused,
        }
    }
}

impl Answerable for ReleaseReply {
    fn from_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Yes => Self::Removed,
            _ => Self::NotHeld,
        }
    }
}

impl Answerable for () {
    fn from_outcome(_: Outcome) -> Self {}
}

impl Answerable for Vec<KeyState> {
    fn from_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Keys(keys) => keys,
            _ => Self::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tests::IdleRuntime;

    #[test]
    fn a_node_in_an_arc_has_its_name() {
        let node = MemoryBackend::new(Arc::new(IdleRuntime::default())).with_name("a");
        assert_eq!(LockBackend::name(&Arc::new(node)), Some("a"));
    }

    #[test]
    fn endless_durations_are_capped() {
        let node = MemoryBackend::new(IdleRuntime::default());
        node.set("x", "value", Duration::MAX);
        assert_eq!(node.get("x").as_deref(), Some("value"));
        node.delay_requests(Duration::MAX);
    }
}
