//! What is wrong with a request, or with the configuration of a lock manager. Nothing is sent then.

use std::time::Duration;

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
    /// The ttl is over [`MAX_TTL`](crate::MAX_TTL).
    #[error("a ttl of {ttl:?} is too long: the most is {max:?}")]
    TtlTooLong {
        /// The ttl that was asked for.
        ttl: Duration,
        /// [`MAX_TTL`](crate::MAX_TTL).
        max: Duration,
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
