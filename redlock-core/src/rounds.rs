//! Rounds: all nodes are asked, and the votes decide. The deciding is in [`Tally`]; here is the waiting.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    backend::{AcquireReply, BackendError, ReleaseReply},
    claim::Claim,
    error::{Error, RoundReport},
    fan_out::FanOut,
    nodes::Nodes,
    quorum::{Decision, LossReason, Tally},
    reply::{NodeOutcome, NodeReply},
    resources::Resources,
    runtime::BoxFuture,
    telemetry::{self, Verb},
    token::Token,
    validity::Ttl,
};

/// A round that acquires. Made before the first request, so that whatever ends it early also undoes it: when
/// it is dropped without having been won, its keys are removed in the background.
#[derive(Debug)]
pub(crate) struct AcquireRound {
    nodes: Arc<Nodes>,
    claim: Arc<Claim>,
    valid_until: Instant,
    fan: FanOut<Result<AcquireReply, BackendError>>,
    votes: Votes,
    settled: bool,
}

impl AcquireRound {
    pub(crate) fn new(nodes: &Arc<Nodes>, resources: Resources, ttl: Ttl, timeout: Duration) -> Self {
        let claim = nodes.claim(resources, ttl);
        let fan = nodes.acquire_all(&claim, timeout);
        Self::with(nodes, claim, fan, ttl)
    }

    fn with(
        nodes: &Arc<Nodes>,
        claim: Arc<Claim>,
        fan: FanOut<Result<AcquireReply, BackendError>>,
        ttl: Ttl,
    ) -> Self {
        let votes = Votes::new(nodes);
        // Read before the first request: a node's key lives at least as long as counted from here.
        let valid_until = nodes.now() + nodes.drift.validity(ttl);
        Self { nodes: nodes.clone(), claim, valid_until, fan, votes, settled: false }
    }

    /// Whether the round is won, as soon as that is certain. A round that others follow is given up early; in
    /// the last one the silent nodes are waited for when nothing else says why it was lost.
    pub(crate) async fn decide(&mut self, last: bool) -> bool {
        self.votes.yields_early = !last;
        let enough = |tally: &Tally| !last || tally.defeat() != LossReason::NoQuorum;
        self.votes.collect(&mut self.fan, Some(self.valid_until), enough).await == Decision::Won
    }

    /// Whether the round ended because nothing more could change it, and not because it was given up.
    pub(crate) fn is_certain(&self) -> bool {
        self.votes.tally.is_certain()
    }

    /// Accepts a round that was won. Nodes that have not answered yet are heard in the background.
    pub(crate) fn accept(mut self, verb: Verb) -> (Arc<Claim>, Instant, Vec<NodeReply>) {
        self.settled = true;
        let answers = self.votes.answers();
        telemetry::round(verb, &self.claim.token, None, &self.votes.tally);
        (self.claim.clone(), self.valid_until, answers)
    }

    /// Removes the keys of a round that was lost: on all nodes, behind the acquires that are still under way.
    pub(crate) fn undo(mut self, verb: Verb) -> (Rollback, LostRound) {
        self.settled = true;
        let fan = self.nodes.release_all(&self.claim);
        let defeated = self.votes.defeated();
        telemetry::round(verb, &self.claim.token, Some(defeated.defeat), &self.votes.tally);
        (Rollback { claim: self.claim.clone(), fan }, defeated)
    }
}

impl Drop for AcquireRound {
    fn drop(&mut self) {
        if !self.settled {
            drop(self.nodes.release_all(&self.claim));
            telemetry::round_cancelled(&self.claim.token, &self.votes.tally);
        }
    }
}

/// The removal of a lost round's keys. What is not waited for goes on in the background.
#[derive(Debug)]
pub(crate) struct Rollback {
    claim: Arc<Claim>,
    fan: FanOut<Result<ReleaseReply, BackendError>>,
}

impl Rollback {
    pub(crate) fn claim(&self) -> Arc<Claim> {
        self.claim.clone()
    }

