//! Fencing tokens in a run: whether locks have them, what the clocks show, and which order they must have.

use std::{num::NonZeroU64, time::Duration};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng, seq::IndexedRandom};
use redlock_core::Resources;

use super::{
    checks::shared,
    faults::{Fault, Faults},
};
use crate::sim_runtime::SimRuntime;

/// Which runs have locks with fencing tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fencing {
    Never,
    #[default]
    Sometimes,
    Always,
}

impl Fencing {
    /// Draws it, in any case.
    pub(super) fn choose(self, rng: &mut ChaCha8Rng) -> bool {
        let drawn = rng.random_bool(0.5);
        self == Self::Always || self == Self::Sometimes && drawn
    }
}

/// How a run makes fencing tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) quorum: usize,
    /// Whether all wall clocks show nearly the same.
    pub(super) clocks_agree: bool,
    /// Whether a node that restarts without its data has no vote while it matters.
    pub(super) guard: bool,
}

/// How soon a node that has lost its data serves again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    AtOnce,
    /// When all locks of the time before have expired.
    Late,
}

/// The fencing tokens of a run.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    holds: Vec<Fenced>,
    /// How many locks took one trip, two, and more.
    pub(super) trips: [u64; 3],
    pub(super) disorders: u64,
}

#[derive(Debug)]
struct Fenced {
    resources: Resources,
    fence: NonZeroU64,
    /// When it was won, or a little later.
    won: Duration,
}

impl Plan {
    /// Draws it, and sets the wall clocks.
    pub(super) fn draw<'a>(
        fencing: Fencing,
        guard: bool,
        seed: u64,
        nodes: usize,
        faults: Faults,
        processes: impl Iterator<Item = &'a SimRuntime>,
    ) -> Option<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.rotate_left(16));
        if !fencing.choose(&mut rng) {
            return None;
        }
        let majority = nodes / 2 + 1;
        let quorum = if rng.random_bool(0.6) { majority } else { rng.random_range(majority..=nodes) };
        let spread = *SPREADS.choose(&mut rng).expect("some");
        for process in processes {
            let skew = if spread > 0 { rng.random_range(-spread..=spread) } else { NO_CLOCK };
            process.skew_wall_clock(skew);
        }
        let clocks_agree = spread == AGREEING && !faults.has(Fault::Drift);
        let guard = guard && !faults.has(Fault::Jump);
        Some(Self { quorum, clocks_agree, guard })
    }

    /// Whether proposals make up for the counters of a node that has lost them.
    pub(super) fn makes_up_for(self, restart: Restart) -> bool {
        self.clocks_agree && (restart == Restart::Late || self.guard)
    }

    /// How many nodes may lose their counters: one fewer than two quorums have in common.
    pub(super) fn survives(self, nodes: usize) -> usize {
        2 * self.quorum - nodes - 1
    }
}

impl Tokens {
    /// Records a lock whose round began then, and has just been won. The error is a violation: there is the
    /// same token, or a higher one of a lock that was won before.
    pub(super) fn add(
        &mut self,
        resources: &Resources,
        fence: NonZeroU64,
        began: Duration,
        now: Duration,
    ) -> Result<(), String> {
        let rivals = || self.holds.iter().filter(|other| shared(&other.resources, resources).is_some());
        let same = rivals().find(|other| other.fence == fence);
        let higher = rivals().find(|other| other.won < began && other.fence > fence);
        let checked = match (same, higher) {
            (Some(same), _) => Err(format!("fencing token {fence} twice, before at {:?}", same.won)),
            (None, Some(higher)) => {
                let Fenced { fence: before, won, .. } = higher;
                Err(format!("fencing token {fence} of a round of {began:?}, but {before} at {won:?}"))
            }
            (None, None) => Ok(()),
        };
        self.holds.push(Fenced { resources: resources.clone(), fence, won: now });
        checked
    }
}

/// How far wall clocks are wrong in a run at most, in milliseconds: hardly, more than any node accepts, by
/// days, or, for 0, there is none.
const SPREADS: [i64; 4] = [AGREEING, 30_000, 400_000_000, 0];
/// Twice that is less than the drift, by which the longest round is shorter than a guard.
const AGREEING: i64 = 20;
/// So far behind that it shows 1970.
const NO_CLOCK: i64 = -4_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number).unwrap()
    }

    #[test]
    fn tokens_that_are_not_unique_or_not_in_order_are_detected() {
        let second = Duration::from_secs;
        let mut tokens = Tokens::default();
        let mut add = |resources: &[&str], fence, began, won| {
            tokens.add(&resources.iter().copied().collect(), number(fence), second(began), second(won))
        };
        add(&["a"], 5, 0, 1).unwrap();
        add(&["a"], 4, 1, 2).unwrap();
        add(&["b"], 4, 1, 3).unwrap();
        assert!(add(&["a"], 5, 0, 4).unwrap_err().contains("twice"));
        assert!(add(&["a", "b"], 3, 2, 5).unwrap_err().contains("but 5 at 1s"));
        add(&["a", "b"], 6, 2, 6).unwrap();
        assert!(add(&["b"], 2, 7, 8).is_err());
    }
}
