//! What of a claim may be on each node: whether its keys have been written, and whether they have been
//! removed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use smallvec::{SmallVec, smallvec};

use crate::{backend::BackendErrorKind, reply::NodeOutcome, validity::Ttl};

/// What is known of the keys of one claim, for each node.
#[derive(Debug)]
pub(crate) struct Ledger(Mutex<Entries>);

#[derive(Debug)]
struct Entries {
    /// The longest requested TTL: no key lives longer after the last request.
    ttl: Ttl,
    /// Whether the lock has ended here: nothing is written anywhere any more.
    closed: bool,
    nodes: SmallVec<[NodeState; INLINE]>,
}

/// What a node may hold of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NodeState {
    write: Write,
    /// The state before the keys were written again.
    before: Write,
    /// Whether the node confirmed the last extension. Then the keys were written, even if the reply to the
    /// write got lost.
    confirmed: bool,
    /// Whether another client's keys were there.
    refused: bool,
    removal: Removal,
}

/// How far writing the keys has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Write {
    /// Nothing was written.
    #[default]
    Nothing,
    UnderWay,
    /// The keys are there, until they are removed or expire.
    Done,
    /// Unknown: the keys may be there, or may still come.
    Unknown,
}

/// How far removing them has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Removal {
    #[default]
    NotAsked,
    /// `behind`: sent while the keys were still being written.
    UnderWay { behind: bool },
    /// The keys were there and are removed.
    Removed,
    /// The keys were not there.
    Absent { behind: bool },
    /// The node did not remove them, but may do so later. That includes a node that rejected the request, as
    /// its configuration may change.
    Failed,
}

impl Ledger {
    /// Nothing has been written.
    pub(crate) fn new(ttl: Ttl, nodes: usize) -> Self {
        Self::with(ttl, Write::Nothing, nodes)
    }

    /// Another process has written the keys on every node.
    pub(crate) fn written(ttl: Ttl, nodes: usize) -> Self {
        Self::with(ttl, Write::Done, nodes)
    }

    fn with(ttl: Ttl, write: Write, nodes: usize) -> Self {
        let node = NodeState { write, ..NodeState::default() };
        Self(Mutex::new(Entries { ttl, closed: false, nodes: smallvec![node; nodes] }))
    }

    /// The longest requested TTL.
    pub(crate) fn ttl(&self) -> Ttl {
        self.entries().ttl
    }

    /// A request is about to let the keys live for `ttl`.
    pub(crate) fn raise_ttl(&self, ttl: Ttl) {
        let mut entries = self.entries();
        entries.ttl = entries.ttl.max(ttl);
    }

    pub(crate) fn begin_write(&self, node: usize) {
        self.entries().nodes[node].write = Write::UnderWay;
    }

    /// As [`Ledger::begin_write`], unless the lock has ended or the removal has begun: then nothing may be
    /// written any more. Some of the keys may be there, so a refusal says nothing about them.
    #[must_use]
    pub(crate) fn begin_rewrite(&self, node: usize) -> bool {
        let mut entries = self.entries();
        let closed = entries.closed;
        let state = &mut entries.nodes[node];
        // Nor twice at a time, which would lose the earlier state.
        let may = !closed && state.removal == Removal::NotAsked && state.write != Write::UnderWay;
        if may {
            state.before = state.write;
            state.write = Write::UnderWay;
        }
        may
    }

    /// Records the outcome of an acquire or a replace. Returns whether the node needs another release.
    #[must_use]
    pub(crate) fn finish_write(&self, node: usize, outcome: &NodeOutcome) -> bool {
        let state = &mut self.entries().nodes[node];
        state.write = match outcome {
            NodeOutcome::Granted => Write::Done,
            NodeOutcome::Failed(error) if error.kind() == BackendErrorKind::Indeterminate => Write::Unknown,
            _ => state.before,
        };
        state.refused |= matches!(outcome, NodeOutcome::Refused);
        state.needs_release()
    }

    /// Records the outcome of an extension.
    pub(crate) fn finish_extension(&self, node: usize, outcome: &NodeOutcome) {
        if let NodeOutcome::Granted | NodeOutcome::Refused = outcome {
            self.entries().nodes[node].confirmed = matches!(outcome, NodeOutcome::Granted);
        }
    }