    /// Sends the requests.
    pub(crate) async fn begin(mut self) {
        self.fan.start().await;
    }

    /// Waits until the keys are removed from the nodes that are known to hold them.
    pub(crate) async fn settle(mut self, nodes: &Nodes) {
        let mut open: Vec<usize> =
            (0..nodes.len()).filter(|node| self.claim.ledger.is_written(*node)).collect();
        let mut heard = self.fan.start().await;
        loop {
            open.retain(|node| !heard.iter().any(|(answered, _)| answered == node));
            if open.is_empty() {
                return;
            }
            heard = self.fan.next().await;
        }
    }
}

/// A round that takes over a lock that was handed over: it puts a token of its own in the place of the old
/// one. Whoever does so on a quorum has used the old token up, and nothing that is still under way for it
/// touches the lock.
///
/// When it is dropped without having been won, what it took is removed in the background.
#[derive(Debug)]
pub(crate) struct Taking {
    old: Arc<Claim>,
    round: AcquireRound,
    ttl: Ttl,
    timeout: Duration,
}

impl Taking {
    /// `longest` is how long the old keys may live, `ttl` how long they are to live at least.
    pub(crate) fn new(nodes: &Arc<Nodes>, resources: Resources, old: Token, ttl: Ttl, longest: Ttl) -> Self {
        let old = Arc::new(Claim::handed_over(resources.clone(), old, longest, nodes.len()));
        let claim = nodes.claim(resources, longest.max(ttl));
        let timeout = nodes.timeout(ttl);
        let fan = nodes.replace_all(&claim, &old, ttl, timeout);
        Self { old, round: AcquireRound::with(nodes, claim, fan, ttl), ttl, timeout }
    }

    pub(crate) fn claim(&self) -> Arc<Claim> {
        self.round.claim.clone()
    }

    /// The new claim, the end of its validity, and the votes.
    pub(crate) async fn decide(mut self) -> Result<(Arc<Claim>, Instant, Vec<NodeReply>), Error> {
        let valid_until = Some(self.round.valid_until);
        let decision = self.round.votes.collect(&mut self.round.fan, valid_until, is_conclusive).await;
        if decision == Decision::Won {
            self.clear_up().await;
            return Ok(self.round.accept(Verb::Replace));
        }
        let (nodes, old) = (self.round.nodes.clone(), self.old);
        let (undoing, defeated) = self.round.undo(Verb::Replace);
        if defeated.no_quorum_holds {
            // No quorum has them, so the rest is in everybody's way, for nobody.
            drop(nodes.release_all(&old));
        }
        let claim = undoing.claim();
        undoing.begin().await;
        Err(defeated.into_holder_error(&claim))
    }

    /// Removes the old token from the nodes that did not replace it, behind the requests that are under way,
    /// and puts the new one on those that said so. Asked here, finished in the background.
    async fn clear_up(&mut self) {
        let Self { old, round, ttl, timeout } = self;
        let nodes = &round.nodes;
        let refused: Vec<usize> = round.votes.refused().collect();
        let old_ones: Vec<usize> = (0..nodes.len()).filter(|node| old.ledger.may_be_written(*node)).collect();
        nodes.release_from(old, old_ones).start().await;
        let put_back =
            refused.into_iter().map(|node| (node, nodes.put_back(node, &round.claim, *ttl, *timeout)));
        FanOut::new(nodes.runtime.clone(), put_back).start().await;
    }
}

