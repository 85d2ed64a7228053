//! Which lock is extended next, of those that are kept alive together.
//!
//! When extensions fall behind, the nearest deadlines go first: so an overloaded process loses only the locks
//! that it cannot extend, and not all of them.

// Tests: below; tests/tests/it/sim/keep_alive.rs.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::{Duration, Instant},
};

use futures_util::future::{AbortHandle, AbortRegistration};

use crate::pace::Pace;

/// Locks that one task, the driver, extends.
#[derive(Debug)]
pub(crate) struct Extensions<L> {
    locks: BTreeMap<u64, Entry<L>>,
    /// By the moment when their extension is due.
    later: BTreeSet<(Instant, u64)>,
    /// Those whose extension is due, by deadline.
    waiting: BTreeSet<(Instant, u64)>,
    under_way: BTreeMap<u64, UnderWay>,
    pace: Pace,
    last_id: u64,
    /// The driver. There is at most one, and none without a lock.
    shift: Option<Shift>,
    /// How many drivers there have been.
    shifts: u64,
}

/// A lock, in one of three places.
#[derive(Debug)]
struct Entry<L> {
    lock: L,
    deadline: Instant,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Later(Instant),
    Waiting,
    UnderWay,
}

/// An extension under way.
#[derive(Debug)]
struct UnderWay {
    since: Instant,
    stop: AbortHandle,
}

/// Which driver's turn it is.
#[derive(Debug)]
struct Shift {
    number: u64,
    /// Until when it sleeps, unless an extension ends before.
    wakes: Option<Instant>,
    /// The deadline for its next look. If it passes, the driver's runtime stands still, and another driver
    /// takes over.
    back: Instant,
}

/// The next extension of a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Next {
    pub(crate) due: Instant,
    /// The end of the lock's validity.
    pub(crate) deadline: Instant,
}

/// How an extension ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct End {
    /// `None` for a lock that is not kept alive any more.
    pub(crate) next: Option<Next>,
    /// How long the nodes had to reply, and whether they did; `None` when nothing was sent.
    pub(crate) replied: Option<(Duration, bool)>,
}

/// What a lock that was added needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A driver, for the shift of this number.
    Start(u64),
    /// A driver that looks again, as it would sleep for too long.
    Wake,
    Nothing,
}

/// What the driver does next.
#[derive(Debug)]
pub(crate) enum Step<L> {
    /// Begins the extension of the lock with this number.
    Extend(u64, L, AbortRegistration),
    /// Waits until this moment, or until an extension ends.
    Wait(Option<Instant>),
    /// Ends: there is no lock, or another driver has taken over.
    Leave,
}

/// A lock that was taken out, with its extension if that is under way.
#[derive(Debug)]
pub(crate) struct Removed<L> {
    pub(crate) lock: L,
    pub(crate) under_way: Option<AbortHandle>,
}

impl<L: Clone> Extensions<L> {
    /// Adds a lock, and returns its number.
    pub(crate) fn add(&mut self, lock: L, next: Next, now: Instant) -> (u64, Need) {
        self.last_id += 1;
        let id = self.last_id;
        self.later.insert((next.due, id));
        self.locks.insert(id, Entry { lock, deadline: next.deadline, phase: Phase::Later(next.due) });
        let need = match &mut self.shift {
            Some(shift) if now <= shift.back => {
                if shift.wakes.is_none_or(|wakes| next.due < wakes) {
                    shift.wakes = Some(next.due);
                    shift.back = shift.back.min(next.due.max(now) + MAX_ABSENCE);
                    Need::Wake
                } else {
                    Need::Nothing
                }
            }
            _ => {
                self.abandon();
                self.shifts += 1;
                self.shift = Some(Shift { number: self.shifts, wakes: None, back: now + MAX_ABSENCE });
                Need::Start(self.shifts)
            }
        };
        (id, need)
    }

