//! `redlock status`.

use std::fs;

use redlock_tests::server::{ReservedPort, Server};
use serde_json::Value;

use crate::cli::process::{CommandLine, Ended, soon};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// With more time for each node than the default, for a busy machine.
fn status(servers: &[Server], resources: &str) -> Ended {
    status_within("20s", servers, resources)
}

fn status_within(timeout: &str, servers: &[Server], resources: &str) -> Ended {
    CommandLine::new(servers, &format!("status --timeout {timeout} {resources}")).finish()
}

fn hold(server: &Server, token: &str) {
    server.command::<()>(&["SET", "x", token, "PX", "60000"]);
}

#[test]
fn the_holder_is_reported_for_each_node_and_for_the_majority() {
    let mut servers = Server::start_some(3);
    let ended = status(&servers, "x");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("\"x\": free\n"), "{}", ended.out);

    hold(&servers[0], A);
    hold(&servers[1], B);
    let ended = status(&servers, "x");
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.out.contains("\"x\": undecided: 3 of 3 nodes answered"), "{}", ended.out);

    hold(&servers[1], A);
    let ended = status(&servers, "x y");
    assert_eq!(ended.code, 75, "{ended:?}");
    assert!(ended.out.contains("\"x\": held by aaaaaaaa... on 2 of 3 nodes\n"), "{}", ended.out);
    assert!(ended.out.contains("\"y\": free\n"), "{}", ended.out);
    assert!(ended.out.contains(&format!("  {}: held by aaaaaaaa... for another ", servers[0].address())));
    assert!(ended.out.contains(&format!("  {}: free\n", servers[2].address())));
    assert!(ended.out.contains("it may have changed"), "{}", ended.out);
    assert!(!ended.out.contains(&A[..9]), "{}", ended.out);

    servers[2].kill();
    let ended = status(&servers, "x");
    assert_eq!(ended.code, 75, "{ended:?}");
    assert!(ended.out.contains(&format!("  {}: indeterminate: ", servers[2].address())), "{}", ended.out);
    servers[1].pause();
    let ended = status_within("300ms", &servers, "x");
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.out.contains("no quorum: 1 of 3 nodes answered"), "{}", ended.out);
    assert!(ended.out.contains("no answer within 300 ms"), "{}", ended.out);
}

#[test]
fn each_key_is_reported_by_itself_although_one_has_another_type() {
    let servers = Server::start_some(3);
    for server in &servers {
        hold(server, A);
        server.command::<()>(&["LPUSH", "list", "item"]);
    }
    let ended = status(&servers, "x list y");
    assert_eq!(ended.code, 78, "{ended:?}");
    for line in ["\"x\": held by aaaaaaaa... on 3 of 3 nodes\n", "\"list\": rejected", "\"y\": free\n"] {
        assert!(ended.out.contains(line), "{line} is not in\n{}", ended.out);
    }
}

#[test]
fn nodes_that_reject_are_reported_without_the_password() {
    let servers = [(); 3].map(|()| Server::start_with_password("open-sesame"));
    let urls: Vec<String> =
        servers.iter().map(|server| format!("redis://:wrong-guess@{}", server.address())).collect();
    let ended = CommandLine::bare("status x").variable("REDLOCK_NODES", &urls.join(" ")).finish();
    assert_eq!(ended.code, 78, "{ended:?}");
    assert!(ended.out.contains("rejected"), "{}", ended.out);
    assert!(!ended.out.contains("guess") && !ended.err.contains("guess"), "{ended:?}");
}

/// What `status` prints of the nodes alone.
fn of_nodes(servers: &[Server], options: &str) -> Ended {
    status_within("20s", servers, options)
}

#[test]
fn each_node_has_a_line_of_what_it_is_and_its_warnings() {
    let mut servers = Server::start_some_with(3, &["--appendonly", "yes"]);
    let ended = of_nodes(&servers, "--strict");
    assert_eq!(ended.code, 0, "{ended:?}");
    let line = ended.out.lines().next().unwrap();
    assert!(line.starts_with(&format!("{}: ", servers[0].address())), "{line}");
    for part in [", primary, up ", ", append-only file, noeviction, votes, clock "] {
        assert!(line.contains(part), "{line}");
    }

    servers[1].command::<()>(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
    let warning = "  warning: its eviction policy volatile-lru may remove locks";
    let ended = of_nodes(&servers, "--strict");
    assert_eq!((ended.code, ended.out.matches(warning).count()), (2, 1), "{ended:?}");
    assert_eq!(of_nodes(&servers, "").code, 0, "a warning is no failure by itself");

    servers[2].kill();
    let ended = of_nodes(&servers, "--strict x");
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.out.contains(&format!("{}: no vote: indeterminate: ", servers[2].address())), "{ended:?}");
    servers[1].kill();
    assert_eq!(of_nodes(&servers, "").code, 69);
}

#[test]
fn a_node_within_its_guard_votes_later() {
    let servers = Server::start_some(3);
    let ended = of_nodes(&servers, "--max-ttl 1h");
    assert_eq!((ended.code, ended.out.matches(", votes in ").count()), (69, 3), "{ended:?}");
    assert!(!ended.out.contains("warning"), "with a guard they need nothing on disk: {ended:?}");
    let ended = of_nodes(&servers, "");
    assert_eq!((ended.code, ended.out.matches("no append-only file").count()), (0, 6), "{ended:?}");
}

