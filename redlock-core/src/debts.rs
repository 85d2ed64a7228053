//! Releases that a node owes us: it could not be reached, or its answer does not settle whether the keys are gone.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, PoisonError},
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

impl Book {
    /// Adds a debt. Whether somebody has to begin collecting.
    fn add(&mut self, debt: Debt) -> bool {
        if self.owed.len() >= MOST_DEBTS {
            self.owed.pop_front();
        }
        self.owed.push_back(debt);
        !mem::replace(&mut self.collecting, true)
    }

    /// The first debt in the queue that has not expired. When there is none the collecting is over.
    fn first(&mut self, now: Instant) -> Option<Debt> {
        self.owed.retain(|debt| debt.expires > now);
        let first = self.owed.front().cloned();
        self.collecting = first.is_some();
        first
    }

    fn settle(&mut self, settled: &Debt) {
        self.owed.retain(|debt| !Arc::ptr_eq(&debt.claim, &settled.claim));
    }

    /// Lets the others have their turn before this one is tried again.
    fn postpone(&mut self, failed: Debt) {
        self.settle(&failed);
        self.owed.push_back(failed);
    }
}

impl Nodes {
    /// Notes that a node has to be asked once more to remove the claim's keys.
    pub(crate) fn owe(self: &Arc<Self>, node: usize, claim: &Arc<Claim>) {
        let now = self.now();
        let ttl = claim.ttl();
        let due = now + self.timeout(ttl).min(LONGEST_PAUSE);
        let debt = Debt { claim: claim.clone(), due, expires: now + ttl.get() };
        if self.with_debts(node, |book| book.add(debt)) {
            let collector = Collector { nodes: self.clone(), node, finished: false };
            self.runtime.spawn(Box::pin(collector.run()));
        }
    }

    /// Reads or changes a node's book.
    fn with_debts<T>(&self, node: usize, change: impl FnOnce(&mut Book) -> T) -> T {
        let (output, before, after) = {
            let mut book = self.nodes[node].debts.0.lock().unwrap_or_else(PoisonError::into_inner);
            let before = book.owed.len();
            let output = change(&mut book);
            (output, before, book.owed.len())
        };
        self.nodes[node].watch.owes(before, after);
        output
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
        let (nodes, node) = (&self.nodes, self.node);
        let mut pause = Duration::ZERO;
        loop {
            let now = nodes.now();
            let Some(debt) = nodes.with_debts(node, |book| book.first(now)) else { break };
            let early = debt.due.saturating_duration_since(now);
            if !early.is_zero() {
                nodes.runtime.sleep(early).await;
                continue;
            }
            match nodes.release(node, &debt.claim).await {
                Err(error) if error.kind() != BackendErrorKind::Rejected => {
                    let timeout = nodes.timeout(debt.claim.ttl());
                    pause = (pause * 2).clamp(timeout.min(LONGEST_PAUSE), LONGEST_PAUSE);
                    nodes.with_debts(node, |book| book.postpone(debt));
                    nodes.runtime.sleep(pause).await;
                }
                Ok(_) | Err(_) => {
                    nodes.with_debts(node, |book| book.settle(&debt));
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
            self.nodes.with_debts(self.node, |book| book.collecting = false);
        }
    }
}

/// The most debts that are kept for one node: a bound on memory. The oldest give way.
const MOST_DEBTS: usize = 1_024;
/// How long a node that does not answer is left alone at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
