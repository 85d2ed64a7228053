//! One round's claim on its resources, and the book that is kept on each node: what may still stand there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    backend::{AcquireReply, BackendError, BackendErrorKind, ReleaseReply},
    resources::Resources,
    token::Token,
    validity::Ttl,
};

/// Resources, and the token of the one round that claims them.
///
/// Every round has a token of its own: with one for all rounds, the late release of the first would delete
/// the key of the second.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) resources: Resources,
    pub(crate) token: Token,
    book: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    /// The longest ttl that was asked for: no key lives longer after the last request.
    ttl: Ttl,
    /// Whether the lock has ended here: nothing is put anywhere any more.
    closed: bool,
    /// By node.
    entries: Vec<NodeState>,
}

impl Ledger {
    fn new(ttl: Ttl, put: Write, nodes: usize) -> Mutex<Self> {
        let entry = NodeState { put, ..NodeState::default() };
        Mutex::new(Self { ttl, closed: false, entries: vec![entry; nodes] })
    }
}

/// What a node may hold of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NodeState {
    put: Write,
    /// What was there before the keys were put there (again).
    before: Write,
    /// Whether the node said to the last extension that it holds the keys. Then they were put there, whatever
    /// became of the answer to that.
    confirmed: bool,
    undo: Removal,
}

/// How far putting the keys there has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Write {
    /// Nothing was written.
    #[default]
    Nothing,
    UnderWay,
    /// The keys are there, until they are removed or expire.
    Done,
    /// Nobody knows: they may be there, or still come.
    Unknown,
}

/// How far removing them has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Removal {
    #[default]
    NotAsked,
    /// `behind`: asked while the keys were still being put there.
    UnderWay { behind: bool },
    /// The keys were there and are removed.
    Removed,
    /// They were not there.
    Absent { behind: bool },
    /// The node did not do it, but may do it later: also one that rejected it, when somebody has changed its
    /// configuration.
    Failed,
}

impl Claim {
    pub(crate) fn new(resources: Resources, token: Token, ttl: Ttl, nodes: usize) -> Self {
        Self { resources, token, book: Ledger::new(ttl, Write::Nothing, nodes) }
    }

    /// The claim that a lock was handed over with: another process has put its keys there.
    pub(crate) fn handed_over(resources: Resources, token: Token, ttl: Ttl, nodes: usize) -> Self {
        Self { resources, token, book: Ledger::new(ttl, Write::Done, nodes) }
    }

    pub(crate) fn ttl(&self) -> Ttl {
        self.book().ttl
    }

    /// Books that the keys are asked to live for `ttl`.
    pub(crate) fn extending(&self, ttl: Ttl) {
        let mut book = self.book();
        book.ttl = book.ttl.max(ttl);
    }

    pub(crate) fn putting(&self, node: usize) {
        self.book().entries[node].put = Write::UnderWay;
    }

    /// As [`Claim::putting`], unless the lock has ended or its removal has begun: then nothing may be put
    /// there any more. Of the keys some may be there, so a refusal says nothing about them.
    #[must_use]
    pub(crate) fn begin_rewrite(&self, node: usize) -> bool {
        let mut book = self.book();
        let closed = book.closed;
        let entry = &mut book.entries[node];
        // Nor twice at a time: what was there before would be forgotten.
        let may = !closed && entry.undo == Removal::NotAsked && entry.put != Write::UnderWay;
        if may {
            entry.before = entry.put;
            entry.put = Write::UnderWay;
        }
        may
    }

    /// The lock has ended here: released, lost, or left to somebody else.
    pub(crate) fn close(&self) {
        self.book().closed = true;
    }

    /// Books the answer to an acquire. Whether the node owes a removal.
    #[must_use]
    pub(crate) fn put(&self, node: usize, answer: &Result<AcquireReply, BackendError>) -> bool {
        let entry = &mut self.book().entries[node];
        entry.put = match answer.as_ref().map_err(BackendError::kind) {
            Ok(AcquireReply::Granted) => Write::Done,
            Err(BackendErrorKind::Indeterminate) => Write::Unknown,
            Ok(AcquireReply::Refused) | Err(BackendErrorKind::Transient | BackendErrorKind::Rejected) => {
                entry.before
            }
        };
        entry.owes()
    }

