//! The scripts: one `EVAL` for each request, so that it is one round trip, all or nothing, and idempotent.
//!
//! `EVALSHA` would take the same time for scripts this short. But it needs state on the server, which a
//! restart, a failover or `SCRIPT FLUSH` could take away from a release.

// Tests: below; tests/tests/it/servers/conformance.rs.

use std::{fmt, time::Duration};

use crate::{
    backend::{Acquire, Extend, Release, Replace},
    inspect::{Inspect, KeyState},
    resources::Resources,
    token::Token,
};

/// A request as one `EVAL`: `EVAL`, the [script](Self::script), the number of [keys](Self::keys), the keys,
/// and the [arguments](Self::arguments).
///
/// ```
/// use std::time::Duration;
/// use redlock_core::{Acquire, redis::{Argument, Eval}};
///
/// let (resources, token) = (["a", "b"].into(), "0".repeat(40).parse()?);
/// let (ttl, timeout) = (Duration::from_secs(10), Duration::from_millis(500));
/// let eval = Eval::acquire(&Acquire::new(&resources, &token, ttl, timeout));
/// assert_eq!(eval.keys().as_slice(), ["a", "b"]);
/// let arguments: Vec<_> = eval.arguments().collect();
/// assert_eq!(arguments, [Argument::Text(token.as_str()), Argument::Number(10_000)]);
/// # Ok::<(), redlock_core::InvalidToken>(())
/// ```
#[derive(Clone, Copy)]
pub struct Eval<'a> {
    script: &'static str,
    keys: &'a Resources,
    arguments: [Option<Argument<'a>>; MAX_ARGUMENTS],
}

/// An argument of a script.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "whoever sends it has to know each kind")]
pub enum Argument<'a> {
    /// A token.
    Text(&'a str),
    /// A TTL in ms.
    Number(u64),
}

/// The position of the first key among the arguments of `EVAL`.
pub const FIRST_KEY: usize = 2;

const MAX_ARGUMENTS: usize = 3;

impl<'a> Eval<'a> {
    /// Replies 1 when every key holds the token, 0 when one holds another: see [`is_done`].
    #[must_use]
    pub fn acquire(request: &Acquire<'a>) -> Self {
        Self::new(ACQUIRE, request.resources, [Some(text(request.token)), Some(ms(request.ttl)), None])
    }

    /// Replies 1 when every key held the token and now lives at least for the TTL, else 0.
    #[must_use]
    pub fn extend(request: &Extend<'a>) -> Self {
        Self::new(EXTEND, request.resources, [Some(text(request.token)), Some(ms(request.ttl)), None])
    }

    /// Replies 1 when every key held the token and is removed, else 0.
    #[must_use]
    pub fn release(request: &Release<'a>) -> Self {
        Self::new(RELEASE, request.resources, [Some(text(request.token)), None, None])
    }

    /// Replies 1 when every key now holds the new token, at least for the TTL, and 0 when one held neither of
    /// the two.
    #[must_use]
    pub fn replace(request: &Replace<'a>) -> Self {
        let arguments = [Some(text(request.new)), Some(ms(request.ttl)), Some(text(request.old))];
        Self::new(REPLACE, request.resources, arguments)
    }

    /// Replies with an array, which has for each key an array of the beginning of its value (or nil) and its
    /// TTL in ms: see [`key_state`].
    #[must_use]
    pub fn inspect(request: &Inspect<'a>) -> Self {
        Self::new(INSPECT, request.resources, [Some(Argument::Number(Token::PREFIX_LEN as u64)), None, None])
    }

    /// Replies with the server's `run_id`, which is random for each start, or with nil where that is not
    /// allowed: see [`ServerId::of_answer`](super::ServerId::of_answer). It has the keys of the lock request
    /// beside it, so a user who may lock may also run this.
    #[must_use]
    pub fn server_id(keys: &'a Resources) -> Self {
        Self::new(SERVER_ID, keys, [None; MAX_ARGUMENTS])
    }

