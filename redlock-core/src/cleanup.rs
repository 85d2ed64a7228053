//! Pending releases: a node could not be reached, or its answer does not settle whether the keys are gone.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{backend::BackendErrorKind, claim::Claim, nodes::Nodes};

/// One node's pending releases, oldest first. At most [`MAX_PENDING`], each forgotten when its keys have
/// expired.
#[derive(Debug, Default)]
pub(crate) struct CleanupQueue(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    releases: VecDeque<PendingRelease>,
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
        let ttl = claim.ledger.ttl().get();
        Self { claim, due, expires: now + ttl, forgotten: now + ttl * MAX_TTLS }
    }

    /// The node did not do it: as far as is known its keys may still come, out of the buffers of a server
    /// that is stopped, and then live from now on.
    fn keys_may_come_now(&mut self, now: Instant) {
        self.expires = (now + self.claim.ledger.ttl().get()).min(self.forgotten);
    }
}

impl Queue {
    /// Adds a pending release, and forgets one in the middle when there are too many. The number of a new
    /// shift, if one has to begin.
    fn add(&mut self, pending: PendingRelease, now: Instant) -> Option<u64> {
        if self.releases.len() >= MAX_PENDING {
            // The first ones of an outage have reached the node's buffers, and may take effect when it comes
            // back; the last ones are about to be asked of a node that is back. What lies between was asked
            // of a node that was away.
            self.releases.remove(MAX_PENDING / 2);
        }
        self.releases.push_back(pending);
        if self.shift.as_ref().is_some_and(|shift| now <= shift.back) {
            return None;
        }
        self.shifts += 1;
        self.shift = Some(Shift { number: self.shifts, back: now + MAX_ABSENCE });
        Some(self.shifts)
    }

    /// The first pending release in the queue that has not expired. When there is none, or another has taken
    /// over, the shift is over.
    fn first(&mut self, shift: u64, now: Instant) -> Option<PendingRelease> {
        self.shift.as_ref().filter(|current| current.number == shift)?;
        self.releases.retain(|pending| pending.expires > now);
        let first = self.releases.front().cloned();
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
        self.releases.retain(|pending| !Arc::ptr_eq(&pending.claim, &settled.claim));
    }

    /// Lets the others have their turn before this one is tried again. One that has given way meanwhile is
    /// not taken up again: there is no room for it.
    fn postpone(&mut self, failed: PendingRelease) {
        let before = self.releases.len();
        self.settle(&failed);
        if self.releases.len() < before {
            // Not at the end of a long queue, where it would soon be the one that gives way.
            self.releases.insert(self.releases.len().min(MAX_PENDING / 2 - 1), failed);
        }
    }
}

impl Nodes {
    /// Notes that a node has to be asked once more to remove the claim's keys.
    pub(crate) fn schedule_release(self: &Arc<Self>, node: usize, claim: &Arc<Claim>) {
        let now = self.now();
        let due = now + self.timeout(claim.ledger.ttl()).min(MAX_PAUSE);
        let pending = PendingRelease::new(claim.clone(), now, due);
        if let Some(shift) = self.with_cleanup(node, |queue| queue.add(pending, now)) {
            let collector = Reaper { nodes: self.clone(), node, shift };
            self.runtime.spawn(Box::pin(collector.run()));
        }
    }

    /// Reads or changes a node's queue.
    fn with_cleanup<T>(&self, node: usize, change: impl FnOnce(&mut Queue) -> T) -> T {
        let (output, before, after) = {
            let mut queue = self.nodes[node].cleanup.0.lock().unwrap_or_else(PoisonError::into_inner);
            let before = queue.releases.len();
            let output = change(&mut queue);
            (output, before, queue.releases.len())
        };
        self.telemetry.pending_releases(node, before, after);
        output
    }
}

/// Asks one node for its pending releases, one after the other, and less and less often while it does not
/// answer.
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
            let Some(mut pending) = nodes.with_cleanup(node, |queue| queue.first(self.shift, now)) else {
                break;
            };
            let early = pending.due.saturating_duration_since(now);
            if !early.is_zero() {
                nodes.runtime.sleep(early).await;
                continue;
            }
            let timeout = nodes.timeout(pending.claim.ledger.ttl());
            nodes.with_cleanup(node, |queue| queue.go(self.shift, now + timeout));
            match nodes.release(node, &pending.claim).await {
                Err(error) => {
                    pause = match error.kind() {
                        // What a person has to mend takes its time.
                        BackendErrorKind::Rejected => MAX_PAUSE,
                        BackendErrorKind::Indeterminate | BackendErrorKind::Transient => {
                            (pause * 2).clamp(timeout.min(MAX_PAUSE), MAX_PAUSE)
                        }
                    };
                    if pending.claim.ledger.is_unsettled(node) {
                        pending.keys_may_come_now(nodes.now());
                    }
                    nodes.with_cleanup(node, |queue| queue.postpone(pending));
                    nodes.runtime.sleep(pause).await;
                }
                Ok(_) => {
                    nodes.with_cleanup(node, |queue| queue.settle(&pending));
                    pause = Duration::ZERO;
                }
            }
        }
    }
}

impl Drop for Reaper {
    /// A task that was dropped half-way leaves the rest to the next one.
    fn drop(&mut self) {
        self.nodes.with_cleanup(self.node, |queue| queue.end(self.shift));
    }
}

