//! A job that runs once per tick, though every replica of the service has the same timer.
//!
//! ```text
//! cargo run --example cron
//! cargo run --example cron -- redis://127.0.0.1:7001 redis://127.0.0.1:7002 redis://127.0.0.1:7003
//! ```
//!
//! All replicas wake at the same moment. One gets the lock and runs the job; the others skip the tick. Start
//! the second command in several terminals: the processes share the ticks.
//!
//! **The lock stays after the job is done** ([`min_hold`](redlock_redis_rs::LockRequest::min_hold)). The
//! clocks of machines differ. If a replica released the lock after a job of 10 ms, another one whose clock
//! is 50 ms behind would find it free and run the tick again. So the lock is held for at least `hold`,
//! which has to be longer than the difference of the clocks plus the time for which replicas try. Nobody
//! waits for that: the keys stay on the nodes, also when the replica has ended.
//!
//! A replica that dies during the job does not release its lock. The lock ends with `hold` or its TTL, which
//! are shorter than the period, and another replica takes over at the next tick. No replica repeats an
//! unfinished job: a job that needs that stores its progress for the next tick. The job runs at most once per
//! tick, not at least once.

use std::{env, error::Error as StdError, future::Future, time::Duration, time::SystemTime};

use redlock_redis_rs::{Error, KeepAlive, Lease, MemoryBackend, RedisBackend, Redlock, TokioRuntime};
use tokio::time::sleep;

#[derive(Clone, Copy)]
struct Schedule {
    name: &'static str,
    period: Duration,
    /// For how long the lock keeps others out, at least.
    hold: Duration,
    /// How long a replica tries. Replicas that ask at the same moment may split the nodes, so that none gets
    /// a majority at first.
    patience: Duration,
    /// How long a dead replica blocks the others. A job may take longer, because its lock is extended.
    ttl: Duration,
}

const EVERY_TWO_SECONDS: Schedule = Schedule {
    name: "cron:report",
    period: Duration::from_secs(2),
    hold: Duration::from_millis(1_000),
    patience: Duration::from_millis(300),
    ttl: Duration::from_millis(1_500),
};

impl Schedule {
    /// Runs `job` at the ticks that this replica gets, forever. `wall` returns the time since 1970.
    async fn run<Fut>(&self, redlock: &Redlock, wall: impl Fn() -> Duration, job: impl Fn(u64, Lease) -> Fut)
    where
        Fut: Future<Output = ()>,
    {
        let mut last = 0;
        loop {
            // Never the same tick twice, even if a timer fires too early or the clock is set back.
            let tick = (wall().as_millis() / self.period.as_millis()) as u64 + 1;
            let tick = tick.max(last + 1);
            last = tick;
            sleep(self.start(tick).saturating_sub(wall())).await;
            if let Some(guard) = self.claim(redlock).await {
                job(tick, guard.lease()).await;
                // Before `hold` has passed, the lock stays. If this fails, the lock ends with its TTL, before the
                // next tick.
                let _ = guard.unlock().await;
            }
        }
    }

    /// Returns the lock, which is extended from here on, or `None` if another replica has this tick.
    async fn claim(&self, redlock: &Redlock) -> Option<KeepAlive> {
        let request = redlock.lock(self.name, self.ttl).min_hold(self.hold);
        match request.retry_forever().acquire_timeout(self.patience).await {
            Ok(lock) => Some(lock.keep_alive()),
            Err(Error::Contended(_)) => None,
            Err(error) => {
                // A tick that is skipped is better than one that runs twice.
                eprintln!("{}: tick skipped: {error}", self.name);
                None
            }
        }
    }

    fn start(&self, tick: u64) -> Duration {
        self.period * u32::try_from(tick).unwrap_or(u32::MAX)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let urls: Vec<String> = env::args().skip(1).collect();
    let runtime = TokioRuntime::current();
    let mut builder = Redlock::builder(runtime.clone());
    for url in &urls {
        builder = builder.node(RedisBackend::open(url.as_str())?);
    }
    if urls.is_empty() {
        builder = builder.nodes((0..3).map(|_| MemoryBackend::new(runtime.clone())));
    }
    let redlock = builder.build()?;

    let wall = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let process = std::process::id();
    let replica = async |number: u32| {
        let report = |tick, lease: Lease| async move {
            sleep(Duration::from_millis(10)).await;
            // Before each step that counts.
            if lease.is_valid() {
                println!("tick {tick}: replica {number} of process {process}");
            }
        };
        EVERY_TWO_SECONDS.run(&redlock, wall, report).await;
    };
    let all = async { tokio::join!(replica(1), replica(2), replica(3)) };
    // Five ticks are enough to see it.
    let _ = tokio::time::timeout(EVERY_TWO_SECONDS.period * 5, all).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;

    const HOURLY: Schedule = Schedule {
        name: "cron:hourly",
        period: Duration::from_secs(3_600),
        hold: Duration::from_secs(60),
        patience: Duration::from_secs(5),
        ttl: Duration::from_secs(30),
    };

    fn managers<const N: usize>() -> [Redlock; N] {
        let runtime = TokioRuntime::current();
        let nodes = [(); 3].map(|()| MemoryBackend::new(runtime.clone()));
        nodes.iter().for_each(|node| node.delay_requests(Duration::from_millis(1)));
        [(); N].map(|()| Redlock::builder(runtime.clone()).nodes(nodes.clone()).build().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn every_tick_runs_exactly_once_though_the_clocks_of_the_replicas_differ() {
        let start = Instant::now();
        let runs = Arc::new(Mutex::new(Vec::new()));
        for (replica, redlock) in (0..5).zip(managers::<5>()) {
            // Up to 40 seconds apart, and jobs of 10 ms.
            let wall = move || Duration::from_secs(1_000 + 10 * replica) + start.elapsed();
            let runs = runs.clone();
            tokio::spawn(async move {
                let job = |tick, _| {
                    runs.lock().unwrap().push(tick);
                    sleep(Duration::from_millis(10))
                };
                HOURLY.run(&redlock, wall, job).await;
            });
        }
        sleep(HOURLY.period * 24).await;
        assert_eq!(*runs.lock().unwrap(), (1..=24).collect::<Vec<u64>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_may_take_longer_than_the_ttl() {
        let (start, [one, other]) = (Instant::now(), managers::<2>());
        let wall = || start.elapsed();
        let long = |_, lease: Lease| async move {
            sleep(HOURLY.ttl * 10).await;
            assert!(lease.is_valid());
        };
        let look = async {
            sleep(HOURLY.period + HOURLY.ttl * 9).await;
            assert!(HOURLY.claim(&other).await.is_none());
        };
        tokio::select! {
            () = HOURLY.run(&one, wall, long) => {}
            () = look => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_dies_is_replaced_before_the_next_tick() {
        let [one, other] = managers::<2>();
        // A process that dies neither extends nor releases.
        HOURLY.claim(&one).await.unwrap().stop().forget();
        assert!(HOURLY.claim(&other).await.is_none());
        // The keys outlive it by the drift.
        sleep(HOURLY.hold * 102 / 100).await;
        assert!(HOURLY.claim(&other).await.is_some());
    }
}