    fn new(
        script: &'static str,
        keys: &'a Resources,
        arguments: [Option<Argument<'a>>; MAX_ARGUMENTS],
    ) -> Self {
        Self { script, keys, arguments }
    }

    /// The script.
    #[must_use]
    pub fn script(&self) -> &'static str {
        self.script
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &'a Resources {
        self.keys
    }

    /// The arguments, in their order.
    pub fn arguments(&self) -> impl Iterator<Item = Argument<'a>> {
        self.arguments.into_iter().flatten()
    }
}

/// Without the tokens.
impl fmt::Debug for Eval<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eval").field("script", &self.script).field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// Without the token.
impl fmt::Debug for Argument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::Number(number) => f.debug_tuple("Number").field(number).finish(),
        }
    }
}

fn text(token: &Token) -> Argument<'_> {
    Argument::Text(token.as_str())
}

fn ms(ttl: Duration) -> Argument<'static> {
    Argument::Number(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

/// Whether a script had its effect, by its reply; `None` for a number that no script replies.
#[must_use]
pub fn is_done(answer: i64) -> Option<bool> {
    match answer {
        1 => Some(true),
        0 => Some(false),
        _ => None,
    }
}

/// The state of a key, from the beginning of its value, if it has one, and its TTL in ms (negative without an
/// expiry).
#[must_use]
pub fn key_state(value: Option<&[u8]>, ttl: i64) -> KeyState {
    match value {
        None => KeyState::Free,
        Some(value) => KeyState::held(value, u64::try_from(ttl).ok().map(Duration::from_millis)),
    }
}

/// KEYS: the resources. ARGV: token, TTL in ms.
///
/// `NX` leaves keys alone that already hold the token, so a second execution does not extend them.
const ACQUIRE: &str = "\
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and value ~= ARGV[1] then return 0 end
end
for _, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2])
end
return 1";

/// KEYS: the resources. ARGV: token, TTL in ms.
///
/// A key that already lives longer is left alone: a late extension must not shorten a newer one.
const EXTEND: &str = "\
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) ~= ARGV[1] then return 0 end
end
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
end
return 1";

/// KEYS: the resources. ARGV: token.
///
/// When one key does not hold the token, those that do are removed all the same. An error (a key of another
/// type) is the reply only after that.
const RELEASE: &str = "\
local reply = 1
for _, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then reply = value
  elseif value == ARGV[1] then redis.call('DEL', key)
  elseif reply == 1 then reply = 0 end
end
return reply";

/// KEYS: the resources. ARGV: the new token, TTL in ms, the old token.
const REPLACE: &str = "\
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value ~= ARGV[1] and value ~= ARGV[3] then return 0 end
end
for _, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[1], 'KEEPTTL')
  if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
end
return 1";

/// KEYS: the resources. ARGV: how many bytes of a value to return.
const INSPECT: &str = "\
local reply = {}
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  reply[i] = {value and string.sub(value, 1, ARGV[1]), redis.call('PTTL', key)}
end
return reply";

/// KEYS: those of a request.
const SERVER_ID: &str = "\
local info = redis.pcall('INFO', 'server')
return type(info) == 'string' and string.match(info, 'run_id:(%x+)') or false";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_and_zero_are_replies() {
        assert_eq!([1, 0, 2, -1].map(is_done), [Some(true), Some(false), None, None]);
    }

    #[test]
    fn a_key_has_a_holder_and_a_remaining_ttl() {
        let held = |left| KeyState::held(b"ab", left);
        assert_eq!(key_state(None, -2), KeyState::Free);
        assert_eq!(key_state(Some(b"ab"), 5), held(Some(Duration::from_millis(5))));
        assert_eq!(key_state(Some(b"ab"), -1), held(None));
    }

    #[test]
    fn a_printed_request_has_no_token() {
        let (resources, token) = ("a".into(), "0123456789".repeat(4).parse().unwrap());
        let eval = Eval::release(&Release::new(&resources, &token, Duration::from_secs(1)));
        let printed = format!("{eval:?} {:?}", eval.arguments().collect::<Vec<_>>());
        assert!(!printed.contains("0123"), "{printed}");
    }
}
