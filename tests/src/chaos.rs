//! Real processes on real servers under faults: no update may be lost.
//!
//! Workers acquire locks and, under each, increment a number in a file, without any other protection. They
//! record what they do. After the run the histories are checked: no two workers relied on a lock at the same
//! instant, and each saw the number that the one before had written. The fencing tokens of a resource are
//! unique and in order.
//!
//! A process may be stopped between its last check of the validity and its write. A lock alone cannot prevent
//! that it writes late. So workers are not stopped at that point (but they may be killed), and a write that
//! ends after the validity is counted separately: the lock guarantees nothing about it.
//!
//! All times are read from one clock, which all processes of the machine share.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::ChaCha8Rng};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};

pub use self::{
    checker::{Verdict, Violation, check},
    history::{Entry, Event, Outcome, Verb},
    nemesis::{Fault, Faults, Strike},
    worker::{Orders, work},
};
pub(crate) use self::{history::now, nemesis::inject};
use crate::{adapter::Adapter, proxy::Proxy, server::Server};

mod checker;
mod history;
mod nemesis;
mod record;
mod worker;

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long faults are injected.
    pub length: Duration,
    /// How long the workers continue after the last fault.
    pub calm: Duration,
    /// The seed of the faults and the workers. The machine's own timing differs from run to run.
    pub seed: u64,
    /// How many workers there are.
    pub workers: usize,
    /// How many nodes there are.
    pub nodes: usize,
    /// The adapters of the workers, in turn.
    pub adapters: Vec<Adapter>,
    /// Whether every lock has a fencing token.
    pub fenced: bool,
    /// The faults to inject.
    pub faults: Vec<Fault>,
    /// A defect of the workers, which the checks have to find.
    pub broken: Option<Broken>,
    /// The folder of the histories and the records. It has to exist.
    pub folder: PathBuf,
}

/// A defect that the workers have on purpose, to show that the checks find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Each worker locks a name of its own.
    OwnLocks,
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The checker's verdict on the histories.
    pub verdict: Verdict,
    /// For each fault, how often it struck, and how many requests failed because of it.
    pub faults: Vec<(Fault, u64, u64)>,
    /// Other failures of the run.
    pub complaints: Vec<String>,
    /// All events, in order.
    pub entries: Vec<Entry>,
}

impl Report {
    /// Whether there was no failure.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.verdict.violations.is_empty() && self.complaints.is_empty()
    }
}