    /// Another token has replaced this one.
    pub(crate) fn replaced(&self, node: usize) {
        self.entries().nodes[node].write = Write::Nothing;
    }

    pub(crate) fn begin_removal(&self, node: usize) {
        let state = &mut self.entries().nodes[node];
        state.removal = Removal::UnderWay { behind: state.write == Write::UnderWay };
    }

    /// Records the outcome of a release. Returns whether the node needs another one.
    #[must_use]
    pub(crate) fn finish_removal(&self, node: usize, outcome: &NodeOutcome) -> bool {
        let state = &mut self.entries().nodes[node];
        let behind = state.removal == Removal::UnderWay { behind: true };
        state.removal = match outcome {
            NodeOutcome::Removed => Removal::Removed,
            NodeOutcome::NotHeld => Removal::Absent { behind },
            _ => Removal::Failed,
        };
        state.needs_release()
    }

    /// The lock has ended in this process: released, lost, or handed over. Returns whether a node has refused
    /// to write its keys, as another client tried for it, too.
    pub(crate) fn close(&self) -> bool {
        let mut entries = self.entries();
        entries.closed = true;
        entries.nodes.iter().any(|state| state.refused)
    }

    /// Whether the node is known to have written the keys.
    pub(crate) fn is_written(&self, node: usize) -> bool {
        self.entries().nodes[node].write == Write::Done
    }

    /// Whether the keys may be on the node, or may still come.
    pub(crate) fn may_be_written(&self, node: usize) -> bool {
        self.entries().nodes[node].write != Write::Nothing
    }

