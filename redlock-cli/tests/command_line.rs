//! The `redlock` command without a server. As these tests are in this crate, `cargo test` also builds the
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
        "--note",
        "--kill-after",
        "--at-least",
        "[default: 30s, or --at-least if that is shorter]",
    ] {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ") + &text;
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
fn invalid_arguments_have_an_exit_code_of_their_own() {
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
        &["run", "--node", "a:1", "--ttl", "10s", "--max-ttl", "9s", "x", "--", "true"],
        &["run", "--node", "a:1", "--max-ttl", "1ms", "x", "--", "true"],
        &["status", "--node", "a:1", "--max-ttl", "1ms"],
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
fn a_list_of_nodes_that_is_not_utf_8_is_reported() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redlock"));
    command.args(["status", "x"]).env("REDLOCK_NODES", OsStr::from_bytes(b"redis://\xff:1"));
    let output = command.output().expect("the command can be run");
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "redlock: REDLOCK_NODES is not UTF-8\n");
}

/// Any character in a password, and both ways to list the nodes.
#[test]
fn no_part_of_a_password_is_printed() {
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
                let printed = format!("{output:?}");
                assert!(!printed.contains("hidden") && !printed.contains("12345"), "{list:?}: {printed}");
            }
        }
    }
}

#[test]
fn the_error_for_a_separator_in_a_password_asks_for_encoding() {
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
fn a_part_of_a_url_that_would_be_ignored_is_an_error_that_names_it() {
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

#[test]
fn every_line_of_standard_error_names_the_program() {
    for line in [
        &[][..],
        &["rnu"],
        &["run"],
        &["run", "job", "true"],
        &["run", "--ttl", "abc", "job", "--", "true"],
        &["run", "--no-wait", "--wait", "1s", "job", "--", "true"],
        &["run", "--verbos", "job", "--", "true"],
        &["status"],
        &["status", "job"],
        &["completions", "cmd.exe"],
    ] {
        let output = redlock(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{line:?}: {said}");
        let named = |line: &str| line.strip_prefix("redlock: ").is_some_and(|rest| !rest.trim().is_empty());
        assert!(!said.is_empty() && said.lines().all(named), "{line:?}: {said}");
        assert!(!said.contains("error: "), "redlock: error: says it twice: {said}");
    }
}

#[test]
fn a_misspelled_word_gets_a_suggestion() {
    for (line, suggestion) in [
        (&["rnu", "job", "--", "true"][..], "'run'"),
        (&["stauts", "job"], "'status'"),
        (&["run", "--tll", "5s", "job", "--", "true"], "'--ttl'"),
    ] {
        let said = said(line);
        assert!(said.contains("similar") && said.contains(suggestion), "{line:?}: {said}");
    }
}

#[test]
fn a_command_without_dashes_is_an_error_that_shows_the_corrected_line() {
    for (line, corrected) in [
        (&["run", "job", "true"][..], "redlock run job -- true"),
        (&["run", "--ttl", "10s", "-nv", "job", "make", "-j4"], "redlock run --ttl 10s -nv job -- make ..."),
        (
            &["run", "--ttl=10s", "-w5", "my job", "-k", "1s", "./x"],
            "redlock run --ttl=10s -w5 'my job' -k 1s -- ./x",
        ),
        (&["run", "job", "mysql", "--password=hidden"], "redlock run job -- mysql ..."),
        (&["run", "--node", "a:1", "job", "true"], "redlock run --node a:1 job -- true"),
        // Any word of such a line may be part of a password.
        (
            &["run", "--node", "redis://:1 hidden@a", "job", "true"],
            "redlock run [OPTIONS] RESOURCE... -- COMMAND",
        ),
        (
            &["run", "--node", "redis://:1", "hidden", "2@a", "job"],
            "redlock run [OPTIONS] RESOURCE... -- COMMAND",
        ),
    ] {
        let said = said(line);
        let first = said.lines().next().unwrap_or_default();
        assert_eq!(
            first,
            format!("redlock: there is no `--` before the command, as in: {corrected}"),
            "{said}"
        );
        assert!(!said.contains("hidden"), "{said}");
    }
    let said = said(&["run", "--ttl", "10s", "job"]);
    assert!(
        said.starts_with(
            "redlock: no command: it follows a `--`, as in: redlock run --ttl 10s job -- COMMAND\n"
        ),
        "{said}"
    );
}

#[test]
fn other_errors_are_not_reported_as_missing_dashes() {
    for (line, fault) in [
        (&["run", "job", "--verbos"][..], "'--verbos'"),
        (&["run", "-x", "job", "true"], "'-x'"),
        (&["run", "--ttl", "soon", "job", "true"], "'soon'"),
        (&["run", "job", "--", "--"], ""),
        (&["status", "--", "a", "--ttl"], ""),
    ] {
        let said = said(line);
        assert!(!said.contains("`--`") && said.contains(fault), "{line:?}: {said}");
    }
}

#[test]
fn an_invalid_duration_is_explained_in_the_units_that_people_write() {
    for (option, words) in [
        ("--ttl=0", "too short: at least 3ms"),
        ("--ttl=2ms", "too short: at least 3ms"),
        ("--ttl=101y", "too long: at most 100 years"),
        ("--ttl=abc", "not a duration like 10s or 2m"),
        ("--ttl=", "not a duration like 10s or 2m"),
        ("--wait=-1", "not a duration like 10s or 2m"),
        ("--wait=1e300", "not a duration like 10s or 2m"),
        ("--at-most=5x", "not a duration like 10s or 2m"),
        ("--at-least=0", "too short: at least 3ms"),
        ("--at-least=101y", "too long: at most 100 years"),
        ("--at-least=36499d", "for which the lock needs a TTL of 100years"),
        ("--kill-after=6s", "--kill-after is 6s, and may be a third of --ttl at most, which is 5s"),
    ] {
        let said = said(
            &["run", "--node", "a:1", "--ttl=15s", option, "job", "--", "true"][..]
                .iter()
                .copied()
                .filter(|word| !(option.starts_with("--ttl") && *word == "--ttl=15s"))
                .collect::<Vec<_>>(),
        );
        assert!(said.contains(words), "{option}: {said}");
    }
    let said = said(&["status", "--node", "a:1", "--timeout=0", "job"]);
    assert!(said.contains("too short: no node replies in no time"), "{said}");
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = redlock(&["completions", shell]);
        let script = String::from_utf8_lossy(&output.stdout);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{shell}");
        for word in ["status", "kill-after", "conflict-exit-code", "at-least"] {
            assert!(script.contains(word), "{word} is not in the script for {shell}:\n{script}");
        }
        assert!(!script.contains("watchdog"), "{shell}:\n{script}");
    }
}

#[test]
fn bash_completes_actions_and_options() {
    let script = String::from_utf8(redlock(&["completions", "bash"]).stdout).expect("UTF-8");
    for (words, expected) in
        [("redlock r", "run"), ("redlock run --kil", "--kill-after"), ("redlock co", "completions")]
    {
        let ask = r#"eval "$1"; COMP_WORDS=($2); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _redlock redlock "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; echo "${COMPREPLY[@]}""#;
        let output = Command::new("bash").args(["-c", ask, "bash", &script, words]).output().expect("bash");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{words}: {output:?}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_action() {
    for (line, words) in [
        (&["man"][..], &[".TH redlock 1", "redlock\\-run(1)", "redlock\\-status(1)"][..]),
        (
            &["man", "run"],
            &[
                ".TH redlock-run 1",
                "<RESOURCE>... \\-\\- <COMMAND>...",
                "\\-\\-kill\\-after",
                "\n\\fB124\\fR\n",
            ],
        ),
        (&["man", "status"], &[".TH redlock-status 1", "\\-\\-timeout"]),
    ] {
        let output = redlock(line);
        let page = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        for word in words {
            assert!(page.contains(word), "{word} is not in\n{page}");
        }
        assert!(!page.contains("watchdog(1)") && !page.contains("redlock\\-man"), "{page}");
    }
}

fn said(line: &[&str]) -> String {
    let output = redlock(line);
    assert_eq!(output.status.code(), Some(64), "{line:?}: {output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

fn redlock(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redlock"));
    command.args(arguments).env_remove("REDLOCK_NODES").output().expect("the command can be run")
}
