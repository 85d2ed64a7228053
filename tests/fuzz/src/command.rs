//! What people write: arguments and the environment of the `redlock` command, and URLs.

use std::{ffi::OsString, fmt::Debug, os::unix::ffi::OsStringExt, time::Duration};

use redlock_cli::internals::{Action, NotRun, USAGE, open_given, parse};
use redlock_core::LockBackend;
use redlock_fred::FredBackend;
use redlock_redis_rs::RedisBackend;

/// The first byte says what the rest is: arguments, a time, addresses, or an address with a password.
pub fn check(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else { return };
    // Here the word is no password. (Addresses lose their tabs and line ends.)
    let bare: Vec<u8> = rest.iter().copied().filter(|byte| !byte.is_ascii_control()).collect();
    if bare.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) {
        return;
    }
    if *what == b'a' {
        arguments(rest);
        return;
    }
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match what {
        b't' => time(text),
        b'u' => urls(text),
        b's' => secret(text),
        _ => {}
    }
}

/// One argument a line. `@` stands for a node with a password, which nobody is told.
fn arguments(lines: &[u8]) {
    let line = |line: &[u8]| match line {
        b"@" => format!("--node=redis://me:{SECRET}@a.example").into(),
        line => OsString::from_vec(line.to_vec()),
    };
    let mut given = vec![OsString::from("redlock")];
    given.extend(lines.split(|byte| *byte == b'\n').map(line));
    let action = match parse(given.clone()) {
        Ok(action) => action,
        Err(NotRun::Help(text)) => {
            assert!(!text.is_empty() && !text.contains(SECRET), "{text}");
            return;
        }
        Err(NotRun::Usage(failure)) => {
            let told = failure.message;
            assert!(failure.code == USAGE && !told.is_empty());
            // What stands where no node is expected cannot be known for one.
            assert!(!told.contains(SECRET) || !is_whole(&given), "{told}");
            return;
        }
    };
    match action {
        Action::Run(run) => {
            let end = given.iter().position(|argument| argument == "--").expect("the command follows a --");
            assert_eq!(run.command, given[end + 1..]);
            assert!(!run.resources.is_empty() && run.resources.len() < end);
            for name in &run.resources {
                assert!(
                    given[..end].iter().any(|argument| argument == name.as_str()),
                    "{name:?} was not given"
                );
            }
            assert!(!(run.no_wait && run.wait.is_some()));
            open(&run.nodes.urls, "");
        }
        Action::Status(status) => {
            assert!(!status.resources.is_empty());
            open(&status.nodes.urls, "");
        }
        Action::Completions(_) | Action::Man(_) => {}
        Action::Watchdog(watchdog) => assert!(watchdog.grace() <= Duration::from_millis(u64::MAX)),
    }
}

/// Whether the node is told where it belongs: behind `run` or `status`, before the command.
fn is_whole(given: &[OsString]) -> bool {
    let behind = given.get(1).is_some_and(|action| action == "run" || action == "status");
    let end = given.iter().position(|argument| argument == "--").unwrap_or(given.len());
    behind && !given[end..].iter().any(|argument| argument.to_string_lossy().contains(SECRET))
}

/// A time that is understood is understood again when it is written out.
fn time(text: &str) {
    let Some(time) = duration(text) else { return };
    let written = humantime::format_duration(time).to_string();
    assert_eq!(duration(&written), Some(time), "{text:?} is {written:?}");
    match text.parse::<f64>() {
        Ok(seconds) => {
            let told = time.as_secs_f64();
            assert!((told - seconds).abs() <= 1e-9 + seconds * 1e-12, "{text:?} is {told}");
        }
        Err(_) => assert_eq!(humantime::parse_duration(text).ok(), Some(time), "{text:?}"),
    }
}

fn duration(text: &str) -> Option<Duration> {
    let line = ["redlock", "run", &format!("--ttl={text}"), "x", "--", "true"];
    match parse(line.map(OsString::from)).ok()? {
        Action::Run(run) => Some(run.ttl),
        _ => panic!("{text:?} makes another action"),
    }
}

/// Any addresses, in all ways in which they are given.
fn urls(text: &str) {
    open(&[], text);
    open(&[text.to_owned()], "");
    let lines: Vec<&str> = text.lines().collect();
    for url in &lines {
        let _ = (RedisBackend::open(*url), FredBackend::open(url));
    }
    let _ = RedisBackend::open_cluster(lines.iter().copied());
    let _ = RedisBackend::open_sentinel(lines.iter().copied(), "main", Default::default());
}

/// How many nodes the command makes of them.
fn open(given: &[String], listed: &str) -> Option<usize> {
    match open_given(given, listed) {
        Ok(nodes) => {
            assert!(!nodes.is_empty());
            conceals(&nodes);
            nodes.iter().for_each(|node| conceals(&node.name()));
            Some(nodes.len())
        }
        Err(failure) => {
            assert_eq!(failure.code, USAGE);
            conceals(&failure.message);
            None
        }
    }
}

/// Lines: scheme, user, what the password begins with, what it ends with, and the rest behind the `@`.
/// Whether the address makes sense or not, nobody is told the password.
fn secret(text: &str) {
    let mut lines = text.split('\n');
    let [Some(scheme), Some(user), Some(begin), Some(end), Some(rest)] = [(); 5].map(|()| lines.next())
    else {
        return;
    };
    // A socket's address has no user: all of it is a path. And what is behind a password's own address is
    // another one.
    let is_path = scheme.contains("unix") || scheme.contains(|letter: char| !letter.is_ascii_graphic());
    if is_path || text.contains("://") || rest.contains('@') {
        return;
    }
    let url = format!("{scheme}://{user}:{begin}{SECRET}{end}@{rest}");
    open(std::slice::from_ref(&url), "");
    // There, a comma makes an address of what follows.
    if ![user, begin, end].into_iter().any(|text| text.contains([',', ' ', '\t'])) {
        open(&[], &format!("a.example,{url}"));
    }
    named(RedisBackend::open(url.as_str()));
    named(FredBackend::open(&url));
    named(RedisBackend::open_cluster([url.as_str(), "redis://a.example"]));
    named(RedisBackend::open_sentinel([url.as_str(), "redis://a.example"], "main", Default::default()));
}

fn named<N: LockBackend, E: Debug + std::fmt::Display>(node: Result<N, E>) {
    match node {
        Ok(node) => conceals(&(node.name(), &node)),
        Err(error) => conceals(&(error.to_string(), error)),
    }
}

fn conceals(told: &impl Debug) {
    let told = format!("{told:?}");
    assert!(!told.contains(SECRET), "{told}");
}

const SECRET: &str = "Hunter-2-Hunter";