/// Extends the claim's keys, and gives the new end of the validity, and the votes. A quorum has to confirm it
/// before `deadline`; each node has no longer than `timeout`.
///
/// Nodes that do not have the keys any more (they have lost their data, say) get them back, but have no vote.
pub(crate) async fn extend(
    nodes: &Arc<Nodes>,
    claim: &Arc<Claim>,
    ttl: Ttl,
    start: Instant,
    deadline: Instant,
    timeout: Duration,
) -> Result<(Instant, Vec<NodeReply>), LostRound> {
    let valid_until = start + nodes.drift.validity(ttl);
    let deadline = deadline.min(valid_until);
    let timeout = nodes.timeout(ttl).min(timeout).min(deadline.saturating_duration_since(start));
    let mut fan = nodes.extend_all(claim, ttl, timeout);
    let mut votes = Votes::new(nodes);
    if votes.collect(&mut fan, Some(deadline), is_conclusive).await != Decision::Won {
        let defeated = votes.defeated();
        telemetry::round(Verb::Extend, &claim.token, Some(defeated.defeat), &votes.tally);
        return Err(defeated);
    }
    let mut put_back: Vec<(usize, BoxFuture<()>)> = Vec::new();
    for node in votes.refused() {
        put_back.push((node, nodes.put_back(node, claim, ttl, timeout)));
    }
    for (node, request) in fan.take_pending() {
        let back = nodes.put_back(node, claim, ttl, timeout);
        let heard_later = async move {
            if let Ok(AcquireReply::Refused) = request.await {
                back.await;
            }
        };
        put_back.push((node, Box::pin(heard_later)));
    }
    // Asked here, so that a release that follows is behind; finished in the background.
    FanOut::new(nodes.runtime.clone(), put_back).start().await;
    let answers = votes.answers();
    telemetry::round(Verb::Extend, &claim.token, None, &votes.tally);
    Ok((valid_until, answers))
}

/// Whether a quorum removed the claim's keys (`true`), or it was not held by a quorum any more (`false`).
pub(crate) async fn release(nodes: &Arc<Nodes>, claim: &Arc<Claim>) -> Result<bool, LostRound> {
    let mut fan = nodes.release_all(claim);
    let mut votes = Votes::new(nodes);
    match votes.collect(&mut fan, None, is_conclusive).await {
        Decision::Won => {
            telemetry::round(Verb::Release, &claim.token, None, &votes.tally);
            Ok(true)
        }
        Decision::Open | Decision::Lost => {
            let defeated = votes.defeated();
            telemetry::round(Verb::Release, &claim.token, Some(defeated.defeat), &votes.tally);
            if defeated.no_quorum_holds { Ok(false) } else { Err(defeated) }
        }
    }
}

/// A round that a quorum did not support.
#[derive(Debug)]
pub(crate) struct LostRound {
    pub(crate) defeat: LossReason,
    /// So many nodes said that they do not hold the keys that no quorum holds them.
    pub(crate) no_quorum_holds: bool,
    pub(crate) attempts: u32,
    pub(crate) answers: Vec<NodeReply>,
}

impl LostRound {
    /// Nobody was asked: the validity had run out.
    pub(crate) fn lapsed() -> Self {
        Self { defeat: LossReason::Refused, no_quorum_holds: true, attempts: 0, answers: Vec::new() }
    }

    pub(crate) fn report(self, claim: &Claim) -> Box<RoundReport> {
        let resources = claim.resources.clone();
        Box::new(RoundReport { resources, attempts: self.attempts, replies: self.answers })
    }

    /// The error for a lock that was asked for.
    pub(crate) fn into_acquire_error(self, claim: &Claim) -> Error {
        match self.defeat {
            LossReason::Refused => Error::Contended(self.report(claim)),
            LossReason::NoQuorum => Error::NoQuorum(self.report(claim)),
            LossReason::Rejected => Error::Rejected(self.report(claim)),
        }
    }

    /// The error for a lock that is, or was, held.
    pub(crate) fn into_holder_error(self, claim: &Claim) -> Error {
        match self.defeat {
            _ if self.no_quorum_holds => Error::Lost(self.report(claim)),
            LossReason::Rejected => Error::Rejected(self.report(claim)),
            // A quorum answered, but neither yes nor no: what the silent nodes hold decides.
            LossReason::Refused | LossReason::NoQuorum => Error::NoQuorum(self.report(claim)),
        }
    }
}

