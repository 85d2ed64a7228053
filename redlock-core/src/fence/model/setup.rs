//! A configuration of the model: what may happen, and which deliberate error is made.

use crate::quorum::quorum;

/// What may happen in a model, beside what may always happen: keys vanish, and requests and replies are late,
/// lost, or overtake each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup<const ATTEMPTS: usize> {
    pub(super) name: &'static str,
    /// The resources of each attempt, as bits.
    pub(super) wants: [u8; ATTEMPTS],
    /// How often each node can execute one acquire.
    pub(super) executions: u8,
    /// The counters are anything up to this at the start.
    pub(super) first_counters: u32,
    pub(super) clocks: Clocks,
    /// How many nodes lose data, and how.
    pub(super) losses: u8,
    pub(super) loss: Loss,
    /// For how many ticks the replies of a node that has lost data do not count.
    pub(super) guard: u8,
    /// For how many ticks a round may last.
    pub(super) patience: Option<u8>,
    /// After how many ticks without a change a counter may expire.
    pub(super) counter_ttl: Option<u8>,
    /// How often each node can execute a put-back of keys that it has lost.
    pub(super) put_backs: u8,
    /// A lock that is held is extended: its token is raised again.
    pub(super) extends: bool,
    /// A key vanishes in a step of its own. Else it does when it is granted to somebody else: until then it
    /// only allows its holder more.
    pub(super) keys_vanish_in_steps: bool,
    pub(super) quorum: usize,
    pub(super) deviation: Option<Deviation>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Clocks {
    /// There is no time. A proposal, after the node has limited it, is any of these.
    Any(&'static [u32]),
    /// Time ends after some ticks. The clocks of clients differ from it by one of these; those of nodes are
    /// right. A tick is as long as a client's clock may be ahead of a node's.
    Skewed { end: u8, skews: &'static [i8] },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// A node restarts empty.
    All,
    /// A node restarts with what it had at any time before.
    Rollback,
}

/// A deliberate error: one of a client, or one of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deviation {
    /// The highest of the grants' counters is the token.
    RaiseIsLeftOut,
    /// One grant is enough for its counter to be the token.
    OneGrantIsAQuorum,
    /// One acknowledged raise is enough.
    OneRaiseIsAQuorum,
    /// A higher counter acknowledges a raise.
    HigherIsAcknowledged,
    /// A higher counter that a raise has found is the token.
    HigherIsTheToken,
    /// The acknowledgements of a raise count for the next one.
    OldAcknowledgementsCount,
    /// Two replies of one node are two votes.
    OneNodeVotesTwice,
    /// A second round has the value of the first, and its replies.
    OldGrantsCount,
    /// A higher counter that an extension has found is the token from then on.
    ExtensionChangesTheToken,
    /// A round may end after its deadline.
    DeadlineIsIgnored,
    /// A grant does not count on.
    GrantDoesNotCount,
    /// A proposal replaces the counter, also a higher one.
    ProposalReplaces,
    /// Counters are removed with their keys.
    CountersEndWithKeys,
    /// A raise is acknowledged wherever it arrives.
    RaiseNeedsNoKey,
    /// A raise is acknowledged by a counter that is higher.
    RaiseAcknowledgesHigher,
    /// A raise also lowers.
    RaiseLowers,
    /// A raise needs the key of one resource.
    RaiseNeedsOneKey,
    /// A raise changes the counter of one resource.
    RaiseChangesOneCounter,
    /// A grant of several resources counts on from the counter of one.
    OneCounterCounts,
    /// A grant of several resources counts on each from its own.
    EachCountsForItself,
    /// A grant where one key is held already does not count.
    PartlyHeldDoesNotCount,
    /// A node does not limit proposals.
    ProposalIsNotLimited,
    /// A node that has lost data acknowledges raises while its guard lasts.
    GuardLetsRaisesPass,
}

impl<const ATTEMPTS: usize> Setup<ATTEMPTS> {
    /// One resource, nodes that lose nothing, and no time.
    pub(super) fn new<const NODES: usize>(name: &'static str) -> Self {
        Self {
            name,
            wants: [1; ATTEMPTS],
            executions: 1,
            first_counters: 1,
            clocks: Clocks::Any(&[0]),
            losses: 0,
            loss: Loss::All,
            guard: 0,
            patience: None,
            counter_ttl: None,
            put_backs: 0,
            extends: false,
            keys_vanish_in_steps: false,
            quorum: quorum(NODES),
            deviation: None,
        }
    }

    pub(super) fn deviates(&self, deviation: Deviation) -> bool {
        self.deviation == Some(deviation)
    }

    /// Whether it does not matter which attempt is which.
    pub(super) fn attempts_alike(&self) -> bool {
        self.wants.iter().all(|wants| *wants == self.wants[0])
    }
}
