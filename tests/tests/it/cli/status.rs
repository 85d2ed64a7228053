//! `redlock status`.

use redlock_tests::server::Server;

use crate::cli::process::{CommandLine, Ended};

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
