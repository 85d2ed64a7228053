//! Counting one round's votes, without clock or async: votes in, decision out.

/// The smallest majority of `nodes`: `nodes / 2 + 1`.
pub(crate) fn quorum(nodes: usize) -> usize {
    nodes / 2 + 1
}

/// The meaning of one node's reply for the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    /// The node served the request: it holds the key, has extended it, or has removed it.
    Yes,
    /// The node refused: another token is there, or none.
    No,
    /// The node did not reply, or could not serve the request now.
    Failed,
    /// The node will never serve the request as it is configured.
    Rejected,
}

/// Whether a round is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The missing votes can still decide it.
    Open,
    /// A quorum has said yes.
    Won,
    /// A quorum can no longer say yes.
    Lost,
}

/// Why a quorum was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossReason {
    /// A quorum of nodes replied, and some of them refused.
    Refused,
    /// Too few nodes replied.
    NoQuorum,
    /// So many nodes rejected the request that no quorum is left: retries are pointless.
    Rejected,
}

/// The votes of one round, at most one for each node.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    nodes: usize,
    quorum: usize,
    /// How many of each vote, in the order of [`Vote`].
    votes: [usize; 4],
}

impl Tally {
    pub(crate) fn new(nodes: usize) -> Self {
        Self::with_quorum(nodes, quorum(nodes))
    }

    /// A round that needs more than a majority.
    pub(crate) fn with_quorum(nodes: usize, quorum: usize) -> Self {
        Self { nodes, quorum, votes: [0; 4] }
    }

    /// The tally of another round of the same kind.
    pub(crate) fn again(&self) -> Self {
        Self::with_quorum(self.nodes, self.quorum)
    }

    /// Counts a node's vote.
    pub(crate) fn count(&mut self, vote: Vote) {
        debug_assert!(self.missing() > 0, "a node voted twice in one round");
        self.votes[vote as usize] += 1;
    }

    pub(crate) fn decision(&self) -> Decision {
        let yes = self.number(Vote::Yes);
        if yes >= self.quorum {
            Decision::Won
        } else if yes + self.missing() < self.quorum {
            Decision::Lost
        } else {
            Decision::Open
        }
    }

    /// Whether to give up: another client wants the same resources, and only nodes that are silent could still
    /// decide the round. Two clients that wait for them would only block each other. `silent`: how many of
    /// the nodes without a vote are.
    pub(crate) fn should_give_up(&self, silent: usize) -> bool {
        self.number(Vote::No) > 0 && silent == self.missing()
    }

    /// Why the round was not won. A missing vote counts as a node that did not reply, so the next vote may
    /// change `NoQuorum` into another reason; the others are final.
    pub(crate) fn loss_reason(&self) -> LossReason {
        let yes = self.number(Vote::Yes);
        let no = self.number(Vote::No);
        if self.number(Vote::Rejected) > self.nodes - self.quorum {
            LossReason::Rejected
        } else if no > 0 && yes + no >= self.quorum {
            LossReason::Refused
        } else {
            LossReason::NoQuorum
        }
    }

    /// Whether so many nodes refused that no quorum holds the keys, whatever the others hold.
    pub(crate) fn no_quorum_holds(&self) -> bool {
        self.number(Vote::No) > self.nodes - self.quorum
    }

    /// Whether the decision and its reason are final. Too few replies are a final reason once all have been
    /// collected.
    pub(crate) fn is_certain(&self) -> bool {
        self.missing() == 0 || self.decision() != Decision::Open && self.loss_reason() != LossReason::NoQuorum
    }

    pub(crate) fn missing(&self) -> usize {
        self.nodes - self.votes.iter().sum::<usize>()
    }

