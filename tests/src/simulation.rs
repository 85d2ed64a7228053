//! A whole fleet in one thread: clients that run the unchanged library, nodes, and a network in between. One
//! seed decides everything. The runs have every fault that a lock has to survive, and checks after every
//! step.

use std::{
    num::NonZeroU64,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use redlock_core::{Lock, LockParts, MemoryBackend, Redlock, Resources, Runtime};

use self::{
    checks::{Checks, Rules},
    clients::{Client, MAX_TTL, RESOURCES},
    faults::Dice,
    fencing::{Plan, Restart, Tokens},
    network::Network,
};
pub use self::{
    contention::{Contention, contend},
    faults::{Fault, Faults, Struck},
    fencing::Fencing,
    summary::{Outcome, Summary, Violation},
    timeline::Timeline,
};
use crate::sim_runtime::{Sim, SimRuntime};

mod checks;
mod clients;
mod contention;
mod faults;
mod fencing;
mod ledger;
mod nemesis;
mod network;
mod summary;
mod timeline;

/// One run, which the seed and the faults determine.
#[derive(Clone, Debug)]
pub struct Run {
    /// The source of all choices.
    pub seed: u64,
    /// The faults that may happen. Each run picks some of them.
    pub faults: Faults,
    /// Which runs have locks with fencing tokens.
    pub fencing: Fencing,
    /// Whether the clients have a guard against nodes that restart without their data.
    pub guard: bool,
    /// Where the events are recorded.
    pub timeline: Timeline,
}

impl Run {
    /// A run that does not record its events.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self { seed, faults, guard: false, fencing: Fencing::default(), timeline: Timeline::default() }
    }

    /// The same run with the guard.
    #[must_use]
    pub fn guarded(self) -> Self {
        Self { guard: true, ..self }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// The first check that failed.
    pub fn run(&self) -> Result<Summary, Violation> {
        let sim = Sim::new(self.seed);
        let world = World::new(&sim, self);
        let finished = catch_unwind(AssertUnwindSafe(|| {
            sim.run_watched(world.clone().live(&sim, self.seed), || {
                if let Err(what) = world.look() {
                    panic!("{what}");
                }
            });
        }));
        match finished {
            Ok(()) => Ok(world.summary()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let what = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                let what = what.unwrap_or_else(|| "a panic without a message".to_owned());
                Err(Violation { seed: self.seed, at: sim.runtime().elapsed(), what })
            }
        }
    }
}

struct World {
    runtime: SimRuntime,
    network: Network,
    /// Each node with the process whose clock it uses.
    nodes: Vec<(MemoryBackend, SimRuntime)>,
    processes: Vec<SimRuntime>,
    faults: Faults,
    guard: bool,
    rules: Rules,
    /// Of runs whose locks have fencing tokens.
    fencing: Option<Plan>,
    /// Whether the locks have notes.
    notes: bool,
    timeline: Timeline,
    state: Mutex<State>,
    checks: Mutex<Checks>,
    tokens: Mutex<Tokens>,
}

struct State {
    calm: bool,
    /// How many tasks of the nemesis still run.
    nemeses: usize,
    /// Nodes that are down until the keys that they lost would have expired.
    forgetting: Vec<bool>,
    /// How many tasks of each client still run.
    running: Vec<usize>,
    /// When each client was last resumed after a stop.
    resumed: Vec<Duration>,
    offer: Option<LockParts>,
    /// How many nodes may still lose their counters, whatever the clocks show.
    counter_losses: usize,
    /// Locks that their owners have lost sight of: never used again, and not dropped.
    leaked: Vec<Lock>,
    outcomes: [u64; Outcome::NUMBER],
    course: Vec<Vec<Outcome>>,
}

impl World {
    fn new(sim: &Sim, run: &Run) -> Arc<Self> {
        let mut dice = Dice::new(run.seed);
        let faults = dice.mixture(run.faults);
        let mut rng = ChaCha8Rng::seed_from_u64(!run.seed);
        let clients = rng.random_range(2..=4);
        let number = if rng.random_bool(0.5) { 3 } else { 5 };
        let mut process = || {
            let faster = rng.random_range(-FASTEST..=FASTEST);
            sim.process(if faults.has(Fault::Drift) { faster } else { 0 })
        };
        let processes: Vec<SimRuntime> = (0..clients).map(|_| process()).collect();
        let nodes: Vec<_> = (0..number)
            .map(|_| process())
            .map(|process| (MemoryBackend::new(process.clone()), process))
            .collect();
        let runtime = sim.runtime();
        let all = || processes.iter().chain(nodes.iter().map(|(_, process)| process));
        let broken = if run.guard { faults.breaks_guarded() } else { faults.breaks() };
        let fencing = Plan::draw(run.fencing, run.guard, run.seed, number, faults, all());
        let backends = nodes.iter().map(|(node, _)| node.clone()).collect();
        let network = Network::new(runtime.clone(), run.seed, backends, faults, run.timeline.clone());
        if faults.has(Fault::Drift) {
            network.strike(Fault::Drift);
        }
        let slow = faults.has(Fault::SlowTasks);
        if slow {
            network.strike(Fault::SlowTasks);
            processes.iter().for_each(|process| process.delay_spawned(SLOW));
        }
        let notice = INSTANTLY + if slow { 2 * SLOW } else { Duration::ZERO };
        let state = State {
            calm: false,
            nemeses: 0,
            forgetting: vec![false; nodes.len()],
            running: (0..clients).map(|_| rng.random_range(1..=MOST_TASKS)).collect(),
            resumed: vec![Duration::ZERO; clients],
            offer: None,
            counter_losses: fencing.map_or(0, |plan| plan.survives(number)),
            leaked: Vec::new(),
            outcomes: [0; Outcome::NUMBER],
            course: vec![Vec::new(); clients],
        };
        Arc::new(Self {
            runtime,
            network,
            checks: Mutex::new(Checks::new(nodes.len())),
            nodes,
            processes,
            faults,
            rules: Rules { broken, guarded: run.guard && faults.breaks(), notice },
            guard: run.guard,
            fencing,
            notes: run.seed % 4 == 3,
            timeline: run.timeline.clone(),
            state: Mutex::new(state),
            tokens: Mutex::default(),
        })
    }

    async fn live(self: Arc<Self>, sim: &Sim, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut managers = Vec::new();
        for (number, process) in self.processes.iter().enumerate() {
            let redlock =
                self.manager(sim, process, number, Duration::from_millis(rng.random_range(20..250)));
            let tasks = self.state().running[number];
            for _ in 0..tasks {
                let client = Client {
                    world: self.clone(),
                    number,
                    process: process.clone(),
                    redlock: redlock.clone(),
                    rng: ChaCha8Rng::from_rng(&mut rng),
                    cancel: ChaCha8Rng::from_rng(&mut rng),
                };
                process.spawn(Box::pin(client.run()));
            }
            managers.push(redlock);
        }
        nemesis::begin(&self, seed);
        let stormy = self.runtime.elapsed() + STORM;
        while !self.all_done() && self.runtime.elapsed() < stormy {
            self.runtime.sleep(STEP).await;
        }
        self.state().calm = true;
        self.network.calm();
        while self.state().nemeses > 0 {
            self.runtime.sleep(STEP).await;
        }
        let bound = self.runtime.elapsed() + PATIENCE;
        while !self.all_done() {
            assert!(self.runtime.elapsed() < bound, "a client waits {PATIENCE:?} after the last fault");
            self.runtime.sleep(STEP).await;
        }
        self.checks().last_look().unwrap_or_else(|what| panic!("{what}"));
        self.runtime.sleep(PROMPTLY).await;
        if !self.faults.breaks() {
            self.assert_no_leftovers();
        }
        // Messages under way arrive, and keys that no client releases expire.
        self.runtime.sleep(AFTERMATH).await;
        for (number, (node, _)) in self.nodes.iter().enumerate() {
            for name in RESOURCES {
                let left = node.ttl(name);
                assert!(
                    left.is_none(),
                    "{AFTERMATH:?} after the last client, node {number} has {name:?} for {left:?}"
                );
                assert_eq!(node.note(name), None, "node {number} has a note of {name:?} without a lock");
            }
        }
        let leaked = std::mem::take(&mut self.state().leaked);
        drop(leaked);
        self.runtime.sleep(PROMPTLY).await;
        for (client, manager) in managers.iter().enumerate() {
            let shown = format!("{manager:?}");
            let queue = shown.split_once("waiters: ").map_or("", |(_, rest)| rest);
            assert!(queue.starts_with(NOBODY_QUEUES), "client {client} is done, but queues: {queue:.60}");
        }
        let last = self.manager(sim, &sim.process(0), self.processes.len(), Duration::from_secs(1));
        let locked = last.try_lock(RESOURCES, Duration::from_secs(5)).await;
        let lock = locked.unwrap_or_else(|error| panic!("healthy nodes do not grant a lock: {error}"));
        lock.unlock().await.unwrap_or_else(|error| panic!("healthy nodes do not release a lock: {error}"));
        self.network.close();
        self.runtime.sleep(AFTERMATH).await;
        let left = (self.runtime.tasks(), self.runtime.timers());
        assert_eq!(left, (0, 0), "tasks and timers are left");
        let (requests, most) = (self.network.requests(), self.most_requests());
        assert!(requests <= most, "{requests} requests; at most {most} are needed");
    }

    /// Checks that clients that are done have removed their keys wherever a release gets through.
    fn assert_no_leftovers(&self) {
        for (number, (node, _)) in self.nodes.iter().enumerate() {
            for name in RESOURCES {
                let Some(token) = node.get(name) else { continue };
                let now = self.runtime.elapsed();
                let owner =
                    self.network.ledger(|ledger| ledger.owner_of_leftover(now, PROMPTLY, &token, number));
                let Some(client) = owner.filter(|client| !self.processes[*client].is_killed()) else {
                    continue;
                };
                panic!(
                    "{PROMPTLY:?} after all clients are done, node {number} has {name:?} of client {client} for {:?}",
                    node.ttl(name)
                );
            }
        }
    }

    fn manager(&self, sim: &Sim, process: &SimRuntime, client: usize, timeout: Duration) -> Redlock {
        let wires = (0..self.nodes.len()).map(|node| self.network.wire(process.clone(), client, node));
        let mut builder =
            Redlock::builder(process.clone()).nodes(wires).entropy(sim.entropy()).node_timeout(timeout);
        if let Some(plan) = self.fencing {
            builder = builder.fence_quorum(plan.quorum);
        }
        if self.guard {
            builder = builder.max_ttl(MAX_TTL);
        }
        if self.notes {
            builder = builder.note(format!("client {client}"));
        }
        builder.build().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Far more than any client needs, and far less than a busy loop would send.
    fn most_requests(&self) -> u64 {
        let seconds = self.runtime.elapsed().as_secs();
        let rate = 100 * (self.processes.len() as u64 + 1) * self.nodes.len() as u64;
        rate * seconds.min(60)
    }

    fn look(&self) -> Result<(), String> {
        let state = self.state();
        self.checks().look(self.runtime.elapsed(), self.rules, &state.resumed, &self.nodes)
    }

    fn summary(&self) -> Summary {
        let state = self.state();
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        Summary {
            outcomes: state.outcomes,
            course: state.course.clone(),
            struck: self.network.struck(),
            overlaps: self.checks().overlaps,
            requests: self.network.requests(),
            trips: tokens.trips,
            disorders: tokens.disorders,
        }
    }

    /// Records a lock with a fencing token, whose round began then, and took so many trips.
    fn fenced(&self, resources: &Resources, fence: NonZeroU64, began: Duration, trips: Option<usize>) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trips) = trips {
            tokens.trips[trips.min(3) - 1] += 1;
        }
        let checked = tokens.add(resources, fence, began, self.runtime.elapsed());
        if let Err(what) = checked {
            assert!(self.faults.breaks_tokens(), "{what}");
            tokens.disorders += 1;
        }
    }

    /// Whether a node that restarts without its data may have lost its counters: the promise of fencing
    /// tokens is that they stay unique and in order then.
    fn may_lose_counters(&self, restart: Restart) -> bool {
        let Some(plan) = self.fencing else { return true };
        if plan.makes_up_for(restart) {
            return true;
        }
        let mut state = self.state();
        let may = state.counter_losses > 0;
        state.counter_losses -= usize::from(may);
        may
    }

    fn outcome(&self, client: usize, outcome: Outcome) {
        let mut state = self.state();
        state.outcomes[outcome as usize] += 1;
        state.course[client].push(outcome);
    }

    /// A task of a client is done.
    fn done(&self, client: usize) {
        self.state().running[client] -= 1;
    }

    /// A client is killed.
    fn killed(&self, client: usize) {
        self.state().running[client] = 0;
    }

    /// Keeps a lock that is never used again.
    fn leak(&self, lock: Lock) {
        self.state().leaked.push(lock);
    }

    fn all_done(&self) -> bool {
        self.state().running.iter().all(|running| *running == 0)
    }

    fn is_calm(&self) -> bool {
        self.state().calm
    }

    fn offer(&self, parts: LockParts) {
        self.abandon(parts.token.as_str());
        self.state().offer = Some(parts);
    }

    /// Records a token whose keys are deliberately left to expire.
    fn abandon(&self, token: &str) {
        self.network.ledger(|ledger| ledger.abandon(token));
    }

    /// `again`: the message with the parts will be delivered a second time.
    fn take_offer(&self, again: bool) -> Option<LockParts> {
        let mut state = self.state();
        if again { state.offer.clone() } else { state.offer.take() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checks(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many tasks a client has at most.
const MOST_TASKS: usize = 3;
/// What a manager shows of an empty queue.
const NOBODY_QUEUES: &str = "Waiters { resources: 0, waiting: 0 }";
/// Two clocks differ by less than a hundredth, which is what the default drift factor allows.
const FASTEST: i32 = 4_500;
/// How late tasks start at most, with the fault that delays them.
const SLOW: Duration = Duration::from_millis(100);
/// How long a running client may take to notice a loss.
const INSTANTLY: Duration = Duration::from_millis(5);
/// How long faults are injected at most.
const STORM: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(50);
/// How long a client may need to finish after the last fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after the last fault, or after the end of the last client, a key may stay where a release would
/// get through: pending releases are retried once a second.
const PROMPTLY: Duration = Duration::from_secs(2);
/// By then all messages have arrived, and the keys that they left have expired.
const AFTERMATH: Duration = Duration::from_secs(60);
