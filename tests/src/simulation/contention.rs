//! How many trips fencing tokens take when several clients want one resource, and nothing fails.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use redlock_core::{MemoryBackend, Redlock, Runtime};

use super::{faults::Faults, network::Network, timeline::Timeline};
use crate::sim_runtime::{Sim, SimRuntime};

/// Clients that take turns.
#[derive(Clone, Copy, Debug)]
pub struct Contention {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many clients there are.
    pub clients: usize,
    /// How many milliseconds each wall clock is off at most. `None`: clients have none, and propose 0.
    pub clocks_off: Option<u32>,
    /// How long they do.
    pub duration: Duration,
}

/// Lets each client lock the resource, hold it for a millisecond, and start again. Returns how many locks
/// took one trip, two, and more.
///
/// # Panics
///
/// When a lock fails.
#[must_use]
pub fn contend(seed: u64, setup: Contention) -> [u64; 3] {
    let sim = Sim::new(seed);
    let runtime = sim.runtime();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut process = |is_client| {
        let process = sim.process(0);
        let off = setup.clocks_off.map(i64::from);
        match off {
            Some(off) => process.skew_wall_clock(rng.random_range(-off..=off)),
            None if is_client => process.skew_wall_clock(NO_CLOCK),
            None => {}
        }
        process
    };
    let nodes = (0..setup.nodes).map(|_| MemoryBackend::new(process(false))).collect();
    let network = Network::new(runtime.clone(), seed, nodes, Faults::NONE, Timeline::default());
    let trips = Arc::new(Mutex::new([0; 3]));
    for client in 0..setup.clients {
        let process = process(true);
        let wires = (0..setup.nodes).map(|node| network.wire(process.clone(), client, node));
        let redlock = Redlock::builder(process.clone()).nodes(wires).entropy(sim.entropy()).fenced();
        let redlock = redlock.build().unwrap_or_else(|error| panic!("{error}"));
        let client = take_turns(process.clone(), redlock, network.clone(), trips.clone());
        process.spawn(Box::pin(client));
    }
    sim.run(runtime.sleep(setup.duration));
    network.close();
    *trips.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take_turns(process: SimRuntime, redlock: Redlock, network: Network, trips: Arc<Mutex<[u64; 3]>>) {
    loop {
        let request = redlock.lock("a", Duration::from_secs(1)).retry_forever();
        let request = request.retry_delay(Duration::from_millis(5)).retry_jitter(Duration::from_millis(10));
        let lock = request.await.unwrap_or_else(|error| panic!("{error}"));
        let round = network.ledger(|ledger| ledger.round(lock.token().as_str()));
        if let Some((_, took)) = round {
            trips.lock().unwrap_or_else(PoisonError::into_inner)[took.min(3) - 1] += 1;
        }
        process.sleep(Duration::from_millis(1)).await;
        lock.unlock().await.unwrap_or_else(|error| panic!("{error}"));
        process.sleep(Duration::from_millis(1)).await;
    }
}

const NO_CLOCK: i64 = -4_000_000_000_000;
