//! Checks whether the numbers of a run grow.

use std::fmt;

use super::Sample;

/// How far one number has grown from the beginning to the end of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The name of the number.
    pub name: &'static str,
    /// The number after the warm-up.
    pub before: f64,
    /// The number at the end.
    pub after: f64,
    /// The limit at the end.
    pub most: f64,
    /// By how much it rises in an hour.
    pub trend: Trend,
}

/// A slope, with what it may be off by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// By how much the number rises in an hour.
    pub per_hour: f64,
    /// The true slope is within so much of that, in 19 of 20 runs.
    pub uncertainty: f64,
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_hour, uncertainty } = self;
        write!(f, "{per_hour:+.1} ± {uncertainty:.1} an hour")
    }
}

impl Growth {
    /// Whether it is within the limit.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        self.after <= self.most
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, before, after, most, trend } = self;
        write!(f, "{name:>12} {before:>9.1} {after:>9.1}  at most {most:.1}; {trend}")
    }
}

/// The growth of each number, from the second fifth of the run to the last.
///
/// The level of a fifth is its lower quartile, so a short rise after a fault does not count, but a permanent
/// one does. The limit is a tenth more, plus a small allowance for each number.
#[must_use]
pub fn growths(samples: &[Sample]) -> Vec<Growth> {
    let fifth = samples.len() / 5;
    let (early, late) = (&samples[fifth..2 * fifth], &samples[samples.len() - fifth..]);
    let growth = |name, allowed, of: fn(&Sample) -> f64| {
        let (before, after) = (level(early, of), level(late, of));
        let trend = trend(&samples[fifth..], of);
        Growth { name, before, after, most: before * 1.1 + allowed, trend }
    };
    vec![
        growth("memory (MiB)", 8.0, |sample| sample.memory),
        growth("heap (MiB)", 1.0, |sample| sample.heap),
        growth("tasks", 50.0, |sample| sample.tasks),
        growth("sockets", 20.0, |sample| sample.sockets),
        growth("descriptors", 20.0, |sample| sample.descriptors),
    ]
}

/// The slope of the line that is nearest to the levels of [`BLOCKS`] parts. Samples of one part depend on
/// each other, as a fault changes all of them, so they count once.
fn trend(samples: &[Sample], of: fn(&Sample) -> f64) -> Trend {
    let blocks = samples.chunks_exact((samples.len() / BLOCKS).max(1)).take(BLOCKS);
    let points: Vec<(f64, f64)> = blocks
        .map(|block| {
            let hours = block.iter().map(|sample| sample.at).sum::<f64>() / block.len() as f64 / 3_600.0;
            (hours, level(block, of))
        })
        .collect();
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let (at, height) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(hours, _)| (hours - at).powi(2)).sum();
    let slope = points.iter().map(|(hours, level)| (hours - at) * (level - height)).sum::<f64>() / spread;
    let off = |(hours, level): &(f64, f64)| (level - height - slope * (hours - at)).powi(2);
    let rest = points.iter().map(off).sum::<f64>() / (points.len() as f64 - 2.0);
    Trend { per_hour: slope, uncertainty: STUDENT * (rest / spread).sqrt() }
}

fn level(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 4).copied().unwrap_or_default()
}

const BLOCKS: usize = 20;
/// 95 % of Student's distribution with two degrees of freedom fewer than blocks.
const STUDENT: f64 = 2.101;

#[cfg(test)]
mod tests {
    use super::*;

    fn run(tasks: impl Fn(usize) -> f64) -> Vec<bool> {
        of_tasks(tasks).iter().map(Growth::is_flat).collect()
    }

    fn of_tasks(tasks: impl Fn(usize) -> f64) -> Vec<Growth> {
        let sample = |second| Sample {
            at: second as f64,
            memory: 40.0,
            tasks: tasks(second),
            sockets: 30.0,
            descriptors: 60.0,
            ..Sample::default()
        };
        let samples: Vec<Sample> = (0..600).map(sample).collect();
        growths(&samples)
    }

    #[test]
    fn a_constant_number_is_flat() {
        assert_eq!(run(|_| 1_000.0), [true; 5]);
    }

    #[test]
    fn a_leak_of_a_task_per_second_is_found() {
        assert_eq!(run(|second| 1_000.0 + second as f64), [true, true, false, true, true]);
    }

    #[test]
    fn a_number_that_rises_and_falls_is_flat() {
        let noisy = |second: usize| 1_000.0 + if second % 10 < 6 { 2_000.0 } else { 0.0 };
        assert_eq!(run(noisy), [true; 5]);
    }

    #[test]
    fn a_number_that_only_warms_up_is_flat() {
        assert_eq!(run(|second| 1_000.0 + 5.0 * second.min(100) as f64), [true; 5]);
    }

    #[test]
    fn a_slope_is_told_from_zero_only_if_it_is_more_than_the_noise() {
        fn noise(second: usize) -> f64 {
            (second * 7_919 % 101) as f64
        }
        let trend = |tasks: fn(usize) -> f64| of_tasks(tasks)[2].trend;
        assert_eq!(trend(|_| 1_000.0), Trend { per_hour: 0.0, uncertainty: 0.0 });
        let noisy = trend(|second| 1_000.0 + noise(second));
        assert!(noisy.per_hour.abs() < noisy.uncertainty, "{noisy}");
        let leak = trend(|second| 1_000.0 + noise(second) + second as f64);
        assert!((leak.per_hour - 3_600.0).abs() <= 2.0 * leak.uncertainty, "{leak}");
        assert!(leak.per_hour > leak.uncertainty, "{leak}");
        assert_eq!(trend(|second| second as f64).to_string(), "+3600.0 ± 0.0 an hour");
    }
}
