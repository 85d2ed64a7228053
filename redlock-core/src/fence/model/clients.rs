//! What a client does: with any part of the replies that there are until now, it decides as the lock does.

use std::num::NonZeroU64;

use super::{
    Fencing, Step,
    nodes::TICK,
    setup::{Clocks, Deviation},
    state::{Attempt, Phase, State},
};
use crate::fence::{AfterGrants, RaiseTally, Raised, after_grants};

impl<const NODES: usize, const ATTEMPTS: usize> Fencing<NODES, ATTEMPTS> {
    /// Everything that an attempt may do.
    pub(super) fn act(
        &self,
        state: &State<NODES, ATTEMPTS>,
        attempt: usize,
        into: &mut Vec<(Step, State<NODES, ATTEMPTS>)>,
    ) {
        match state.attempts[attempt].phase {
            Phase::Idle => self.start(state, attempt, into),
            Phase::Acquiring => {
                let floor = self.floor(state, attempt);
                let starts_again = self.setup.deviates(Deviation::OldGrantsCount);
                if starts_again && state.attempts[attempt].floor != floor {
                    let mut next = *state;
                    next.attempts[attempt].floor = floor;
                    into.push((Step::Client { what: "starts again", attempt, number: floor }, next));
                }
                if self.has_time(state, attempt) {
                    self.after_grants(state, attempt, into);
                }
            }
            Phase::Raising if self.has_time(state, attempt) => self.after_raises(state, attempt, into),
            Phase::Raising | Phase::Done => {}
        }
    }

    fn start(
        &self,
        state: &State<NODES, ATTEMPTS>,
        attempt: usize,
        into: &mut Vec<(Step, State<NODES, ATTEMPTS>)>,
    ) {
        let proposals = match self.setup.clocks {
            // Chosen at each node.
            Clocks::Any(_) => vec![0],
            Clocks::Skewed { skews, .. } => {
                let shown = |skew: &i8| state.now.saturating_add_signed(*skew);
                skews.iter().map(|skew| u32::from(shown(skew)) * TICK).collect()
            }
        };
        for proposal in proposals {
            let mut next = *state;
            next.attempts[attempt] = Attempt {
                phase: Phase::Acquiring,
                proposal,
                floor: self.floor(state, attempt),
                started: if self.setup.patience.is_some() { state.now } else { 0 },
                trips: 1,
                ..state.attempts[attempt]
            };
            into.push((Step::Client { what: "acquires", attempt, number: proposal }, next));
        }
    }

    /// What [`after_grants`] says about each choice of a reply, or none, from each node.
    fn after_grants(
        &self,
        state: &State<NODES, ATTEMPTS>,
        attempt: usize,
        into: &mut Vec<(Step, State<NODES, ATTEMPTS>)>,
    ) {
        let mut results = Vec::new();
        self.choose_grants(state, attempt, 0, &mut Vec::new(), &mut results);
        for result in results {
            let mut next = *state;
            match result {
                AfterGrants::Done(token) => self.finish(&mut next, attempt, token),
                AfterGrants::Raise(token) if self.setup.deviates(Deviation::RaiseIsLeftOut) => {
                    self.finish(&mut next, attempt, token);
                }
                AfterGrants::Raise(to) => {
                    if !Self::begin_raise(&mut next, attempt, to) {
                        continue;
                    }
                    next.forget_replies(attempt);
                }
            }
            into.push((Step::Decision { attempt, says: Says::Grants(result) }, next));
        }
    }

    fn choose_grants(
        &self,
        state: &State<NODES, ATTEMPTS>,
        attempt: usize,
        node: usize,
        counters: &mut Vec<NonZeroU64>,
        results: &mut Vec<AfterGrants>,
    ) {
        if node == NODES {
            let one = self.setup.deviates(Deviation::OneGrantIsAQuorum);
            let quorum = if one { 1 } else { self.setup.quorum };
            if let Some(result) = after_grants(counters, quorum)
                && !results.contains(&result)
            {
                results.push(result);
            }
            return;
        }
        self.choose_grants(state, attempt, node + 1, counters, results);
        for counter in state.nodes[node].with[attempt].replies.iter().filter_map(number) {
            let votes = if self.setup.deviates(Deviation::OneNodeVotesTwice) { 2 } else { 1 };
            let before = counters.len();
            counters.extend(std::iter::repeat_n(counter, votes));
            self.choose_grants(state, attempt, node + 1, counters, results);
            counters.truncate(before);
        }
    }

