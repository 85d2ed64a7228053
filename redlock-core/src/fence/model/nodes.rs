//! What a node does: the contract of `acquire_fenced` and `raise`, and what it may lose.

use super::{
    Fencing, Step,
    setup::{Clocks, Deviation, Loss},
    state::{Attempt, Phase, RESOURCES, Replies, State},
};
use crate::fence::{count, limit};

impl<const NODES: usize, const ATTEMPTS: usize> Fencing<NODES, ATTEMPTS> {
    /// Everything that a node may do about an attempt's requests.
    pub(super) fn serve(
        &self,
        state: &State<NODES, ATTEMPTS>,
        node: usize,
        attempt: usize,
        into: &mut Vec<(Step, State<NODES, ATTEMPTS>)>,
    ) {
        let Attempt { phase, proposal, token, .. } = state.attempts[attempt];
        let dealings = state.nodes[node].with[attempt];
        let is_guarded = state.nodes[node].guarded_until > 0;
        let step = |what, number| Step::Node { what, node, attempt, number };
        if phase == Phase::Idle {
            return;
        }
        let note = |next: &mut State<NODES, ATTEMPTS>, ripe: bool, reply| {
            let dealings = &mut next.nodes[node].with[attempt];
            if ripe { dealings.replies.note(reply) } else { dealings.unripe.note(reply) }
        };
        if dealings.granted < self.setup.executions {
            for proposal in self.proposals(proposal) {
                let Some((mut next, reply)) = self.grant(state, node, attempt, proposal) else { continue };
                next.nodes[node].with[attempt].granted += 1;
                if phase == Phase::Acquiring {
                    note(&mut next, !is_guarded, reply);
                }
                into.push((step("grants", reply), next));
            }
        }
        if phase == Phase::Acquiring && self.holds_all(state, node, attempt) {
            let mut next = *state;
            let reply = self.highest(state, node, attempt);
            note(&mut next, !is_guarded, reply);
            into.push((step("has granted before", reply), next));
        }
        if phase == Phase::Done && dealings.put_back < self.setup.put_backs {
            for proposal in self.proposals(token) {
                let Some((mut next, reply)) = self.grant(state, node, attempt, proposal) else { continue };
                next.nodes[node].with[attempt].put_back += 1;
                into.push((step("puts back", reply), next));
            }
        }
        for to in state.attempts[attempt].raises() {
            let Some((mut next, reply)) = self.raise(state, node, attempt, to) else { continue };
            if phase == Phase::Raising && token == to {
                let passes = self.setup.deviates(Deviation::GuardLetsRaisesPass);
                note(&mut next, !is_guarded || passes, reply);
            }
            let extends = phase == Phase::Done && reply > to;
            if extends && self.setup.deviates(Deviation::ExtensionChangesTheToken) {
                next.attempts[attempt].token = reply;
            }
            into.push((step("raises", to), next));
        }
    }

    /// What happens to a node.
    pub(super) fn befall(
        &self,
        state: &State<NODES, ATTEMPTS>,
        node: usize,
        into: &mut Vec<(Step, State<NODES, ATTEMPTS>)>,
    ) {
        let step = |what| Step::Fault { what, node };
        let ends_counters = self.setup.deviates(Deviation::CountersEndWithKeys);
        if self.setup.keys_vanish_in_steps || ends_counters {
            for (attempt, resource) in (0..ATTEMPTS).flat_map(|a| (0..RESOURCES).map(move |r| (a, r))) {
                if state.nodes[node].with[attempt].holds & 1 << resource != 0 {
                    let mut next = *state;
                    next.nodes[node].with[attempt].holds &= !(1 << resource);
                    if ends_counters {
                        next.nodes[node].counters[resource] = 0;
                    }
                    into.push((step("a key vanishes"), next));
                }
            }
        }
        if let Some(ttl) = self.setup.counter_ttl {
            for resource in 0..RESOURCES {
                let has_one = state.nodes[node].counters[resource] != 0;
                if has_one && state.now >= state.nodes[node].changed[resource] + ttl {
                    let mut next = *state;
                    next.nodes[node].counters[resource] = 0;
                    into.push((step("a counter expires"), next));
                }
            }
        }
        if self.setup.losses > 0 && self.setup.loss == Loss::Rollback {
            let mut next = *state;
            next.nodes[node].saved = next.nodes[node].counters;
            next.nodes[node].with.iter_mut().for_each(|with| with.saved = with.holds);
            into.push((step("saves its data"), next));
        }
        if state.losses < self.setup.losses {
            let mut next = *state;
            next.losses += 1;
            let lost = &mut next.nodes[node];
            // Without `Rollback`, what is saved is what there was at the start, which is lost, too.
            let keeps = self.setup.loss == Loss::Rollback;
            lost.counters = if keeps { lost.saved } else { [0; RESOURCES] };
            for with in &mut lost.with {
                with.holds = if keeps { with.saved } else { 0 };
                // Those that have not been received yet are lost with their connections.
                with.unripe = Replies::default();
            }
            if self.setup.guard > 0 {
                lost.guarded_until = state.now + self.setup.guard;
            }
            into.push((step("restarts without data"), next));
        }
    }

