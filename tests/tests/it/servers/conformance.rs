//! Every backend keeps the contract of `LockBackend`, on a real server that the suite stops, kills and
//! restarts. A further backend is one line in one of the tests.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use redlock_core::{
    LockBackend, MemoryBackend, Runtime, SmolRuntime, TokioRuntime, async_trait,
    conformance::{FaultOutcome, NodeControl, Suite},
};
use redlock_fred::{
    FredBackend,
    fred::{
        clients::Client,
        interfaces::ClientLike,
        types::config::{Config, ReconnectPolicy},
    },
};
use redlock_redis_rs::{
    RedisBackend,
    redis::{
        AsyncConnectionConfig,
        aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    },
};
use redlock_tests::{
    cluster::Cluster,
    server::{Monitor, Server},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backend_in_memory_keeps_the_contract_on_a_real_clock() {
    let runtime = TokioRuntime::current();
    let backend = MemoryBackend::new(runtime.clone());
    let suite = Suite::new(&backend, &runtime).node(&backend).second(&backend);
    assert_eq!(suite.check().await.unwrap().skipped(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_by_its_url_keeps_the_contract() {
    let node = RealNode::start();
    keeps_the_contract(&node, &opened(&node), &opened(&node)).await;
}

/// On one thread, a task that never yields is alone with the runtime.
#[tokio::test]
async fn redis_by_its_url_keeps_the_contract_on_one_thread() {
    let node = RealNode::start();
    keeps_the_contract(&node, &opened(&node), &opened(&node)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_a_connection_manager_keeps_the_contract() {
    let node = RealNode::start().given();
    keeps_the_contract(&node, &managed(&node), &managed(&node)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_over_a_multiplexed_connection_keeps_the_contract_until_it_breaks() {
    let node = RealNode::start().for_ever().given();
    keeps_the_contract(&node, &multiplexed(&node).await, &multiplexed(&node).await).await;
}

/// None of its threads is in a tokio runtime.
#[test]
fn redis_under_smol_keeps_the_contract() {
    let node = RealNode::start();
    let (backend, second) = (opened(&node), opened(&node));
    smol::block_on(keeps_the_contract_on(&SmolRuntime::new(), &node, &backend, &second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster_keeps_the_contract() {
    let cluster = Cluster::start(3, &[]);
    let open = || RedisBackend::open_cluster(cluster.urls()).unwrap();
    let (runtime, node, backend, second) = (TokioRuntime::current(), Masters(&cluster), open(), open());
    let suite = Suite::new(&backend, &runtime).node(&node).second(&second).slack(Duration::from_secs(5));
    let passed = suite.check().await.unwrap();
    // Masters that stop or die have tests of their own.
    let expected = ["stop", "down", "watch", "how long its server"];
    let known = |reason: &str| expected.iter().any(|part| reason.contains(part));
    assert!(passed.skipped().iter().all(|(_, reason)| known(reason)), "{passed}");
    for server in &cluster.servers {
        assert_only_counters_are_left(server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fred_by_its_url_keeps_the_contract() {
    let node = RealNode::start();
    let open = || FredBackend::open(&node.server().url()).unwrap();
    keeps_the_contract(&node, &open(), &open()).await;
}

#[tokio::test]
async fn fred_by_its_url_keeps_the_contract_on_one_thread() {
    let node = RealNode::start();
    let open = || FredBackend::open(&node.server().url()).unwrap();
    keeps_the_contract(&node, &open(), &open()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fred_over_a_user_supplied_client_keeps_the_contract() {
    let node = RealNode::start().given();
    let (backend, second) = (given(&node).await, given(&node).await);
    keeps_the_contract(&node, &backend, &second).await;
}

async fn given(node: &RealNode) -> FredBackend {
    let config = Config::from_url(&node.server().url()).unwrap();
    let client = Client::new(config, None, None, Some(ReconnectPolicy::new_constant(0, 100)));
    client.init().await.unwrap();
    FredBackend::new(client).unwrap()
}

fn opened(node: &RealNode) -> RedisBackend {
    RedisBackend::open(node.server().url()).unwrap()
}

fn managed(node: &RealNode) -> RedisBackend<ConnectionManager> {
    // The settings that a user-supplied connection needs to be as good as one of `open`.
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE);
    let manager = ConnectionManager::new_lazy_with_config(node.server().client(), config);
    RedisBackend::new(manager.expect("nothing is sent yet"))
}

async fn multiplexed(node: &RealNode) -> RedisBackend<MultiplexedConnection> {
    let client = node.server().client();
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE);
    RedisBackend::new(client.get_multiplexed_async_connection_with_config(&config).await.unwrap())
}

/// Runs the whole suite over a backend, and checks that it leaves no keys on the server.
async fn keeps_the_contract(node: &RealNode, backend: &dyn LockBackend, second: &dyn LockBackend) {
    keeps_the_contract_on(&TokioRuntime::current(), node, backend, second).await;
}

async fn keeps_the_contract_on(
    runtime: &dyn Runtime,
    node: &RealNode,
    backend: &dyn LockBackend,
    second: &dyn LockBackend,
) {
    // More patient than the default: a busy machine is no defect of the backend.
    let suite = Suite::new(backend, runtime).node(node).second(second).slack(Duration::from_secs(5));
    let passed = suite.check().await.unwrap();
    let skipped: Vec<_> = passed.skipped().iter().map(|(check, _)| *check).collect();
    let (watches, skipped): (Vec<&str>, Vec<&str>) =
        skipped.into_iter().partition(|check| check.contains("watch"));
    let (uptimes, skipped): (Vec<&str>, Vec<&str>) =
        skipped.into_iter().partition(|check| check.contains("uptime"));
    assert_eq!(watches.is_empty(), node.is_opened, "{passed}");
    assert_eq!(uptimes.is_empty(), node.is_opened, "{passed}");
    if node.breaks {
        assert_eq!(skipped, [""; 0], "{passed}");
    } else {
        assert_eq!(
            skipped,
            ["a_node_that_is_down_fails_before_the_deadline", "nothing_is_sent_late"],
            "{passed}"
        );
    }
    assert_only_counters_are_left(&node.server());
}

fn assert_only_counters_are_left(server: &Server) {
    let keys: Vec<String> = server.command(&["KEYS", "*"]);
    let (counters, others): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.ends_with(".fence"));
    assert_eq!(others, [""; 0]);
    for counter in counters {
        // One with a short life may be gone by now.
        let millis: i64 = server.command(&["PTTL", &counter]);
        assert_ne!(millis, -1, "{counter} never expires");
    }
}

#[derive(Debug)]
struct RealNode {
    server: Mutex<Server>,
    /// What reports the commands, and how many requests there have been.
    counted: Mutex<Option<(Monitor, u64)>>,
    breaks: bool,
    /// Whether the backend makes its connections, so that it can watch keys and ask about the server.
    is_opened: bool,
}

impl RealNode {
    fn start() -> Self {
        let (server, counted) = (Mutex::new(Server::start()), Mutex::new(None));
        Self { server, counted, breaks: true, is_opened: true }
    }

    /// For a connection of the user.
    fn given(self) -> Self {
        Self { is_opened: false, ..self }
    }

    /// For a connection that is never replaced.
    fn for_ever(self) -> Self {
        Self { breaks: false, ..self }
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }
}

#[async_trait]
impl NodeControl for RealNode {
    async fn commands(&self) -> Option<u64> {
        let server = self.server();
        let mut counted = self.counted.lock().unwrap();
        let (monitor, count) = counted.get_or_insert_with(|| (server.monitor(), 0));
        server.command::<()>(&["ECHO", MARK]);
        let requests = |name: &String| REQUESTS.contains(&&**name);
        *count += monitor.until(MARK).iter().filter(|name| requests(name)).count() as u64;
        Some(*count)
    }

    async fn stop(&self) -> FaultOutcome {
        self.server().pause();
        FaultOutcome::Done
    }

    async fn resume(&self) {
        self.server().resume();
    }

    async fn shut_down(&self) -> FaultOutcome {
        if !self.breaks {
            return FaultOutcome::NotPossible;
        }
        *self.counted.lock().unwrap() = None;
        self.server().kill();
        FaultOutcome::Done
    }

    async fn start(&self) {
        self.server().restart();
    }

    async fn restart_empty(&self) -> FaultOutcome {
        if self.shut_down().await == FaultOutcome::Done {
            self.server().restart_empty();
            return FaultOutcome::Done;
        }
        FaultOutcome::NotPossible
    }
}

/// The masters of a Cluster, which together are one node.
#[derive(Debug)]
struct Masters<'a>(&'a Cluster);

#[async_trait]
impl NodeControl for Masters<'_> {
    async fn commands(&self) -> Option<u64> {
        Some(self.0.servers.iter().map(|server| server.calls("eval")).sum())
    }
}

/// The commands of requests.
const REQUESTS: [&str; 4] = ["EVAL", "SET", "DELIFEQ", "DELEX"];
const MARK: &str = "so far";
/// More commands than the suite has in flight at a time.
const QUEUE: usize = 1000;
