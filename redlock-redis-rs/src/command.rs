//! A request as a command of redis-rs.

use redis::Cmd;
use redlock_core::redis::{Argument, Eval};

pub(crate) fn to_command(eval: &Eval<'_>) -> Cmd {
    let keys = eval.keys().iter();
    let arguments = keys.len() + 6;
    // Each argument brings its length and four line ends.
    let text: usize =
        eval.keys().iter().map(str::len).sum::<usize>() + eval.arguments().map(len).sum::<usize>();
    let mut command = Cmd::with_capacity(arguments, eval.script().len() + text + 16 * arguments);
    command.arg("EVAL").arg(eval.script()).arg(keys.len());
    for key in keys {
        command.arg(key);
    }
    for argument in eval.arguments() {
        match argument {
            Argument::Text(text) => command.arg(text),
            Argument::Number(number) => command.arg(number),
        };
    }
    command
}

fn len(argument: Argument<'_>) -> usize {
    match argument {
        Argument::Text(text) => text.len(),
        Argument::Number(_) => 0,
    }
}
