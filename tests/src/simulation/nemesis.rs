//! Injects faults into nodes, links and processes: one task for each kind of fault, until the calm.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use redlock_core::{BackendErrorKind, BoxFuture, Runtime};

use super::{
    World,
    checks::LostKeys,
    clients::{MAX_TTL_MILLIS, RESOURCES},
    faults::Fault,
    fencing::Restart,
    network::Way,
};

/// Starts all faults of the world's mixture.
pub(super) fn begin(world: &Arc<World>, seed: u64) {
    let mut seeds = ChaCha8Rng::seed_from_u64(seed.rotate_left(32));
    let mut start = |fault: Fault, mean: u64, strike: Box<dyn Fn(Strike) -> Striking + Send>| {
        // Drawn in any case: switching off one fault does not change the others.
        let rng = ChaCha8Rng::from_rng(&mut seeds);
        if world.faults.has(fault) {
            world.state().nemeses += 1;
            world.runtime.spawn(Box::pin(repeat(world.clone(), rng, fault, mean, strike)));
        }
    };
    start(Fault::OneWay, 1_500, Box::new(|it| Box::pin(it.one_way())));
    start(Fault::Partition, 2_000, Box::new(|it| Box::pin(it.partition())));
    start(Fault::Refuse, 1_000, Box::new(|it| Box::pin(it.refuse())));
    start(Fault::StopNode, 1_500, Box::new(|it| Box::pin(it.stop_node())));
    start(Fault::KillNode, 1_500, Box::new(|it| Box::pin(it.kill_node())));
    start(Fault::ForgetLate, 4_000, Box::new(|it| Box::pin(it.forget_late())));
    start(Fault::StopClient, 1_500, Box::new(|it| Box::pin(it.stop_client())));
    start(Fault::KillClient, 8_000, Box::new(|it| Box::pin(it.kill_client())));
    start(Fault::Forget, 1_500, Box::new(|it| Box::pin(it.forget())));
    start(Fault::ForgetLast, 1_500, Box::new(|it| Box::pin(it.forget_last())));
    start(Fault::Jump, 1_500, Box::new(|it| Box::pin(it.jump())));
    start(Fault::Evict, 500, Box::new(|it| Box::pin(it.evict())));
    start(Fault::Uncount, 500, Box::new(|it| Box::pin(it.uncount())));
}

type Striking = BoxFuture<()>;

/// One strike of a fault.
struct Strike {
    world: Arc<World>,
    rng: ChaCha8Rng,
}

async fn repeat(
    world: Arc<World>,
    mut rng: ChaCha8Rng,
    fault: Fault,
    mean: u64,
    strike: Box<dyn Fn(Strike) -> Striking + Send>,
) {
    loop {
        world.runtime.sleep(millis(rng.random_range(0..2 * mean))).await;
        if world.is_calm() {
            world.state().nemeses -= 1;
            return;
        }
        world.network.strike(fault);
        let rng = ChaCha8Rng::from_rng(&mut rng);
        strike(Strike { world: world.clone(), rng }).await;
    }
}

impl Strike {
    async fn one_way(mut self) {
        let (client, node) = (self.client(), self.node());
        let way = if self.rng.random_bool(0.5) { Way::Requests } else { Way::Replies };
        self.world.timeline.link(self.now(), client, node, || format!("{way:?} do not pass"));
        self.world.network.cut(client, node, way, true);
        self.wait(10, 6_000).await;
        self.world.network.cut(client, node, way, false);
        self.world.timeline.link(self.now(), client, node, || format!("{way:?} pass again"));
    }

    async fn partition(mut self) {
        let (client, node) = (self.client(), self.node());
        let ways = [Way::Requests, Way::Replies];
        self.world.timeline.link(self.now(), client, node, || "are cut off from each other".to_owned());
        ways.iter().for_each(|way| self.world.network.cut(client, node, *way, true));
        self.wait(10, 8_000).await;
        if self.rng.random_bool(0.5) {
            self.world.network.break_connection(client, node);
        }
        ways.iter().for_each(|way| self.world.network.cut(client, node, *way, false));
        self.world.timeline.link(self.now(), client, node, || "are together again".to_owned());
    }

    async fn refuse(mut self) {
        let node = self.node();
        let requests = self.rng.random_range(1..6);
        self.world.timeline.node(self.now(), node, || format!("fails {requests} requests"));
        self.world.nodes[node].0.fail_next(requests, BackendErrorKind::Transient);
        self.wait(1, 500).await;
        self.world.nodes[node].0.fail_next(0, BackendErrorKind::Transient);
    }

    async fn stop_node(mut self) {
        let node = self.node();
        self.world.timeline.node(self.now(), node, || "stops".to_owned());
        self.world.nodes[node].0.stop();
        self.wait(5, 7_000).await;
        self.world.nodes[node].0.resume();
        self.world.timeline.node(self.now(), node, || "is resumed".to_owned());
    }

    async fn kill_node(mut self) {
        let node = self.node();
        self.world.timeline.node(self.now(), node, || "is killed".to_owned());
        self.down(node).await;
        self.world.timeline.node(self.now(), node, || "is back with its data".to_owned());
    }

    async fn down(&mut self, node: usize) {
        self.world.nodes[node].0.shut_down();
        self.wait(5, 4_000).await;
        if !self.world.state().forgetting[node] {
            self.world.nodes[node].0.start();
        }
    }

