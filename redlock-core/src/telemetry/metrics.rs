//! Counters, a gauge and histograms. Labels are few and bounded: no names of resources.

// Tests: tests/tests/it/telemetry/metrics.rs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use metrics::{
    SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::{Kind, Label, Loss, Verb};

pub(super) fn describe() {
    describe_counter!(LOCKS, "Calls of lock, try_lock and using, by outcome");
    describe_histogram!(LOCK_DURATION, Unit::Seconds, "How long these calls took, waiting included");
    describe_counter!(ROUNDS, "Rounds that asked all nodes for a lock, by outcome");
    describe_counter!(FENCE_RAISES, "Second trips of rounds, to agree on a fencing token, by outcome");
    describe_counter!(EXTENSIONS, "Extensions of locks that are held, by outcome");
    describe_counter!(UNLOCKS, "Locks that were released, by outcome");
    describe_counter!(LOST, "Locks that ended before they were released, by reason");
    describe_histogram!(HOLD_DURATION, Unit::Seconds, "How long locks were held");
    describe_counter!(REQUESTS, "Requests to a node, by verb and outcome");
    describe_histogram!(REQUEST_DURATION, Unit::Seconds, "How long a node took for its answer");
    describe_gauge!(PENDING_RELEASES, "Releases that a node has not confirmed, and is asked for again");
    // Counted from zero: an alert on an increase would miss the first one of a new series.
    for loss in [Loss::Expired, Loss::Gone] {
        counter!(LOST, "reason" => loss.label()).increment(0);
    }
}

pub(super) fn ended(kind: Kind, outcome: &'static str, took: Duration) {
    match kind {
        Kind::Lock => {
            counter!(LOCKS, "outcome" => outcome).increment(1);
            histogram!(LOCK_DURATION, "outcome" => outcome).record(took);
        }
        Kind::Extend => counter!(EXTENSIONS, "outcome" => outcome).increment(1),
        Kind::Unlock => unlocked(outcome),
    }
}

/// Only rounds for a lock: extending and unlocking are one round each.
pub(super) fn round(verb: Verb, outcome: &'static str) {
    if verb == Verb::Acquire {
        counter!(ROUNDS, "outcome" => outcome).increment(1);
    }
}

pub(super) fn raised(outcome: &'static str) {
    counter!(FENCE_RAISES, "outcome" => outcome).increment(1);
}

pub(super) fn unlocked(outcome: &'static str) {
    counter!(UNLOCKS, "outcome" => outcome).increment(1);
}

pub(super) fn lost(loss: Loss) {
    counter!(LOST, "reason" => loss.label()).increment(1);
}

pub(super) fn held(duration: Duration) {
    histogram!(HOLD_DURATION).record(duration);
}

/// The nodes, and what each has added to the gauge.
#[derive(Debug)]
pub(super) struct Nodes(Vec<PendingReleases>);

impl Nodes {
    pub(super) fn new(labels: &[Arc<str>]) -> Self {
        let node = |label: &Arc<str>| PendingReleases { node: label.clone(), number: AtomicI64::new(0) };
        Self(labels.iter().map(node).collect())
    }

    pub(super) fn answered(&self, node: usize, verb: Verb, outcome: &'static str, took: Duration) {
        let node = SharedString::from(self.0[node].node.clone());
        counter!(REQUESTS, "node" => node.clone(), "verb" => verb.label(), "outcome" => outcome).increment(1);
        histogram!(REQUEST_DURATION, "node" => node).record(took);
    }

    pub(super) fn pending_releases(&self, node: usize, before: usize, after: usize) {
        self.0[node].add(after as i64 - before as i64);
    }
}

/// A node's part of the gauge. It changes by differences, since two lock managers of one process may have the
/// same nodes.
#[derive(Debug)]
struct PendingReleases {
    node: Arc<str>,
    number: AtomicI64,
}

impl PendingReleases {
    fn add(&self, more: i64) {
        if more != 0 {
            self.number.fetch_add(more, Ordering::Relaxed);
            gauge!(PENDING_RELEASES, "node" => SharedString::from(self.node.clone())).increment(more as f64);
        }
    }
}

impl Drop for PendingReleases {
    /// Pending releases end with their runtime.
    fn drop(&mut self) {
        self.add(-self.number.load(Ordering::Relaxed));
    }
}

const LOCKS: &str = "redlock_locks_total";
const LOCK_DURATION: &str = "redlock_lock_duration_seconds";
const ROUNDS: &str = "redlock_rounds_total";
const FENCE_RAISES: &str = "redlock_fence_raises_total";
const EXTENSIONS: &str = "redlock_extensions_total";
const UNLOCKS: &str = "redlock_unlocks_total";
const LOST: &str = "redlock_lost_total";
const HOLD_DURATION: &str = "redlock_hold_duration_seconds";
const REQUESTS: &str = "redlock_node_requests_total";
const REQUEST_DURATION: &str = "redlock_node_request_duration_seconds";
const PENDING_RELEASES: &str = "redlock_pending_releases";
