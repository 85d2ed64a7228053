//! What a node runs: one `EVAL` for each request, so that it is one trip, all or nothing, and idempotent.
//!
//! `EVAL` and not `EVALSHA`: for scripts this short it takes the same time, and it has no state on the server that
//! a restart, a failover or `SCRIPT FLUSH` could take away from a release.

use std::time::Duration;

use redis::Cmd;
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

/// The command that runs `script`.
pub(crate) fn eval(script: &str, resources: &Resources, token: Option<&Token>, ttl: Option<Duration>) -> Cmd {
    let names: usize = resources.iter().map(str::len).sum();
    let arguments = resources.iter().len() + 5;
    // Each argument brings its length and four line ends.
    let size = script.len() + names + token.map_or(0, |token| token.as_str().len()) + 16 * arguments;
    let mut command = Cmd::with_capacity(arguments, size);
    command.arg("EVAL").arg(script).arg(resources.iter().len());
    for name in resources.iter() {
        command.arg(name);
    }
    if let Some(token) = token {
        command.arg(token.as_str());
    }
    if let Some(ttl) = ttl {
        command.arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    }
    command
}
