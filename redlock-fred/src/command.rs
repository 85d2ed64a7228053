//! A request as the arguments of a command, as fred accepts them.

use fred::types::Value;
use redlock_core::redis::{Argument, Command};

pub(crate) fn to_arguments(command: &Command<'_>) -> Vec<Value> {
    let mut arguments = Vec::with_capacity(command.len());
    arguments.extend(command.arguments().map(|argument| match argument {
        Argument::Text(text) => Value::from(text),
        Argument::Counter(key) => Value::from(key.to_string()),
        Argument::Number(number) => Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)),
    }));
    arguments
}
