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
    /// Adds a debt, and forgets one in the middle when there are too many. Whether somebody has to begin collecting.
    fn add(&mut self, debt: Debt) -> bool {
        if self.owed.len() >= MOST_DEBTS {
            // The first ones of an outage have reached the node's buffers, and may take effect when it comes back; the last
            // ones are about to be asked of a node that is back. What lies between was asked of a node that was away.
            self.owed.remove(MOST_DEBTS / 2);
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

    /// Lets the others have their turn before this one is tried again. One that has given way meanwhile is not taken
    /// up again: there is no room for it.
    fn postpone(&mut self, failed: Debt) {
        let before = self.owed.len();
        self.settle(&failed);
        if self.owed.len() < before {
            // Not at the end of a long book, where it would soon be the one that gives way.
            self.owed.insert(self.owed.len().min(MOST_DEBTS / 2 - 1), failed);
        }
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

/// The most debts that are kept for one node: a bound on memory.
const MOST_DEBTS: usize = 1_024;
/// How long a node that does not answer is left alone at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validity::{Drift, Ttl};

    #[allow(clippy::disallowed_methods)]
    fn debts() -> impl Iterator<Item = Debt> {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        (0..).filter_map(move |number| {
            let ttl = Ttl::new(second, Drift::new(0.01).ok()?).ok()?;
            let name = format!("{number}");
            let claim = Arc::new(Claim::new(name.as_str().into(), "0".repeat(40).parse().ok()?, ttl, 1));
            Some(Debt { claim, due: now, expires: now + second })
        })
    }

    fn names(book: &Book) -> Vec<&str> {
        book.owed.iter().map(|debt| debt.claim.resources.as_slice()[0].as_str()).collect()
    }

    #[test]
    fn of_too_many_debts_the_first_and_the_last_are_kept() {
        let (mut book, mut debts) = (Book::default(), debts());
        for debt in debts.by_ref().take(3 * MOST_DEBTS) {
            book.add(debt);
        }
        let numbers: Vec<usize> = names(&book).into_iter().map(|name| name.parse().unwrap()).collect();
        let half = MOST_DEBTS / 2;
        assert!(numbers.iter().copied().eq((0..half).chain(3 * MOST_DEBTS - half..3 * MOST_DEBTS)));
    }

    #[test]
    fn the_first_debts_are_kept_when_they_are_asked_for_and_fail() {
        let (mut book, mut debts) = (Book::default(), debts());
        for debt in debts.by_ref().take(MOST_DEBTS) {
            book.add(debt);
        }
        for (number, new) in debts.take(3 * MOST_DEBTS).enumerate() {
            if number % 4 == 0 {
                let asked = book.first(new.due).unwrap();
                book.postpone(asked);
            }
            book.add(new);
        }
        let mut first = names(&book)[..MOST_DEBTS / 2].to_vec();
        first.sort_by_key(|name| name.parse::<usize>().ok());
        assert!(
            first.iter().map(ToString::to_string).eq((0..MOST_DEBTS / 2).map(|number| number.to_string()))
        );
    }

    #[test]
    fn a_debt_that_fails_does_not_come_back_when_it_has_given_way_meanwhile() {
        let (mut book, mut debts) = (Book::default(), debts());
        for debt in debts.by_ref().take(MOST_DEBTS) {
            book.add(debt);
        }
        for new in debts.take(MOST_DEBTS) {
            let now = new.due;
            let asked = book.first(now).unwrap();
            book.add(new);
            book.postpone(asked);
            assert!(book.owed.len() <= MOST_DEBTS, "{}", book.owed.len());
        }
        let asked = book.first(book.owed[0].due).unwrap();
        book.postpone(asked.clone());
        let half = MOST_DEBTS / 2;
        assert!(Arc::ptr_eq(&book.owed[half - 1].claim, &asked.claim), "the others have their turn");
    }
}
