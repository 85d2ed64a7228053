//! What a run came to, or which check failed.

use std::{fmt, time::Duration};

use super::Struck;

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How often there was each [`Outcome`].
    pub outcomes: [u64; Outcome::NUMBER],
    /// All outcomes in their order, by client.
    pub course: Vec<Vec<Outcome>>,
    /// How often each fault struck.
    pub struck: Struck,
    /// How often two clients held one resource: only if faults break an assumption of the lock.
    pub overlaps: u64,
    /// Requests that clients sent.
    pub requests: u64,
    /// Locks with a fencing token, except those of routines, by trips: 1, 2, and more.
    pub trips: [u64; 3],
    /// How often fencing tokens were not in order: only if faults break an assumption of theirs.
    pub disorders: u64,
}

/// The outcome of a client's operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outcome {
    Won,
    Contended,
    NoQuorum,
    Lost,
    Unlocked,
    /// Unlocked before its minimum hold had passed.
    Kept,
    Used,
    Cancelled,
}

impl Outcome {
    pub(super) const NUMBER: usize = 8;

    /// All outcomes.
    pub const ALL: [Self; Self::NUMBER] = [
        Self::Won,
        Self::Contended,
        Self::NoQuorum,
        Self::Lost,
        Self::Unlocked,
        Self::Kept,
        Self::Used,
        Self::Cancelled,
    ];
}

impl Summary {
    /// Adds the numbers of another run.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
        self.struck.add(&other.struck);
        self.overlaps += other.overlaps;
        self.requests += other.requests;
        self.trips.iter_mut().zip(other.trips).for_each(|(mine, theirs)| *mine += theirs);
        self.disorders += other.disorders;
    }
}

/// A check that failed: a bug.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The run.
    pub seed: u64,
    /// The true time since its start.
    pub at: Duration,
    /// The failed check.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {:?}: {}", self.seed, self.at, self.what)
    }
}
