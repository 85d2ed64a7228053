//! Releases that a node owes us: it could not be reached, or its answer does not settle whether the keys are gone.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{backend::BackendErrorKind, claim::Claim, nodes::Nodes};

/// One node's debts, oldest first. At most [`MAX_PENDING`], each forgotten when its keys have expired.
#[derive(Debug, Default)]
pub(crate) struct CleanupQueue(Mutex<Pending>);

#[derive(Debug, Default)]
struct Pending {
    owed: VecDeque<PendingRelease>,
    /// The task that goes through them. There is at most one for each node.
    shift: Option<Shift>,
    /// How many tasks there have been.
    shifts: u64,
}

/// Whose turn it is to collect.
#[derive(Debug)]
struct Shift {
    number: u64,
    /// When it has to have been heard of again. Else its runtime stands still, and another takes over.
    back: Instant,
}

#[derive(Clone, Debug)]
struct PendingRelease {
    claim: Arc<Claim>,
    /// Not earlier: what comes out of the buffers of a broken connection needs a moment too.
    due: Instant,
    /// When a key that is put there no later than now has expired.
    expires: Instant,
    /// Beyond this it is not asked for, however late an acquire may still come.
    forgotten: Instant,
}

impl PendingRelease {
    fn new(claim: Arc<Claim>, now: Instant, due: Instant) -> Self {
        let ttl = claim.ttl().get();
        Self { claim, due, expires: now + ttl, forgotten: now + ttl * MAX_TTLS }
    }

    /// The node did not do it: as far as is known its keys may still come, out of the buffers of a server that is
    /// stopped, and then live from now on.
    fn keys_may_come_now(&mut self, now: Instant) {
        self.expires = (now + self.claim.ttl().get()).min(self.forgotten);
    }
}

impl Pending {
    /// Adds a debt, and forgets one in the middle when there are too many. The number of a new shift, if one has to begin.
    fn add(&mut self, debt: PendingRelease, now: Instant) -> Option<u64> {
        if self.owed.len() >= MAX_PENDING {
            // The first ones of an outage have reached the node's buffers, and may take effect when it comes back; the last
            // ones are about to be asked of a node that is back. What lies between was asked of a node that was away.
            self.owed.remove(MAX_PENDING / 2);
        }
        self.owed.push_back(debt);
        if self.shift.as_ref().is_some_and(|shift| now <= shift.back) {
            return None;
        }
        self.shifts += 1;
        self.shift = Some(Shift { number: self.shifts, back: now + MAX_ABSENCE });
        Some(self.shifts)
    }

    /// The first debt in the queue that has not expired. When there is none, or another has taken over, the shift is
    /// over.
    fn first(&mut self, shift: u64, now: Instant) -> Option<PendingRelease> {
        self.shift.as_ref().filter(|current| current.number == shift)?;
        self.owed.retain(|debt| debt.expires > now);
        let first = self.owed.front().cloned();
        if first.is_none() {
            self.shift = None;
        }
        first
    }

    /// A shift's task waits for an answer until `answered` at the latest, and pauses then.
    fn go(&mut self, shift: u64, answered: Instant) {
        if let Some(shift) = self.shift.as_mut().filter(|current| current.number == shift) {
            shift.back = answered + MAX_ABSENCE;
        }
    }

    fn end(&mut self, shift: u64) {
        self.shift.take_if(|current| current.number == shift);
    }

    fn settle(&mut self, settled: &PendingRelease) {
        self.owed.retain(|debt| !Arc::ptr_eq(&debt.claim, &settled.claim));
    }

    /// Lets the others have their turn before this one is tried again. One that has given way meanwhile is not taken
    /// up again: there is no room for it.
    fn postpone(&mut self, failed: PendingRelease) {
        let before = self.owed.len();
        self.settle(&failed);
        if self.owed.len() < before {
            // Not at the end of a long book, where it would soon be the one that gives way.
            self.owed.insert(self.owed.len().min(MAX_PENDING / 2 - 1), failed);
        }
    }
}

