//! What people write: arguments and the environment of the `redlock` command, and URLs.

use std::{ffi::OsString, fmt::Debug, os::unix::ffi::OsStringExt, time::Duration};

use redlock_cli::fuzzing::{Line, NotRun, USAGE, open_given, parse};
use redlock_core::LockBackend;
use redlock_fred::FredBackend;
use redlock_redis_rs::RedisBackend;

/// The first byte says what the rest is: arguments, a time, addresses, or an address with a password.
pub fn check(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else { return };
    // Here the secret would be part of the input itself. (Addresses lose their tabs and line ends.)
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

/// One argument per line. `@` is replaced by a node with a password, which must never be printed.
fn arguments(lines: &[u8]) {
    let line = |line: &[u8]| match line {
        b"@" => format!("--node=redis://me:{SECRET}@a.example").into(),
        line => OsString::from_vec(line.to_vec()),
    };
    let mut given = vec![OsString::from("redlock")];
    given.extend(lines.split(|byte| *byte == b'\n').map(line));
    let parsed = match parse(given.clone()) {
        Ok(parsed) => parsed,
        Err(NotRun::Help(text)) => {
            assert!(!text.is_empty() && !text.contains(SECRET), "{text}");
            return;
        }
        Err(NotRun::Usage(failure)) => {
            let message = failure.message;
            assert!(failure.code == USAGE && !message.is_empty());
            // Where no node is expected, a URL cannot be recognized as one.
            assert!(!message.contains(SECRET) || !is_whole(&given), "{message}");
            return;
        }
    };
    match parsed {
        Line::Run { urls, resources, command, wait, no_wait, .. } => {
            let end = given.iter().position(|argument| argument == "--").expect("the command follows a --");
            assert_eq!(command, given[end + 1..]);
            assert!(!resources.is_empty() && resources.len() < end);
            for name in &resources {
                assert!(
                    given[..end].iter().any(|argument| argument == name.as_str()),
                    "{name:?} was not given"
                );
            }
            assert!(!(no_wait && wait.is_some()));
            open(&urls, "");
        }
        Line::Status { urls, resources } => {
            assert!(!resources.is_empty());
            open(&urls, "");
        }
        Line::Watchdog { grace } => assert!(grace <= Duration::from_millis(u64::MAX)),
        Line::Other => {}
    }
}

/// Whether the node is in its place: after `run` or `status`, and before the command.
fn is_whole(given: &[OsString]) -> bool {
    let has_action = given.get(1).is_some_and(|action| action == "run" || action == "status");
    let end = given.iter().position(|argument| argument == "--").unwrap_or(given.len());
    has_action && !given[end..].iter().any(|argument| argument.to_string_lossy().contains(SECRET))
}

/// A duration that is accepted is accepted again when it is formatted.
fn time(text: &str) {
    let Some(time) = duration(text) else { return };
    let written = humantime::format_duration(time).to_string();
    assert_eq!(duration(&written), Some(time), "{text:?} is {written:?}");
    match text.parse::<f64>() {
        Ok(seconds) => {
            let parsed = time.as_secs_f64();
            assert!((parsed - seconds).abs() <= 1e-9 + seconds * 1e-12, "{text:?} is {parsed}");
        }
        Err(_) => assert_eq!(humantime::parse_duration(text).ok(), Some(time), "{text:?}"),
    }
}

fn duration(text: &str) -> Option<Duration> {
    let line = ["redlock", "run", &format!("--ttl={text}"), "x", "--", "true"];
    match parse(line.map(OsString::from)).ok()? {
        Line::Run { ttl, .. } => Some(ttl),
        _ => panic!("{text:?} makes another action"),
    }
}

/// Any addresses, in every way in which they can be given.
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

/// Returns how many nodes the command opens.
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

/// Lines: scheme, user, the start of the password, its end, and the rest after the `@`. The password is never
/// printed, whether the address is valid or not.
fn secret(text: &str) {
    let mut lines = text.split('\n');
    let [Some(scheme), Some(user), Some(begin), Some(end), Some(rest)] = [(); 5].map(|()| lines.next())
    else {
        return;
    };
    // The address of a socket has no user: all of it is a path. And an address after the one with the
    // password is another address.
    let is_path = scheme.contains("unix") || scheme.contains(|letter: char| !letter.is_ascii_graphic());
    if is_path || text.contains("://") || rest.contains('@') {
        return;
    }
    let url = format!("{scheme}://{user}:{begin}{SECRET}{end}@{rest}");
    open(std::slice::from_ref(&url), "");
    // In a list, another address follows a comma.
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

fn conceals(printed: &impl Debug) {
    let printed = format!("{printed:?}");
    assert!(!printed.contains(SECRET), "{printed}");
}

const SECRET: &str = "Hunter-2-Hunter";