    /// Takes a lock out, unless it is no longer kept alive.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Removed<L>> {
        let Entry { lock, deadline, phase } = self.locks.remove(&id)?;
        let under_way = match phase {
            Phase::Later(due) => {
                self.later.remove(&(due, id));
                None
            }
            Phase::Waiting => {
                self.waiting.remove(&(deadline, id));
                None
            }
            Phase::UnderWay => self.under_way.remove(&id).map(|under_way| under_way.stop),
        };
        Some(Removed { lock, under_way })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.locks.is_empty()
    }

    /// What the driver of a shift does next. An extension takes no longer than `max_timeout`.
    pub(crate) fn step(&mut self, shift: u64, now: Instant, max_timeout: Duration) -> Step<L> {
        if self.shift.as_ref().is_none_or(|current| current.number != shift) {
            return Step::Leave;
        }
        if self.locks.is_empty() {
            self.shift = None;
            return Step::Leave;
        }
        let later = self.later.split_off(&(now, u64::MAX));
        let due = mem::replace(&mut self.later, later);
        due.into_iter().for_each(|(_, id)| self.wait(id));
        let step = match self.first(now) {
            Some(id) => self.begin(id, now),
            None => None,
        };
        let wakes = [&self.later, &self.waiting].into_iter().filter_map(|locks| Some(locks.first()?.0)).min();
        if let Some(shift) = &mut self.shift {
            let ends = (!self.under_way.is_empty()).then(|| now + max_timeout);
            shift.wakes = wakes;
            shift.back = wakes.into_iter().chain(ends).min().unwrap_or(now).max(now) + MAX_ABSENCE;
        }
        step.unwrap_or(Step::Wait(wakes))
    }

    /// Records the end of an extension, of a driver that has not been replaced meanwhile. Returns the lock if
    /// it is not kept alive any more.
    pub(crate) fn finish(&mut self, shift: u64, id: u64, now: Instant, end: End) -> Option<L> {
        self.shift.as_ref().filter(|current| current.number == shift)?;
        let entry = self.locks.get_mut(&id)?;
        let UnderWay { since, .. } = self.under_way.remove(&id)?;
        if let Some(Next { due, deadline }) = end.next {
            entry.phase = Phase::Later(due);
            entry.deadline = deadline;
            self.later.insert((due, id));
        }
        self.pace.record(now.saturating_duration_since(since), end.replied);
        if end.next.is_some() { None } else { self.locks.remove(&id).map(|entry| entry.lock) }
    }

    /// Ends the shift of a driver that was dropped. The next one takes its locks over.
    pub(crate) fn leave(&mut self, shift: u64) {
        if self.shift.take_if(|current| current.number == shift).is_some() {
            self.abandon();
        }
    }

    /// Gives up the extensions that are under way: nobody drives them any more.
    fn abandon(&mut self) {
        let stuck = mem::take(&mut self.under_way);
        stuck.into_keys().for_each(|id| self.wait(id));
    }

    fn wait(&mut self, id: u64) {
        if let Some(entry) = self.locks.get_mut(&id) {
            entry.phase = Phase::Waiting;
            self.waiting.insert((entry.deadline, id));
        }
    }

    /// The lock to extend now: the nearest deadline that can still be met. A lock whose deadline has passed
    /// goes at once, beyond the bound: nothing is sent for it.
    fn first(&self, now: Instant) -> Option<u64> {
        let nearest = self.waiting.first()?;
        if nearest.0 <= now {
            return Some(nearest.1);
        }
        if self.under_way.len() >= self.pace.limit() {
            return None;
        }
        let can_be_met = (now + self.pace.took(), 0);
        Some(self.waiting.range(can_be_met..).next().unwrap_or(nearest).1)
    }

    fn begin(&mut self, id: u64, now: Instant) -> Option<Step<L>> {
        let entry = self.locks.get_mut(&id)?;
        let (stop, stopped) = AbortHandle::new_pair();
        entry.phase = Phase::UnderWay;
        self.waiting.remove(&(entry.deadline, id));
        self.under_way.insert(id, UnderWay { since: now, stop });
        Some(Step::Extend(id, entry.lock.clone(), stopped))
    }
}