/// The votes of a round, and the answers that they were made of.
#[derive(Debug)]
struct Votes {
    nodes: Arc<Nodes>,
    tally: Tally,
    answers: Vec<Option<NodeOutcome>>,
    /// Whether a contended round is given up when only nodes that went silent could still tip it: another
    /// round is cheap then, and keys in each other's way are not.
    yields_early: bool,
}

impl Votes {
    fn new(nodes: &Arc<Nodes>) -> Self {
        let (tally, answers) = (Tally::new(nodes.len()), vec![None; nodes.len()]);
        Self { nodes: nodes.clone(), tally, answers, yields_early: false }
    }

    /// Waits until the round is decided, and a lost one until what is known about it is `enough`. A yes that
    /// is seen at the deadline or later is none, and ends the round: the clock is read again for every
    /// answer, and never before it.
    async fn collect<T>(
        &mut self,
        fan: &mut FanOut<Result<T, BackendError>>,
        deadline: Option<Instant>,
        enough: impl Fn(&Tally) -> bool,
    ) -> Decision
    where
        T: Into<NodeOutcome> + Send + 'static,
    {
        while self.tally.decision() != Decision::Lost || !enough(&self.tally) {
            let heard = fan.next().await;
            let late = deadline.is_some_and(|deadline| self.nodes.now() >= deadline);
            let all_heard = heard.is_empty();
            for (node, answer) in heard {
                let answer = match answer.map_or_else(NodeOutcome::Failed, Into::into) {
                    NodeOutcome::Granted if late => NodeOutcome::Late,
                    NodeOutcome::Granted => self.one_vote_for_each_server(node),
                    answer => answer,
                };
                if let Some(vote) = answer.vote() {
                    self.tally.count(node, vote);
                }
                self.answers[node] = Some(answer);
            }
            match self.tally.decision() {
                Decision::Won => return Decision::Won,
                Decision::Lost | Decision::Open if late || all_heard || self.should_give_up() => break,
                Decision::Lost | Decision::Open => {}
            }
        }
        Decision::Lost
    }

    /// What a node's grant counts for. Of the nodes that lead to one server, the first to grant has its vote:
    /// two would make a majority of nodes that is none of servers. What the others hold is removed as if they
    /// had voted.
    fn one_vote_for_each_server(&self, node: usize) -> NodeOutcome {
        let nodes = &self.nodes.nodes;
        let Some(server) = nodes[node].backend.server_id() else { return NodeOutcome::Granted };
        let has_voted = |other: &usize| {
            matches!(self.answers[*other], Some(NodeOutcome::Granted))
                && nodes[*other].backend.server_id().as_ref() == Some(&server)
        };
        match (0..nodes.len()).find(has_voted) {
            Some(other) => {
                self.nodes.telemetry.shares_server(node, other);
                NodeOutcome::Failed(self.nodes.same_server(other))
            }
            None => NodeOutcome::Granted,
        }
    }

    fn should_give_up(&self) -> bool {
        self.yields_early && self.tally.should_give_up(|node| self.nodes.nodes[node].is_silent())
    }

    fn refused(&self) -> impl Iterator<Item = usize> {
        let refused = |(node, answer): (usize, &Option<NodeOutcome>)| {
            matches!(answer, Some(NodeOutcome::Refused)).then_some(node)
        };
        self.answers.iter().enumerate().filter_map(refused)
    }

    fn answers(&self) -> Vec<NodeReply> {
        self.nodes.answers(&self.answers)
    }

    fn defeated(&self) -> LostRound {
        LostRound {
            defeat: self.tally.defeat(),
            no_quorum_holds: self.tally.no_quorum_holds(),
            attempts: 1,
            answers: self.answers(),
        }
    }
}

/// Who holds a lock has to know whether it is lost, and only the last answer may tell.
fn is_conclusive(tally: &Tally) -> bool {
    tally.no_quorum_holds() || tally.defeat() == LossReason::Rejected
}