/// The most pending releases that are kept for one node: a bound on memory.
const MAX_PENDING: usize = 1_024;
/// For how many times its ttl a pending release is kept for an acquire that may still come. One that comes
/// later leaves its key for its ttl, which is little beside the time that its server was away.
const MAX_TTLS: u32 = 10;
/// How long a node that does not answer is left alone at most.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// So long after it had to have an answer, a task has looked at the pending releases again, unless it stands
/// still: a pause, and what a busy machine takes.
const MAX_ABSENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validity::{Drift, Ttl};

    #[allow(clippy::disallowed_methods)]
    fn pending_releases() -> impl Iterator<Item = PendingRelease> {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        (0..).filter_map(move |number| {
            let ttl = Ttl::new(60 * second, Drift::new(0.01).ok()?).ok()?;
            let name = format!("{number}");
            let claim = Arc::new(Claim::new(name.as_str().into(), "0".repeat(40).parse().ok()?, ttl, 1));
            Some(PendingRelease::new(claim, now, now))
        })
    }

    fn add(queue: &mut Queue, pending: PendingRelease) -> Option<u64> {
        let now = pending.due;
        queue.add(pending, now)
    }

    fn names(queue: &Queue) -> Vec<&str> {
        queue.releases.iter().map(|pending| pending.claim.resources.as_slice()[0].as_str()).collect()
    }

    #[test]
    fn of_too_many_pending_releases_the_first_and_the_last_are_kept() {
        let (mut queue, mut pending_releases) = (Queue::default(), pending_releases());
        for pending in pending_releases.by_ref().take(3 * MAX_PENDING) {
            add(&mut queue, pending);
        }
        let numbers: Vec<usize> = names(&queue).into_iter().map(|name| name.parse().unwrap()).collect();
        let half = MAX_PENDING / 2;
        assert!(numbers.iter().copied().eq((0..half).chain(3 * MAX_PENDING - half..3 * MAX_PENDING)));
    }

    #[test]
    fn the_first_pending_releases_are_kept_when_they_are_asked_for_and_fail() {
        let (mut queue, mut pending_releases) = (Queue::default(), pending_releases());
        for pending in pending_releases.by_ref().take(MAX_PENDING) {
            add(&mut queue, pending);
        }
        for (number, new) in pending_releases.take(3 * MAX_PENDING).enumerate() {
            if number % 4 == 0 {
                let asked = queue.first(1, new.due).unwrap();
                queue.postpone(asked);
            }
            add(&mut queue, new);
        }
        let mut first = names(&queue)[..MAX_PENDING / 2].to_vec();
        first.sort_by_key(|name| name.parse::<usize>().ok());
        assert!(
            first.iter().map(ToString::to_string).eq((0..MAX_PENDING / 2).map(|number| number.to_string()))
        );
    }

    #[test]
    fn a_pending_release_whose_keys_may_still_come_is_kept_for_ten_times_its_ttl_at_most() {
        let (mut queue, mut pending) = (Queue::default(), pending_releases().next().unwrap());
        let (start, ttl) = (pending.due, pending.claim.ledger.ttl().get());
        for (after, kept) in [(0, 1), (1, 2), (5, 6), (9, 10), (10, 10)] {
            pending.keys_may_come_now(start + after * ttl);
            assert_eq!(pending.expires, start + kept * ttl, "{after}");
        }
        assert_eq!(queue.add(pending, start), Some(1));
        assert!(queue.first(1, start + 10 * ttl).is_none());
    }

    #[test]
    fn a_pending_release_that_fails_does_not_come_back_when_it_has_given_way_meanwhile() {
        let (mut queue, mut pending_releases) = (Queue::default(), pending_releases());
        for pending in pending_releases.by_ref().take(MAX_PENDING) {
            add(&mut queue, pending);
        }
        for new in pending_releases.take(MAX_PENDING) {
            let now = new.due;
            let asked = queue.first(1, now).unwrap();
            add(&mut queue, new);
            queue.postpone(asked);
            assert!(queue.releases.len() <= MAX_PENDING, "{}", queue.releases.len());
        }
        let asked = queue.first(1, queue.releases[0].due).unwrap();
        queue.postpone(asked.clone());
        let half = MAX_PENDING / 2;
        assert!(Arc::ptr_eq(&queue.releases[half - 1].claim, &asked.claim), "the others have their turn");
    }

    #[test]
    fn a_shift_that_stands_still_is_taken_over_and_ends_when_it_goes_on() {
        let (mut queue, mut pending_releases) = (Queue::default(), pending_releases());
        let mut next = || pending_releases.next().unwrap();
        let start = next().due;
        let s = Duration::from_secs;
        assert_eq!(queue.add(next(), start), Some(1));
        assert_eq!(queue.add(next(), start + s(2)), None, "it is at work");
        queue.go(1, start + s(2));
        assert_eq!(queue.add(next(), start + s(5)), None, "an answer and a pause take their time");
        assert_eq!(queue.add(next(), start + s(6)), Some(2), "it stands still");
        assert!(queue.first(1, start).is_none(), "another has taken over");
        queue.go(1, start + s(60));
        queue.end(1);
        assert!(queue.first(2, start).is_some());
        queue.end(2);
        assert_eq!(queue.add(next(), start + s(7)), Some(3), "nobody is at work");
        assert!(queue.first(3, start + s(60)).is_none(), "all have expired");
        assert_eq!(queue.add(next(), start + s(60)), Some(4));
    }
}
