//! A place in the queue of a process, for those who want a lock and for those who hold it.

// Tests: waiters.rs for the queue; tests/tests/it/sim/queue.rs, sim/turns.rs.

use std::{
    collections::HashSet,
    fmt,
    future::{pending, poll_fn},
    hash::{BuildHasher, RandomState},
    mem, slice,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::{
    resources::Resources,
    waiters::{Queue, View},
};

/// The queue of a lock manager.
#[derive(Default)]
pub(crate) struct Waiters {
    queue: Mutex<Queue>,
    hasher: RandomState,
}

impl Waiters {
    /// A ticket at the end of the lines of these resources, and whether it is first: then until `until`.
    pub(crate) fn join(self: &Arc<Self>, resources: &Resources, until: Instant) -> (Ticket, bool) {
        let lines = self.lines(resources);
        let (number, first) = self.with(|queue| queue.join(lines.as_slice(), until));
        (Ticket { waiters: self.clone(), number, lines, queued: true }, first)
    }

    /// A ticket that stands in no line before it holds the lock: it waits for nobody, and nobody for it.
    pub(crate) fn outside(self: &Arc<Self>, resources: &Resources) -> Ticket {
        let (lines, number) = (self.lines(resources), self.with(Queue::ticket));
        Ticket { waiters: self.clone(), number, lines, queued: false }
    }

    /// Lines go by the hash of their name, which needs no copy of the name. Two names that share a line only
    /// wait for each other: the nodes decide.
    fn lines(&self, resources: &Resources) -> Lines {
        let line = |name: &str| self.hasher.hash_one(name);
        let mut names = resources.iter();
        match (names.next(), names.len()) {
            (Some(name), 0) => Lines::One(line(name)),
            _ => {
                // In the order of the names, not of the hashes, which differ in each run: a simulation has to
                // repeat itself, and whom a release wakes first depends on it.
                let mut seen = HashSet::with_capacity(resources.iter().len());
                Lines::Several(resources.iter().map(line).filter(|line| seen.insert(*line)).collect())
            }
        }
    }

    /// Reads or changes the queue, and wakes whom that concerns.
    fn with<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let (output, woken) = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let output = change(&mut queue);
            (output, queue.take_woken())
        };
        for waker in woken {
            waker.wake();
        }
        output
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resources, waiting) = self.with(|queue| queue.len());
        f.debug_struct("Waiters").field("resources", &resources).field("waiting", &waiting).finish()
    }
}

/// A place in the lines of some resources. Dropping it passes the turn on.
pub(crate) struct Ticket {
    waiters: Arc<Waiters>,
    number: u64,
    lines: Lines,
    queued: bool,
}

enum Lines {
    One(u64),
    Several(Box<[u64]>),
}

impl Ticket {
    /// Looks at the lines. Where the ticket is first, it is so until `until`.
    pub(crate) fn look(&self, now: Instant, until: Instant) -> View {
        if self.queued {
            self.with(|queue, number, lines| queue.look(number, lines, now, until))
        } else {
            View::StillFirst
        }
    }

    /// Completes when it is worth to look again.
    pub(crate) async fn news(&self) {
        if self.queued {
            poll_fn(|cx| self.with(|queue, number, _| queue.poll_news(number, cx.waker()))).await;
        } else {
            pending().await
        }
    }

    /// Where the ticket is first, it is so until `until`.
    pub(crate) fn stay(&self, until: Instant) {
        if self.queued {
            self.with(|queue, number, lines| queue.stay(number, lines, until));
        }
    }

    /// Its owner has won the lock: from now on, others wait for its end.
    pub(crate) fn hold(&mut self, now: Instant, until: Instant) {
        self.queued = true;
        self.with(|queue, number, lines| queue.hold(number, lines, now, until));
    }

    /// Moves the place out. What is left stands in no line.
    pub(crate) fn take(&mut self) -> Self {
        let lines = mem::replace(&mut self.lines, Lines::Several(Box::default()));
        let queued = mem::take(&mut self.queued);
        Self { waiters: self.waiters.clone(), number: self.number, lines, queued }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Queue, u64, &[u64]) -> T) -> T {
        self.waiters.with(|queue| change(queue, self.number, self.lines.as_slice()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.queued {
            self.with(Queue::leave);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticket").field(&self.number).finish()
    }
}

impl Lines {
    fn as_slice(&self) -> &[u64] {
        match self {
            Self::One(line) => slice::from_ref(line),
            Self::Several(lines) => lines,
        }
    }
}
