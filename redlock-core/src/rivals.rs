//! When to try for a lock that several clients want. There is no clock and no async.

// Tests: below; tests/tests/it/sim/rivals.rs.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::resources::Resources;

/// The other clients that want the same resource, as far as a call notices them.
///
/// All who wait are told at once that a lock is free. So each has a moment of its own, a number of trips
/// later, and the longer it has waited, the earlier that is. A client counts how often the lock changed hands
/// while it waited, and knows from its last waits how often that usually happens before it gets the lock. So
/// clients that come back again and again take turns, although none knows of the others: who has waited for
/// as many as usual tries at once, and who comes back from its own lock tries last.
#[derive(Debug)]
pub(crate) struct Rivals {
    /// How often the lock changed hands in the last waits, in sixteenths.
    usual: u32,
    /// How often it did so in this one.
    seen: u32,
    /// Within how many trips to draw a moment, as others have tried at the same one.
    spread: u32,
    /// How many reports to believe before the next one that has to be verified.
    trust: u32,
    /// Whether this call tries, or has tried, at the report of a single node.
    early: Early,
    /// How long a round takes.
    trip: Duration,
}

impl Rivals {
    /// A round that was lost took so long.
    pub(crate) fn took(&mut self, trip: Duration) {
        self.trip = trip;
    }

    /// How long a round takes, within bounds.
    pub(crate) fn trip(&self) -> Duration {
        self.trip.clamp(MIN_TRIP, MAX_TRIP)
    }

    /// Whoever had the lock has released it.
    pub(crate) fn released(&mut self) {
        self.seen = self.seen.saturating_add(1);
    }

    /// Somebody else tried at the same moment, and this call did not get it, or only on `some` nodes. So it
    /// needs more room.
    pub(crate) fn collided(&mut self, some: bool) {
        self.spread = (2 * self.spread + FIRST_SPREAD).min(MAX_SPREAD);
        if some && self.early == Early::Tried {
            self.early = Early::Failed;
        }
    }

    /// Whether to try at the report of a single node, which came so long after the question. One that comes
    /// soon says how things are, not that they have changed; it may be between the requests of another client.
    /// With several rivals, those who try early would only divide the nodes among themselves.
    pub(crate) fn tries_early(&mut self, after: Duration) -> bool {
        let early = self.early == Early::May && self.usual <= SCALE && !self.is_soon(after);
        if early {
            self.early = Early::Tried;
        }
        early
    }

    /// Whether a report that came so long after the question is about what the node found, and not about a
    /// change.
    pub(crate) fn is_soon(&self, after: Duration) -> bool {
        after <= self.trip() * 3 / 2
    }

    /// Somebody else was faster, and this call did not even try. So others make room, and it is its turn to be
    /// bold: with the same room for all, who is late once would stay so.
    pub(crate) fn overtaken(&mut self) {
        self.spread /= 4;
    }

    /// Whether to believe the next report that the keys have changed, or to let the node read them first. A
    /// change may be an extension. Then a call that believes it tries for nothing, so it does not believe the
    /// one after it: that has to be a release, after which it believes some more.
    pub(crate) fn believes(&mut self) -> bool {
        match self.trust.checked_sub(1) {
            Some(left) => {
                self.trust = left;
                true
            }
            None => {
                self.trust = TRUST;
                false
            }
        }
    }

    /// How long after a release to try. `draw` returns a random number from 0 to its argument.
    pub(crate) fn moment(&self, draw: impl FnOnce(u64) -> u64) -> Duration {
        let usual = self.usual.div_ceil(SCALE).min(MOST);
        // With several rivals, who has waited for longer than usual comes before those who have their turn.
        let last = usual + u32::from(usual > 1);
        let behind = last.saturating_sub(self.seen);
        let place = self.trip() * (SLOT * behind * behind) / last.max(1);
        if self.spread == 0 {
            return place;
        }
        let spread = u64::try_from((self.trip() * self.spread).as_nanos()).unwrap_or(u64::MAX);
        place + Duration::from_nanos(draw(spread))
    }

