//! Servers and proxies that refuse a connection: with an error, or by closing it at a command that no lock
//! needs.

use std::{io::Read, net::TcpStream, time::Duration};

use redlock_core::{
    Acquire, AcquireReply as Vote, BackendError,
    BackendErrorKind::{Rejected, Transient},
    LockBackend, Resources, Token,
};
use redlock_tests::{
    adapter::Adapter,
    fake::{Command, Fake, Reply},
    server::{Server, eventually},
};
use rstest::rstest;

use crate::{
    cli::process::CommandLine,
    connections::fred::{SOON, proxy_to},
};

const TTL: Duration = Duration::from_secs(60);

async fn acquire(node: &dyn LockBackend) -> Result<Vote, BackendError> {
    let token: Token = "00112233445566778899aabbccddeeff".parse().expect("a token");
    node.acquire(Acquire::new(&Resources::from("a"), &token, TTL, SOON)).await
}

/// The end of a URL that makes both a login and a choice of the database necessary.
fn with_login(server: &Fake) -> String {
    format!("redis://:secret@{}/3", server.address())
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_for_a_client_is_reported_and_is_used_once_there_is_room(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
    #[values("", ":secret@")] login: &str,
) {
    let room = ["--maxclients", "8"];
    let server = match login {
        "" => Server::start_with(&room),
        _ => Server::start_with_password_and("secret", &room),
    };
    let proxy = proxy_to(&server);
    proxy.delay_replies(Duration::from_millis(50));
    // One of our clients at a time is refused once all places are taken.
    let mut taken = Vec::new();
    loop {
        let mut client = TcpStream::connect(server.address()).expect("a server that listens");
        client.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket option");
        if client.read_exact(&mut [0]).is_ok() {
            break;
        }
        taken.push(client);
    }
    let node = adapter.open(&format!("redis://{login}127.0.0.1:{}", proxy.port()));
    for _ in 0..2 {
        let error = acquire(&*node).await.expect_err("no room");
        assert_eq!((error.kind(), error.message()), (Transient, "ERR max number of clients reached"));
    }
    drop(taken);
    let works = async {
        while acquire(&*node).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, works).await.expect("there is room now");
    assert!(eventually(SOON, || server.get("a").is_some()).await);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_that_refuses_is_reported_with_its_text(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    for line in [
        "ERR max number of clients reached",
        "DENIED Redis is running in protected mode because protected mode is enabled",
    ] {
        let greet = move || Reply::SayAndClose(format!("-{line}"));
        let server = Fake::start_with_greeting(greet, |_| Reply::Close);
        for url in [server.url(), with_login(&server)] {
            let node = adapter.open(&url);
            for _ in 0..3 {
                let error = acquire(&*node).await.expect_err(line);
                assert_eq!((error.kind(), error.message()), (Transient, line), "{url}");
            }
        }
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_login_that_is_certain_to_fail_again_is_rejected(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
    #[values("AUTH", "SELECT")] refused: &'static str,
) {
    for (line, kind) in [
        ("LOADING Redis is loading the dataset in memory", Transient),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL", Transient),
        ("MASTERDOWN Link with MASTER is down", Transient),
        ("ERR max number of clients reached", Transient),
        ("DENIED x", Transient),
        ("upstream failure", Transient),
        ("NEWCODE x", Transient),
        ("WRONGPASS invalid username-password pair or user is disabled.", Rejected),
        ("NOAUTH Authentication required.", Rejected),
        ("NOPERM User app has no permissions to run the 'select' command", Rejected),
        ("ERR invalid password", Rejected),
        ("ERR DB index is out of range", Rejected),
    ] {
        let server = Fake::start(move |command| match &command.words[0] {
            word if word == refused => Reply::say(format!("-{line}")),
            _ => Reply::usual(command),
        });
        let error = acquire(&*adapter.open(&with_login(&server))).await.expect_err(line);
        assert_eq!((error.kind(), error.message()), (kind, line), "{refused}");
    }
}

/// Closes the connection at informational commands and at those that not every proxy knows.
fn without_looking_around() -> Fake {
    Fake::start(|command: &Command| match &*command.words[0] {
        "CLIENT" | "INFO" | "HELLO" => Reply::Close,
        _ => Reply::usual(command),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_closes_at_client_or_info_is_locked_through() {
    let server = without_looking_around();
    for url in [server.url(), with_login(&server)] {
        let node = Adapter::RedisRs.open(&url);
        assert_eq!(acquire(&*node).await.expect("a lock"), Vote::Granted, "{url}");
    }
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_proxy_that_closes_at_client_or_info_is_locked_through_by_the_command_and_under_smol() {
    let server = without_looking_around();
    let node = Adapter::RedisRs.open(&with_login(&server));
    assert_eq!(smol::block_on(acquire(&*node)).expect("a lock"), Vote::Granted);

    let line = CommandLine::bare("run x").variable("REDLOCK_NODES", &with_login(&server));
    let ended = line.script("true").finish();
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!(server.connections(), 2);
}
