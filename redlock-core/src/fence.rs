//! Fencing tokens: from the nodes' counters to a number that no other round has. There is no clock and no
//! async.
//!
//! Each node keeps a counter for each resource, beside its key. A number is a round's token when, on each
//! node of a quorum, there was an instant at which the key held the round's value *and* the counter was that
//! number. Any two quorums share a node. A node grants a key to one value at a time, and counts on with each
//! grant. So no two rounds have the same token, and of two rounds of which one ended before the other began,
//! the later one has the higher token. No clock comes into it.

// Tests: below; every run of small models of it: fence/model.rs.

use std::num::NonZeroU64;

#[cfg(test)]
mod model;

/// The highest number of a counter: the highest up to which a double, the number of the servers' scripts,
/// has all integers.
pub(crate) const MAX_FENCE: u64 = (1 << 53) - 1;

/// A node's counters after a grant of free keys: one number for all of the resources, which is higher than
/// each was. `highest` is the highest of them before, 0 when there is none. `None`: no number is left.
pub(crate) fn count(highest: u64, proposal: u64) -> Option<NonZeroU64> {
    NonZeroU64::new((highest + 1).max(proposal)).filter(|counter| counter.get() <= MAX_FENCE)
}

/// What a client may propose to a node whose wall clock shows `now`, in microseconds: no more than a second
/// ahead.
pub(crate) fn limit(proposal: u64, now: u64) -> u64 {
    proposal.min(now.saturating_add(MAX_AHEAD_MICROS))
}

/// What follows the grants of a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterGrants {
    /// The round has its token.
    Done(NonZeroU64),
    /// The counters have to be raised to this number, which is the token if a [`RaiseTally`] says so.
    Raise(NonZeroU64),
}

/// The counters are those of the nodes that granted, at most one for each node. `None` when they are fewer
/// than a quorum.
pub(crate) fn after_grants(counters: &[NonZeroU64], quorum: usize) -> Option<AfterGrants> {
    if counters.len() < quorum {
        return None;
    }
    let agree = |number: &&NonZeroU64| counters.iter().filter(|counter| counter == number).count() >= quorum;
    match counters.iter().find(agree) {
        Some(token) => Some(AfterGrants::Done(*token)),
        None => counters.iter().max().copied().map(AfterGrants::Raise),
    }
}

/// The replies of the nodes that were asked to raise their counters.
#[derive(Clone, Debug)]
pub(crate) struct RaiseTally {
    to: NonZeroU64,
    quorum: usize,
    missing: usize,
    /// How many have it, with the round's value at the keys.
    acknowledged: usize,
    /// How many hold the round's value, but have a higher counter.
    higher: usize,
    highest: NonZeroU64,
}

/// What the replies to a raise decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    /// The missing replies can still decide it.
    Open,
    /// The round has its token.
    Done(NonZeroU64),
    /// Too many counters are higher. They have to be raised again, to the highest of them.
    Again(NonZeroU64),
    /// No quorum holds the round's value, or none replies.
    Failed,
}

impl RaiseTally {
    /// All of the nodes are asked, also those that have not granted.
    pub(crate) fn new(to: NonZeroU64, nodes: usize, quorum: usize) -> Self {
        Self { to, quorum, missing: nodes, acknowledged: 0, higher: 0, highest: to }
    }

    /// Counts a node's reply: its highest counter, if its keys hold the round's value; `None` for a node that
    /// refused or failed, or replied too late.
    pub(crate) fn count(&mut self, counter: Option<NonZeroU64>) {
        debug_assert!(self.missing > 0, "a node replied twice");
        self.missing = self.missing.saturating_sub(1);
        match counter {
            Some(counter) if counter == self.to => self.acknowledged += 1,
            Some(counter) if counter > self.to => {
                self.higher += 1;
                self.highest = self.highest.max(counter);
            }
            // Lower than what it was raised to: such a node does not keep its counters.
            Some(_) | None => {}
        }
    }

    pub(crate) fn decision(&self) -> Raised {
        if self.acknowledged >= self.quorum {
            Raised::Done(self.to)
        } else if self.acknowledged + self.higher + self.missing < self.quorum {
            Raised::Failed
        } else if self.acknowledged + self.missing >= self.quorum {
            Raised::Open
        } else {
            Raised::Again(self.highest)
        }
    }
}