    fn learnt(&self) -> u32 {
        let seen = self.seen.min(MOST) * SCALE;
        if seen < self.usual {
            // Rounded towards what was seen and one less, so that it arrives at zero, and soon.
            (self.usual - (self.usual - seen).div_ceil(4)).saturating_sub(1)
        } else {
            self.usual + (seen - self.usual) / 4
        }
    }
}

/// A release arrives at one node after the other. So does the request of who waits, and it leaves later: when
/// the first node reports the release, there is no need to wait for the others' reports. That fails where the
/// first node is much closer to whoever releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Early {
    May,
    Tried,
    /// It was too early: other nodes still had the key.
    Failed,
    MayNot,
}

/// The rivals of the last waits, for each resource; resources share a place when there are many.
#[derive(Debug)]
pub(crate) struct UsualRivals {
    /// Whether there have been any. Without, nobody looks for the place.
    known: AtomicBool,
    places: [Place; PLACES],
}

#[derive(Debug, Default)]
struct Place {
    usual: AtomicU32,
    /// For how many more waits no call tries early.
    patient: AtomicU32,
    last: Mutex<Last>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Last {
    trip: Duration,
    /// Whether somebody else had the lock just before.
    passed_on: bool,
    released: Option<Instant>,
}

impl UsualRivals {
    /// Those of a call that has to wait.
    pub(crate) fn of(&self, resources: &Resources) -> Rivals {
        let place = self.place(resources);
        let usual = place.usual.load(Ordering::Relaxed);
        let early = if place.patient.load(Ordering::Relaxed) == 0 { Early::May } else { Early::MayNot };
        Rivals { usual, seen: 0, spread: 0, trust: FIRST_TRUST, early, trip: place.last().trip }
    }

    /// If there are any, and this client has released the lock: those of its next call, and when that was.
    pub(crate) fn after_release(&self, resources: &Resources) -> Option<(Rivals, Instant)> {
        let place = self.disputed(resources)?;
        let released = place.last().released?;
        Some((self.of(resources), released))
    }

    /// The lock is released. If it was `disputed`, another client wants it, although this one may never have
    /// waited. If it has waited, that is a further one beside the holder before: two that only knew of each
    /// other would take turns without end while a third one waits.
    pub(crate) fn release(&self, resources: &Resources, disputed: bool, now: impl FnOnce() -> Instant) {
        if disputed {
            let place = self.place(resources);
            let rivals = if place.last().passed_on { 2 } else { 1 };
            place.usual.fetch_max(rivals * SCALE, Ordering::Relaxed);
            self.known.store(true, Ordering::Relaxed);
        }
        if let Some(place) = self.disputed(resources) {
            let now = now();
            place.last().released = Some(now);
        }
    }

    /// A call has won the lock after a wait, in a round that took so long.
    pub(crate) fn learn(&self, resources: &Resources, rivals: &Rivals, trip: Duration) {
        let (place, learnt) = (self.place(resources), rivals.learnt());
        {
            let mut last = place.last();
            (last.trip, last.passed_on) = (trip, rivals.seen > 0);
        }
        match rivals.early {
            Early::Failed => place.patient.store(PATIENT, Ordering::Relaxed),
            Early::MayNot => {
                let waits = place.patient.load(Ordering::Relaxed);
                place.patient.store(waits.saturating_sub(1), Ordering::Relaxed);
            }
            Early::May | Early::Tried => {}
        }
        if learnt != rivals.usual {
            place.usual.store(learnt, Ordering::Relaxed);
            self.known.store(true, Ordering::Relaxed);
        }
    }

    /// As [`UsualRivals::learn`], for a call that had not to wait.
    pub(crate) fn learn_of_none(&self, resources: &Resources, trip: Duration) {
        if self.disputed(resources).is_some() {
            self.learn(resources, &self.of(resources), trip);
        }
    }

