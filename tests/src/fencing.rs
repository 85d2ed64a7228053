//! Fencing tokens on real servers, without any of the assumptions about time: clients with wrong wall clocks,
//! keys that vanish while they are held, and requests and replies that are lost, late or sent twice.
//!
//! Two clients often hold the same lock at once here. Their tokens must still differ, and a lock that is
//! requested after another was won must have a higher one. All times are those of one process.
//!
//! A script with an error on purpose shows that the checks find it: see [`Broken`]. One of the errors takes a
//! coincidence that no run has had yet, so it has a history of its own: see [`late_raise`].

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use redis::{Client, aio::MultiplexedConnection};
use redlock_core::{BoxFuture, Lock, Redlock, Runtime, TokioRuntime};

pub use self::{
    judge::{Judge, Violation},
    lowering::late_raise,
    network::Counts,
    scripts::Broken,
};
use self::{network::Wire, scripts::Scripts};
use crate::{
    adapter::Adapter,
    proxy::{Proxy, Then},
    server::Server,
};

mod judge;
mod lowering;
mod network;
mod scripts;

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long it takes, unless it finds a violation.
    pub length: Duration,
    /// The seed of all choices. The machine's own timing differs from run to run.
    pub seed: u64,
    /// How many clients there are.
    pub clients: usize,
    /// How many servers there are.
    pub nodes: usize,
    /// Whether servers restart, without their data. The fencing quorum is then all but one, and clients have
    /// the restart guard.
    pub restarts: bool,
    /// What is wrong with the servers' scripts, or with the clients.
    pub broken: Option<Broken>,
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Locks that were acquired.
    pub acquires: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Locks that were won while another one on a resource was still held: the run breaks mutual exclusion.
    pub overlaps: u64,
    /// What the network did.
    pub counts: Counts,
    /// Keys that were removed while they were there.
    pub removed: u64,
    /// Restarts of servers, each of which lost its keys and counters.
    pub restarts: u64,
    /// Connections that were cut, and replies that were cut off with them.
    pub cuts: u64,
    /// The violations: the run ends at the first one.
    pub violations: Vec<Violation>,
}

/// Runs it, in the current tokio runtime.
///
/// # Panics
///
/// When a server does not start, or a command of the run itself fails.
pub async fn run(plan: &Plan) -> Report {
    let servers = Server::start_some(plan.nodes);
    let proxies: Vec<_> = servers.iter().map(Proxy::forgetful).collect();
    let mut seeds = ChaCha8Rng::seed_from_u64(plan.seed);
    let world = Arc::new(World {
        judge: Judge::default(),
        counts: Counts::default(),
        failures: AtomicU64::new(0),
        over: AtomicBool::new(false),
        end: Instant::now() + plan.length,
        broken: plan.broken,
    });
    let mut tasks = Vec::new();
    for number in 0..plan.clients {
        let mut rng = ChaCha8Rng::from_rng(&mut seeds);
        let adapter = if number % 2 == 0 { Adapter::RedisRs } else { Adapter::Fred };
        let mut nodes = Vec::new();
        for (server, proxy) in servers.iter().zip(&proxies) {
            let node = adapter.open(&proxy.url());
            let node = Scripts::new(node, server, plan.broken).await;
            nodes.push(Wire::new(node, &world, ChaCha8Rng::from_rng(&mut rng)));
        }
        let runtime = Skewed { runtime: TokioRuntime::current(), by: skew(number, &mut rng) };
        let mut redlock = Redlock::builder(runtime).nodes(nodes).fenced();
        if plan.restarts {
            redlock = redlock.fence_quorum(plan.nodes - 1).max_ttl(MAX_TTL);
        }
        let redlock = redlock.build().expect("valid settings");
        let worker = Worker { number, redlock, world: world.clone(), rng };
        tasks.push(tokio::spawn(worker.work()));
    }
    let cutting = tokio::spawn(cut(proxies, world.clone(), ChaCha8Rng::from_rng(&mut seeds)));
    let clients = servers.iter().map(Server::client).collect();
    let removing = tokio::spawn(remove(clients, world.clone(), ChaCha8Rng::from_rng(&mut seeds)));
    let (there, rng, restarts) = (world.clone(), ChaCha8Rng::from_rng(&mut seeds), plan.restarts);
    // It waits for servers on a thread of its own, and ends them in the end.
    let restarting = tokio::task::spawn_blocking(move || restart(servers, &there, rng, restarts));
    for task in tasks {
        task.await.expect("a client");
    }
    let (removed, cuts) = (removing.await.expect("the removals"), cutting.await.expect("the cuts"));
    let restarts = restarting.await.expect("the restarts");
    let (acquires, overlaps, violations) = world.judge.verdict();
    let (failures, counts) = (world.failures.load(Ordering::Relaxed), world.counts.copy());
    Report { acquires, failures, overlaps, counts, removed, restarts, cuts, violations }
}

/// What all of a run share.
#[derive(Debug)]
struct World {
    judge: Judge,
    counts: Counts,
    failures: AtomicU64,
    over: AtomicBool,
    end: Instant,
    broken: Option<Broken>,
}

impl World {
    fn is_over(&self) -> bool {
        if Instant::now() >= self.end || self.judge.has_violations() {
            self.over.store(true, Ordering::Relaxed);
        }
        self.over.load(Ordering::Relaxed)
    }
}

struct Worker {
    number: usize,
    redlock: Redlock,
    world: Arc<World>,
    rng: ChaCha8Rng,
}

