//! The twin of metrics.rs without the feature: the same signatures, and nothing to do.

// Tests: tests/tests/it/telemetry.

use std::{sync::Arc, time::Duration};

use super::{Kind, Loss, Verb};

pub(super) fn describe() {}

pub(super) fn ended(_: Kind, _: &'static str, _: Duration) {}

pub(super) fn round(_: Verb, _: &'static str) {}

pub(super) fn raised(_: &'static str) {}

pub(super) fn unlocked(_: &'static str) {}

pub(super) fn lost(_: Loss) {}

pub(super) fn held(_: Duration) {}

#[derive(Debug)]
pub(super) struct Nodes;

impl Nodes {
    pub(super) fn new(_: &[Arc<str>]) -> Self {
        Self
    }

    pub(super) fn answered(&self, _: usize, _: Verb, _: &'static str, _: Duration) {}

    pub(super) fn pending_releases(&self, _: usize, _: usize, _: usize) {}
}
