//! The requests to one node.

// Tests: conformance/tests.rs.

use std::time::Duration;

use crate::{resources::Resources, token::Token};

/// A request to store a token at keys.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Acquire<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value to store.
    pub token: &'a Token,
    /// How long the keys live; whole milliseconds, at least 1 ms, at most [`MAX_TTL`](crate::MAX_TTL).
    pub ttl: Duration,
    /// How long the node may take to reply.
    pub timeout: Duration,
    /// Whether the caller drops the request at the timeout. A lock manager does, with one timer for all of
    /// its nodes. `new` sets it to false.
    pub caller_enforces_timeout: bool,
}

impl<'a> Acquire<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, token: &'a Token, ttl: Duration, timeout: Duration) -> Self {
        Self { resources, token, ttl, timeout, caller_enforces_timeout: false }
    }
}

/// A request to let keys live longer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Extend<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value that they must hold.
    pub token: &'a Token,
    /// How long the keys live from now, at least: whole milliseconds, as in [`Acquire::ttl`].
    pub ttl: Duration,
    /// How long the node may take to reply.
    pub timeout: Duration,
    /// Whether the caller drops the request at the timeout. A lock manager does, with one timer for all of
    /// its nodes. `new` sets it to false.
    pub caller_enforces_timeout: bool,
}

impl<'a> Extend<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, token: &'a Token, ttl: Duration, timeout: Duration) -> Self {
        Self { resources, token, ttl, timeout, caller_enforces_timeout: false }
    }
}

/// A request to remove keys.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Release<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value that they must hold.
    pub token: &'a Token,
    /// How long the node may take to reply.
    pub timeout: Duration,
    /// Whether the caller drops the request at the timeout. A lock manager does, with one timer for all of
    /// its nodes. `new` sets it to false.
    pub caller_enforces_timeout: bool,
}

impl<'a> Release<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, token: &'a Token, timeout: Duration) -> Self {
        Self { resources, token, timeout, caller_enforces_timeout: false }
    }
}

/// A request to replace an old token with a new one.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Replace<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value that they must hold, unless they already hold the new one.
    pub old: &'a Token,
    /// The value to store in its place.
    pub new: &'a Token,
    /// How long the keys live from now, at least: whole milliseconds, as in [`Acquire::ttl`].
    pub ttl: Duration,
    /// How long the node may take to reply.
    pub timeout: Duration,
    /// Whether the caller drops the request at the timeout. A lock manager does, with one timer for all of
    /// its nodes. `new` sets it to false.
    pub caller_enforces_timeout: bool,
}

impl<'a> Replace<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(
        resources: &'a Resources,
        old: &'a Token,
        new: &'a Token,
        ttl: Duration,
        timeout: Duration,
    ) -> Self {
        Self { resources, old, new, ttl, timeout, caller_enforces_timeout: false }
    }
}
