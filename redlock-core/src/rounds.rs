//! Rounds: requests to all nodes, which the votes decide.

// Tests: tests/tests/it/sim/locking.rs, sim/fencing.rs, sim/extending.rs, sim/releasing.rs.

use std::{
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    claim::Claim,
    fan_out::FanOut,
    fence::{AfterGrants, Raised, after_grants},
    nodes::Nodes,
    quorum::{Decision, LossReason, Tally},
    reply::NodeReply,
    telemetry::Verb,
    ticket::Ticket,
    validity::Ttl,
    votes::{LostRound, Votes, is_conclusive},
};

/// A round that acquires. It exists before the first request, so any early end rolls it back: when it is
/// dropped without a win, its keys are removed in the background.
#[derive(Debug)]
pub(crate) struct AcquireRound {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) claim: Arc<Claim>,
    pub(crate) valid_until: Instant,
    pub(crate) fan_out: FanOut,
    pub(crate) votes: Votes,
    fence: Fence,
    ticket: Ticket,
    settled: bool,
}

impl AcquireRound {
    /// `start`: the clock, read before. A node's key lives for at least the TTL from there. When the round is
    /// dropped, the ticket is passed on behind the removal of its keys. One that is `fenced` is not won without
    /// a fencing token.
    pub(crate) fn new(
        nodes: &Arc<Nodes>,
        claim: Arc<Claim>,
        start: Instant,
        timeout: Duration,
        fenced: bool,
        ticket: Ticket,
    ) -> Self {
        let ttl = claim.ledger.ttl();
        let proposal = fenced.then(|| nodes.fence_proposal());
        let fan_out = nodes.acquire_all(&claim, proposal, timeout);
        let fence = if fenced { Fence::Wanted { timeout } } else { Fence::None };
        Self::with(nodes, claim, fan_out, ttl, start, fence, ticket)
    }

    pub(crate) fn with(
        nodes: &Arc<Nodes>,
        claim: Arc<Claim>,
        fan_out: FanOut,
        ttl: Ttl,
        start: Instant,
        fence: Fence,
        ticket: Ticket,
    ) -> Self {
        let votes = if let Fence::Wanted { .. } = fence {
            Votes::of_fenced_acquire(nodes)
        } else {
            Votes::of_acquire(nodes)
        };
        let valid_until = start + nodes.drift().validity(ttl);
        Self { nodes: nodes.clone(), claim, valid_until, fan_out, votes, fence, ticket, settled: false }
    }

    /// Whether the round is won, as soon as that is certain. A round that others follow gives up early. The
    /// last one waits for silent nodes if only they can show why it was lost. It ends at `give_up`, if there is
    /// such a time and it still needs a fencing token then.
    pub(crate) async fn decide(&mut self, last: bool, give_up: Option<Instant>) -> bool {
        self.votes.yield_early(!last);
        let enough = |tally: &Tally| !last || tally.loss_reason() != LossReason::NoQuorum;
        loop {
            let won =
                self.votes.collect(&mut self.fan_out, Some(self.valid_until), enough).await == Decision::Won;
            match self.fence {
                // Boxed, as few rounds need it, and all would have room for it. When it fails, the replies to the
                // raise show why.
                Fence::Wanted { timeout } if won => Box::pin(self.make_fence(timeout, give_up)).await,
                Fence::Wanted { .. } | Fence::Failed => return false,
                Fence::None | Fence::Won(_) => return won,
            }
        }
    }

    /// Makes the fencing token of a round that a quorum has granted, or fails.
    async fn make_fence(&mut self, timeout: Duration, give_up: Option<Instant>) {
        let end = give_up.map_or(self.valid_until, |give_up| give_up.min(self.valid_until));
        let mut next = after_grants(&self.votes.counters(), self.nodes.fence_quorum());
        self.fence = loop {
            let to = match next {
                Some(AfterGrants::Done(fence)) => break Fence::Won(fence),
                Some(AfterGrants::Raise(to)) => to,
                None => break Fence::Failed,
            };
            let timeout = timeout.min(end.saturating_duration_since(self.nodes.now()));
            // Acquires without a reply yet continue in the background; the raise goes out behind them.
            self.fan_out = self.nodes.raise_all(&self.claim, to, timeout);
            let raised = self.votes.collect_raise(&mut self.fan_out, self.valid_until, to).await;
            self.nodes.telemetry().raised(&self.claim.token, raised, self.votes.tally());
            next = match raised {
                Raised::Done(fence) => Some(AfterGrants::Done(fence)),
                Raised::Again(higher) if !timeout.is_zero() => Some(AfterGrants::Raise(higher)),
                Raised::Again(_) | Raised::Open | Raised::Failed => None,
            };
        };
    }

    /// Whether the round ended because no reply could change it, not because it gave up.
    pub(crate) fn is_certain(&self) -> bool {
        self.votes.tally().is_certain()
    }

    /// Accepts a won round. Requests without a reply yet continue in the background.
    pub(crate) fn accept(mut self, verb: Verb) -> WonRound {
        self.settled = true;
        self.nodes.telemetry().round(verb, &self.claim.token, None, self.votes.tally());
        let (claim, valid_until, decided) = (self.claim.clone(), self.valid_until, self.votes.decided());
        WonRound {
            claim,
            valid_until,
            decided,
            replies: self.votes.take_replies(),
            fence: if let Fence::Won(fence) = self.fence { Some(fence) } else { None },
            ticket: self.ticket.take(),
        }
    }

