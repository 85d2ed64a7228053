//! Waiting for the nodes to report that a lost round is worth another one.

// Tests: wake.rs and rivals.rs for what decides; tests/tests/it/sim/watching.rs, sim/rivals.rs.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand::RngExt as _;

use crate::{
    nodes::Nodes, reply::NodeReply, resources::Resources, rivals::Rivals, validity::MAX_TTL, wake::Wake,
};

/// Completes when another round may be won, after one with these replies; never if the nodes cannot tell.
///
/// All who wait are woken at once. So each has its moment, and does not try if another one was faster. Who
/// has no rivals tries at once.
pub(crate) async fn until_free(
    nodes: &Nodes,
    resources: &Resources,
    replies: &[NodeReply],
    rivals: &mut Rivals,
) {
    let Some(wake) = Wake::after(replies) else { return pending().await };
    if !reported(nodes, resources, wake.clone(), rivals).await {
        return pending().await;
    }
    rivals.released();
    let moment = moment(nodes, rivals);
    until_its_moment(nodes, resources, &wake, rivals, moment).await;
}

/// For a call that begins at `now`: its rivals, and for how long they come first, if this client has just
/// released the lock. With its request right behind the release, it would win every time.
pub(crate) fn others_first(nodes: &Nodes, resources: &Resources, now: Instant) -> Option<(Rivals, Duration)> {
    let (rivals, released) = nodes.usual_rivals.after_release(resources)?;
    let left = moment(nodes, &rivals).checked_sub(now.saturating_duration_since(released))?;
    (!left.is_zero()).then_some((rivals, left))
}

/// Completes when a round may be won by a call that lets others go first for so long.
pub(crate) async fn after_others(nodes: &Nodes, resources: &Resources, rivals: &mut Rivals, left: Duration) {
    until_its_moment(nodes, resources, &Wake::unknown_of(nodes.len()), rivals, left).await;
}

async fn until_its_moment(
    nodes: &Nodes,
    resources: &Resources,
    wake: &Wake,
    rivals: &mut Rivals,
    mut left: Duration,
) {
    while !left.is_zero() {
        nodes.runtime().sleep(left).await;
        let looked = nodes.now();
        // Nodes that cannot tell are asked for the lock itself.
        if !reported(nodes, resources, wake.forget(), rivals).await
            || rivals.is_soon(nodes.now().saturating_duration_since(looked))
        {
            return;
        }
        rivals.overtaken();
        rivals.released();
        left = moment(nodes, rivals);
    }
}

/// Waits until enough nodes report that the keys may be free. Returns `false` if they cannot.
async fn reported(nodes: &Nodes, resources: &Resources, mut wake: Wake, rivals: &mut Rivals) -> bool {
    let (eager, asked) = (rivals.believes(), nodes.now());
    let watch = |node| async move {
        let node = nodes.get(node);
        // With every report verified, a client would not notice that others take turns: whenever the node reads
        // the keys, the next one has them already.
        let changed = !eager && node.watch(resources, BRISK, true).await;
        (changed || node.watch(resources, LONGEST, eager).await).then_some(node.position)
    };
    let mut watching: FuturesUnordered<_> = wake.unknown().map(watch).collect();
    while !wake.is_due() {
        match watching.next().await {
            Some(Some(node)) => {
                wake.report(node);
                let after = nodes.now().saturating_duration_since(asked);
                if eager && !wake.is_due() && rivals.tries_early(after) {
                    return true;
                }
            }
            Some(None) => {}
            None => return false,
        }
    }
    true
}

fn moment(nodes: &Nodes, rivals: &Rivals) -> Duration {
    rivals.moment(|width| nodes.with_entropy(|rng| rng.random_range(0..=width)))
}

/// An extension rarely follows the change before within this time; clients that take short turns do.
const BRISK: Duration = Duration::from_millis(100);
/// The wait ends before, with its delay.
const LONGEST: Duration = MAX_TTL;
