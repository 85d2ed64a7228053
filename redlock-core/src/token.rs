//! The random value with which one round holds its keys.

// Tests: below; tests/tests/it/sim/errors.rs.

use std::{fmt, str::FromStr, sync::Arc};

use crate::entropy::Draw;

/// The value that a round writes at each of its keys: only a client that knows it can extend or release them.
///
/// New tokens are 160 random bits as 40 lower-case hex digits. [`FromStr`] accepts tokens of other
/// implementations when they are 32 to 128 ASCII hex digits (at least 128 bits).
///
/// `Debug` shows the [prefix](Self::prefix) only: anyone who reads a whole token in a log can release the
/// lock.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(Arc<str>);

impl Token {
    /// How many digits of a token may be shown: enough to distinguish holders, and too few to extend or
    /// release with, since three quarters of the shortest token stay hidden.
    pub const PREFIX_LEN: usize = 8;

    /// Generates a new token.
    pub(crate) fn random(draw: &mut Draw<'_>) -> Self {
        let mut bytes = [0; BYTES];
        draw.fill(&mut bytes);
        let digits = bytes.map(|byte| [byte >> 4, byte & 0xf].map(|nibble| DIGITS[usize::from(nibble)]));
        Self(String::from_utf8_lossy(digits.as_flattened()).into())
    }

    /// The text with this token, or more than its prefix, cut to that; `None` when it has neither.
    pub(crate) fn cut_in(&self, text: &str) -> Option<String> {
        let shown = self.prefix();
        let (mut cut, mut rest, mut found) = (String::new(), text, false);
        while let Some(at) = rest.find(shown) {
            let same = rest[at..].bytes().zip(self.0.bytes()).take_while(|(here, ours)| here == ours).count();
            cut.push_str(&rest[..at + Self::PREFIX_LEN]);
            if same > Self::PREFIX_LEN {
                cut.push('…');
                found = true;
            }
            rest = &rest[at + same..];
        }
        cut.push_str(rest);
        found.then_some(cut)
    }

    /// The token's first [`PREFIX_LEN`](Self::PREFIX_LEN) digits: what errors, events and `inspect` show of
    /// it.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0[..Self::PREFIX_LEN]
    }

    /// The whole token as it is stored at the keys.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hex && ACCEPTED_DIGITS.contains(&text.len()) { Ok(Self(text.into())) } else { Err(InvalidToken) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}…)", self.prefix())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The text is not a token: 32 to 128 ASCII hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is 32 to 128 ASCII hex digits")]
pub struct InvalidToken;

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const BYTES: usize = 20;
const ACCEPTED_DIGITS: std::ops::RangeInclusive<usize> = 32..=128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;

    /// Counts up, so that every byte of a token is known.
    fn counting() -> Entropy {
        let mut next = 0_u8;
        Entropy::new(move |bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(17);
            }
        })
    }

    #[test]
    fn a_token_is_all_of_the_random_bits_in_hex() {
        let token = counting().draw(Token::random);
        assert_eq!(token.as_str(), "00112233445566778899aabbccddeeff10213243");
        assert_eq!(token.as_str().parse(), Ok(token));
    }

    #[test]
    fn debug_does_not_reveal_the_token() {
        let token = counting().draw(Token::random);
        assert_eq!(format!("{token:?}"), "Token(00112233…)");
    }

    #[test]
    fn every_token_in_a_text_is_shortened() {
        let token = counting().draw(Token::random);
        let whole = token.as_str();
        for (text, cut) in [
            (format!("ä {whole} b '{whole}'"), "ä 00112233… b '00112233…'"),
            (format!("{whole}{whole}"), "00112233…00112233…"),
            (format!("00112233 {whole}"), "00112233 00112233…"),
            (format!("in part: {}", &whole[..39]), "in part: 00112233…"),
            (format!("{}ff", &whole[..9]), "00112233…ff"),
        ] {
            assert_eq!(token.cut_in(&text).as_deref(), Some(cut), "{text}");
        }
        for text in ["", "00112233", "0011223", "00112233 445566", "another one"] {
            assert_eq!(token.cut_in(text), None, "{text}");
        }
    }

    #[test]
    fn an_invalid_token_is_refused() {
        for text in ["", "00", &"0".repeat(31), &"0".repeat(129), &"g".repeat(40), &"é".repeat(20)] {
            assert_eq!(text.parse::<Token>(), Err(InvalidToken), "{text}");
        }
        assert!("0123456789abcdefABCDEF0123456789".parse::<Token>().is_ok());
    }
}
