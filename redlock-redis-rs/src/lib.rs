#![doc = include_str!("../README.md")]

mod backend;
mod class;
mod connection;
mod scripts;

pub use redis;
pub use redlock_core::*;

pub use self::{backend::RedisBackend, connection::Reconnecting};
