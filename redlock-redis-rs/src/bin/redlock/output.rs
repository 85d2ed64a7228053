//! Messages, on standard error.

use std::{
    fmt,
    io::{self, Write},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use crate::exit::Failure;

/// Says things on a thread of its own: a reader that does not read must not hold up what extends the lock, or
/// what stops the command.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    verbose: bool,
    lines: SyncSender<Line>,
}

enum Line {
    Said(String),
    End(SyncSender<()>),
}

impl Output {
    pub(crate) fn new(verbose: bool) -> Self {
        let (lines, said) = sync_channel(UNHEARD);
        thread::spawn(move || speak(&said));
        Self { verbose, lines }
    }

    pub(crate) fn print(&self, message: impl fmt::Display) {
        // What does not fit in any more is left out.
        let _ = self.lines.try_send(Line::Said(message.to_string()));
    }

    /// Says it when asked to be verbose.
    pub(crate) fn verbose(&self, message: impl FnOnce() -> String) {
        if self.verbose {
            self.print(message());
        }
    }

    /// Says it, and gives the exit code.
    pub(crate) fn failed(&self, failure: &Failure) -> u8 {
        self.print(&failure.message);
        failure.code
    }

    /// Waits until all has been said, but not for ever.
    pub(crate) fn finish(&self) {
        let (end, ended) = sync_channel(1);
        if self.lines.try_send(Line::End(end)).is_ok() {
            let _ = ended.recv_timeout(PATIENCE);
        }
    }
}

fn speak(lines: &Receiver<Line>) {
    while let Ok(line) = lines.recv() {
        match line {
            // Nobody is left to be told that nobody listens.
            Line::Said(message) => drop(writeln!(io::stderr(), "redlock: {message}")),
            Line::End(end) => drop(end.send(())),
        }
    }
}

const UNHEARD: usize = 1_024;
const PATIENCE: Duration = Duration::from_secs(1);
