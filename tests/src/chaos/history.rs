//! The history of a run: every worker records each of its actions as a line.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    num::NonZeroU64,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The time, on the clock that all processes of the machine share.
    pub at: Duration,
    /// The number of its hold, which is unique in a run; 0 for none.
    pub hold: u64,
    /// The event.
    pub event: Event,
}

/// An action of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Event {
    /// A request has ended.
    Asked { what: Verb, since: Duration, outcome: Outcome, failed: Vec<usize> },
    /// A lock was acquired, which was requested then. It is valid until then, or longer.
    Won { resource: usize, since: Duration, until: Duration, fence: Option<NonZeroU64> },
    /// The lock is valid until then, or longer.
    Until { until: Duration },
    /// The record was read, and is about to be replaced by the next number.
    Writing { read: u64 },
    /// It has been replaced; and whether the lock was still valid afterwards.
    Wrote { was_valid: bool },
    /// It was not replaced: too little validity was left.
    Kept,
    /// From now on the worker does not rely on the lock.
    Over,
}

/// A request to the lock manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Verb {
    Lock,
    Extend,
    Unlock,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Outcome {
    Done,
    Gone,
    Contended,
    NoQuorum,
    Rejected,
    Lost,
}

/// The history file of a worker.
#[derive(Debug)]
pub(super) struct History(File);

impl History {
    /// Opens the file of a worker, to append to it.
    pub(super) fn open(folder: &Path, worker: usize) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path(folder, worker))?;
        Ok(Self(file))
    }

    /// Writes a line that survives even if the process is killed immediately afterwards.
    pub(super) fn note(&mut self, hold: u64, event: Event) -> io::Result<()> {
        self.note_at(now(), hold, event)
    }

    /// As [`History::note`], for an earlier time.
    pub(super) fn note_at(&mut self, at: Duration, hold: u64, event: Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Entry { at, hold, event })?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

/// Reads the history of a worker. The last line is left out if it is incomplete, because the worker was
/// killed.
pub(super) fn read(folder: &Path, worker: usize) -> io::Result<Vec<Entry>> {
    let text = fs::read_to_string(path(folder, worker))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
}

fn path(folder: &Path, worker: usize) -> PathBuf {
    folder.join(format!("worker-{worker}.jsonl"))
}

/// The clock of the machine, which also counts suspended time.
pub(crate) fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
