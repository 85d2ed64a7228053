//! The errors, by what to do about each.

// Tests: below for the texts; tests/tests/it/sim/errors.rs.

use std::fmt;

use crate::{inspect::Holder, invalid::InvalidRequest, reply::NodeReply, resources::Resources};

/// Why a call did not get the lock, or no longer has it.
///
/// Each variant calls for another reaction. Each but the last carries the reply of every node.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another client holds a resource: come back later.
    #[error("{} held by another owner{} ({_0})", Are(&.0.resources), By(.0.holder.as_ref()))]
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
        Self::Lost(Box::new(RoundReport { resources, attempts: 0, replies: Vec::new(), holder: None }))
    }

    /// The error of a call that was refused, with whom a node names as the holder.
    pub(crate) fn held_by(self, holder: Option<Holder>) -> Self {
        match self {
            Self::Contended(mut report) => {
                report.holder = holder;
                Self::Contended(report)
            }
            other => other,
        }
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
    /// Who holds a resource, in an [`Error::Contended`] of a request that has a
    /// [note](crate::LockRequest::note) itself: the first holder with a note that a node names. `None` when
    /// no node names one before the call has to end.
    pub holder: Option<Holder>,
}

impl RoundReport {
    /// The note of the [`holder`](Self::holder): a short printable text of another client.
    #[must_use]
    pub fn holder_note(&self) -> Option<&str> {
        self.holder.as_ref().map(|holder| &*holder.note)
    }
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

struct By<'a>(Option<&'a Holder>);

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |holder| write!(f, ", {holder}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::KeyState;

    #[test]
    fn errors_read_as_sentences() {
        let report = |names: &[&str]| {
            Box::new(RoundReport { resources: names.into(), attempts: 4, replies: Vec::new(), holder: None })
        };
        let error = Error::Contended(report(&["a"]));
        assert_eq!(error.to_string(), "\"a\" is held by another owner (4 attempts)");
        let error = Error::Contended(report(&["a", "b"]));
        assert_eq!(error.to_string(), "\"a\", \"b\" are held by another owner (4 attempts)");
    }

    #[test]
    fn a_holder_is_named_by_its_note() {
        let report = RoundReport {
            resources: "a".into(),
            attempts: 1,
            replies: Vec::new(),
            holder: Holder::of(vec![KeyState::Free, KeyState::held(b"0123456789", None).with_note(b"x\ny")]),
        };
        assert_eq!(report.holder_note(), Some("x\\ny"));
        let text = "\"a\" is held by another owner, 01234567 (x\\ny) (1 attempt)";
        assert_eq!(Error::Contended(Box::new(report.clone())).to_string(), text);
        let none = Error::Contended(Box::new(report)).held_by(None);
        assert_eq!(none.to_string(), "\"a\" is held by another owner (1 attempt)");
    }
}
