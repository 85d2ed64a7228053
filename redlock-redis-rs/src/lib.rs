#![doc = include_str!("../README.md")]

mod backend;
mod class;
mod connection;
mod exec;
#[cfg(feature = "cluster")]
mod queue;
mod scripts;
mod source;
mod tls;

// By its full path, which also hides the core's module of the same name: that one is for writers of backends.
pub use ::redis;
pub use redlock_core::*;

pub use self::{backend::RedisBackend, connection::Reconnecting};
