//! The twin of health.rs without telemetry: nothing is remembered.

// Tests: tests/tests/it/telemetry.

use super::moment::Moment;
use crate::backend::BackendErrorKind;

#[derive(Debug, Default)]
pub(super) struct Watched;

impl Watched {
    pub(super) fn seen(&self, _: Moment, _: Option<BackendErrorKind>) -> Seen {
        Seen { turned: false, transition: None }
    }

    pub(super) fn serves(&self) -> bool {
        true
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) turned: bool,
    pub(super) transition: Option<Transition>,
}

/// There is none.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transition {}
