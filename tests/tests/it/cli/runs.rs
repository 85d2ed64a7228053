//! `redlock run` when all goes well, and when the lock cannot be acquired.

use std::{fs, time::Duration};

use redlock_tests::server::{Server, everywhere};

use crate::cli::process::{CommandLine, soon};

const OTHER: &str = "ffffffffffffffffffffffffffffffff";

fn gone(servers: &[Server], key: &str) -> bool {
    servers.iter().all(|server| server.get(key).is_none())
}

#[test]
fn the_exit_code_of_the_command_is_passed_on_and_the_lock_is_gone_by_then() {
    let servers = Server::start_some(3);
    for (script, code) in
        [("true", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)]
    {
        let ended = CommandLine::new(&servers, "run x").script(script).finish();
        assert_eq!((ended.code, ended.err.as_str(), ended.out.as_str()), (code, "", ""), "{script}");
        assert!(gone(&servers, "x"), "{script}");
    }
}

#[test]
fn the_lock_is_held_on_all_nodes_while_the_command_runs() {
    let servers = Server::start_some(3);
    let script = "echo $REDLOCK_HOLDER >holder; while [ ! -e go ]; do sleep 0.02; done";
    let mut process = CommandLine::new(&servers, "run --ttl 5s x y").script(script).start();
    let holder = process.wait_for("holder");
    let token = servers[0].get("x").unwrap();
    assert!(token.starts_with(&holder) && token.len() > holder.len(), "{holder} of {token}");
    assert!(soon(|| everywhere(&servers, "x", Some(&token)) && everywhere(&servers, "y", Some(&token))));
    assert!(servers[0].ttl("x").unwrap() <= Duration::from_secs(5));
    fs::write(process.path("go"), "").unwrap();
    assert_eq!(process.finish().code, 0);
    assert!(gone(&servers, "x") && gone(&servers, "y"));
}

#[test]
fn the_command_receives_the_holder_but_not_the_token() {
    let servers = Server::start_some(3);
    let script = "env >env; echo end >end; while [ ! -e go ]; do sleep 0.02; done";
    let line = CommandLine::new(&servers, "run --ttl 5s").arguments(["x", "a name"]);
    let mut process = line.script(script).start();
    process.wait_for("end");
    let (variables, token) = (process.read("env"), servers[0].get("x").unwrap());
    assert!(variables.contains("REDLOCK_RESOURCES=x\na name\n"), "{variables}");
    assert!(variables.contains("REDLOCK_TTL_MS=5000\n"), "{variables}");
    assert!(variables.contains(&format!("REDLOCK_HOLDER={}\n", &token[..8])), "{variables}");
    assert!(!variables.contains(&token[..9]), "{variables}");
    fs::write(process.path("go"), "").unwrap();
    assert_eq!(process.finish().code, 0);
}

#[test]
fn the_command_receives_a_fencing_token_that_is_higher_each_time() {
    let servers = Server::start_some(3);
    let fence = |arguments: &str| {
        let line = CommandLine::new(&servers, arguments).variable("REDLOCK_FENCE", "of another lock");
        let ended = line.script("printf %s \"${REDLOCK_FENCE-none}\"").finish();
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        ended.out
    };
    let [first, second] = [(); 2].map(|()| fence("run --fenced x y").parse::<u64>().unwrap());
    assert!(first < second, "{first}, {second}");
    assert_eq!(fence("run x"), "none");
    let ended = CommandLine::new(&servers, "run --fenced --verbose x").script("true").finish();
    assert!(ended.err.contains(", with the fencing token "), "{}", ended.err);
}