    /// `acquire_fenced` where a key is free: one of the attempt's own, or of somebody else, which vanishes.
    fn grant(
        &self,
        state: &State<NODES, ATTEMPTS>,
        node: usize,
        attempt: usize,
        proposal: u32,
    ) -> Option<(State<NODES, ATTEMPTS>, u32)> {
        let wants = self.setup.wants[attempt];
        let others = (0..ATTEMPTS).filter(|other| *other != attempt);
        let is_taken = others.clone().any(|other| state.nodes[node].with[other].holds & wants != 0);
        if self.setup.keys_vanish_in_steps && (is_taken || self.holds_all(state, node, attempt)) {
            return None;
        }
        let mut next = *state;
        for other in others {
            next.nodes[node].with[other].holds &= !wants;
        }
        let partly_held = state.nodes[node].with[attempt].holds != 0 && !self.holds_all(state, node, attempt);
        next.nodes[node].with[attempt].holds = wants;
        let highest = self.highest(state, node, attempt);
        if partly_held && self.setup.deviates(Deviation::PartlyHeldDoesNotCount) {
            return Some((next, highest));
        }
        let proposal = match self.setup.clocks {
            Clocks::Skewed { .. } if !self.setup.deviates(Deviation::ProposalIsNotLimited) => {
                limit(u64::from(proposal), u64::from(state.now) * u64::from(TICK))
            }
            _ => u64::from(proposal),
        };
        let first = resources(wants).next().map_or(0, |resource| state.nodes[node].counters[resource]);
        let counted = |highest: u32| {
            if self.setup.deviates(Deviation::GrantDoesNotCount) {
                return Some(highest.max(proposal as u32).max(1));
            }
            if self.setup.deviates(Deviation::ProposalReplaces) && proposal > 0 {
                return Some(proposal as u32);
            }
            count(u64::from(highest), proposal).map(|counter| counter.get() as u32)
        };
        let mut reply = 0;
        for resource in resources(wants) {
            let own = state.nodes[node].counters[resource];
            let counter = match self.setup.deviation {
                Some(Deviation::EachCountsForItself) => counted(own)?,
                Some(Deviation::OneCounterCounts) => own.max(counted(first)?),
                _ => counted(highest)?,
            };
            self.set_counter(&mut next, node, resource, counter);
            reply = match self.setup.deviation {
                Some(Deviation::OneCounterCounts) => counted(first)?,
                _ => reply.max(counter),
            };
        }
        Some((next, reply))
    }

    /// `None` when it is refused.
    fn raise(
        &self,
        state: &State<NODES, ATTEMPTS>,
        node: usize,
        attempt: usize,
        to: u32,
    ) -> Option<(State<NODES, ATTEMPTS>, u32)> {
        let wants = self.setup.wants[attempt];
        let has_keys = match self.setup.deviation {
            Some(Deviation::RaiseNeedsNoKey) => true,
            Some(Deviation::RaiseNeedsOneKey) => {
                resources(wants & state.nodes[node].with[attempt].holds).next() == resources(wants).next()
            }
            _ => self.holds_all(state, node, attempt),
        };
        if !has_keys {
            return None;
        }
        let mut next = *state;
        let all = if self.setup.deviates(Deviation::RaiseChangesOneCounter) { 1 } else { RESOURCES };
        for resource in resources(wants).take(all) {
            let counter = state.nodes[node].counters[resource];
            let lowers = self.setup.deviates(Deviation::RaiseLowers);
            self.set_counter(&mut next, node, resource, if lowers { to } else { counter.max(to) });
        }
        let acknowledges = self.setup.deviates(Deviation::RaiseAcknowledgesHigher);
        let reply = if acknowledges { to } else { self.highest(&next, node, attempt) };
        Some((next, reply))
    }

    fn set_counter(&self, state: &mut State<NODES, ATTEMPTS>, node: usize, resource: usize, counter: u32) {
        let now = state.now;
        let node = &mut state.nodes[node];
        if node.counters[resource] != counter {
            node.counters[resource] = counter;
            if self.setup.counter_ttl.is_some() {
                node.changed[resource] = now;
            }
        }
    }

    fn holds_all(&self, state: &State<NODES, ATTEMPTS>, node: usize, attempt: usize) -> bool {
        let wants = self.setup.wants[attempt];
        state.nodes[node].with[attempt].holds & wants == wants
    }

    fn highest(&self, state: &State<NODES, ATTEMPTS>, node: usize, attempt: usize) -> u32 {
        let counters = resources(self.setup.wants[attempt]).map(|which| state.nodes[node].counters[which]);
        counters.max().unwrap_or(0)
    }

    fn proposals(&self, own: u32) -> Vec<u32> {
        match self.setup.clocks {
            Clocks::Any(proposals) => proposals.to_vec(),
            Clocks::Skewed { .. } => vec![own],
        }
    }
}

/// The resources of a set.
fn resources(set: u8) -> impl Iterator<Item = usize> {
    (0..RESOURCES).filter(move |resource| set & 1 << resource != 0)
}

/// What a tick adds to a client's proposal: just as much as a proposal may be ahead of a node.
pub(super) const TICK: u32 = 1_000_000;
