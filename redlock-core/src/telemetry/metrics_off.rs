//! The twin of metrics.rs without the feature: the same signatures, and nothing to do.

// Tests: tests/tests/it/telemetry.

use std::{sync::Arc, time::Duration};

use super::{Kind, Loss, Verb};
use crate::runtime::Runtime;

#[derive(Debug)]
pub(super) struct Metrics;

impl Metrics {
    pub(super) fn new(_: Option<&Arc<str>>, _: &[Arc<str>]) -> Self {
        Self
    }

    pub(super) fn built(&self) {}

    pub(super) fn ended(&self, _: Kind, _: &'static str, _: Duration) {}

    pub(super) fn round(&self, _: Verb, _: &'static str) {}

    pub(super) fn raised(&self, _: &'static str) {}

    pub(super) fn unlocked(&self, _: &'static str) {}

    pub(super) fn lost(&self, _: Loss) {}

    pub(super) fn held(&self, _: Duration) {}

    pub(super) fn hold(&self, _: &dyn Runtime) -> Hold {
        Hold
    }

    pub(super) fn answered(&self, _: usize, _: Verb, _: &'static str, _: Duration) {}

    pub(super) fn turned(&self, _: usize, _: impl Fn() -> bool) {}

    pub(super) fn pending_releases(&self, _: usize, _: usize, _: usize) {}
}

#[derive(Debug)]
pub(super) struct Hold;

impl Hold {
    pub(super) fn end(&self) {}
}
