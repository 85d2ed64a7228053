use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use redlock_core::{
    async_trait,
    conformance::{FaultOutcome, NodeControl, Suite},
};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    let server = Server::start("runs");
    let (node, second) = (server.connect().await, server.connect().await);
    let passed = Suite::new(&node, &TokioRuntime::current()).second(&second).check().await.unwrap();
    let skipped: Vec<_> = passed.skipped().iter().map(|(check, _)| *check).collect();
    assert!(passed.passed().len() > 20, "skipped: {skipped:?}");
}

/// With scripts only, each request is an `EVAL`, which the server counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract_on_a_server_that_stops() {
    let server = Server::start("stops");
    let node = OwnBackend { dialect: Dialect::scripts(), ..server.connect().await };
    let second = OwnBackend { dialect: Dialect::scripts(), ..server.connect().await };
    let suite = Suite::new(&node, &TokioRuntime::current()).node(&server).second(&second).check().await;
    let passed = suite.unwrap();
    for check in ["a_request_is_one_command", "a_request_is_not_sent_again", "a_slow_reply_is_awaited"] {
        assert!(passed.passed().contains(&check), "{passed}");
    }
}

#[test]
fn it_is_short() {
    let source = include_str!("backend.rs");
    let backend = &source[source.find("#[derive").unwrap()..];
    assert!(backend.lines().count() < 60, "{}", backend.lines().count());
}

/// A server on a socket in a folder of its own, which is ended when this is dropped.
#[derive(Debug)]
struct Server {
    process: Child,
    folder: PathBuf,
}

impl Server {
    fn start(test: &str) -> Self {
        let folder = env::temp_dir().join(format!("own-backend-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let mut command = Command::new(&program);
        command.args(["--port", "0", "--save", "", "--unixsocket", "socket", "--dir"]).arg(&folder);
        let process = command.stdout(Stdio::null()).spawn();
        let process =
            process.unwrap_or_else(|error| panic!("{program}: {error}. Run ./tests/run, or install it"));
        Self { process, folder }
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.join("socket").display())
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    async fn connect(&self) -> OwnBackend {
        let url = self.url();
        let connected = async {
            loop {
                match connect(&url).await {
                    Ok(node) => return node,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), connected).await.expect("the server does not start")
    }
}

/// It does not shut the server down, as the backend's connection stays broken then.
#[async_trait]
impl NodeControl for Server {
    async fn commands(&self) -> Option<u64> {
        // A total would also have what scripts run.
        let mut connection = Client::open(self.url()).unwrap().get_connection().unwrap();
        let statistics: String = redis::cmd("INFO").arg("commandstats").query(&mut connection).unwrap();
        let line = statistics.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
        Some(line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap()))
    }

    async fn stop(&self) -> FaultOutcome {
        self.signal("-STOP");
        FaultOutcome::Done
    }

    async fn resume(&self) {
        self.signal("-CONT");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
