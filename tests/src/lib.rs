//! The foundations of the redlock crates' tests: a simulated runtime, and real servers.

// A panic is how a test fails.
#![allow(clippy::missing_panics_doc)]

pub mod adapter;
pub mod bench;
pub mod chaos;
pub mod cluster;
pub mod evidence;
pub mod fake;
pub mod fencing;
pub mod harness;
pub mod netns;
pub mod proxy;
pub mod sentinel;
pub mod server;
pub mod sim_runtime;
pub mod simulation;
pub mod soak;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The samples of the migration guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/migration.md")]
pub struct Migration;

/// The samples of the page about fencing tokens.
#[cfg(doctest)]
#[doc = include_str!("../../docs/fencing.md")]
pub struct FencingTokens;

/// The samples of the recipes.
#[cfg(doctest)]
#[doc = include_str!("../../docs/recipes.md")]
pub struct Recipes;