#[test]
fn a_job_does_not_run_on_nodes_within_their_guard() {
    let servers = Server::start_some(3);
    let line = "run --no-wait --ttl 10s --max-ttl 1h x";
    let ended = CommandLine::new(&servers, line).script("true").finish();
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.err.contains("may have forgotten locks from before"), "{ended:?}");
}

#[test]
fn the_same_facts_are_one_json_object() {
    let (servers, nobody) = (Server::start_some(2), ReservedPort::new());
    servers.iter().for_each(|server| hold(server, A));
    let nodes = [servers[0].address(), servers[1].address(), format!("127.0.0.1:{}", nobody.number())];
    let line = "status --json --max-ttl 1h x";
    let ended = CommandLine::bare(line).variable("REDLOCK_NODES", &nodes.join(" ")).finish();
    let json: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    assert_eq!((&json["exit_code"], ended.code), (&Value::from(75), 75), "{ended:?}");
    assert_eq!((&json["quorum"], &json["voting"]), (&Value::from(2), &Value::from(0)));
    let node = &json["nodes"][0];
    assert_eq!((&node["name"], &node["votes"]), (&Value::from(nodes[0].clone()), &Value::from(false)));
    assert!(node["votes_in_seconds"].as_f64().unwrap() > 3_500.0, "{node}");
    assert_eq!((&node["role"], &node["append_only_file"]), (&Value::from("primary"), &Value::from(false)));
    assert!(node["clock_skew_ms"].as_f64().unwrap().abs() < 1_000.0, "{node}");
    assert_eq!(
        (&json["nodes"][2]["reachable"], &json["nodes"][2]["role"]),
        (&Value::from(false), &Value::Null)
    );
    let resource = &json["resources"][0];
    assert_eq!((&resource["state"], &resource["holder"]), (&Value::from("held"), &Value::from("aaaaaaaa")));
    assert_eq!(resource["nodes"][2]["state"], "unknown");
}

#[test]
fn a_user_without_info_is_a_warning_and_with_a_guard_a_rejection() {
    let servers = Server::start_some(3);
    let user = ["ACL", "SETUSER", "locker", "reset", "on", ">secret", "~*", "+eval", "+get", "+pttl"];
    servers.iter().for_each(|server| server.command::<()>(&user));
    let urls: Vec<_> =
        servers.iter().map(|server| format!("redis://locker:secret@{}", server.address())).collect();
    let status = |options: &str| {
        CommandLine::bare(&format!("status {options}")).variable("REDLOCK_NODES", &urls.join(" ")).finish()
    };
    let ended = status("x");
    let warning = "warning: it hides what it is: allow its user to call INFO";
    assert_eq!((ended.code, ended.out.matches(warning).count()), (0, 3), "{ended:?}");
    let ended = status("--max-ttl 1m");
    assert_eq!(ended.code, 78, "{ended:?}");
    assert!(ended.out.contains("no vote: rejected: its server does not reveal how long"), "{ended:?}");
}

#[test]
fn a_note_is_shown_to_whoever_looks_and_to_whoever_is_refused_and_ends_with_the_lock() {
    let servers = Server::start_some(3);
    let script = "echo on >started; while [ ! -e go ]; do sleep 0.02; done";
    let line = CommandLine::new(&servers, "run x --note").arguments(["nightly\treport"]);
    let mut holder = line.script(script).start();
    holder.wait_for("started");
    assert!(soon(|| servers.iter().all(|server| server.get("{x}:note").is_some())));

    let ended = status(&servers, "x");
    let shown = format!(" pid {}: nightly\\treport) ", holder.pid().as_raw_nonzero());
    for line in ["\"x\": held by ", &format!("  {}: held by ", servers[2].address())] {
        let line = ended.out.lines().find(|printed| printed.starts_with(line)).unwrap();
        assert!(line.contains(&shown) && line.contains("... ("), "{line}");
    }
    let ended = CommandLine::new(&servers, "status --json x").finish();
    let json: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let resource = &json["resources"][0];
    let note = resource["note"].as_str().unwrap();
    assert!(format!(" {note}) ").contains(&shown), "{note}");
    assert!(resource["nodes"].as_array().unwrap().iter().all(|node| node["note"] == note), "{resource}");

    for (options, is_shown) in [("--note other", true), ("", false)] {
        let line = format!("run --no-wait {options} x");
        let ended = CommandLine::new(&servers, &line).script("echo ran").finish();
        assert_eq!((ended.code, ended.err.contains(&shown)), (75, is_shown), "{ended:?}");
    }

    // Who may not read notes sees the rest.
    let user =
        ["ACL", "SETUSER", "locker", "reset", "on", ">secret", "~x", "+eval", "+get", "+pttl", "+info"];
    servers.iter().for_each(|server| server.command::<()>(&user));
    let urls: Vec<_> =
        servers.iter().map(|server| format!("redis://locker:secret@{}", server.address())).collect();
    let ended = CommandLine::bare("status x").variable("REDLOCK_NODES", &urls.join(" ")).finish();
    assert!(ended.code == 75 && ended.out.contains("... on 3 of 3 nodes\n"), "{ended:?}");

    fs::write(holder.path("go"), "").unwrap();
    assert_eq!(holder.finish().code, 0);
    let left = |server: &Server| server.command::<u64>(&["DBSIZE"]);
    assert_eq!(servers.iter().map(left).sum::<u64>(), 0);
}
