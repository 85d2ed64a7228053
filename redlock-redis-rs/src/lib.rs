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

pub use redis;
pub use redlock_core::*;

pub use self::{backend::RedisBackend, connection::Reconnecting};
