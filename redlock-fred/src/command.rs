//! A request as the arguments of an `EVAL`, as fred accepts them.

use fred::types::Value;
use redlock_core::redis::{Argument, Eval, FIRST_KEY};

pub(crate) fn to_arguments(eval: &Eval<'_>) -> Vec<Value> {
    let keys = eval.keys().iter();
    let mut arguments = Vec::with_capacity(FIRST_KEY + keys.len() + 3);
    arguments.push(Value::from_static_str(eval.script()));
    arguments.push(Value::Integer(i64::try_from(keys.len()).unwrap_or(i64::MAX)));
    arguments.extend(keys.map(Value::from));
    arguments.extend(eval.arguments().map(|argument| match argument {
        Argument::Text(text) => Value::from(text),
        Argument::Number(number) => Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)),
    }));
    arguments
}
