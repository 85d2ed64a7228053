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
    /// Whether to complete as soon as the node reports a change of the keys, without reading them again. That
    /// is a trip earlier, but the change may be an extension. A backend may ignore it.
    pub eager: bool,
}

impl<'a> Watch<'a> {
    /// A request that is not eager.
    #[must_use]
    pub fn new(resources: &'a Resources, timeout: Duration) -> Self {
        Self { resources, timeout, eager: false }
    }

    /// The same request, but eager.
    #[must_use]
    pub fn eager(self) -> Self {
        Self { eager: true, ..self }
    }
}
