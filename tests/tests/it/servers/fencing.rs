//! Counters for fencing tokens on real servers: where they are, what they hold, and what is refused.

use std::{
    collections::BTreeSet,
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, SystemTime},
};

use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, BackendError, BackendErrorKind, Extend, FencedReply, LockBackend,
    Raise, Release, ReleaseReply, Resources, Token, redis::SideKey,
};
use redlock_fred::FredBackend;
use redlock_redis_rs::RedisBackend;
use redlock_tests::{
    adapter::Adapter,
    cluster::Cluster,
    server::{Server, eventually},
};

const TTL: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const SOON: Duration = Duration::from_secs(10);
const BOTH: [Adapter; 2] = [Adapter::RedisRs, Adapter::Fred];
const MAX: u64 = (1 << 53) - 1;
/// With braces in every place.
const NAMES: [&str; 8] = ["a", "{a}", "a{b", "a{b}c{d}", "x:{a}", "{a}:fence", "{{a}}", "a b\n"];
/// Names with a brace, but without a hash tag.
const ODD_NAMES: [&str; 4] = ["a}b", "{}x", "}a{", "a{}{b}"];

/// A client of one node, with a token of its own.
struct Client {
    node: Arc<dyn LockBackend>,
    token: Token,
}

impl Client {
    fn new(node: &Arc<dyn LockBackend>, digit: char) -> Self {
        Self { node: node.clone(), token: digit.to_string().repeat(40).parse().unwrap() }
    }

    fn of(adapter: Adapter, server: &Server, digit: char) -> Self {
        Self::new(&adapter.open(&server.url()), digit)
    }

    async fn acquire(&self, names: impl Into<Resources>, proposal: u64) -> Result<u64, BackendError> {
        let names = names.into();
        let acquire = Acquire::new(&names, &self.token, TTL, SOON);
        let acquire = AcquireFenced::new(acquire, proposal, Some(DAY));
        self.node.acquire_fenced(acquire).await.map(counter)
    }

    async fn raise(&self, names: impl Into<Resources>, to: u64) -> Result<u64, BackendError> {
        let (names, to) = (names.into(), NonZeroU64::new(to).unwrap());
        self.node.raise(Raise::new(&names, &self.token, to, Some(DAY), SOON)).await.map(counter)
    }

    async fn release(&self, names: impl Into<Resources>) -> ReleaseReply {
        self.node.release(Release::new(&names.into(), &self.token, SOON)).await.unwrap()
    }
}

/// 0 for a refusal.
fn counter(reply: FencedReply) -> u64 {
    match reply {
        FencedReply::Granted { counter } => counter.get(),
        _ => 0,
    }
}

fn key(resource: &str) -> String {
    SideKey::counter(resource).to_string()
}

