//! A process that acquires locks and replaces the records that they guard.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use redlock_core::{Error, Lease, Lock, NodeOutcome, NodeReply, Redlock, UnlockOutcome};
use rustix::fs::{FlockOperation, flock};

use super::{
    Broken,
    history::{Event, History, Outcome, Verb, now},
    record,
};
use crate::adapter::Adapter;

/// The orders that a worker receives from the process that started it.
#[derive(Clone, Debug)]
pub struct Orders {
    /// The worker's number, from 0.
    pub number: usize,
    /// How often it was started before.
    pub life: u64,
    /// The seed of its choices.
    pub seed: u64,
    /// Its adapter.
    pub adapter: Adapter,
    /// The folder of the histories and the records.
    pub folder: PathBuf,
    /// How many records there are.
    pub records: usize,
    /// The URLs of the nodes.
    pub nodes: Vec<String>,
    /// Whether every lock has a fencing token.
    pub fenced: bool,
    /// A defect, to show that the checks find it.
    pub broken: Option<Broken>,
}

impl Orders {
    /// As arguments of the program.
    pub(super) fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["worker".into()];
        for (name, value) in [
            ("--number", self.number.to_string()),
            ("--life", self.life.to_string()),
            ("--seed", self.seed.to_string()),
            ("--records", self.records.to_string()),
            ("--adapter", if self.adapter == Adapter::Fred { "fred" } else { "redis-rs" }.to_owned()),
        ] {
            words.extend([name.into(), value.into()]);
        }
        if self.fenced {
            words.push("--fenced".into());
        }
        if self.broken == Some(Broken::OwnLocks) {
            words.push("--own-locks".into());
        }
        words.extend(["--folder".into(), self.folder.clone().into()]);
        words.extend(self.nodes.iter().map(OsString::from));
        words
    }
}

/// Works until standard input is closed, which also happens when the process that started this one ends.
///
/// # Errors
///
/// Errors of the file system.
pub fn work(orders: &Orders) -> io::Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    let ending = over.clone();
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        ending.store(true, Ordering::Relaxed);
        // Even if a request hangs.
        thread::sleep(LAST_OPERATION);
        process::exit(1);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut worker = Worker::new(orders)?;
        while !over.load(Ordering::Relaxed) {
            worker.operation().await?;
        }
        Ok(())
    })
}

struct Worker<'a> {
    orders: &'a Orders,
    redlock: Redlock,
    history: History,
    /// Locked while a record is replaced: meanwhile this worker must not be stopped.
    busy: File,
    rng: ChaCha8Rng,
    hold: u64,
}

impl<'a> Worker<'a> {
    fn new(orders: &'a Orders) -> io::Result<Self> {
        let redlock = orders.adapter.manager_of(orders.nodes.iter().cloned());
        let redlock = if orders.fenced { redlock.fenced() } else { redlock }.build();
        Ok(Self {
            orders,
            redlock: redlock.map_err(io::Error::other)?,
            history: History::open(&orders.folder, orders.number)?,
            busy: File::create(busy(&orders.folder, orders.number))?,
            rng: ChaCha8Rng::seed_from_u64(orders.seed ^ (orders.life << 32) ^ orders.number as u64),
            hold: ((orders.number as u64 + 1) << 48) | (orders.life << 32),
        })
    }

    async fn operation(&mut self) -> io::Result<()> {
        self.hold += 1;
        let resource = self.rng.random_range(0..self.orders.records);
        let ttl = Duration::from_millis(self.rng.random_range(300..2_000));
        let since = now();
        let name = match self.orders.broken {
            // A name of its own.
            Some(Broken::OwnLocks) => format!("chaos:{resource}:{}", self.orders.number),
            None => format!("chaos:{resource}"),
        };
        let request = self.redlock.lock(name, ttl);
        let request = request
            .retry_delay(Duration::from_millis(40))
            .retry_jitter(Duration::from_millis(30))
            .retry_count(self.rng.random_range(0..20))
            .acquire_timeout(Duration::from_secs(2));
        if self.rng.random_bool(0.25) {
            let history = &mut self.history;
            let (hold, rng, orders, busy) = (self.hold, &mut self.rng, self.orders, &self.busy);
            let long = rng.random_bool(0.2);
            let think = rng.random_range(if long { 500..3_000 } else { 0..60 });
            let mut noted = Ok(());
            let written = &mut noted;
            let used = request
                .using(|lease| async move {
                    let mut holding = Using(Holding { history, hold, busy, orders, resource });
                    *written = holding.0.used(&lease, since, think).await;
                })
                .await;
            noted?;
            let outcome = used.as_ref().map_or_else(outcome, |()| Outcome::Done);
            self.asked(Verb::Lock, since, outcome, used.as_ref().err().map_or(&[], answers))?;
        } else {
            match request.await {
                Ok(lock) => {
                    self.asked(Verb::Lock, since, Outcome::Done, lock.replies())?;
                    self.hold(lock, since, resource).await?;
                }
                Err(error) => self.asked(Verb::Lock, since, outcome(&error), answers(&error))?,
            }
        }
        self.think(0..30).await;
        Ok(())
    }

