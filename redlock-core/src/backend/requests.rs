//! The requests to one node.

// Tests: conformance/tests.rs.

use std::{num::NonZeroU64, time::Duration};

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

/// A request to store a token at keys, and to count the grant.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AcquireFenced<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value to store.
    pub token: &'a Token,
    /// How long the keys live, as in [`Acquire::ttl`].
    pub ttl: Duration,
    /// What the caller would like the counters to be: its wall clock, in microseconds since 1970, so that
    /// nodes usually agree. Any number is safe, 0 too.
    pub proposal: u64,
    /// How long the counters live after their last change: whole milliseconds. `None` is forever.
    pub counter_ttl: Option<Duration>,
    /// How long the node may take to reply.
    pub timeout: Duration,
    /// Whether the caller drops the request at the timeout, as in [`Acquire::caller_enforces_timeout`].
    pub caller_enforces_timeout: bool,
}

impl<'a> AcquireFenced<'a> {
    /// A request with all of its fields: an [`Acquire`], with what it says about the counters.
    #[must_use]
    pub fn new(acquire: Acquire<'a>, proposal: u64, counter_ttl: Option<Duration>) -> Self {
        let Acquire { resources, token, ttl, timeout, caller_enforces_timeout } = acquire;
        Self { resources, token, ttl, proposal, counter_ttl, timeout, caller_enforces_timeout }
    }
}

/// A request to raise the counters of keys to a fencing token, and, if it has a TTL, to let the keys live
/// longer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Raise<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value that they must hold.
    pub token: &'a Token,
    /// What each counter shall be at least.
    pub fence: NonZeroU64,
    /// How long the keys live from now, at least, as in [`Extend::ttl`]. `None` leaves their expiry.
    pub ttl: Option<Duration>,
    /// How long the counters live after this, as in [`AcquireFenced::counter_ttl`].
    pub counter_ttl: Option<Duration>,
    /// How long the node may take to reply.
    pub timeout: Duration,
    /// Whether the caller drops the request at the timeout, as in [`Acquire::caller_enforces_timeout`].
    pub caller_enforces_timeout: bool,
}

impl<'a> Raise<'a> {
    /// A request that leaves the keys' expiry. `caller_enforces_timeout` is false.
    #[must_use]
    pub fn new(
        resources: &'a Resources,
        token: &'a Token,
        fence: NonZeroU64,
        counter_ttl: Option<Duration>,
        timeout: Duration,
    ) -> Self {
        Self { resources, token, fence, ttl: None, counter_ttl, timeout, caller_enforces_timeout: false }
    }

    /// As an [`Extend`], which also raises the counters.
    #[must_use]
    pub fn extending(extend: Extend<'a>, fence: NonZeroU64, counter_ttl: Option<Duration>) -> Self {
        let Extend { resources, token, ttl, timeout, caller_enforces_timeout } = extend;
        Self { resources, token, fence, ttl: Some(ttl), counter_ttl, timeout, caller_enforces_timeout }
    }
}

/// A request to write the note of a token beside its keys, or to remove it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Annotate<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// The value that they must hold for a note to be written. Its [prefix](Token::prefix) may be stored
    /// with the note, and nothing else of it.
    pub token: &'a Token,
    /// The text; `None` removes the notes of this token.
    pub note: Option<&'a str>,
    /// How long the node may take to reply.
    pub timeout: Duration,
    /// Whether the caller drops the request at the timeout, as in [`Acquire::caller_enforces_timeout`].
    pub caller_enforces_timeout: bool,
}

impl<'a> Annotate<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, token: &'a Token, note: Option<&'a str>, timeout: Duration) -> Self {
        Self { resources, token, note, timeout, caller_enforces_timeout: false }
    }
}
