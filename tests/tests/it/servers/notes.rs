//! Notes of holders on real servers: where they are, what they hold, and what they leave alone.

use std::{sync::Arc, time::Duration};

use redlock_core::{
    Acquire, Annotate, BackendError, BackendErrorKind, Error, Inspect, KeyState, LockBackend, Note, Redlock,
    Resources, Token, TokioRuntime, redis::SideKey,
};
use redlock_fred::FredBackend;
use redlock_redis_rs::RedisBackend;
use redlock_tests::{
    adapter::Adapter,
    cluster::Cluster,
    server::{Server, eventually, everywhere},
};

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
const BOTH: [Adapter; 2] = [Adapter::RedisRs, Adapter::Fred];
/// With braces in every place.
const NAMES: [&str; 8] = ["a", "{a}", "a{b", "a{b}c{d}", "x:{a}", "{{a}}", "a b\n", "\u{e4}"];
/// Names with a brace, but without a hash tag.
const ODD_NAMES: [&str; 3] = ["a}b", "{}x", "}a{"];

fn token(digit: char) -> Token {
    digit.to_string().repeat(40).parse().unwrap()
}

async fn annotate(
    node: &dyn LockBackend,
    names: impl Into<Resources>,
    digit: char,
    note: Option<&str>,
) -> Result<(), BackendError> {
    node.annotate(Annotate::new(&names.into(), &token(digit), note, SOON)).await
}

async fn acquire(node: &dyn LockBackend, names: impl Into<Resources>, digit: char) {
    node.acquire(Acquire::new(&names.into(), &token(digit), TTL, SOON)).await.unwrap();
}

