//! Signals to this process.

use std::{
    fs::{self, File},
    future::poll_fn,
    io,
    task::Poll,
};

use rustix::{
    process::{Signal, getpgrp, getpid, kill_process},
    termios::tcgetpgrp,
};
use tokio::signal::unix::{self, SignalKind};

/// Unblocks all signals, for this process and those that it starts. Call it while there is only one thread:
/// others inherit the mask. It cannot fail, as its only argument is a valid address.
pub(crate) fn unblock() {
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// The signals that this process receives. They no longer end it.
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Signals that are ignored stay so: whoever started this process (nohup, a shell in the background) does
    /// not want the command to get them.
    pub(crate) fn listen(signals: &[Signal]) -> io::Result<Self> {
        let ignored = ignored();
        let wanted = signals.iter().filter(|signal| ignored & bit(**signal) == 0);
        let listen = |signal: &Signal| Ok((*signal, unix::signal(SignalKind::from_raw(signal.as_raw()))?));
        // If SIGCHLD were still ignored, the system would not keep how a child ended. The command inherits
        // the default.
        let _ = unix::signal(SignalKind::child())?;
        wanted.map(listen).collect::<io::Result<_>>().map(Self)
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|cx| {
            let came = |(signal, stream): &mut (Signal, unix::Signal)| {
                matches!(stream.poll_recv(cx), Poll::Ready(Some(()))).then_some(*signal)
            };
            self.0.iter_mut().find_map(came).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

fn bit(signal: Signal) -> u64 {
    1_u64.checked_shl(signal.as_raw().unsigned_abs().saturating_sub(1)).unwrap_or(0)
}

/// The mask of ignored signals where the system has it in a file (Linux); elsewhere 0.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

pub(crate) fn stop_myself() {
    let _ = kill_process(getpid(), Signal::STOP);
}

/// Whether the process group of this process is in the foreground of a terminal, and gets its Ctrl-C.
pub(crate) fn is_foreground() -> bool {
    let terminal = File::open("/dev/tty");
    terminal.is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}

/// As `SIGTERM`.
pub(crate) fn name(signal: Signal) -> String {
    format!("{signal:?}").trim_matches('"').replace("Signal::", "SIG")
}

/// The signals that are passed on to the command.
pub(crate) const PASSED_ON: [Signal; 6] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

/// Whether the signal ends the wait for a lock. By default, it ends a process.
pub(crate) fn ends_a_wait(signal: Signal) -> bool {
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT].contains(&signal)
}
