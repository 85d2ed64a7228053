//! Spans and events. Only the first digits of a token are logged, and names of resources only at the level
//! debug.

// Tests: tests/tests/it/telemetry/calls.rs, telemetry/limits.rs.

use std::{
    future::{Future, poll_fn},
    num::NonZeroU64,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::Poll,
    time::Duration,
};

pub(super) use tracing::Span;
use tracing::{debug, field, info, info_span, trace, warn};

use super::{
    Kind, Label, Verb,
    health::{Transition, Watched},
    moment::Moment,
};
use crate::{
    backend::BackendError,
    error_text::with_sources,
    quorum::{Tally, Vote},
    resources::Resources,
    server::ServerRisk,
    token::Token,
};

pub(super) fn span(kind: Kind, manager: Option<&str>, resources: &Resources, token: Option<&Token>) -> Span {
    macro_rules! span {
        ($name:literal) => {
            info_span!(
                target: "redlock",
                $name,
                manager,
                resources = resources.as_slice().len(),
                holder = field::Empty,
                attempts = field::Empty,
                fence = field::Empty,
                yes = field::Empty,
                no = field::Empty,
                failed = field::Empty,
                rejected = field::Empty,
                pending = field::Empty,
                outcome = field::Empty,
                elapsed_ms = field::Empty,
            )
        };
    }
    let span = match kind {
        Kind::Lock => span!("lock"),
        Kind::Extend => span!("extend"),
        Kind::Unlock => span!("unlock"),
    };
    if let Some(token) = token {
        span.record("holder", token.prefix());
    }
    span
}

/// Polls and drops the work in the span. A guard across an await would leave the span entered for whoever is
/// polled next.
pub(super) async fn inside<F: Future>(span: Span, work: F) -> F::Output {
    let mut work = pin!(Some(work));
    let mut inside = Inside { span, work: work.as_mut() };
    poll_fn(|cx| {
        let _entered = inside.span.enter();
        inside.work.as_mut().as_pin_mut().map_or(Poll::Pending, |work| work.poll(cx))
    })
    .await
}

/// As `tracing::Instrumented`, whose destructor panics where the subscriber's thread-locals are gone.
struct Inside<'a, F> {
    span: Span,
    work: Pin<&'a mut Option<F>>,
}

impl<F> Drop for Inside<'_, F> {
    fn drop(&mut self) {
        let entered = catch_unwind(AssertUnwindSafe(|| self.span.enter()));
        self.work.set(None);
        drop(entered);
    }
}

/// In an event, since a field of a span has the level of its span.
pub(super) fn begun(resources: &Resources) {
    debug!(target: "redlock", names = %resources, "begin");
}

pub(super) fn ended(
    span: &Span,
    outcome: &'static str,
    attempts: Option<u32>,
    token: Option<&Token>,
    fence: Option<NonZeroU64>,
    took: Duration,
) {
    let elapsed_ms = millis(took);
    if let Some(attempts) = attempts {
        span.record("attempts", attempts);
    }
    if let Some(token) = token {
        span.record("holder", token.prefix());
    }
    let fence = fence.map(NonZeroU64::get);
    if let Some(fence) = fence {
        span.record("fence", fence);
    }
    span.record("outcome", outcome);
    span.record("elapsed_ms", elapsed_ms);
    debug!(target: "redlock", outcome, elapsed_ms, fence, "done");
}

pub(super) fn round(verb: Verb, token: &Token, outcome: &'static str, votes: &Tally) {
    let [yes, no, failed, rejected] =
        [Vote::Yes, Vote::No, Vote::Failed, Vote::Rejected].map(|vote| votes.number(vote));
    let pending = votes.missing();
    let span = Span::current();
    for (name, votes) in
        [("yes", yes), ("no", no), ("failed", failed), ("rejected", rejected), ("pending", pending)]
    {
        span.record(name, votes);
    }
    let (verb, holder) = (verb.label(), token.prefix());
    debug!(target: "redlock", verb, holder, outcome, yes, no, failed, rejected, pending, "round");
}

pub(super) fn lost(manager: Option<&str>, resources: &Resources, token: &Token, reason: &'static str) {
    let (holder, number) = (token.prefix(), resources.as_slice().len());
    warn!(target: "redlock", manager, reason, resources = number, holder, "lock lost");
    debug!(target: "redlock", names = %resources, holder, "what was lost");
}

pub(super) fn dropped(token: &Token) {
    debug!(target: "redlock", holder = token.prefix(), "lock dropped: it is released in the background");
}

pub(super) fn kept(token: &Token) {
    debug!(target: "redlock", holder = token.prefix(), "lock dropped: it is left to its TTL");
}

