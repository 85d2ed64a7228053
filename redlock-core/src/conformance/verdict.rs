//! The results of the checks.

// Tests: conformance/tests.rs.

use std::{error::Error, fmt};

/// A clause of the contract of [`LockBackend`](crate::LockBackend).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Clause {
    /// 1: a key is held by a token.
    HeldByToken = 1,
    /// 2: all or nothing.
    AllOrNothing,
    /// 3: idempotent in the token.
    Idempotent,
    /// 4: extend never shortens.
    ExtendNeverShortens,
    /// 5: in order.
    InOrder,
    /// 6: one round trip, at most once.
    OneRoundTrip,
    /// 7: bounded by the timeout.
    BoundedByTimeout,
    /// 8: classified errors.
    ClassifiedErrors,
    /// 9: one identity.
    OneIdentity,
    /// 10: a watch waits, and misses nothing.
    WatchMissesNothing,
    /// 11: counters only grow.
    CountersOnlyGrow,
    /// 12: an uptime is never too long.
    UptimeNeverTooLong,
    /// 13: a note changes no lock.
    NoteChangesNoLock = 13,
}

impl Clause {
    /// The number in the contract.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The title in the contract.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::HeldByToken => "a key is held by a token",
            Self::AllOrNothing => "all or nothing",
            Self::Idempotent => "idempotent in the token",
            Self::ExtendNeverShortens => "extend never shortens",
            Self::InOrder => "in order",
            Self::OneRoundTrip => "one round trip, at most once",
            Self::BoundedByTimeout => "bounded by the timeout",
            Self::ClassifiedErrors => "classified errors",
            Self::OneIdentity => "one identity",
            Self::WatchMissesNothing => "a watch waits, and misses nothing",
            Self::CountersOnlyGrow => "counters only grow",
            Self::UptimeNeverTooLong => "an uptime is never too long",
            Self::NoteChangesNoLock => "a note changes no lock",
        }
    }
}

/// `clause 5 (in order)`
impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clause {} ({})", self.number(), self.title())
    }
}

/// The result of one check: a [`Violation`] when the backend breaks the contract.
pub type Outcome = Result<Verdict, Violation>;

/// The result of a check that found no violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The backend keeps this part of the contract.
    Passed,
    /// The check did not run, for this reason.
    Skipped(&'static str),
}

impl Verdict {
    /// Passed only if both are.
    pub(super) fn and(self, other: Self) -> Self {
        if self == Self::Passed { other } else { self }
    }
}

/// How a backend broke its contract. Its text has the clause, the check, the last requests and replies, the
/// expected result, and the actual one.
#[derive(Clone, Debug)]
pub struct Violation {
    pub(super) clause: Clause,
    pub(super) check: &'static str,
    pub(super) steps: Vec<String>,
    pub(super) expected: String,
    pub(super) seen: String,
}

impl Violation {
    /// The clause that it breaks.
    #[must_use]
    pub fn clause(&self) -> Clause {
        self.clause
    }

    /// The check that found it: the name of a function of [this module](super).
    #[must_use]
    pub fn check(&self) -> &'static str {
        self.check
    }

    /// The last steps, with their replies. The holders are A, B, C and so on.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }

    /// The expected result.
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// The actual result.
    #[must_use]
    pub fn seen(&self) -> &str {
        &self.seen
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, found by {}", self.clause, self.check)?;
        for step in &self.steps {
            writeln!(f, "    {step}")?;
        }
        writeln!(f, "  expected: {}", self.expected)?;
        write!(f, "  seen:     {}", self.seen)
    }
}

impl Error for Violation {}

/// All violations of the contract by a backend.
#[derive(Clone)]
pub struct Violations {
    pub(super) backend: String,
    pub(super) violations: Vec<Violation>,
}

impl Violations {
    /// One by one; never empty.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Violation> {
        self.violations.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.violations.len();
        let noun = if number == 1 { "violation" } else { "violations" };
        write!(f, "{number} {noun} of the contract by {}", self.backend)?;
        for violation in &self.violations {
            write!(f, "\n\n{violation}")?;
        }
        Ok(())
    }
}

/// The same as `Display`, for the message of a panic.
impl fmt::Debug for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for Violations {}

/// The checks of a backend that keeps its contract.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    pub(super) passed: Vec<&'static str>,
    pub(super) skipped: Vec<(&'static str, &'static str)>,
}

impl Passed {
    /// The checks that passed.
    #[must_use]
    pub fn passed(&self) -> &[&'static str] {
        &self.passed
    }

    /// The checks that did not run, each with the reason.
    #[must_use]
    pub fn skipped(&self) -> &[(&'static str, &'static str)] {
        &self.skipped
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks passed, {} skipped", self.passed.len(), self.skipped.len())?;
        for (check, reason) in &self.skipped {
            write!(f, "\n  {check}: {reason}")?;
        }
        Ok(())
    }
}
