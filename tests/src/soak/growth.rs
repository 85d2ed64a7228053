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
        let Self { name, before, after, most } = self;
        write!(f, "{name:>12} {before:>9.1} {after:>9.1}  at most {most:.1}")
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
        Growth { name, before, after, most: before * 1.1 + allowed }
    };
    vec![
        growth("memory (MiB)", 8.0, |sample| sample.memory),
        growth("tasks", 50.0, |sample| sample.tasks),
        growth("sockets", 20.0, |sample| sample.sockets),
        growth("descriptors", 20.0, |sample| sample.descriptors),
    ]
}

fn level(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 4).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(tasks: impl Fn(usize) -> f64) -> Vec<bool> {
        let sample = |second| Sample {
            at: second as f64,
            memory: 40.0,
            tasks: tasks(second),
            sockets: 30.0,
            descriptors: 60.0,
            ..Sample::default()
        };
        let samples: Vec<Sample> = (0..600).map(sample).collect();
        growths(&samples).iter().map(Growth::is_flat).collect()
    }

    #[test]
    fn a_constant_number_is_flat() {
        assert_eq!(run(|_| 1_000.0), [true; 4]);
    }

    #[test]
    fn a_leak_of_a_task_per_second_is_found() {
        assert_eq!(run(|second| 1_000.0 + second as f64), [true, false, true, true]);
    }

    #[test]
    fn a_number_that_rises_and_falls_is_flat() {
        let noisy = |second: usize| 1_000.0 + if second % 10 < 6 { 2_000.0 } else { 0.0 };
        assert_eq!(run(noisy), [true; 4]);
    }

    #[test]
    fn a_number_that_only_warms_up_is_flat() {
        assert_eq!(run(|second| 1_000.0 + 5.0 * second.min(100) as f64), [true; 4]);
    }
}