#[test]
fn standard_input_and_output_are_the_commands_own() {
    let servers = Server::start_some(3);
    let ended =
        CommandLine::new(&servers, "run --verbose x").input("in\n").script("cat; echo err >&2").finish();
    assert_eq!((ended.code, ended.out.as_str()), (0, "in\n"));
    let own: Vec<&str> = ended.err.lines().filter(|line| !line.starts_with("redlock: ")).collect();
    assert_eq!(own, ["err"]);
    for server in &servers {
        for verb in ["acquire: granted", "release: removed"] {
            let line = format!("redlock: {}: {verb}", server.address());
            assert!(ended.err.contains(&line), "{line} is not in\n{}", ended.err);
        }
    }
    assert!(ended.err.contains(r#"locked "x" in attempt 1"#), "{}", ended.err);
}

#[test]
fn nodes_are_named_by_options_or_listed_in_the_environment() {
    let servers = Server::start_some(3);
    let [a, b, c] = [0, 1, 2].map(|server: usize| servers[server].address());
    let seen = |line: CommandLine| {
        let mut process = line.script("echo go >go; while [ ! -e end ]; do sleep 0.02; done").start();
        process.wait_for("go");
        assert!(soon(|| servers.iter().all(|server| server.get("x").is_some())));
        fs::write(process.path("end"), "").unwrap();
        assert_eq!(process.finish().code, 0);
    };
    for list in [format!("{a},{b},{c}"), format!(" redis://{a}  {b}, redis://{c}\n")] {
        seen(CommandLine::bare("run x").variable("REDLOCK_NODES", &list));
    }
    let options = format!("run --node {a} --node={b} --node redis://{c}/0 x");
    seen(CommandLine::bare(&options).variable("REDLOCK_NODES", "127.0.0.1:1"));
}

#[test]
fn commands_under_the_same_lock_exclude_each_other() {
    let servers = Server::start_some(3);
    let shared = tempfile::TempDir::new().unwrap();
    let script = format!(
        "cd {}; mkdir held || {{ echo overlap; exit 9; }}; sleep 0.1; echo turn >>turns; rmdir held",
        shared.path().display()
    );
    let processes: Vec<_> = (0..5)
        .map(|_| CommandLine::new(&servers, "run --retry-delay 50ms x").script(&script).start())
        .collect();
    for process in processes {
        let ended = process.finish();
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    assert_eq!(fs::read_to_string(shared.path().join("turns")).unwrap().lines().count(), 5);
    assert!(gone(&servers, "x"));
}

#[test]
fn a_lock_of_another_owner_is_reported_when_the_wait_is_over() {
    let servers = Server::start_some(3);
    for server in &servers {
        server.command::<()>(&["SET", "x", OTHER]);
    }
    let ms = Duration::from_millis;
    for (options, code, least) in [
        ("--no-wait", 75, ms(0)),
        ("--wait 0", 75, ms(0)),
        ("--wait 700ms", 75, ms(400)),
        ("-n -E 7", 7, ms(0)),
        ("-n -E 0", 0, ms(0)),
    ] {
        let ended = CommandLine::new(&servers, &format!("run {options} x")).script("echo ran").finish();
        assert_eq!((ended.code, ended.out.as_str()), (code, ""), "{options}");
        assert!(ended.err.contains(r#""x" is held by another owner"#), "{}", ended.err);
        assert!(ended.took >= least && ended.took < ms(5_000), "{options}: {:?}", ended.took);
    }
    let ended = CommandLine::new(&servers, "run --quiet --no-wait x").script("echo ran").finish();
    assert_eq!((ended.code, ended.err.as_str()), (75, ""));
    assert!(everywhere(&servers, "x", Some(OTHER)));
}

#[test]
fn an_unbounded_wait_lasts_until_the_lock_is_free() {
    let servers = Server::start_some(3);
    for server in &servers {
        server.command::<()>(&["SET", "x", OTHER, "PX", "1500"]);
    }
    let ended = CommandLine::new(&servers, "run x").script("echo ran").finish();
    assert_eq!((ended.code, ended.out.as_str()), (0, "ran\n"), "{}", ended.err);
    assert!(ended.took > Duration::from_millis(1_000), "{:?}", ended.took);
}

#[test]
fn a_wait_ends_when_the_nodes_report_that_the_lock_is_free() {
    let servers = Server::start_some(3);
    for server in &servers {
        server.command::<()>(&["SET", "x", OTHER, "PX", "1500"]);
    }
    let ended = CommandLine::new(&servers, "run --retry-delay 1h x").script("echo ran").finish();
    assert_eq!((ended.code, ended.out.as_str()), (0, "ran\n"), "{}", ended.err);
}

#[test]
fn without_a_quorum_the_error_names_each_node() {
    let mut servers = Server::start_some(3);
    servers[1].kill();
    servers[2].kill();
    for options in ["-n", "--wait 500ms"] {
        let ended = CommandLine::new(&servers, &format!("run {options} x")).script("echo ran").finish();
        assert_eq!((ended.code, ended.out.as_str()), (69, ""), "{}", ended.err);
        assert!(servers.iter().all(|server| ended.err.contains(&server.address())), "{}", ended.err);
        assert!(ended.err.contains("Connection refused"), "{}", ended.err);
    }
    assert!(gone(&servers[..1], "x"));
}

#[test]
fn an_unbounded_wait_outlasts_an_outage_and_reports_it() {
    let mut servers = Server::start_some(3);
    servers[1].kill();
    servers[2].kill();
    let mut process = CommandLine::new(&servers, "run x").script("echo ran").start();
    assert!(soon(|| process.err().contains("no quorum of nodes works")));
    assert!(!process.has_ended());
    servers[1].restart();
    let ended = process.finish();
    assert_eq!((ended.code, ended.out.as_str()), (0, "ran\n"), "{}", ended.err);
    assert_eq!(ended.err.matches("no quorum").count(), 1, "{}", ended.err);
}

/// The same for a node that rejects, and for one that does not reply before the command ends.
#[test]
fn an_unhealthy_minority_is_one_warning_per_run_and_none_when_quiet() {
    for fault in ["killed", "rejects", "silent", "killed while the command runs"] {
        let mut servers = Server::start_some(3);
        let name = servers[1].address();
        match fault {
            "killed" => servers[1].kill(),
            "rejects" => servers[1].command::<()>(&["CONFIG", "SET", "requirepass", "open-sesame"]),
            "silent" => servers[1].pause(),
            _ => {}
        }
        for options in ["", "--verbose", "--quiet"] {
            // Long enough for some extensions.
            let script = "echo up >up; while [ ! -e go ]; do sleep 0.02; done; sleep 1.3; exit 5";
            let line = CommandLine::new(&servers, &format!("run --ttl 2s {options} x")).script(script);
            let mut process = line.start();
            process.wait_for("up");
            if fault.contains("while") {
                servers[1].kill();
            }
            fs::write(process.path("go"), "").unwrap();
            let ended = process.wait();
            if fault.contains("while") {
                servers[1].restart();
            }
            let warnings =
                ended.err.lines().filter(|line| line.contains("a minority of the nodes")).collect::<Vec<_>>();
            let context = format!("{fault}, {options}: {}", ended.err);
            assert_eq!((ended.code, ended.out.as_str()), (5, ""), "{context}");
            assert_eq!(warnings.len(), usize::from(options != "--quiet"), "{context}");
            assert!(
                warnings.iter().all(|line| line.starts_with("redlock: ") && line.contains(&name)),
                "{context}"
            );
            assert!(options == "--verbose" || ended.err.lines().count() == warnings.len(), "{context}");
        }
        if fault == "silent" {
            servers[1].resume();
        }
    }
}

#[test]
fn a_silent_minority_is_reported_although_the_command_ends_at_once() {
    let servers = Server::start_some(3);
    servers[1].pause();
    let ended = CommandLine::new(&servers, "run x").script("exit 5").finish();
    servers[1].resume();
    assert_eq!(ended.code, 5, "{}", ended.err);
    let line =
        format!("redlock: a minority of the nodes does not work ({}: no answer yet): ", servers[1].address());
    assert!(ended.err.starts_with(&line) && ended.err.lines().count() == 1, "{}", ended.err);
}

#[test]
fn a_wrong_password_is_rejected_at_once_and_no_password_is_ever_printed() {
    let servers = [(); 3].map(|()| Server::start_with_password("open-sesame"));
    let nodes = |password: &str| {
        let urls = servers.iter().map(|server| format!("redis://:{password}@{}", server.address()));
        urls.collect::<Vec<_>>().join(",")
    };
    let line = |password| {
        CommandLine::bare("run --verbose x").variable("REDLOCK_NODES", &nodes(password)).script("echo ran")
    };
    let ended = line("wrong-guess").finish();
    assert_eq!((ended.code, ended.out.as_str()), (78, ""), "{}", ended.err);
    assert!(!ended.err.contains("wrong-guess"), "{}", ended.err);
    let ended = line("open-sesame").finish();
    assert_eq!((ended.code, ended.out.as_str()), (0, "ran\n"), "{}", ended.err);
    assert!(!ended.err.contains("open-sesame"), "{}", ended.err);
}

#[test]
fn a_command_that_cannot_run_leaves_no_lock() {
    let servers = Server::start_some(3);
    for (command, code) in [("./missing", 127), ("./plain", 126)] {
        let line = CommandLine::new(&servers, "run x").within("echo data >plain; \"$@\" -- $COMMAND");
        let ended = line.variable("COMMAND", command).finish();
        assert_eq!(ended.code, code, "{}", ended.err);
        assert!(ended.err.contains(&format!("cannot run {command}: ")), "{}", ended.err);
        assert!(gone(&servers, "x"));
    }
}

#[test]
fn names_that_are_too_long_for_the_environment_are_left_out_with_a_warning() {
    let servers = Server::start_some(3);
    let names = (0..7_000).map(|number| format!("a-name-that-is-a-little-longer-{number}"));
    let line = CommandLine::new(&servers, "run").variable("REDLOCK_RESOURCES", "inherited").arguments(names);
    let ended = line.script("echo ${REDLOCK_RESOURCES-none} $REDLOCK_TTL_MS").finish();
    assert_eq!((ended.code, ended.out.as_str()), (0, "none 30000\n"), "{}", ended.err);
    assert_eq!(ended.err.matches("REDLOCK_RESOURCES is left out").count(), 1, "{}", ended.err);
}

#[test]
fn a_command_runs_no_longer_than_at_most() {
    let servers = Server::start_some(3);
    let ended = CommandLine::new(&servers, "run --ttl 6s --at-most 500ms x").script("sleep 20").finish();
    assert_eq!(ended.code, 124, "{}", ended.err);
    assert!(ended.err.contains("--at-most has passed"), "{}", ended.err);
    assert!((500..10_000).contains(&ended.took.as_millis()), "{:?}", ended.took);
    assert!(gone(&servers, "x"));
}
