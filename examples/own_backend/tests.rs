use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use redlock_core::conformance::Suite;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    let server = Server::start();
    let (node, second) = (server.connect().await, server.connect().await);
    let passed = Suite::new(&node, &TokioRuntime::current()).second(&second).check().await.unwrap();
    let skipped: Vec<_> = passed.skipped().iter().map(|(check, _)| *check).collect();
    assert!(passed.passed().len() > 20, "skipped: {skipped:?}");
}

#[test]
fn it_is_short() {
    let source = include_str!("backend.rs");
    let backend = &source[source.find("#[derive").unwrap()..];
    assert!(backend.lines().count() < 60, "{}", backend.lines().count());
}

/// A server on a socket in a folder of its own, which is ended when this is dropped.
struct Server {
    process: Child,
    folder: PathBuf,
}

impl Server {
    fn start() -> Self {
        let folder = env::temp_dir().join(format!("own-backend-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let mut command = Command::new(&program);
        command.args(["--port", "0", "--save", "", "--unixsocket", "socket", "--dir"]).arg(&folder);
        let process = command.stdout(Stdio::null()).spawn();
        let process =
            process.unwrap_or_else(|error| panic!("{program}: {error}. Run ./tests/run, or install it"));
        Self { process, folder }
    }

    async fn connect(&self) -> OwnBackend {
        let url = format!("redis+unix://{}", self.folder.join("socket").display());
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

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
