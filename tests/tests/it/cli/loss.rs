//! `redlock run` when the lock is lost, or `redlock` itself is.

use std::{
    fs, thread,
    time::{Duration, SystemTime},
};

use redlock_tests::server::Server;
use rustix::process::Signal;

use crate::cli::process::{CommandLine, Process, runs, soon};

const TTL: Duration = Duration::from_secs(3);

/// Leaves a process in the background, ignores SIGTERM, and writes to `beat` for as long as it runs.
const STUBBORN: &str = r#"
sh -c 'trap "" TERM; while :; do sleep 0.02; done' & echo $! >background
trap "echo term >term" TERM
while :; do echo beat >>beat; sleep 0.02; done
"#;
/// Cleans up at SIGTERM.
const TIDY: &str = r#"trap 'echo term >term; exit 0' TERM; echo up >up; while :; do sleep 0.02; done"#;

/// Starts a script, and waits until all servers hold the key.
fn start(servers: &[Server], options: &str, script: &str, file: &str) -> Process {
    let mut process = CommandLine::new(servers, &format!("run {options} x")).script(script).start();
    process.wait_for(file);
    assert!(soon(|| servers.iter().all(|server| server.get("x").is_some())));
    process
}

/// When the command last wrote to `beat`.
fn last_beat(process: &Process) -> SystemTime {
    fs::metadata(process.path("beat")).unwrap().modified().unwrap()
}

#[test]
fn a_lock_that_was_taken_away_stops_the_command() {
    let servers = Server::start_some(3);
    let process = start(&servers, "--ttl 3s", TIDY, "up");
    for server in &servers[..2] {
        server.command::<()>(&["SET", "x", "another"]);
    }
    let mut process = process;
    let ended = process.wait();
    assert_eq!(ended.code, 79, "{}", ended.err);
    assert_eq!(process.read("term"), "term\n");
    assert!(ended.err.contains("the lock on x is lost"), "{}", ended.err);
    let refused =
        servers[..2].iter().all(|server| ended.err.contains(&format!("{}: refused", server.address())));
    assert!(refused, "{}", ended.err);
    assert!(servers[..2].iter().all(|server| server.get("x").as_deref() == Some("another")));
    assert_eq!(servers[2].get("x"), None);
}

#[test]
fn a_command_that_does_not_stop_is_killed_with_all_that_it_started() {
    let servers = Server::start_some(3);
    let mut process = start(&servers, "--ttl 3s --kill-after 500ms", STUBBORN, "beat");
    let background = process.wait_for("background");
    assert!(runs(&background));
    servers.iter().for_each(|server| server.command::<()>(&["DEL", "x"]));
    let ended = process.wait();
    assert_eq!(ended.code, 79, "{}", ended.err);
    assert_eq!(process.read("term"), "term\n");
    assert!(soon(|| !runs(&background)), "it goes on in the background");
}

#[test]
fn when_a_majority_falls_silent_the_command_is_gone_before_the_lock_ends() {
    let servers = Server::start_some(3);
    let mut process = start(&servers, "--ttl 3s", STUBBORN, "beat");
    let background = process.wait_for("background");
    // After some extensions.
    thread::sleep(TTL);
    assert!(!process.has_ended(), "{}", process.err());
    let before = SystemTime::now();
    servers[..2].iter().for_each(Server::pause);
    let ended = process.wait();
    assert_eq!(ended.code, 79, "{}", ended.err);
    let lived = last_beat(&process).duration_since(before).unwrap();
    // No key lives longer, as the last extension was before this.
    assert!(lived < TTL, "{lived:?}: {}", ended.err);
    assert_eq!(process.read("term"), "term\n");
    assert!(soon(|| !runs(&background)));
    assert!(ended.err.contains("no quorum extends the lock on x"), "{}", ended.err);
    let silent = |server: &Server| ended.err.contains(&format!("{}: indeterminate", server.address()));
    assert!(servers[..2].iter().all(silent), "{}", ended.err);
    servers.iter().for_each(Server::resume);
}

#[test]
fn when_a_majority_dies_the_command_is_stopped() {
    let mut servers = Server::start_some(3);
    let mut process = start(&servers, "--ttl 3s", TIDY, "up");
    servers[0].kill();
    servers[2].kill();
    let ended = process.wait();
    assert_eq!(ended.code, 79, "{}", ended.err);
    assert_eq!(process.read("term"), "term\n");
    assert!(soon(|| servers[1].get("x").is_none()));
}

#[test]
fn a_minority_that_stops_or_dies_does_not_matter() {
    for stop in [true, false] {
        let mut servers = Server::start_some(3);
        let mut process = start(&servers, "--ttl 2s", "echo up >up; sleep 6; exit 5", "up");
        if stop {
            servers[1].pause();
        } else {
            servers[1].kill();
        }
        let ended = process.wait();
        assert_eq!(ended.code, 5, "stopped: {stop}: {}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "stopped: {stop}: {}", ended.err);
        assert!(servers[0].get("x").is_none() && servers[2].get("x").is_none());
        if stop {
            servers[1].resume();
            assert!(soon(|| servers[1].get("x").is_none()));
        }
    }
}

#[test]
fn success_means_that_the_lock_was_held_to_the_end() {
    let servers = Server::start_some(3);
    let script = "echo up >up; while [ ! -e go ]; do sleep 0.02; done; exit 0";
    let mut process = start(&servers, "--ttl 1m", script, "up");
    servers.iter().for_each(|server| server.command::<()>(&["DEL", "x"]));
    fs::write(process.path("go"), "").unwrap();
    let ended = process.wait();
    assert_eq!(ended.code, 79, "{}", ended.err);
    assert!(ended.err.contains("gone when the command had ended (with 0)"), "{}", ended.err);
}

#[test]
fn when_redlock_is_killed_its_watchdog_stops_the_command_and_the_lock_ends_with_its_ttl() {
    let servers = Server::start_some(3);
    let mut process = start(&servers, "--ttl 3s --kill-after 1s", STUBBORN, "beat");
    let background = process.wait_for("background");
    let killed = SystemTime::now();
    process.signal(Signal::KILL);
    assert_eq!(process.wait().code, -1);
    assert!(soon(|| !runs(&background)), "it goes on in the background");
    assert_eq!(process.read("term"), "term\n");
    assert!(process.err().contains("redlock was killed: stopping the command"), "{}", process.err());
    let lived = last_beat(&process).duration_since(killed).unwrap();
    assert!(lived < TTL, "{lived:?}");
    assert!(soon(|| servers.iter().all(|server| server.get("x").is_none())), "the lock stays");
}

#[test]
fn when_redlock_is_stopped_its_watchdog_stops_the_command_before_the_lock_ends() {
    let servers = Server::start_some(3);
    let mut process = start(&servers, "--ttl 3s", STUBBORN, "beat");
    let background = process.wait_for("background");
    let stopped = SystemTime::now();
    process.signal(Signal::STOP);
    assert!(soon(|| !runs(&background)), "it goes on in the background");
    let lived = last_beat(&process).duration_since(stopped).unwrap();
    assert!(lived < TTL, "{lived:?}");
    assert_eq!(process.read("term"), "term\n");
    process.signal(Signal::CONT);
    let ended = process.wait();
    assert_eq!(ended.code, 79, "{}", ended.err);
}
