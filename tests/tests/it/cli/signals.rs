//! `redlock run` and signals.

use std::{thread, time::Duration};

use redlock_tests::server::Server;
use rustix::process::Signal;

use crate::cli::process::{CommandLine, is_ignored, runs, soon, state_of};

fn gone(servers: &[Server], key: &str) -> bool {
    servers.iter().all(|server| server.get(key).is_none())
}

#[test]
fn signals_reach_the_command_and_all_that_it_started() {
    let servers = Server::start_some(3);
    let script = r#"
sh -c 'trap "echo child >child; exit" TERM INT HUP QUIT USR1 USR2; echo up >up-too; while [ -e up-too ]; do sleep 0.02; done' &
for name in TERM INT HUP QUIT USR1 USR2; do trap "echo $name >signal; exit 7" $name; done
while [ ! -e up-too ]; do sleep 0.02; done
echo $$ >up
while :; do sleep 0.02; done
"#;
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ]
    .into_iter()
    .filter(|(signal, _)| !is_ignored(*signal))
    {
        let mut process = CommandLine::new(&servers, "run x").script(script).start();
        process.wait_for("up");
        process.signal(signal);
        let ended = process.wait();
        assert_eq!(ended.code, 7, "{name}: {}", ended.err);
        assert_eq!(process.read("signal").trim(), name);
        // A background shell ignores these two from the start.
        if name != "INT" && name != "QUIT" {
            assert!(soon(|| process.read("child") == "child\n"), "{name}");
        }
        assert!(gone(&servers, "x"), "{name}");
    }
}

#[test]
fn a_command_ended_by_a_signal_is_reported_as_such_and_its_lock_is_released() {
    let servers = Server::start_some(3);
    let mut process =
        CommandLine::new(&servers, "run --ttl 1m x").script("echo $$ >up; exec sleep 20").start();
    process.wait_for("up");
    process.signal(Signal::TERM);
    let ended = process.wait();
    assert_eq!((ended.code, ended.err.as_str()), (143, ""));
    assert!(gone(&servers, "x"));
}

#[test]
fn a_command_may_take_its_time_to_end() {
    let servers = Server::start_some(3);
    let script = "trap 'sleep 3; exit 4' TERM; echo $$ >up; while :; do sleep 0.02; done";
    let mut process = CommandLine::new(&servers, "run --ttl 2s x").script(script).start();
    process.wait_for("up");
    process.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(2_500));
    assert!(servers.iter().all(|server| server.get("x").is_some()), "the lock is held until the end");
    assert_eq!(process.finish().code, 4);
    assert!(gone(&servers, "x"));
}

#[test]
fn a_signal_ends_the_wait_for_the_lock_and_leaves_no_key() {
    let servers = Server::start_some(3);
    for server in &servers[..2] {
        server.command::<()>(&["SET", "x", "another"]);
    }
    let sets = || servers[2].calls("set");
    let signals = [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::QUIT, 131)];
    for (signal, code) in signals.into_iter().filter(|(signal, _)| !is_ignored(*signal)) {
        let before = sets();
        let process =
            CommandLine::new(&servers, "run --ttl 1m --retry-delay 1ms x").script("echo ran").start();
        assert!(soon(|| sets() > before + 3));
        process.signal(signal);
        let ended = process.finish();
        assert_eq!((ended.code, ended.out.as_str()), (code, ""), "{}", ended.err);
        assert!(ended.err.contains("while waiting for the lock"), "{}", ended.err);
        assert_eq!(servers[2].get("x"), None, "{signal:?}");
    }
    assert!(servers[..2].iter().all(|server| server.get("x").as_deref() == Some("another")));
}

#[test]
fn a_signal_in_mid_round_leaves_no_key() {
    let servers = Server::start_some(3);
    servers[0].command::<()>(&["SET", "x", "another"]);
    servers[1].pause();
    let process = CommandLine::new(&servers, "run --ttl 1m x").script("echo ran").start();
    assert!(soon(|| servers[2].get("x").is_some()), "one has refused, one is silent, one has granted");
    process.signal(Signal::TERM);
    let ended = process.finish();
    assert_eq!((ended.code, ended.out.as_str()), (143, ""), "{}", ended.err);
    assert_eq!(servers[2].get("x"), None);
    servers[1].resume();
    assert!(soon(|| servers[1].get("x").is_none()));
}

#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let servers = Server::start_some(3);
    let line = CommandLine::new(&servers, "run x").script("echo up >up; sleep 2; exit 6");
    let mut process = line.within(r#"trap "" HUP; exec "$@""#).start();
    process.wait_for("up");
    process.signal(Signal::HUP);
    let ended = process.finish();
    assert_eq!((ended.code, ended.err.as_str()), (6, ""));
}

#[test]
fn stopping_redlock_from_the_terminal_stops_the_command_until_both_go_on() {
    let servers = Server::start_some(3);
    // The script starts nothing once it is up: a shell whose child is stopped between fork and exec waits for
    // it, and does not appear as stopped itself.
    let script = "mkfifo go; echo $$ >up; read go <>go; exit 6";
    let mut process = CommandLine::new(&servers, "run --ttl 1m x").script(script).start();
    let pid = process.wait_for("up");
    process.signal(Signal::TSTP);
    let own = process.pid().as_raw_pid().to_string();
    assert!(soon(|| state_of(&pid).starts_with('T') && state_of(&own).starts_with('T')));
    process.signal(Signal::CONT);
    assert!(soon(|| !state_of(&pid).starts_with('T')));
    assert!(runs(&pid), "nobody reads what is written");
    std::fs::write(process.path("go"), "\n").unwrap();
    assert_eq!(process.finish().code, 6);
}

#[test]
fn the_command_has_a_process_group_of_its_own_unless_it_is_in_the_foreground() {
    let servers = Server::start_some(3);
    for (options, own) in [("", true), ("--foreground", false)] {
        let line = CommandLine::new(&servers, &format!("run {options} x"));
        let mut process = line.script("echo $$ $(ps -o pgid= -p $$) >ids; sleep 20").start();
        let ids = process.wait_for("ids");
        let (pid, group) = ids.split_once(' ').unwrap();
        assert_eq!(pid == group.trim(), own, "{ids}");
        process.signal(Signal::TERM);
        assert_eq!(process.finish().code, 143);
        assert!(gone(&servers, "x"));
    }
}
