//! A node that is a Redis Cluster, through fred.

use std::time::Duration;

use redlock_core::{Error, Redlock, TokioRuntime, UnlockOutcome};
use redlock_fred::{
    FredBackend,
    fred::{
        clients::Client,
        interfaces::ClientLike,
        types::config::{Config, ReconnectPolicy},
    },
};
use redlock_tests::{cluster::Cluster, server::Server};

const TTL: Duration = Duration::from_secs(60);

/// Two servers, each with half of the slots.
fn start() -> Cluster {
    Cluster::start(2, &[])
}

fn url(cluster: &Cluster) -> String {
    format!("redis-cluster://{}", cluster.servers[0].address())
}

fn keys(cluster: &Cluster) -> Vec<usize> {
    cluster.servers.iter().map(|server| server.command(&["DBSIZE"])).collect()
}

/// How often a server has redirected a client to the other one.
fn redirections(cluster: &Cluster) -> usize {
    let moved = |server: &Server| {
        let errors: String = server.command(&["INFO", "errorstats"]);
        let counts = errors.lines().filter(|line| line.contains("MOVED") || line.contains("ASK"));
        counts
            .map(|line| line.trim().rsplit('=').next().expect("a count").parse::<usize>().expect("a number"))
            .sum::<usize>()
    };
    cluster.servers.iter().map(moved).sum()
}

async fn given(cluster: &Cluster) -> FredBackend {
    let config = Config::from_url(&url(cluster)).unwrap();
    let client = Client::new(config, None, None, Some(ReconnectPolicy::new_constant(0, 100)));
    client.init().await.unwrap();
    FredBackend::new(client).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_goes_to_the_server_of_its_slot_and_follows_it() {
    let cluster = start();
    for node in [FredBackend::open(&url(&cluster)).unwrap(), given(&cluster).await] {
        let redlock = Redlock::builder(TokioRuntime::current()).node(node).build().unwrap();
        let mut locks = Vec::new();
        for number in 0..20 {
            let names = [format!("{{{number}}}:a"), format!("{{{number}}}:b")];
            locks.push(redlock.try_lock(&names[..], TTL).await.unwrap());
        }
        let keys = keys(&cluster);
        assert!(keys.iter().all(|keys| *keys > 0) && keys.iter().sum::<usize>() == 40, "{keys:?}");
        for lock in &mut locks {
            lock.extend(2 * TTL).await.unwrap();
        }
        for lock in locks {
            assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        }
        assert_eq!((self::keys(&cluster), redirections(&cluster)), (vec![0, 0], 0));

        let failed = redlock.lock(["a", "b"], TTL).await.unwrap_err();
        assert!(matches!(failed, Error::Rejected(_)) && failed.to_string().contains("CROSSSLOT"), "{failed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_may_move_under_a_lock() {
    let cluster = start();
    let [from, to] = &cluster.servers[..] else { panic!("two servers") };
    let ids = [from, to].map(|server| server.command::<String>(&["CLUSTER", "MYID"]));
    let nodes = [FredBackend::open(&url(&cluster)).unwrap(), given(&cluster).await];
    // Two names in slots of the first server.
    let names = (0..).map(|number| format!("key {number}"));
    let slot = |name: &String| from.command::<u16>(&["CLUSTER", "KEYSLOT", name]);
    let names: Vec<_> = names.filter(|name| slot(name) < 8192).take(2).collect();
    for (node, name) in nodes.into_iter().zip(&names) {
        let slot = slot(name).to_string();
        let redlock = Redlock::builder(TokioRuntime::current()).node(node).build().unwrap();
        redlock.lock(format!("{{{name}}}:warm up"), TTL).await.unwrap().unlock().await.unwrap();
        to.command::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
        from.command::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]);
        // fred does not follow ASK; it must survive it.
        let failed = redlock.lock(name, TTL).retry_count(1).await.unwrap_err();
        assert!(matches!(failed, Error::NoQuorum(_)), "{failed}");
        assert!(failed.to_string().contains("being moved"), "{failed}");
        for server in [to, from] {
            server.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]);
        }
        let mut lock = redlock.try_lock(name, TTL).await.expect("MOVED is followed");
        lock.extend(2 * TTL).await.unwrap();
        assert!(to.ttl(name) > Some(TTL));
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        assert_eq!(to.get(name), None);
    }
}
