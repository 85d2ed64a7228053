//! What operators see: the only place that knows of `tracing` and `metrics`.
//!
//! It takes plain data (outcomes, counts, labels, instants) and decides nothing. It is neither awaited nor
//! called under a lock: a subscriber is foreign code. Without a feature, a twin with the same signatures and
//! empty bodies replaces the module that needs it, so the logic has no `cfg`.

// Tests: tests/tests/it/telemetry.

use std::{
    fmt,
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
#[cfg_attr(not(any(feature = "tracing", feature = "metrics")), path = "telemetry/health_off.rs")]
mod health;
mod labels;
#[cfg_attr(not(feature = "metrics"), path = "telemetry/metrics_off.rs")]
mod metrics;
#[cfg_attr(not(any(feature = "tracing", feature = "metrics")), path = "telemetry/moment_off.rs")]
mod moment;

/// What is remembered of one lock manager and its nodes.
pub(crate) struct Telemetry {
    /// The manager's, on all of its metrics, and in its events for operators.
    label: Option<Arc<str>>,
    events: events::Nodes,
    metrics: metrics::Metrics,
    health: Vec<health::Watched>,
}

impl Telemetry {
    /// A node's label is its name, or its position when it has none.
    pub(crate) fn new<'a>(label: Option<&str>, names: impl Iterator<Item = Option<&'a str>>) -> Self {
        let of_node = |(position, name): (usize, Option<&str>)| {
            name.map_or_else(|| position.to_string().into(), Arc::from)
        };
        let nodes: Vec<Arc<str>> = names.enumerate().map(of_node).collect();
        let label = label.filter(|label| !label.is_empty()).map(Arc::from);
        Self {
            events: events::Nodes::new(label.as_ref(), &nodes),
            metrics: metrics::Metrics::new(label.as_ref(), &nodes),
            health: nodes.iter().map(|_| Default::default()).collect(),
            label,
        }
    }

    /// The lock manager was made.
    pub(crate) fn built(&self) {
        self.metrics.built();
    }

    /// A lock was dropped: it is released in the background.
    pub(crate) fn dropped(&self, token: &Token) {
        in_a_destructor(|| {
            events::dropped(token);
            self.metrics.unlocked("dropped");
        });
    }

    /// A lock was dropped before it may be released: it is left to its TTL.
    pub(crate) fn kept(&self, token: &Token) {
        in_a_destructor(|| {
            events::kept(token);
            self.metrics.unlocked("kept");
        });
    }

    /// A round was decided; `lost` is why it was not won.
    pub(crate) fn round(&self, verb: Verb, token: &Token, lost: Option<LossReason>, votes: &Tally) {
        let outcome = match lost {
            None => "won",
            Some(LossReason::Refused) => "refused",
            Some(LossReason::NoQuorum) => "no_quorum",
            Some(LossReason::Rejected) => "rejected",
        };
        events::round(verb, token, outcome, votes);
        self.metrics.round(verb, outcome);
    }

    /// The nodes were asked to raise their counters, in a second trip of a round.
    pub(crate) fn raised(&self, token: &Token, raised: Raised, votes: &Tally) {
        let outcome = match raised {
            Raised::Done(_) => "done",
            Raised::Again(_) => "again",
            Raised::Open | Raised::Failed => "failed",
        };
        events::round(Verb::Raise, token, outcome, votes);
        self.metrics.raised(outcome);
    }

    /// A round was given up half-way, since its call was dropped.
    pub(crate) fn round_cancelled(&self, token: &Token, votes: &Tally) {
        in_a_destructor(|| {
            events::round(Verb::Acquire, token, "cancelled", votes);
            self.metrics.round(Verb::Acquire, "cancelled");
        });
    }

    /// One request to one node begins.
    pub(crate) fn request<'a>(
        &'a self,
        clock: &'a dyn Runtime,
        node: usize,
        verb: Verb,
        token: &'a Token,
    ) -> Request<'a> {
        Request { telemetry: self, clock, node, verb, token, start: Moment::now(clock) }
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

    /// The node did not take a note.
    pub(crate) fn not_annotated(&self, node: usize, token: &Token, error: &BackendError) {
        self.events.not_annotated(node, token, error);
    }

    /// The node has more pending releases than before, or fewer.
    pub(crate) fn pending_releases(&self, node: usize, before: usize, after: usize) {
        self.events.pending_releases(node, before, after);
        self.metrics.pending_releases(node, before, after);
    }

    /// The node served a request, or failed.
    fn seen(&self, node: usize, now: Moment, error: Option<&BackendError>) {
        let seen = self.health[node].seen(now, error.map(BackendError::kind));
        if seen.turned {
            self.metrics.turned(node, || self.health[node].serves());
        }
        if let Some(transition) = seen.transition {
            let serving = self.health.iter().filter(|node| node.serves()).count();
            self.events.health(node, transition, error, serving);
        }
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("label", &self.label).finish_non_exhaustive()
    }
}

/// One request to one node.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    telemetry: &'a Telemetry,
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
        let Self { telemetry, clock, node, verb, token, start } = self;
        let now = Moment::now(clock);
        let took = now.since(start);
        let outcome = answer.label();
        let error = if let NodeOutcome::Failed(error) = answer { Some(error) } else { None };
        telemetry.metrics.answered(node, verb, outcome, took);
        telemetry.events.answered(node, verb, outcome, took, error, token);
        if informative {
            telemetry.seen(node, now, error);
        }
    }
}

/// What is remembered of a lock that is held.
#[derive(Debug)]
pub(crate) struct LockTelemetry {
    start: Moment,
    hold: metrics::Hold,
    /// Whether its loss was reported.
    lost: AtomicBool,
}

impl LockTelemetry {
    pub(crate) fn begin(manager: &Telemetry, clock: &dyn Runtime) -> Self {
        let (start, hold) = (Moment::now(clock), manager.metrics.hold(clock));
        Self { start, hold, lost: AtomicBool::new(false) }
    }

    /// Reports a loss, the first time that it is noticed.
    pub(crate) fn lost(&self, manager: &Telemetry, resources: &Resources, token: &Token, loss: Loss) {
        if !self.lost.swap(true, Ordering::Relaxed) {
            events::lost(manager.label.as_deref(), resources, token, loss.label());
            manager.metrics.lost(loss);
            self.hold.end();
        }
    }

    /// The lock has ended; reported once. One whose validity, until `valid_until`, was over before has been
    /// lost.
    pub(crate) fn ended(
        &self,
        manager: &Telemetry,
        clock: &dyn Runtime,
        resources: &Resources,
        token: &Token,
        valid_until: Instant,
    ) {
        let now = Moment::now(clock);
        in_a_destructor(|| {
            if now.is_past(valid_until) {
                self.lost(manager, resources, token, Loss::Expired);
            }
            manager.metrics.held(now.since(self.start));
            self.hold.end();
        });
    }
}

/// Reports something where a panic would end the process. Subscribers and recorders use thread-locals. At the
/// end of a thread these may be gone already when another thread-local drops the lock that it holds: then
/// they panic.
fn in_a_destructor(report: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(report)));
}
