//! Reading the replies to commands.

use redis::Value;
use redlock_core::{
    Inspect, KeyState,
    redis::{Reply, key_state as state},
};

/// The reply to a command. Any type that is not named here, redis-rs would read as one of these.
pub(crate) fn to_reply(answer: Value) -> Reply {
    match answer {
        Value::Nil => Reply::Nil,
        Value::Int(number) => Reply::Number(number),
        Value::BulkString(text) => Reply::Text(text),
        Value::Attribute { data, .. } => to_reply(*data),
        _ => Reply::Other,
    }
}

/// What is stored at each of the keys.
pub(crate) fn key_states(answer: &Value, request: &Inspect<'_>) -> Option<Vec<KeyState>> {
    match answer {
        Value::Array(keys) if keys.len() == request.resources.iter().len() => {
            keys.iter().map(|key| key_state(key, request.notes)).collect()
        }
        _ => None,
    }
}

/// What is stored at a key: the first bytes of its value, its TTL in ms and, if it was requested, the note.
fn key_state(key: &Value, with_note: bool) -> Option<KeyState> {
    let Value::Array(parts) = key else { return None };
    let (value, ttl, note) = match &parts[..] {
        [value, Value::Int(ttl)] if !with_note => (value, ttl, &Value::Nil),
        [value, Value::Int(ttl), note] if with_note => (value, ttl, note),
        _ => return None,
    };
    Some(state(text(value)?, *ttl, text(note)?))
}

/// A string of bytes, or nil.
fn text(value: &Value) -> Option<Option<&[u8]>> {
    match value {
        Value::Nil => Some(None),
        Value::BulkString(text) => Some(Some(text)),
        _ => None,
    }
}

/// The reply without attributes, which a server may send before it.
pub(crate) fn without_attributes(mut answer: &Value) -> &Value {
    while let Value::Attribute { data, .. } = answer {
        answer = data;
    }
    answer
}
