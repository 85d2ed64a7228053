//! Messages, on standard error.

use std::{
    fmt,
    io::{self, Write},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use crate::exit::Failure;

/// Prints to standard output. A reader that has gone away is no reason to fail.
pub(crate) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Prints messages on a thread of its own: a reader that does not read must not delay what extends the lock,
/// or what stops the command.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    verbose: bool,
    lines: SyncSender<Line>,
}

enum Line {
    Message(String),
    End(SyncSender<()>),
}

impl Output {
    pub(crate) fn new(verbose: bool) -> Self {
        let (lines, queue) = sync_channel(MAX_WAITING);
        thread::spawn(move || print_all(&queue));
        Self { verbose, lines }
    }

    pub(crate) fn print(&self, message: impl fmt::Display) {
        // What does not fit into the queue is left out.
        let _ = self.lines.try_send(Line::Message(message.to_string()));
    }

    /// Prints it with `--verbose`.
    pub(crate) fn verbose(&self, message: impl FnOnce() -> String) {
        if self.verbose {
            self.print(message());
        }
    }

    /// Prints it, and returns the exit code.
    pub(crate) fn failed(&self, failure: &Failure) -> u8 {
        self.print(&failure.message);
        failure.code
    }

    /// Waits until everything has been printed, but not forever.
    pub(crate) fn finish(&self) {
        let (end, ended) = sync_channel(1);
        if self.lines.try_send(Line::End(end)).is_ok() {
            let _ = ended.recv_timeout(PATIENCE);
        }
    }
}

fn print_all(lines: &Receiver<Line>) {
    while let Ok(line) = lines.recv() {
        match line {
            // There is no other place to report that standard error is gone.
            Line::Message(message) => drop(io::stderr().write_all(named(&message).as_bytes())),
            Line::End(end) => drop(end.send(())),
        }
    }
}

/// The message with the program's name before each of its lines: whoever reads it may not know who has
/// written it.
fn named(message: &str) -> String {
    message.lines().map(|line| format!("redlock: {line}\n")).collect()
}

/// A duration as people read it: three digits are enough.
pub(crate) fn readable(duration: Duration) -> String {
    let unit = match duration {
        _ if duration < Duration::from_millis(1) => Duration::from_micros(1),
        _ if duration < Duration::from_secs(1) => Duration::from_millis(1),
        _ if duration < Duration::from_secs(60) => Duration::from_millis(100),
        _ => Duration::from_secs(1),
    };
    let units = u32::try_from(duration.as_nanos() / unit.as_nanos()).unwrap_or(u32::MAX);
    humantime::format_duration(unit * units).to_string()
}

const MAX_WAITING: usize = 1_024;
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_few_digits() {
        for (micros, expected) in [
            (0, "0s"),
            (412, "412us"),
            (12_345, "12ms"),
            (999_999, "999ms"),
            (9_876_543, "9s 800ms"),
            (10_000_000, "10s"),
            (3_600_000_000, "1h"),
            (90_500_000, "1m 30s"),
        ] {
            assert_eq!(readable(Duration::from_micros(micros)), expected);
        }
        assert!(!readable(Duration::MAX).is_empty());
    }
}
