//! The twin of events.rs without the feature: the same signatures, and nothing to do.

// Tests: tests/tests/it/telemetry.

use std::{future::Future, num::NonZeroU64, sync::Arc, time::Duration};

use super::{Kind, Verb, health::Transition, moment::Moment};
use crate::{backend::BackendError, quorum::Tally, resources::Resources, server::ServerRisk, token::Token};

#[derive(Clone, Debug)]
pub(super) struct Span;

pub(super) fn span(_: Kind, _: Option<&str>, _: &Resources, _: Option<&Token>) -> Span {
    Span
}

pub(super) fn inside<F: Future>(_: Span, work: F) -> F {
    work
}

pub(super) fn begun(_: &Resources) {}

pub(super) fn ended(
    _: &Span,
    _: &'static str,
    _: Option<u32>,
    _: Option<&Token>,
    _: Option<NonZeroU64>,
    _: Duration,
) {
}

pub(super) fn round(_: Verb, _: &Token, _: &'static str, _: &Tally) {}

pub(super) fn lost(_: Option<&str>, _: &Resources, _: &Token, _: &'static str) {}

pub(super) fn dropped(_: &Token) {}

pub(super) fn kept(_: &Token) {}

#[derive(Debug)]
pub(super) struct Nodes;

impl Nodes {
    pub(super) fn new(_: Option<&Arc<str>>, _: &[Arc<str>]) -> Self {
        Self
    }

    pub(super) fn answered(
        &self,
        _: usize,
        _: Verb,
        _: &'static str,
        _: Duration,
        _: Option<&BackendError>,
        _: &Token,
    ) {
    }

    pub(super) fn health(&self, _: usize, _: Transition, _: Option<&BackendError>, _: usize) {}

    pub(super) fn shares_server(&self, _: usize, _: usize) {}

    pub(super) fn risk(&self, _: usize, _: &ServerRisk) {}

    pub(super) fn admitted(&self, _: usize, _: Moment, _: Option<&BackendError>) {}

    pub(super) fn not_annotated(&self, _: usize, _: &Token, _: &BackendError) {}

    pub(super) fn pending_releases(&self, _: usize, _: usize, _: usize) {}
}