    fn disputed(&self, resources: &Resources) -> Option<&Place> {
        if !self.known.load(Ordering::Relaxed) {
            return None;
        }
        let place = self.place(resources);
        (place.usual.load(Ordering::Relaxed) > 0).then_some(place)
    }

    fn place(&self, resources: &Resources) -> &Place {
        let mut hasher = DefaultHasher::new();
        resources.iter().for_each(|name| name.hash(&mut hasher));
        &self.places[hasher.finish() as usize % PLACES]
    }
}

impl Default for UsualRivals {
    fn default() -> Self {
        Self { known: AtomicBool::new(false), places: std::array::from_fn(|_| Place::default()) }
    }
}

impl Place {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SCALE: u32 = 16;
/// So many trips for each rival until the moment of who comes back. The earlier ones are closer to each
/// other, as the first decides for how long the lock stays free. In the simulation, 16 clients need 2.7
/// rounds for each success with 4, and 3.0 with 3.
const SLOT: u32 = 4;
/// The trips of [`Rivals::collided`].
const FIRST_SPREAD: u32 = 6;
const MAX_SPREAD: u32 = 64;
/// How many reports a call believes ...
const FIRST_TRUST: u32 = 1;
/// ... and how many after one that was verified.
const TRUST: u32 = 4;
/// How many waits after one that was too early have none.
const PATIENT: u32 = 16;
/// So many rivals at most count.
const MOST: u32 = 64;
const PLACES: usize = 64;
const MIN_TRIP: Duration = Duration::from_micros(200);
const MAX_TRIP: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(1);

    fn rivals(usual: u32, seen: u32) -> Rivals {
        Rivals { usual: usual * SCALE, seen, spread: 0, trust: FIRST_TRUST, early: Early::May, trip: TRIP }
    }

    fn place(usual: u32, seen: u32) -> u128 {
        rivals(usual, seen).moment(|_| unreachable!("no spread")).as_micros()
    }

    #[test]
    fn who_has_waited_as_long_as_usual_tries_at_once_and_who_comes_back_is_last() {
        assert_eq!([place(0, 0), place(0, 1), place(0, 9)], [0; 3], "without rivals");
        assert_eq!([place(1, 0), place(1, 1), place(1, 2)], [4_000, 0, 0], "two take turns");
        assert_eq!([0, 1, 2, 3, 4].map(|seen| place(3, seen)), [16_000, 9_000, 4_000, 1_000, 0]);
        let all: Vec<u128> = (0..18).map(|seen| place(15, seen)).collect();
        assert!(all[..17].is_sorted_by(|earlier, later| earlier > later), "{all:?}");
        assert_eq!((all[0], all[15], all[16], all[17]), (64_000, 250, 0, 0));
    }

    #[test]
    fn who_tries_together_with_others_draws_a_moment_and_who_is_overtaken_becomes_bold_again() {
        let mut rivals = rivals(0, 5);
        let latest = |rivals: &Rivals| rivals.moment(|width| width).as_millis();
        let mut widths = Vec::new();
        for _ in 0..5 {
            rivals.collided(false);
            assert_eq!(rivals.moment(|_| 0), Duration::ZERO);
            widths.push(latest(&rivals));
        }
        assert_eq!(widths, [6, 18, 42, 64, 64]);
        widths.clear();
        for _ in 0..4 {
            rivals.overtaken();
            widths.push(latest(&rivals));
        }
        assert_eq!(widths, [16, 4, 1, 0]);
    }

    #[test]
    fn a_call_believes_a_report_then_has_one_verified_and_believes_some_more() {
        let mut rivals = rivals(0, 0);
        let believed: Vec<bool> = (0..7).map(|_| rivals.believes()).collect();
        assert_eq!(believed, [true, false, true, true, true, true, false]);
    }

    /// A wait in which the lock changes hands so often.
    fn wait(usual: &UsualRivals, resources: &Resources, seen: u32) {
        let mut rivals = usual.of(resources);
        (0..seen).for_each(|_| rivals.released());
        usual.learn(resources, &rivals, TRIP);
    }

