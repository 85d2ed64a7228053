//! Which nodes work. A round that is won does not wait for the remaining nodes, so its votes do not
//! distinguish a node that is down from one that was a little slower. Their requests go on in the background,
//! and are watched here until they end.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redlock_redis_rs::{
    Acquire, AcquireReply, BackendError, Extend, LockBackend, NodeOutcome, Release, ReleaseReply, ServerInfo,
    async_trait,
};

use crate::timeline::Timeline;

/// A node that works, or does not, from some time on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) at: Duration,
    pub(crate) node: usize,
    pub(crate) works: bool,
}

/// How the nodes have been doing.
#[derive(Debug)]
pub(crate) struct Health {
    timeline: Arc<Timeline>,
    changes: Mutex<Vec<Change>>,
}

impl Health {
    pub(crate) fn new(timeline: Arc<Timeline>) -> Self {
        Self { timeline, changes: Mutex::default() }
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.changes_so_far().clone()
    }

    /// The nodes that were down at an instant.
    pub(crate) fn down(&self, at: Duration) -> BTreeSet<usize> {
        let mut down = BTreeSet::new();
        for change in self.changes_so_far().iter().filter(|change| change.at <= at) {
            if change.works {
                down.remove(&change.node);
            } else {
                down.insert(change.node);
            }
        }
        down
    }

    /// A node is down from its first request that failed, and works again from its first answer.
    fn record(&self, node: usize, asked: Duration, failure: Option<String>) {
        let now = self.timeline.now();
        let mut changes = self.changes_so_far();
        let last = changes.iter().rev().find(|change| change.node == node);
        let worked_before = last.is_none_or(|change| change.works);
        let works = failure.is_none();
        // A request from before the last change says nothing new.
        if works == worked_before || last.is_some_and(|change| asked < change.at) {
            return;
        }
        changes.push(Change { at: if works { now } else { asked }, node, works });
        let what = failure.map_or("works again".into(), |why| format!("fails: {why}"));
        self.timeline.say(now, self.timeline.node(node), &what, &[]);
    }

    fn changes_so_far(&self) -> MutexGuard<'_, Vec<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node whose answers are recorded. They stay as they are.
#[derive(Debug)]
pub(crate) struct Watched {
    node: Arc<dyn LockBackend>,
    position: usize,
    health: Arc<Health>,
}

impl Watched {
    pub(crate) fn new(node: Arc<dyn LockBackend>, position: usize, health: Arc<Health>) -> Self {
        Self { node, position, health }
    }

    async fn watch<T>(
        &self,
        timeout: Duration,
        request: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let mut request_watch =
            RequestWatch { watched: self, asked: self.health.timeline.now(), timeout, over: false };
        let answer = request.await;
        request_watch.end(answer.as_ref().err());
        answer
    }
}

#[async_trait]
impl LockBackend for Watched {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.watch(request.timeout, self.node.acquire(request)).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.watch(request.timeout, self.node.extend(request)).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.watch(request.timeout, self.node.release(request)).await
    }

    fn name(&self) -> Option<&str> {
        self.node.name()
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        self.node.server()
    }

    fn uptime(&self) -> Result<Duration, BackendError> {
        self.node.uptime()
    }
}

/// One request that is watched.
struct RequestWatch<'a> {
    watched: &'a Watched,
    asked: Duration,
    timeout: Duration,
    over: bool,
}

impl RequestWatch<'_> {
    fn end(&mut self, error: Option<&BackendError>) {
        self.over = true;
        let failure = error.map(|error| NodeOutcome::Failed(error.clone()).to_string());
        self.watched.health.record(self.watched.position, self.asked, failure);
    }
}

impl Drop for RequestWatch<'_> {
    /// The lock manager has the same timeout as the backend, and may give the request up first.
    fn drop(&mut self) {
        let waited = self.watched.health.timeline.now().saturating_sub(self.asked);
        if !self.over && waited >= self.timeout {
            self.end(Some(&BackendError::timed_out(self.timeout)));
        }
    }
}
