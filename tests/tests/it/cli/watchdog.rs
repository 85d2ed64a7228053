//! `redlock run` and the processes around it: its watchdog, what it inherits, who reaps.

use std::{
    fs,
    time::{Duration, Instant},
};

use redlock_tests::server::{Server, everywhere};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::process::{CommandLine, Process, runs, soon, state_of};

const OTHER: &str = "ffffffffffffffffffffffffffffffff";
/// The time between SIGTERM and SIGKILL here. A stop that waits for the command in vain takes as long.
const GRACE: Duration = Duration::from_secs(5);
const RUN: &str = "run --ttl 15s --kill-after 5s x";

fn gone(servers: &[Server]) -> bool {
    everywhere(servers, "x", None)
}

/// The processes whose parent this is, as (process, command line).
fn children_of(parent: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let pids = entries.filter_map(|name| name.to_str()?.parse::<i32>().ok());
    let child = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let its_parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        (its_parent == parent).then(|| (pid.to_string(), line.replace('\0', " ")))
    };
    pids.filter_map(child).collect()
}

fn watchdog_of(process: &Process) -> Option<String> {
    let own = process.pid().as_raw_pid().to_string();
    let is_watchdog = |(_, line): &(String, String)| line.contains(" watchdog ");
    children_of(&own).into_iter().find(is_watchdog).map(|(pid, _)| pid)
}

