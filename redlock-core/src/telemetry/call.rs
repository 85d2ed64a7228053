//! A call of the user's, from its first poll to its end.

// Tests: tests/tests/it/telemetry/calls.rs.

use std::{future::Future, num::NonZeroU64};

use super::{Telemetry, events, in_a_destructor, labels::Label, moment::Moment};
use crate::{error::Error, resources::Resources, runtime::Runtime, token::Token};

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lock,
    /// By hand or by a keep-alive; also taking over a lock, which extends it.
    Extend,
    Unlock,
}

/// A call of `lock`, `extend` or `unlock`. Dropped before its end, it was cancelled.
pub(crate) struct Call<'a> {
    telemetry: &'a Telemetry,
    kind: Kind,
    clock: &'a dyn Runtime,
    resources: &'a Resources,
    start: Moment,
    span: events::Span,
    ended: bool,
}

impl<'a> Call<'a> {
    /// `token`: of the lock, if it is held already.
    pub(crate) fn begin(
        telemetry: &'a Telemetry,
        kind: Kind,
        clock: &'a dyn Runtime,
        resources: &'a Resources,
        token: Option<&Token>,
    ) -> Self {
        let start = Moment::now(clock);
        let span = events::span(kind, telemetry.label.as_deref(), resources, token);
        Self { telemetry, kind, clock, resources, start, span, ended: false }
    }

    /// Runs the work of the call in its span; `done` returns the outcome of a success. The work is made where
    /// it runs: each future that it moves through would have room for it.
    pub(crate) async fn watch<T, F>(
        self,
        work: impl FnOnce() -> F,
        done: impl FnOnce(&T) -> Outcome<'_>,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        events::inside(self.span.clone(), async move {
            let mut call = self;
            events::begun(call.resources);
            let result = work().await;
            call.end(result.as_ref().map_or_else(Outcome::Failed, done));
            result
        })
        .await
    }

    fn end(&mut self, outcome: Outcome<'_>) {
        self.ended = true;
        let took = Moment::now(self.clock).since(self.start);
        events::ended(
            &self.span,
            outcome.label(),
            outcome.attempts(),
            outcome.holder(),
            outcome.fence(),
            took,
        );
        self.telemetry.metrics.ended(self.kind, outcome.label(), took);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            in_a_destructor(|| self.end(Outcome::Cancelled));
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    Granted { attempts: u32, token: &'a Token, fence: Option<NonZeroU64> },
    Extended,
    Released,
    NotHeld,
    Kept,
    Failed(&'a Error),
    Cancelled,
}

impl Outcome<'_> {
    fn attempts(&self) -> Option<u32> {
        match self {
            Self::Granted { attempts, .. } => Some(*attempts),
            Self::Failed(error) => error.report().map(|report| report.attempts),
            Self::Extended | Self::Released | Self::NotHeld | Self::Kept | Self::Cancelled => None,
        }
    }

    fn fence(&self) -> Option<NonZeroU64> {
        if let Self::Granted { fence, .. } = self { *fence } else { None }
    }

    /// Who holds the lock now, where that was not known before.
    fn holder(&self) -> Option<&Token> {
        match self {
            Self::Granted { token, .. } => Some(token),
            _ => None,
        }
    }
}

impl Label for Outcome<'_> {
    fn label(&self) -> &'static str {
        match self {
            Self::Granted { .. } => "granted",
            Self::Extended => "extended",
            Self::Released => "released",
            Self::NotHeld => "not_held",
            Self::Kept => "kept",
            Self::Failed(error) => error.label(),
            Self::Cancelled => "cancelled",
        }
    }
}
