//! The other client is node-redlock, in a process of its own: `tests/interop/driver.cjs`.

use std::{
    collections::HashMap,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redlock_redis_rs::async_trait;
use redlock_tests::server::Server;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::oneshot,
};

use crate::interop::Other;

/// A driver. It ends when its standard input is closed, that is, when this is dropped.
struct NodeRedlock {
    requests: tokio::sync::Mutex<ChildStdin>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>,
    last: AtomicU64,
    _process: Child,
}

impl NodeRedlock {
    async fn connect(version: u32, servers: &[Server]) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop");
        assert!(folder.join("node_modules").is_dir(), "node-redlock is not installed: {HINT}");
        let mut process = Command::new("node")
            .arg("driver.cjs")
            .arg(version.to_string())
            .args(servers.iter().map(|server| server.port().to_string()))
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run `node` ({error}): {HINT}"));
        let mut replies = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready =
            tokio::time::timeout(PATIENCE, replies.next_line()).await.expect("the driver hangs").unwrap();
        assert_eq!(ready.as_deref(), Some(r#"{"ready":true}"#), "the driver does not run: {HINT}");

        let waiting = Arc::new(Mutex::new(HashMap::new()));
        tokio::spawn(hand_out(replies, waiting.clone()));
        let requests = tokio::sync::Mutex::new(process.stdin.take().unwrap());
        Self { requests, waiting, last: AtomicU64::new(0), _process: process }
    }

    /// The lock, after at most this number of further attempts.
    async fn lock_with_retries(
        &self,
        resources: &[&str],
        ttl: Duration,
        retries: u32,
    ) -> Result<u64, String> {
        let reply = self.ask_for_lock(resources, ttl, retries).await?;
        Ok(reply["lock"].as_u64().unwrap())
    }

    async fn ask_for_lock(&self, resources: &[&str], ttl: Duration, retries: u32) -> Result<Value, String> {
        let request = json!({ "do": "lock", "resources": resources, "ttl": ttl.as_millis() as u64, "retries": retries });
        self.ask(request).await
    }

    /// The reply, or the name of the error.
    async fn ask(&self, mut request: Value) -> Result<Value, String> {
        let id = self.last.fetch_add(1, Ordering::SeqCst);
        request["id"] = id.into();
        let (sender, reply) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, sender);
        self.requests.lock().await.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let reply = tokio::time::timeout(PATIENCE, reply).await.expect("the driver hangs");
        let reply = reply.expect("the driver has ended");
        match reply["error"].as_str() {
            // Any other error would look like a lock of another owner.
            Some(error @ ("LockError" | "ExecutionError")) => Err(error.to_owned()),
            Some(error) => panic!("{request}: {error}: {}", reply["message"]),
            None => Ok(reply),
        }
    }
}

#[async_trait]
impl Other for NodeRedlock {
    async fn lock(&self, resources: &[&str], ttl: Duration) -> Option<u64> {
        self.lock_with_retries(resources, ttl, 0).await.ok()
    }

    async fn extend(&self, lock: u64, ttl: Duration) -> bool {
        self.ask(json!({ "do": "extend", "lock": lock, "ttl": ttl.as_millis() as u64 })).await.is_ok()
    }

    async fn unlock(&self, lock: u64) {
        // It fails when the lock is gone.
        let _ = self.ask(json!({ "do": "unlock", "lock": lock })).await;
    }
}

/// Sends each reply to its request. When the driver ends, the dropped senders end the requests that still
/// wait.
async fn hand_out(
    mut replies: Lines<BufReader<ChildStdout>>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>,
) {
    while let Ok(Some(line)) = replies.next_line().await {
        let reply: Value = serde_json::from_str(&line).expect("a line of JSON");
        let id = reply["id"].as_u64().expect("the request's id");
        if let Some(sender) = waiting.lock().unwrap().remove(&id) {
            let _ = sender.send(reply);
        }
    }
    waiting.lock().unwrap().clear();
}

macro_rules! version {
    ($name:ident, $version:literal, $error:literal) => {
        mod $name {
            use std::time::Duration;

            use redlock_redis_rs::{Error, LockParts, UnlockOutcome};
            use redlock_tests::server::Server;

            use super::NodeRedlock;
            use crate::interop::{ADAPTERS, Harness, TTL, respects_and_is_respected, soon};

            async fn connect(servers: &[Server]) -> NodeRedlock {
                NodeRedlock::connect($version, servers).await
            }

            respects_and_is_respected!(connect);

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn it_waits_for_our_lock_and_gets_it_when_we_release_it() {
                for adapter in ADAPTERS {
                    let harness = Harness::new(adapter);
                    let ours = harness.ours();
                    let theirs = connect(&harness.servers).await;
                    let lock = ours.lock(["a", "b"], TTL).await.unwrap();

                    let few = theirs.lock_with_retries(&["b"], TTL, 2).await;
                    assert_eq!(few, Err($error.to_owned()));
                    let (held, unlocked) =
                        tokio::join!(theirs.lock_with_retries(&["b"], TTL, 1_000), async {
                            tokio::time::sleep(Duration::from_millis(300)).await;
                            lock.unlock().await.unwrap()
                        });
                    assert_eq!(unlocked, UnlockOutcome::Released);
                    let refused = ours.try_lock("b", TTL).await.unwrap_err();
                    assert!(matches!(refused, Error::Contended(_)), "{refused}");
                    super::Other::unlock(&theirs, held.unwrap()).await;
                    assert_eq!(soon(&ours, "b").await.unlock().await.unwrap(), UnlockOutcome::Released);
                }
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_lock_of_theirs_can_be_handed_over_to_us() {
                for adapter in ADAPTERS {
                    let harness = Harness::new(adapter);
                    let theirs = connect(&harness.servers).await;
                    let held = theirs.ask_for_lock(&["a", "b"], TTL, 0).await.unwrap();
                    let token = held["value"].as_str().unwrap().parse().unwrap();
                    let parts = LockParts::new(["a", "b"], token, 2 * TTL);
                    let lock = harness.ours().from_parts(&parts).await.unwrap();
                    assert!(lock.remaining() > TTL, "{:?}", lock.remaining());
                    assert_eq!(super::Other::lock(&theirs, &["b"], TTL).await, None);
                    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
                    assert!(harness.has_only("a", None).await && harness.has_only("b", None).await);
                }
            }
        }
    };
}

version!(v4, 4, "LockError");
version!(v5, 5, "ExecutionError");

const HINT: &str =
    "these tests need Node.js 18 or newer, and `npm ci` in tests/interop, as `./tests/run` does";
const PATIENCE: Duration = Duration::from_secs(60);
