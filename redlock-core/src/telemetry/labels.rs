//! What the fields of events and the labels of metrics say.

// Tests: tests/tests/it/telemetry/calls.rs, telemetry/metrics.rs.

use crate::{backend::BackendErrorKind, error::Error, reply::NodeOutcome};

/// A value that is a label: one of a few words.
pub(crate) trait Label {
    fn label(&self) -> &'static str;
}

/// What a node, or a round of nodes, is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Acquire,
    Extend,
    Raise,
    Replace,
    Release,
}

impl Label for Verb {
    fn label(&self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Extend => "extend",
            Self::Raise => "raise",
            Self::Replace => "replace",
            Self::Release => "release",
        }
    }
}

/// Why a lock was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its validity ran out before it was released.
    Expired,
    /// While it should have been valid, the nodes said that its keys are gone.
    Gone,
}

impl Label for Loss {
    fn label(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Gone => "gone",
        }
    }
}

impl Label for NodeOutcome {
    fn label(&self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Removed => "removed",
            Self::NotHeld => "not_held",
            Self::Failed(error) => error.kind().label(),
            Self::Late => "late",
            Self::Pending => "pending",
        }
    }
}

impl Label for BackendErrorKind {
    fn label(&self) -> &'static str {
        match self {
            Self::Indeterminate => "indeterminate",
            Self::Transient => "transient",
            Self::Rejected => "rejected",
        }
    }
}

impl Label for Error {
    fn label(&self) -> &'static str {
        match self {
            Self::Contended(_) => "contended",
            Self::NoQuorum(_) => "no_quorum",
            Self::Rejected(_) => "rejected",
            Self::Lost(_) => "lost",
            Self::InvalidRequest(_) => "invalid",
        }
    }
}
