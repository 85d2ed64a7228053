//! The notes of locks on the nodes: written and removed in the background, and read for whoever was
//! refused.

// Tests: tests/tests/it/sim/notes.rs.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{Either, join_all, select},
    stream::FuturesUnordered,
};

use crate::{
    claim::Claim,
    inspect::Holder,
    nodes::Nodes,
    note::Note,
    reply::{NodeOutcome, NodeReply},
    resources::Resources,
    runtime::BoxFuture,
};

/// Sends the claim's note to the nodes, if it has one, behind what has been sent to them. It completes in
/// the background, and says nothing about the lock. They keep it for as long as the keys live by now.
pub(crate) async fn write(nodes: &Arc<Nodes>, claim: &Arc<Claim>) {
    send(nodes, claim, true).await;
}

/// Sends the removal of the claim's note, if it has one.
pub(crate) async fn remove(nodes: &Arc<Nodes>, claim: &Arc<Claim>) {
    send(nodes, claim, false).await;
}

/// As [`remove`], from a destructor.
pub(crate) fn remove_later(nodes: &Arc<Nodes>, claim: &Arc<Claim>) {
    if claim.note.is_some() {
        nodes.runtime().spawn(request(nodes, claim, false));
    }
}

async fn send(nodes: &Arc<Nodes>, claim: &Arc<Claim>, writes: bool) {
    if claim.note.is_none() {
        return;
    }
    let mut request = request(nodes, claim, writes);
    if poll_fn(|cx| Poll::Ready(request.poll_unpin(cx))).await.is_pending() {
        nodes.runtime().spawn(request);
    }
}

/// Each node gets it once, unless it is silent: then its requests would only pile up.
fn request(nodes: &Arc<Nodes>, claim: &Arc<Claim>, writes: bool) -> BoxFuture<()> {
    let (nodes, claim) = (nodes.clone(), claim.clone());
    Box::pin(async move {
        let timeout = nodes.timeout(claim.ledger.ttl());
        let note = claim.note.as_ref().filter(|_| writes).map(Note::as_str);
        let asked = (0..nodes.len()).map(|node| nodes.get(node)).filter(|node| !node.is_silent());
        let asked = asked.map(|node| node.annotate(&claim, note, timeout));
        select(pin!(join_all(asked)), nodes.runtime().sleep(timeout)).await;
    })
}

/// Who holds the resources, as the first node with a note says, of those that refused.
pub(crate) async fn holder(
    nodes: &Nodes,
    resources: &Resources,
    replies: &[NodeReply],
    timeout: Duration,
) -> Option<Holder> {
    let refused = replies.iter().filter(|reply| matches!(reply.outcome, NodeOutcome::Refused));
    let inspect = |reply: &NodeReply| nodes.get(reply.node).inspect(resources, timeout);
    let mut inspected: FuturesUnordered<_> = refused.map(inspect).collect();
    let found = pin!(async {
        while let Some(states) = inspected.next().await {
            if let Some(holder) = Holder::of(states) {
                return Some(holder);
            }
        }
        None
    });
    match select(found, nodes.runtime().sleep(timeout)).await {
        Either::Left((holder, _)) => holder,
        Either::Right(_) => None,
    }
}
