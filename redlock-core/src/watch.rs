//! Waiting until keys may be free.

// Tests: conformance/watching.rs; tests/tests/it/sim/memory.rs, servers/watching.rs.

use std::time::Duration;

use crate::resources::Resources;

/// A request to wait until keys may be free.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Watch<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// How long to wait at most, connecting included.
    pub timeout: Duration,
}

impl<'a> Watch<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, timeout: Duration) -> Self {
        Self { resources, timeout }
    }
}
