//! `redlock status`.

use redlock_tests::server::Server;

use crate::cli::process::{Ended, Line};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn status(servers: &[Server], arguments: &str) -> Ended {
    Line::new(servers, &format!("status {arguments}")).finish()
}

fn hold(server: &Server, token: &str) {
    server.command::<()>(&["SET", "x", token, "PX", "60000"]);
}

#[test]
fn who_holds_a_lock_is_told_for_each_node_and_by_the_majority() {
    let mut servers = Server::start_some(3);
    let told = status(&servers, "x");
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.contains("\"x\": free\n"), "{}", told.out);

    hold(&servers[0], A);
    hold(&servers[1], B);
    let told = status(&servers, "x");
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.out.contains("\"x\": undecided: 3 of 3 nodes answered"), "{}", told.out);

    hold(&servers[1], A);
    let told = status(&servers, "x y");
    assert_eq!(told.code, 75, "{told:?}");
    assert!(told.out.contains("\"x\": held by aaaaaaaa... on 2 of 3 nodes\n"), "{}", told.out);
    assert!(told.out.contains("\"y\": free\n"), "{}", told.out);
    assert!(told.out.contains(&format!("  {}: held by aaaaaaaa... for another ", servers[0].address())));
    assert!(told.out.contains(&format!("  {}: free\n", servers[2].address())));
    assert!(told.out.contains("it may have changed"), "{}", told.out);
    assert!(!told.out.contains(&A[..9]), "{}", told.out);

    servers[2].kill();
    let told = status(&servers, "x");
    assert_eq!(told.code, 75, "{told:?}");
    assert!(told.out.contains(&format!("  {}: indeterminate: ", servers[2].address())), "{}", told.out);
    servers[1].pause();
    let told = status(&servers, "--timeout 300ms x");
    assert_eq!(told.code, 69, "{told:?}");
    assert!(told.out.contains("no quorum: 1 of 3 nodes answered"), "{}", told.out);
    assert!(told.out.contains("no answer within 300 ms"), "{}", told.out);
}

#[test]
fn each_of_several_keys_is_told_by_itself_though_one_is_of_another_type() {
    let servers = Server::start_some(3);
    for server in &servers {
        hold(server, A);
        server.command::<()>(&["LPUSH", "list", "item"]);
    }
    let told = status(&servers, "x list y");
    assert_eq!(told.code, 78, "{told:?}");
    for line in ["\"x\": held by aaaaaaaa... on 3 of 3 nodes\n", "\"list\": rejected", "\"y\": free\n"] {
        assert!(told.out.contains(line), "{line} is not in\n{}", told.out);
    }
}

#[test]
fn nodes_that_reject_are_told_without_the_password() {
    let servers = [(); 3].map(|()| Server::start_with_password("open-sesame"));
    let urls: Vec<String> =
        servers.iter().map(|server| format!("redis://:wrong-guess@{}", server.address())).collect();
    let told = Line::bare("status x").variable("REDLOCK_NODES", &urls.join(" ")).finish();
    assert_eq!(told.code, 78, "{told:?}");
    assert!(told.out.contains("rejected"), "{}", told.out);
    assert!(!told.out.contains("guess") && !told.err.contains("guess"), "{told:?}");
}
