//! What is checked at the end, from what was recorded. No clock, no lock.

use std::{fmt, time::Duration};

/// When a worker held the lock, counted from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Span {
    pub(crate) fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }

    pub(crate) fn contains(self, instant: Duration) -> bool {
        self.from <= instant && instant < self.to
    }
}

/// How many holds began while another was not over. They need to be in order of their start.
fn overlaps(holds: &[Span]) -> usize {
    let mut end = Duration::ZERO;
    let mut overlaps = 0;
    for hold in holds {
        overlaps += usize::from(hold.from < end);
        // Not the neighbour's end: a long hold may cover several that follow.
        end = end.max(hold.to);
    }
    overlaps
}

/// The two checks: the recorded times, and the account that only the lock guards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    holds: usize,
    overlaps: usize,
    counter: usize,
    expected: usize,
}

impl Proof {
    /// `holds` in any order; `expected` is how many there should be.
    pub(crate) fn new(holds: &[Span], counter: usize, expected: usize) -> Self {
        let mut sorted = holds.to_vec();
        sorted.sort_by_key(|hold| hold.from);
        Self { holds: holds.len(), overlaps: overlaps(&sorted), counter, expected }
    }

    pub(crate) fn holds_up(&self) -> bool {
        self.overlaps == 0 && self.counter == self.holds && self.holds == self.expected
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds_up() { "" } else { "BROKEN: " };
        let Self { holds, overlaps, counter, expected } = self;
        write!(f, "{verdict}{holds} holds, {overlaps} overlaps, counter {counter} of {expected}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans<const N: usize>(millis: [(u64, u64); N]) -> [Span; N] {
        millis.map(|(from, to)| Span { from: Duration::from_millis(from), to: Duration::from_millis(to) })
    }

    #[test]
    fn one_after_the_other_is_no_overlap_even_without_a_gap() {
        assert_eq!(overlaps(&[]), 0);
        assert_eq!(overlaps(&spans([(0, 10), (10, 20), (25, 30)])), 0);
    }

    #[test]
    fn a_long_hold_overlaps_with_all_that_begin_in_it_not_only_with_its_neighbour() {
        assert_eq!(overlaps(&spans([(0, 10), (9, 20), (20, 30)])), 1);
        assert_eq!(overlaps(&spans([(0, 100), (10, 20), (30, 40), (100, 110)])), 2);
    }

    #[test]
    fn the_order_in_which_holds_were_recorded_does_not_matter() {
        assert!(Proof::new(&spans([(25, 30), (0, 10), (10, 20)]), 3, 3).holds_up());
        assert!(!Proof::new(&spans([(19, 30), (0, 10), (10, 20)]), 3, 3).holds_up());
    }

    #[test]
    fn a_lost_update_and_a_missing_hold_break_the_proof() {
        let holds = spans([(0, 10), (10, 20)]);
        assert!(!Proof::new(&holds, 1, 2).holds_up());
        assert!(!Proof::new(&holds, 2, 3).holds_up());
        assert!(Proof::new(&holds, 2, 2).holds_up());
    }
}
