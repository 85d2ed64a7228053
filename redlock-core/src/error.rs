//! What can go wrong, by what to do about it.

use std::{any::Any, fmt, time::Duration};

use crate::{backend::BackendError, resources::Resources, validity::MAX_TTL};

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
    /// The request makes no sense; nothing was sent.
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

/// One node's reply in a round.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeReply {
    /// The node's position in the builder, from 0.
    pub node: usize,
    /// The node's [name](crate::LockBackend::name), if it has one.
    pub name: Option<String>,
    /// What it said.
    pub outcome: NodeOutcome,
}

impl fmt::Display for NodeReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            None => write!(f, "node {}: {}", self.node, self.outcome),
            Some(name) => write!(f, "{name}: {}", self.outcome),
        }
    }
}

/// What a node said.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeOutcome {
    /// It holds the keys for us.
    #[error("granted")]
    Granted,
    /// It does not: a key holds another token, or, when extending, none.
    #[error("refused")]
    Refused,
    /// It has removed the keys.
    #[error("removed")]
    Removed,
    /// It did not hold all of the keys for us any more.
    #[error("not held")]
    NotHeld,
    /// It did not answer, or said why it could not do it.
    #[error("{}", Chain(.0))]
    Failed(BackendError),
    /// It granted, but only after the validity had run out: that does not count.
    #[error("answered too late")]
    Late,
    /// The round was decided before it answered.
    #[error("not waited for")]
    Pending,
}

/// A request that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// There is nothing to lock.
    #[error("no resources")]
    NoResources,
    /// A resource's name is empty.
    #[error("a resource's name is empty")]
    EmptyResource,
    /// A resource is named more than once.
    #[error("the resource {name:?} is named more than once")]
    DuplicateResource {
        /// The repeated name.
        name: String,
    },
    /// Drift leaves nothing of the ttl.
    #[error("a ttl of {ttl:?} is too short: clock drift takes {drift:?} of it")]
    TtlTooShort {
        /// The ttl that was asked for.
        ttl: Duration,
        /// What drift takes, see [`RedlockBuilder::drift_factor`](crate::RedlockBuilder::drift_factor).
        drift: Duration,
    },
    /// The ttl is over [`MAX_TTL`].
    #[error("a ttl of {ttl:?} is too long: the most is {MAX_TTL:?}")]
    TtlTooLong {
        /// The ttl that was asked for.
        ttl: Duration,
    },
}

/// A lock manager cannot be built like this.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A lock needs one node at least; it gets safer from three on.
    #[error("no nodes")]
    NoNodes,
    /// Two nodes go by the same name: one server must not vote twice.
    #[error("the node {name:?} is there twice")]
    DuplicateNode {
        /// The repeated name.
        name: String,
    },
    /// The drift factor is not a number from 0 to less than 1.
    #[error("the drift factor must be at least 0 and less than 1, not {factor}")]
    InvalidDriftFactor {
        /// The factor that was asked for.
        factor: f64,
    },
    /// With a timeout of zero no node can answer.
    #[error("the node timeout is zero")]
    ZeroNodeTimeout,
    /// The runtime's timer panics: a tokio runtime without `enable_time`, say, or one that has been shut
    /// down.
    #[error("the runtime's timer does not work: {panic}")]
    Timer {
        /// What it says.
        panic: String,
    },
    /// The operating system has no random numbers for tokens.
    #[error("the operating system's random generator does not work: {reason}")]
    RandomSource {
        /// What it says.
        reason: String,
    },
}

/// What a panic says, in one line; failed assertions have several.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    in_one_line(text)
}

fn in_one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

/// An error and its sources. A source is left out when the text has it already: some errors print theirs
/// themselves.
pub(crate) struct Chain<'a>(pub(crate) &'a BackendError);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_sources(self.0))
    }
}

/// As [`Chain`], of any error. In one line, whatever the client library says.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = in_one_line(&error.to_string());
    let mut source = error.source();
    while let Some(error) = source {
        let cause = in_one_line(&error.to_string());
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
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
    use crate::backend::BackendErrorKind;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Cause {
        text: &'static str,
        source: Option<Box<Cause>>,
    }

    fn failed(cause: Cause) -> String {
        NodeOutcome::Failed(
            BackendError::new(BackendErrorKind::Indeterminate, "connection failed").with_source(cause),
        )
        .to_string()
    }

    #[test]
    fn every_source_of_a_node_error_is_printed_once() {
        let io = || Some(Box::new(Cause { text: "refused (os error 111)", source: None }));
        let expected = "indeterminate: connection failed: io: refused (os error 111)";
        assert_eq!(failed(Cause { text: "io: refused (os error 111)", source: io() }), expected);
        assert_eq!(failed(Cause { text: "io", source: io() }), expected);
    }

    #[test]
    fn a_source_of_several_lines_is_printed_in_one() {
        let source = Cause { text: "parse error at 1\n\n  unexpected end\n", source: None };
        assert_eq!(failed(source), "indeterminate: connection failed: parse error at 1 unexpected end");
    }

    #[test]
    fn a_panic_is_told_in_one_line() {
        assert_eq!(panic_text(&"no"), "no");
        assert_eq!(panic_text(&"failed\n  left: 1\n right: 2".to_owned()), "failed left: 1 right: 2");
        assert_eq!(panic_text(&7), "no message");
    }

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
