//! User-supplied clients that are not connected: requests fail at once, with the reason, and work once it is
//! gone.

use std::time::Instant;

use redlock_core::{AcquireReply, BackendErrorKind};
use redlock_fred::{
    FredBackend,
    fred::{
        clients::Client,
        interfaces::ClientLike,
        types::config::{Config, ReconnectPolicy},
    },
};
use redlock_tests::server::Server;
use rstest::rstest;

use crate::connections::fred::{QUICK, SHORT, SOON, TTL, acquire, fails_as, initialized};

async fn is_granted_soon(node: &FredBackend) {
    let start = Instant::now();
    while let Err(error) = acquire(node, "a", SHORT).await {
        assert!(start.elapsed() < SOON, "{error}");
        tokio::time::sleep(SHORT / 4).await;
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_first_login_was_refused_fails_at_once_and_works_once_the_password_is_fixed(
    #[values(true, false)] fail_fast: bool,
) {
    let mut server = Server::start_with_password("secret");
    let config = Config { fail_fast, ..Config::from_url(&server.url()).unwrap() };
    let client = Client::new(config, None, None, Some(ReconnectPolicy::new_constant(0, 100)));
    let node = FredBackend::new(client.clone()).unwrap();
    let start = Instant::now();
    let error = fails_as(&node, "early", TTL, BackendErrorKind::Indeterminate).await;
    assert!(error.message().contains("not connected"), "{error}");

    let connecting = client.connect();
    let refused = loop {
        match acquire(&node, "early", TTL).await {
            Err(error) if error.kind() == BackendErrorKind::Rejected => break error,
            reply => assert!(start.elapsed() < QUICK, "{reply:?}"),
        }
        tokio::time::sleep(SHORT / 4).await;
    };
    assert!(refused.message().starts_with("NOAUTH"), "{refused}");
    assert_eq!(connecting.is_finished(), fail_fast, "whether fred goes on by itself");

    server.set_password("");
    is_granted_soon(&node).await;
    assert_eq!(server.get("early"), None, "what failed has come out of a queue");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_connection_fails_at_once_until_it_reconnects() {
    let mut server = Server::start();
    let node = initialized(&server.url(), 4 * SHORT).await;
    assert_eq!(acquire(&node, "a", SOON).await.unwrap(), AcquireReply::Granted);
    server.kill();
    // The next try is after four times as long.
    tokio::time::sleep(SHORT / 2).await;
    let start = Instant::now();
    for _ in 0..3 {
        fails_as(&node, "lost", TTL, BackendErrorKind::Indeterminate).await;
    }
    assert!(start.elapsed() < SHORT, "{:?}", start.elapsed());
    server.restart();
    is_granted_soon(&node).await;
    assert_eq!(server.get("lost"), None, "what failed has come out of a queue");
}
