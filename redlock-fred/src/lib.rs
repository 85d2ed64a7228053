#![doc = include_str!("../README.md")]

mod answer;
mod backend;
mod class;
mod client;
mod connection;
mod given;
mod scripts;
mod url;

pub use fred;
pub use redlock_core::*;

pub use self::backend::FredBackend;
