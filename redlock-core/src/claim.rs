//! What one round claims.

// Tests: ledger.rs.

use crate::{ledger::Ledger, note::Note, resources::Resources, token::Token, validity::Ttl};

/// Resources, the token of the one round that claims them, and the state of its keys on the nodes.
///
/// Every round has a token of its own: with one for all rounds, the late release of the first would delete
/// the key of the second.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) resources: Resources,
    pub(crate) token: Token,
    pub(crate) ledger: Ledger,
    /// What the nodes store beside the keys of a round that was won.
    pub(crate) note: Option<Note>,
}

impl Claim {
    pub(crate) fn new(resources: Resources, token: Token, ttl: Ttl, nodes: usize) -> Self {
        Self { resources, token, ledger: Ledger::new(ttl, nodes), note: None }
    }

    /// The same with a note.
    pub(crate) fn with_note(self, note: Option<Note>) -> Self {
        Self { note, ..self }
    }

    /// The claim of a lock from another process, which has written its keys.
    pub(crate) fn handed_over(resources: Resources, token: Token, ttl: Ttl, nodes: usize) -> Self {
        Self { resources, token, ledger: Ledger::written(ttl, nodes), note: None }
    }
}
