//! What a node runs: one `EVAL` for each request, so that it is one trip, all or nothing, and idempotent.
//!
//! `EVAL` and not `EVALSHA`: for scripts this short it takes the same time, and it has no state on the server that
//! a restart, a failover or `SCRIPT FLUSH` could take away from a release.

use std::time::Duration;

use fred::types::Value;
use redlock_core::{Resources, Token};

/// KEYS: the resources. ARGV: token, ttl in ms. 1 when every key holds the token, 0 when one holds another.
///
/// `NX` leaves the keys alone that are ours already, so a second execution does not prolong them.
pub(crate) const ACQUIRE: &str = "\
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and value ~= ARGV[1] then return 0 end
end
for _, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2])
end
return 1";

/// KEYS: the resources. ARGV: token, ttl in ms. 1 when every key held the token and now lives for the ttl at least,
/// 0 when one did not.
///
/// A key that lives longer already is left alone: an extension that comes late must not cut a newer one short.
pub(crate) const EXTEND: &str = "\
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) ~= ARGV[1] then return 0 end
end
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
end
return 1";

/// KEYS: the resources. ARGV: token. 1 when every key held the token and is removed, 0 when one did not; those that
/// did are removed all the same, and an error (a key of another type) is answered only after that.
pub(crate) const RELEASE: &str = "\
local reply = 1
for _, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then reply = value
  elseif value == ARGV[1] then redis.call('DEL', key)
  elseif reply == 1 then reply = 0 end
end
return reply";

/// KEYS: the resources. ARGV: the new token, ttl in ms, the old token. 1 when every key held one of the two and now holds
/// the new one, for the ttl at least; 0 when one did not.
pub(crate) const REPLACE: &str = "\
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value ~= ARGV[1] and value ~= ARGV[3] then return 0 end
end
for _, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[1], 'KEEPTTL')
  if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
end
return 1";

/// KEYS: the resources. For each, the beginning of its value and its ttl in ms; nil and -2 when there is none, -1 for a
/// ttl without end.
pub(crate) const INSPECT: &str = "\
local reply = {}
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  reply[i] = {value and string.sub(value, 1, 8), redis.call('PTTL', key)}
end
return reply";

/// The position of the first key among the arguments of `EVAL`.
pub(crate) const FIRST_KEY: usize = 2;

/// The arguments of the `EVAL` that runs `script`.
pub(crate) fn arguments(
    script: &'static str,
    resources: &Resources,
    token: Option<&Token>,
    ttl: Option<Duration>,
) -> Vec<Value> {
    let keys = resources.iter();
    let mut arguments = Vec::with_capacity(FIRST_KEY + keys.len() + 2);
    arguments.push(Value::from_static_str(script));
    arguments.push(Value::Integer(i64::try_from(keys.len()).unwrap_or(i64::MAX)));
    arguments.extend(keys.map(Value::from));
    arguments.extend(token.map(|token| Value::from(token.as_str())));
    arguments.extend(ttl.map(|ttl| Value::Integer(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))));
    arguments
}
