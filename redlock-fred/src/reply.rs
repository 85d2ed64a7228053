//! Reading the replies of the scripts.

use fred::types::Value;
use redlock_core::{
    KeyState, Resources,
    redis::{is_done, key_state as state},
};

/// Whether a script succeeded. `None` for any other reply.
pub(crate) fn as_bool(answer: &Value) -> Option<bool> {
    match answer {
        Value::Integer(number) => is_done(*number),
        _ => None,
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
    let [value, Value::Integer(ttl)] = &pair[..] else { return None };
    match value {
        Value::Null => Some(state(None, *ttl)),
        value => Some(state(Some(value.as_bytes()?), *ttl)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_and_zero_are_replies() {
        assert_eq!(as_bool(&Value::Integer(1)), Some(true));
        assert_eq!(as_bool(&Value::Integer(0)), Some(false));
        for answer in
            [Value::Integer(2), Value::Boolean(true), Value::from("1"), Value::from("OK"), Value::Null]
        {
            assert_eq!(as_bool(&answer), None, "{answer:?}");
        }
    }

    #[test]
    fn an_inspection_without_one_state_per_key_is_no_reply() {
        let free = Value::Array(vec![Value::Null, Value::Integer(-2)]);
        let held = Value::Array(vec![Value::from("ab"), Value::Integer(5)]);
        for (keys, right) in [
            (vec![free.clone(), held.clone()], true),
            (vec![held.clone()], false),
            (vec![free.clone(), free.clone(), held], false),
            (vec![free, Value::Integer(1)], false),
        ] {
            let states = key_states(&Value::Array(keys.clone()), &["a", "b"].into());
            assert_eq!(states.map(|states| states.len()), right.then_some(2), "{keys:?}");
        }
        assert!(key_states(&Value::Null, &["a"].into()).is_none());
    }
}