/// Runs it. `program` is this package's own, which the workers run.
///
/// # Errors
///
/// Errors of the file system.
///
/// # Panics
///
/// When a command to a server fails.
pub fn run(plan: &Plan, program: &Path) -> io::Result<Report> {
    for resource in 0..RECORDS {
        record::make(&plan.folder, resource)?;
    }
    let fleet = Fleet::start(plan, program);
    let end = Instant::now() + plan.length;
    let mut seeds = ChaCha8Rng::seed_from_u64(plan.seed);
    let strikes: Vec<Strike> = thread::scope(|scope| {
        let mut start = || {
            let rng = ChaCha8Rng::from_rng(&mut seeds);
            scope.spawn(|| {
                let mut strikes = Vec::new();
                inject(&fleet, rng, &plan.faults, end, |strike| strikes.push(strike));
                strikes
            })
        };
        let nemeses = [start(), start()];
        let joined = nemeses
            .into_iter()
            .map(|nemesis| nemesis.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.flatten().collect()
    });
    let calm = now();
    thread::sleep(plan.calm);
    let mut report = Report { complaints: fleet.end(), ..Report::default() };
    let mut entries = Vec::new();
    for worker in 0..plan.workers {
        let history = history::read(&plan.folder, worker)?;
        let won_again = |entry: &Entry| entry.at > calm && matches!(entry.event, Event::Won { .. });
        if !history.iter().any(won_again) {
            report.complaints.push(format!("worker {worker} got no lock in {:?} without faults", plan.calm));
        }
        entries.extend(history);
    }
    entries.sort_by_key(|entry| entry.at);
    // Otherwise the checks of tokens would have nothing to find.
    let without = |entry: &&Entry| matches!(entry.event, Event::Won { fence: None, .. });
    let without = entries.iter().filter(without).count();
    if plan.fenced && without > 0 {
        report.complaints.push(format!("{without} locks have no fencing token"));
    }
    let records: io::Result<Vec<u64>> =
        (0..RECORDS).map(|resource| record::read(&plan.folder, resource)).collect();
    report.verdict = check(&entries, &records?);
    for fault in &plan.faults {
        let of_it = strikes.iter().filter(|strike| strike.fault == *fault);
        let bites = of_it.clone().map(|strike| bites(strike, &entries)).sum();
        let struck = of_it.count() as u64;
        if struck == 0 && plan.length >= LONG {
            report.complaints.push(format!("{fault} never struck"));
        }
        report.faults.push((*fault, struck, bites));
    }
    if report.verdict.holds < plan.length.as_secs() {
        report.complaints.push(format!("only {} holds", report.verdict.holds));
    }
    report.entries = entries;
    Ok(report)
}

/// Counts the requests that failed because of it: they were under way while it lasted, and a node that it
/// struck failed them, or too few nodes were left. For a worker that was stopped or killed: the holds that it
/// interrupted.
fn bites(strike: &Strike, entries: &[Entry]) -> u64 {
    // No request takes longer than this.
    let first = entries.partition_point(|entry| entry.at < strike.from);
    let last = entries.partition_point(|entry| entry.at <= strike.to + MAX_REQUEST_TIME);
    let bitten = entries[first..last].iter().filter(|entry| match (&entry.event, strike.worker) {
        (Event::Asked { since, outcome, failed, .. }, None) if *since <= strike.to => {
            let struck = failed.iter().any(|node| strike.nodes.contains(node));
            struck || matches!(outcome, Outcome::NoQuorum | Outcome::Lost)
        }
        _ => false,
    });
    let Some(worker) = strike.worker else { return bitten.count() as u64 };
    // The worker's last entry before.
    let before = entries[..first].iter().rev().take(5_000);
    let its = |entry: &&Entry| entry.hold >> 48 == worker as u64 + 1;
    let last =
        before.filter(its).find(|entry| !matches!(entry.event, Event::Until { .. } | Event::Asked { .. }));
    u64::from(last.is_some_and(|entry| !matches!(entry.event, Event::Over)))
}

/// Nodes and workers.
pub(crate) struct Fleet<'a> {
    nodes: Vec<Mutex<Node>>,
    workers: Vec<Mutex<Worker<'a>>>,
}

/// A server, and the network in front of it.
pub(crate) struct Node {
    server: Server,
    proxy: Proxy,
}

struct Worker<'a> {
    program: &'a Path,
    orders: Orders,
    process: Option<Child>,
}

impl<'a> Fleet<'a> {
    /// Nodes without workers.
    pub(crate) fn of_nodes(nodes: usize) -> Self {
        // Every change is on disk before the reply, so that a restart loses nothing; and the server reports a
        // long script (BUSY) at once.
        let options = ["--appendonly", "yes", "--appendfsync", "always", "--lua-time-limit", "5"];
        let servers = Server::start_some_with(nodes, &options);
        let with_proxy = |server: Server| Mutex::new(Node { proxy: Proxy::forgetful(&server), server });
        Self { nodes: servers.into_iter().map(with_proxy).collect(), workers: Vec::new() }
    }

