//! Reading keys, for people.

// Tests: below; tests/tests/it/servers/inspecting.rs.

use std::time::Duration;

use crate::{resources::Resources, token::Token};

/// A request for the state of keys.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Inspect<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// How long the node may take to reply.
    pub timeout: Duration,
}

impl<'a> Inspect<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, timeout: Duration) -> Self {
        Self { resources, timeout }
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
    },
}

impl KeyState {
    /// A key that holds `value`, of which as many bytes are kept as a token's [prefix](Token::prefix) has.
    /// What is not printable ASCII is escaped.
    #[must_use]
    pub fn held(value: &[u8], remaining: Option<Duration>) -> Self {
        let start = &value[..value.len().min(Token::PREFIX_LEN)];
        Self::Held { holder: start.escape_ascii().to_string(), remaining }
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
