//! What a server reveals about itself, and what of it endangers locks.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use redlock_redis_rs::{
    Acquire, AcquireReply, Error, LockBackend, Release, ServerInfo, ServerRisk, ServerRole, Token,
};
use redlock_tests::{
    adapter::Adapter,
    server::{Server, eventually},
};

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
const BOTH: [Adapter; 2] = [Adapter::RedisRs, Adapter::Fred];

/// What it reveals beside the first request of a new connection.
async fn info(adapter: Adapter, server: &Server) -> Arc<ServerInfo> {
    let node = adapter.open(&server.url());
    let token: Token = "00112233445566778899aabbccddeeff".parse().unwrap();
    let granted = node.acquire(Acquire::new(&"a".into(), &token, TTL, SOON)).await.unwrap();
    assert_eq!(granted, AcquireReply::Granted);
    let info = node.server().expect("it has been asked");
    node.release(Release::new(&"a".into(), &token, SOON)).await.unwrap();
    info
}

fn field(server: &Server, section: &str, name: &str) -> String {
    let info: String = server.command(&["INFO", section]);
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(field, value)| (field == name).then(|| value.to_owned())).expect("a field")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_reveals_what_it_is() {
    let server = Server::start_with(&["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"]);
    for adapter in BOTH {
        let (asked, wall) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        let info = info(adapter, &server).await;
        assert_eq!(info.id.as_deref(), Some(&*field(&server, "server", "run_id")));
        let version = info.version.as_deref().unwrap();
        let (program, number) = version.split_once(' ').unwrap();
        let shown = field(&server, "server", &format!("{program}_version"));
        assert_eq!(number, shown, "{version}");
        assert_eq!((info.role, info.was_promoted), (Some(ServerRole::Primary), Some(false)));
        assert_eq!(info.eviction_policy.as_deref(), Some("allkeys-lru"));
        assert_eq!(info.is_persistent, Some(true));
        let clock = info.clock.unwrap();
        assert!(asked <= clock.asked && clock.asked <= clock.answered && clock.answered <= Instant::now());
        // Both clocks are this machine's.
        assert!(clock.since_epoch + Duration::from_millis(10) >= wall, "{clock:?} at {wall:?}");
        assert!(
            clock.since_epoch <= wall + asked.elapsed() + Duration::from_millis(10),
            "{clock:?} at {wall:?}"
        );
        let policy = "allkeys-lru".to_owned();
        assert_eq!(info.risks().collect::<Vec<_>>(), [ServerRisk::Evicts { policy }]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_recognized_and_so_is_one_that_was_promoted() {
    let primary = Server::start();
    let port = primary.port().to_string();
    let replica = Server::start_with(&["--replicaof", "127.0.0.1", &port, "--replica-read-only", "no"]);
    let follows = || field(&replica, "replication", "master_link_status") == "up";
    assert!(eventually(SOON, follows).await, "the replica does not follow");
    for adapter in BOTH {
        let info = info(adapter, &replica).await;
        assert_eq!((info.role, info.was_promoted), (Some(ServerRole::Replica), Some(false)));
        assert!(info.risks().any(|risk| risk == ServerRisk::IsReplica));
    }
    replica.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    for adapter in BOTH {
        let info = info(adapter, &replica).await;
        assert_eq!((info.role, info.was_promoted), (Some(ServerRole::Primary), Some(true)));
        assert!(info.risks().any(|risk| risk == ServerRisk::WasPromoted));
        let primary = self::info(adapter, &primary).await;
        assert_eq!((primary.role, primary.was_promoted), (Some(ServerRole::Primary), Some(false)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_of_safe_servers_only_rejects_the_others_with_the_reason() {
    let durable = Server::start_durable();
    let evicts = Server::start_with(&["--appendonly", "yes", "--maxmemory-policy", "volatile-lru"]);
    let forgets = Server::start();
    for adapter in BOTH {
        let strict = |server| adapter.manager([server]).safe_servers_only().node_timeout(SOON);
        strict(&durable).build().unwrap().lock("a", TTL).await.unwrap().unlock().await.unwrap();
        for (server, reason) in
            [(&evicts, "its eviction policy volatile-lru"), (&forgets, "append-only file")]
        {
            let error = strict(server).build().unwrap().lock("a", TTL).await.unwrap_err();
            assert!(matches!(error, Error::Rejected(_)) && error.to_string().contains(reason), "{error}");
            assert!(eventually(SOON, || server.get("a").is_none()).await);
        }
    }
}
