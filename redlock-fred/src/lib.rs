#![doc = include_str!("../README.md")]

mod backend;
mod client;
mod connection;
mod error;
mod given;
mod reply;
mod scripts;
mod url;

pub use fred;
pub use redlock_core::*;

pub use self::backend::FredBackend;