impl Worker {
    async fn work(mut self) {
        while !self.world.is_over() {
            let resources = SETS[self.rng.random_range(0..SETS.len())];
            let ttl = Duration::from_millis(self.rng.random_range(60..400));
            let request = self.redlock.lock(resources, ttl).retry_count(self.rng.random_range(0..3));
            let request = request.retry_delay(SHORT).retry_jitter(SHORT);
            let begun = self.world.judge.begin(resources);
            match request.await {
                Ok(lock) => {
                    let fence = lock.fence().expect("a fenced lock").get();
                    let until = Instant::now() + lock.remaining();
                    self.world.judge.complete(self.number, resources, begun, fence, until);
                    self.hold(lock, resources).await;
                }
                Err(_) => drop(self.world.failures.fetch_add(1, Ordering::Relaxed)),
            }
            self.pause(2_000).await;
        }
    }

    async fn hold(&mut self, mut lock: Lock, resources: &'static [&'static str]) {
        let fence = lock.fence();
        self.pause(3_000).await;
        if self.rng.random_bool(0.2) {
            let _ = lock.extend(Duration::from_millis(200)).await;
            assert_eq!(lock.fence(), fence, "an extension keeps the token");
            self.pause(3_000).await;
        }
        self.world.judge.over(resources, fence.map_or(0, NonZeroU64::get));
        match self.rng.random_range(0..10) {
            0 => lock.forget(),
            1..4 => drop(lock),
            _ => drop(lock.unlock().await),
        }
    }

    /// For up to so many microseconds.
    async fn pause(&mut self, most: u64) {
        let micros = self.rng.random_range(0..most);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}

/// Removes keys at random until the end.
async fn remove(servers: Vec<Client>, world: Arc<World>, mut rng: ChaCha8Rng) -> u64 {
    let mut connections: Vec<Option<MultiplexedConnection>> = servers.iter().map(|_| None).collect();
    let mut removed = 0;
    while !world.is_over() {
        let place = rng.random_range(0..connections.len());
        // It breaks when its server restarts.
        if connections[place].is_none() {
            connections[place] = servers[place].get_multiplexed_async_connection().await.ok();
        }
        let resource = RESOURCES[rng.random_range(0..RESOURCES.len())];
        let mut command = redis::cmd("DEL");
        command.arg(resource);
        if world.broken == Some(Broken::CounterDiesWithItsKey) {
            command.arg(redlock_core::redis::SideKey::counter(resource).to_string());
        }
        if let Some(connection) = &mut connections[place] {
            match command.query_async::<u64>(connection).await {
                Ok(gone) => removed += gone.min(1),
                Err(_) => connections[place] = None,
            }
        }
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..2_000))).await;
    }
    removed
}

/// Restarts servers without their data until the end. The next one waits until a lock on each resource was
/// won: a fencing quorum of 4 of 5 allows for two losses between two locks.
fn restart(mut servers: Vec<Server>, world: &World, mut rng: ChaCha8Rng, restarts: bool) -> u64 {
    let (mut number, mut wins) = (0, world.judge.wins());
    while !world.is_over() {
        std::thread::sleep(Duration::from_millis(50));
        let now = world.judge.wins();
        if restarts && RESOURCES.iter().all(|resource| now.get(resource) > wins.get(resource)) {
            let place = rng.random_range(0..servers.len());
            servers[place].restart_empty();
            number += 1;
            wins = world.judge.wins();
        }
    }
    number
}

/// Cuts connections and holds bytes up, at random, until the end.
async fn cut(proxies: Vec<Proxy>, world: Arc<World>, mut rng: ChaCha8Rng) -> u64 {
    let mut cuts = 0;
    while !world.is_over() {
        let proxy = &proxies[rng.random_range(0..proxies.len())];
        match rng.random_range(0..4) {
            0 => {
                proxy.cut();
                cuts += 1;
            }
            1 => {
                proxy.eat_replies("EVAL", 2, Then::Cut);
                cuts += 2;
            }
            _ => {
                proxy.hold();
                tokio::time::sleep(Duration::from_millis(rng.random_range(1..60))).await;
                proxy.release();
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..400))).await;
    }
    cuts
}

/// A runtime whose wall clock is wrong.
#[derive(Debug)]
struct Skewed {
    runtime: TokioRuntime,
    by: Skew,
}

#[derive(Clone, Copy, Debug)]
enum Skew {
    /// It shows 1970.
    Unset,
    /// In seconds.
    Ahead(u64),
    /// In microseconds.
    Behind(u64),
}

impl Runtime for Skewed {
    fn now(&self) -> Instant {
        self.runtime.now()
    }

    fn unix_time(&self) -> Duration {
        let time = self.runtime.unix_time();
        match self.by {
            Skew::Unset => Duration::ZERO,
            Skew::Ahead(seconds) => time + Duration::from_secs(seconds),
            Skew::Behind(micros) => time.saturating_sub(Duration::from_micros(micros)),
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.runtime.sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<()>) {
        self.runtime.spawn(task);
    }
}

/// Most clocks are behind: where one is ahead, the nodes take their own time and a second, and agree.
fn skew(number: usize, rng: &mut ChaCha8Rng) -> Skew {
    match number % 4 {
        0 => Skew::Behind(rng.random_range(0..2_000)),
        1 => Skew::Unset,
        2 => Skew::Behind(rng.random_range(0..3_600_000_000)),
        _ => Skew::Ahead(rng.random_range(0..3)),
    }
}

const RESOURCES: [&str; 2] = ["x", "y"];
const SETS: [&[&str]; 4] = [&["x"], &["x"], &["y"], &["x", "y"]];
const MAX_TTL: Duration = Duration::from_millis(400);
const SHORT: Duration = Duration::from_millis(3);
