//! Reading keys, for people.

// Tests: below; tests/tests/it/servers/inspecting.rs.

use std::{fmt, time::Duration};

use crate::{note, resources::Resources, token::Token};

/// A request for the state of keys.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Inspect<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// How long the node may take to reply.
    pub timeout: Duration,
    /// Whether to read the holders' notes, too. On a server, they are at keys of their own, which the user
    /// has to be permitted to read. `new` sets it to false.
    pub notes: bool,
}

impl<'a> Inspect<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, timeout: Duration) -> Self {
        Self { resources, timeout, notes: false }
    }

    /// The same, which also reads the holders' notes.
    #[must_use]
    pub fn with_notes(self) -> Self {
        Self { notes: true, ..self }
    }
}

/// The state of a key on a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyState {
    /// Nothing.
    Free,
    /// A value.
    #[non_exhaustive]
    Held {
        /// The beginning of the value: the [prefix](Token::prefix) of a token.
        holder: String,
        /// The remaining TTL; `None` when the key never expires.
        remaining: Option<Duration>,
        /// The [note](crate::Note) of this holder, if there is one and it was requested: a short text of
        /// another client, of which what is not printable is escaped.
        note: Option<String>,
    },
}

impl KeyState {
    /// A key that holds `value`, of which as many bytes are kept as a token's [prefix](Token::prefix) has.
    /// What is not printable ASCII is escaped.
    #[must_use]
    pub fn held(value: &[u8], remaining: Option<Duration>) -> Self {
        let start = &value[..value.len().min(Token::PREFIX_LEN)];
        Self::Held { holder: start.escape_ascii().to_string(), remaining, note: None }
    }

    /// The same with the text of the holder's note, which is cut to a [note's
    /// length](crate::Note::MAX_LEN), and of which what is not printable is escaped. A key that is free
    /// stays so.
    #[must_use]
    pub fn with_note(self, text: &[u8]) -> Self {
        match self {
            Self::Free => Self::Free,
            Self::Held { holder, remaining, .. } => {
                Self::Held { holder, remaining, note: Some(note::foreign(text)) }
            }
        }
    }
}

/// Who holds a resource, by the note beside its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Holder {
    /// The [prefix](Token::prefix) of its token.
    pub prefix: String,
    /// Its [note](crate::Note), as [`KeyState::Held`] has it.
    pub note: String,
}

impl Holder {
    /// That of the first key with a note.
    pub(crate) fn of(states: Vec<KeyState>) -> Option<Self> {
        states.into_iter().find_map(|state| match state {
            KeyState::Held { holder, note: Some(note), .. } => Some(Self { prefix: holder, note }),
            _ => None,
        })
    }
}

/// `01234567 (HOST pid 42: nightly report)`
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.prefix, self.note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_shown_by_the_beginning_of_its_value() {
        for (value, shown) in
            [(&b"0123456789abcdef"[..], "01234567"), (b"ab", "ab"), (b"\x00\xff\n", "\\x00\\xff\\n")]
        {
            let KeyState::Held { holder, .. } = KeyState::held(value, None) else { panic!("{value:?}") };
            assert_eq!(holder, shown);
        }
    }
}