/// The nodes of a lock manager, and what was last reported of each.
#[derive(Debug)]
pub(super) struct Nodes {
    manager: Option<Arc<str>>,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    label: Arc<str>,
    /// Whether it is admitted to vote.
    admission: Watched,
    /// Whether it was reported that it shares its server.
    shares_server: AtomicBool,
    /// A bit for each risk that was reported.
    risks: AtomicU8,
}

impl Nodes {
    pub(super) fn new(manager: Option<&Arc<str>>, labels: &[Arc<str>]) -> Self {
        let node = |label: &Arc<str>| Node {
            label: label.clone(),
            admission: Watched::default(),
            shares_server: AtomicBool::new(false),
            risks: AtomicU8::new(0),
        };
        Self { manager: manager.cloned(), nodes: labels.iter().map(node).collect() }
    }

    pub(super) fn answered(
        &self,
        node: usize,
        verb: Verb,
        outcome: &'static str,
        took: Duration,
        error: Option<&BackendError>,
        token: &Token,
    ) {
        let node = &*self.nodes[node].label;
        let (verb, holder, elapsed_ms) = (verb.label(), token.prefix(), millis(took));
        match error {
            None => trace!(target: "redlock", node, verb, holder, outcome, elapsed_ms, "reply"),
            Some(error) => debug!(
                target: "redlock",
                node,
                verb,
                holder,
                outcome,
                elapsed_ms,
                error = %with_sources(error),
                "failed request"
            ),
        }
    }

    /// Reports that the node has become unhealthy, or has recovered. So many of them serve.
    pub(super) fn health(
        &self,
        node: usize,
        transition: Transition,
        error: Option<&BackendError>,
        serving: usize,
    ) {
        let (node, nodes) = (&*self.nodes[node].label, self.nodes.len());
        let manager = self.manager.as_deref();
        match transition {
            Transition::Fails { kind, suppressed } => {
                let error = error.map(|error| field::display(with_sources(error)));
                warn!(
                    target: "redlock",
                    manager,
                    node,
                    %kind,
                    error,
                    serving,
                    nodes,
                    suppressed,
                    "node unhealthy"
                );
            }
            Transition::Serves { failed_for, suppressed } => {
                let failed_for_ms = millis(failed_for);
                info!(
                    target: "redlock",
                    manager,
                    node,
                    failed_for_ms,
                    serving,
                    nodes,
                    suppressed,
                    "node recovered"
                );
            }
        }
    }

    pub(super) fn shares_server(&self, node: usize, other: usize) {
        let (node, other) = (&self.nodes[node], &self.nodes[other]);
        if !node.shares_server.swap(true, Ordering::Relaxed) {
            let (manager, node, same_server_as) = (self.manager.as_deref(), &*node.label, &*other.label);
            warn!(target: "redlock", manager, node, same_server_as, "node has no vote of its own");
        }
    }

    pub(super) fn risk(&self, node: usize, risk: &ServerRisk) {
        let node = &self.nodes[node];
        let bit = 1
            << match risk {
                ServerRisk::Evicts { .. } => 0,
                ServerRisk::IsReplica => 1,
                ServerRisk::WasPromoted => 2,
                ServerRisk::ForgetsAtRestart => 3,
            };
        if node.risks.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            let (manager, node) = (self.manager.as_deref(), &*node.label);
            warn!(target: "redlock", manager, node, %risk, "server endangers locks");
        }
    }

    /// Reports that a node that grants has no vote, or votes again.
    pub(super) fn admitted(&self, node: usize, now: Moment, why_not: Option<&BackendError>) {
        let Node { label, admission, .. } = &self.nodes[node];
        let seen = admission.seen(now, why_not.map(BackendError::kind));
        let Some(transition) = seen.transition else { return };
        let (manager, node) = (self.manager.as_deref(), &**label);
        match transition {
            Transition::Fails { suppressed, .. } => {
                let error = why_not.map(|error| field::display(with_sources(error)));
                warn!(target: "redlock", manager, node, error, suppressed, "node has no vote");
            }
            Transition::Serves { suppressed, .. } => {
                info!(target: "redlock", manager, node, suppressed, "node votes again");
            }
        }
    }

    pub(super) fn not_annotated(&self, node: usize, token: &Token, error: &BackendError) {
        let (node, holder) = (&*self.nodes[node].label, token.prefix());
        debug!(target: "redlock", node, holder, error = %with_sources(error), "note not stored");
    }

    pub(super) fn pending_releases(&self, node: usize, before: usize, pending: usize) {
        let node = &*self.nodes[node].label;
        if pending > before {
            debug!(target: "redlock", node, pending, "release pending: it is asked for again");
        } else if pending < before {
            debug!(target: "redlock", node, pending, "release no longer pending");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
