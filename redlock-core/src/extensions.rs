//! The order of extensions. When they fall behind, the nearest deadlines go first: so an overloaded process
//! loses only the locks that it cannot extend, and not all of them.

// Tests: below for the order; tests/tests/it/sim/keep_alive.rs.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};

use crate::runtime::Runtime;

/// The extensions of one lock manager: those under way, and those in the queue.
#[derive(Debug, Default)]
pub(crate) struct ExtensionQueue(Mutex<State>);

#[derive(Debug)]
struct State {
    under_way: BTreeSet<u64>,
    /// How many may be under way: fewer when replies take long, because then the nodes, or this process,
    /// cannot keep up.
    limit: usize,
    /// By deadline, then in the order in which they came. At most one for each lock that is kept alive.
    waiting: BTreeMap<Key, Option<Waker>>,
    last_id: u64,
    /// How often an extension has ended, or all have been given up as stuck.
    ends: u64,
    /// How long the last extension took.
    took: Duration,
}

type Key = (Instant, u64);

impl ExtensionQueue {
    /// Waits until few enough others are under way. An extension that waits beyond its deadline goes on at
    /// once, and finds that its lock is lost.
    ///
    /// Those under way may stand still, on a runtime that nobody drives. When none of them ends for longer
    /// than an extension may take, `max_timeout`, they no longer count.
    pub(crate) async fn turn<'a>(
        &'a self,
        runtime: &'a dyn Runtime,
        max_timeout: Duration,
        deadline: Instant,
    ) -> Turn<'a> {
        let (key, waits) = self.state().begin(deadline);
        let mut turn = Turn { queue: self, runtime, key, waits, since: runtime.now(), end: None };
        while turn.waits {
            let ends = self.state().ends;
            let given = poll_fn(|cx| match self.state().waiting.get_mut(&key) {
                Some(waker) => {
                    *waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            });
            let patience = runtime.sleep(max_timeout + MAX_ABSENCE);
            turn.waits = match select(given, patience).await {
                Either::Left(_) => false,
                Either::Right(_) => {
                    let woken = self.state().give_up(ends, runtime.now());
                    woken.into_iter().for_each(Waker::wake);
                    true
                }
            };
            turn.since = runtime.now();
        }
        turn
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One extension's turn, which ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    queue: &'a ExtensionQueue,
    runtime: &'a dyn Runtime,
    key: Key,
    /// Whether the turn has not started yet.
    waits: bool,
    since: Instant,
    /// How long the nodes had to reply, and whether they did.
    end: Option<(Duration, bool)>,
}

impl Turn<'_> {
    /// Ends the turn, and records whether the nodes replied within `timeout`.
    pub(crate) fn finish(mut self, timeout: Duration, replied: bool) {
        self.end = Some((timeout, replied));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let now = self.runtime.now();
        let woken = {
            let mut state = self.queue.state();
            if self.waits {
                // A turn that was granted but never started goes to the next one.
                match state.waiting.remove(&self.key) {
                    Some(_) => Vec::new(),
                    None => state.finish(self.key.1, now, Duration::ZERO),
                }
            } else {
                let took = now.saturating_duration_since(self.since);
                if let Some((timeout, replied)) = self.end {
                    state.adapt(took, timeout, replied);
                }
                state.finish(self.key.1, now, took)
            }
        };
        woken.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Starts a turn, or joins the queue; returns whether it has to wait there.
    fn begin(&mut self, deadline: Instant) -> (Key, bool) {
        self.last_id += 1;
        let key = (deadline, self.last_id);
        let waits = self.under_way.len() >= self.limit;
        if waits {
            self.waiting.insert(key, None);
        } else {
            self.under_way.insert(key.1);
        }
        (key, waits)
    }

    /// Ends a turn that took this long.
    fn finish(&mut self, id: u64, now: Instant, took: Duration) -> Vec<Waker> {
        // A rare slow extension counts as slow for some time.
        self.took = took.max(self.took / 8 * 7);
        self.under_way.remove(&id);
        self.ends += 1;
        self.next(now)
    }

    /// Gives up all that are under way, unless one has ended since the count was `ends`.
    fn give_up(&mut self, ends: u64, now: Instant) -> Vec<Waker> {
        if self.ends != ends {
            return Vec::new();
        }
        self.under_way.clear();
        self.ends += 1;
        self.next(now)
    }

    /// Starts those with the nearest deadlines that can still be met. Those whose deadline has passed go on
    /// at once, beyond the bound: nothing is sent for them.
    fn next(&mut self, now: Instant) -> Vec<Waker> {
        let alive = self.waiting.split_off(&(now, u64::MAX));
        let lapsed = mem::replace(&mut self.waiting, alive);
        self.under_way.extend(lapsed.keys().map(|(_, id)| id));
        let mut woken: Vec<Waker> = lapsed.into_values().flatten().collect();
        let can_be_met = (now + self.took, 0);
        while self.under_way.len() < self.limit {
            let next = self.waiting.range(can_be_met..).next().or_else(|| self.waiting.first_key_value());
            let Some((key, _)) = next else { break };
            let key = *key;
            self.under_way.insert(key.1);
            woken.extend(self.waiting.remove(&key).flatten());
        }
        woken
    }

    /// Doubles the limit with each round of fast replies, and lowers it before replies come too late.
    fn adapt(&mut self, took: Duration, timeout: Duration, replied: bool) {
        let limit = match took {
            _ if !replied => self.limit / 8 * 7,
            took if took <= timeout / 4 => self.limit + 1,
            took if took <= timeout / 2 => self.limit,
            _ => self.limit - 1,
        };
        self.limit = limit.clamp(MIN_LIMIT, MAX_LIMIT);
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            under_way: BTreeSet::new(),
            limit: MIN_LIMIT,
            waiting: BTreeMap::new(),
            last_id: 0,
            ends: 0,
            took: Duration::ZERO,
        }
    }
}

