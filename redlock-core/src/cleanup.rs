//! Pending releases: a node could not be reached, or its reply does not settle whether the keys are gone.

// Tests: below for the queue; tests/tests/it/sim/cleanup.rs.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::claim::Claim;

/// One node's pending releases, oldest first. At most [`MAX_PENDING`], each forgotten when its keys have
/// expired.
#[derive(Debug, Default)]
pub(crate) struct CleanupQueue(Mutex<Queue>);

impl CleanupQueue {
    /// Reads or changes the queue; also returns how many releases were pending before, and how many are now.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> (T, usize, usize) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = queue.releases.len();
        let output = change(&mut queue);
        (output, before, queue.releases.len())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    releases: VecDeque<PendingRelease>,
    /// The reaper that retries them. There is at most one for each node.
    shift: Option<Shift>,
    /// How many reapers there have been.
    shifts: u64,
}

/// Which reaper's turn it is.
#[derive(Debug)]
struct Shift {
    number: u64,
    /// The deadline for its next look at the queue. If it passes, the reaper's runtime stands still, and
    /// another reaper takes over.
    back: Instant,
}

#[derive(Clone, Debug)]
pub(crate) struct PendingRelease {
    pub(crate) claim: Arc<Claim>,
    /// The earliest moment for it: data in the buffers of a broken connection needs a moment, too.
    pub(crate) due: Instant,
    /// When a key that is written no later than now has expired.
    expires: Instant,
    /// After this it is dropped, however late an acquire may still come.
    forgotten: Instant,
}

impl PendingRelease {
    pub(crate) fn new(claim: Arc<Claim>, now: Instant, due: Instant) -> Self {
        let ttl = claim.ledger.ttl().get();
        Self { claim, due, expires: now + ttl, forgotten: now + ttl * MAX_TTLS }
    }

    /// The node did not serve it: its keys may still come out of the buffers of a stopped server, and then
    /// live from now on.
    pub(crate) fn keys_may_come_now(&mut self, now: Instant) {
        self.expires = (now + self.claim.ledger.ttl().get()).min(self.forgotten);
    }
}

impl Queue {
    /// Adds a pending release, and drops one in the middle when there are too many. Returns the number of a
    /// new shift, if one has to begin.
    pub(crate) fn add(&mut self, pending: PendingRelease, now: Instant) -> Option<u64> {
        if self.releases.len() >= MAX_PENDING {
            // The acquires of the first ones in an outage have reached the node's buffers, and may take
            // effect when it comes back. The last ones concern a node that is back. Those in between concern
            // requests to a node that was away.
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

    /// The first pending release in the queue that has not expired. When there is none, or another reaper has
    /// taken over, the shift is over.
    pub(crate) fn first(&mut self, shift: u64, now: Instant) -> Option<PendingRelease> {
        self.shift.as_ref().filter(|current| current.number == shift)?;
        self.releases.retain(|pending| pending.expires > now);
        let first = self.releases.front().cloned();
        if first.is_none() {
            self.shift = None;
        }
        first
    }

    /// The reaper of a shift waits for a reply until `replied` at the latest, and then pauses.
    pub(crate) fn go(&mut self, shift: u64, replied: Instant) {
        if let Some(shift) = self.shift.as_mut().filter(|current| current.number == shift) {
            shift.back = replied + MAX_ABSENCE;
        }
    }

    pub(crate) fn end(&mut self, shift: u64) {
        self.shift.take_if(|current| current.number == shift);
    }

    pub(crate) fn settle(&mut self, settled: &PendingRelease) {
        self.releases.retain(|pending| !Arc::ptr_eq(&pending.claim, &settled.claim));
    }

    /// Moves the pending release behind others. One that has been dropped meanwhile stays dropped: there is
    /// no room for it.
    pub(crate) fn postpone(&mut self, failed: PendingRelease) {
        let before = self.releases.len();
        self.settle(&failed);
        if self.releases.len() < before {
            // Not at the end of a long queue, where it would soon be dropped.
            self.releases.insert(self.releases.len().min(MAX_PENDING / 2 - 1), failed);
        }
    }
}

/// The most pending releases that are kept for one node: a bound on memory.
const MAX_PENDING: usize = 1_024;
/// How many TTLs a pending release is kept for an acquire that may still come. A later one leaves its key for
/// its TTL, which is short compared with the time for which its server was away.
const MAX_TTLS: u32 = 10;
/// A reaper looks at the pending releases again within this time after the deadline of its reply, unless it
/// stands still. It has room for a pause and for a busy machine.
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
    fn the_first_pending_releases_are_kept_when_their_retries_fail() {
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
    fn a_pending_release_whose_keys_may_still_arrive_is_kept_for_at_most_ten_times_its_ttl() {
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
    fn a_pending_release_that_fails_does_not_return_after_it_was_displaced() {
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
    fn a_stalled_shift_is_taken_over_and_ends_when_it_continues() {
        let (mut queue, mut pending_releases) = (Queue::default(), pending_releases());
        let mut next = || pending_releases.next().unwrap();
        let start = next().due;
        let s = Duration::from_secs;
        assert_eq!(queue.add(next(), start), Some(1));
        assert_eq!(queue.add(next(), start + s(2)), None, "it is at work");
        queue.go(1, start + s(2));
        assert_eq!(queue.add(next(), start + s(5)), None, "a reply and a pause take time");
        assert_eq!(queue.add(next(), start + s(6)), Some(2), "it has stalled");
        assert!(queue.first(1, start).is_none(), "another has taken over");
        queue.go(1, start + s(60));
        queue.end(1);
        assert!(queue.first(2, start).is_some());
        queue.end(2);
        assert_eq!(queue.add(next(), start + s(7)), Some(3), "no shift is at work");
        assert!(queue.first(3, start + s(60)).is_none(), "all have expired");
        assert_eq!(queue.add(next(), start + s(60)), Some(4));
    }
}
