//! Reading the replies to commands.

use redis::Value;
use redlock_core::{
    KeyState, Resources,
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
pub(crate) fn key_states(answer: &Value, resources: &Resources) -> Option<Vec<KeyState>> {
    match answer {
        Value::Array(keys) if keys.len() == resources.iter().len() => keys.iter().map(key_state).collect(),
        _ => None,
    }
}

/// What is stored at a key: the first bytes of its value, and its TTL in ms.
fn key_state(key: &Value) -> Option<KeyState> {
    let Value::Array(pair) = key else { return None };
    match &pair[..] {
        [Value::Nil, Value::Int(ttl)] => Some(state(None, *ttl)),
        [Value::BulkString(value), Value::Int(ttl)] => Some(state(Some(value), *ttl)),
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
