//! `redlock run --at-least`: a job runs once a period, on however many machines.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use redlock_tests::server::{Server, everywhere};
use rustix::process::Signal;

use crate::cli::process::{CommandLine, soon};

const AT_LEAST: Duration = Duration::from_secs(3);

/// Appends a line to a file of all machines, and exits with `code`.
fn job(shared: &tempfile::TempDir, code: i32) -> String {
    format!("echo run >>{}/runs; exit {code}", shared.path().display())
}

fn runs(shared: &tempfile::TempDir) -> usize {
    std::fs::read_to_string(shared.path().join("runs")).unwrap_or_default().lines().count()
}

#[test]
fn machines_whose_clocks_differ_run_a_short_job_once_and_its_exit_code_is_seen() {
    for (code, down) in [(0, 0), (3, 1)] {
        let mut servers = Server::start_some(3);
        servers.truncate(3 - down);
        let shared = tempfile::TempDir::new().unwrap();
        let mut urls: Vec<String> = servers.iter().map(Server::url).collect();
        urls.extend((0..down).map(|_| "redis://127.0.0.1:1".to_owned()));
        let run = |options: &str| {
            let line = CommandLine::new(&[], &format!("run --no-wait --quiet --at-least 3s {options} x"));
            line.variable("REDLOCK_NODES", &urls.join(",")).script(&job(&shared, code)).finish()
        };
        let start = Instant::now();
        let first = run("");
        assert_eq!((first.code, first.out.as_str(), first.err.as_str()), (code, "", ""));
        // The last one begins before the time has passed, and may be late on a busy machine.
        let mut free_at = start + first.took + AT_LEAST * 102 / 100;
        let mut expected = 1;
        while start.elapsed() < AT_LEAST - Duration::from_secs(1) {
            let another = run("");
            assert_eq!(another.err, "");
            if another.code != 75 {
                assert!(start.elapsed() > AT_LEAST && another.code == code, "{another:?}");
                expected += 1;
                free_at = Instant::now() + AT_LEAST * 102 / 100;
            }
            sleep(Duration::from_millis(200));
        }
        assert_eq!(runs(&shared), expected);
        // The keys outlive it by the drift.
        sleep(free_at.saturating_duration_since(Instant::now()));
        let next = run("--fenced");
        assert_eq!((next.code, next.err.as_str()), (code, ""));
        assert_eq!(runs(&shared), expected + 1);
    }
}

#[test]
fn it_says_for_how_long_the_lock_stays_only_when_asked() {
    let servers = Server::start_some(3);
    let ended = CommandLine::new(&servers, "run --verbose --at-least 1m x").script("true").finish();
    assert_eq!(ended.code, 0);
    assert!(ended.err.contains("redlock: the lock stays for another 59s "), "{}", ended.err);
    assert!(!ended.err.contains("released") && !ended.err.contains("release:"), "{}", ended.err);
    let left = servers[0].ttl("x").unwrap();
    assert!((Duration::from_secs(50)..Duration::from_secs(61)).contains(&left), "{left:?}");

    let ended = CommandLine::new(&servers, "run --verbose --at-least 500ms y").script("sleep 1").finish();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("redlock: released\n"), "{}", ended.err);
    assert!(everywhere(&servers, "y", None));
}

#[test]
fn the_lock_stays_when_the_command_is_stopped_sooner_or_cannot_start() {
    let servers = Server::start_some(3);
    let ended = CommandLine::new(&servers, "run --ttl 6s --at-most 500ms --at-least 1m x").script("sleep 20");
    let ended = ended.finish();
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (124, "redlock: --at-most has passed: stopping the command\n")
    );
    let ended =
        CommandLine::new(&servers, "run --at-least 1m y").arguments(["--", "no-such-command"]).finish();
    assert_eq!(ended.code, 127);
    let mut stopped =
        CommandLine::new(&servers, "run --at-least 1m z").script("echo go >go; sleep 20").start();
    stopped.wait_for("go");
    stopped.signal(Signal::TERM);
    assert_eq!(stopped.finish().code, 143);
    for name in ["x", "y", "z"] {
        assert!(servers.iter().all(|server| server.get(name).is_some()), "{name}");
        assert!(servers[0].ttl(name).unwrap() > Duration::from_secs(30), "{name}");
    }
}

#[test]
fn the_lock_stays_when_redlock_is_killed() {
    let servers = Server::start_some(3);
    let script = "echo $$ >pid; exec sleep 20";
    let mut process = CommandLine::new(&servers, "run --ttl 3s --at-least 1m x").script(script).start();
    let pid = process.wait_for("pid");
    process.signal(Signal::KILL);
    process.finish();
    // Its watchdog stops the command, as ever.
    assert!(soon(|| !std::path::Path::new(&format!("/proc/{pid}/stat")).exists()));
    assert!(servers[0].ttl("x").unwrap() > Duration::from_secs(30));
    let other = CommandLine::new(&servers, "run --no-wait x").script("true").finish();
    assert_eq!(other.code, 75, "{}", other.err);
}

#[test]
fn a_time_that_max_ttl_does_not_allow_is_refused() {
    let servers = Server::start_some(3);
    let refused = |options: &str| {
        let ended = CommandLine::new(&servers, &format!("run {options} x")).script("echo ran").finish();
        assert_eq!((ended.code, ended.out.as_str()), (64, ""), "{}", ended.err);
        ended.err
    };
    assert_eq!(
        refused("--max-ttl 1m --at-least 1m"),
        "redlock: --at-least is 1m, for which the lock needs a TTL of 1m 609ms, as clocks may drift: it may be 1m at most\n"
    );
    let said = refused("--max-ttl 10s --at-least 5s --ttl 20s");
    assert_eq!(said, "redlock: invalid request: a TTL of 20s is too long: at most 10s\n");
    assert!(everywhere(&servers, "x", None));
}
