//! Counters, gauges and histograms. Labels are few and bounded: no names of resources.
//!
//! A manager has the keys of its metrics, but no handles of them. A handle belongs to one recorder, while
//! keys also reach a recorder that is installed later, and a metric that an exporter has removed as idle.

// Tests: tests/tests/it/telemetry/metrics.rs, telemetry/gauges.rs, telemetry/scrapes.rs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use metrics::{Key, SharedString, Unit, describe_counter, describe_gauge, describe_histogram};

use self::{
    keys::{Family, change, observe},
    series::{Part, Series, Shows},
};
use super::{Kind, Label, Loss, Verb, in_a_destructor};
use crate::runtime::Runtime;

mod keys;
mod series;

/// The metrics of one lock manager.
#[derive(Debug)]
pub(super) struct Metrics {
    locks: Family,
    lock_duration: Family,
    rounds: Family,
    fence_raises: Family,
    extensions: Family,
    unlocks: Family,
    lost: Family,
    hold_duration: Key,
    held: Arc<Series>,
    nodes: Vec<Node>,
}

impl Metrics {
    pub(super) fn new(manager: Option<&Arc<str>>, nodes: &[Arc<str>]) -> Self {
        let labels: Vec<metrics::Label> = manager
            .map(|manager| metrics::Label::new("manager", SharedString::from(manager.clone())))
            .into_iter()
            .collect();
        let by_outcome = |name, outcomes: &[&'static str]| Family::new(name, "outcome", outcomes, &labels);
        let key = |name| Key::from_parts(name, labels.clone());
        Self {
            locks: by_outcome(LOCKS, &LOCK_OUTCOMES),
            lock_duration: by_outcome(LOCK_DURATION, &LOCK_OUTCOMES),
            rounds: by_outcome(ROUNDS, &["won", "refused", "no_quorum", "rejected", "cancelled"]),
            fence_raises: by_outcome(FENCE_RAISES, &["done", "again", "failed"]),
            extensions: by_outcome(EXTENSIONS, &["extended", "lost", "no_quorum", "rejected", "cancelled"]),
            unlocks: by_outcome(UNLOCKS, &UNLOCK_OUTCOMES),
            lost: Family::new(LOST, "reason", &[Loss::Expired, Loss::Gone].map(|loss| loss.label()), &labels),
            hold_duration: key(HOLD_DURATION),
            held: Series::shared(Shows::Held { oldest: key(OLDEST_LOCK), number: key(LOCKS_HELD) }),
            nodes: nodes.iter().map(|node| Node::new(node, &labels)).collect(),
        }
    }

    /// Describes all of them, and shows them at zero: an alert on the increase of a counter would miss the first
    /// one of a new series.
    pub(super) fn built(&self) {
        describe();
        for family in
            [&self.locks, &self.rounds, &self.fence_raises, &self.extensions, &self.unlocks, &self.lost]
        {
            family.show_zero();
        }
        self.held.show();
        self.nodes.iter().for_each(Node::built);
    }

    pub(super) fn ended(&self, kind: Kind, outcome: &'static str, took: Duration) {
        match kind {
            Kind::Lock => {
                self.locks.count(outcome);
                observe(&self.lock_duration.key(outcome), took);
            }
            Kind::Extend => self.extensions.count(outcome),
            Kind::Unlock => self.unlocked(outcome),
        }
    }

    /// Only rounds for a lock: extending and unlocking are one round each.
    pub(super) fn round(&self, verb: Verb, outcome: &'static str) {
        if verb == Verb::Acquire {
            self.rounds.count(outcome);
        }
    }

    pub(super) fn raised(&self, outcome: &'static str) {
        self.fence_raises.count(outcome);
    }

    pub(super) fn unlocked(&self, outcome: &'static str) {
        self.unlocks.count(outcome);
    }

    pub(super) fn lost(&self, loss: Loss) {
        self.lost.count(loss.label());
    }

    pub(super) fn held(&self, duration: Duration) {
        observe(&self.hold_duration, duration);
    }

    /// A lock is held from now on.
    pub(super) fn hold(&self, clock: &dyn Runtime) -> Hold {
        let since = u64::try_from(clock.unix_time().as_micros()).unwrap_or(u64::MAX);
        Hold(Part::of(self.held.clone(), since))
    }

    pub(super) fn answered(&self, node: usize, verb: Verb, outcome: &'static str, took: Duration) {
        let node = &self.nodes[node];
        node.requests[verb as usize].count(outcome);
        observe(&node.request_duration, took);
    }

    /// The node has begun to fail, or to serve; `serves` reads which.
    pub(super) fn turned(&self, node: usize, serves: impl Fn() -> bool) {
        self.nodes[node].health.set(|| serves().into());
    }

    pub(super) fn pending_releases(&self, node: usize, before: usize, after: usize) {
        self.nodes[node].pending.add(after as i64 - before as i64);
    }
}

/// A lock that is held, as long as this lives.
#[derive(Debug)]
pub(super) struct Hold(Part);

impl Hold {
    /// It is held no longer. Only the first time changes anything.
    pub(super) fn end(&self) {
        self.0.remove();
    }
}

#[derive(Debug)]
struct Node {
    /// By verb.
    requests: [Family; 5],
    request_duration: Key,
    pending: PendingReleases,
    health: Part,
}

impl Node {
    fn new(node: &Arc<str>, labels: &[metrics::Label]) -> Self {
        let mut own = vec![metrics::Label::new("node", SharedString::from(node.clone()))];
        own.extend_from_slice(labels);
        let key = |name| Key::from_parts(name, own.clone());
        let requests = VERBS.map(|verb| {
            let mut of_verb = own.clone();
            of_verb.insert(1, metrics::Label::from_static_parts("verb", verb.label()));
            let answers =
                if verb == Verb::Release { ["removed", "not_held"] } else { ["granted", "refused"] };
            let outcomes = [&answers[..], &["indeterminate", "transient", "rejected"]].concat();
            Family::new(REQUESTS, "outcome", &outcomes, &of_verb)
        });
        Self {
            requests,
            request_duration: key(REQUEST_DURATION),
            pending: PendingReleases { key: key(PENDING_RELEASES), number: AtomicI64::new(0) },
            health: Part::new(Series::shared(Shows::Healthy(key(NODE_HEALTHY)))),
        }
    }

