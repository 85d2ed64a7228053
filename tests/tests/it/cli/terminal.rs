//! `redlock run` at a terminal, and a command that is stopped because it wants to read from it.

use std::{fs::File, io::Write, thread, time::Duration};

use redlock_tests::server::{Server, everywhere};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::cli::process::{CommandLine, Process, is_ignored, soon, state_of};

/// A terminal, and `redlock run` in front of it, whose command is in the background.
struct Terminal {
    keyboard: File,
    process: Process,
}

impl Terminal {
    fn start(line: CommandLine) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let path = ptsname(&keyboard, Vec::new()).unwrap();
        let line = line.within(r#"exec setsid --ctty --wait "$@" <"$TERMINAL""#);
        let process = line.variable("TERMINAL", path.to_str().unwrap()).start();
        Self { keyboard: keyboard.into(), process }
    }

    fn wait_until_it_is_stopped(&self) {
        let reported = soon(|| self.process.err().contains("wants the terminal"));
        assert!(reported, "it needs setsid of util-linux: {}", self.process.err());
    }
}

fn gone(servers: &[Server]) -> bool {
    everywhere(servers, "x", None)
}

#[test]
fn keys_end_a_command_that_is_stopped_because_it_wants_the_terminal() {
    let servers = Server::start_some(3);
    let keys = [(b"\x03", Signal::INT, 130), (b"\x1c", Signal::QUIT, 131)];
    for (key, signal, code) in keys.into_iter().filter(|(_, signal, _)| !is_ignored(*signal)) {
        let line = CommandLine::new(&servers, "run --ttl 1m x").arguments(["--", "cat"]);
        let mut terminal = Terminal::start(line);
        terminal.wait_until_it_is_stopped();
        terminal.keyboard.write_all(key).unwrap();
        let ended = terminal.process.wait();
        assert_eq!(ended.code, code, "{signal:?}: {}", ended.err);
        assert!(gone(&servers));
    }
}

#[test]
fn a_command_that_is_stopped_because_it_wants_the_terminal_does_not_hold_the_lock_forever() {
    let servers = Server::start_some(3);
    let line = CommandLine::new(&servers, "run --ttl 1s x").arguments(["--", "cat"]);
    let mut terminal = Terminal::start(line);
    terminal.wait_until_it_is_stopped();
    let ended = terminal.process.wait();
    assert_eq!(ended.code, 149, "{}", ended.err);
    assert!(ended.err.contains("stopped for a whole TTL"), "{}", ended.err);
    assert!(gone(&servers));
}

#[test]
fn a_command_that_is_stopped_on_purpose_keeps_the_lock() {
    let servers = Server::start_some(3);
    let script = "echo $$ >up; kill -STOP $$; exit 6";
    let mut terminal = Terminal::start(CommandLine::new(&servers, "run --ttl 1s x").script(script));
    let command = terminal.process.wait_for("up");
    assert!(soon(|| state_of(&command).starts_with('T')));
    thread::sleep(Duration::from_millis(2_500));
    assert!(!terminal.process.has_ended(), "{}", terminal.process.err());
    assert!(servers.iter().all(|server| server.get("x").is_some()));
    kill_process(Pid::from_raw(command.parse().unwrap()).unwrap(), Signal::CONT).unwrap();
    assert_eq!(terminal.process.wait().code, 6);
}

#[test]
fn messages_name_signals_without_quotes() {
    let servers = Server::start_some(1);
    servers[0].command::<()>(&["SET", "x", "another"]);
    let process = CommandLine::new(&servers, "run --verbose x").script("true").start();
    assert!(soon(|| process.err().contains("acquire: refused")));
    process.signal(Signal::TERM);
    let ended = process.finish();
    assert!(ended.err.contains("redlock: SIGTERM came while waiting"), "{}", ended.err);
}
