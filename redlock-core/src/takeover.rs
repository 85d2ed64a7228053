//! Taking over a lock from another process.

// Tests: tests/tests/it/sim/handover.rs, servers/handover.rs.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use crate::{
    claim::Claim,
    error::Error,
    nodes::Nodes,
    note::Note,
    quorum::Decision,
    resources::Resources,
    rounds::{AcquireRound, Fence, WonRound},
    telemetry::Verb,
    token::Token,
    validity::Ttl,
    votes::is_conclusive,
};

/// A round that takes over a lock: it replaces the old token with one of its own. Once that happens on a
/// quorum, the old token is used up, and requests under way for it no longer change the lock.
///
/// When it is dropped without a win, the keys that it took are removed in the background.
#[derive(Debug)]
pub(crate) struct Takeover {
    old: Arc<Claim>,
    round: AcquireRound,
    ttl: Ttl,
    timeout: Duration,
    fence: Option<NonZeroU64>,
}

impl Takeover {
    /// The old keys may live for `longest`, and have to live for at least `ttl`. It is the same hold, so the
    /// fencing token stays.
    pub(crate) fn new(
        nodes: &Arc<Nodes>,
        resources: Resources,
        old: Token,
        fence: Option<NonZeroU64>,
        ttl: Ttl,
        longest: Ttl,
        note: Option<Note>,
    ) -> Self {
        let old = Arc::new(Claim::handed_over(resources.clone(), old, longest, nodes.len()));
        let claim = nodes.claim(resources, longest.max(ttl), note);
        let timeout = nodes.timeout(ttl);
        let ticket = nodes.waiters.outside(&claim.resources);
        let fan_out = nodes.replace_all(&claim, &old, ttl, timeout);
        let known = fence.map_or(Fence::None, Fence::Won);
        let mut round = AcquireRound::with(nodes, claim, fan_out, ttl, nodes.now(), known, ticket);
        // Those that have the old token.
        round.votes.admit_all();
        Self { old, round, ttl, timeout, fence }
    }

    pub(crate) fn claim(&self) -> Arc<Claim> {
        self.round.claim.clone()
    }

    pub(crate) async fn decide(mut self) -> Result<WonRound, Error> {
        let valid_until = Some(self.round.valid_until);
        let decision = self.round.votes.collect(&mut self.round.fan_out, valid_until, is_conclusive).await;
        if decision == Decision::Won {
            self.clear_up().await;
            return Ok(self.round.accept(Verb::Replace));
        }
        let (nodes, old) = (self.round.nodes.clone(), self.old);
        let (rollback, lost) = self.round.roll_back(Verb::Replace);
        if lost.no_quorum_holds {
            // No quorum has them, so the rest would only block all clients.
            drop(nodes.release_all(&old));
        }
        let claim = rollback.claim();
        drop(rollback.begin().await);
        Err(lost.into_holder_error(&claim))
    }

    /// Removes the old token from the nodes that did not replace it, behind the requests under way, and
    /// writes the new one on those that refused. The requests start here, and complete in the background.
    async fn clear_up(&mut self) {
        let Self { old, round, ttl, timeout, fence } = self;
        let nodes = &round.nodes;
        let refused = round.votes.refused();
        let old_ones: Vec<usize> = (0..nodes.len()).filter(|node| old.ledger.may_be_written(*node)).collect();
        nodes.release_from(old, old_ones).start(&mut Vec::new()).await;
        nodes.put_back(refused, &round.claim, *fence, *ttl, *timeout).start(&mut Vec::new()).await;
    }
}