    /// Books the answer to an extension.
    pub(crate) fn extended(&self, node: usize, answer: &Result<AcquireReply, BackendError>) {
        if let Ok(reply) = answer {
            self.book().entries[node].confirmed = *reply == AcquireReply::Granted;
        }
    }

    /// Books that another token stands in the place of this one.
    pub(crate) fn replaced(&self, node: usize) {
        self.book().entries[node].put = Write::Nothing;
    }

    /// Whether the keys may be on the node, or still come, without its word for it.
    pub(crate) fn is_unsettled(&self, node: usize) -> bool {
        let entry = self.book().entries[node];
        !entry.confirmed && matches!(entry.put, Write::UnderWay | Write::Unknown)
    }

    /// Whether the keys may be on the node.
    pub(crate) fn may_stand(&self, node: usize) -> bool {
        self.book().entries[node].put != Write::Nothing
    }

    pub(crate) fn undoing(&self, node: usize) {
        let entry = &mut self.book().entries[node];
        entry.undo = Removal::UnderWay { behind: entry.put == Write::UnderWay };
    }

    /// Books the answer to a release. Whether the node owes another one.
    #[must_use]
    pub(crate) fn undone(&self, node: usize, answer: &Result<ReleaseReply, BackendError>) -> bool {
        let entry = &mut self.book().entries[node];
        let behind = entry.undo == Removal::UnderWay { behind: true };
        entry.undo = match answer.as_ref().map_err(BackendError::kind) {
            Ok(ReleaseReply::Removed) => Removal::Removed,
            Ok(ReleaseReply::NotHeld) => Removal::Absent { behind },
            Err(_) => Removal::Failed,
        };
        entry.owes()
    }

    /// Whether the node is known to have put the keys there.
    pub(crate) fn is_written(&self, node: usize) -> bool {
        self.book().entries[node].put == Write::Done
    }

