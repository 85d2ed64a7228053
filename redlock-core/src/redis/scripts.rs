//! The scripts. Each runs at one instant, all or nothing.
//!
//! They are sent whole, by `EVAL`. `EVALSHA` would save the server the hash of a text this short, but needs
//! state there, which a restart, a failover or `SCRIPT FLUSH` could take away from a release.

// Tests: tests/tests/it/servers/conformance.rs, on real servers; redis/command.rs.

/// KEYS: the resources. ARGV: token, TTL in ms.
///
/// `NX` leaves keys alone that already hold the token, so a second execution does not extend them.
pub(super) const ACQUIRE: &str = "\
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and value ~= ARGV[1] then return 0 end
end
for _, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2])
end
return 1";

/// As [`ACQUIRE`], for one resource.
pub(super) const ACQUIRE_ONE: &str = "\
local v=redis.call('GET',KEYS[1]) \
if v then return v==ARGV[1] and 1 or 0 end \
redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[2]) \
return 1";

/// As [`ACQUIRE_ONE`]. The reply is 2 more where `SET` with `NX`, `GET` and `PX` does the same. The second
/// one shows it: on a server that has this form, it returns what the key holds.
pub(super) const ACQUIRE_AND_TELL: &str = "\
local function set() return redis.pcall('SET',KEYS[1],ARGV[1],'NX','GET','PX',ARGV[2]) end \
set() local r=set() \
if type(r)=='string' then return r==ARGV[1] and 3 or 2 end \
local v=redis.call('GET',KEYS[1]) \
if v then return v==ARGV[1] and 1 or 0 end \
redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[2]) \
return 1";

/// KEYS: the resources. ARGV: token, TTL in ms.
///
/// A key that already lives longer is left alone: a late extension must not shorten a newer one.
pub(super) const EXTEND: &str = "\
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) ~= ARGV[1] then return 0 end
end
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
end
return 1";

/// As [`EXTEND`], for one resource.
pub(super) const EXTEND_ONE: &str = "\
if redis.call('GET',KEYS[1])~=ARGV[1] then return 0 end \
if redis.call('PTTL',KEYS[1])<tonumber(ARGV[2]) then redis.call('PEXPIRE',KEYS[1],ARGV[2]) end \
return 1";

/// KEYS: the resources. ARGV: token.
///
/// When one key does not hold the token, those that do are removed all the same. An error (a key of another
/// type) is the reply only after that.
pub(super) const RELEASE: &str = "\
local reply = 1
for _, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then reply = value
  elseif value == ARGV[1] then redis.call('DEL', key)
  elseif reply == 1 then reply = 0 end
end
return reply";

/// As [`RELEASE`], for one resource.
pub(super) const RELEASE_ONE: &str = "\
if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end \
return 0";

/// As [`RELEASE_ONE`]. The reply is 2 more where the server has `DELIFEQ` and the user may call it, and 4
/// more where that is so for `DELEX`. What a server has not, or refuses, is an error with no effect.
pub(super) const RELEASE_AND_TELL: &str = "\
local r=redis.pcall('DELIFEQ',KEYS[1],ARGV[1]) if type(r)=='number' then return r+2 end \
r=redis.pcall('DELEX',KEYS[1],'IFEQ',ARGV[1]) if type(r)=='number' then return r+4 end \
if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end \
return 0";

/// KEYS: the resources. ARGV: the new token, TTL in ms, the old token.
pub(super) const REPLACE: &str = "\
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value ~= ARGV[1] and value ~= ARGV[3] then return 0 end
end
for _, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[1], 'KEEPTTL')
  if redis.call('PTTL', key) < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
end
return 1";

