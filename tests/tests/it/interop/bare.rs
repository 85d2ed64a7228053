//! The other client is a handful of commands written by hand.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Script, aio::MultiplexedConnection};
use redlock_redis_rs::async_trait;
use redlock_tests::server::Server;

use crate::interop::{Other, respects_and_is_respected};

struct Bare {
    nodes: Vec<MultiplexedConnection>,
    /// The locks held: their names and tokens.
    held: Mutex<HashMap<u64, (Vec<String>, String)>>,
    last: AtomicU64,
}

impl Bare {
    async fn connect(servers: &[Server]) -> Self {
        let mut nodes = Vec::new();
        for server in servers {
            nodes.push(server.client().get_multiplexed_async_connection().await.unwrap());
        }
        Self { nodes, held: Mutex::default(), last: AtomicU64::new(0) }
    }

    /// Whether a quorum reports that the script changed every key.
    async fn run(&self, script: &str, names: &[String], token: &str, ttl: Duration) -> bool {
        let mut votes = 0;
        for node in &self.nodes {
            let mut all = true;
            for name in names {
                let script = Script::new(script);
                let mut call = script.key(name);
                call.arg(token).arg(ttl.as_millis() as u64);
                all &= call.invoke_async::<bool>(&mut node.clone()).await.unwrap();
            }
            votes += usize::from(all);
        }
        votes > self.nodes.len() / 2
    }
}

#[async_trait]
impl Other for Bare {
    async fn lock(&self, resources: &[&str], ttl: Duration) -> Option<u64> {
        let number = self.last.fetch_add(1, Ordering::SeqCst);
        let token = format!("bare client, lock {number}");
        let mut votes = 0;
        for node in &self.nodes {
            let mut all = true;
            for name in resources {
                let mut set = redis::cmd("SET");
                set.arg(name).arg(&token).arg("NX").arg("PX").arg(ttl.as_millis() as u64);
                let reply: Option<String> = set.query_async(&mut node.clone()).await.unwrap();
                all &= reply.is_some();
            }
            votes += usize::from(all);
        }
        let names: Vec<_> = resources.iter().map(|name| (*name).to_owned()).collect();
        if votes > self.nodes.len() / 2 {
            self.held.lock().unwrap().insert(number, (names, token));
            return Some(number);
        }
        self.run(RELEASE, &names, &token, ttl).await;
        None
    }

    async fn extend(&self, lock: u64, ttl: Duration) -> bool {
        let (names, token) = self.held.lock().unwrap()[&lock].clone();
        self.run(EXTEND, &names, &token, ttl).await
    }

    async fn unlock(&self, lock: u64) {
        let (names, token) = self.held.lock().unwrap().remove(&lock).unwrap();
        self.run(RELEASE, &names, &token, Duration::ZERO).await;
    }
}

respects_and_is_respected!(Bare::connect);

const EXTEND: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) else return 0 end";
const RELEASE: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";
