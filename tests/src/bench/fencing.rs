//! What a fencing token costs a lock, and how often it takes a second trip.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, BackendError, Extend, FencedReply, LockBackend, Raise, Redlock,
    Release, ReleaseReply, ServerInfo, TokioRuntime, Watch,
};
use tokio::task::JoinSet;

use super::{
    Plan, TTL,
    contender::Contender,
    cycles::{key, rounds},
    fleet::Program,
    stats::Samples,
    table::{Line, Unit},
};
use crate::{adapter::Adapter, server::Server};

/// A lock with a token and its unlock, over those without.
pub(crate) fn cost(plan: &Plan) -> Vec<Line> {
    let redis = Program::of_the_tests();
    let mut lines = Vec::new();
    for tasks in [1, MANY] {
        let (samples, stopped) = plan.block_on(async {
            let servers = redis.start(3);
            let fenced = |adapter: Adapter| {
                Contender::Ours(adapter.manager(&servers).fenced().build().expect("nodes that can fence"))
            };
            let contenders = [
                (PLAIN, Contender::ours(Adapter::RedisRs, &servers)),
                (FENCED, fenced(Adapter::RedisRs)),
                (PLAIN_FRED, Contender::ours(Adapter::Fred, &servers)),
                (FENCED_FRED, fenced(Adapter::Fred)),
            ];
            let mut samples = rounds(plan, &contenders, tasks).await;
            // Without a token, an acquire is a command beside the scripts.
            for ((who, contender), commands) in contenders.iter().zip([&["eval", "set"][..], &["eval"]]) {
                for _ in 0..plan.rounds {
                    let before = time_in(&servers[0], commands);
                    let cycles = contender.block(who, tasks, BLOCK).await.cycles();
                    samples.add(key(who, "server"), (time_in(&servers[0], commands) - before) / cycles);
                }
            }
            servers[2].pause();
            let stopped = rounds(plan, &contenders[..2], tasks).await;
            servers[2].resume();
            (samples, stopped)
        });
        let ratio = |over: &str, under: &str, what| samples.ratio(&key(over, what), &key(under, what));
        let work = if tasks == 1 { "one task".to_owned() } else { format!("{tasks} tasks") };
        let work = format!("{work}, N = 3, {}", redis.name);
        if tasks == 1 {
            let p50 = |over, under| ratio(over, under, "p50");
            lines.extend([
                Line::new(&work, "with a token over without, p50", Unit::Ratio, p50(FENCED, PLAIN))
                    .at_most(1.05),
                Line::new(&work, "the same with fred", Unit::Ratio, p50(FENCED_FRED, PLAIN_FRED))
                    .at_most(1.05),
                Line::new(&work, "with a token, p50", Unit::Micros, samples.of(&key(FENCED, "p50"))),
                Line::new(&work, "with a token over without, p50, one node stopped", Unit::Ratio, {
                    stopped.ratio(&key(FENCED, "p50"), &key(PLAIN, "p50"))
                }),
            ]);
        } else {
            let rate = |over, under| ratio(over, under, "rate");
            let figure = "throughput, with a token over without";
            lines.extend([
                Line::new(&work, figure, Unit::Ratio, rate(FENCED, PLAIN)).at_least(0.8),
                Line::new(&work, "the same with fred", Unit::Ratio, rate(FENCED_FRED, PLAIN_FRED))
                    .at_least(0.8),
                Line::new(&work, "client CPU, with a token over without", Unit::Ratio, {
                    ratio(FENCED, PLAIN, "cpu")
                }),
            ]);
        }
        for who in [PLAIN, FENCED] {
            let figure = format!("time of a server in the commands of a cycle, {who}");
            lines.push(Line::new(&work, figure, Unit::Micros, samples.of(&key(who, "server"))));
        }
    }
    lines
}

/// How many of the rounds that win need a second trip, by the number of processes that want one resource.
pub(crate) fn second_trips(plan: &Plan) -> Vec<Line> {
    let redis = Program::of_the_tests();
    let mut lines = Vec::new();
    for contenders in [1, 2, 4, 16] {
        let samples = plan.block_on(async {
            let servers = redis.start(3);
            let mut samples = Samples::default();
            for _ in 0..plan.rounds {
                let (won, raised) = contend(&servers, contenders).await;
                samples.add("second", 100.0 * raised / won);
                samples.add("won", won);
            }
            samples
        });
        let work = format!("managers that want one resource: {contenders}");
        lines.extend([
            Line::new(&work, "second trips, of the locks that were won", Unit::Percent, samples.of("second"))
                .at("second trips", "of the locks that were won", contenders as f64),
            Line::new(&work, "locks in a second", Unit::Count, samples.of("won")),
        ]);
    }
    lines
}

/// How many locks were won, and how many second trips there were.
async fn contend(servers: &[Server], contenders: usize) -> (f64, f64) {
    let (raises, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut running = JoinSet::new();
    for _ in 0..contenders {
        let nodes = servers.iter().enumerate().map(|(place, server)| Counting {
            node: Adapter::RedisRs.open(&server.url()),
            raises: (place == 0).then(|| raises.clone()),
        });
        let redlock = Redlock::builder(TokioRuntime::current()).nodes(nodes).fenced();
        let redlock = redlock.retry_delay(SHORT).retry_jitter(SHORT).build().expect("nodes that can fence");
        running.spawn(async move {
            let mut won = 0_u64;
            while start.elapsed() < Duration::from_secs(1) {
                if let Ok(lock) = redlock.lock("shared", TTL).await {
                    won += 1;
                    let _ = lock.unlock().await;
                }
            }
            won
        });
    }
    let won: u64 = running.join_all().await.into_iter().sum();
    (won as f64, raises.load(Ordering::Relaxed) as f64)
}

/// How long a server has been in commands, in microseconds. Those in a script count with it, too.
fn time_in(server: &Server, commands: &[&str]) -> f64 {
    let statistics: String = server.command(&["INFO", "commandstats"]);
    let usec = |command: &&str| {
        let start = format!("cmdstat_{command}:");
        let line = statistics.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default();
        let value = line.split(',').find_map(|part| part.strip_prefix("usec="));
        value.and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
    };
    commands.iter().map(usec).sum()
}

/// A node that counts second trips.
#[derive(Debug)]
struct Counting {
    node: Arc<dyn LockBackend>,
    raises: Option<Arc<AtomicU64>>,
}

#[async_trait]
impl LockBackend for Counting {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.node.release(request).await
    }

    fn can_fence(&self) -> bool {
        self.node.can_fence()
    }

    async fn acquire_fenced(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        self.node.acquire_fenced(request).await
    }

    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        if let Some(raises) = &self.raises {
            raises.fetch_add(1, Ordering::Relaxed);
        }
        self.node.raise(request).await
    }

    async fn watch(&self, request: Watch<'_>) -> Result<(), BackendError> {
        self.node.watch(request).await
    }

    fn timed_out(&self, timeout: Duration) -> BackendError {
        self.node.timed_out(timeout)
    }

    fn name(&self) -> Option<&str> {
        self.node.name()
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        self.node.server()
    }

    fn uptime(&self) -> Result<Duration, BackendError> {
        self.node.uptime()
    }
}

const PLAIN: &str = "without a token";
const FENCED: &str = "with a token";
const PLAIN_FRED: &str = "fred, without a token";
const FENCED_FRED: &str = "fred, with a token";
const MANY: usize = 64;
const BLOCK: Duration = Duration::from_millis(300);
const SHORT: Duration = Duration::from_millis(2);
