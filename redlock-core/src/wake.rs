//! When a lost round is worth another one before its delay has passed. There is no clock and no async.

// Tests: below; tests/tests/it/sim/watching.rs.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    quorum::quorum,
    reply::{NodeOutcome, NodeReply},
    resources::Resources,
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

/// How many clients wait for the same resource, as far as one of them notices: how often others got it while
/// this one waited for it. All of them are woken at once, and the more they are, the longer is the time in
/// which each picks a moment to try.
#[derive(Debug)]
pub(crate) struct Rivals {
    /// In the last waits, in sixteenths.
    usual: u32,
    seen: u32,
}

impl Rivals {
    /// Somebody else got it.
    pub(crate) fn won(&mut self) {
        self.seen = self.seen.saturating_add(1);
    }

    /// In which time to pick a moment, if a request takes `trip`: none without rivals.
    pub(crate) fn window(&self, trip: Duration) -> Duration {
        let rivals = self.usual.div_ceil(SCALE).max(self.seen).min(MOST);
        trip.clamp(SHORTEST_TRIP, LONGEST_TRIP) * rivals * SPREAD
    }

    fn learnt(&self) -> u32 {
        let seen = self.seen.min(MOST) * SCALE;
        // Rounded towards what was seen, so that it arrives there.
        if seen < self.usual {
            self.usual - (self.usual - seen).div_ceil(4)
        } else {
            self.usual + (seen - self.usual) / 4
        }
    }
}

/// The rivals of the last waits, for each resource; resources share a place when there are many.
#[derive(Debug)]
pub(crate) struct UsualRivals([AtomicU32; PLACES]);

impl UsualRivals {
    pub(crate) fn of(&self, resources: &Resources) -> Rivals {
        Rivals { usual: self.place(resources).load(Ordering::Relaxed), seen: 0 }
    }

    /// A wait has ended with the lock.
    pub(crate) fn learn(&self, resources: &Resources, rivals: &Rivals) {
        let (place, learnt) = (self.place(resources), rivals.learnt());
        if learnt != rivals.usual {
            place.store(learnt, Ordering::Relaxed);
        }
    }

    fn place(&self, resources: &Resources) -> &AtomicU32 {
        let mut hasher = DefaultHasher::new();
        resources.iter().for_each(|name| name.hash(&mut hasher));
        &self.0[hasher.finish() as usize % PLACES]
    }
}

impl Default for UsualRivals {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; PLACES])
    }
}

const SCALE: u32 = 16;
/// How many trips the window has for each rival. Two clients try together when they pick moments within one
/// trip; a longer window costs time. In the simulation 16 clients need 2.3 rounds for each success with 4,
/// and 3.4 with 1.
const SPREAD: u32 = 4;
/// So many rivals at most count.
const MOST: u32 = 64;
const PLACES: usize = 64;
const SHORTEST_TRIP: Duration = Duration::from_micros(200);
const LONGEST_TRIP: Duration = Duration::from_millis(50);

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

    #[test]
    fn the_window_follows_the_number_of_rivals_and_there_is_none_without_them() {
        let (usual, resources) = (UsualRivals::default(), Resources::from("a"));
        let trip = Duration::from_millis(1);
        let each = SPREAD * trip;
        let wait = |others: u32| {
            let mut rivals = usual.of(&resources);
            let before = rivals.window(trip);
            (0..others).for_each(|_| rivals.won());
            assert!(rivals.window(trip) >= each * others);
            usual.learn(&resources, &rivals);
            before
        };
        assert_eq!(wait(0), Duration::ZERO);
        (0..20).for_each(|_| assert!(wait(15) <= each * 15));
        assert!((each * 14..=each * 15).contains(&wait(15)));
        (0..40).for_each(|_| assert!(wait(0) <= each * 15));
        assert_eq!(wait(0), Duration::ZERO);
        assert_eq!(usual.of(&resources).window(trip), Duration::ZERO);
        (0..40).for_each(|_| assert!(wait(1) <= each));
        assert_eq!(wait(1), each);
    }

    #[test]
    fn the_window_is_bounded() {
        let rivals = Rivals { usual: u32::MAX, seen: u32::MAX };
        assert_eq!(rivals.window(Duration::MAX), LONGEST_TRIP * MOST * SPREAD);
        assert_eq!(Rivals { usual: 0, seen: 1 }.window(Duration::ZERO), SHORTEST_TRIP * SPREAD);
        assert_eq!(Rivals { usual: 0, seen: u32::MAX }.learnt(), MOST * SCALE / 4);
    }
}