    async fn hold(&mut self, mut lock: Lock, since: Duration, resource: usize) -> io::Result<()> {
        let lease = lock.lease();
        self.holding(resource).won(&lease, since)?;
        let read = record::read(&self.orders.folder, resource)?;
        self.think(0..60).await;
        while self.rng.random_bool(0.3) {
            let ttl = Duration::from_millis(self.rng.random_range(300..2_000));
            let since = now();
            match lock.extend(ttl).await {
                Ok(()) => {
                    self.holding(resource).until(&lease)?;
                    self.asked(Verb::Extend, since, Outcome::Done, &[])?;
                }
                Err(error) => self.asked(Verb::Extend, since, outcome(&error), answers(&error))?,
            }
            self.think(0..300).await;
        }
        self.holding(resource).write(&lease, read)?;
        self.think(0..20).await;
        self.history.note(self.hold, Event::Over)?;
        match self.rng.random_range(0..20) {
            0 => lock.forget(),
            1 => drop(lock),
            _ => {
                let since = now();
                let unlocked = lock.unlock().await;
                let outcome = match &unlocked {
                    Ok(UnlockOutcome::Released) => Outcome::Done,
                    Ok(_) => Outcome::Gone,
                    Err(error) => outcome(error),
                };
                self.asked(Verb::Unlock, since, outcome, unlocked.as_ref().err().map_or(&[], answers))?;
            }
        }
        Ok(())
    }

    fn holding(&mut self, resource: usize) -> Holding<'_> {
        let Self { history, hold, busy, orders, .. } = self;
        Holding { history, hold: *hold, busy, orders, resource }
    }

    fn asked(
        &mut self,
        what: Verb,
        since: Duration,
        outcome: Outcome,
        answers: &[NodeReply],
    ) -> io::Result<()> {
        let failed =
            |answer: &&NodeReply| matches!(answer.outcome, NodeOutcome::Failed(_) | NodeOutcome::Late);
        let failed = answers.iter().filter(failed).map(|answer| answer.node).collect();
        self.history.note(self.hold, Event::Asked { what, since, outcome, failed })
    }

    async fn think(&mut self, millis: std::ops::Range<u64>) {
        let millis = self.rng.random_range(millis);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

/// The actions of a worker under a lock.
struct Holding<'a> {
    history: &'a mut History,
    hold: u64,
    busy: &'a File,
    orders: &'a Orders,
    resource: usize,
}

/// A routine, which is dropped when the lock is lost.
struct Using<'a>(Holding<'a>);

impl Drop for Using<'_> {
    fn drop(&mut self) {
        // An error here is harmless: without this line the hold only seems to be longer.
        let _ = self.0.history.note(self.0.hold, Event::Over);
    }
}

impl Holding<'_> {
    async fn used(&mut self, lease: &Lease, since: Duration, think: u64) -> io::Result<()> {
        self.won(lease, since)?;
        let read = record::read(&self.orders.folder, self.resource)?;
        let mut left = think;
        while left > 0 {
            let part = left.min(100);
            tokio::time::sleep(Duration::from_millis(part)).await;
            left -= part;
            self.until(lease)?;
        }
        self.write(lease, read)
    }

    fn won(&mut self, lease: &Lease, since: Duration) -> io::Result<()> {
        let at = now();
        let until = at + lease.remaining();
        let (resource, fence) = (self.resource, lease.fence());
        self.history.note_at(now(), self.hold, Event::Won { resource, since, until, fence })
    }

    fn until(&mut self, lease: &Lease) -> io::Result<()> {
        let at = now();
        let left = lease.remaining();
        if left.is_zero() {
            return Ok(());
        }
        self.history.note_at(at, self.hold, Event::Until { until: at + left })
    }

    /// Replaces the record by the next number. It does not check that the record is unchanged since it was
    /// read: the lock has to ensure that.
    fn write(&mut self, lease: &Lease, read: u64) -> io::Result<()> {
        flock(self.busy, FlockOperation::LockExclusive)?;
        if lease.remaining() > MARGIN {
            self.history.note(self.hold, Event::Writing { read })?;
            record::write(&self.orders.folder, self.resource, self.orders.number, read + 1)?;
            let was_valid = lease.is_valid();
            self.history.note(self.hold, Event::Wrote { was_valid })?;
        } else {
            self.history.note(self.hold, Event::Kept)?;
        }
        flock(self.busy, FlockOperation::Unlock)?;
        Ok(())
    }
}

fn outcome(error: &Error) -> Outcome {
    match error {
        Error::Contended(_) => Outcome::Contended,
        Error::NoQuorum(_) => Outcome::NoQuorum,
        Error::Lost(_) => Outcome::Lost,
        _ => Outcome::Rejected,
    }
}

fn answers(error: &Error) -> &[NodeReply] {
    error.report().map_or(&[], |report| &report.replies)
}

/// The file that a worker locks while it must not be stopped.
pub(super) fn busy(folder: &Path, worker: usize) -> PathBuf {
    folder.join(format!("busy-{worker}"))
}

/// With less validity left, a worker does not begin to replace a record.
const MARGIN: Duration = Duration::from_millis(30);
/// How long the last operation may take when a worker has to end.
const LAST_OPERATION: Duration = Duration::from_secs(20);

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        // The file only marks a running worker.
        let _ = fs::remove_file(busy(&self.orders.folder, self.orders.number));
    }
}
