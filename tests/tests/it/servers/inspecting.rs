//! Inspecting keys: readable for people, and without any effect on the server.

use std::time::Duration;

use redlock_redis_rs::{
    Acquire, BackendErrorKind, Inspect, KeyState, LockBackend, MemoryBackend, RedisBackend, Resources, Token,
    TokioRuntime,
};
use redlock_tests::server::Server;

const TTL: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(5);
const TOKEN: &str = "00112233445566778899aabbccddeeff";

#[tokio::test]
async fn a_node_shows_what_is_stored_at_each_key() {
    let server = Server::start();
    let nodes: [Box<dyn LockBackend>; 2] = [
        Box::new(RedisBackend::open(server.url()).unwrap()),
        Box::new(MemoryBackend::new(TokioRuntime::current())),
    ];
    let token: Token = TOKEN.parse().unwrap();
    for node in nodes {
        node.acquire(Acquire::new(&"held".into(), &token, TTL, TIMEOUT)).await.unwrap();
        let asked = Resources::from(["free", "held"]);
        let states = node.inspect(Inspect::new(&asked, TIMEOUT)).await.unwrap();
        let [KeyState::Free, KeyState::Held { holder, remaining: Some(left), .. }] = &states[..] else {
            panic!("{node:?}: {states:?}");
        };
        assert_eq!(holder, "00112233", "{node:?}");
        assert!((TTL - TIMEOUT..=TTL).contains(left), "{node:?}: {left:?}");
    }
}

#[tokio::test]
async fn values_of_other_clients_are_shown_and_keys_of_other_types_are_rejected() {
    let server = Server::start();
    let node = RedisBackend::open(server.url()).unwrap();
    server.command::<()>(&["SET", "eternal", "\u{e9}t\u{e9} of another client"]);
    let states = node.inspect(Inspect::new(&"eternal".into(), TIMEOUT)).await.unwrap();
    assert_eq!(states, [KeyState::held("\u{e9}t\u{e9} of ".as_bytes(), None)]);

    server.command::<()>(&["RPUSH", "list", "element"]);
    let error = node.inspect(Inspect::new(&"list".into(), TIMEOUT)).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Rejected);
    assert!(error.message().contains("WRONGTYPE"), "{error}");
}
