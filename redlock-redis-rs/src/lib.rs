#![doc = include_str!("../README.md")]

// Without a runtime there is nothing else, so that this is all that the compiler has to say.
#[cfg(not(any(feature = "smol", feature = "tokio")))]
compile_error!(
    "redlock-redis-rs needs an async runtime: turn on its feature `tokio` (the default) or `smol`"
);

#[cfg(any(feature = "smol", feature = "tokio"))]
mod backend;
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
#[cfg(any(feature = "smol", feature = "tokio"))]
mod scripts;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod tls;
#[cfg(any(feature = "smol", feature = "tokio"))]
mod url;

// By its full path, which also hides the core's module of the same name: that one is for writers of backends.
pub use ::redis;
pub use redlock_core::*;

#[cfg(any(feature = "smol", feature = "tokio"))]
pub use self::{backend::RedisBackend, connection::LazyConnection};
