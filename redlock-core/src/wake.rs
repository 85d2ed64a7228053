//! When a lost round is worth another one before its delay has passed. There is no clock and no async.

// Tests: below; tests/tests/it/sim/watching.rs.

use crate::{
    quorum::quorum,
    reply::{NodeOutcome, NodeReply},
};

/// Where the keys of a lost round may be free by now.
#[derive(Clone, Debug)]
pub(crate) struct Wake {
    nodes: Vec<Known>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Free,
    /// Held by another client, or not known.
    Unknown,
    /// The node has failed, so nothing is expected of it.
    Failed,
}

impl Wake {
    /// After a lost round with these replies, one for each node: a node that granted it removes the keys again.
    /// `None` if no node refused: then nobody else has them, and only time helps.
    pub(crate) fn after(replies: &[NodeReply]) -> Option<Self> {
        let known = |reply: &NodeReply| match reply.outcome {
            NodeOutcome::Granted => Known::Free,
            NodeOutcome::Failed(_) => Known::Failed,
            _ => Known::Unknown,
        };
        let is_refused = replies.iter().any(|reply| matches!(reply.outcome, NodeOutcome::Refused));
        is_refused.then(|| Self { nodes: replies.iter().map(known).collect() })
    }

    /// Nothing is known of so many nodes.
    pub(crate) fn unknown_of(nodes: usize) -> Self {
        Self { nodes: vec![Known::Unknown; nodes] }
    }

    /// The same nodes, of which nothing is known any more.
    pub(crate) fn forget(&self) -> Self {
        let known = |known: &Known| if *known == Known::Failed { Known::Failed } else { Known::Unknown };
        Self { nodes: self.nodes.iter().map(known).collect() }
    }

    /// The nodes that are worth watching.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = usize> + '_ {
        let unknown = |(_, known): &(usize, &Known)| **known == Known::Unknown;
        self.nodes.iter().enumerate().filter(unknown).map(|(node, _)| node)
    }

    /// A node reports that the keys may be free.
    pub(crate) fn report(&mut self, node: usize) {
        self.nodes[node] = Known::Free;
    }

    /// Whether the keys may be free on as many nodes as a quorum needs.
    pub(crate) fn is_due(&self) -> bool {
        self.nodes.iter().filter(|known| **known == Known::Free).count() >= quorum(self.nodes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{BackendError, BackendErrorKind};

    fn after(outcomes: &str) -> Option<Wake> {
        let outcome = |letter| match letter {
            'g' => NodeOutcome::Granted,
            'r' => NodeOutcome::Refused,
            'x' => NodeOutcome::Failed(BackendError::new(BackendErrorKind::Indeterminate, "test")),
            _ => NodeOutcome::Pending,
        };
        let reply = |(node, letter)| NodeReply { node, name: None, outcome: outcome(letter), fence: None };
        let replies: Vec<NodeReply> = outcomes.chars().enumerate().map(reply).collect();
        Wake::after(&replies)
    }

    /// After which of the reports another round is due, counted from one.
    fn due_after(outcomes: &str) -> Option<usize> {
        let mut wake = after(outcomes)?;
        assert!(!wake.is_due(), "{outcomes}: without any report");
        let unknown: Vec<usize> = wake.unknown().collect();
        unknown
            .into_iter()
            .position(|node| {
                wake.report(node);
                wake.is_due()
            })
            .map(|position| position + 1)
    }

    #[test]
    fn a_round_is_due_when_as_many_nodes_as_a_quorum_needs_may_be_free() {
        for (outcomes, due) in [
            ("r", Some(1)),
            ("rr", Some(2)),
            ("rr.", Some(2)),
            ("grr", Some(1)),
            ("rrx", Some(2)),
            ("grx", Some(1)),
            ("rxx", None),
            ("rrr..", Some(3)),
            ("ggrrr", Some(1)),
            ("grrrx", Some(2)),
            ("..x", None),
            ("xxx", None),
        ] {
            assert_eq!(due_after(outcomes), due, "{outcomes}");
        }
    }

    #[test]
    fn a_report_that_comes_twice_counts_once_and_is_forgotten_before_another_look() {
        let mut wake = after("rrx").unwrap();
        wake.report(1);
        wake.report(1);
        assert!(!wake.is_due());
        wake.report(0);
        assert!(wake.is_due());
        assert!(!wake.forget().is_due());
        assert_eq!(wake.forget().unknown().collect::<Vec<_>>(), [0, 1]);
    }
}
