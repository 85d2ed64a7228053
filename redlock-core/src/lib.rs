#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
//!
//! # Where to start
//!
//! | you | read |
//! |---|---|
//! | lock something | [`Redlock::builder`], [`Redlock::lock`], [`Redlock::using`], [`Lock`], [`KeepAlive`] |
//! | handle errors | [`Error`] |
//! | refuse late writes | [`RedlockBuilder::fenced`], [`Lock::fence`], [`FencedRegister`] for tests |
//! | hand a lock to another process | [`Lock::into_parts`], [`Redlock::from_parts`] |
//! | test code that locks | [`MemoryBackend`] |
//! | write a backend | [`LockBackend`], the module [`redis`], [`PerRuntime`] |
//! | write a runtime | [`Runtime`] |

// Tests: the examples of README.md, as doctests; for the whole of it, tests/tests/it.

mod admission;
mod annotation;
mod attempts;
mod backend;
mod builder;
mod claim;
mod cleanup;
#[cfg(feature = "conformance")]
pub mod conformance;
mod entropy;
mod error;
mod error_text;
mod extender;
mod extensions;
mod fan_out;
mod fence;
mod fencing;
mod hold;
mod inspect;
mod invalid;
mod keep_alive;
mod latch;
mod lease;
mod ledger;
mod lock;
mod memory;
mod node;
pub mod node_url;
mod nodes;
mod note;
mod pace;
mod patience;
mod quorum;
mod reaper;
pub mod reconnect;
pub mod redis;
mod redlock;
mod renewal;
mod reply;
mod request;
mod resources;
mod retry;
mod rivals;
mod rounds;
mod runtime;
mod server;
mod settings;
mod takeover;
mod telemetry;
mod ticket;
mod token;
mod tracked;
mod using;
mod validity;
mod votes;
mod waiters;
mod wake;
mod wakeup;
mod watch;

pub use async_trait::async_trait;

#[cfg(feature = "smol")]
pub use self::runtime::SmolRuntime;
#[cfg(feature = "tokio")]
pub use self::runtime::{NoRuntime, TokioRuntime};
pub use self::{
    backend::{
        Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BackendErrorKind, Extend, FencedReply,
        LockBackend, Raise, Release, ReleaseReply, Replace,
    },
    builder::RedlockBuilder,
    error::{Error, RoundReport},
    inspect::{Holder, Inspect, KeyState},
    invalid::{ConfigError, InvalidRequest},
    keep_alive::KeepAlive,
    lease::Lease,
    lock::{Lock, LockParts, UnlockOutcome},
    memory::{FencedRegister, MemoryBackend, StaleFence},
    note::Note,
    redlock::Redlock,
    reply::{NodeOutcome, NodeReply},
    request::LockRequest,
    resources::Resources,
    runtime::{BoxFuture, PerRuntime, Runtime},
    server::{ServerClock, ServerInfo, ServerRisk, ServerRole},
    token::{InvalidToken, Token},
    using::{Using, UsingFuture},
    validity::MAX_TTL,
    watch::Watch,
};
