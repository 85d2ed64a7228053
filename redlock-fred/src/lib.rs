#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backend;
mod client;
mod command;
mod connection;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod given;
mod reply;
mod url;
mod watch;

pub use fred;
#[cfg(feature = "conformance")]
pub use redlock_core::conformance;
pub use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BackendErrorKind, BoxFuture, ConfigError,
    Error, Extend, FencedRegister, FencedReply, Holder, Inspect, InvalidRequest, InvalidToken, KeepAlive,
    KeyState, Lease, Lock, LockBackend, LockParts, LockRequest, MAX_TTL, MemoryBackend, NoRuntime,
    NodeOutcome, NodeReply, Note, PerRuntime, Raise, Redlock, RedlockBuilder, Release, ReleaseReply, Replace,
    Resources, RoundReport, Runtime, ServerClock, ServerInfo, ServerRisk, ServerRole, StaleFence, Token,
    TokioRuntime, UnlockOutcome, Using, UsingFuture, Watch, async_trait, node_url,
};

pub use self::backend::FredBackend;
