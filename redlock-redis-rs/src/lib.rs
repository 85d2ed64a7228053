#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

// Without a runtime there is nothing else, so that this is all that the compiler has to say.
#[cfg(not(any(feature = "smol", feature = "tokio")))]
compile_error!(
    "redlock-redis-rs needs an async runtime: turn on its feature `tokio` (the default) or `smol`"
);

#[cfg(any(feature = "smol", feature = "tokio"))]
mod backend;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod command;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod connection;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod connector;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod error;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod executor;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod login;
#[cfg(all(feature = "cluster", any(feature = "smol", feature = "tokio")))]
mod ordered_cluster;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod reply;
#[cfg(feature = "tokio")]
mod socket;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod tls;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod url;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod watch;

pub use ::redis;
#[cfg(feature = "smol")]
pub use redlock_core::SmolRuntime;
#[cfg(feature = "conformance")]
pub use redlock_core::conformance;
pub use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BackendErrorKind, BoxFuture, ConfigError,
    Error, Extend, FencedRegister, FencedReply, Holder, Inspect, InvalidRequest, InvalidToken, KeepAlive,
    KeyState, Lease, Lock, LockBackend, LockParts, LockRequest, MAX_TTL, MemoryBackend, NodeOutcome,
    NodeReply, Note, PerRuntime, Raise, Redlock, RedlockBuilder, Release, ReleaseReply, Replace, Resources,
    RoundReport, Runtime, ServerClock, ServerInfo, ServerRisk, ServerRole, StaleFence, Token, UnlockOutcome,
    Using, UsingFuture, Watch, async_trait, node_url,
};
#[cfg(feature = "tokio")]
pub use redlock_core::{NoRuntime, TokioRuntime};

#[cfg(any(feature = "smol", feature = "tokio"))]
pub use self::{backend::RedisBackend, connection::LazyConnection};
