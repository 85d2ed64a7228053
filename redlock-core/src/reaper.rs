//! Retrying a node's pending releases, in the background.

// Tests: tests/tests/it/sim/cleanup.rs; cleanup.rs for the queue.

use std::{sync::Arc, time::Duration};

use crate::{
    backend::BackendErrorKind,
    claim::Claim,
    cleanup::{PendingRelease, Queue},
    node::Node,
    reply::NodeOutcome,
};

/// Schedules another release of the claim's keys on a node.
pub(crate) fn schedule_release(node: &Arc<Node>, claim: &Arc<Claim>) {
    let settings = &node.settings;
    let now = settings.now();
    let due = now + settings.timeout(claim.ledger.ttl()).min(MAX_PAUSE);
    let pending = PendingRelease::new(claim.clone(), now, due);
    if let Some(shift) = with_queue(node, |queue| queue.add(pending, now)) {
        let reaper = Reaper { node: node.clone(), shift };
        settings.runtime.spawn(Box::pin(reaper.run()));
    }
}

/// Retries one node's pending releases, one after the other, and less and less often while it does not reply.
struct Reaper {
    node: Arc<Node>,
    shift: u64,
}

impl Reaper {
    async fn run(self) {
        let (node, settings) = (&self.node, &self.node.settings);
        let mut pause = Duration::ZERO;
        loop {
            let now = settings.now();
            let Some(mut pending) = with_queue(node, |queue| queue.first(self.shift, now)) else {
                break;
            };
            let early = pending.due.saturating_duration_since(now);
            if !early.is_zero() {
                settings.runtime.sleep(early).await;
                continue;
            }
            let timeout = settings.timeout(pending.claim.ledger.ttl());
            with_queue(node, |queue| queue.go(self.shift, now + timeout));
            match node.release(&pending.claim).await {
                NodeOutcome::Failed(error) => {
                    pause = match error.kind() {
                        // A person has to fix it, which takes time.
                        BackendErrorKind::Rejected => MAX_PAUSE,
                        BackendErrorKind::Indeterminate | BackendErrorKind::Transient => {
                            (pause * 2).clamp(timeout.min(MAX_PAUSE), MAX_PAUSE)
                        }
                    };
                    if pending.claim.ledger.is_unsettled(node.position) {
                        pending.keys_may_come_now(settings.now());
                    }
                    with_queue(node, |queue| queue.postpone(pending));
                    settings.runtime.sleep(pause).await;
                }
                _ => {
                    with_queue(node, |queue| queue.settle(&pending));
                    pause = Duration::ZERO;
                }
            }
        }
    }
}

impl Drop for Reaper {
    /// A task that is dropped halfway leaves the rest to the next one.
    fn drop(&mut self) {
        with_queue(&self.node, |queue| queue.end(self.shift));
    }
}

/// Reads or changes a node's queue.
fn with_queue<T>(node: &Node, change: impl FnOnce(&mut Queue) -> T) -> T {
    let (output, before, after) = node.cleanup.with(change);
    node.telemetry.pending_releases(node.position, before, after);
    output
}

/// The longest pause for a node that does not reply.
const MAX_PAUSE: Duration = Duration::from_secs(1);