    /// Whether the keys may be on the node, or may still come, and it has not confirmed that they are there.
    pub(crate) fn is_unsettled(&self, node: usize) -> bool {
        let state = self.entries().nodes[node];
        !state.confirmed && matches!(state.write, Write::UnderWay | Write::Unknown)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeState {
    /// Whether the keys may still be there, or may still come, after the reply to their removal: then a
    /// release is pending.
    fn needs_release(self) -> bool {
        match (self.write, self.removal) {
            // Not settled yet: the later of the two replies decides.
            (Write::UnderWay, _) | (_, Removal::NotAsked | Removal::UnderWay { .. }) => false,
            (_, Removal::Removed) | (Write::Nothing, _) => false,
            (Write::Done | Write::Unknown, Removal::Failed) => true,
            // When its connection broke, the acquire may still come out of a buffer.
            (Write::Unknown, Removal::Absent { .. }) => true,
            // A release that was sent behind the acquire may overtake it, over two connections. A release
            // that was sent after the reply to the acquire shows that the keys have expired.
            (Write::Done, Removal::Absent { behind }) => behind,
        }
    }
}

/// As many nodes as most have, and more: each lock has a ledger, which needs no memory of its own then.
const INLINE: usize = 7;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{backend::BackendError, validity::Drift};

    fn failed(kind: BackendErrorKind) -> NodeOutcome {
        NodeOutcome::Failed(BackendError::new(kind, "test"))
    }

    fn acquired() -> [NodeOutcome; 5] {
        [
            NodeOutcome::Granted,
            NodeOutcome::Refused,
            failed(BackendErrorKind::Indeterminate),
            failed(BackendErrorKind::Transient),
            failed(BackendErrorKind::Rejected),
        ]
    }

    fn released() -> [NodeOutcome; 5] {
        [
            NodeOutcome::Removed,
            NodeOutcome::NotHeld,
            failed(BackendErrorKind::Indeterminate),
            failed(BackendErrorKind::Transient),
            failed(BackendErrorKind::Rejected),
        ]
    }

    fn ttl() -> Ttl {
        Ttl::new(Duration::from_secs(1), Drift::new(0.01).unwrap()).unwrap()
    }

    fn ledger() -> Ledger {
        Ledger::new(ttl(), 1)
    }

    /// Rows: removed, not held, indeterminate, transient, rejected. Columns: granted, refused, indeterminate,
    /// ...
    const PENDING_BEHIND: [[bool; 5]; 5] = [
        [false, false, false, false, false],
        [true, false, true, false, false],
        [true, false, true, false, false],
        [true, false, true, false, false],
        [true, false, true, false, false],
    ];

    #[test]
    fn a_release_behind_an_acquire_is_pending_unless_it_is_known_to_have_worked() {
        for (row, released) in released().iter().enumerate() {
            for (column, acquired) in acquired().iter().enumerate() {
                let expected = PENDING_BEHIND[row][column];
                let ledger = ledger();
                ledger.begin_write(0);
                ledger.begin_removal(0);
                assert!(!ledger.finish_write(0, acquired), "not settled");
                assert_eq!(ledger.finish_removal(0, released), expected, "{acquired:?}, then {released:?}");

                let ledger = self::ledger();
                ledger.begin_write(0);
                ledger.begin_removal(0);
                assert!(!ledger.finish_removal(0, released), "not settled");
                assert_eq!(ledger.finish_write(0, acquired), expected, "{released:?}, then {acquired:?}");
            }
        }
    }

    #[test]
    fn a_release_after_an_acquire_that_finds_nothing_leaves_nothing_pending() {
        let ledger = ledger();
        ledger.begin_write(0);
        assert!(!ledger.finish_write(0, &NodeOutcome::Granted));
        assert!(ledger.is_written(0));
        ledger.begin_removal(0);
        assert!(!ledger.finish_removal(0, &NodeOutcome::NotHeld), "it has expired");
    }

    #[test]
    fn nothing_is_rewritten_once_the_removal_has_begun() {
        let ledger = ledger();
        assert!(ledger.begin_rewrite(0));
        assert!(!ledger.finish_write(0, &NodeOutcome::Granted));
        ledger.begin_removal(0);
        assert!(!ledger.begin_rewrite(0));
        assert!(!ledger.finish_removal(0, &NodeOutcome::Removed));
        assert!(!ledger.begin_rewrite(0));
    }

    #[test]
    fn what_an_extension_has_confirmed_is_settled_whatever_became_of_the_acquire() {
        for acquired in [None, Some(failed(BackendErrorKind::Indeterminate))] {
            let ledger = ledger();
            ledger.begin_write(0);
            if let Some(acquired) = &acquired {
                assert!(!ledger.finish_write(0, acquired));
            }
            assert!(ledger.is_unsettled(0));
            ledger.finish_extension(0, &NodeOutcome::Granted);
            assert!(!ledger.is_unsettled(0));
            ledger.finish_extension(0, &failed(BackendErrorKind::Indeterminate));
            assert!(!ledger.is_unsettled(0), "it says nothing");
            ledger.finish_extension(0, &NodeOutcome::Refused);
            assert!(ledger.is_unsettled(0));
        }
    }

    #[test]
    fn nothing_is_rewritten_once_the_lock_has_ended() {
        let ledger = ledger();
        ledger.close();
        assert!(!ledger.begin_rewrite(0));
    }

    #[test]
    fn a_lock_that_a_node_refused_was_disputed() {
        for outcome in acquired() {
            let ledger = Ledger::new(ttl(), 2);
            ledger.begin_write(0);
            ledger.begin_write(1);
            assert!(!ledger.finish_write(1, &outcome));
            assert_eq!(ledger.close(), matches!(outcome, NodeOutcome::Refused), "{outcome:?}");
        }
    }

    #[test]
    fn keys_that_could_not_be_rewritten_may_remain_in_part() {
        for refused in [NodeOutcome::Refused, failed(BackendErrorKind::Transient)] {
            for before in [NodeOutcome::Granted, failed(BackendErrorKind::Indeterminate)] {
                let ledger = ledger();
                ledger.begin_write(0);
                assert!(!ledger.finish_write(0, &before));
                assert!(ledger.begin_rewrite(0));
                assert!(!ledger.finish_write(0, &refused));
                ledger.begin_removal(0);
                assert!(
                    ledger.finish_removal(0, &failed(BackendErrorKind::Indeterminate)),
                    "{before:?}, {refused:?}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_pending_on_a_node_that_was_never_asked() {
        let ledger = ledger();
        ledger.begin_removal(0);
        assert!(!ledger.finish_removal(0, &failed(BackendErrorKind::Indeterminate)));
    }

    #[test]
    fn the_keys_of_another_process_may_be_on_every_node_until_they_are_replaced() {
        let ledger = Ledger::written(ttl(), 1);
        ledger.replaced(0);
        assert!(!ledger.may_be_written(0));
        let ledger = Ledger::written(ttl(), 1);
        assert!(ledger.may_be_written(0));
        ledger.begin_removal(0);
        assert!(ledger.finish_removal(0, &failed(BackendErrorKind::Indeterminate)));
    }
}
