//! Real `redis-server` processes: each on a free loopback port, in a folder of its own, gone when it is dropped.

use std::{
    env, fmt, fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Client, Cmd, Connection, FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A running server.
pub struct Server {
    port: u16,
    options: Vec<String>,
    folder: TempDir,
    process: Option<Process>,
    /// For the tests' own commands.
    password: Option<String>,
}

/// A server, and the shell that ends it when this process is gone: also when it was killed itself.
struct Process {
    shell: Child,
    /// The shell reads it, and ends the server when it is closed.
    leash: Option<ChildStdin>,
    pid: Pid,
}

impl Server {
    /// Starts an empty server that keeps nothing on disk.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server that writes every change to its append-only file before it answers.
    #[must_use]
    pub fn start_durable() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts a server that wants a password.
    #[must_use]
    pub fn start_with_password(password: &str) -> Self {
        let mut server = Self::prepare(&["--requirepass", password]);
        server.password = Some(password.to_owned());
        server.run();
        server
    }

    /// Starts a server with options of its own, as on the command line.
    ///
    /// # Panics
    ///
    /// When it cannot be started, with a hint.
    #[must_use]
    pub fn start_with(options: &[&str]) -> Self {
        let mut server = Self::prepare(options);
        server.run();
        server
    }

    /// Starts several independent servers.
    #[must_use]
    pub fn start_some(number: usize) -> Vec<Self> {
        (0..number).map(|_| Self::start()).collect()
    }

    fn prepare(options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let folder = TempDir::new().expect("a temporary folder");
        Self { port: 0, options, folder, process: None, password: None }
    }

    /// The port on 127.0.0.1. It stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL, without a password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A client with redis-rs' defaults.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::open(self.url()).expect("a URL that we made ourselves")
    }

    /// Stops it as it is: it keeps its connections, and the kernel takes in what it is sent.
    pub fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).expect("SIGSTOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).expect("SIGCONT");
    }

    /// Ends it at once, as kill -9 does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on its port, with what its append-only file kept.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// Starts it again on its port, without its data.
    pub fn restart_empty(&mut self) {
        self.kill();
        let folder = TempDir::new().expect("a temporary folder");
        self.folder = folder;
        self.run();
    }

    /// Runs a command over a connection of its own, and gives the answer.
    pub fn try_command<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let mut connection = self.connection()?;
        words(command).query(&mut connection)
    }

    /// Runs a command that has to work.
    pub fn command<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_command(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The value under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<String> {
        self.command(&["GET", key])
    }

    /// A blocking connection.
    ///
    /// # Errors
    ///
    /// When the server does not take it.
    pub fn connection(&self) -> RedisResult<Connection> {
        let mut connection = self.client().get_connection_with_timeout(ANSWER)?;
        connection.set_read_timeout(Some(ANSWER))?;
        if let Some(password) = &self.password {
            words(&["AUTH", password]).exec(&mut connection)?;
        }
        Ok(connection)
    }

    fn pid(&self) -> Pid {
        self.process.as_ref().expect("the server runs").pid
    }

    /// On a new port a server can lose the race for it; then the next one is tried.
    fn run(&mut self) {
        let wanted = self.port;
        for _ in 0..PORTS_TO_TRY {
            if wanted == 0 {
                self.port = free_port();
            }
            self.process = Some(Process::spawn(self.port, &self.options, self.folder.path()));
            if self.answers_in_time() {
                return;
            }
            self.process = None;
        }
        let log = fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default();
        panic!("redis-server did not start on port {}. It said:\n{log}", self.port);
    }

    fn answers_in_time(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < START {
            let answer: RedisResult<String> = self.try_command(&["PING"]);
            if answer.is_ok() {
                // Or somebody else's server has the port.
                return self.command::<String>(&["INFO", "server"]).contains(&self.pid_line());
            }
            if self.process.as_mut().is_none_or(Process::has_ended) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    fn pid_line(&self) -> String {
        format!("process_id:{}\r\n", self.pid().as_raw_nonzero())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("port", &self.port).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Process {
    fn spawn(port: u16, options: &[String], folder: &Path) -> Self {
        let program = env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let mut shell = Command::new("sh")
            .args(["-c", LEASH, &program])
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
            .args(options)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let leash = shell.stdin.take();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut line).expect("a line from the shell");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.unwrap_or_else(|| panic!("cannot run `{program}`: {HINT}"));
        Self { shell, leash, pid }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.shell.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.leash.take());
        // The shell has ended when the server has.
        let _ = self.shell.wait();
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    listener.local_addr().expect("a bound address").port()
}

fn words(command: &[&str]) -> Cmd {
    let mut words = redis::cmd(command[0]);
    words.arg(&command[1..]);
    words
}

/// Runs the server and says its pid; ends it when standard input is closed, or when it has ended itself.
const LEASH: &str = r#"
command -v "$0" >/dev/null || { echo missing; exit 1; }
"$0" "$@" >>log 2>&1 </dev/null &
server=$!
echo "$server"
exec >/dev/null 3<&0
{ read -r _ <&3; kill -9 "$server"; } 2>/dev/null &
wait "$server" 2>/dev/null
"#;
const LOG: &str = "log";
const HINT: &str = "`./tests/run` installs it, or set REDIS_SERVER to the path of one";
const PORTS_TO_TRY: usize = 5;
const START: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(5);