async fn notes(node: &dyn LockBackend, names: impl Into<Resources>) -> Vec<Option<String>> {
    let states = node.inspect(Inspect::new(&names.into(), SOON).with_notes()).await.unwrap();
    let note = |state| if let KeyState::Held { note, .. } = state { note } else { None };
    states.into_iter().map(note).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_is_beside_its_key_for_as_long_as_the_lock_and_names_the_holder() {
    let servers = Server::start_some(3);
    for adapter in BOTH {
        let redlock = adapter.manager(&servers).note("build-3 pid 42: \u{e9}t\u{e9}").build().unwrap();
        for names in [&["x"][..], &["{x}:1", "{x}:2"]] {
            let mut lock = redlock.lock(names, TTL).await.unwrap();
            let stored = format!("note {} build-3 pid 42: \u{e9}t\u{e9}", lock.token().prefix());
            for name in names {
                let key = SideKey::note(name).to_string();
                assert!(eventually(SOON, || everywhere(&servers, &key, Some(&stored))).await, "{name}");
                let ttl = servers[0].ttl(&key).unwrap();
                assert!(ttl <= TTL && ttl > TTL - SOON, "{ttl:?}");
            }
            lock.extend(2 * TTL).await.unwrap();
            let lives_on = |server: &Server| {
                names
                    .iter()
                    .all(|name| server.ttl(&SideKey::note(name).to_string()).is_some_and(|ttl| ttl > TTL))
            };
            assert!(eventually(SOON, || servers.iter().all(lives_on)).await);

            let error = redlock.try_lock(names, TTL).await.unwrap_err();
            assert!(matches!(error, Error::Contended(_)), "{error}");
            assert_eq!(
                error.report().unwrap().holder_note(),
                Some("build-3 pid 42: \u{e9}t\u{e9}"),
                "{error}"
            );
            let other = adapter.manager(&servers).build().unwrap();
            let error = other.try_lock(names, TTL).await.unwrap_err();
            assert_eq!(error.report().unwrap().holder_note(), None, "it has no note itself");

            lock.unlock().await.unwrap();
            let is_empty = |server: &Server| server.command::<u64>(&["DBSIZE"]) == 0;
            assert!(eventually(SOON, || servers.iter().all(is_empty)).await, "{adapter:?} {names:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_name_has_a_note_of_its_own() {
    let server = Server::start();
    for adapter in BOTH {
        server.command::<()>(&["FLUSHALL"]);
        let node = adapter.open(&server.url());
        let names: Vec<&str> = NAMES.into_iter().chain(ODD_NAMES).collect();
        for name in &names {
            acquire(&node, *name, 'a').await;
            annotate(&node, *name, 'a', Some(name)).await.unwrap();
        }
        for name in &names {
            let value = server.get(&SideKey::note(name).to_string());
            assert_eq!(value, Some(format!("note aaaaaaaa {name}")), "{name}");
            let shown = notes(&node, *name).await;
            assert_eq!(shown, [Some(name.replace('\n', "\\n"))], "{name}");
        }
        assert_eq!(server.command::<usize>(&["DBSIZE"]), 2 * names.len());
        annotate(&node, &names[..], 'a', None).await.unwrap();
        assert_eq!(server.command::<usize>(&["DBSIZE"]), names.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_cluster_a_note_is_in_its_resources_slot() {
    let cluster = Cluster::start(3, &[]);
    let urls = cluster.urls();
    let redis_rs: Arc<dyn LockBackend> = Arc::new(RedisBackend::open_cluster(urls.clone()).unwrap());
    let fred = FredBackend::open(&urls[0].replace("redis:", "redis-cluster:")).unwrap();
    for (node, digit) in [(redis_rs, 'a'), (Arc::new(fred), 'b')] {
        assert!(node.can_annotate());
        let slot = |key: &str| cluster.servers[0].command::<u16>(&["CLUSTER", "KEYSLOT", key]);
        let builder = Redlock::builder(TokioRuntime::current()).node(node.clone()).node_timeout(SOON);
        let redlock = builder.note("who").build().unwrap();
        let many: Vec<String> = (0..20).map(|number| format!("key {number}")).collect();
        for name in NAMES.into_iter().chain(many.iter().map(|name| &**name)) {
            let key = SideKey::note(name).to_string();
            assert_eq!(slot(&key), slot(name), "{name}");
            let lock = redlock.lock(name, TTL).await.unwrap();
            let stored = Some(format!("note {} who", lock.token().prefix()));
            assert!(eventually(SOON, || cluster.get(&key) == stored).await, "{name}");
            assert_eq!(notes(&node, name).await, [Some("who".to_owned())], "{name}");
            lock.unlock().await.unwrap();
            assert!(eventually(SOON, || cluster.get(&key).is_none()).await, "{name}");
        }
        let several = ["{account:1}:balance", "{account:1}:history"];
        acquire(&node, several, digit).await;
        annotate(&node, several, digit, Some("both")).await.unwrap();
        assert_eq!(notes(&node, several).await, vec![Some("both".to_owned()); 2]);
        node.release(redlock_core::Release::new(&several.into(), &token(digit), SOON)).await.unwrap();
        annotate(&node, several, digit, None).await.unwrap();

        for name in ODD_NAMES {
            let lock = redlock.lock(name, TTL).await.unwrap();
            let error = annotate(&node, name, digit, Some("who")).await.unwrap_err();
            assert_eq!(error.kind(), BackendErrorKind::Rejected);
            assert!(error.message().contains("CROSSSLOT"), "{error}");
            lock.unlock().await.unwrap();
        }
    }
}

/// It may be the lock of a client that has chosen this name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_have_stored_at_a_notes_key_stays_and_is_no_note() {
    let server = Server::start();
    for adapter in BOTH {
        let node = adapter.open(&server.url());
        let others =
            [token('c').as_str().to_owned(), "note".into(), "note x who".into(), "note aaaaaaaa".into()];
        for value in others {
            server.command::<()>(&["FLUSHALL"]);
            server.command::<()>(&["SET", "{x}:note", &value]);
            acquire(&node, "x", 'a').await;
            for note in [Some("who"), None] {
                annotate(&node, "x", 'a', note).await.unwrap();
                assert_eq!(server.get("{x}:note").as_deref(), Some(&*value), "{note:?}");
            }
            assert_eq!(notes(&node, "x").await, [None], "{value}");
        }
        server.command::<()>(&["FLUSHALL"]);
        server.command::<()>(&["RPUSH", "{x}:note", "a list"]);
        acquire(&node, "x", 'a').await;
        for note in [Some("who"), None] {
            annotate(&node, "x", 'a', note).await.unwrap();
        }
        assert_eq!(server.command::<String>(&["TYPE", "{x}:note"]), "list");
        assert_eq!(notes(&node, "x").await, [None]);

        // A note of an earlier holder is replaced, and removed by nobody else.
        server.command::<()>(&["FLUSHALL"]);
        server.command::<()>(&["SET", "{x}:note", "note BBBBBBBB earlier"]);
        acquire(&node, "x", 'a').await;
        annotate(&node, "x", 'a', None).await.unwrap();
        assert_eq!(server.get("{x}:note").as_deref(), Some("note BBBBBBBB earlier"));
        annotate(&node, "x", 'a', Some("who")).await.unwrap();
        assert_eq!(server.get("{x}:note").as_deref(), Some("note aaaaaaaa who"));
        // Both at once: the second is a lock.
        server.command::<()>(&["FLUSHALL"]);
        acquire(&node, ["x", "{x}:note"], 'a').await;
        annotate(&node, ["x", "{x}:note"], 'a', Some("who")).await.unwrap();
        assert_eq!(server.get("{x}:note").as_deref(), Some(token('a').as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_is_not_trusted_and_a_lock_of_another_library_has_none() {
    let servers = Server::start_some(3);
    for adapter in BOTH {
        for server in &servers {
            server.command::<()>(&["SET", "x", "another library's value", "PX", "60000"]);
            server.command::<()>(&["DEL", "{x}:note"]);
        }
        let redlock = adapter.manager(&servers).note("who").build().unwrap();
        let error = redlock.try_lock("x", TTL).await.unwrap_err();
        assert!(matches!(&error, Error::Contended(report) if report.holder.is_none()), "{error}");

        let long = format!("note another  \u{1b}[2J\n{}", "x".repeat(10_000));
        servers.iter().for_each(|server| server.command::<()>(&["SET", "{x}:note", &long]));
        let error = redlock.try_lock("x", TTL).await.unwrap_err();
        let note = error.report().unwrap().holder_note().unwrap();
        assert!(note.starts_with("\\u{1b}[2J\\nxxx") && note.len() < Note::MAX_LEN + 20, "{note}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_the_notes_keys_has_locks_without_notes() {
    let servers = Server::start_some(3);
    let commands = ["+eval", "+get", "+set", "+del", "+pexpire", "+pttl"];
    let allow = |patterns: &[&str]| {
        let user = ["ACL", "SETUSER", "locker", "reset", "on", ">secret"];
        servers.iter().for_each(|server| server.command::<()>(&[&user, patterns, &commands].concat()));
    };
    let url = |server: &Server| format!("redis://locker:secret@{}", server.address());
    for adapter in BOTH {
        for (patterns, shown) in [(&["~locks:*"][..], false), (&["~locks:*", "~{locks:*"], true)] {
            allow(patterns);
            let redlock = adapter.manager_of(servers.iter().map(url)).note("who").build().unwrap();
            let mut lock = redlock.lock("locks:a", TTL).await.unwrap();
            let node = adapter.open(&url(&servers[0]));
            let resources = "locks:a".into();
            let inspect = Inspect::new(&resources, SOON);
            assert!(matches!(&node.inspect(inspect).await.unwrap()[..], [KeyState::Held { .. }]));
            if shown {
                assert!(eventually(SOON, || servers[0].get("{locks:a}:note").is_some()).await);
                assert_eq!(notes(&node, "locks:a").await, [Some("who".to_owned())]);
            } else {
                let error = node.inspect(inspect.with_notes()).await.unwrap_err();
                assert_eq!(error.kind(), BackendErrorKind::Rejected, "{error}");
            }
            let error = redlock.try_lock("locks:a", TTL).await.unwrap_err();
            assert!(matches!(error, Error::Contended(_)), "{error}");
            assert_eq!(error.report().unwrap().holder_note(), shown.then_some("who"), "{error}");
            lock.extend(TTL).await.unwrap();
            lock.unlock().await.unwrap();
            assert!(eventually(SOON, || everywhere(&servers, "locks:a", None)).await);
        }
    }
}
