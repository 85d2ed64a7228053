//! The votes of one round: this collects the replies, and [`Tally`] decides.

// Tests: quorum.rs and reply.rs for what decides; tests/tests/it/sim/locking.rs, sim/one_server.rs.

use std::{sync::Arc, time::Instant};

use crate::{
    backend::{BackendError, BackendErrorKind},
    claim::Claim,
    error::{Error, RoundReport},
    fan_out::FanOut,
    nodes::Nodes,
    quorum::{Decision, LossReason, Tally},
    reply::{NodeOutcome, NodeReply},
};

/// The votes of a round, and their replies.
#[derive(Debug)]
pub(crate) struct Votes {
    nodes: Arc<Nodes>,
    tally: Tally,
    outcomes: Vec<Option<NodeOutcome>>,
    /// Whether a contended round gives up when only silent nodes could still decide it: another round is
    /// cheap then, and clients that block each other are not.
    yields_early: bool,
}

impl Votes {
    pub(crate) fn new(nodes: &Arc<Nodes>) -> Self {
        let (tally, outcomes) = (Tally::new(nodes.len()), vec![None; nodes.len()]);
        Self { nodes: nodes.clone(), tally, outcomes, yields_early: false }
    }

    pub(crate) fn yield_early(&mut self, yes: bool) {
        self.yields_early = yes;
    }

    /// Waits until the round is decided, and for a lost one until its replies are `enough`. A grant that
    /// arrives at the deadline or later does not count, and ends the round: the clock is read again for every
    /// reply, and never before it.
    pub(crate) async fn collect<T>(
        &mut self,
        fan_out: &mut FanOut<Result<T, BackendError>>,
        deadline: Option<Instant>,
        enough: impl Fn(&Tally) -> bool,
    ) -> Decision
    where
        T: Into<NodeOutcome> + Send + 'static,
    {
        while self.tally.decision() != Decision::Lost || !enough(&self.tally) {
            let replies = fan_out.next().await;
            let late = deadline.is_some_and(|deadline| self.nodes.now() >= deadline);
            let none_left = replies.is_empty();
            for (node, reply) in replies {
                let outcome = match reply.map_or_else(NodeOutcome::Failed, Into::into) {
                    NodeOutcome::Granted if late => NodeOutcome::Late,
                    NodeOutcome::Granted => self.one_vote_for_each_server(node),
                    outcome => outcome,
                };
                if let Some(vote) = outcome.vote() {
                    self.tally.count(node, vote);
                }
                self.outcomes[node] = Some(outcome);
            }
            match self.tally.decision() {
                Decision::Won => return Decision::Won,
                Decision::Lost | Decision::Open if late || none_left || self.should_give_up() => break,
                Decision::Lost | Decision::Open => {}
            }
        }
        Decision::Lost
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The nodes that refused.
    pub(crate) fn refused(&self) -> impl Iterator<Item = usize> {
        let refused = |(node, outcome): (usize, &Option<NodeOutcome>)| {
            matches!(outcome, Some(NodeOutcome::Refused)).then_some(node)
        };
        self.outcomes.iter().enumerate().filter_map(refused)
    }

    /// The replies for the user; nodes without a reply are pending.
    pub(crate) fn replies(&self) -> Vec<NodeReply> {
        let reply = |(node, outcome): (usize, &Option<NodeOutcome>)| NodeReply {
            node,
            name: self.nodes.get(node).name().map(ToOwned::to_owned),
            outcome: outcome.clone().unwrap_or(NodeOutcome::Pending),
        };
        self.outcomes.iter().enumerate().map(reply).collect()
    }

    pub(crate) fn lost(&self) -> LostRound {
        LostRound {
            reason: self.tally.loss_reason(),
            no_quorum_holds: self.tally.no_quorum_holds(),
            attempts: 1,
            replies: self.replies(),
        }
    }

    fn should_give_up(&self) -> bool {
        self.yields_early && self.tally.should_give_up(|node| self.nodes.get(node).is_silent())
    }

    /// The vote of a node that grants. Of the nodes that lead to one server, the first to grant has its vote:
    /// with two votes, a majority of nodes could be a minority of servers. Keys on the others are removed as
    /// if they had voted.
    fn one_vote_for_each_server(&self, node: usize) -> NodeOutcome {
        let Some(server) = self.nodes.get(node).server_id() else { return NodeOutcome::Granted };
        let has_voted = |other: &usize| {
            matches!(self.outcomes[*other], Some(NodeOutcome::Granted))
                && self.nodes.get(*other).server_id().as_ref() == Some(&server)
        };
        match (0..self.nodes.len()).find(has_voted) {
            Some(other) => {
                self.nodes.telemetry().shares_server(node, other);
                NodeOutcome::Failed(self.same_server(other))
            }
            None => NodeOutcome::Granted,
        }
    }

    /// Why a node has no vote when its server has voted over another node.
    fn same_server(&self, other: usize) -> BackendError {
        let name = self.nodes.get(other).name();
        let other = name.map_or_else(|| format!("node {other}"), ToOwned::to_owned);
        let message =
            format!("the same server as {other}, which has voted: each node needs a server of its own");
        BackendError::new(BackendErrorKind::Rejected, message)
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
        Box::new(RoundReport { resources, attempts: self.attempts, replies: self.replies })
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

/// Whether a lost round is conclusive for a holder, who has to know whether the lock is lost. The last reply
/// may be the first to show it.
pub(crate) fn is_conclusive(tally: &Tally) -> bool {
    tally.no_quorum_holds() || tally.loss_reason() == LossReason::Rejected
}