    async fn forget_late(mut self) {
        let node = self.node();
        let (backend, clock) = &self.world.nodes[node];
        if self.world.state().forgetting[node] {
            return;
        }
        self.world.state().forgetting[node] = true;
        self.world.timeline.node(self.now(), node, || "is killed and loses its data".to_owned());
        self.lose(node);
        backend.shut_down();
        // According to every clock of the run.
        let delay = clock.in_true_time(millis(MAX_TTL_MILLIS)) * 102 / 100;
        self.world.runtime.sleep(delay + millis(self.rng.random_range(0..500))).await;
        self.world.checks().lost[node] = None;
        backend.start();
        self.world.state().forgetting[node] = false;
        self.world.timeline.node(self.now(), node, || "is back without its data".to_owned());
    }

    fn lose(&self, node: usize) {
        let (backend, clock) = &self.world.nodes[node];
        let key = |name: &&str| {
            let (value, left) = (backend.get(name)?, backend.ttl(name)?);
            Some(((*name).to_owned(), value, self.now() + clock.in_true_time(left)))
        };
        self.world.checks().lost[node] = Some(LostKeys { keys: RESOURCES.iter().filter_map(key).collect() });
        self.clear(node, Restart::Late);
    }

    /// Removes a node's keys, and its counters if the fencing tokens have to survive that. Returns whether
    /// they are gone.
    fn clear(&self, node: usize, restart: Restart) -> bool {
        let backend = &self.world.nodes[node].0;
        let counters = RESOURCES.map(|name| backend.counter(name));
        backend.clear();
        let lost = self.world.may_lose_counters(restart);
        for (name, counter) in RESOURCES.iter().zip(counters).filter(|_| !lost) {
            counter.into_iter().for_each(|counter| backend.set_counter(name, counter));
        }
        lost
    }

    async fn stop_client(mut self) {
        let client = self.client();
        let process = &self.world.processes[client];
        self.world.timeline.client(self.now(), client, || "is stopped".to_owned());
        process.stop();
        self.wait(1, 8_000).await;
        self.world.processes[client].resume();
        self.world.state().resumed[client] = self.now();
        self.world.timeline.client(self.now(), client, || "is resumed".to_owned());
    }

    async fn kill_client(mut self) {
        let client = self.client();
        self.world.timeline.client(self.now(), client, || "is killed".to_owned());
        self.world.processes[client].kill();
        self.world.killed(client);
    }

    async fn forget(mut self) {
        let node = self.node();
        self.world.timeline.node(self.now(), node, || "restarts without its data".to_owned());
        let backend = &self.world.nodes[node].0;
        // The guard depends on the restart itself. One that is down is restarted by who killed it.
        if self.world.guard && !self.world.state().forgetting[node] {
            backend.shut_down();
            self.clear(node, Restart::AtOnce);
            backend.start();
        } else {
            self.clear(node, Restart::AtOnce);
        }
    }

    async fn forget_last(mut self) {
        let node = self.node();
        let backend = &self.world.nodes[node].0;
        let keys: Vec<_> =
            RESOURCES.iter().map(|name| (*name, backend.get(name), backend.ttl(name))).collect();
        let counters = RESOURCES.map(|name| backend.counter(name));
        self.world.runtime.sleep(millis(1_000)).await;
        self.world.timeline.node(self.now(), node, || "restarts without the last second".to_owned());
        let backend = &self.world.nodes[node].0;
        if self.clear(node, Restart::AtOnce) {
            for (name, counter) in RESOURCES.iter().zip(counters) {
                counter.into_iter().for_each(|counter| backend.set_counter(name, counter));
            }
        }
        for (name, value, ttl) in keys {
            if let (Some(value), Some(ttl)) = (value, ttl.and_then(|ttl| ttl.checked_sub(millis(1_000)))) {
                backend.set(name, value, ttl);
            }
        }
    }

    async fn jump(mut self) {
        let node = self.node();
        let by = millis(self.rng.random_range(100..MAX_TTL_MILLIS));
        self.world.timeline.node(self.now(), node, || format!("its clock jumps by {by:?}"));
        self.world.nodes[node].1.jump(by);
    }

    async fn evict(mut self) {
        let node = self.node();
        let name = RESOURCES[self.rng.random_range(0..RESOURCES.len())];
        self.world.timeline.node(self.now(), node, || format!("loses {name:?}"));
        self.world.nodes[node].0.remove(name);
    }

    async fn uncount(mut self) {
        let node = self.node();
        self.world.timeline.node(self.now(), node, || "loses its counters".to_owned());
        RESOURCES.iter().for_each(|name| self.world.nodes[node].0.remove_counter(name));
    }

    fn client(&mut self) -> usize {
        self.rng.random_range(0..self.world.processes.len())
    }

    fn node(&mut self) -> usize {
        self.rng.random_range(0..self.world.nodes.len())
    }

    /// Mostly short, sometimes long.
    async fn wait(&mut self, least: u64, most: u64) {
        let most = if self.rng.random_bool(0.7) { most / 10 } else { most };
        let wait = millis(self.rng.random_range(least..most.max(least + 1)));
        self.world.runtime.sleep(wait).await;
    }

    fn now(&self) -> Duration {
        self.world.runtime.elapsed()
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