    fn book(&self) -> MutexGuard<'_, Ledger> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeState {
    /// Whether the keys may still be there, or still come, although their removal has been answered: then it
    /// has to be asked for again.
    fn owes(self) -> bool {
        match (self.put, self.undo) {
            // Not settled yet: the later of the two answers decides.
            (Write::UnderWay, _) | (_, Removal::NotAsked | Removal::UnderWay { .. }) => false,
            (_, Removal::Removed) | (Write::Nothing, _) => false,
            (Write::Done | Write::Unknown, Removal::Failed) => true,
            // Sent over a connection that broke, the acquire may still come out of a buffer.
            (Write::Unknown, Removal::Absent { .. }) => true,
            // The release was asked behind the acquire but came first: over two connections, that can be.
            // Asked for after the acquire was done, it says that the keys have expired.
            (Write::Done, Removal::Absent { behind }) => behind,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::validity::Drift;

    fn failed<T>(kind: BackendErrorKind) -> Result<T, BackendError> {
        Err(BackendError::new(kind, "test"))
    }

    fn acquired() -> [Result<AcquireReply, BackendError>; 5] {
        [
            Ok(AcquireReply::Granted),
            Ok(AcquireReply::Refused),
            failed(BackendErrorKind::Indeterminate),
            failed(BackendErrorKind::Transient),
            failed(BackendErrorKind::Rejected),
        ]
    }

    fn released() -> [Result<ReleaseReply, BackendError>; 5] {
        [
            Ok(ReleaseReply::Removed),
            Ok(ReleaseReply::NotHeld),
            failed(BackendErrorKind::Indeterminate),
            failed(BackendErrorKind::Transient),
            failed(BackendErrorKind::Rejected),
        ]
    }

    fn claim() -> Claim {
        let ttl = Ttl::new(Duration::from_secs(1), Drift::new(0.01).unwrap()).unwrap();
        Claim::new("a".into(), "0".repeat(40).parse().unwrap(), ttl, 1)
    }

    /// Rows: removed, not held, indeterminate, transient, rejected. Columns: granted, refused, indeterminate,
    /// ...
    const OWED_BEHIND: [[bool; 5]; 5] = [
        [false, false, false, false, false],
        [true, false, true, false, false],
        [true, false, true, false, false],
        [true, false, true, false, false],
        [true, false, true, false, false],
    ];

    #[test]
    fn a_release_behind_an_acquire_is_owed_again_unless_it_is_known_to_have_worked() {
        for (row, released) in released().iter().enumerate() {
            for (column, acquired) in acquired().iter().enumerate() {
                let expected = OWED_BEHIND[row][column];
                let claim = claim();
                claim.putting(0);
                claim.undoing(0);
                assert!(!claim.put(0, acquired), "not settled");
                assert_eq!(claim.undone(0, released), expected, "{acquired:?}, then {released:?}");

                let claim = self::claim();
                claim.putting(0);
                claim.undoing(0);
                assert!(!claim.undone(0, released), "not settled");
                assert_eq!(claim.put(0, acquired), expected, "{released:?}, then {acquired:?}");
            }
        }
    }

    #[test]
    fn a_release_after_an_acquire_that_finds_nothing_owes_nothing() {
        let claim = claim();
        claim.putting(0);
        assert!(!claim.put(0, &Ok(AcquireReply::Granted)));
        assert!(claim.is_written(0));
        claim.undoing(0);
        assert!(!claim.undone(0, &Ok(ReleaseReply::NotHeld)), "it has expired");
    }

    #[test]
    fn nothing_is_put_back_once_the_removal_has_begun() {
        let claim = claim();
        assert!(claim.begin_rewrite(0));
        assert!(!claim.put(0, &Ok(AcquireReply::Granted)));
        claim.undoing(0);
        assert!(!claim.begin_rewrite(0));
        assert!(!claim.undone(0, &Ok(ReleaseReply::Removed)));
        assert!(!claim.begin_rewrite(0));
    }

    #[test]
    fn what_an_extension_has_confirmed_is_settled_whatever_became_of_the_acquire() {
        for acquired in [None, Some(failed(BackendErrorKind::Indeterminate))] {
            let claim = claim();
            claim.putting(0);
            if let Some(acquired) = &acquired {
                assert!(!claim.put(0, acquired));
            }
            assert!(claim.is_unsettled(0));
            claim.extended(0, &Ok(AcquireReply::Granted));
            assert!(!claim.is_unsettled(0));
            claim.extended(0, &failed(BackendErrorKind::Indeterminate));
            assert!(!claim.is_unsettled(0), "it says nothing");
            claim.extended(0, &Ok(AcquireReply::Refused));
            assert!(claim.is_unsettled(0));
        }
    }

    #[test]
    fn nothing_is_put_back_once_the_lock_has_ended() {
        let claim = claim();
        claim.close();
        assert!(!claim.begin_rewrite(0));
    }

    #[test]
    fn keys_that_could_not_be_put_back_may_still_be_there_in_part() {
        for refused in [Ok(AcquireReply::Refused), failed(BackendErrorKind::Transient)] {
            for before in [Ok(AcquireReply::Granted), failed(BackendErrorKind::Indeterminate)] {
                let claim = claim();
                claim.putting(0);
                assert!(!claim.put(0, &before));
                assert!(claim.begin_rewrite(0));
                assert!(!claim.put(0, &refused));
                claim.undoing(0);
                assert!(claim.undone(0, &failed(BackendErrorKind::Indeterminate)), "{before:?}, {refused:?}");
            }
        }
    }

    #[test]
    fn a_node_that_was_never_asked_owes_nothing() {
        let claim = claim();
        claim.undoing(0);
        assert!(!claim.undone(0, &failed(BackendErrorKind::Indeterminate)));
    }

    #[test]
    fn a_handed_over_claim_is_taken_to_stand_on_every_node_until_it_is_replaced() {
        let handed_over = || {
            let other = claim();
            let ttl = other.ttl();
            Claim::handed_over(other.resources, other.token, ttl, 1)
        };
        let claim = handed_over();
        claim.replaced(0);
        assert!(!claim.may_stand(0));
        let claim = handed_over();
        assert!(claim.may_stand(0));
        claim.undoing(0);
        assert!(claim.undone(0, &failed(BackendErrorKind::Indeterminate)));
    }
}
