//! What the tests of the redlock crates stand on: a simulated runtime, and real servers.

// A panic is how a test fails.
#![allow(clippy::missing_panics_doc)]

pub mod server;
pub mod sim;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