/// KEYS: the resources, then their counters. ARGV: token, TTL in ms, proposal, and the counters' TTL in ms,
/// unless they live forever.
///
/// Replies with the highest counter, and 0 for a refusal. Everything is checked before the first write. The
/// numbers are at most 2^53 - 1, so that a double has them exactly, and `%.0f` prints all of their digits.
/// Where the token is already stored but there is no counter any more, it counts: each grant has a number.
pub(super) const ACQUIRE_FENCED: &str = "\
local n, highest, free, seen = #KEYS / 2, 0, false, {}
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if seen[key] then return redis.error_reply('FENCE ' .. key .. ' is a counter, too') end
  seen[key] = true
  if not value then free = free or i <= n
  elseif i <= n then if value ~= ARGV[1] then return 0 end
  elseif not string.match(value, '^[1-9]%d*$') or #value > 16 or tonumber(value) > 9007199254740991 then
    return redis.error_reply('FENCE no counter is stored at ' .. key)
  else highest = math.max(highest, tonumber(value)) end
end
if not free and highest > 0 then return highest end
local now = redis.call('TIME')
local counter = math.max(highest + 1, math.min(tonumber(ARGV[3]), now[1] * 1000000 + now[2] + 1000000))
if counter > 9007199254740991 then return redis.error_reply('FENCE no number is left') end
local digits = string.format('%.0f', counter)
for i = n + 1, 2 * n do
  if ARGV[4] then redis.call('SET', KEYS[i], digits, 'PX', ARGV[4]) else redis.call('SET', KEYS[i], digits) end
end
for i = 1, n do redis.call('SET', KEYS[i], ARGV[1], 'NX', 'PX', ARGV[2]) end
return counter";

/// As [`ACQUIRE_FENCED`], for one resource.
pub(super) const ACQUIRE_FENCED_ONE: &str = "\
local k,c=KEYS[1],KEYS[2] local v,s=redis.call('GET',k),redis.call('GET',c) local f=0 \
if v and v~=ARGV[1] then return 0 end \
if s then f=tonumber(s) \
if not string.match(s,'^[1-9]%d*$') or #s>16 or f>9007199254740991 then \
return redis.error_reply('FENCE no counter is stored at '..c) end \
if v then return f end end \
local t=redis.call('TIME') f=math.max(f+1,math.min(tonumber(ARGV[3]),t[1]*1000000+t[2]+1000000)) \
if f>9007199254740991 then return redis.error_reply('FENCE no number is left') end \
s=string.format('%.0f',f) \
if ARGV[4] then redis.call('SET',c,s,'PX',ARGV[4]) else redis.call('SET',c,s) end \
redis.call('SET',k,ARGV[1],'NX','PX',ARGV[2]) \
return f";

/// KEYS: the resources, then their counters. ARGV: token, fencing token, TTL in ms (0: the keys keep
/// theirs), and the counters' TTL in ms, unless they live forever.
///
/// Replies with the highest counter, and 0 for a refusal. A counter that is not lower is written again for
/// its TTL: it has to outlive a lock that is extended for longer than that.
pub(super) const RAISE: &str = "\
local n, fence, ttl, counters = #KEYS / 2, tonumber(ARGV[2]), tonumber(ARGV[3]), {}
for i = 1, n do
  if redis.call('GET', KEYS[i]) ~= ARGV[1] then return 0 end
end
local highest = fence
for i = n + 1, 2 * n do
  local value = redis.call('GET', KEYS[i]) or '1'
  if not string.match(value, '^[1-9]%d*$') or #value > 16 or tonumber(value) > 9007199254740991 then
    return redis.error_reply('FENCE no counter is stored at ' .. KEYS[i])
  end
  counters[i] = math.max(fence, tonumber(value))
  highest = math.max(highest, counters[i])
end
if fence > 9007199254740991 then return redis.error_reply('FENCE the fencing token is too high') end
for i = n + 1, 2 * n do
  local digits = string.format('%.0f', counters[i])
  if ARGV[4] then redis.call('SET', KEYS[i], digits, 'PX', ARGV[4]) else redis.call('SET', KEYS[i], digits) end
end
for i = 1, n do
  if ttl > 0 and redis.call('PTTL', KEYS[i]) < ttl then redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
