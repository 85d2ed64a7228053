//! Those who compete in a row, and how they are measured: some tasks, each of which locks and unlocks its own
//! resource until the time is over.

use std::time::{Duration, Instant};

use redlock_core::Redlock;
use rslock::LockManager;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use super::{
    TTL,
    fleet::{Reachable, urls},
    floor::{Floor, FredFloor, Release},
    stats::percentile,
};
use crate::adapter::Adapter;

/// Someone who locks.
#[derive(Clone)]
pub(crate) enum Contender {
    Ours(Redlock),
    Floor(Floor),
    FredFloor(FredFloor),
    Rslock(LockManager),
}

impl Contender {
    pub(crate) fn ours(adapter: Adapter, servers: &[impl Reachable]) -> Self {
        Self::Ours(adapter.manager_of(urls(servers)).build().expect("nodes"))
    }

    pub(crate) async fn floor(servers: &[impl Reachable], release: Release) -> Self {
        Self::Floor(Floor::connect(servers, release).await)
    }

    pub(crate) async fn floor_without_delay(servers: &[impl Reachable]) -> Self {
        Self::Floor(Floor::connect_without_delay(servers, Release::Script).await)
    }

    pub(crate) async fn fred_floor(servers: &[impl Reachable]) -> Self {
        Self::FredFloor(FredFloor::connect(servers).await)
    }

    pub(crate) async fn fred_floor_without_delay(servers: &[impl Reachable]) -> Self {
        Self::FredFloor(FredFloor::connect_without_delay(servers).await)
    }

    pub(crate) fn rslock(servers: &[impl Reachable]) -> Self {
        Self::Rslock(LockManager::new(urls(servers)))
    }

    /// Locks and unlocks once. Returns whether both worked.
    pub(crate) async fn cycle(&self, resource: &str) -> bool {
        match self {
            Self::Ours(redlock) => match redlock.lock(resource, TTL).await {
                Ok(lock) => lock.unlock().await.is_ok(),
                Err(_) => false,
            },
            Self::Floor(floor) => floor.cycle(resource).await,
            Self::FredFloor(floor) => floor.cycle(resource).await,
            Self::Rslock(manager) => match manager.lock(resource, TTL).await {
                Ok(lock) => {
                    manager.unlock(&lock).await;
                    true
                }
                Err(_) => false,
            },
        }
    }

    /// Lets `tasks` tasks lock and unlock resources of their own for `time`. No other contender may have the
    /// same `name`: its last requests could still be under way.
    pub(crate) async fn block(&self, name: &str, tasks: usize, time: Duration) -> Block {
        let (start, cpu) = (Instant::now(), cpu());
        let mut running = JoinSet::new();
        for task in 0..tasks {
            let (contender, name) = (self.clone(), format!("{name}:{task}"));
            running.spawn(async move {
                let (mut took, mut resource, mut failures) = (Vec::new(), name.clone(), 0);
                while start.elapsed() < time {
                    let begin = Instant::now();
                    // One that hangs is cut off: it has no place among the numbers.
                    match tokio::time::timeout(HANGS, contender.cycle(&resource)).await {
                        Ok(true) => took.push(micros(begin.elapsed())),
                        // A floor leaves its keys behind, and would be in its own way.
                        Ok(false) | Err(_) => {
                            failures += 1;
                            resource = format!("{name}:{failures}");
                        }
                    }
                }
                took
            });
        }
        let took = running.join_all().await.concat();
        Block { took, wall: start.elapsed(), cpu: self::cpu().saturating_sub(cpu) }
    }
}

/// What a block of cycles took.
#[derive(Default)]
pub(crate) struct Block {
    /// Each cycle, in microseconds.
    took: Vec<f64>,
    wall: Duration,
    cpu: Duration,
}

impl Block {
    pub(crate) fn add(&mut self, other: Self) {
        self.took.extend(other.took);
        self.wall += other.wall;
        self.cpu += other.cpu;
    }

    /// In microseconds; for a block without a cycle, all of its time.
    pub(crate) fn percentile(&mut self, percent: f64) -> f64 {
        if self.took.is_empty() { micros(self.wall) } else { percentile(&mut self.took, percent) }
    }

    pub(crate) fn cycles(&self) -> f64 {
        self.took.len() as f64
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.cycles() / self.wall.as_secs_f64()
    }

    /// Microseconds of this process' CPU time; the servers are other processes.
    pub(crate) fn cpu_per_cycle(&self) -> f64 {
        micros(self.cpu) / self.cycles()
    }
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The CPU time that this process has spent.
pub(crate) fn cpu() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

const HANGS: Duration = Duration::from_secs(1);