    /// Removes the keys of a lost round: on all nodes, behind the acquires that are still under way.
    pub(crate) fn roll_back(mut self, verb: Verb) -> (Rollback, LostRound) {
        self.settled = true;
        let fan_out = self.nodes.release_all(&self.claim);
        let lost = self.votes.lost();
        self.nodes.telemetry().round(verb, &self.claim.token, Some(lost.reason), self.votes.tally());
        (Rollback { claim: self.claim.clone(), fan_out, ticket: self.ticket.take() }, lost)
    }
}

impl Drop for AcquireRound {
    fn drop(&mut self) {
        if !self.settled {
            drop(self.nodes.release_all(&self.claim).then_pass_on(self.ticket.take()));
            self.nodes.telemetry().round_cancelled(&self.claim.token, self.votes.tally());
        }
    }
}

/// The result of a won round.
#[derive(Debug)]
pub(crate) struct WonRound {
    pub(crate) claim: Arc<Claim>,
    pub(crate) valid_until: Instant,
    pub(crate) decided: Option<Instant>,
    pub(crate) replies: Vec<NodeReply>,
    pub(crate) fence: Option<NonZeroU64>,
    pub(crate) ticket: Ticket,
}

/// A round's fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    None,
    /// The round is not won without it; a node has `timeout` for each raise.
    Wanted {
        timeout: Duration,
    },
    Failed,
    Won(NonZeroU64),
}

/// The removal of a lost round's keys. It continues in the background when it is dropped.
#[derive(Debug)]
pub(crate) struct Rollback {
    claim: Arc<Claim>,
    fan_out: FanOut,
    ticket: Ticket,
}

impl Rollback {
    pub(crate) fn claim(&self) -> Arc<Claim> {
        self.claim.clone()
    }

    /// Sends the requests, and returns the ticket for another round.
    pub(crate) async fn begin(mut self) -> Ticket {
        self.fan_out.start(&mut Vec::new()).await;
        self.ticket
    }

    /// Waits until the nodes that are known to hold the keys have removed them.
    pub(crate) async fn settle(mut self, nodes: &Nodes) {
        self.fan_out = self.fan_out.then_pass_on(self.ticket);
        let mut open: Vec<usize> =
            (0..nodes.len()).filter(|node| self.claim.ledger.is_written(*node)).collect();
        let mut replies = Vec::new();
        self.fan_out.start(&mut replies).await;
        loop {
            open.retain(|node| replies.iter().all(|reply| reply.node != *node));
            if open.is_empty() || !self.fan_out.next(&mut replies).await {
                return;
            }
        }
    }
}

/// Extends the claim's keys, and returns the new end of the validity, and the replies. A quorum has to
/// confirm it before `deadline`; each node has at most `timeout`.
///
/// Nodes that no longer have the keys (for example, because they lost their data) get them back, but have no
/// vote. Counters that are lower than the fencing token are raised to it. A quorum had it once, so the vote
/// does not depend on how many have it now.
pub(crate) async fn extend(
    nodes: &Arc<Nodes>,
    claim: &Arc<Claim>,
    fence: Option<NonZeroU64>,
    ttl: Ttl,
    start: Instant,
    deadline: Instant,
    timeout: Duration,
) -> Result<(Instant, Vec<NodeReply>), LostRound> {
    let valid_until = start + nodes.drift().validity(ttl);
    let deadline = deadline.min(valid_until);
    let timeout = nodes.timeout(ttl).min(timeout).min(deadline.saturating_duration_since(start));
    let mut fan_out = nodes.extend_all(claim, fence, ttl, timeout);
    let mut votes = Votes::new(nodes);
    if votes.collect(&mut fan_out, Some(deadline), is_conclusive).await != Decision::Won {
        let lost = votes.lost();
        nodes.telemetry().round(Verb::Extend, &claim.token, Some(lost.reason), votes.tally());
        return Err(lost);
    }
    fan_out.put_back_where_refused();
    let refused = votes.refused();
    if !refused.is_empty() {
        // Sent here, so that a later release is behind it; it completes in the background.
        nodes.put_back(refused, claim, fence, ttl, timeout).start(&mut Vec::new()).await;
    }
    nodes.telemetry().round(Verb::Extend, &claim.token, None, votes.tally());
    Ok((valid_until, votes.take_replies()))
}

/// Returns `true` if a quorum removed the claim's keys, and `false` if no quorum held them any more.
///
/// The turn is passed on right behind the requests, so the next acquire follows them on the same connections.
pub(crate) async fn release(
    nodes: &Arc<Nodes>,
    claim: &Arc<Claim>,
    ticket: Ticket,
) -> Result<bool, LostRound> {
    let mut fan_out = nodes.release_all(claim).then_pass_on(ticket);
    let mut votes = Votes::new(nodes);
    match votes.collect(&mut fan_out, None, is_conclusive).await {
        Decision::Won => {
            nodes.telemetry().round(Verb::Release, &claim.token, None, votes.tally());
            Ok(true)
        }
        Decision::Open | Decision::Lost => {
            let lost = votes.lost();
            nodes.telemetry().round(Verb::Release, &claim.token, Some(lost.reason), votes.tally());
            if lost.no_quorum_holds { Ok(false) } else { Err(lost) }
        }
    }
}
