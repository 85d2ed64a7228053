//! The outcome of a request.

// Tests: conformance/tests.rs.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use super::{
    super::{
        suite::LATE_SHARE,
        verdict::{Clause, Violation},
    },
    Case,
};
use crate::backend::BackendError;

/// An error, which is equal to no other.
#[derive(Debug)]
pub(in super::super) struct Refusal(pub(in super::super) BackendError);

impl PartialEq for Refusal {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

/// The outcome of a request.
pub(in super::super) struct Seen<'k, T> {
    /// `None` when it did not end before its deadline.
    pub(in super::super) answer: Option<Result<T, Refusal>>,
    pub(in super::super) asked: Instant,
    pub(in super::super) answered: Instant,
    pub(super) timeout: Duration,
    /// Its position in the log.
    pub(super) step: Option<usize>,
    pub(super) case: Case<'k>,
}

impl<T: Debug> Seen<'_, T> {
    pub(in super::super) fn outcome(&self) -> String {
        match &self.answer {
            None => format!("no end after {:?}", self.answered - self.asked),
            Some(Ok(answer)) => format!("{answer:?}"),
            Some(Err(Refusal(error))) => format!("error, {error}"),
        }
    }

    /// Checks that the reply is this one.
    pub(in super::super) fn must(&self, expected: T) -> Result<(), Violation>
    where
        T: PartialEq,
    {
        self.must_as(expected, String::new)
    }

    /// Checks that the reply is this one, for a reason that a violation adds.
    pub(super) fn must_as(&self, expected: T, why: impl FnOnce() -> String) -> Result<(), Violation>
    where
        T: PartialEq,
    {
        match &self.answer {
            None => Err(self.overdue()),
            Some(Ok(answer)) if *answer == expected => Ok(()),
            _ => {
                let (clause, expected) = (self.case.clause, format!("{expected:?}{}", why()));
                Err(self.case.violation_at(self.step, clause, expected, self.outcome()))
            }
        }
    }

    /// The reply, or the error, of a request that ended before its deadline.
    pub(in super::super) fn ended(&self) -> Result<Result<&T, &BackendError>, Violation> {
        match &self.answer {
            None => Err(self.overdue()),
            Some(answer) => Ok(answer.as_ref().map_err(|refusal| &refusal.0)),
        }
    }

    /// When a key expires that this request has written or extended.
    pub(in super::super) fn life(&self, ttl: Duration) -> Life {
        // The margin of the library itself for clocks that drift and for whole milliseconds.
        let early = ttl / 100 + Duration::from_millis(2);
        Life { earliest: self.asked + ttl - early, latest: self.answered + ttl + ttl / LATE_SHARE, ttl }
    }

    fn overdue(&self) -> Violation {
        let expected =
            format!("an end within the timeout of {:?}, or {:?} later", self.timeout, self.case.suite.slack);
        self.case.violation_at(self.step, Clause::BoundedByTimeout, expected, self.outcome())
    }
}

/// When a key has to expire.
#[derive(Clone, Copy)]
pub(in super::super) struct Life {
    pub(super) earliest: Instant,
    pub(super) latest: Instant,
    pub(super) ttl: Duration,
}

impl Life {
    /// The key has to be there until then.
    pub(in super::super) fn earliest(&self) -> Instant {
        self.earliest
    }
}
