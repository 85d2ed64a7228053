//! Reading the replies to commands.

use fred::types::Value;
use redlock_core::{
    KeyState, Resources,
    redis::{Reply, key_state as state},
};

/// The reply to a command.
pub(crate) fn to_reply(answer: &Value) -> Reply {
    match answer {
        Value::Null => Reply::Nil,
        Value::Integer(number) => Reply::Number(*number),
        Value::String(text) => Reply::Text(text.as_bytes().to_vec()),
        Value::Bytes(text) => Reply::Text(text.to_vec()),
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
    fn a_reply_is_read_as_what_it_is() {
        assert_eq!(to_reply(&Value::Integer(1)), Reply::Number(1));
        assert_eq!(to_reply(&Value::Null), Reply::Nil);
        assert_eq!(to_reply(&Value::from("1")), Reply::Text(b"1".to_vec()));
        assert_eq!(to_reply(&Value::Bytes(b"\xff"[..].into())), Reply::Text(b"\xff".to_vec()));
        for answer in [Value::Boolean(true), Value::Double(1.0), Value::Queued, Value::Array(Vec::new())] {
            assert_eq!(to_reply(&answer), Reply::Other, "{answer:?}");
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
