//! What the scripts answer.

use std::time::Duration;

use fred::types::Value;
use redlock_core::{BackendError, BackendErrorKind, KeyState, Resources};

/// What a script answers: whether it did what it was asked.
pub(crate) fn done(answer: &Value) -> Result<bool, BackendError> {
    match answer {
        Value::Integer(1) => Ok(true),
        Value::Integer(0) => Ok(false),
        _ => Err(unexpected()),
    }
}

/// What stands under each of the keys.
pub(crate) fn key_states(answer: &Value, resources: &Resources) -> Result<Vec<KeyState>, BackendError> {
    match answer {
        Value::Array(keys) if keys.len() == resources.iter().len() => {
            keys.iter().map(|key| key_state(key).ok_or_else(unexpected)).collect()
        }
        _ => Err(unexpected()),
    }
}

/// What stands under a key: the beginning of its value, and its ttl in ms.
fn key_state(key: &Value) -> Option<KeyState> {
    let Value::Array(pair) = key else { return None };
    let [value, Value::Integer(ttl)] = &pair[..] else { return None };
    match value {
        Value::Null => Some(KeyState::Free),
        value => Some(KeyState::held(value.as_bytes()?, u64::try_from(*ttl).ok().map(Duration::from_millis))),
    }
}

/// Not an answer of ours: it may be to another request, by a proxy, or come after the script has run.
fn unexpected() -> BackendError {
    BackendError::new(BackendErrorKind::Indeterminate, "an answer of another type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_and_zero_are_answers() {
        assert_eq!(done(&Value::Integer(1)).ok(), Some(true));
        assert_eq!(done(&Value::Integer(0)).ok(), Some(false));
        for answer in
            [Value::Integer(2), Value::Boolean(true), Value::from("1"), Value::from("OK"), Value::Null]
        {
            let error = done(&answer).expect_err("no answer");
            assert_eq!(error.kind(), BackendErrorKind::Indeterminate, "{answer:?}");
        }
    }

    #[test]
    fn a_look_at_keys_that_is_not_answered_key_by_key_is_no_answer() {
        let free = Value::Array(vec![Value::Null, Value::Integer(-2)]);
        let held = Value::Array(vec![Value::from("ab"), Value::Integer(5)]);
        for (keys, right) in [
            (vec![free.clone(), held.clone()], true),
            (vec![held.clone()], false),
            (vec![free.clone(), free.clone(), held], false),
            (vec![free, Value::Integer(1)], false),
        ] {
            let states = key_states(&Value::Array(keys.clone()), &["a", "b"].into());
            assert_eq!(states.map(|states| states.len()).ok(), right.then_some(2), "{keys:?}");
        }
        assert!(key_states(&Value::Null, &["a"].into()).is_err());
    }
}
