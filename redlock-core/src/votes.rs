//! The votes of one round: this collects the replies, and [`Tally`] decides.

// Tests: quorum.rs and reply.rs for what decides; tests/tests/it/sim/locking.rs, sim/one_server.rs,
// sim/restart_guard.rs.

use std::{mem, num::NonZeroU64, sync::Arc, time::Instant};

use crate::{
    backend::{BackendError, BackendErrorKind},
    claim::Claim,
    error::{Error, RoundReport},
    fan_out::FanOut,
    fence::{RaiseTally, Raised},
    nodes::Nodes,
    quorum::{Decision, LossReason, Tally},
    reply::{NodeOutcome, NodeReply},
};

/// The votes of a round, and their replies.
#[derive(Debug)]
pub(crate) struct Votes {
    nodes: Arc<Nodes>,
    tally: Tally,
    /// In the order in which they came.
    replies: Vec<NodeReply>,
    /// Whether a contended round gives up when only silent nodes could still decide it: another round is
    /// cheap then, and clients that block each other are not.
    yields_early: bool,
    /// Whether a node has to be [admitted](Nodes::admission) to vote.
    admits: bool,
    /// The clock at the last replies, if there is a deadline.
    read: Option<Instant>,
}

impl Votes {
    pub(crate) fn new(nodes: &Arc<Nodes>) -> Self {
        Self {
            nodes: nodes.clone(),
            tally: Tally::new(nodes.len()),
            replies: Vec::with_capacity(nodes.len()),
            yields_early: false,
            admits: false,
            read: None,
        }
    }

    /// The votes of a round that acquires: a node may have forgotten that somebody else has the lock.
    pub(crate) fn of_acquire(nodes: &Arc<Nodes>) -> Self {
        Self { admits: true, ..Self::new(nodes) }
    }

    /// As [`Votes::of_acquire`], and it needs a fencing token.
    pub(crate) fn of_fenced_acquire(nodes: &Arc<Nodes>) -> Self {
        let tally = Tally::with_quorum(nodes.len(), nodes.fence_quorum());
        Self { tally, ..Self::of_acquire(nodes) }
    }

    /// Lets every node vote, since a grant shows that it has not forgotten the lock.
    pub(crate) fn admit_all(&mut self) {
        self.admits = false;
    }

    pub(crate) fn yield_early(&mut self, yes: bool) {
        self.yields_early = yes;
    }

    /// Waits until the round is decided, if it is not yet, and for a lost one until its replies are `enough`. A
    /// grant that arrives at the deadline or later does not count, and ends the round: the clock is read again
    /// for every reply, and never before it.
    pub(crate) async fn collect(
        &mut self,
        fan_out: &mut FanOut,
        deadline: Option<Instant>,
        enough: impl Fn(&Tally) -> bool,
    ) -> Decision {
        loop {
            match self.tally.decision() {
                Decision::Won => return Decision::Won,
                Decision::Lost if enough(&self.tally) => return Decision::Lost,
                Decision::Lost | Decision::Open => {}
            }
            let more = self.receive(fan_out, deadline).await;
            let won = self.tally.decision() == Decision::Won;
            if !won && (!more || self.should_give_up()) {
                return Decision::Lost;
            }
        }
    }

    /// Waits until it is decided whether the nodes have raised their counters to `to`, in place of the replies so
    /// far. A reply counts here if it would count there.
    pub(crate) async fn collect_raise(
        &mut self,
        fan_out: &mut FanOut,
        deadline: Instant,
        to: NonZeroU64,
    ) -> Raised {
        self.replies.clear();
        self.tally = self.tally.again();
        let mut raise = RaiseTally::new(to, self.nodes.len(), self.nodes.fence_quorum());
        loop {
            let counted = self.replies.len();
            let more = self.receive(fan_out, Some(deadline)).await;
            self.replies[counted..].iter().for_each(|reply| raise.count(reply.fence));
            match raise.decision() {
                Raised::Open if more => {}
                Raised::Open => return Raised::Failed,
                decided => return decided,
            }
        }
    }

    /// The counters of the nodes that granted, and have a vote.
    pub(crate) fn counters(&self) -> Vec<NonZeroU64> {
        self.replies.iter().filter_map(|reply| reply.fence).collect()
    }

