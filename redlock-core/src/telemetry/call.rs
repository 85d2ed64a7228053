//! A call of the user's, from its first poll to its end.

use std::future::Future;
#[cfg(any(feature = "tracing", feature = "metrics"))]
use std::time::Instant;

#[cfg(feature = "tracing")]
use super::events;
use super::in_a_destructor;
#[cfg(feature = "metrics")]
use super::metrics;
use crate::{error::Error, nodes::Nodes, resources::Resources, token::Token};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lock,
    Extend,
    Unlock,
}

/// A call of `lock`, `extend` or `unlock`. Dropped before its end, it was cancelled.
pub(super) struct Call<'a> {
    kind: Kind,
    nodes: &'a Nodes,
    resources: &'a Resources,
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    start: Instant,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
    ended: bool,
}

impl<'a> Call<'a> {
    pub(super) fn begin(
        kind: Kind,
        nodes: &'a Nodes,
        resources: &'a Resources,
        token: Option<&Token>,
    ) -> Self {
        Self {
            kind,
            nodes,
            resources,
            #[cfg(any(feature = "tracing", feature = "metrics"))]
            start: nodes.now(),
            #[cfg(feature = "tracing")]
            span: events::span(kind, resources, token),
            ended: false,
        }
    }

    pub(super) async fn watch<T>(self, work: impl Future<Output = T>, end: impl FnOnce(&T) -> End) -> T {
        #[cfg(feature = "tracing")]
        let span = self.span.clone();
        let watched = async move {
            let mut call = self;
            #[cfg(feature = "tracing")]
            events::begun(call.resources);
            let output = work.await;
            call.end(&end(&output));
            output
        };
        #[cfg(feature = "tracing")]
        let watched = events::inside(span, watched);
        watched.await
    }

    fn end(&mut self, end: &End) {
        self.ended = true;
        #[cfg(any(feature = "tracing", feature = "metrics"))]
        {
            let took = self.nodes.now().saturating_duration_since(self.start);
            #[cfg(feature = "tracing")]
            events::ended(&self.span, end, took);
            #[cfg(feature = "metrics")]
            match self.kind {
                Kind::Lock => metrics::locked(end.outcome, took),
                Kind::Extend => metrics::extended(end.outcome),
                Kind::Unlock => metrics::unlocked(end.outcome),
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let cancelled = End { outcome: "cancelled", attempts: None, holder: None };
            in_a_destructor(|| self.end(&cancelled));
        }
    }
}

/// How a call ended.
pub(super) struct End {
    pub(super) outcome: &'static str,
    pub(super) attempts: Option<u32>,
    /// Who holds the lock now, where that was not known before.
    pub(super) holder: Option<Token>,
}

impl End {
    pub(super) fn failed(error: &Error) -> Self {
        let outcome = match error {
            Error::Contended(_) => "contended",
            Error::NoQuorum(_) => "no_quorum",
            Error::Rejected(_) => "rejected",
            Error::Lost(_) => "lost",
            Error::InvalidRequest(_) => "invalid",
        };
        Self { outcome, attempts: error.report().map(|report| report.attempts), holder: None }
    }
}
