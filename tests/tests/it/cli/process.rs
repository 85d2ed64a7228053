//! The `redlock` command as a process, in a folder of its own.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use redlock_tests::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::built::built;

/// A command line of `redlock`.
pub(crate) struct CommandLine {
    command: Command,
    folder: TempDir,
    input: &'static str,
}

impl CommandLine {
    /// `redlock` with its first arguments, and the servers as nodes.
    pub(crate) fn new(servers: &[Server], arguments: &str) -> Self {
        let urls: Vec<String> = servers.iter().map(Server::url).collect();
        let mut line = Self::bare(arguments);
        line.command.env("REDLOCK_NODES", urls.join(","));
        line
    }

    /// Without nodes.
    pub(crate) fn bare(arguments: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(binary());
        command.args(arguments.split_whitespace()).current_dir(folder.path()).env_remove("REDLOCK_NODES");
        Self { command, folder, input: "" }
    }

    /// Replaces `redlock` by a shell that runs a script, which finds `redlock` with its arguments in `"$@"`.
    pub(crate) fn within(mut self, script: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.current_dir(self.folder.path());
        self.command = shell;
        self
    }

    pub(crate) fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments.into_iter().map(Into::into));
        self
    }

    /// Lets `redlock` run a shell script.
    pub(crate) fn script(self, script: &str) -> Self {
        self.arguments(["--", "sh", "-c", script])
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn input(mut self, input: &'static str) -> Self {
        self.input = input;
        self
    }

    pub(crate) fn start(mut self) -> Process {
        let file = |name| File::create(self.folder.path().join(name)).unwrap();
        let (out, err) = (file(OUT), file(ERR));
        // Taken before the spawn, which may last seconds on a machine that has to read the binary first.
        let start = Instant::now();
        let mut process = self.command.stdin(Stdio::piped()).stdout(out).stderr(err).spawn().unwrap();
        process.stdin.take().unwrap().write_all(self.input.as_bytes()).unwrap();
        Process { process, folder: self.folder, start, code: None }
    }

    pub(crate) fn finish(self) -> Ended {
        self.start().finish()
    }
}

/// `redlock` while it runs. When it is dropped it is killed, and what it runs is stopped by its watchdog.
pub(crate) struct Process {
    process: Child,
    folder: TempDir,
    start: Instant,
    code: Option<i32>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// A file that the command writes.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn err(&self) -> String {
        self.read(ERR)
    }

    /// Waits until the command has written a line to a file, and returns the last line.
    pub(crate) fn wait_for(&mut self, name: &str) -> String {
        let written = soon(|| self.read(name).ends_with('\n') || self.has_ended());
        let text = self.read(name);
        assert!(written && !text.is_empty(), "no {name}: {:?}, {}", self.code, self.err());
        text.lines().last().unwrap().to_owned()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        if self.code.is_none() {
            self.code = self.process.try_wait().unwrap().map(|status| status.code().unwrap_or(-1));
        }
        self.code.is_some()
    }

    pub(crate) fn finish(mut self) -> Ended {
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> Ended {
        assert!(soon(|| self.has_ended()), "it does not end: {}\n{}", self.err(), processes());
        let took = self.start.elapsed();
        Ended { code: self.code.unwrap(), out: self.read(OUT), err: self.err(), took }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.code.is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// All processes, and what each waits for, to see what holds one up.
fn processes() -> String {
    let columns = "pid,ppid,pgid,sid,stat,wchan:20,pending,ignored,caught,args";
    let output = Command::new("ps").args(["-e", "-o", columns]).output();
    output
        .map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the condition comes true within a time that suffices even on a busy machine.
pub(crate) fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < SOON {
        if condition() {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Whether a process runs: `ps` knows it, and it is no zombie.
pub(crate) fn runs(pid: &str) -> bool {
    let state = state_of(pid);
    !state.is_empty() && !state.starts_with('Z')
}

pub(crate) fn state_of(pid: &str) -> String {
    let output = Command::new("ps").args(["-o", "stat=", "-p", pid]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Whether this process, and so everything that it starts, ignores a signal, as a background job of a script
/// does.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
    mask >> (signal.as_raw() - 1) & 1 == 1
}

/// Builds the command from the current sources, like the tests themselves, and returns its path.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    // This builds the command together with the tests, so that both have the same features.
    BINARY.get_or_init(|| built(BUILD).join("redlock"))
}

const BUILD: &str = "test --workspace --all-features --locked --no-run --test it --test command_line";
const OUT: &str = "out";
const ERR: &str = "err";
const SOON: Duration = Duration::from_secs(30);
