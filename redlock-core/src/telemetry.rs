//! What operators see: the only place that knows of `tracing` and `metrics`.
//!
//! It takes plain data (outcomes, counts, labels, instants) and decides nothing. It is neither awaited nor
//! called under a lock: a subscriber is foreign code. Without a feature, a twin with the same signatures and
//! empty bodies replaces the module that needs it, so the logic has no `cfg`.

// Tests: tests/tests/it/telemetry.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use self::moment::Moment;
pub(crate) use self::{
    call::{Call, Kind, Outcome},
    labels::{Label, Loss, Verb},
};
use crate::{
    backend::BackendError,
    fence::Raised,
    quorum::{LossReason, Tally},
    reply::NodeOutcome,
    resources::Resources,
    runtime::Runtime,
    server::ServerRisk,
    token::Token,
};

mod call;
#[cfg_attr(not(feature = "tracing"), path = "telemetry/events_off.rs")]
mod events;
mod labels;
#[cfg_attr(not(feature = "metrics"), path = "telemetry/metrics_off.rs")]
mod metrics;
#[cfg_attr(not(any(feature = "tracing", feature = "metrics")), path = "telemetry/moment_off.rs")]
mod moment;

/// A lock manager was made.
pub(crate) fn built() {
    metrics::describe();
}

/// A lock was dropped: it is released in the background.
pub(crate) fn dropped(token: &Token) {
    in_a_destructor(|| {
        events::dropped(token);
        metrics::unlocked("dropped");
    });
}

/// A lock was dropped before it may be released: it is left to its TTL.
pub(crate) fn kept(token: &Token) {
    in_a_destructor(|| {
        events::kept(token);
        metrics::unlocked("kept");
    });
}

/// A round was decided; `lost` is why it was not won.
pub(crate) fn round(verb: Verb, token: &Token, lost: Option<LossReason>, votes: &Tally) {
    let outcome = match lost {
        None => "won",
        Some(LossReason::Refused) => "refused",
        Some(LossReason::NoQuorum) => "no_quorum",
        Some(LossReason::Rejected) => "rejected",
    };
    events::round(verb, token, outcome, votes);
    metrics::round(verb, outcome);
}

/// The nodes were asked to raise their counters, in a second trip of a round.
pub(crate) fn raised(token: &Token, raised: Raised, votes: &Tally) {
    let outcome = match raised {
        Raised::Done(_) => "done",
        Raised::Again(_) => "again",
        Raised::Open | Raised::Failed => "failed",
    };
    events::round(Verb::Raise, token, outcome, votes);
    metrics::raised(outcome);
}

/// A round was given up half-way, since its call was dropped.
pub(crate) fn round_cancelled(token: &Token, votes: &Tally) {
    in_a_destructor(|| {
        events::round(Verb::Acquire, token, "cancelled", votes);
        metrics::round(Verb::Acquire, "cancelled");
    });
}

/// What is remembered of the nodes of a lock manager.
#[derive(Debug)]
pub(crate) struct NodesTelemetry {
    events: events::Nodes,
    metrics: metrics::Nodes,
}

impl NodesTelemetry {
    /// A node's label is its name, or its position when it has none.
    pub(crate) fn new<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Self {
        let label = |(position, name): (usize, Option<&str>)| {
            name.map_or_else(|| position.to_string().into(), Arc::from)
        };
        let labels: Vec<Arc<str>> = names.enumerate().map(label).collect();
        Self { events: events::Nodes::new(&labels), metrics: metrics::Nodes::new(&labels) }
    }

    /// One request to one node begins.
    pub(crate) fn request<'a>(
        &'a self,
        clock: &'a dyn Runtime,
        node: usize,
        verb: Verb,
        token: &'a Token,
    ) -> Request<'a> {
        Request { nodes: self, clock, node, verb, token, start: Moment::now(clock) }
    }

    /// The node has no vote, as `other` leads to the same server; reported once.
    pub(crate) fn shares_server(&self, node: usize, other: usize) {
        self.events.shares_server(node, other);
    }

    /// The node grants, on a server with these risks to locks; each is reported once.
    pub(crate) fn runs_on(&self, node: usize, risks: impl Iterator<Item = ServerRisk>) {
        risks.for_each(|risk| self.events.risk(node, &risk));
    }

    /// Whether the node, which grants, may vote; a change is reported.
    pub(crate) fn admitted(&self, clock: &dyn Runtime, node: usize, why_not: Option<&BackendError>) {
        self.events.admitted(node, Moment::now(clock), why_not);
    }

    /// The node has more pending releases than before, or fewer.
    pub(crate) fn pending_releases(&self, node: usize, before: usize, after: usize) {
        self.events.pending_releases(node, before, after);
        self.metrics.pending_releases(node, before, after);
    }
}

/// One request to one node.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    nodes: &'a NodesTelemetry,
    clock: &'a dyn Runtime,
    node: usize,
    verb: Verb,
    token: &'a Token,
    start: Moment,
}

impl Request<'_> {
    /// `informative`: whether the answer says something about the node. A timeout that was cut short does
    /// not.
    pub(crate) fn answered(self, answer: &NodeOutcome, informative: bool) {
        let Self { nodes, clock, node, verb, token, start } = self;
        let now = Moment::now(clock);
        let took = now.since(start);
        let outcome = answer.label();
        let error = if let NodeOutcome::Failed(error) = answer { Some(error) } else { None };
        nodes.metrics.answered(node, verb, outcome, took);
        nodes.events.answered(node, verb, outcome, took, error, token);
        if informative {
            nodes.events.seen(node, now, error);
        }
    }
}

/// What is remembered of a lock that is held.
#[derive(Debug)]
pub(crate) struct LockTelemetry {
    start: Moment,
    /// Whether its loss was reported.
    lost: AtomicBool,
}

impl LockTelemetry {
    pub(crate) fn begin(clock: &dyn Runtime) -> Self {
        Self { start: Moment::now(clock), lost: AtomicBool::new(false) }
    }

    /// Reports a loss, the first time that it is noticed.
    pub(crate) fn lost(&self, resources: &Resources, token: &Token, loss: Loss) {
        if !self.lost.swap(true, Ordering::Relaxed) {
            events::lost(resources, token, loss.label());
            metrics::lost(loss);
        }
    }

    /// The lock has ended; reported once. One whose validity, until `valid_until`, was over before has been
    /// lost.
    pub(crate) fn ended(
        &self,
        clock: &dyn Runtime,
        resources: &Resources,
        token: &Token,
        valid_until: Instant,
    ) {
        let now = Moment::now(clock);
        in_a_destructor(|| {
            if now.is_past(valid_until) {
                self.lost(resources, token, Loss::Expired);
            }
            metrics::held(now.since(self.start));
        });
    }
}

/// Reports something where a panic would end the process. Subscribers and recorders use thread-locals. At the
/// end of a thread these may be gone already when another thread-local drops the lock that it holds: then
/// they panic.
fn in_a_destructor(report: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(report)));
}