    /// Waits for more replies, and counts their votes. Returns `false` when no other can count: none are left,
    /// or the deadline has passed.
    async fn receive(&mut self, fan_out: &mut FanOut, deadline: Option<Instant>) -> bool {
        let counted = self.replies.len();
        let none_left = !fan_out.next(&mut self.replies).await;
        self.read = deadline.map(|_| self.nodes.now());
        let late = self.read.zip(deadline).is_some_and(|(now, deadline)| now >= deadline);
        for reply in counted..self.replies.len() {
            if let NodeOutcome::Granted = self.replies[reply].outcome {
                let outcome = if late { NodeOutcome::Late } else { self.vote_of_a_grant(reply) };
                if !matches!(outcome, NodeOutcome::Granted) {
                    self.replies[reply].fence = None;
                }
                self.replies[reply].outcome = outcome;
            }
            if let Some(vote) = self.replies[reply].outcome.vote() {
                self.tally.count(vote);
            }
        }
        !(late || none_left)
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The clock at the decision, if there was a deadline.
    pub(crate) fn decided(&self) -> Option<Instant> {
        self.read
    }

    /// The nodes that refused.
    pub(crate) fn refused(&self) -> Vec<usize> {
        let refused = |reply: &&NodeReply| matches!(reply.outcome, NodeOutcome::Refused);
        self.replies.iter().filter(refused).map(|reply| reply.node).collect()
    }

    /// The replies for the user, by node; nodes without a reply are pending.
    pub(crate) fn take_replies(&mut self) -> Vec<NodeReply> {
        let mut replies = mem::take(&mut self.replies);
        for node in 0..self.nodes.len() {
            if replies.iter().all(|reply| reply.node != node) {
                let name = self.nodes.get(node).name.clone();
                replies.push(NodeReply { node, name, outcome: NodeOutcome::Pending, fence: None });
            }
        }
        replies.sort_unstable_by_key(|reply| reply.node);
        replies
    }

    pub(crate) fn lost(&mut self) -> LostRound {
        LostRound {
            reason: self.tally.loss_reason(),
            no_quorum_holds: self.tally.no_quorum_holds(),
            attempts: 1,
            replies: self.take_replies(),
        }
    }

    fn should_give_up(&self) -> bool {
        let is_missing = |node: &usize| self.replies.iter().all(|reply| reply.node != *node);
        let is_silent = |node: &usize| is_missing(node) && self.nodes.get(*node).is_silent();
        self.yields_early && self.tally.should_give_up((0..self.nodes.len()).filter(is_silent).count())
    }

    /// The vote of a node that grants. Where it has none, its keys are removed as if it had.
    fn vote_of_a_grant(&self, reply: usize) -> NodeOutcome {
        let node = self.nodes.get(self.replies[reply].node);
        let server = node.server();
        if self.admits {
            let admission = self.nodes.admission();
            if let Some(server) = &server {
                self.nodes.telemetry().runs_on(node.position, admission.risks(server));
            }
            if admission.is_needed() {
                let admitted = admission.check(|| node.uptime(), server.as_deref());
                let failed = admitted.as_ref().err();
                self.nodes.telemetry().admitted(&**self.nodes.runtime(), node.position, failed);
                if let Err(error) = admitted {
                    return NodeOutcome::Failed(error);
                }
            }
        }
        self.one_vote_for_each_server(reply, server.as_deref().and_then(|server| server.id.as_ref()))
    }

    /// Of the nodes that lead to one server, the first to grant has its vote: with two votes, a majority of nodes
    /// could be a minority of servers.
    fn one_vote_for_each_server(&self, reply: usize, id: Option<&Arc<str>>) -> NodeOutcome {
        let Some(id) = id else { return NodeOutcome::Granted };
        let has_voted = |other: &&NodeReply| {
            matches!(other.outcome, NodeOutcome::Granted)
                && self.nodes.get(other.node).server().is_some_and(|server| server.id.as_ref() == Some(id))
        };
        match self.replies[..reply].iter().find(has_voted) {
            Some(other) => {
                self.nodes.telemetry().shares_server(self.replies[reply].node, other.node);
                NodeOutcome::Failed(same_server(other))
            }
            None => NodeOutcome::Granted,
        }
    }
}

/// A round that a quorum did not support.
#[derive(Debug)]
pub(crate) struct LostRound {
    pub(crate) reason: LossReason,
    /// So many nodes do not hold the keys that no quorum holds them.
    pub(crate) no_quorum_holds: bool,
    pub(crate) attempts: u32,
    pub(crate) replies: Vec<NodeReply>,
}

impl LostRound {
    /// No node was asked: the validity had ended.
    pub(crate) fn lapsed() -> Self {
        Self { reason: LossReason::Refused, no_quorum_holds: true, attempts: 0, replies: Vec::new() }
    }

    pub(crate) fn report(self, claim: &Claim) -> Box<RoundReport> {
        let resources = claim.resources.clone();
        Box::new(RoundReport { resources, attempts: self.attempts, replies: self.replies, holder: None })
    }

    /// The error of a call that locks.
    pub(crate) fn into_acquire_error(self, claim: &Claim) -> Error {
        match self.reason {
            LossReason::Refused => Error::Contended(self.report(claim)),
            LossReason::NoQuorum => Error::NoQuorum(self.report(claim)),
            LossReason::Rejected => Error::Rejected(self.report(claim)),
        }
    }

    /// The error of a call on a lock that is, or was, held.
    pub(crate) fn into_holder_error(self, claim: &Claim) -> Error {
        match self.reason {
            _ if self.no_quorum_holds => Error::Lost(self.report(claim)),
            LossReason::Rejected => Error::Rejected(self.report(claim)),
            // A quorum replied, but without a decision: it depends on the silent nodes.
            LossReason::Refused | LossReason::NoQuorum => Error::NoQuorum(self.report(claim)),
        }
    }
}

/// Why a node has no vote when its server has voted over another node.
fn same_server(other: &NodeReply) -> BackendError {
    let other = other.name.as_deref().map_or_else(|| format!("node {}", other.node), ToOwned::to_owned);
    let message = format!("the same server as {other}, which has voted: each node needs a server of its own");
    BackendError::new(BackendErrorKind::Rejected, message)
}

/// Whether a lost round is conclusive for a holder, who has to know whether the lock is lost. The last reply
/// may be the first to show it.
pub(crate) fn is_conclusive(tally: &Tally) -> bool {
    tally.no_quorum_holds() || tally.loss_reason() == LossReason::Rejected
}
