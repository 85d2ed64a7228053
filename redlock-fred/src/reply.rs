//! Reading the replies to commands.

use fred::types::Value;
use redlock_core::{
    Inspect, KeyState,
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
        [value, Value::Integer(ttl)] if !with_note => (value, ttl, &Value::Null),
        [value, Value::Integer(ttl), note] if with_note => (value, ttl, note),
        _ => return None,
    };
    Some(state(text(value)?, *ttl, text(note)?))
}

/// A string of bytes, or nil.
fn text(value: &Value) -> Option<Option<&[u8]>> {
    match value {
        Value::Null => Some(None),
        value => value.as_bytes().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redlock_core::Resources;

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
            let states = key_states(&Value::Array(keys.clone()), &inspect(&["a", "b"].into()));
            assert_eq!(states.map(|states| states.len()), right.then_some(2), "{keys:?}");
        }
        assert!(key_states(&Value::Null, &inspect(&["a"].into())).is_none());
    }

    #[test]
    fn a_note_is_read_if_and_only_if_it_was_requested() {
        let (name, value) = ("a".into(), Value::from("01234567"));
        let keys = |parts: &[Value]| Value::Array(vec![Value::Array(parts.to_vec())]);
        let plain = keys(&[value.clone(), Value::Integer(5)]);
        let noted = |note| keys(&[value.clone(), Value::Integer(5), note]);
        let held = KeyState::held(b"01234567", Some(Duration::from_millis(5)));

        let inspect = inspect(&name);
        assert_eq!(key_states(&plain, &inspect), Some(vec![held.clone()]));
        assert_eq!(key_states(&noted(Value::Null), &inspect), None);
        let inspect = inspect.with_notes();
        assert_eq!(key_states(&plain, &inspect), None);
        assert_eq!(key_states(&noted(Value::Null), &inspect), Some(vec![held.clone()]));
        assert_eq!(key_states(&noted(Value::Integer(1)), &inspect), None);
        let note = noted(Value::Bytes(b"note 01234567 \xff"[..].into()));
        assert_eq!(key_states(&note, &inspect), Some(vec![held.with_note(b"\xff")]));
    }

    fn inspect(resources: &Resources) -> Inspect<'_> {
        Inspect::new(resources, Duration::from_secs(1))
    }
}
