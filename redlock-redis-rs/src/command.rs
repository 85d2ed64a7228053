//! A request as a command of redis-rs.

use redis::{Cmd, RedisWrite};
use redlock_core::redis::{Argument, Command};

pub(crate) fn to_command(command: &Command<'_>) -> Cmd {
    let text: usize = command.arguments().map(len).sum();
    let mut to_send = Cmd::with_capacity(command.len() + 1, command.name().len() + text);
    to_send.arg(command.name());
    for argument in command.arguments() {
        match argument {
            Argument::Text(text) => {
                to_send.arg(text);
            }
            Argument::Counter(key) => to_send.write_arg_fmt(key),
            Argument::Number(number) => {
                to_send.arg(number);
            }
        }
    }
    to_send
}

/// At most how long it is.
fn len(argument: Argument<'_>) -> usize {
    match argument {
        Argument::Text(text) => text.len(),
        Argument::Counter(key) => key.parts().iter().map(|part| part.len()).sum(),
        Argument::Number(_) => 20,
    }
}
