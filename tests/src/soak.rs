//! A long run of many tasks on many resources, with occasional faults of nodes and network: nothing may grow.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use redlock_core::{Error, Redlock};
use tokio::runtime::{Builder, Handle};

pub use self::{
    growth::{Growth, Trend, growths},
    plot::draw,
};
use crate::{
    adapter::Adapter,
    chaos::{Fault, Fleet, Strike, inject, now},
};

mod growth;
mod plot;

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long it takes.
    pub length: Duration,
    /// The interval of the samples.
    pub every: Duration,
    /// The source of all choices.
    pub seed: u64,
    /// How many tasks lock.
    pub tasks: usize,
    /// How many resources they choose from.
    pub resources: usize,
    /// How many nodes there are.
    pub nodes: usize,
    /// The adapter.
    pub adapter: Adapter,
    /// How many bytes of the heap are in use. What is resident includes what the allocator keeps for later.
    pub heap: fn() -> usize,
    /// Leaks the waker of a task with each lock, to show that the check finds a leak.
    pub leak: bool,
}

/// The numbers at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Seconds since the start.
    pub at: f64,
    /// Resident memory, in MiB.
    pub memory: f64,
    /// The heap in use, in MiB.
    pub heap: f64,
    /// Tasks of the runtime.
    pub tasks: f64,
    /// Sockets, including those of the proxies in front of the nodes.
    pub sockets: f64,
    /// All file descriptors.
    pub descriptors: f64,
    /// Locks acquired per second since the previous sample.
    pub locks: f64,
    /// Requests that failed per second since then.
    pub failures: f64,
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All samples.
    pub samples: Vec<Sample>,
    /// The faults, and the seconds since the start at which they struck.
    pub faults: Vec<(Fault, f64)>,
    /// Locks that were acquired.
    pub locks: u64,
    /// Requests that failed: contended, or without a quorum.
    pub failures: u64,
    /// Keys on the nodes when all tasks are done and every TTL has passed.
    pub keys_left: u64,
}

#[derive(Default)]
struct Counts {
    over: AtomicBool,
    locks: AtomicU64,
    failures: AtomicU64,
}

/// Runs it, and passes each sample to `watch`.
///
/// # Errors
///
/// Errors of the file system.
///
/// # Panics
///
/// When a command to a server fails.
pub fn run(plan: &Plan, mut watch: impl FnMut(&Sample)) -> io::Result<Report> {
    let fleet = Fleet::of_nodes(plan.nodes);
    let urls: Vec<String> = fleet.urls();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let counts = Arc::new(Counts::default());
    let (start, beginning) = (Instant::now(), now());
    // Of their final size from the start, so that they do not look like a leak.
    let expected = plan.length.as_secs() as usize * 2;
    let mut report = Report {
        samples: Vec::with_capacity(expected),
        faults: Vec::with_capacity(expected),
        ..Report::default()
    };
    {
        let _inside = runtime.enter();
        let redlock = plan.adapter.manager_of(urls).build().map_err(io::Error::other)?;
        for task in 0..plan.tasks {
            let rng = ChaCha8Rng::seed_from_u64(plan.seed ^ (task as u64) << 32);
            runtime.spawn(lock_and_unlock(redlock.clone(), rng, plan.clone(), counts.clone()));
        }
    }
    let (samples, faults) = (&mut report.samples, &mut report.faults);
    let struck = |strike: Strike| {
        faults.push((strike.fault, strike.from.saturating_sub(beginning).as_secs_f64()));
    };
    thread::scope(|scope| {
        let rng = ChaCha8Rng::seed_from_u64(plan.seed);
        let (fleet, end) = (&fleet, start + plan.length);
        let nemesis = scope.spawn(move || inject(fleet, rng, &FAULTS, end, struck));
        let mut before = (start.elapsed(), 0, 0);
        while start.elapsed() < plan.length {
            thread::sleep(plan.every);
            let sample = sample(runtime.handle(), plan.heap, &counts, start, &mut before)?;
            watch(&sample);
            samples.push(sample);
        }
        nemesis.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, io::Error>(())
    })?;
    counts.over.store(true, Ordering::Relaxed);
    thread::sleep(MAX_TTL + MAX_PAUSE + Duration::from_secs(2));
    report.locks = counts.locks.load(Ordering::Relaxed);
    report.failures = counts.failures.load(Ordering::Relaxed);
    report.keys_left = fleet.keys();
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(report)
}

async fn lock_and_unlock(redlock: Redlock, mut rng: ChaCha8Rng, plan: Plan, counts: Arc<Counts>) {
    while !counts.over.load(Ordering::Relaxed) {
        pause(&mut rng, MAX_PAUSE).await;
        let resource = format!("soak:{}", rng.random_range(0..plan.resources));
        let ttl = rng.random_range(MAX_TTL / 5..MAX_TTL);
        match redlock.lock(resource, ttl).retry_count(1).await {
            Ok(mut lock) => {
                counts.locks.fetch_add(1, Ordering::Relaxed);
                if plan.leak {
                    tokio::spawn(std::future::pending::<()>());
                }
                pause(&mut rng, ttl / 2).await;
                let outcome: Result<(), Error> = match rng.random_range(0..4) {
                    0 => lock.extend(ttl).await,
                    1 => {
                        drop(lock);
                        continue;
                    }
                    _ => Ok(()),
                };
                let unlocked = lock.unlock().await;
                if outcome.is_err() || unlocked.is_err() {
                    counts.failures.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(_) => {
                counts.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

async fn pause(rng: &mut ChaCha8Rng, longest: Duration) {
    tokio::time::sleep(rng.random_range(Duration::ZERO..longest)).await;
}

fn sample(
    handle: &Handle,
    heap: fn() -> usize,
    counts: &Counts,
    start: Instant,
    before: &mut (Duration, u64, u64),
) -> io::Result<Sample> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let resident: f64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    let links: Vec<PathBuf> = fs::read_dir("/proc/self/fd")?
        // Some are closed in the meantime.
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let sockets = links.iter().filter(|link| link.to_string_lossy().starts_with("socket:")).count();
    let now = start.elapsed();
    let (locks, failures) = (counts.locks.load(Ordering::Relaxed), counts.failures.load(Ordering::Relaxed));
    let seconds = (now - before.0).as_secs_f64();
    let sample = Sample {
        at: now.as_secs_f64(),
        memory: resident * rustix::param::page_size() as f64 / MEBI,
        heap: heap() as f64 / MEBI,
        tasks: handle.metrics().num_alive_tasks() as f64,
        sockets: sockets as f64,
        descriptors: links.len() as f64,
        locks: (locks - before.1) as f64 / seconds,
        failures: (failures - before.2) as f64 / seconds,
    };
    *before = (now, locks, failures);
    Ok(sample)
}

/// The faults that affect connections, tasks and pending releases.
const FAULTS: [Fault; 8] = [
    Fault::KillNode,
    Fault::StopNode,
    Fault::Pause,
    Fault::Delay,
    Fault::Cut,
    Fault::Refuse,
    Fault::Hold,
    Fault::Eat,
];
const MEBI: f64 = (1 << 20) as f64;
const MAX_TTL: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(6);