    fn start(plan: &Plan, program: &'a Path) -> Self {
        let mut fleet = Self::of_nodes(plan.nodes);
        let urls = fleet.urls();
        let worker = |number: usize| {
            let orders = Orders {
                number,
                life: 0,
                seed: plan.seed,
                adapter: plan.adapters[number % plan.adapters.len()],
                folder: plan.folder.clone(),
                records: RECORDS,
                nodes: urls.clone(),
                fenced: plan.fenced,
                broken: plan.broken,
            };
            let mut worker = Worker { program, orders, process: None };
            worker.start();
            Mutex::new(worker)
        };
        fleet.workers = (0..plan.workers).map(worker).collect();
        fleet
    }

    /// The URLs of the nodes, through the proxies in front of them.
    pub(crate) fn urls(&self) -> Vec<String> {
        (0..self.nodes.len()).map(|node| self.node(node).proxy.url()).collect()
    }

    /// How many keys the nodes have.
    pub(crate) fn keys(&self) -> u64 {
        (0..self.nodes.len()).map(|node| self.node(node).server.command::<u64>(&["DBSIZE"])).sum()
    }

    fn node(&self, number: usize) -> MutexGuard<'_, Node> {
        self.nodes[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker(&self, number: usize) -> MutexGuard<'_, Worker<'a>> {
        self.workers[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the workers, then the nodes. Returns the failures of the workers.
    fn end(self) -> Vec<String> {
        let mut workers: Vec<Worker<'a>> = self
            .workers
            .into_iter()
            .map(|worker| worker.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect();
        for worker in &mut workers {
            drop(worker.process.as_mut().and_then(|process| process.stdin.take()));
        }
        workers.iter_mut().filter_map(Worker::end).collect()
    }
}

impl Worker<'_> {
    fn start(&mut self) {
        let mut command = Command::new(self.program);
        let process = command.args(self.orders.words()).stdin(Stdio::piped()).spawn();
        self.process = Some(process.unwrap_or_else(|error| panic!("no worker: {error}")));
        self.orders.life += 1;
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap_or_else(|error| panic!("no kill: {error}"));
            process.wait().unwrap_or_else(|error| panic!("no end: {error}"));
        }
    }

    /// Stops it, unless it is replacing a record. Returns whether it was stopped.
    fn stop(&self) -> bool {
        let Ok(busy) = File::open(worker::busy(&self.orders.folder, self.orders.number)) else {
            return false;
        };
        let free = (0..1_000).any(|_| {
            let free = flock(&busy, FlockOperation::NonBlockingLockExclusive).is_ok();
            if !free {
                thread::sleep(Duration::from_millis(1));
            }
            free
        });
        free && self.signal(Signal::STOP)
    }

    fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) -> bool {
        let id = self.process.as_ref().map(Child::id).and_then(|id| i32::try_from(id).ok());
        id.and_then(Pid::from_raw).is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Waits for its end. Returns its failure.
    fn end(&mut self) -> Option<String> {
        let number = self.orders.number;
        let Some(process) = &mut self.process else { return Some(format!("worker {number} does not run")) };
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            match process.try_wait() {
                Ok(Some(status)) if status.success() => return None,
                Ok(Some(status)) => return Some(format!("worker {number} ended with {status}")),
                Ok(None) => thread::sleep(Duration::from_millis(20)),
                Err(error) => return Some(format!("worker {number}: {error}")),
            }
        }
        self.kill();
        Some(format!("worker {number} did not end in {PATIENCE:?}"))
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes the merged history to a file.
///
/// # Errors
///
/// Errors of the file system.
pub fn keep(entries: &[Entry], file: &Path) -> io::Result<()> {
    let mut writer = io::BufWriter::new(File::create(file)?);
    for entry in entries {
        serde_json::to_writer(&mut writer, entry)?;
        io::Write::write_all(&mut writer, b"\n")?;
    }
    io::Write::flush(&mut writer)
}

/// How many resources there are: few, so that the workers compete.
const RECORDS: usize = 4;
/// In a run of at least this length, every fault has to strike.
const LONG: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_REQUEST_TIME: Duration = Duration::from_secs(10);
