//! Tasks of one process that want one resource.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use redlock_core::{MemoryBackend, Redlock, TokioRuntime};
use tokio::{task::JoinSet, time::sleep};

use super::{
    Plan, TTL,
    contender::Contender,
    fleet::Program,
    stats::Samples,
    table::{Line, Unit},
};
use crate::adapter::Adapter;

/// 16 tasks, 200 turns in all, with the default options.
pub(crate) fn turns(plan: &Plan) -> Vec<Line> {
    let mut samples = Samples::default();
    plan.block_on(async {
        let servers = Program::of_the_tests().start(3);
        let contenders =
            [("ours", Contender::ours(Adapter::RedisRs, &servers)), ("rslock", Contender::rslock(&servers))];
        for round in 0..plan.rounds {
            for place in 0..contenders.len() {
                let (who, contender) = &contenders[(place + round) % contenders.len()];
                let alone = race(contender, &format!("{who}, alone:{round}"), 1).await;
                let race = race(contender, &format!("{who}, race:{round}"), TASKS).await;
                samples.add(format!("{who}: alone"), alone.millis);
                samples.add(format!("{who}: wall"), race.millis);
                samples.add(format!("{who}: least"), race.least() as f64);
                samples.add(format!("{who}: most"), race.most() as f64);
            }
        }
    });
    let work = format!("{TASKS} tasks, one resource, hold 1 ms, {TURNS} turns");
    let mut lines = vec![
        Line::new(&work, "wall, ours", Unit::Millis, samples.of("ours: wall")).at_most(300.0),
        Line::new(&work, "wall, ours over that of one task alone", Unit::Ratio, {
            samples.ratio("ours: wall", "ours: alone")
        }),
        Line::new(&work, "least over most turns of a task, ours", Unit::Ratio, {
            samples.ratio("ours: least", "ours: most")
        })
        .at_least(0.9),
    ];
    for who in ["ours", "rslock"] {
        for what in ["least", "most"] {
            let turns = samples.of(&format!("{who}: {what}"));
            lines.push(Line::new(&work, format!("{what} turns of a task, {who}"), Unit::Count, turns));
        }
    }
    lines.push(Line::new(&work, "wall, rslock", Unit::Millis, samples.of("rslock: wall")));
    lines.push(Line::new(
        format!("one task, hold 1 ms, {TURNS} turns"),
        "wall, ours",
        Unit::Millis,
        samples.of("ours: alone"),
    ));
    lines
}

/// The time of a turn by the number of tasks that want one.
pub(crate) fn waiters(plan: &Plan) -> Vec<Line> {
    let mut samples = Samples::default();
    let numbers = [1, 2, 4, 8, 16, 32];
    plan.block_on(async {
        let servers = Program::of_the_tests().start(3);
        let ours = Contender::ours(Adapter::RedisRs, &servers);
        for round in 0..plan.rounds {
            for tasks in numbers {
                let race = race(&ours, &format!("waiters:{round}:{tasks}"), tasks).await;
                samples.add(tasks.to_string(), race.millis * 1e3 / TURNS as f64);
            }
        }
    });
    let line = |tasks: usize| {
        let work = format!("tasks that want one resource, hold 1 ms: {tasks}");
        let wall = samples.of(&tasks.to_string());
        Line::new(work, "wall of a turn", Unit::Micros, wall).at("waiters", "ours", tasks as f64)
    };
    numbers.map(line).into()
}

/// The six workers of the quickstart, on five healthy nodes in memory.
pub(crate) fn quickstart(plan: &Plan) -> Vec<Line> {
    let mut samples = Samples::default();
    for _ in 0..plan.rounds {
        samples.add("attempts", f64::from(plan.block_on(unluckiest())));
    }
    let figure = "attempts of the unluckiest of 24 holds";
    vec![Line::new("6 tasks, quickstart", figure, Unit::Count, samples.of("attempts")).at_most(2.0)]
}

async fn unluckiest() -> u32 {
    let runtime = TokioRuntime::current();
    let nodes = [(); 5].map(|()| {
        let node = MemoryBackend::new(runtime.clone());
        node.delay_requests(Duration::from_millis(1));
        node.delay_replies(Duration::from_millis(1));
        node
    });
    let redlock = Redlock::builder(runtime).nodes(nodes).build().expect("nodes");
    let mut workers = JoinSet::new();
    for worker in 0..6 {
        let redlock = redlock.clone();
        workers.spawn(async move {
            let mut most = 0;
            for turn in 0..4 {
                let request = redlock.lock("account", Duration::from_secs(1)).retry_forever();
                let request = request.retry_delay(Duration::from_millis(15));
                let lock = request.retry_jitter(Duration::from_millis(10)).await.expect("healthy nodes");
                most = most.max(lock.attempts());
                sleep(varied(worker, turn)).await;
                let _ = lock.unlock().await;
                sleep(varied(worker + 1, turn)).await;
            }
            most
        });
    }
    workers.join_all().await.into_iter().max().unwrap_or(0)
}

/// From 20 to 60 ms, another for each worker and turn.
fn varied(worker: u64, turn: u64) -> Duration {
    Duration::from_millis(20 + (worker * 13 + turn * 17) % 41)
}

/// Who got how many turns.
struct Race {
    millis: f64,
    turns: Vec<usize>,
}

impl Race {
    fn least(&self) -> usize {
        self.turns.iter().copied().min().unwrap_or(0)
    }

    fn most(&self) -> usize {
        self.turns.iter().copied().max().unwrap_or(0)
    }
}

/// Each task takes turns until all of them have taken [`TURNS`]. One whose attempts are used up asks again.
async fn race(contender: &Contender, resource: &str, tasks: usize) -> Race {
    let taken = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        let (contender, resource, taken) = (contender.clone(), resource.to_owned(), taken.clone());
        running.spawn(async move {
            let (mut own, mut last) = (0, start);
            while taken.load(Ordering::Relaxed) < TURNS {
                if turn(&contender, &resource, &taken).await {
                    (own, last) = (own + 1, Instant::now());
                }
            }
            (own, last)
        });
    }
    let (turns, last): (Vec<usize>, Vec<Instant>) = running.join_all().await.into_iter().unzip();
    // Without the tasks that wait for a turn when none is left.
    let end = last.into_iter().max().unwrap_or(start);
    Race { millis: (end - start).as_secs_f64() * 1e3, turns }
}

/// Returns whether it was one of the turns that count.
async fn turn(contender: &Contender, resource: &str, taken: &AtomicUsize) -> bool {
    match contender {
        Contender::Ours(redlock) => {
            let Ok(lock) = redlock.lock(resource, TTL).await else { return false };
            let counts = taken.fetch_add(1, Ordering::Relaxed) < TURNS;
            sleep(HOLD).await;
            lock.unlock().await.is_ok() && counts
        }
        Contender::Rslock(manager) => {
            let Ok(lock) = manager.lock(resource, TTL).await else { return false };
            let counts = taken.fetch_add(1, Ordering::Relaxed) < TURNS;
            sleep(HOLD).await;
            manager.unlock(&lock).await;
            counts
        }
        Contender::Floor(_) | Contender::FredFloor(_) => unreachable!("a floor does not wait"),
    }
}

const TASKS: usize = 16;
const TURNS: usize = 200;
const HOLD: Duration = Duration::from_millis(1);
