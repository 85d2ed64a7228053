//! What the model's nodes and clients know.

use std::cmp::Ordering;

/// All nodes, all attempts to acquire, and the time in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct State<const NODES: usize, const ATTEMPTS: usize> {
    pub(super) nodes: [Node<ATTEMPTS>; NODES],
    pub(super) attempts: [Attempt; ATTEMPTS],
    pub(super) losses: u8,
    pub(super) now: u8,
}

/// A node, for each resource and for each attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Node<const ATTEMPTS: usize> {
    /// 0: none.
    pub(super) counters: [u32; RESOURCES],
    /// When each counter last changed; 0 where counters do not expire.
    pub(super) changed: [u8; RESOURCES],
    /// On its disk.
    pub(super) saved: [u32; RESOURCES],
    /// The guard of a restart ends then; 0 when it is over.
    pub(super) guarded_until: u8,
    pub(super) with: [Dealings; ATTEMPTS],
}

/// What there has been between a node and an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Dealings {
    /// How often the acquire has stored keys.
    pub(super) granted: u8,
    /// How often a lost key has been put back.
    pub(super) put_back: u8,
    /// The resources whose keys hold the attempt's value, as bits.
    pub(super) holds: u8,
    /// As `holds`, on the disk.
    pub(super) saved: u8,
    /// The node's replies to the attempt's present request.
    pub(super) replies: Replies,
    /// Those of a node whose guard lasts: they do not count before its end.
    pub(super) unripe: Replies,
}

/// Different counters, in order; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Replies([u32; MAX_REPLIES]);

/// A client that acquires once. A client that acquires several times is several attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Attempt {
    pub(super) phase: Phase,
    pub(super) proposal: u32,
    /// What it raises the counters to, then its token.
    pub(super) token: u32,
    /// The highest token of those that were done when it started.
    pub(super) floor: u32,
    pub(super) started: u8,
    /// Round trips until now; 3 stands for more.
    pub(super) trips: u8,
    /// Its token is not above the floor.
    pub(super) out_of_order: bool,
    /// The numbers of its raises, which may arrive at any time, and any number of times; 0: none.
    pub(super) raises: [u32; MAX_RAISES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Phase {
    Idle,
    Acquiring,
    Raising,
    Done,
}

impl<const NODES: usize, const ATTEMPTS: usize> State<NODES, ATTEMPTS> {
    pub(super) fn new(counters: [[u32; RESOURCES]; NODES], now: u8) -> Self {
        let nodes = counters.map(|counters| Node {
            counters,
            changed: [0; RESOURCES],
            saved: counters,
            guarded_until: 0,
            with: [Dealings::default(); ATTEMPTS],
        });
        let attempt = Attempt {
            phase: Phase::Idle,
            proposal: 0,
            token: 0,
            floor: 0,
            started: 0,
            trips: 0,
            out_of_order: false,
            raises: [0; MAX_RAISES],
        };
        Self { nodes, attempts: [attempt; ATTEMPTS], losses: 0, now }
    }

    /// The replies to an attempt's last request no longer count.
    pub(super) fn forget_replies(&mut self, attempt: usize) {
        for node in &mut self.nodes {
            node.with[attempt].replies = Replies::default();
            node.with[attempt].unripe = Replies::default();
        }
    }

    /// The same state for every order of the nodes and, if it does not matter which attempt is which, for
    /// every order of the attempts.
    pub(super) fn sorted(&self, attempts_alike: bool) -> Self {
        let mut sorted = *self;
        sorted.nodes.sort_unstable();
        if attempts_alike {
            let mut order = [0; ATTEMPTS];
            order.iter_mut().enumerate().for_each(|(place, attempt)| *attempt = place);
            order.sort_unstable_by(|a, b| self.attempts[*a].cmp(&self.attempts[*b]));
            let mut best = None;
            self.permute_equals(&mut order, 0, &mut best);
            sorted = best.unwrap_or(sorted);
        }
        sorted
    }

    /// Tries every order of attempts that are equal but for what they have done with the nodes.
    fn permute_equals(&self, order: &mut [usize; ATTEMPTS], fixed: usize, best: &mut Option<Self>) {
        if fixed == ATTEMPTS {
            let candidate = self.in_order(order);
            if best.as_ref().is_none_or(|best| candidate < *best) {
                *best = Some(candidate);
            }
            return;
        }
        for other in fixed..ATTEMPTS {
            let equal = self.attempts[order[fixed]].cmp(&self.attempts[order[other]]) == Ordering::Equal;
            if equal {
                order.swap(fixed, other);
                self.permute_equals(order, fixed + 1, best);
                order.swap(fixed, other);
            }
        }
    }

    fn in_order(&self, order: &[usize; ATTEMPTS]) -> Self {
        let mut state = *self;
        for (place, attempt) in order.iter().enumerate() {
            state.attempts[place] = self.attempts[*attempt];
            for (node, old) in state.nodes.iter_mut().zip(&self.nodes) {
                node.with[place] = old.with[*attempt];
            }
        }
        state.nodes.sort_unstable();
        state
    }
}

impl Replies {
    pub(super) fn note(&mut self, reply: u32) {
        if !self.0.contains(&reply) {
            assert_eq!(self.0[0], 0, "more different replies than the model has room for");
            self.0[0] = reply;
            self.0.sort_unstable();
        }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = u32> {
        self.0.into_iter().filter(|reply| *reply != 0)
    }
}

impl Attempt {
    pub(super) fn raises(&self) -> impl Iterator<Item = u32> {
        self.raises.into_iter().filter(|number| *number != 0)
    }

    /// Returns whether there is room for one more raise.
    pub(super) fn send_raise(&mut self, number: u32) -> bool {
        let is_new = !self.raises.contains(&number);
        if is_new && self.raises[0] == 0 {
            self.raises[0] = number;
            self.raises.sort_unstable();
            return true;
        }
        !is_new
    }
}

pub(super) const RESOURCES: usize = 2;
const MAX_REPLIES: usize = 3;
/// Further raises are not sent: the client gives up.
const MAX_RAISES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_nodes_and_of_equal_attempts_does_not_matter() {
        let state = State::<3, 2>::new([[0, 0], [1, 0], [2, 0]], 0);
        let mut one = state;
        one.nodes[0].with[1].holds = 1;
        let mut other = state.sorted(false);
        other.nodes.swap(0, 2);
        other.nodes[2].with[0].holds = 1;
        assert_eq!(one.sorted(true), other.sorted(true));
        assert_ne!(one.sorted(false), other.sorted(false));
        other.attempts[0].phase = Phase::Acquiring;
        assert_ne!(one.sorted(true), other.sorted(true));
        one.attempts[1].phase = Phase::Acquiring;
        assert_eq!(one.sorted(true), other.sorted(true));
    }
}
