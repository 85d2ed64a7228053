//! What can go wrong, by what to do about it.

use std::fmt;

use crate::{invalid::InvalidRequest, reply::NodeReply, resources::Resources};

/// Why there is no lock, or no longer one.
///
/// The variants answer "what do I do now". Each but the last carries what every node said.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else holds a resource: come back later.
    #[error("{} held by another owner ({_0})", Are(&.0.resources))]
    Contended(Box<RoundReport>),
    /// Too few nodes answered in time for a quorum: page someone.
    #[error("no quorum of nodes for {} ({_0})", .0.resources)]
    NoQuorum(Box<RoundReport>),
    /// So many nodes reject the request that no quorum is left: fix the configuration, retrying does not
    /// help.
    #[error("rejected by the nodes for {} ({_0})", .0.resources)]
    Rejected(Box<RoundReport>),
    /// The lock is not yours any more: stop what it guards.
    #[error("the lock on {} is lost ({_0})", .0.resources)]
    Lost(Box<RoundReport>),
    /// The request is invalid; nothing was sent.
    #[error("invalid request: {0}")]
    InvalidRequest(#[from] InvalidRequest),
}

impl Error {
    /// A lock whose time is over, without asking anybody.
    pub(crate) fn lapsed(resources: Resources) -> Self {
        Self::Lost(Box::new(RoundReport { resources, attempts: 0, replies: Vec::new() }))
    }

    /// What every node said; `None` for [`Error::InvalidRequest`].
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

/// What the nodes said in the last round of a failed request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RoundReport {
    /// What was asked for.
    pub resources: Resources,
    /// How many rounds the call that failed has made. Zero when it made none: the lock had lapsed before, or
    /// under the routine of [`using`](crate::Redlock::using), which others have tried to extend.
    pub attempts: u32,
    /// The last round's replies, in the order of the nodes. Empty when there was no round.
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