end
return highest";

/// As [`RAISE`], for one resource.
pub(super) const RAISE_ONE: &str = "\
local k,c,f,t=KEYS[1],KEYS[2],tonumber(ARGV[2]),tonumber(ARGV[3]) \
if redis.call('GET',k)~=ARGV[1] then return 0 end \
local s=redis.call('GET',c) or '1' \
if not string.match(s,'^[1-9]%d*$') or #s>16 or tonumber(s)>9007199254740991 then \
return redis.error_reply('FENCE no counter is stored at '..c) end \
if f>9007199254740991 then return redis.error_reply('FENCE the fencing token is too high') end \
f=math.max(f,tonumber(s)) s=string.format('%.0f',f) \
if ARGV[4] then redis.call('SET',c,s,'PX',ARGV[4]) else redis.call('SET',c,s) end \
if t>0 and redis.call('PTTL',k)<t then redis.call('PEXPIRE',k,ARGV[3]) end \
return f";

/// KEYS: the resources. ARGV: how many bytes of a value to return.
pub(super) const INSPECT: &str = "\
local reply = {}
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  reply[i] = {value and string.sub(value, 1, ARGV[1]), redis.call('PTTL', key)}
end
return reply";

/// As [`INSPECT`]. KEYS: the resources, then their notes. ARGV: also how many bytes of a note to return.
///
/// What another client has stored at a note's key, of whatever type, is no error.
pub(super) const INSPECT_WITH_NOTES: &str = "\
local n, reply = #KEYS / 2, {}
for i = 1, n do
  local value, note = redis.call('GET', KEYS[i]), redis.pcall('GET', KEYS[n + i])
  note = type(note) == 'string' and string.sub(note, 1, ARGV[2])
  reply[i] = {value and string.sub(value, 1, ARGV[1]), redis.call('PTTL', KEYS[i]), note}
end
return reply";

/// KEYS: the resources, then their notes. ARGV: token, its prefix, and the text, unless the notes are
/// removed.
///
/// A note is `note PREFIX TEXT`. What is stored at its key by somebody else stays: it may be a lock. A note
/// expires with its resource, and so is not written where that never expires. The prefix decides which
/// notes are removed: their resources may have been released already.
pub(super) const ANNOTATE: &str = "\
local n, mark = #KEYS / 2, 'note ' .. ARGV[2] .. ' '
for i = 1, n do
  local note = redis.pcall('GET', KEYS[n + i])
  local is_text = type(note) == 'string'
  if not ARGV[3] then
    if is_text and string.sub(note, 1, #mark) == mark then redis.call('DEL', KEYS[n + i]) end
  elseif not note or (is_text and string.match(note, '^note %x%x%x%x%x%x%x%x ')) then
    local ttl = redis.call('GET', KEYS[i]) == ARGV[1] and redis.call('PTTL', KEYS[i]) or 0
    if ttl > 0 then redis.call('SET', KEYS[n + i], mark .. ARGV[3], 'PX', ttl) end
  end
end
return 1";

/// What the value of a note begins with. The prefix of its holder's token follows.
pub(super) const NOTE_MARK: &str = "note ";

/// KEYS: those of a request. The reply has a line for each field, as in `INFO`. Redis 6.2 takes one
/// section at a time.
pub(super) const SERVER_INFO: &str = "\
local reply = ''
local function add(section, fields)
  local info = redis.pcall('INFO', section)
  if type(info) ~= 'string' then return end
  for _, field in ipairs(fields) do
    reply = reply .. (string.match(info, '\\n' .. field .. ':[^\\r\\n]*') or '')
  end
end
add('server', {'run_id', 'uptime_in_seconds', 'redis_version', 'valkey_version', 'server_time_usec'})
add('replication', {'role', 'master_replid2'})
add('memory', {'maxmemory_policy'})
add('persistence', {'aof_enabled'})
return reply ~= '' and reply";