fn send(pid: &str, signal: Signal) {
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_command_is_watched_although_the_binary_of_redlock_was_replaced_or_removed_meanwhile() {
    for replaced in [true, false] {
        let servers = Server::start_some(3);
        servers.iter().for_each(|server| server.command::<()>(&["SET", "x", OTHER]));
        let line =
            CommandLine::new(&servers, "run --verbose x").within(r#"cp "$1" own; shift; exec ./own "$@""#);
        let script = "echo up >up; while [ ! -e go ]; do sleep 0.02; done; exit 6";
        let mut process = line.script(script).start();
        assert!(soon(|| process.err().contains("acquire: refused")), "{}", process.err());
        fs::remove_file(process.path("own")).unwrap();
        if replaced {
            fs::write(process.path("own"), "another version").unwrap();
        }
        servers.iter().for_each(|server| server.command::<()>(&["DEL", "x"]));
        process.wait_for("up");
        assert!(watchdog_of(&process).is_some(), "no watchdog");
        fs::write(process.path("go"), "").unwrap();
        let ended = process.wait();
        assert_eq!(ended.code, 6, "replaced: {replaced}: {}", ended.err);
    }
}

/// Leaves a process behind that ends at SIGTERM, and one in a session of its own that ends soon.
const FAMILY: &str = r#"
sleep 60 & (setsid sh -c 'sleep 0.2' &)
trap "exit 3" TERM
echo up >up
while :; do sleep 0.02; done
"#;

#[test]
fn as_process_1_it_reaps_orphans_and_a_stop_ends_as_soon_as_its_processes_are_dead_in_own_pid_namespace() {
    let servers = Server::start_some(3);
    // Without --kill-child, the namespace would outlive a test that fails.
    let within = r#"exec unshare --pid --fork --kill-child --mount-proc "$@""#;
    let script = r#"
(sh -c 'sleep 0.1' &); (sh -c 'sleep 0.1' &)
sleep 1
ps -e -o stat= >states
sleep 60 &
trap "exit 3" TERM
echo up >up
while :; do sleep 0.02; done
"#;
    let line = CommandLine::new(&servers, &RUN.replace("run", "run --at-most 3s"));
    let mut process = line.within(within).script(script).start();
    process.wait_for("up");
    let up = Instant::now();
    let ended = process.wait();
    assert_eq!(ended.code, 124, "it needs root, and unshare of util-linux: {}", ended.err);
    let took = up.elapsed();
    assert!(took < Duration::from_secs(2) + GRACE / 2, "{took:?}: {}", ended.err);
    let states = process.read("states");
    assert!(!states.contains('Z'), "{states}");
    assert!(gone(&servers));
}

#[test]
fn under_a_parent_that_never_reaps_a_stop_ends_as_soon_as_its_processes_are_dead_in_own_pid_namespace() {
    let servers = Server::start_some(3);
    // The shell that is process 1 becomes a `sleep`, which never waits for a child.
    let within = r#"exec unshare --pid --fork --kill-child --mount-proc sh -c '("$@"; echo $? >code) & echo >start; exec sleep 25' sh "$@""#;
    let mut process = CommandLine::new(&servers, &RUN.replace("run", "run --at-most 2s"))
        .within(within)
        .script(FAMILY)
        .start();
    process.wait_for("up");
    let up = Instant::now();
    assert!(soon(|| process.read("code").ends_with('\n')));
    let took = up.elapsed();
    assert_eq!(process.read("code"), "124\n", "it needs root, and unshare of util-linux: {}", process.err());
    assert!(took < Duration::from_secs(2) + GRACE / 2, "{took:?}: {}", process.err());
    assert!(gone(&servers));
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_and_only_the_true_reason_is_reported() {
    let servers = Server::start_some(3);
    let script = r#"trap "" TERM; while :; do sleep 0.02; done"#;
    let ended =
        CommandLine::new(&servers, "run --at-most 300ms --kill-after 500ms x").script(script).finish();
    assert_eq!(ended.code, 124, "{}", ended.err);
    assert_eq!(ended.err, "redlock: --at-most has passed: stopping the command\n");
}

#[test]
fn the_exit_code_is_passed_on_with_sigchld_ignored_or_descriptors_closed() {
    let servers = Server::start_some(3);
    for within in [r#"trap "" CHLD; exec env --ignore-signal=CHLD "$@""#, r#"exec "$@" <&- >&-"#] {
        let ended = CommandLine::new(&servers, "run x").within(within).script("true; exit 7").finish();
        assert_eq!((ended.code, ended.err.as_str()), (7, ""), "{within}");
        let held =
            CommandLine::new(&servers, "run -n x").within(within).script("sh -c 'exit 5'; exit $?").finish();
        assert_eq!((held.code, held.err.as_str()), (5, ""), "{within}");
    }
}

#[test]
fn a_signal_that_the_parent_blocked_reaches_the_command() {
    let servers = Server::start_some(3);
    let within = r#"exec env --block-signal=TERM "$@""#;
    let script =
        "trap 'exit 7' TERM; echo $$ >up; i=0; while [ $i -lt 400 ]; do sleep 0.02; i=$((i + 1)); done";
    let mut process =
        CommandLine::new(&servers, "run --kill-after 1s x").within(within).script(script).start();
    process.wait_for("up");
    process.signal(Signal::TERM);
    let ended = process.wait();
    assert_eq!(ended.code, 7, "{}", ended.err);
}

#[test]
fn a_stopped_watchdog_does_not_delay_the_end() {
    let servers = Server::start_some(3);
    let script = "echo up >up; while [ ! -e go ]; do sleep 0.02; done; exit 6";
    let mut process = CommandLine::new(&servers, "run x").script(script).start();
    process.wait_for("up");
    let watchdog = watchdog_of(&process).unwrap();
    send(&watchdog, Signal::STOP);
    assert!(soon(|| state_of(&watchdog).starts_with('T')));
    let start = Instant::now();
    fs::write(process.path("go"), "").unwrap();
    let ended = soon(|| process.has_ended());
    if !ended {
        send(&watchdog, Signal::CONT);
    }
    assert!(ended, "it waits for its watchdog");
    assert_eq!(process.wait().code, 6);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(gone(&servers) && !runs(&watchdog));
}

#[test]
fn a_watchdog_that_was_killed_is_replaced() {
    let servers = Server::start_some(3);
    let script = r#"trap 'echo term >term; exit 0' TERM; echo $$ >up; while :; do sleep 0.02; done"#;
    let mut process = CommandLine::new(&servers, "run --ttl 3s x").script(script).start();
    let command = process.wait_for("up");
    let first = watchdog_of(&process).unwrap();
    send(&first, Signal::KILL);
    let another = soon(|| watchdog_of(&process).is_some_and(|watchdog| watchdog != first && runs(&watchdog)));
    process.signal(Signal::KILL);
    process.wait();
    let stopped = another && soon(|| !runs(&command));
    if !stopped {
        send(&command, Signal::KILL);
    }
    assert!(another, "no other watchdog");
    assert!(stopped, "it goes on unwatched");
    assert_eq!(process.read("term"), "term\n");
}

#[test]
fn an_early_sigterm_to_every_process_leaves_no_command_without_a_watchdog() {
    let servers = Server::start_some(3);
    for run in 0..12 {
        // The command ignores SIGTERM from its first moment on.
        let line = CommandLine::new(&servers, "run --verbose --ttl 2s --kill-after 300ms x");
        let mut process = line.script(r#"trap "" TERM; echo $$ >up; while :; do sleep 0.02; done"#).start();
        // A service manager signals all of its processes like this, and a watchdog that has just started
        // among them.
        let start = Instant::now();
        let own = process.pid().as_raw_pid().to_string();
        let mut signalled = false;
        while !signalled && start.elapsed() < Duration::from_secs(10) {
            if let Some((watchdog, _)) = children_of(&own).first() {
                send(watchdog, Signal::TERM);
                signalled = true;
            }
        }
        assert!(signalled, "run {run}: no watchdog");
        let command = process.wait_for("up");
        assert!(soon(|| process.err().contains("its watchdog watches")), "{}", process.err());
        process.signal(Signal::KILL);
        process.wait();
        let stopped = soon(|| !runs(&command));
        if !stopped {
            send(&command, Signal::KILL);
        }
        assert!(stopped, "run {run}: it goes on unwatched");
        assert!(soon(|| gone(&servers)));
    }
}

#[test]
fn an_executable_script_without_an_interpreter_line_is_run_by_sh() {
    let servers = Server::start_some(3);
    let make = "echo 'echo $1; exit 5' >bare-script; chmod +x bare-script; PATH=$PATH:.; exec \"$@\" -- $COMMAND arg";
    for command in ["./bare-script", "bare-script"] {
        let ended = CommandLine::new(&servers, "run x").within(make).variable("COMMAND", command).finish();
        assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (5, "arg\n", ""), "{command}");
    }
}

#[test]
fn in_the_foreground_a_signal_to_redlock_itself_is_passed_on_where_no_terminal_sent_it() {
    let servers = Server::start_some(3);
    for signal in [Signal::INT, Signal::QUIT] {
        let script = "trap 'exit 7' INT QUIT; echo up >up; while :; do sleep 0.02; done";
        // The defaults are restored here, as a shell that runs the tests in the background ignores these
        // signals.
        let inside = r#"exec env --default-signal=INT,QUIT setsid "$@""#;
        let line = CommandLine::new(&servers, "run --foreground x").within(inside).script(script);
        let mut process = line.start();
        process.wait_for("up");
        process.signal(signal);
        assert_eq!(process.wait().code, 7, "{signal:?}: {}", process.err());
    }
}
