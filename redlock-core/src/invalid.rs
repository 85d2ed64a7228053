//! Why a request, or the configuration of a lock manager, is invalid. Nothing is sent then.

// Tests: tests/tests/it/sim/limits.rs.

use std::{num::NonZeroU64, time::Duration};

/// A request that is invalid: nothing was sent.
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
        /// The duplicate name.
        name: String,
    },
    /// The drift takes all of the TTL.
    #[error("a TTL of {ttl:?} is too short: clock drift takes {drift:?} of it")]
    TtlTooShort {
        /// The requested TTL.
        ttl: Duration,
        /// The time reserved for drift, see
        /// [`RedlockBuilder::drift_factor`](crate::RedlockBuilder::drift_factor).
        drift: Duration,
    },
    /// The TTL is over [`MAX_TTL`](crate::MAX_TTL), or over the lock manager's
    /// [`max_ttl`](crate::RedlockBuilder::max_ttl). It may be the one that a
    /// [`min_hold`](crate::LockRequest::min_hold) needs.
    #[error("a TTL of {ttl:?} is too long: at most {max:?}")]
    TtlTooLong {
        /// The requested TTL.
        ttl: Duration,
        /// The longest possible TTL.
        max: Duration,
    },
    /// A lock cannot be held for at least longer than at most.
    #[error("a lock cannot be held for at least {min_hold:?} and at most {max_hold:?}")]
    MinHoldTooLong {
        /// The requested [`min_hold`](crate::LockRequest::min_hold).
        min_hold: Duration,
        /// The requested [`max_hold`](crate::LockRequest::max_hold).
        max_hold: Duration,
    },
    /// A lock with a fencing token needs nodes that all have counters.
    #[error("the backend of {node} has no fencing tokens")]
    FencingUnsupported {
        /// The first node without, by its name or its position.
        node: String,
    },
    /// A lock with a note needs nodes that can all store it.
    #[error("the backend of {node} has no notes")]
    NotesUnsupported {
        /// The first node without, by its name or its position.
        node: String,
    },
    /// The fencing token of [`LockParts`](crate::LockParts) is higher than any that there is.
    #[error("a fencing token of {fence} is too high: at most {max}")]
    FenceTooHigh {
        /// The fencing token.
        fence: NonZeroU64,
        /// 2^53 - 1.
        max: u64,
    },
}

/// Why a lock manager cannot be built.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A lock needs at least one node, and survives failures from three on.
    #[error("no nodes")]
    NoNodes,
    /// Two nodes have the same name: one server must not vote twice.
    #[error("the node {name:?} is added twice")]
    DuplicateNode {
        /// The duplicate name.
        name: String,
    },
    /// The drift factor is not a number from 0 to less than 1.
    #[error("the drift factor must be at least 0 and less than 1, not {factor}")]
    InvalidDriftFactor {
        /// The requested factor.
        factor: f64,
    },
    /// No lock can have a TTL up to this one.
    #[error("the longest TTL is invalid: {0}")]
    InvalidMaxTtl(InvalidRequest),
    /// No node can reply within a timeout of zero.
    #[error("the node timeout is zero")]
    ZeroNodeTimeout,
    /// The lock manager makes fencing tokens, and a node has no counters for them.
    #[error("the backend of {node} has no fencing tokens")]
    FencingUnsupported {
        /// The first node without, by its name or its position.
        node: String,
    },
    /// The locks have a note, and a node cannot store one.
    #[error("the backend of {node} has no notes")]
    NotesUnsupported {
        /// The first node without, by its name or its position.
        node: String,
    },
    /// Two quorums have to share a node, and a quorum of more than all nodes is never reached.
    #[error("the quorum for fencing tokens must be at least {least} and at most {nodes}, not {quorum}")]
    InvalidFenceQuorum {
        /// The requested quorum.
        quorum: usize,
        /// More than half of the nodes.
        least: usize,
        /// The number of nodes.
        nodes: usize,
    },
    /// The counters for fencing tokens have to outlive what clocks differ by, and servers take no TTL over
    /// [`MAX_TTL`](crate::MAX_TTL).
    #[error("counters for fencing tokens must live for at least {min:?} and at most {max:?}, not {ttl:?}")]
    InvalidFenceCounterTtl {
        /// The requested TTL.
        ttl: Duration,
        /// The shortest that is allowed.
        min: Duration,
        /// The longest that is allowed.
        max: Duration,
    },
    /// The runtime's timer panics: for example, a tokio runtime without `enable_time`, or one that has been
    /// shut down.
    #[error("the runtime's timer does not work: {panic}")]
    Timer {
        /// Its message.
        panic: String,
    },
    /// The operating system has no random numbers for tokens.
    #[error("the operating system's random generator does not work: {reason}")]
    RandomSource {
        /// Its message.
        reason: String,
    },
}