    pub(crate) fn number(&self, wanted: Vote) -> usize {
        self.votes[wanted as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTES: [Vote; 4] = [Vote::Yes, Vote::No, Vote::Failed, Vote::Rejected];

    /// Every sequence of votes of `nodes` nodes, as (sequence, tally after each prefix).
    fn every_sequence(nodes: usize, mut check: impl FnMut(&[Vote], &[Tally])) {
        for code in 0..VOTES.len().pow(nodes as u32) {
            let sequence: Vec<Vote> = (0..nodes)
                .scan(code, |code, _| {
                    let vote = VOTES[*code % VOTES.len()];
                    *code /= VOTES.len();
                    Some(vote)
                })
                .collect();
            let mut tally = Tally::new(nodes);
            let mut prefixes = vec![tally.clone()];
            for vote in sequence.iter() {
                tally.count(*vote);
                prefixes.push(tally.clone());
            }
            check(&sequence, &prefixes);
        }
    }

    #[test]
    fn a_quorum_is_the_smallest_majority() {
        let quorums: Vec<usize> = (1..=7).map(quorum).collect();
        assert_eq!(quorums, [1, 2, 2, 3, 3, 4, 4]);
        for nodes in 1..100 {
            assert!(2 * quorum(nodes) > nodes, "two quorums of {nodes} could be disjoint");
            assert!(2 * (quorum(nodes) - 1) <= nodes, "a smaller majority of {nodes} exists");
        }
    }

    #[test]
    fn every_round_is_decided_as_early_as_possible_and_never_changes_its_mind() {
        for nodes in 1..=6 {
            let needed = nodes / 2 + 1;
            every_sequence(nodes, |sequence, prefixes| {
                for (voted, tally) in prefixes.iter().enumerate() {
                    let yes = sequence[..voted].iter().filter(|vote| **vote == Vote::Yes).count();
                    let best = yes + nodes - voted;
                    let expected = match (yes >= needed, best >= needed) {
                        (true, _) => Decision::Won,
                        (false, true) => Decision::Open,
                        (false, false) => Decision::Lost,
                    };
                    assert_eq!(tally.decision(), expected, "{sequence:?} after {voted}");
                }
                let decided: Vec<Decision> = prefixes
                    .iter()
                    .map(Tally::decision)
                    .skip_while(|decision| *decision == Decision::Open)
                    .collect();
                assert!(decided.windows(2).all(|pair| pair[0] == pair[1]), "{sequence:?}: {decided:?}");
                assert!(!decided.is_empty(), "{sequence:?} hangs");
            });
        }
    }

    #[test]
    fn a_tie_is_lost_without_the_last_vote() {
        let mut tally = Tally::new(4);
        tally.count(Vote::Yes);
        tally.count(Vote::No);
        assert_eq!(tally.decision(), Decision::Open);
        tally.count(Vote::No);
        assert_eq!(tally.decision(), Decision::Lost);
    }

    #[test]
    fn later_votes_change_neither_the_reason_of_a_loss_nor_that_no_quorum_holds() {
        for nodes in 1..=6 {
            every_sequence(nodes, |sequence, prefixes| {
                for pair in prefixes.windows(2) {
                    let settled = pair[0].loss_reason();
                    assert!(
                        settled == LossReason::NoQuorum || settled == pair[1].loss_reason(),
                        "{sequence:?}"
                    );
                    assert!(!pair[0].no_quorum_holds() || pair[1].no_quorum_holds(), "{sequence:?}");
                }
            });
        }
    }

    #[test]
    fn a_certain_result_stays_and_an_uncertain_one_may_change() {
        for nodes in 1..=5 {
            every_sequence(nodes, |sequence, prefixes| {
                let result = |tally: &Tally| (tally.decision(), tally.loss_reason());
                let last = &prefixes[nodes];
                assert!(last.is_certain());
                for tally in prefixes.iter().filter(|tally| tally.is_certain()) {
                    assert_eq!(tally.decision(), last.decision(), "{sequence:?}");
                    assert!(
                        tally.decision() == Decision::Won || result(tally) == result(last),
                        "{sequence:?}"
                    );
                }
            });
        }
        let mut tally = Tally::new(3);
        tally.count(Vote::Failed);
        tally.count(Vote::Failed);
        assert_eq!(tally.decision(), Decision::Lost);
        assert!(!tally.is_certain());
    }

    #[test]
    fn a_contended_round_is_given_up_when_only_silent_nodes_are_left() {
        let mut tally = Tally::new(5);
        tally.count(Vote::Yes);
        tally.count(Vote::Yes);
        assert!(!tally.should_give_up(3), "no other client wants it: a slow node may still grant");
        tally.count(Vote::No);
        assert!(!tally.should_give_up(1), "one node is not silent");
        assert!(tally.should_give_up(2));
        tally.count(Vote::No);
        assert_eq!(tally.decision(), Decision::Open);
        assert!(tally.should_give_up(1));
        assert!(!tally.should_give_up(0));
    }

    #[test]
    fn a_loss_is_named_after_what_a_quorum_said() {
        for nodes in 1..=6 {
            let needed = nodes / 2 + 1;
            every_sequence(nodes, |sequence, prefixes| {
                let number = |wanted| sequence.iter().filter(|vote| **vote == wanted).count();
                let tally = &prefixes[nodes];
                if tally.decision() == Decision::Won {
                    return;
                }
                let expected = if nodes - number(Vote::Rejected) < needed {
                    LossReason::Rejected
                } else if number(Vote::No) > 0 && number(Vote::Yes) + number(Vote::No) >= needed {
                    LossReason::Refused
                } else {
                    LossReason::NoQuorum
                };
                assert_eq!(tally.loss_reason(), expected, "{sequence:?}");
                assert_eq!(tally.no_quorum_holds(), nodes - number(Vote::No) < needed, "{sequence:?}");
            });
        }
    }

    #[test]
    #[should_panic(expected = "voted twice")]
    fn more_votes_than_nodes_are_a_bug() {
        let mut tally = Tally::new(1);
        tally.count(Vote::No);
        tally.count(Vote::Yes);
    }
}