fn rejected(reply: Result<u64, BackendError>, text: &str) {
    let error = reply.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Rejected, "{error}");
    assert!(error.message().contains(text), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_is_a_number_beside_its_key_and_outlives_it() {
    let server = Server::start();
    for adapter in BOTH {
        server.command::<()>(&["FLUSHALL"]);
        let a = Client::of(adapter, &server, 'a');
        let proposal = 1_764_000_000_123_457;
        assert_eq!(a.acquire("x", proposal).await.unwrap(), proposal);
        assert_eq!(server.get("{x}:fence"), Some(proposal.to_string()));
        let ttl = server.ttl("{x}:fence").unwrap();
        assert!(ttl <= DAY && ttl > DAY - SOON, "{ttl:?}");
        let ttl = server.ttl("x").unwrap();
        assert!(ttl <= TTL && ttl > TTL - SOON, "{ttl:?}");
        assert_eq!(a.raise("x", proposal + 2).await.unwrap(), proposal + 2);
        assert_eq!(a.release("x").await, ReleaseReply::Removed);
        assert_eq!(server.get("{x}:fence"), Some((proposal + 2).to_string()));
        assert_eq!(a.acquire("x", 0).await.unwrap(), proposal + 3);

        let (y, fence) = ("y".into(), NonZeroU64::new(7).unwrap());
        let forever = AcquireFenced::new(Acquire::new(&y, &a.token, TTL, SOON), 5, None);
        assert_eq!(a.node.acquire_fenced(forever).await.map(counter).unwrap(), 5);
        assert_eq!(server.command::<i64>(&["PTTL", "{y}:fence"]), -1);
        // An extension keeps the counter alive, also when it does not raise it.
        for to in [fence, NonZeroU64::MIN] {
            let extend = Raise::extending(Extend::new(&y, &a.token, 2 * TTL, SOON), to, Some(DAY));
            assert_eq!(a.node.raise(extend).await.map(counter).unwrap(), 7);
            assert!(server.ttl("y").unwrap() > TTL);
            assert!(server.ttl("{y}:fence").unwrap() > DAY - SOON);
            server.command::<()>(&["PEXPIRE", "{y}:fence", "60000"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_name_has_a_counter_of_its_own() {
    let server = Server::start();
    for adapter in BOTH {
        server.command::<()>(&["FLUSHALL"]);
        let a = Client::of(adapter, &server, 'a');
        let names: Vec<_> = NAMES.iter().chain(&ODD_NAMES).filter(|name| **name != "{a}:fence").collect();
        for (number, name) in (100..).zip(&names) {
            assert_eq!(a.acquire(**name, number).await.unwrap(), number, "{name}");
        }
        for (number, name) in (100..).zip(&names) {
            assert_eq!(server.get(&key(name)), Some(number.to_string()), "{name}");
            assert_eq!(server.get(name).as_deref(), Some(a.token.as_str()), "{name}");
        }
        assert_eq!(server.command::<usize>(&["DBSIZE"]), 2 * names.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_resources_get_one_number_at_one_instant() {
    let server = Server::start();
    for adapter in BOTH {
        server.command::<()>(&["FLUSHALL"]);
        let [a, b] = ['a', 'b'].map(|digit| Client::of(adapter, &server, digit));
        assert_eq!(a.acquire("y", 41).await.unwrap(), 41);
        assert_eq!(b.acquire(["x", "y", "z"], 0).await.unwrap(), 0);
        assert_eq!(server.command::<usize>(&["DBSIZE"]), 2, "refused, and nothing is changed");
        a.release("y").await;
        assert_eq!(b.acquire(["x", "y", "z"], 0).await.unwrap(), 42);
        for name in ["x", "y", "z"] {
            assert_eq!(server.get(&key(name)).as_deref(), Some("42"));
        }
        assert_eq!(b.acquire(["x", "y", "z"], 100).await.unwrap(), 42, "a repeat");
        assert_eq!(b.raise(["x", "z"], 50).await.unwrap(), 50);
        assert_eq!(b.raise(["x", "y", "z"], 45).await.unwrap(), 50, "one of them is higher");
        assert_eq!(server.get(&key("y")).as_deref(), Some("45"));
        server.command::<()>(&["DEL", "z"]);
        assert_eq!(b.raise(["x", "y", "z"], 60).await.unwrap(), 0);
        assert_eq!(server.get(&key("x")).as_deref(), Some("50"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_cluster_a_counter_is_in_its_resources_slot() {
    let cluster = Cluster::start(3, &[]);
    let urls = cluster.urls();
    let redis_rs: Arc<dyn LockBackend> = Arc::new(RedisBackend::open_cluster(urls.clone()).unwrap());
    let fred = FredBackend::open(&urls[0].replace("redis:", "redis-cluster:")).unwrap();
    for (node, digit) in [(redis_rs, 'a'), (Arc::new(fred), 'b')] {
        let a = Client::new(&node, digit);
        assert!(a.node.can_fence());
        let slot = |key: &str| cluster.servers[0].command::<u16>(&["CLUSTER", "KEYSLOT", key]);
        let mut owners = BTreeSet::new();
        let many: Vec<String> = (0..20).map(|number| format!("key {number}")).collect();
        for name in NAMES.iter().copied().filter(|name| *name != "{a}:fence").chain(many.iter().map(|s| &**s))
        {
            assert_eq!(slot(&key(name)), slot(name), "{name}");
            let number = a.acquire(name, 0).await.unwrap();
            assert_eq!(cluster.get(&key(name)), Some(number.to_string()), "{name}");
            assert_eq!(a.raise(name, number + 5).await.unwrap(), number + 5);
            assert_eq!(a.release(name).await, ReleaseReply::Removed);
            owners.insert(cluster.owner(name));
        }
        assert_eq!(owners.len(), 3);
        let several = ["{account:1}:balance", "{account:1}:history"];
        let number = a.acquire(several, 0).await.unwrap();
        assert!(several.iter().all(|name| cluster.get(&key(name)) == Some(number.to_string())));
        a.release(several).await;

        for name in ODD_NAMES {
            rejected(a.acquire(name, 0).await, "CROSSSLOT");
            let plain = name.into();
            let acquired = a.node.acquire(Acquire::new(&plain, &a.token, TTL, SOON)).await.unwrap();
            assert_eq!(
                acquired,
                AcquireReply::Granted,
                "the rejected one has written nothing, and this works"
            );
            a.release(name).await;
        }
        rejected(a.acquire(["a", "b"], 0).await, "CROSSSLOT");
    }
}

/// As in the READMEs.
const COMMANDS: [&str; 7] = ["+eval", "+get", "+set", "+del", "+pexpire", "+pttl", "+time"];
const PATTERNS: [&str; 2] = ["~locks:*", "~{locks:*"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_of_the_readme_can_fence_and_each_of_its_permissions_is_needed() {
    let server = Server::start();
    let allow = |rules: &[&str]| {
        let user = ["ACL", "SETUSER", "locker", "reset", "on", ">secret"];
        server.command::<()>(&[&user, rules].concat());
    };
    let name = "locks:a";
    for adapter in BOTH {
        let all = [&COMMANDS[..], &PATTERNS].concat();
        for missing in [None].into_iter().chain(all.iter().map(Some)) {
            server.command::<()>(&["FLUSHALL"]);
            allow(&all.iter().copied().filter(|rule| Some(rule) != missing).collect::<Vec<_>>());
            let node = adapter.open(&format!("redis://locker:secret@{}", server.address()));
            let a = Client::new(&node, 'a');
            let acquired = a.acquire(name, 5).await;
            if acquired.is_err() {
                assert_eq!(server.command::<u64>(&["DBSIZE"]), 0, "{missing:?}");
            }
            // The others use keys that exist in any case.
            server.command::<()>(&["SET", name, a.token.as_str(), "PX", "1000"]);
            let resources = name.into();
            let extend = Extend::new(&resources, &a.token, TTL, SOON);
            let extend = Raise::extending(extend, NonZeroU64::new(6).unwrap(), Some(DAY));
            let raised = a.node.raise(extend).await.map(counter);
            let released = a.node.release(Release::new(&resources, &a.token, SOON)).await.map(|_| 1);
            let replies = [acquired, raised, released];
            let Some(missing) = missing else {
                assert_eq!(replies.map(Result::unwrap), [5, 6, 1]);
                continue;
            };
            assert!(replies.iter().any(Result::is_err), "{missing} is not needed");
            for error in replies.into_iter().filter_map(Result::err) {
                assert_eq!(error.kind(), BackendErrorKind::Rejected, "{missing}: {error}");
                let known = ["NOPERM", "can't run this command", "no permissions to run"];
                assert!(known.iter().any(|known| error.message().contains(known)), "{missing}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_counter_is_rejected_with_its_key_and_nothing_is_changed() {
    let server = Server::start();
    let token = "0".repeat(39) + "1";
    let garbage = [
        "",
        "x",
        "0",
        "01",
        "-1",
        "1.5",
        "1e5",
        "0x1f",
        " 1",
        "1\n",
        "9007199254740992",
        "1234567890123456789",
        &token,
    ];
    for adapter in BOTH {
        let a = Client::of(adapter, &server, 'a');
        for value in garbage {
            server.command::<()>(&["FLUSHALL"]);
            server.command::<()>(&["SET", "{x}:fence", value]);
            let at = "FENCE no counter is stored at {x}:fence";
            rejected(a.acquire("x", 5).await, at);
            rejected(a.acquire(["y", "x"], 5).await, at);
            assert_eq!(server.command::<u64>(&["DBSIZE"]), 1, "{value:?}");
            server.command::<()>(&["MSET", "x", a.token.as_str(), "y", a.token.as_str()]);
            rejected(a.acquire("x", 5).await, at);
            rejected(a.raise("x", 5).await, at);
            rejected(a.raise(["y", "x"], 5).await, at);
            assert_eq!(server.get("{x}:fence").as_deref(), Some(value));
            assert_eq!(server.command::<u64>(&["DBSIZE"]), 3, "{value:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_counters_of_another_type_are_rejected_and_nothing_is_changed() {
    let server = Server::start();
    for adapter in BOTH {
        let a = Client::of(adapter, &server, 'a');
        for wrong in ["x", "{x}:fence"] {
            server.command::<()>(&["FLUSHALL"]);
            server.command::<()>(&["RPUSH", wrong, "a list"]);
            rejected(a.acquire("x", 5).await, "WRONGTYPE");
            rejected(a.acquire(["y", "x"], 5).await, "WRONGTYPE");
            assert_eq!(server.command::<u64>(&["DBSIZE"]), 1);
            server.command::<()>(&["SET", "y", a.token.as_str()]);
            if wrong != "x" {
                server.command::<()>(&["SET", "x", a.token.as_str()]);
            }
            rejected(a.raise("x", 5).await, "WRONGTYPE");
            rejected(a.raise(["y", "x"], 5).await, "WRONGTYPE");
            assert_eq!(server.get("{y}:fence"), None);
            assert_eq!(server.command::<String>(&["TYPE", wrong]), "list");
        }
    }
}

/// Whoever names a resource like a counter gets no wrong number, and nobody else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_with_the_name_of_a_counter_is_in_the_way_and_harmless() {
    let server = Server::start();
    for adapter in BOTH {
        server.command::<()>(&["FLUSHALL"]);
        let [a, b] = ['1', 'b'].map(|digit| Client::of(adapter, &server, digit));
        assert_eq!(a.acquire("{x}:fence", 5).await.unwrap(), 5);
        rejected(b.acquire("x", 5).await, "FENCE no counter is stored at {x}:fence");
        assert_eq!(a.release("{x}:fence").await, ReleaseReply::Removed);
        assert_eq!(b.acquire("x", 5).await.unwrap(), 5);
        assert_eq!(a.acquire("{x}:fence", 7).await.unwrap(), 0, "refused: the counter is in the way");
        assert_eq!(a.release("{x}:fence").await, ReleaseReply::NotHeld);
        assert_eq!(b.raise("x", 6).await.unwrap(), 6);
        b.release("x").await;

        server.command::<()>(&["FLUSHALL"]);
        for names in [["x", "{x}:fence"], ["{x}:fence", "x"]] {
            rejected(a.acquire(names, 5).await, "FENCE {x}:fence is a counter, too");
            assert_eq!(server.command::<u64>(&["DBSIZE"]), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_exact_up_to_the_highest_and_none_follows_it() {
    let server = Server::start();
    for adapter in BOTH {
        let [a, b] = ['a', 'b'].map(|digit| Client::of(adapter, &server, digit));
        for names in [&["x"][..], &["x", "y"]] {
            server.command::<()>(&["FLUSHALL"]);
            for number in [(1 << 52) + 1, MAX - 3, MAX - 1] {
                server.command::<()>(&["SET", "{x}:fence", &(number - 1).to_string()]);
                assert_eq!(a.acquire(names, 0).await.unwrap(), number);
                assert_eq!(server.get("{x}:fence"), Some(number.to_string()));
                assert_eq!(a.raise(names, number + 1).await.unwrap(), number + 1);
                assert_eq!(server.get("{x}:fence"), Some((number + 1).to_string()));
                rejected(a.raise(names, MAX + 1).await, "FENCE the fencing token is too high");
                a.release(names).await;
            }
            rejected(b.acquire(names, 0).await, "FENCE no number is left");
            rejected(b.acquire(names, u64::MAX).await, "FENCE no number is left");
            assert_eq!(server.get("{x}:fence"), Some(MAX.to_string()));
            assert_eq!(server.get("x"), None);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_is_limited_by_the_servers_clock() {
    let server = Server::start();
    let now = || u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
    for adapter in BOTH {
        server.command::<()>(&["FLUSHALL"]);
        let a = Client::of(adapter, &server, 'a');
        for (names, proposal) in [(&["x"][..], u64::MAX), (&["y", "z"], now() + 3_600_000_000)] {
            let before = now();
            let number = a.acquire(names, proposal).await.unwrap();
            assert!((before + 1_000_000..=now() + 1_000_000).contains(&number), "{number}");
            a.release(names).await;
            assert_eq!(a.acquire(names, 0).await.unwrap(), number + 1);
        }
    }
}

/// What `docs/fencing.md` says about a counter that is evicted: the next grant has only its proposal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_is_lost_begins_anew_and_a_holder_brings_it_back() {
    let server = Server::start();
    for adapter in BOTH {
        server.command::<()>(&["FLUSHALL"]);
        let [a, b] = ['a', 'b'].map(|digit| Client::of(adapter, &server, digit));
        assert_eq!(a.acquire("x", 100).await.unwrap(), 100);
        server.command::<()>(&["DEL", "{x}:fence"]);
        assert_eq!(a.raise("x", 100).await.unwrap(), 100);
        assert_eq!(server.get("{x}:fence").as_deref(), Some("100"));
        server.command::<()>(&["DEL", "{x}:fence"]);
        assert_eq!(a.acquire("x", 90).await.unwrap(), 90, "a grant has a number, though the key was there");
        a.release("x").await;
        server.command::<()>(&["DEL", "{x}:fence"]);
        assert_eq!(b.acquire("x", 0).await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_its_scripts_serves_and_is_known_at_its_first_grant() {
    let server = Server::start();
    for adapter in BOTH {
        server.command::<()>(&["FLUSHALL"]);
        let a = Client::of(adapter, &server, 'a');
        assert_eq!(a.acquire("x", 5).await.unwrap(), 5);
        assert!(a.node.server().is_some(), "one server behind two nodes has one vote");
        server.command::<()>(&["SCRIPT", "FLUSH"]);
        assert_eq!(a.raise("x", 6).await.unwrap(), 6);
        server.command::<()>(&["SCRIPT", "FLUSH"]);
        assert_eq!(a.acquire("x", 9).await.unwrap(), 6);
        assert_eq!(a.release("x").await, ReleaseReply::Removed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_has_the_numbers_of_its_primary() {
    let primary = Server::start();
    let replica = Server::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
    let linked = || replica.command::<String>(&["INFO", "replication"]).contains("master_link_status:up");
    assert!(eventually(SOON, linked).await);
    let a = Client::of(Adapter::RedisRs, &primary, 'a');
    let number = a.acquire(["x", "y"], u64::MAX).await.unwrap();
    assert_eq!(a.raise(["x", "y"], number + 1).await.unwrap(), number + 1);
    let same = || ["x", "y", "{x}:fence", "{y}:fence"].iter().all(|key| replica.get(key) == primary.get(key));
    assert!(eventually(SOON, same).await);
    assert_eq!(replica.get("{y}:fence"), Some((number + 1).to_string()));
}
