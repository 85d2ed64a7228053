//! Waiting for the nodes to report that a lost round is worth another one.

// Tests: wake.rs for what decides; tests/tests/it/sim/watching.rs.

use std::{future::pending, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand::RngExt as _;

use crate::{
    nodes::Nodes,
    reply::NodeReply,
    resources::Resources,
    validity::MAX_TTL,
    wake::{Rivals, Wake},
};

/// Completes when another round may be won, after one with these replies; never if the nodes cannot tell.
/// `trip` is how long a round takes.
///
/// All who wait are woken at once. So each picks a moment at random, listens until then, and does not try if
/// another one was faster. Who has no rivals tries at once.
pub(crate) async fn until_free(
    nodes: &Nodes,
    resources: &Resources,
    replies: &[NodeReply],
    rivals: &mut Rivals,
    trip: Duration,
) {
    let Some(wake) = Wake::after(replies) else { return pending().await };
    reported(nodes, resources, wake.clone()).await;
    loop {
        let window = rivals.window(trip);
        if window.is_zero() {
            return;
        }
        let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        let moment = nodes.with_entropy(|rng| rng.random_range(0..=nanos));
        nodes.runtime().sleep(Duration::from_nanos(moment)).await;
        let looked = nodes.now();
        reported(nodes, resources, wake.forget()).await;
        if nodes.now().saturating_duration_since(looked) <= AT_ONCE.max(2 * trip) {
            return;
        }
        rivals.won();
    }
}

async fn reported(nodes: &Nodes, resources: &Resources, mut wake: Wake) {
    let watch = |node| async move { nodes.get(node).watch(resources, LONGEST).await.then_some(node) };
    let mut watching: FuturesUnordered<_> = wake.unknown().map(watch).collect();
    while !wake.is_due() {
        match watching.next().await {
            Some(reported) => reported.into_iter().for_each(|node| wake.report(node)),
            None => return pending().await,
        }
    }
}

/// A look that takes no longer finds the keys as they are.
const AT_ONCE: Duration = Duration::from_millis(1);
/// The wait ends before, with its delay.
const LONGEST: Duration = MAX_TTL;