    #[test]
    fn what_is_usual_follows_the_waits_and_is_forgotten_soon() {
        let (usual, resources) = (UsualRivals::default(), Resources::from("a"));
        let known = || usual.of(&resources).usual.div_ceil(SCALE);
        assert_eq!(known(), 0);
        (0..20).for_each(|_| wait(&usual, &resources, 15));
        assert_eq!(known(), 15);
        let calls = (0..100).take_while(|_| {
            usual.learn_of_none(&resources, TRIP);
            known() > 0
        });
        let calls = calls.count();
        assert!((5..=20).contains(&calls), "{calls}");
        wait(&usual, &resources, 1);
        assert_eq!(known(), 1, "after one wait");
        (0..9).for_each(|_| wait(&usual, &resources, 0));
        assert_eq!(known(), 0);
    }

    #[test]
    fn a_call_tries_early_once_at_a_report_of_a_change_and_with_one_rival_at_most() {
        let change = 2 * TRIP;
        let mut one = rivals(1, 0);
        assert!(!one.tries_early(TRIP * 3 / 2), "how the node found it");
        assert!(one.tries_early(change));
        assert!(!one.tries_early(change), "once");
        assert!(rivals(0, 0).tries_early(change));
        assert!(!rivals(2, 0).tries_early(change));
    }

    #[test]
    fn nobody_tries_early_for_some_waits_after_one_that_was_too_early() {
        let (usual, resources) = (UsualRivals::default(), Resources::from("a"));
        let wait = |granted: Option<bool>| {
            let mut rivals = usual.of(&resources);
            let early = rivals.tries_early(TRIP);
            if let Some(some) = granted {
                rivals.collided(some);
            }
            usual.learn(&resources, &rivals, TRIP / 4);
            early
        };
        assert!(wait(None), "the first time");
        assert!(wait(Some(false)), "no node granted it, so it was none too early");
        assert!(wait(Some(true)));
        let patient = (0..100).take_while(|_| !wait(Some(true))).count();
        assert_eq!(patient, PATIENT as usize);
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn a_release_counts_only_with_rivals() {
        let (usual, resources) = (UsualRivals::default(), Resources::from("a"));
        let release = |disputed| usual.release(&resources, disputed, Instant::now);
        let comes_last = || usual.after_release(&resources).map(|(rivals, _)| rivals.moment(|_| 0));
        usual.release(&resources, false, || unreachable!("nobody asks for the time"));
        usual.learn_of_none(&resources, TRIP);
        assert_eq!(comes_last(), None);
        wait(&usual, &resources, 1);
        assert_eq!(comes_last(), None, "it has not had the lock yet");
        release(false);
        assert_eq!(comes_last(), Some(4 * TRIP));
        wait(&usual, &resources, 0);
        assert!(comes_last().is_some());
        (0..9).for_each(|_| usual.learn_of_none(&resources, TRIP));
        assert_eq!(comes_last(), None);
        release(true);
        assert_eq!(comes_last(), Some(4 * TRIP), "it never waited, but a node refused");
        wait(&usual, &resources, 1);
        release(false);
        assert_eq!(comes_last(), Some(4 * TRIP));
        release(true);
        assert_eq!(comes_last(), Some(12 * TRIP), "not only the one that had it before, but a third one");
    }

    #[test]
    fn the_moment_is_bounded() {
        let all = u32::MAX;
        let mut rivals = Rivals { usual: all, spread: MAX_SPREAD, trip: Duration::MAX, ..rivals(0, 0) };
        assert_eq!(rivals.moment(|width| width), MAX_TRIP * (SLOT * (MOST + 1) + MAX_SPREAD));
        rivals.seen = all;
        rivals.released();
        assert_eq!(rivals.moment(|_| 0), Duration::ZERO);
        assert_eq!(Rivals { usual: 0, ..rivals }.learnt(), MOST * SCALE / 4);
    }
}
