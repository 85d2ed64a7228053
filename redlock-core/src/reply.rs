//! One node's reply in a round, and its vote.

use std::{fmt, num::NonZeroU64, sync::Arc};

use crate::{
    backend::{AcquireReply, BackendError, BackendErrorKind, ReleaseReply},
    error_text::with_sources,
    quorum::Vote,
};

/// One node's reply in a round.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeReply {
    /// The node's position in the builder, from 0.
    pub node: usize,
    /// The node's [name](crate::LockBackend::name), if it has one.
    pub name: Option<Arc<str>>,
    /// Its outcome.
    pub outcome: NodeOutcome,
    /// Its counter for the [fencing token](crate::Lock::fence), if it granted a lock that has one. With several
    /// resources it is the highest of theirs. A quorum of nodes has the token; others may have another number.
    pub fence: Option<NonZeroU64>,
}

impl fmt::Display for NodeReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            None => write!(f, "node {}: {}", self.node, self.outcome),
            Some(name) => write!(f, "{name}: {}", self.outcome),
        }
    }
}

/// The outcome of one request to one node.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeOutcome {
    /// The node holds the keys for this lock.
    #[error("granted")]
    Granted,
    /// The node refused: a key holds another token, or, when extending, none.
    #[error("refused")]
    Refused,
    /// The node has removed the keys.
    #[error("removed")]
    Removed,
    /// The node no longer held all of the keys for this lock.
    #[error("not held")]
    NotHeld,
    /// The node did not reply, or replied with an error.
    #[error("{}", with_sources(.0))]
    Failed(BackendError),
    /// The node granted after the validity had ended, which does not count.
    #[error("replied too late")]
    Late,
    /// The round was decided before the node replied.
    #[error("still pending")]
    Pending,
}

impl NodeOutcome {
    /// The vote of a node that has replied or failed; `None` for one that the round did not wait for.
    pub(crate) fn vote(&self) -> Option<Vote> {
        match self {
            Self::Granted | Self::Removed => Some(Vote::Yes),
            Self::Refused | Self::NotHeld => Some(Vote::No),
            Self::Failed(error) if error.kind() == BackendErrorKind::Rejected => Some(Vote::Rejected),
            Self::Failed(_) | Self::Late => Some(Vote::Failed),
            Self::Pending => None,
        }
    }
}

impl From<AcquireReply> for NodeOutcome {
    fn from(reply: AcquireReply) -> Self {
        match reply {
            AcquireReply::Granted => Self::Granted,
            AcquireReply::Refused => Self::Refused,
        }
    }
}

impl From<ReleaseReply> for NodeOutcome {
    fn from(reply: ReleaseReply) -> Self {
        match reply {
            ReleaseReply::Removed => Self::Removed,
            ReleaseReply::NotHeld => Self::NotHeld,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_node_is_printed_with_what_caused_it() {
        let error = BackendError::new(BackendErrorKind::Indeterminate, "connection failed")
            .with_source(std::io::Error::other("refused (os error 111)"));
        let reply = |name: Option<&str>| NodeReply {
            node: 1,
            name: name.map(Arc::from),
            outcome: NodeOutcome::Failed(error.clone()),
            fence: None,
        };
        let text = "indeterminate: connection failed: refused (os error 111)";
        assert_eq!(reply(None).to_string(), format!("node 1: {text}"));
        assert_eq!(reply(Some("redis-2")).to_string(), format!("redis-2: {text}"));
    }

    #[test]
    fn only_a_node_that_was_waited_for_has_a_vote() {
        let failed = |kind| NodeOutcome::Failed(BackendError::new(kind, "test"));
        for (outcome, vote) in [
            (NodeOutcome::Granted, Some(Vote::Yes)),
            (NodeOutcome::Removed, Some(Vote::Yes)),
            (NodeOutcome::Refused, Some(Vote::No)),
            (NodeOutcome::NotHeld, Some(Vote::No)),
            (failed(BackendErrorKind::Indeterminate), Some(Vote::Failed)),
            (failed(BackendErrorKind::Transient), Some(Vote::Failed)),
            (NodeOutcome::Late, Some(Vote::Failed)),
            (failed(BackendErrorKind::Rejected), Some(Vote::Rejected)),
            (NodeOutcome::Pending, None),
        ] {
            assert_eq!(outcome.vote(), vote, "{outcome}");
        }
    }
}