    /// A node is taken to serve until it fails.
    fn built(&self) {
        self.requests.iter().for_each(Family::show_zero);
        change(&self.pending.key, 0.0);
        self.health.set(|| true.into());
    }
}

/// A node's part of the gauge. It changes by differences, since two lock managers of one process may have the
/// same nodes.
#[derive(Debug)]
struct PendingReleases {
    key: Key,
    number: AtomicI64,
}

impl PendingReleases {
    fn add(&self, more: i64) {
        if more != 0 {
            self.number.fetch_add(more, Ordering::Relaxed);
            change(&self.key, more as f64);
        }
    }
}

impl Drop for PendingReleases {
    /// Pending releases end with their runtime.
    fn drop(&mut self) {
        in_a_destructor(|| self.add(-self.number.load(Ordering::Relaxed)));
    }
}

fn describe() {
    describe_counter!(LOCKS, "Calls of lock, try_lock and using, by outcome");
    describe_histogram!(LOCK_DURATION, Unit::Seconds, "How long these calls took, waiting included");
    describe_counter!(ROUNDS, "Rounds that asked all nodes for a lock, by outcome");
    describe_counter!(FENCE_RAISES, "Second trips of rounds, to agree on a fencing token, by outcome");
    describe_counter!(EXTENSIONS, "Extensions of locks that are held, by outcome");
    describe_counter!(UNLOCKS, "Locks that were released, by outcome");
    describe_counter!(LOST, "Locks that ended before they were released, by reason");
    describe_histogram!(HOLD_DURATION, Unit::Seconds, "How long locks were held");
    describe_gauge!(LOCKS_HELD, "Locks that are held now");
    describe_gauge!(OLDEST_LOCK, Unit::Seconds, "Since when the oldest of them is held, 0 for none");
    describe_counter!(REQUESTS, "Requests to a node, by verb and outcome");
    describe_histogram!(REQUEST_DURATION, Unit::Seconds, "How long a node took for its answer");
    describe_gauge!(NODE_HEALTHY, "1 if a node answers, 0 after a request that it did not serve");
    describe_gauge!(PENDING_RELEASES, "Releases that a node has not confirmed, and is asked for again");
}

/// In the order of their numbers.
const VERBS: [Verb; 5] = [Verb::Acquire, Verb::Extend, Verb::Raise, Verb::Replace, Verb::Release];
const LOCK_OUTCOMES: [&str; 6] = ["granted", "contended", "no_quorum", "rejected", "invalid", "cancelled"];
const UNLOCK_OUTCOMES: [&str; 7] =
    ["released", "kept", "not_held", "no_quorum", "rejected", "cancelled", "dropped"];

const LOCKS: &str = "redlock_locks_total";
const LOCK_DURATION: &str = "redlock_lock_duration_seconds";
const ROUNDS: &str = "redlock_rounds_total";
const FENCE_RAISES: &str = "redlock_fence_raises_total";
const EXTENSIONS: &str = "redlock_extensions_total";
const UNLOCKS: &str = "redlock_unlocks_total";
const LOST: &str = "redlock_lost_total";
const HOLD_DURATION: &str = "redlock_hold_duration_seconds";
const LOCKS_HELD: &str = "redlock_locks_held";
const OLDEST_LOCK: &str = "redlock_oldest_lock_timestamp_seconds";
const REQUESTS: &str = "redlock_node_requests_total";
const REQUEST_DURATION: &str = "redlock_node_request_duration_seconds";
const NODE_HEALTHY: &str = "redlock_node_healthy";
const PENDING_RELEASES: &str = "redlock_pending_releases";
