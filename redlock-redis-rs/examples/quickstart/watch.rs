//! Which nodes work. A round that is won does not wait for the others, so its votes cannot tell a node that
//! is down from one that was a little slower; the requests go on in the background, and here they are heard
//! to the end.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redlock_redis_rs::{
    Acquire, AcquireReply, BackendError, Extend, LockBackend, NodeOutcome, Release, ReleaseReply, async_trait,
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
        self.book().clone()
    }

    /// The nodes that were down at an instant.
    pub(crate) fn down(&self, at: Duration) -> BTreeSet<usize> {
        let mut down = BTreeSet::new();
        for change in self.book().iter().filter(|change| change.at <= at) {
            if change.works {
                down.remove(&change.node);
            } else {
                down.insert(change.node);
            }
        }
        down
    }

    /// A node is down from its first request on that failed, and works again with its first answer.
    fn heard(&self, node: usize, asked: Duration, failure: Option<String>) {
        let now = self.timeline.now();
        let mut book = self.book();
        let last = book.iter().rev().find(|change| change.node == node);
        let worked_before = last.is_none_or(|change| change.works);
        let works = failure.is_none();
        // What was asked before the last change is old news.
        if works == worked_before || last.is_some_and(|change| asked < change.at) {
            return;
        }
        book.push(Change { at: if works { now } else { asked }, node, works });
        let what = failure.map_or("works again".into(), |why| format!("fails: {why}"));
        self.timeline.say(now, self.timeline.node(node), &what, &[]);
    }

    fn book(&self) -> MutexGuard<'_, Vec<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node whose answers are listened to. It changes none.
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

    async fn listen<T>(
        &self,
        timeout: Duration,
        request: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let mut ear = Ear { watched: self, asked: self.health.timeline.now(), timeout, heard: false };
        let answer = request.await;
        ear.heard(answer.as_ref().err());
        answer
    }
}

#[async_trait]
impl LockBackend for Watched {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.listen(request.timeout, self.node.acquire(request)).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.listen(request.timeout, self.node.extend(request)).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.listen(request.timeout, self.node.release(request)).await
    }

    fn name(&self) -> Option<&str> {
        self.node.name()
    }

    fn server_id(&self) -> Option<Arc<str>> {
        self.node.server_id()
    }
}

/// One request that is listened to.
struct Ear<'a> {
    watched: &'a Watched,
    asked: Duration,
    timeout: Duration,
    heard: bool,
}

impl Ear<'_> {
    fn heard(&mut self, error: Option<&BackendError>) {
        self.heard = true;
        let failure = error.map(|error| NodeOutcome::Failed(error.clone()).to_string());
        self.watched.health.heard(self.watched.position, self.asked, failure);
    }
}

impl Drop for Ear<'_> {
    /// The lock manager has the same timeout as the backend, and may be the first to give the request up.
    fn drop(&mut self) {
        let waited = self.watched.health.timeline.now().saturating_sub(self.asked);
        if !self.heard && waited >= self.timeout {
            self.heard(Some(&BackendError::timed_out(self.timeout)));
        }
    }
}
