//! What the replies to commands mean.

// Tests: below; redis/dialect/reading.rs.

use std::{fmt, num::NonZeroU64, time::Duration};

use super::scripts::NOTE_MARK;
use crate::{
    backend::{AcquireReply, BackendError, BackendErrorKind, FencedReply},
    fence::MAX_FENCE,
    inspect::KeyState,
    token::Token,
};

/// A server's reply to a [`Command`](super::Command), if it is no error line.
#[derive(Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "whoever makes one has to know each kind")]
pub enum Reply {
    /// Nil, of RESP2 or RESP3.
    Nil,
    /// An integer.
    Number(i64),
    /// A string of bytes.
    Text(Vec<u8>),
    /// Anything else.
    Other,
}

/// The replies that a command can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Integers from 0 to this one.
    UpTo(i64),
    /// A counter, or 0.
    Fenced,
    /// What a key holds.
    Value,
    /// Whoever sends the command reads the reply.
    Any,
}

impl Reply {
    /// The vote in a reply to [`Command::extend`](super::Command::extend),
    /// [`Command::replace`](super::Command::replace), or [`Command::acquire`](super::Command::acquire).
    ///
    /// # Errors
    ///
    /// [`Reply::unexpected`], for any other reply.
    pub fn vote(&self) -> Result<AcquireReply, BackendError> {
        match self {
            Self::Number(1) => Ok(AcquireReply::Granted),
            Self::Number(0) => Ok(AcquireReply::Refused),
            _ => Err(Self::unexpected()),
        }
    }

    /// The meaning of a reply to [`Command::acquire_fenced`](super::Command::acquire_fenced) or
    /// [`Command::raise`](super::Command::raise): 0 is a refusal, and a number up to 2^53 - 1 is the highest
    /// counter.
    ///
    /// # Errors
    ///
    /// [`Reply::unexpected`], for any other reply.
    pub fn fenced(&self) -> Result<FencedReply, BackendError> {
        match self {
            Self::Number(0) => Ok(FencedReply::Refused),
            Self::Number(number) => {
                let counter = u64::try_from(*number).ok().and_then(NonZeroU64::new);
                let counter = counter.filter(|counter| counter.get() <= MAX_FENCE);
                counter.map(|counter| FencedReply::Granted { counter }).ok_or_else(Self::unexpected)
            }
            _ => Err(Self::unexpected()),
        }
    }

    /// The error for a reply that is none to the command: it may belong to another request, come from a
    /// proxy, or come after the command has taken effect.
    #[must_use]
    pub fn unexpected() -> BackendError {
        BackendError::new(BackendErrorKind::Indeterminate, "an answer of another type")
    }
}

/// Without the text, which may be a token.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("Nil"),
            Self::Number(number) => f.debug_tuple("Number").field(number).finish(),
            Self::Text(_) => f.write_str("Text(..)"),
            Self::Other => f.write_str("Other"),
        }
    }
}

impl Shape {
    pub(super) fn has(self, reply: &Reply) -> bool {
        match (self, reply) {
            (Self::UpTo(most), Reply::Number(number)) => (0..=most).contains(number),
            (Self::Fenced, reply) => reply.fenced().is_ok(),
            (Self::Value, Reply::Nil | Reply::Text(_)) | (Self::Any, _) => true,
            (Self::UpTo(_) | Self::Value, _) => false,
        }
    }
}

/// The state of a key, from the beginning of its value, if it has one, its TTL in ms (negative without an
/// expiry), and what is stored at the note's key, if it was read. A note of another holder is left out.
#[must_use]
pub fn key_state(value: Option<&[u8]>, ttl: i64, note: Option<&[u8]>) -> KeyState {
    let Some(value) = value else { return KeyState::Free };
    let state = KeyState::held(value, u64::try_from(ttl).ok().map(Duration::from_millis));
    match note.and_then(|note| note_of(value, note)) {
        Some(text) => state.with_note(text),
        None => state,
    }
}

/// The text of a note, if it is one of the holder with this value.
fn note_of<'a>(value: &[u8], note: &'a [u8]) -> Option<&'a [u8]> {
    let prefix = value.get(..Token::PREFIX_LEN)?;
    note.strip_prefix(NOTE_MARK.as_bytes())?.strip_prefix(prefix)?.strip_prefix(b" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_and_zero_are_votes() {
        assert_eq!(Reply::Number(1).vote().ok(), Some(AcquireReply::Granted));
        assert_eq!(Reply::Number(0).vote().ok(), Some(AcquireReply::Refused));
        for reply in
            [Reply::Number(2), Reply::Number(-1), Reply::Nil, Reply::Text(b"1".to_vec()), Reply::Other]
        {
            let kind = reply.vote().map_err(|error| error.kind());
            assert_eq!(kind, Err(BackendErrorKind::Indeterminate), "{reply:?}");
        }
    }

    #[test]
    fn a_fenced_reply_is_a_counter_or_zero() {
        let read = |number| Reply::Number(number).fenced().map_err(|error| error.kind());
        let granted = |counter| Ok(FencedReply::Granted { counter: NonZeroU64::new(counter).unwrap() });
        assert_eq!(read(0), Ok(FencedReply::Refused));
        assert_eq!(read(1), granted(1));
        assert_eq!(read((1 << 53) - 1), granted((1 << 53) - 1));
        for number in [1 << 53, i64::MAX, -1, i64::MIN] {
            assert_eq!(read(number), Err(BackendErrorKind::Indeterminate), "{number}");
        }
        for reply in [Reply::Nil, Reply::Text(b"1".to_vec()), Reply::Other] {
            assert!(reply.fenced().is_err(), "{reply:?}");
        }
    }

    #[test]
    fn a_printed_reply_has_no_token() {
        assert_eq!(format!("{:?}", Reply::Text(b"0123".to_vec())), "Text(..)");
    }

    #[test]
    fn a_key_has_a_holder_and_a_remaining_ttl() {
        let held = |left| KeyState::held(b"ab", left);
        assert_eq!(key_state(None, -2, None), KeyState::Free);
        assert_eq!(key_state(Some(b"ab"), 5, None), held(Some(Duration::from_millis(5))));
        assert_eq!(key_state(Some(b"ab"), -1, None), held(None));
    }

    #[test]
    fn a_note_is_shown_of_the_holder_only() {
        let held = KeyState::held(b"01234567", None);
        let state = |note: &[u8]| key_state(Some(b"01234567"), -1, Some(note));
        assert_eq!(state(b"note 01234567 who"), held.clone().with_note(b"who"));
        assert_eq!(state(b"note 01234567 "), held.clone().with_note(b""));
        for other in ["note 01234568 who", "note 01234567", "01234567 who", "Note 01234567 who", ""] {
            assert_eq!(state(other.as_bytes()), held, "{other}");
        }
        assert_eq!(key_state(None, -2, Some(b"note 01234567 who")), KeyState::Free);
        // No token is that short.
        assert_eq!(key_state(Some(b"ab"), -1, Some(b"note ab who")), KeyState::held(b"ab", None));
    }
}
