//! A request as a command of redis-rs.

use redis::{Cmd, RedisWrite};
use redlock_core::redis::{Argument, Command};

pub(crate) fn to_command(command: &Command<'_>) -> Cmd {
    let mut to_send = Cmd::with_capacity(command.len() + 1, command.script().map_or(0, str::len) + REST);
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

/// Enough room for the other arguments, unless the keys are many or long: a sum would take longer.
const REST: usize = 128;
