//! What is made of the measured numbers: percentiles, ratios for each round, and their median and spread.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a row has measured: for each name, one number for each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(BTreeMap<String, Vec<f64>>);

impl Samples {
    pub(crate) fn add(&mut self, name: impl Into<String>, number: f64) {
        self.0.entry(name.into()).or_default().push(number);
    }

    /// The numbers of all rounds.
    pub(crate) fn of(&self, name: &str) -> Spread {
        Spread { rounds: self.0.get(name).cloned().unwrap_or_default() }
    }

    /// One number over another, for each round. Both are from the same round, so that what slows the machine
    /// down meanwhile slows both.
    pub(crate) fn ratio(&self, over: &str, under: &str) -> Spread {
        let (over, under) = (self.of(over).rounds, self.of(under).rounds);
        Spread { rounds: over.iter().zip(&under).map(|(over, under)| over / under).collect() }
    }
}

/// One number for each round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Spread {
    pub(crate) rounds: Vec<f64>,
}

impl Spread {
    /// `None` when nothing was measured.
    pub(crate) fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let upper = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            length if length % 2 == 0 => Some(f64::midpoint(sorted[upper - 1], sorted[upper])),
            _ => Some(sorted[upper]),
        }
    }

    pub(crate) fn least(&self) -> Option<f64> {
        self.sorted().first().copied()
    }

    pub(crate) fn most(&self) -> Option<f64> {
        self.sorted().last().copied()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// The smallest number that this share of the numbers does not exceed; `NAN` when there are none.
pub(crate) fn percentile(numbers: &mut [f64], percent: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let rank = (numbers.len() as f64 * percent / 100.0).ceil() as usize;
    numbers.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The same of counted numbers: `counts` has for each number how often it was measured. 0 when there are
/// none.
pub(crate) fn counted_percentile(counts: &[usize], percent: f64) -> f64 {
    let rank = (counts.iter().sum::<usize>() as f64 * percent / 100.0).ceil() as usize;
    let mut seen = 0;
    let reaches = |count: &usize| {
        seen += count;
        seen >= rank
    };
    counts.iter().position(reaches).unwrap_or(0) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_measured_number_of_its_rank() {
        let mut numbers: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut numbers, 50.0), 50.0);
        assert_eq!(percentile(&mut numbers, 99.0), 99.0);
        assert_eq!(percentile(&mut numbers, 99.9), 100.0);
        assert_eq!(percentile(&mut numbers, 0.0), 1.0);
        assert_eq!(percentile(&mut [7.0], 1.0), 7.0);
        assert!(percentile(&mut [], 50.0).is_nan());
    }

    #[test]
    fn a_percentile_of_counted_numbers_is_that_of_the_numbers() {
        let counts = [0, 0, 990, 9, 0, 1];
        assert_eq!(counted_percentile(&counts, 50.0), 2.0);
        assert_eq!(counted_percentile(&counts, 99.9), 3.0);
        assert_eq!(counted_percentile(&counts, 100.0), 5.0);
        assert_eq!(counted_percentile(&[], 50.0), 0.0);
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        let mut samples = Samples::default();
        // In the second round the machine is ten times as slow.
        for (ours, floor) in [(2.0, 1.0), (30.0, 10.0), (4.0, 1.0)] {
            samples.add("ours", ours);
            samples.add("floor", floor);
        }
        let ratio = samples.ratio("ours", "floor");
        assert_eq!(ratio.rounds, [2.0, 3.0, 4.0]);
        assert_eq!((ratio.median(), ratio.least(), ratio.most()), (Some(3.0), Some(2.0), Some(4.0)));
        assert_eq!(samples.ratio("ours", "another").median(), None);
    }

    #[test]
    fn the_median_of_an_even_number_of_rounds_is_between_the_middle_ones() {
        assert_eq!(Spread { rounds: vec![9.0, 1.0, 2.0, 4.0] }.median(), Some(3.0));
        assert_eq!(Spread { rounds: vec![5.0] }.median(), Some(5.0));
    }
}