const MAX_AHEAD_MICROS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number).unwrap()
    }

    fn numbers(counters: &[u64]) -> Vec<NonZeroU64> {
        counters.iter().copied().map(number).collect()
    }

    #[test]
    fn a_grant_counts_on_and_takes_up_a_proposal_that_is_higher() {
        assert_eq!(count(0, 0), Some(number(1)));
        assert_eq!(count(7, 0), Some(number(8)));
        assert_eq!(count(7, 7), Some(number(8)));
        assert_eq!(count(7, 8), Some(number(8)));
        assert_eq!(count(7, 100), Some(number(100)));
        assert_eq!(count(MAX_FENCE - 1, 0), Some(number(MAX_FENCE)));
        assert_eq!(count(MAX_FENCE, 0), None);
        assert_eq!(count(0, MAX_FENCE + 1), None);
    }

    #[test]
    fn a_proposal_is_at_most_a_second_ahead() {
        assert_eq!(limit(5, 10), 5);
        assert_eq!(limit(1_000_010, 10), 1_000_010);
        assert_eq!(limit(1_000_011, 10), 1_000_010);
        assert_eq!(limit(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn grants_of_a_quorum_with_one_number_are_enough_and_else_the_highest_is_raised() {
        let after = |counters: &[u64], quorum| after_grants(&numbers(counters), quorum);
        let done = |token| Some(AfterGrants::Done(number(token)));
        let raise = |to| Some(AfterGrants::Raise(number(to)));
        assert_eq!(after(&[5, 5], 2), done(5));
        assert_eq!(after(&[9, 5, 5], 2), done(5));
        assert_eq!(after(&[5, 9], 2), raise(9));
        assert_eq!(after(&[5, 9, 7], 2), raise(9));
        assert_eq!(after(&[5], 2), None);
        assert_eq!(after(&[], 1), None);
        assert_eq!(after(&[5], 1), done(5));
        assert_eq!(after(&[5, 5, 6], 3), raise(6));
    }

    /// Every sequence of replies to a raise to 5: 4, 5, 6, 7, and none.
    fn every_sequence(nodes: usize, mut check: impl FnMut(&[Option<u64>], &[RaiseTally])) {
        let replies = [None, Some(4), Some(5), Some(6), Some(7)];
        for quorum in nodes / 2 + 1..=nodes {
            for mut code in 0..replies.len().pow(nodes as u32) {
                let mut sequence = Vec::new();
                let mut prefixes = vec![RaiseTally::new(number(5), nodes, quorum)];
                for _ in 0..nodes {
                    sequence.push(replies[code % replies.len()]);
                    code /= replies.len();
                    let mut next = prefixes.last().unwrap().clone();
                    next.count(sequence.last().unwrap().map(number));
                    prefixes.push(next);
                }
                check(&sequence, &prefixes);
            }
        }
    }

    #[test]
    fn a_raise_is_decided_as_early_as_possible_by_those_that_have_exactly_its_number() {
        for nodes in 1..=5 {
            every_sequence(nodes, |sequence, prefixes| {
                for (replied, tally) in prefixes.iter().enumerate() {
                    let (so_far, missing) = (&sequence[..replied], nodes - replied);
                    let exact = so_far.iter().filter(|reply| **reply == Some(5)).count();
                    let higher = so_far.iter().filter(|reply| **reply > Some(5)).count();
                    let expected = if exact >= tally.quorum {
                        Raised::Done(number(5))
                    } else if exact + missing >= tally.quorum {
                        Raised::Open
                    } else if exact + higher + missing >= tally.quorum {
                        Raised::Again(number(so_far.iter().flatten().copied().max().unwrap()))
                    } else {
                        Raised::Failed
                    };
                    assert_eq!(tally.decision(), expected, "{sequence:?} after {replied}");
                }
                let last = prefixes.last().unwrap();
                assert_ne!(last.decision(), Raised::Open, "{sequence:?} hangs");
            });
        }
    }

    #[test]
    fn a_raise_that_has_its_token_or_has_failed_does_not_change_its_mind() {
        every_sequence(4, |sequence, prefixes| {
            for pair in prefixes.windows(2) {
                let before = pair[0].decision();
                if matches!(before, Raised::Done(_) | Raised::Failed) {
                    assert_eq!(pair[1].decision(), before, "{sequence:?}");
                }
            }
        });
    }

    #[test]
    fn another_raise_goes_to_a_higher_number() {
        every_sequence(4, |sequence, prefixes| {
            for tally in prefixes {
                if let Raised::Again(next) = tally.decision() {
                    assert!(next > tally.to, "{sequence:?}");
                }
            }
        });
    }
}
