//! What the `redlock` command says without a server. That it is here also makes `cargo test` build the
//! command, which the tests on real servers run.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    process::{Command, Output},
};

#[test]
fn the_help_has_examples_and_every_exit_code() {
    let help = redlock(&["run", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8_lossy(&help.stdout);
    for word in [
        "\n  64  ",
        "\n  69  ",
        "\n  71  ",
        "\n  75  ",
        "\n  78  ",
        "\n  79  ",
        "\n  124  ",
        "\n  126  ",
        "\n  127  ",
        "128+N",
        "Examples:",
        "REDLOCK_NODES",
        "REDLOCK_HOLDER",
        "--foreground",
        "--kill-after",
    ] {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
    assert!(!text.contains("watchdog"), "{text}");
    let help = redlock(&["status", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("\n  75  held"));
}

#[test]
fn the_version_is_the_crates() {
    let version = redlock(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(version.stdout, format!("redlock {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
}

#[test]
fn arguments_that_make_no_sense_are_told_apart_from_what_nodes_and_commands_say() {
    for line in [
        &[][..],
        &["walk"],
        &["run", "x"],
        &["run", "x", "--"],
        &["run", "--", "true"],
        &["run", "--node", "a:1", "--ttl", "soon", "x", "--", "true"],
        &["run", "--node", "a:1", "--ttl", "1ms", "x", "--", "true"],
        &["run", "--node", "a:1", "--ttl", "10s", "--kill-after", "6s", "x", "--", "true"],
        &["run", "--node", "a:1", "x", "x", "--", "true"],
        &["run", "--node", "a:1", "", "--", "true"],
        &["run", "--node", "a:1", "--node", "redis://a:1", "x", "--", "true"],
        &["run", "--node", "ftp://user:secret@a", "x", "--", "true"],
        &["run", "--node", "a:1", "--no-wait", "--wait", "1s", "x", "--", "true"],
        &["run", "x", "--", "true"],
        &["status", "x"],
    ] {
        let output = redlock(line);
        assert_eq!(output.status.code(), Some(64), "{line:?}");
        assert!(!output.stderr.is_empty(), "{line:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.stdout.is_empty() && !said.contains("secret"), "{line:?}: {said}");
    }
}

#[test]
fn a_list_of_nodes_that_is_not_utf_8_is_told_as_such() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redlock"));
    command.args(["status", "x"]).env("REDLOCK_NODES", OsStr::from_bytes(b"redis://\xff:1"));
    let output = command.output().expect("the command can be run");
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "redlock: REDLOCK_NODES is not UTF-8\n");
}

/// Whatever is in a password, and whichever way the nodes are given.
#[test]
fn no_part_of_a_password_is_told() {
    let lists = [",", " ", "/", "?", "#", "@", ":", "%", "\t", "\n", "/?db=4&", ", ", "#,"];
    for odd in lists {
        for list in [
            format!("redis://app:12345{odd}hidden@127.0.0.1:1"),
            format!("redis://app:1{odd}hidden@127.0.0.1:1,redis://a.example"),
            format!("redis://hidden{odd}hidden@127.0.0.1:x"),
            format!("redis://:1{odd}hidden{odd}hidden@127.0.0.1:1?db=4"),
            format!("app:1{odd}hidden@127.0.0.1:1"),
        ] {
            let mut by_variable = Command::new(env!("CARGO_BIN_EXE_redlock"));
            by_variable.args(["status", "--timeout", "10ms", "x"]).env("REDLOCK_NODES", &list);
            let by_variable = by_variable.output().expect("the command can be run");
            let by_argument = redlock(&["status", "--timeout", "10ms", "--node", &list, "x"]);
            for output in [by_variable, by_argument] {
                let told = format!("{output:?}");
                assert!(!told.contains("hidden") && !told.contains("12345"), "{list:?}: {told}");
            }
        }
    }
}

#[test]
fn a_separator_in_a_password_is_told_to_need_encoding() {
    for odd in [",", " ", "/", "?", "#"] {
        let list = format!("redis://a.example,redis://app:12345{odd}hidden@b.example");
        let mut command = Command::new(env!("CARGO_BIN_EXE_redlock"));
        command.args(["run", "--no-wait", "x", "--", "true"]).env("REDLOCK_NODES", &list);
        let output = command.output().expect("the command can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{list}: {said}");
        assert!(
            said.contains("REDLOCK_NODES: number ") && said.contains("percent-encoded"),
            "{list}: {said}"
        );
    }
}

#[test]
fn what_a_node_would_pass_over_is_an_error_that_names_the_part() {
    for (rest, part) in [
        ("?db=4", "the parameter `db`"),
        ("/?password=hidden", "the parameter `password`"),
        ("#x", "fragment"),
    ] {
        let output = redlock(&["run", "--no-wait", "--node", &format!("a.example{rest}"), "x", "--", "true"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{rest}: {said}");
        assert!(said.starts_with("redlock: --node: number 1: ") && said.contains(part), "{rest}: {said}");
        assert!(!said.contains("hidden"), "{said}");
    }
}

fn redlock(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redlock"));
    command.args(arguments).env_remove("REDLOCK_NODES").output().expect("the command can be run")
}