/// Far more than a process that keeps up ever has under way at a time.
const MAX_LIMIT: usize = 512;
/// The limit at the start, and while no replies come.
const MIN_LIMIT: usize = 16;
/// An extension ends within this time after the deadline of its replies, unless it stands still. It leaves
/// room for a busy machine.
const MAX_ABSENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)]
    fn full() -> (State, Instant) {
        let (mut state, now) = (State { limit: MAX_LIMIT, ..State::default() }, Instant::now());
        for _ in 0..MAX_LIMIT {
            assert!(!state.begin(now).1, "nobody waits while there is room");
        }
        (state, now)
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The one that has been under way for longest ends.
    fn finish(state: &mut State, now: Instant, took: Duration) {
        let first = *state.under_way.first().unwrap();
        state.finish(first, now, took);
    }

    /// The deadlines that wait, in seconds from `now`.
    fn waiting(state: &State, now: Instant) -> Vec<u64> {
        state.waiting.keys().map(|(deadline, _)| (*deadline - now).as_secs()).collect()
    }

    #[test]
    fn the_nearest_deadline_that_can_be_met_is_next() {
        let (mut state, now) = full();
        for deadline in [7, 2, 9, 5] {
            assert!(state.begin(now + s(deadline)).1);
        }
        finish(&mut state, now, s(3));
        assert_eq!(waiting(&state, now), [2, 7, 9]);
        finish(&mut state, now, s(0));
        assert_eq!(waiting(&state, now), [2, 9]);
        finish(&mut state, now, s(100));
        assert_eq!(waiting(&state, now), [9], "when none can, the nearest");
        assert_eq!(state.under_way.len(), MAX_LIMIT);
    }

    #[test]
    fn fewer_are_under_way_while_answers_take_long_or_stay_away() {
        let (mut state, now) = full();
        let timeout = s(1);
        state.adapt(timeout / 2, timeout, true);
        assert_eq!(state.limit, MAX_LIMIT);
        state.adapt(timeout, timeout, true);
        assert_eq!(state.limit, MAX_LIMIT - 1);
        (0..100).for_each(|_| state.adapt(timeout, timeout, false));
        assert_eq!(state.limit, MIN_LIMIT);
        for _ in 0..MAX_LIMIT - MIN_LIMIT {
            assert!(state.begin(now + s(9)).1);
            finish(&mut state, now, s(0));
        }
        assert_eq!(state.under_way.len(), MIN_LIMIT);
        assert_eq!(state.waiting.len(), MAX_LIMIT - MIN_LIMIT);
        state.adapt(timeout / 4, timeout, true);
        finish(&mut state, now, s(0));
        assert_eq!(state.under_way.len(), MIN_LIMIT + 1, "two follow one");
        (0..1_000).for_each(|_| state.adapt(s(0), timeout, true));
        assert_eq!(state.limit, MAX_LIMIT);
    }

    #[test]
    fn a_passed_deadline_no_longer_waits() {
        let (mut state, now) = full();
        for deadline in [1, 2, 9] {
            state.begin(now + s(deadline));
        }
        finish(&mut state, now + s(2), s(0));
        assert_eq!(waiting(&state, now), [9]);
        assert_eq!(state.under_way.len(), MAX_LIMIT + 1);
        for _ in 0..3 {
            finish(&mut state, now + s(2), s(0));
        }
        assert_eq!((state.waiting.len(), state.under_way.len()), (0, MAX_LIMIT - 1));
    }

    #[test]
    fn turns_that_do_not_end_for_too_long_are_given_up_once() {
        let (mut state, now) = full();
        let waiting: Vec<Key> = (0..3).map(|_| state.begin(now + s(9)).0).collect();
        let ends = state.ends;
        finish(&mut state, now, s(1));
        assert!(!state.waiting.contains_key(&waiting[0]));
        state.give_up(ends, now);
        assert_eq!(state.under_way.len(), MAX_LIMIT, "one has ended");
        let ends = state.ends;
        state.give_up(ends, now);
        state.give_up(ends, now);
        assert!(state.waiting.is_empty());
        assert_eq!(state.under_way, BTreeSet::from([waiting[1].1, waiting[2].1]));
        state.finish(1, now, s(1));
        state.finish(waiting[1].1, now, s(1));
        assert_eq!(
            state.under_way,
            BTreeSet::from([waiting[2].1]),
            "what was given up does not count when it ends"
        );
    }
}
