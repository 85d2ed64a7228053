//! The command, as a process.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    io::{self, ErrorKind},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::ExitStatus,
    str::FromStr,
    time::Duration,
};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, test_kill_process,
    test_kill_process_group, waitid,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    exit::{self, Failure, NOT_EXECUTABLE, NOT_FOUND, OS_ERROR},
    processes::{are_zombies, is_zombie},
};

/// The command while it runs.
pub(crate) struct Running {
    child: Child,
    pid: Pid,
    target: Target,
    status: Option<ExitStatus>,
}

impl Running {
    /// Starts the command, in the environment of this process with some variables set or removed. Unless it
    /// stays in the `foreground`, it gets a process group of its own, so that signals reach the processes
    /// that it starts.
    pub(crate) fn start(
        command: &[OsString],
        environment: impl IntoIterator<Item = (&'static str, Option<String>)>,
        foreground: bool,
    ) -> Result<Self, Failure> {
        let (program, arguments) = command.split_first().map_or((None, command), |(p, a)| (Some(p), a));
        let program = program.ok_or_else(|| Failure::new(exit::USAGE, "no command"))?;
        let environment: Vec<_> = environment.into_iter().collect();
        let spawn = |mut command: Command| {
            command.args(arguments);
            for (name, value) in &environment {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            if !foreground {
                command.process_group(0);
            }
            command.spawn()
        };
        let cannot = |error: io::Error| {
            let code = match error.kind() {
                ErrorKind::NotFound => NOT_FOUND,
                ErrorKind::WouldBlock | ErrorKind::OutOfMemory => OS_ERROR,
                _ => NOT_EXECUTABLE,
            };
            Failure::new(code, format!("cannot run {}: {error}", program.display()))
        };
        let child = spawn(Command::new(program)).or_else(|error| match script(&error, program) {
            Some(script) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg(script);
                spawn(shell)
            }
            None => Err(error),
        });
        let child = child.map_err(cannot)?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.ok_or_else(|| Failure::new(OS_ERROR, "the command has no process id"))?;
        let target = if foreground { Target::Process(pid) } else { Target::Group(pid) };
        Ok(Self { child, pid, target, status: None })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn target(&self) -> Target {
        self.target
    }

    /// How the command itself ended. Processes that it started may still run.
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        // The wait fails when SIGCHLD is ignored, as the system then does not keep how a child ended.
        let status =
            self.child.wait().await.unwrap_or_else(|_| ExitStatus::from_raw(i32::from(u8::MAX) << 8));
        self.status = Some(status);
        status
    }

    /// Sends a signal, unless the command has ended: its process id may belong to another process by then.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            self.target.signal(signal);
        }
    }

    /// Sends SIGTERM, and at the deadline SIGKILL to what is left. Returns how the command ended.
    pub(crate) async fn stop(&mut self, deadline: Instant) -> ExitStatus {
        let target = self.target;
        self.signal(Signal::TERM);
        // A stopped process would not receive it.
        self.signal(Signal::CONT);
        if timeout_at(deadline, self.ended()).await.is_ok() {
            let empty = async {
                while target.is_there() {
                    sleep(POLL_INTERVAL).await;
                }
            };
            let of_a_group = matches!(target, Target::Group(_));
            if of_a_group && timeout_at(deadline, empty).await.is_err() {
                target.signal(Signal::KILL);
            }
        } else {
            target.signal(Signal::KILL);
        }
        self.ended().await
    }

    /// The signal by which the terminal stopped the command, if it did.
    pub(crate) fn stopped_by_terminal(&self) -> Option<Signal> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status =
            self.status.is_none().then(|| waitid(WaitId::Pid(self.pid), options).ok().flatten())??;
        [Signal::TTIN, Signal::TTOU]
            .into_iter()
            .find(|signal| status.stopping_signal() == Some(signal.as_raw()))
    }
}

/// The path of the file that the system could not run because it does not begin with `#!`. Like shells and
/// env(1), we take it for a script of sh. A name without a slash gets a path, as sh would look in the current
/// folder first.
fn script(error: &io::Error, program: &OsStr) -> Option<OsString> {
    if error.raw_os_error() != Some(rustix::io::Errno::NOEXEC.raw_os_error()) {
        return None;
    }
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(program.to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found = env::split_paths(&path).map(|folder| Path::new(".").join(folder).join(program));
    found.find(|file| file.is_file()).map(Into::into)
}

/// The exit code that says how a process ended.
pub(crate) fn code(status: ExitStatus) -> u8 {
    let of_signal = || status.signal().map(exit::of_signal);
    status.code().and_then(|code| u8::try_from(code).ok()).or_else(of_signal).unwrap_or(u8::MAX)
}

/// Where signals go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Group(Pid),
    Process(Pid),
}

impl Target {
    /// A target that is gone is no error.
    pub(crate) fn signal(self, signal: Signal) {
        let _ = match self {
            Self::Group(pid) => kill_process_group(pid, signal),
            Self::Process(pid) => kill_process(pid, signal),
        };
    }

    /// Whether a process runs there; a zombie does not.
    pub(crate) fn is_there(self) -> bool {
        let (tested, zombies) = match self {
            Self::Group(pid) => (test_kill_process_group(pid), are_zombies as fn(Pid) -> bool),
            Self::Process(pid) => (test_kill_process(pid), is_zombie as fn(Pid) -> bool),
        };
        let (Self::Group(pid) | Self::Process(pid)) = self;
        // A zombie still accepts signals.
        tested != Err(rustix::io::Errno::SRCH) && !zombies(pid)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(pid) => write!(f, "group {}", pid.as_raw_pid()),
            Self::Process(pid) => write!(f, "process {}", pid.as_raw_pid()),
        }
    }
}

impl FromStr for Target {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, pid) = text.split_once(' ').ok_or(())?;
        let pid = pid.parse().ok().and_then(Pid::from_raw).ok_or(())?;
        match kind {
            "group" => Ok(Self::Group(pid)),
            "process" => Ok(Self::Process(pid)),
            _ => Err(()),
        }
    }
}

pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_shells() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(255 << 8)), 255);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
    }

    #[test]
    fn a_target_is_parsed_from_its_text() {
        let pid = Pid::from_raw(4711).unwrap();
        for target in [Target::Group(pid), Target::Process(pid)] {
            assert_eq!(target.to_string().parse(), Ok(target));
        }
        for text in ["", "group", "group 0", "group x", "herd 7"] {
            assert_eq!(text.parse::<Target>(), Err(()), "{text}");
        }
    }
}
