//! What the scripts answer.

use std::time::Duration;

use redis::Value;
use redlock_core::{KeyState, Resources};

/// What a script answers: whether it did what it was asked. redis-rs would take many other answers for a yes.
pub(crate) fn as_bool(answer: &Value) -> Option<bool> {
    match answer {
        Value::Int(1) => Some(true),
        Value::Int(0) => Some(false),
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
        [Value::Nil, Value::Int(_)] => Some(KeyState::Free),
        [Value::BulkString(value), Value::Int(ttl)] => {
            Some(KeyState::held(value, u64::try_from(*ttl).ok().map(Duration::from_millis)))
        }
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
