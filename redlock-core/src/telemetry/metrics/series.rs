//! Gauges that several lock managers of a process share, as they have the same labels. A recorder can add up
//! what they say, but the oldest of their locks, and whether a node fails for any of them, is found here.

// Tests: below; tests/tests/it/telemetry/gauges.rs.

use std::{
    collections::BTreeSet,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Key, with_recorder};

use super::{super::in_a_destructor, keys::show};

/// A gauge of the process, made of the parts of its managers.
#[derive(Debug)]
pub(super) struct Series {
    shows: Shows,
    /// The value of each part, and its number.
    parts: Mutex<BTreeSet<(u64, u64)>>,
}

/// What is shown of the parts.
#[derive(Debug)]
pub(super) enum Shows {
    /// The earliest, in microseconds, or 0 for none; and how many there are.
    Held { oldest: Key, number: Key },
    /// The least, or 1 for none.
    Healthy(Key),
}

impl Series {
    /// The series that shows this to the current recorder. Each recorder has its own: tests have recorders for
    /// their threads.
    pub(super) fn shared(shows: Shows) -> Arc<Self> {
        let recorder = with_recorder(|recorder| ptr::from_ref(recorder).addr());
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, series)| series.strong_count() > 0);
        let same = |(of, series): &(usize, Weak<Self>)| {
            series.upgrade().filter(|series| *of == recorder && series.shows.key() == shows.key())
        };
        all.iter().find_map(same).unwrap_or_else(|| {
            let series = Arc::new(Self { shows, parts: Mutex::default() });
            all.push((recorder, Arc::downgrade(&series)));
            series
        })
    }

    pub(super) fn show(&self) {
        self.change(|_| true, |shown| self.shows.show(shown));
    }

    /// Changes the parts, and shows them if anything has changed. They are shown without the lock, since a
    /// recorder is foreign code, so what another thread has seen later may be shown before. Who shows something
    /// therefore looks again.
    fn change(&self, change: impl FnOnce(&mut BTreeSet<(u64, u64)>) -> bool, show: impl Fn(Shown)) {
        let mut parts = self.parts();
        if !change(&mut parts) {
            return;
        }
        let mut now = Shown::of(&parts);
        drop(parts);
        loop {
            show(now);
            let after = Shown::of(&self.parts());
            if now == after {
                return;
            }
            now = after;
        }
    }

    fn parts(&self) -> MutexGuard<'_, BTreeSet<(u64, u64)>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    least: Option<u64>,
    number: usize,
}

impl Shown {
    fn of(parts: &BTreeSet<(u64, u64)>) -> Self {
        Self { least: parts.first().map(|(value, _)| *value), number: parts.len() }
    }
}

impl Shows {
    fn key(&self) -> &Key {
        match self {
            Self::Held { oldest: key, .. } | Self::Healthy(key) => key,
        }
    }

    fn show(&self, shown: Shown) {
        match self {
            Self::Held { oldest, number } => {
                show(oldest, shown.least.map_or(0.0, |micros| micros as f64 / 1e6));
                show(number, shown.number as f64);
            }
            Self::Healthy(key) => show(key, shown.least.map_or(1.0, |least| least as f64)),
        }
    }
}

/// A part of a series. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Part {
    series: Arc<Series>,
    number: u64,
    value: AtomicU64,
}

impl Part {
    /// One that is not shown yet.
    pub(super) fn new(series: Arc<Series>) -> Self {
        Self { series, number: NEXT.fetch_add(1, Ordering::Relaxed), value: AtomicU64::new(0) }
    }

    pub(super) fn of(series: Arc<Series>, value: u64) -> Self {
        let part = Self::new(series);
        part.set(|| value);
        part
    }

    /// `value` is read in the order in which parts change.
    pub(super) fn set(&self, value: impl FnOnce() -> u64) {
        self.change(|parts| {
            let value = value();
            let before = self.value.swap(value, Ordering::Relaxed);
            let removed = parts.remove(&(before, self.number));
            parts.insert((value, self.number));
            !removed || before != value
        });
    }

    pub(super) fn remove(&self) {
        self.change(|parts| parts.remove(&(self.value.load(Ordering::Relaxed), self.number)));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<(u64, u64)>) -> bool) {
        self.series.change(change, |shown| self.series.shows.show(shown));
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        in_a_destructor(|| self.remove());
    }
}

/// The series of all managers, by their recorder.
static ALL: Mutex<Vec<(usize, Weak<Series>)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn series(name: &'static str) -> Arc<Series> {
        Series::shared(Shows::Healthy(Key::from_static_name(name)))
    }

    fn shown(series: &Series) -> (Option<u64>, usize) {
        let Shown { least, number } = Shown::of(&series.parts());
        (least, number)
    }

    #[test]
    fn managers_with_one_key_share_their_series_and_the_least_part_counts() {
        let parts = [5, 3, 4].map(|value| Part::of(series("shared"), value));
        let [five, three, four] = &parts;
        assert_eq!(shown(&five.series), (Some(3), 3));
        three.set(|| 9);
        assert_eq!(shown(&five.series), (Some(4), 3));
        four.remove();
        four.remove();
        assert_eq!(shown(&five.series), (Some(5), 2), "a part ends once");
        let _other = Part::of(series("other"), 1);
        assert_eq!(shown(&five.series), (Some(5), 2), "another key is another series");
        drop(parts);
        assert_eq!(shown(&series("shared")), (None, 0));
    }

    #[test]
    fn what_is_shown_last_is_the_state_although_another_thread_was_faster() {
        let (series, last) = (series("raced"), Cell::new(0));
        let raced = Cell::new(false);
        series.change(
            |parts| parts.insert((1, 1)),
            |seen| {
                if !raced.replace(true) {
                    // Between what the first one has seen and what it shows.
                    series.change(|parts| parts.insert((2, 2)), |newer| last.set(newer.number));
                    assert_eq!(last.get(), 2);
                }
                last.set(seen.number);
            },
        );
        assert_eq!(last.get(), 2);
    }
}
