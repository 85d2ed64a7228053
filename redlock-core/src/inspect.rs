//! Looking at keys, for people.

use std::time::Duration;

use crate::resources::Resources;

/// A request to tell what stands under keys.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Inspect<'a> {
    /// The keys.
    pub resources: &'a Resources,
    /// How long the node has for its answer.
    pub timeout: Duration,
}

impl<'a> Inspect<'a> {
    /// A request with all of its fields.
    #[must_use]
    pub fn new(resources: &'a Resources, timeout: Duration) -> Self {
        Self { resources, timeout }
    }
}

/// What stands under a key of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyState {
    /// Nothing.
    Free,
    /// A value.
    #[non_exhaustive]
    Held {
        /// The beginning of the value: enough to tell two holders apart, too little to release or extend
        /// with.
        holder: String,
        /// How long the key still lives; `None` when it never expires.
        remaining: Option<Duration>,
    },
}

impl KeyState {
    /// A key that holds `value`, of which the first 8 bytes are kept. What is not printable ASCII is escaped.
    #[must_use]
    pub fn held(value: &[u8], remaining: Option<Duration>) -> Self {
        let start = &value[..value.len().min(HOLDER)];
        Self::Held { holder: start.escape_ascii().to_string(), remaining }
    }
}

/// How many bytes of a value are shown: half of the shortest token, or less, stay hidden.
pub(crate) const HOLDER: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_told_by_the_beginning_of_its_value() {
        for (value, told) in
            [(&b"0123456789abcdef"[..], "01234567"), (b"ab", "ab"), (b"\x00\xff\n", "\\x00\\xff\\n")]
        {
            let KeyState::Held { holder, .. } = KeyState::held(value, None) else { panic!("{value:?}") };
            assert_eq!(holder, told);
        }
    }
}
