//! The errors, by what to do about each.

// Tests: below for the texts; tests/tests/it/sim/errors.rs.

use std::fmt;

use crate::{invalid::InvalidRequest, reply::NodeReply, resources::Resources};

/// Why a call did not get the lock, or no longer has it.
///
/// Each variant calls for another reaction. Each but the last carries the reply of every node.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another client holds a resource: come back later.
    #[error("{} held by another owner ({_0})", Are(&.0.resources))]
    Contended(Box<RoundReport>),
    /// Too few nodes replied before the deadline for a quorum: alert an operator.
    #[error("no quorum of nodes for {} ({_0})", .0.resources)]
    NoQuorum(Box<RoundReport>),
    /// So many nodes reject the request that no quorum is left: fix the configuration. Retries do not help.
    #[error("rejected by the nodes for {} ({_0})", .0.resources)]
    Rejected(Box<RoundReport>),
    /// The lock is no longer yours: stop the work that it guards.
    #[error("the lock on {} is lost ({_0})", .0.resources)]
    Lost(Box<RoundReport>),
    /// The request is invalid; nothing was sent.
    #[error("invalid request: {0}")]
    InvalidRequest(#[from] InvalidRequest),
}

impl Error {
    /// A lock whose validity has ended, without a request to any node.
    pub(crate) fn lapsed(resources: Resources) -> Self {
        Self::Lost(Box::new(RoundReport { resources, attempts: 0, replies: Vec::new() }))
    }

    /// The reply of every node; `None` for [`Error::InvalidRequest`].
    #[must_use]
    pub fn report(&self) -> Option<&RoundReport> {
        match self {
            Self::Contended(report)
            | Self::NoQuorum(report)
            | Self::Rejected(report)
            | Self::Lost(report) => Some(report),
            Self::InvalidRequest(_) => None,
        }
    }
}

/// The replies of the nodes in the last attempt of a failed call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RoundReport {
    /// The resources of the call.
    pub resources: Resources,
    /// The number of attempts of the failed call. It is zero when there was none: the lock had lapsed before,
    /// or during the routine of [`using`](crate::Redlock::using).
    pub attempts: u32,
    /// The replies to the last attempt, in the order of the nodes. Empty when there was none.
    pub replies: Vec<NodeReply>,
}

impl fmt::Display for RoundReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attempts {
            0 => f.write_str("its validity had run out")?,
            1 => f.write_str("1 attempt")?,
            attempts => write!(f, "{attempts} attempts")?,
        }
        for reply in &self.replies {
            write!(f, "; {reply}")?;
        }
        Ok(())
    }
}

struct Are<'a>(&'a Resources);

impl fmt::Display for Are<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0.as_slice().len() == 1 { "is" } else { "are" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_sentences() {
        let report = |names: &[&str]| {
            Box::new(RoundReport { resources: names.into(), attempts: 4, replies: Vec::new() })
        };
        let error = Error::Contended(report(&["a"]));
        assert_eq!(error.to_string(), "\"a\" is held by another owner (4 attempts)");
        let error = Error::Contended(report(&["a", "b"]));
        assert_eq!(error.to_string(), "\"a\", \"b\" are held by another owner (4 attempts)");
    }
}
