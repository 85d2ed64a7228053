//! A process beside `redlock run`, for when that one cannot stop the command: it was killed, or hangs.
//!
//! A pipe leads to it, over which it learns until when the lock is valid, and what to stop. Both processes
//! read the same clock of the system, so an instant means the same to both.

use std::{
    io::{self, BufRead, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::ioctl_fionbio,
    process::{Pid, Signal},
    time::{ClockId, Timespec, clock_gettime},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    child::{POLL_INTERVAL, Target},
    exit::{OS_ERROR, SUCCESS},
    processes::own_program,
    signals::PASSED_ON,
};

/// The watchdog, seen from `redlock run`. When it is dropped, the command is stopped, unless the watchdog was
/// dismissed.
#[derive(Debug)]
pub(crate) struct Watchdog {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Starts a watchdog that leaves `grace` between SIGTERM and SIGKILL, and waits for up to `patience`
    /// until it is ready.
    ///
    /// A signal that is sent to all processes at once can end a watchdog that does not ignore it yet; then
    /// another one is started.
    pub(crate) fn start(grace: Duration, patience: Duration) -> io::Result<Self> {
        let start = Instant::now();
        for _ in 0..MAX_STARTS {
            let mut watchdog = Self::spawn(grace)?;
            let stdout = watchdog.process.stdout.take();
            if stdout.is_some_and(|stdout| is_ready(stdout, patience.saturating_sub(start.elapsed()))) {
                return Ok(watchdog);
            }
            watchdog.end(Duration::ZERO);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it does not start in time"))
    }

    fn spawn(grace: Duration) -> io::Result<Self> {
        let mut command = own_program()?;
        command
            .arg("watchdog")
            .arg(grace.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // What ends the group of `redlock run` must not end the watchdog with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn()?;
        let pipe = process.stdin.take();
        if let Some(pipe) = &pipe {
            // A watchdog that does not read must not block `redlock run`.
            ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { process, pipe })
    }

    pub(crate) fn protect(&mut self, target: Target) {
        self.send(Message::Protect(target));
    }

    /// The lock is valid for another `left`.
    pub(crate) fn valid_for(&mut self, left: Duration) {
        self.send(Message::ValidUntil(now() + left));
    }

    /// The command is being stopped, and is to be gone after `left`.
    pub(crate) fn stopping_for(&mut self, left: Duration) {
        self.send(Message::KillAt(now() + left));
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.process.id()).ok()?)
    }

    pub(crate) fn is_dead(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// There is nothing to watch any more.
    pub(crate) fn dismiss(mut self) {
        self.send(Message::Done);
        self.end(PATIENCE);
    }

    /// A watchdog that is stopped does not read the pipe, but it can be killed.
    fn end(&mut self, patience: Duration) {
        drop(self.pipe.take());
        if !self.ends_within(patience) {
            let _ = self.process.kill();
            self.ends_within(PATIENCE);
        }
    }

    fn ends_within(&mut self, patience: Duration) -> bool {
        let start = Instant::now();
        while !self.is_dead() {
            if start.elapsed() >= patience {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn send(&mut self, message: Message) {
        if let Some(pipe) = &mut self.pipe {
            // It is short enough for the pipe to take it whole or not at all.
            let _ = pipe.write_all(message.line().as_bytes());
        }
    }
}

/// Waits until the watchdog reports that it ignores signals. The thread ends with the watchdog at the latest.
fn is_ready(mut stdout: ChildStdout, patience: Duration) -> bool {
    let (sender, ready) = channel();
    thread::spawn(move || {
        let read = stdout.read_exact(&mut [0]);
        let _ = sender.send(read.is_ok());
    });
    ready.recv_timeout(patience).unwrap_or(false)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Protect(Target),
    ValidUntil(Duration),
    KillAt(Duration),
    Done,
}

impl Message {
    fn line(self) -> String {
        match self {
            Self::Protect(target) => format!("{target}\n"),
            Self::ValidUntil(at) => format!("valid {}\n", at.as_millis()),
            Self::KillAt(at) => format!("kill {}\n", at.as_millis()),
            Self::Done => "done\n".to_owned(),
        }
    }

    fn read(line: &str) -> Option<Self> {
        let instant = |text: &str| text.parse().ok().map(Duration::from_millis);
        match line.split_once(' ') {
            None => (line == "done").then_some(Self::Done),
            Some(("valid", at)) => instant(at).map(Self::ValidUntil),
            Some(("kill", at)) => instant(at).map(Self::KillAt),
            Some(_) => line.parse().ok().map(Self::Protect),
        }
    }
}

/// Watches until it is dismissed, or has stopped the command. Returns the exit code.
pub(crate) fn watch(grace: Duration) -> u8 {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return OS_ERROR;
    };
    // A service manager that signals all processes at once does not mean the watchdog.
    let entered = runtime.enter();
    let ignored: Vec<_> =
        PASSED_ON.iter().map(|which| signal(SignalKind::from_raw(which.as_raw()))).collect();
    drop(entered);
    let _ = io::stdout().write_all(b".").and_then(|()| io::stdout().flush());

    let (sender, messages) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if let Some(message) = Message::read(&line) {
                let _ = sender.send(message);
            }
        }
    });
    if let Some((target, stopping, why)) = receive(&messages, grace) {
        if let Some(why) = why {
            let _ = writeln!(io::stderr(), "redlock: {why}: stopping the command");
        }
        stop(target, stopping);
    }
    drop(ignored);
    SUCCESS
}

/// What is to be stopped, until when and why, unless `redlock run` has reported why; `None` when `redlock
/// run` has ended well.
fn receive(messages: &Receiver<Message>, grace: Duration) -> Option<(Target, Stop, Option<&'static str>)> {
    let mut target = None;
    let mut valid_until = now();
    let mut kill_at = None;
    loop {
        // `redlock run` stops the command `grace` before the end. If it has not when half of that is left, it
        // hangs.
        let act_at = kill_at.unwrap_or_else(|| valid_until.saturating_sub(grace / 2));
        let left = match target {
            Some(_) => act_at.saturating_sub(now()).min(MAX_SLEEP),
            None => MAX_SLEEP,
        };
        match messages.recv_timeout(left) {
            Ok(Message::Protect(which)) => target = Some(which),
            Ok(Message::ValidUntil(at)) => valid_until = at,
            Ok(Message::KillAt(at)) => kill_at = Some(at),
            Ok(Message::Done) => return None,
            Err(RecvTimeoutError::Disconnected) => {
                let soonest = kill_at.unwrap_or_else(|| valid_until.min(now() + grace));
                return target
                    .map(|target| (target, Stop { kill_at: soonest, begun: kill_at.is_some() }, Some(GONE)));
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(target) = target.filter(|_| now() >= act_at) {
                    let stop = Stop { kill_at: kill_at.unwrap_or(valid_until), begun: kill_at.is_some() };
                    // A `redlock run` that has begun to stop the command does run: a command that ignores
                    // SIGTERM is no reason to report it.
                    return Some((target, stop, kill_at.is_none().then_some(SILENT)));
                }
            }
        }
    }
}

struct Stop {
    kill_at: Duration,
    /// Whether SIGTERM has been sent already.
    begun: bool,
}

fn stop(target: Target, stop: Stop) {
    if !stop.begun {
        target.signal(Signal::TERM);
        target.signal(Signal::CONT);
    }
    while now() < stop.kill_at {
        if !target.is_there() {
            return;
        }
        thread::sleep(POLL_INTERVAL.min(stop.kill_at.saturating_sub(now())));
    }
    target.signal(Signal::KILL);
}

/// A clock that all processes share, and that counts the time in which the machine was suspended where there
/// is such a clock.
fn now() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = ClockId::Monotonic;
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Duration::new(tv_sec.unsigned_abs(), u32::try_from(tv_nsec).unwrap_or(0))
}

/// Timers stand still while the machine is suspended.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// How many watchdogs may be ended by signals that they do not ignore yet.
const MAX_STARTS: u32 = 5;
/// How long a watchdog may take to end.
const PATIENCE: Duration = Duration::from_secs(1);
const GONE: &str = "redlock was killed";
const SILENT: &str = "redlock no longer responds";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_pipe() {
        let at = Duration::from_millis(123_456);
        let target = "group 12".parse().unwrap();
        for message in [Message::Protect(target), Message::ValidUntil(at), Message::KillAt(at), Message::Done]
        {
            assert_eq!(Message::read(message.line().trim_end()), Some(message));
        }
        for line in ["", "valid", "valid x", "done it"] {
            assert_eq!(Message::read(line), None, "{line}");
        }
    }
}
