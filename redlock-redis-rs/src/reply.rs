//! What the scripts answer.

use redis::Value;
use redlock_core::{
    KeyState, Resources,
    redis::{is_done, key_state as state},
};

/// What a script answers: whether it did what it was asked. redis-rs would take many other answers for a yes.
pub(crate) fn as_bool(answer: &Value) -> Option<bool> {
    match answer {
        Value::Int(number) => is_done(*number),
        _ => None,
    }
}

/// What stands under each of the keys.
pub(crate) fn key_states(answer: &Value, resources: &Resources) -> Option<Vec<KeyState>> {
    match answer {
        Value::Array(keys) if keys.len() == resources.iter().len() => keys.iter().map(key_state).collect(),
        _ => None,
    }
}

/// What stands under a key: the beginning of its value, and its ttl in ms.
fn key_state(key: &Value) -> Option<KeyState> {
    let Value::Array(pair) = key else { return None };
    match &pair[..] {
        [Value::Nil, Value::Int(ttl)] => Some(state(None, *ttl)),
        [Value::BulkString(value), Value::Int(ttl)] => Some(state(Some(value), *ttl)),
        _ => None,
    }
}

/// The answer itself: a server may tell more about it in front.
pub(crate) fn without_attributes(mut answer: &Value) -> &Value {
    while let Value::Attribute { data, .. } = answer {
        answer = data;
    }
    answer
}
