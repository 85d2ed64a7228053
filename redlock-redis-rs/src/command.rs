//! Requests as commands of redis-rs.

use std::{
    mem,
    ops::Deref,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redis::{Arg, Cmd, RedisWrite};
use redlock_core::redis::{Argument, Command};

/// The commands of a node. Each is filled again when its request has ended: a new one takes two allocations.
#[derive(Default)]
pub(crate) struct Commands(Mutex<Vec<Cmd>>);

/// The command of one request.
pub(crate) struct Borrowed<'a> {
    command: Cmd,
    commands: &'a Commands,
}

impl Commands {
    pub(crate) fn make(&self, command: &Command<'_>) -> Borrowed<'_> {
        let spare = self.spare().pop();
        let mut made = spare.unwrap_or_else(|| Cmd::with_capacity(USUAL_ARGUMENTS, USUAL_SIZE));
        fill(&mut made, command);
        Borrowed { command: made, commands: self }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Cmd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Borrowed<'_> {
    type Target = Cmd;

    fn deref(&self) -> &Cmd {
        &self.command
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut command = mem::take(&mut self.command);
        // Not one that keys have made long: it would stay so.
        if size(&command) <= MAX_SIZE {
            command.clear();
            let mut spare = self.commands.spare();
            if spare.len() < MAX_SPARE {
                spare.push(command);
            }
        }
    }
}

fn fill(to_send: &mut Cmd, command: &Command<'_>) {
    to_send.arg(command.name());
    // Not in a `for` loop: the iterator is a chain, and each step would ask all of its parts.
    command.arguments().for_each(|argument| match argument {
        Argument::Text(text) => {
            to_send.arg(text);
        }
        Argument::Side(key) => to_send.write_arg_fmt(key),
        Argument::Number(number) => {
            to_send.arg(number);
        }
    });
}

/// The bytes of its arguments.
fn size(command: &Cmd) -> usize {
    let bytes = |argument| if let Arg::Simple(bytes) = argument { <[u8]>::len(bytes) } else { 0 };
    command.args_iter().map(bytes).sum()
}

/// Room for the arguments of a native command: a script's are more.
const USUAL_ARGUMENTS: usize = 8;
const USUAL_SIZE: usize = 128;
/// The most commands that are kept for one node: more than are often in flight at once, as slow nodes have
/// theirs for longer.
const MAX_SPARE: usize = 256;
/// The largest command that is kept, in bytes: room for each script and the usual keys.
const MAX_SIZE: usize = 2048;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redlock_core::{Extend, Resources};

    use super::*;

    fn packed(commands: &Commands, name: &str) -> (Vec<u8>, *const u8) {
        let (resources, token) = (Resources::from(name), "0".repeat(40).parse().unwrap());
        let (ttl, timeout) = (Duration::from_secs(10), Duration::from_secs(1));
        let made = commands.make(&Command::extend(&Extend::new(&resources, &token, ttl, timeout)));
        let first = made.args_iter().next();
        let Some(Arg::Simple(first)) = first else { panic!("{first:?}") };
        (made.get_packed_command(), first.as_ptr())
    }

    #[test]
    fn a_command_is_filled_again_and_has_nothing_of_the_one_before() {
        let commands = Commands::default();
        let (first, at) = packed(&commands, "first");
        let (second, again_at) = packed(&commands, "second");
        assert_eq!(at, again_at, "the same buffer");
        assert_ne!(first, second);
        assert_eq!(second, packed(&Commands::default(), "second").0);
        assert_eq!(commands.spare().len(), 1);
    }

    #[test]
    fn what_is_kept_has_bounds() {
        let commands = Commands::default();
        packed(&commands, &"long".repeat(MAX_SIZE));
        assert!(commands.spare().is_empty(), "a long one");
        let keys = "a".into();
        let command = Command::server_info(&keys);
        let made: Vec<_> = (0..2 * MAX_SPARE).map(|_| commands.make(&command)).collect();
        drop(made);
        assert_eq!(commands.spare().len(), MAX_SPARE);
    }
}
