//! Real `redis-server` processes, each on a free loopback port and with a folder of its own. `Drop` ends
//! them.
#![allow(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a failed test panics with its reason"
)]

use std::{
    env, fmt, fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{Client, Cmd, Connection, FromRedisValue, RedisResult};
use redlock_redis_rs::{RedisBackend, Redlock, RedlockBuilder, TokioRuntime};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use self::process::Process;
pub use self::{monitor::Monitor, port::ReservedPort};
use crate::netns::Namespace;

mod monitor;
mod port;
mod process;

/// A server: running, unless it has been killed.
pub struct Server {
    port: ReservedPort,
    /// The network namespace in which it runs, if not the host's.
    namespace: Option<Arc<Namespace>>,
    /// For a Sentinel: the lines of its configuration file.
    sentinel: Option<String>,
    /// The program, unless it is that of the other tests.
    program: Option<String>,
    options: Vec<String>,
    folder: TempDir,
    process: Option<Process>,
    /// For the tests' own commands.
    password: Option<String>,
}

impl Server {
    /// Starts an empty server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server that writes every change to its append-only file before it replies.
    pub fn start_durable() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts a server that requires a password.
    pub fn start_with_password(password: &str) -> Self {
        Self::start_with_password_and(password, &[])
    }

    /// Starts a server that requires a password, with further options.
    pub fn start_with_password_and(password: &str, options: &[&str]) -> Self {
        let mut server = Self::prepare(&[&["--requirepass", password], options].concat());
        server.password = Some(password.to_owned());
        server.spawn();
        server.wait_until_it_answers();
        server
    }

    /// Starts a server with further options, as on the command line.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_some_with(1, options).remove(0)
    }

    /// Starts a server in a network namespace.
    pub fn start_in(namespace: &Arc<Namespace>) -> Self {
        let mut server = Self::prepare(&["--protected-mode", "no"]);
        server.namespace = Some(namespace.clone());
        server.spawn();
        server.wait_until_it_answers();
        server
    }

    /// Starts a Sentinel, with the lines of its configuration file.
    pub fn start_sentinel(watches: &str) -> Self {
        let mut server = Self::prepare(&["--sentinel"]);
        server.sentinel = Some(watches.to_owned());
        server.spawn();
        server.wait_until_it_answers();
        server
    }

    /// Starts several independent servers.
    pub fn start_some(number: usize) -> Vec<Self> {
        Self::start_some_with(number, &[])
    }

    /// Starts several independent servers with the same options.
    pub fn start_some_with(number: usize, options: &[&str]) -> Vec<Self> {
        Self::start_all((0..number).map(|_| Self::prepare(options)).collect())
    }

    /// Starts several independent servers of another program.
    pub fn start_some_of(program: &str, number: usize) -> Vec<Self> {
        let prepare = |_| Self { program: Some(program.to_owned()), ..Self::prepare(&[]) };
        Self::start_all((0..number).map(prepare).collect())
    }

    fn start_all(mut servers: Vec<Self>) -> Vec<Self> {
        servers.iter_mut().for_each(Self::spawn);
        servers.iter_mut().for_each(Self::wait_until_it_answers);
        servers
    }

    fn prepare(options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let folder = TempDir::new().expect("a temporary folder");
        Self {
            port: ReservedPort::new(),
            namespace: None,
            sentinel: None,
            program: None,
            options,
            folder,
            process: None,
            password: None,
        }
    }

    /// The port on 127.0.0.1. It is the same after a restart, and stays reserved in between.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Host and port, as in error messages.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host(), self.port())
    }

    fn host(&self) -> String {
        self.namespace.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |namespace| namespace.address())
    }

    /// The URL, without a password.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The folder of the server's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client with redis-rs' defaults.
    pub fn client(&self) -> Client {
        Client::open(self.url()).expect("the test's own URL")
    }

    /// Stops it (SIGSTOP). It keeps its connections, and the kernel buffers what it is sent.
    pub fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).expect("SIGSTOP");
    }

    /// Resumes it (SIGCONT).
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).expect("SIGCONT");
    }

    /// Kills it (kill -9).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Restarts it on its port, with the data of its files.
    pub fn restart(&mut self) {
        self.restart_without_waiting();
        self.wait_until_it_answers();
    }

    /// As [`Server::restart`], but does not wait until it has loaded its data.
    pub fn restart_without_waiting(&mut self) {
        self.kill();
        self.spawn();
    }

    /// Restarts it on its port, without its data.
    pub fn restart_empty(&mut self) {
        self.kill();
        self.folder = TempDir::new().expect("a temporary folder");
        self.restart();
    }

    /// Changes the password that the server requires; an empty one means none.
    pub fn set_password(&mut self, password: &str) {
        self.command::<()>(&["CONFIG", "SET", "requirepass", password]);
        self.password = Some(password.to_owned()).filter(|password| !password.is_empty());
    }

    /// Runs a command over a connection of its own, and returns the reply.
    pub fn try_command<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let mut connection = self.connection()?;
        words(command).query(&mut connection)
    }

    /// Runs a command. Panics when it fails.
    pub fn command<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_command(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<String> {
        self.command(&["GET", key])
    }

    /// The remaining TTL of a key; `None` if it does not exist.
    pub fn ttl(&self, key: &str) -> Option<Duration> {
        let millis: i64 = self.command(&["PTTL", key]);
        let gone = millis == -2;
        (!gone).then(|| Duration::from_millis(millis.try_into().expect("a key that expires")))
    }

    /// How often clients and scripts have run a command since the server started.
    pub fn calls(&self, command: &str) -> u64 {
        let statistics: String = self.command(&["INFO", "commandstats"]);
        let start = format!("cmdstat_{command}:calls=");
        let line = statistics.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |line| line.split(',').next().expect("a part").parse().expect("a number"))
    }

    /// The commands that acquire and release one key on this server, once a node has learnt what it has.
    pub fn forms(&self) -> [&'static str; 2] {
        let has = |command: &[&str]| self.try_command::<Option<String>>(command).is_ok();
        let acquire = has(&["SET", "forms", "x", "NX", "GET", "PX", "1000"]);
        let release =
            [("DELIFEQ", vec!["DELIFEQ", "forms", "x"]), ("DELEX", vec!["DELEX", "forms", "IFEQ", "x"])];
        let release = release.into_iter().find(|(_, command)| has(command)).map(|(name, _)| name);
        [if acquire { "SET" } else { "EVAL" }, release.unwrap_or("EVAL")]
    }

    /// A number that `INFO` reports.
    pub fn info(&self, section: &str, field: &str) -> f64 {
        let info: String = self.command(&["INFO", section]);
        let value = |line: &str| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok();
        info.lines().find_map(value).unwrap_or_else(|| panic!("no number `{field}` in {info}"))
    }

    /// Records the commands of clients from now on.
    pub fn monitor(&self) -> Monitor {
        Monitor::of(&self.address(), ANSWER)
    }

    /// A blocking connection.
    pub fn connection(&self) -> RedisResult<Connection> {
        let mut connection = self.client().get_connection_with_timeout(ANSWER)?;
        connection.set_read_timeout(Some(ANSWER))?;
        if let Some(password) = &self.password {
            words(&["AUTH", password]).exec(&mut connection)?;
        }
        Ok(connection)
    }

    fn pid(&self) -> Pid {
        self.process.as_ref().expect("the server runs").pid()
    }

    fn spawn(&mut self) {
        let mut file = None;
        if let Some(watches) = &self.sentinel {
            // A Sentinel needs a file that it can write to.
            fs::write(self.folder.path().join(SENTINEL), watches).expect("a file in our own folder");
            file = Some(SENTINEL);
        }
        let place: &[&str] = match &self.namespace {
            Some(namespace) => &namespace.inside(),
            None => &[],
        };
        let port = self.port().to_string();
        let listens = ["--port", &port, "--bind", &self.host()];
        let program = self.program.clone().or_else(|| env::var("REDIS_SERVER").ok());
        let program = program.unwrap_or_else(|| "redis-server".to_owned());
        let process = Process::spawn(place, &program, file, &listens, &self.options, self.folder.path());
        self.process = Some(process);
    }

    fn wait_until_it_answers(&mut self) {
        let start = Instant::now();
        while start.elapsed() < START && !self.process.as_mut().is_none_or(Process::has_ended) {
            let answer: RedisResult<String> = self.try_command(&["INFO"]);
            // The server may still load its data, or another server may have the port.
            let ready = |info: String| {
                let loaded = info.contains("\nloading:0\r\n") || info.contains("_mode:sentinel\r\n");
                loaded && info.contains(&self.pid_line())
            };
            if answer.is_ok_and(ready) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let log = fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default();
        panic!("redis-server did not start on port {}. Its log:\n{log}", self.port());
    }

    fn pid_line(&self) -> String {
        format!("process_id:{}\r\n", self.pid().as_raw_nonzero())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("port", &self.port())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A builder for a lock manager on these servers, with the defaults.
pub fn manager(servers: &[Server]) -> RedlockBuilder {
    let open = |server: &Server| RedisBackend::open(server.url()).expect("the test's own URL");
    Redlock::builder(TokioRuntime::current()).nodes(servers.iter().map(open))
}

/// Whether a key has this value, or none, on all servers.
pub fn everywhere(servers: &[Server], key: &str, value: Option<&str>) -> bool {
    servers.iter().all(|server| server.get(key).as_deref() == value)
}

/// Waits until the condition holds, for at most `bound`. Returns whether it does.
pub async fn eventually(bound: Duration, mut condition: impl FnMut() -> bool + Send) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > bound {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn words(command: &[&str]) -> Cmd {
    let mut words = redis::cmd(command[0]);
    words.arg(&command[1..]);
    words
}

const LOG: &str = "log";
const SENTINEL: &str = "sentinel.conf";
const START: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(5);
