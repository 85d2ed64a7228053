//! A request as the arguments of a command, as fred accepts them.

use fred::types::Value;
use redlock_core::redis::{Argument, Command};

pub(crate) fn to_arguments(command: &Command<'_>) -> Vec<Value> {
    let mut arguments = Vec::with_capacity(command.len());
    // Without a copy of its text.
    arguments.extend(command.script().map(Value::from_static_str));
    arguments.extend(command.arguments().skip(arguments.len()).map(|argument| match argument {
        Argument::Text(text) => Value::from(text),
        Argument::Side(key) => Value::from(key.to_string()),
        Argument::Number(number) => Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)),
    }));
    arguments
}