impl Nodes {
    /// Notes that a node has to be asked once more to remove the claim's keys.
    pub(crate) fn schedule_release(self: &Arc<Self>, node: usize, claim: &Arc<Claim>) {
        let now = self.now();
        let due = now + self.timeout(claim.ttl()).min(MAX_PAUSE);
        let debt = PendingRelease::new(claim.clone(), now, due);
        if let Some(shift) = self.with_cleanup(node, |book| book.add(debt, now)) {
            let collector = Reaper { nodes: self.clone(), node, shift };
            self.runtime.spawn(Box::pin(collector.run()));
        }
    }

    /// Reads or changes a node's book.
    fn with_cleanup<T>(&self, node: usize, change: impl FnOnce(&mut Pending) -> T) -> T {
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
struct Reaper {
    nodes: Arc<Nodes>,
    node: usize,
    shift: u64,
}

impl Reaper {
    async fn run(self) {
        let (nodes, node) = (&self.nodes, self.node);
        let mut pause = Duration::ZERO;
        loop {
            let now = nodes.now();
            let Some(mut debt) = nodes.with_cleanup(node, |book| book.first(self.shift, now)) else { break };
            let early = debt.due.saturating_duration_since(now);
            if !early.is_zero() {
                nodes.runtime.sleep(early).await;
                continue;
            }
            let timeout = nodes.timeout(debt.claim.ttl());
            nodes.with_cleanup(node, |book| book.go(self.shift, now + timeout));
            match nodes.release(node, &debt.claim).await {
                Err(error) => {
                    pause = match error.kind() {
                        // What a person has to mend takes its time.
                        BackendErrorKind::Rejected => MAX_PAUSE,
                        BackendErrorKind::Indeterminate | BackendErrorKind::Transient => {
                            (pause * 2).clamp(timeout.min(MAX_PAUSE), MAX_PAUSE)
                        }
                    };
                    if debt.claim.is_unsettled(node) {
                        debt.keys_may_come_now(nodes.now());
                    }
                    nodes.with_cleanup(node, |book| book.postpone(debt));
                    nodes.runtime.sleep(pause).await;
                }
                Ok(_) => {
                    nodes.with_cleanup(node, |book| book.settle(&debt));
                    pause = Duration::ZERO;
                }
            }
        }
    }
}

impl Drop for Reaper {
    /// A task that was dropped half-way leaves the rest to the next one.
    fn drop(&mut self) {
        self.nodes.with_cleanup(self.node, |book| book.end(self.shift));
    }
}

/// The most debts that are kept for one node: a bound on memory.
const MAX_PENDING: usize = 1_024;
/// For how many times its ttl a debt is kept for an acquire that may still come. One that comes later leaves its key for
/// its ttl, which is little beside the time that its server was away.
const MAX_TTLS: u32 = 10;
/// How long a node that does not answer is left alone at most.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// So long after it had to have an answer, a task has looked at the debts again, unless it stands still: a pause, and what
/// a busy machine takes.
const MAX_ABSENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validity::{Drift, Ttl};

    #[allow(clippy::disallowed_methods)]
    fn debts() -> impl Iterator<Item = PendingRelease> {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        (0..).filter_map(move |number| {
            let ttl = Ttl::new(60 * second, Drift::new(0.01).ok()?).ok()?;
            let name = format!("{number}");
            let claim = Arc::new(Claim::new(name.as_str().into(), "0".repeat(40).parse().ok()?, ttl, 1));
            Some(PendingRelease::new(claim, now, now))
        })
    }

    fn add(book: &mut Pending, debt: PendingRelease) -> Option<u64> {
        let now = debt.due;
        book.add(debt, now)
    }

    fn names(book: &Pending) -> Vec<&str> {
        book.owed.iter().map(|debt| debt.claim.resources.as_slice()[0].as_str()).collect()
    }

    #[test]
    fn of_too_many_debts_the_first_and_the_last_are_kept() {
        let (mut book, mut debts) = (Pending::default(), debts());
        for debt in debts.by_ref().take(3 * MAX_PENDING) {
            add(&mut book, debt);
        }
        let numbers: Vec<usize> = names(&book).into_iter().map(|name| name.parse().unwrap()).collect();
        let half = MAX_PENDING / 2;
        assert!(numbers.iter().copied().eq((0..half).chain(3 * MAX_PENDING - half..3 * MAX_PENDING)));
    }

    #[test]
    fn the_first_debts_are_kept_when_they_are_asked_for_and_fail() {
        let (mut book, mut debts) = (Pending::default(), debts());
        for debt in debts.by_ref().take(MAX_PENDING) {
            add(&mut book, debt);
        }
        for (number, new) in debts.take(3 * MAX_PENDING).enumerate() {
            if number % 4 == 0 {
                let asked = book.first(1, new.due).unwrap();
                book.postpone(asked);
            }
            add(&mut book, new);
        }
        let mut first = names(&book)[..MAX_PENDING / 2].to_vec();
        first.sort_by_key(|name| name.parse::<usize>().ok());
        assert!(
            first.iter().map(ToString::to_string).eq((0..MAX_PENDING / 2).map(|number| number.to_string()))
        );
    }

    #[test]
    fn a_debt_whose_keys_may_still_come_is_kept_for_ten_times_its_ttl_at_most() {
        let (mut book, mut debt) = (Pending::default(), debts().next().unwrap());
        let (start, ttl) = (debt.due, debt.claim.ttl().get());
        for (after, kept) in [(0, 1), (1, 2), (5, 6), (9, 10), (10, 10)] {
            debt.keys_may_come_now(start + after * ttl);
            assert_eq!(debt.expires, start + kept * ttl, "{after}");
        }
        assert_eq!(book.add(debt, start), Some(1));
        assert!(book.first(1, start + 10 * ttl).is_none());
    }

    #[test]
    fn a_debt_that_fails_does_not_come_back_when_it_has_given_way_meanwhile() {
        let (mut book, mut debts) = (Pending::default(), debts());
        for debt in debts.by_ref().take(MAX_PENDING) {
            add(&mut book, debt);
        }
        for new in debts.take(MAX_PENDING) {
            let now = new.due;
            let asked = book.first(1, now).unwrap();
            add(&mut book, new);
            book.postpone(asked);
            assert!(book.owed.len() <= MAX_PENDING, "{}", book.owed.len());
        }
        let asked = book.first(1, book.owed[0].due).unwrap();
        book.postpone(asked.clone());
        let half = MAX_PENDING / 2;
        assert!(Arc::ptr_eq(&book.owed[half - 1].claim, &asked.claim), "the others have their turn");
    }

    #[test]
    fn a_shift_that_stands_still_is_taken_over_and_ends_when_it_goes_on() {
        let (mut book, mut debts) = (Pending::default(), debts());
        let mut next = || debts.next().unwrap();
        let start = next().due;
        let s = Duration::from_secs;
        assert_eq!(book.add(next(), start), Some(1));
        assert_eq!(book.add(next(), start + s(2)), None, "it is at work");
        book.go(1, start + s(2));
        assert_eq!(book.add(next(), start + s(5)), None, "an answer and a pause take their time");
        assert_eq!(book.add(next(), start + s(6)), Some(2), "it stands still");
        assert!(book.first(1, start).is_none(), "another has taken over");
        book.go(1, start + s(60));
        book.end(1);
        assert!(book.first(2, start).is_some());
        book.end(2);
        assert_eq!(book.add(next(), start + s(7)), Some(3), "nobody is at work");
        assert!(book.first(3, start + s(60)).is_none(), "all have expired");
        assert_eq!(book.add(next(), start + s(60)), Some(4));
    }
}