impl<L> Default for Extensions<L> {
    fn default() -> Self {
        Self {
            locks: BTreeMap::new(),
            later: BTreeSet::new(),
            waiting: BTreeSet::new(),
            under_way: BTreeMap::new(),
            pace: Pace::default(),
            last_id: 0,
            shift: None,
            shifts: 0,
        }
    }
}

/// The driver looks again within this time after it should, unless it stands still. It leaves room for a busy
/// machine.
const MAX_ABSENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const SHIFT: u64 = 1;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[allow(clippy::disallowed_methods)]
    fn now() -> Instant {
        Instant::now()
    }

    /// Locks by their number, in the charge of the first driver.
    type Locks = Extensions<()>;

    /// Adds a lock that is due at once, with this deadline.
    fn add(locks: &mut Locks, now: Instant, deadline: Duration) -> u64 {
        locks.add((), Next { due: now, deadline: now + deadline }, now).0
    }

    /// The locks whose extensions begin now.
    fn begin(locks: &mut Locks, now: Instant) -> Vec<u64> {
        begin_as(locks, SHIFT, now)
    }

    fn begin_as(locks: &mut Locks, shift: u64, now: Instant) -> Vec<u64> {
        let mut begun = Vec::new();
        while let Step::Extend(id, ..) = locks.step(shift, now, s(1)) {
            begun.push(id);
        }
        begun
    }

    /// As many as may be under way, with the deadline 1,000 s.
    fn full() -> (Locks, Instant, Vec<u64>) {
        let (mut locks, now) = (Locks::default(), now());
        let added: Vec<u64> = (0..locks.pace.limit()).map(|_| add(&mut locks, now, s(1_000))).collect();
        let under_way = begin(&mut locks, now);
        assert_eq!(under_way, added, "nobody waits while there is room");
        (locks, now, under_way)
    }

    const OVER: End = End { next: None, replied: None };

    /// The extension ends, and the lock is over.
    fn end(locks: &mut Locks, id: u64, now: Instant) {
        assert!(locks.finish(SHIFT, id, now, OVER).is_some());
    }

    fn wait(locks: &mut Locks, now: Instant) -> Option<Duration> {
        match locks.step(SHIFT, now, s(1)) {
            Step::Wait(until) => until.map(|until| until - now),
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn a_lock_is_extended_when_it_is_due_and_after_a_failure_again() {
        let (mut locks, now) = (Locks::default(), now());
        let next = |due| Next { due: now + s(due), deadline: now + s(30) };
        let (id, need) = locks.add((), next(10), now);
        assert_eq!(need, Need::Start(SHIFT));
        assert_eq!(wait(&mut locks, now), Some(s(10)));
        let start = now + s(10);
        assert_eq!(begin(&mut locks, start), [id]);
        assert_eq!(wait(&mut locks, start), None, "it waits for the end of the extension");
        let failed = End { next: Some(next(13)), replied: Some((s(1), false)) };
        assert!(locks.finish(SHIFT, id, start, failed).is_none());
        assert_eq!(wait(&mut locks, start), Some(s(3)));
        assert_eq!(begin(&mut locks, now + s(13)), [id]);
        end(&mut locks, id, now + s(13));
        assert!(matches!(locks.step(SHIFT, now, s(1)), Step::Leave), "no lock is left");
        assert_eq!(locks.add((), next(10), now).1, Need::Start(SHIFT + 1));
    }

    #[test]
    fn the_nearest_deadline_that_can_be_met_is_next() {
        let (mut locks, now, under_way) = full();
        let waiting = [7, 2, 9, 5].map(|deadline| add(&mut locks, now, s(deadline)));
        assert!(begin(&mut locks, now).is_empty());
        locks.pace.record(s(3), None);
        end(&mut locks, under_way[0], now);
        assert_eq!(begin(&mut locks, now), [waiting[3]]);
        end(&mut locks, under_way[1], now);
        assert_eq!(begin(&mut locks, now), [waiting[0]]);
        locks.pace.record(s(100), None);
        end(&mut locks, under_way[2], now);
        assert_eq!(begin(&mut locks, now), [waiting[1]], "when none can, the nearest");
        assert_eq!(locks.under_way.len(), under_way.len());
    }

    #[test]
    fn a_passed_deadline_no_longer_waits() {
        let (mut locks, now, under_way) = full();
        let ids = [1, 2, 9].map(|deadline| add(&mut locks, now, s(deadline)));
        assert_eq!(wait(&mut locks, now), Some(s(1)), "until the first one passes");
        assert_eq!(begin(&mut locks, now + s(2)), ids[..2]);
        assert_eq!(wait(&mut locks, now + s(2)), Some(s(7)));
        assert_eq!(locks.under_way.len(), under_way.len() + 2);
    }

    #[test]
    fn a_lock_that_is_taken_out_is_forgotten_wherever_it_is() {
        let (mut locks, now, under_way) = full();
        let waiting = add(&mut locks, now, s(9));
        let (later, _) = locks.add((), Next { due: now + s(5), deadline: now + s(9) }, now);
        assert!(begin(&mut locks, now).is_empty());
        for id in [waiting, later] {
            assert!(locks.remove(id).unwrap().under_way.is_none());
            assert!(locks.remove(id).is_none());
        }
        assert!(locks.waiting.is_empty() && locks.later.is_empty());
        let next = add(&mut locks, now, s(9));
        let stopped = locks.remove(under_way[0]).unwrap().under_way;
        assert!(stopped.is_some());
        assert_eq!(begin(&mut locks, now), [next], "its place is free");
        assert!(locks.finish(SHIFT, under_way[0], now, OVER).is_none());
        assert_eq!(locks.under_way.len(), under_way.len());
        under_way[1..].iter().for_each(|id| drop(locks.remove(*id)));
        assert!(!locks.is_empty() && locks.remove(next).is_some());
        assert!(locks.is_empty());
        assert!(matches!(locks.step(SHIFT, now, s(1)), Step::Leave));
    }

    #[test]
    fn a_driver_is_woken_only_for_a_lock_that_is_due_before_it_wakes() {
        let (mut locks, now) = (Locks::default(), now());
        let add =
            |locks: &mut Locks, due| locks.add((), Next { due: now + s(due), deadline: now + s(99) }, now).1;
        assert_eq!(add(&mut locks, 10), Need::Start(SHIFT));
        assert_eq!(wait(&mut locks, now), Some(s(10)));
        assert_eq!(add(&mut locks, 10), Need::Nothing);
        assert_eq!(add(&mut locks, 9), Need::Wake);
        assert_eq!(add(&mut locks, 9), Need::Nothing, "it has been woken");
    }

    #[test]
    fn a_driver_that_stands_still_or_is_dropped_is_replaced_and_its_locks_are_taken_over() {
        for dropped in [false, true] {
            let (mut locks, start) = (Locks::default(), now());
            let first = add(&mut locks, start, s(99));
            assert_eq!(begin(&mut locks, start), [first]);
            let at = |seconds| start + s(seconds);
            let ask = |locks: &mut Locks, seconds| {
                locks.add((), Next { due: at(50), deadline: at(99) }, at(seconds)).1
            };
            // An extension takes a second, and a busy machine another.
            assert_eq!(wait(&mut locks, start), None);
            assert_eq!(ask(&mut locks, 2), Need::Wake, "it is not late yet");
            if dropped {
                locks.leave(SHIFT);
            }
            let again = if dropped { at(2) } else { at(3) };
            assert_eq!(ask(&mut locks, (again - start).as_secs()), Need::Start(SHIFT + 1));
            assert_eq!(begin_as(&mut locks, SHIFT + 1, again), [first]);
            // The first one continues.
            assert!(matches!(locks.step(SHIFT, again, s(1)), Step::Leave));
            locks.leave(SHIFT);
            assert!(locks.finish(SHIFT, first, again, OVER).is_none());
            assert_eq!(locks.under_way.len(), 1);
            assert!(locks.finish(SHIFT + 1, first, again, OVER).is_some());
            assert_eq!(ask(&mut locks, 4), Need::Nothing);
        }
    }
}
