//! Releases that a node owes us: it could not be reached, or its answer does not settle whether the keys are gone.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{backend::BackendErrorKind, claim::Claim, nodes::Nodes};

/// One node's debts, oldest first. At most [`MOST_DEBTS`], each forgotten when its keys have expired.
#[derive(Debug, Default)]
pub(crate) struct Debts(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    owed: VecDeque<Debt>,
    /// Whether a task goes through them. There is at most one for each node.
    collecting: bool,
}

#[derive(Clone, Debug)]
struct Debt {
    claim: Arc<Claim>,
    /// Not earlier: what comes out of the buffers of a broken connection needs a moment too.
    due: Instant,
    /// When a key that is put there no later than now has expired.
    expires: Instant,
}

impl Debts {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first debt in the queue that has not expired. When there is none the collecting is over.
    fn first(&self, now: Instant) -> Option<Debt> {
        let mut book = self.book();
        book.owed.retain(|debt| debt.expires > now);
        let first = book.owed.front().cloned();
        book.collecting = first.is_some();
        first
    }

    fn settle(&self, settled: &Debt) {
        self.book().owed.retain(|debt| !Arc::ptr_eq(&debt.claim, &settled.claim));
    }

    /// Lets the others have their turn before this one is tried again.
    fn postpone(&self, failed: Debt) {
        self.settle(&failed);
        self.book().owed.push_back(failed);
    }
}

impl Nodes {
    /// Notes that a node has to be asked once more to remove the claim's keys.
    pub(crate) fn owe(self: &Arc<Self>, node: usize, claim: &Arc<Claim>) {
        let now = self.now();
        let ttl = claim.ttl();
        let due = now + self.timeout(ttl).min(LONGEST_PAUSE);
        let debt = Debt { claim: claim.clone(), due, expires: now + ttl.get() };
        let mut book = self.nodes[node].debts.book();
        if book.owed.len() >= MOST_DEBTS {
            book.owed.pop_front();
        }
        book.owed.push_back(debt);
        if !book.collecting {
            book.collecting = true;
            drop(book);
            let collector = Collector { nodes: self.clone(), node, finished: false };
            self.runtime.spawn(Box::pin(collector.run()));
        }
    }
}

/// Asks one node for its debts, one after the other, and less and less often while it does not answer.
struct Collector {
    nodes: Arc<Nodes>,
    node: usize,
    finished: bool,
}

impl Collector {
    async fn run(mut self) {
        let (nodes, debts) = (&self.nodes, &self.nodes.nodes[self.node].debts);
        let mut pause = Duration::ZERO;
        while let Some(debt) = debts.first(nodes.now()) {
            let early = debt.due.saturating_duration_since(nodes.now());
            if !early.is_zero() {
                nodes.runtime.sleep(early).await;
                continue;
            }
            match nodes.release(self.node, &debt.claim).await {
                Err(error) if error.kind() != BackendErrorKind::Rejected => {
                    let timeout = nodes.timeout(debt.claim.ttl());
                    pause = (pause * 2).clamp(timeout.min(LONGEST_PAUSE), LONGEST_PAUSE);
                    debts.postpone(debt);
                    nodes.runtime.sleep(pause).await;
                }
                Ok(_) | Err(_) => {
                    debts.settle(&debt);
                    pause = Duration::ZERO;
                }
            }
        }
        self.finished = true;
    }
}

impl Drop for Collector {
    /// A task that was dropped half-way leaves the rest to the next one.
    fn drop(&mut self) {
        if !self.finished {
            self.nodes.nodes[self.node].debts.book().collecting = false;
        }
    }
}

/// The most debts that are kept for one node: a bound on memory. The oldest give way.
const MOST_DEBTS: usize = 1_024;
/// How long a node that does not answer is left alone at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