    /// What a [`RaiseTally`] says about each choice of a reply, a failure, or nothing yet, from each node.
    fn after_raises(
        &self,
        state: &State<NODES, ATTEMPTS>,
        attempt: usize,
        into: &mut Vec<(Step, State<NODES, ATTEMPTS>)>,
    ) {
        let Some(to) = number(state.attempts[attempt].token) else { return };
        let one = self.setup.deviates(Deviation::OneRaiseIsAQuorum);
        let tally = RaiseTally::new(to, NODES, if one { 1 } else { self.setup.quorum });
        let mut results = Vec::new();
        self.choose_raises(state, attempt, 0, &tally, &mut results);
        for result in results {
            let mut next = *state;
            match result {
                Raised::Done(token) => self.finish(&mut next, attempt, token),
                Raised::Again(token) if self.setup.deviates(Deviation::HigherIsTheToken) => {
                    self.finish(&mut next, attempt, token);
                }
                Raised::Again(again) => {
                    if !Self::begin_raise(&mut next, attempt, again) {
                        continue;
                    }
                    next.forget_replies(attempt);
                    if self.setup.deviates(Deviation::OldAcknowledgementsCount) {
                        let old = state.nodes.iter().map(|node| node.with[attempt]);
                        for (node, old) in next.nodes.iter_mut().zip(old) {
                            if old.replies.iter().any(|reply| reply == to.get() as u32) {
                                node.with[attempt].replies.note(again.get() as u32);
                            }
                        }
                    }
                }
                // The attempt can do nothing more, but what it has sent may still arrive.
                Raised::Open | Raised::Failed => continue,
            }
            into.push((Step::Decision { attempt, says: Says::Raises(result) }, next));
        }
    }

    fn choose_raises(
        &self,
        state: &State<NODES, ATTEMPTS>,
        attempt: usize,
        node: usize,
        tally: &RaiseTally,
        results: &mut Vec<Raised>,
    ) {
        if node == NODES {
            let result = tally.decision();
            if !results.contains(&result) {
                results.push(result);
            }
            return;
        }
        self.choose_raises(state, attempt, node + 1, tally, results);
        let to = state.attempts[attempt].token;
        let heard = state.nodes[node].with[attempt].replies.iter().map(Some);
        for reply in heard.chain([None]) {
            let acknowledges = self.setup.deviates(Deviation::HigherIsAcknowledged);
            let reply = if acknowledges { reply.and(Some(to)) } else { reply };
            let mut tally = tally.clone();
            tally.count(reply.and_then(number));
            self.choose_raises(state, attempt, node + 1, &tally, results);
        }
    }

    /// Returns whether the client goes on.
    fn begin_raise(state: &mut State<NODES, ATTEMPTS>, attempt: usize, to: NonZeroU64) -> bool {
        let attempt = &mut state.attempts[attempt];
        attempt.phase = Phase::Raising;
        attempt.token = to.get() as u32;
        attempt.trips = (attempt.trips + 1).min(3);
        attempt.send_raise(to.get() as u32)
    }

    fn finish(&self, state: &mut State<NODES, ATTEMPTS>, attempt: usize, token: NonZeroU64) {
        let token = token.get() as u32;
        let floor = state.attempts[attempt].floor;
        let done = &mut state.attempts[attempt];
        *done = Attempt { phase: Phase::Done, token, floor: 0, started: 0, ..*done };
        done.out_of_order = token <= floor;
        if self.setup.extends {
            done.send_raise(token);
        }
        state.forget_replies(attempt);
    }

    /// The highest token that is complete, of attempts that share a resource.
    fn floor(&self, state: &State<NODES, ATTEMPTS>, attempt: usize) -> u32 {
        let wants = self.setup.wants[attempt];
        let done = (0..ATTEMPTS).filter(|other| state.attempts[*other].phase == Phase::Done);
        let rivals = done.filter(|other| self.setup.wants[*other] & wants != 0);
        rivals.map(|other| state.attempts[other].token).max().unwrap_or(0)
    }

    fn has_time(&self, state: &State<NODES, ATTEMPTS>, attempt: usize) -> bool {
        let took = state.now - state.attempts[attempt].started;
        let in_time = self.setup.patience.is_none_or(|patience| took <= patience);
        in_time || self.setup.deviates(Deviation::DeadlineIsIgnored)
    }
}

/// What the code under test has decided.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "printed")]
pub(super) enum Says {
    Grants(AfterGrants),
    Raises(Raised),
}

fn number(counter: u32) -> Option<NonZeroU64> {
    NonZeroU64::new(u64::from(counter))
}
