//! The clock, for telemetry only: without telemetry nobody reads it (moment_off.rs).

// Tests: tests/tests/it/telemetry/calls.rs.

use std::time::{Duration, Instant};

use crate::runtime::Runtime;

#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(pub(super) Instant);

impl Moment {
    pub(super) fn now(clock: &dyn Runtime) -> Self {
        Self(clock.now())
    }

    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }

    /// Whether `deadline` has come.
    pub(super) fn is_past(self, deadline: Instant) -> bool {
        self.0 >= deadline
    }
}
