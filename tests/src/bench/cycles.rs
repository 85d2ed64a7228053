//! One lock and its unlock, without contention: by one task, by many, by the number of nodes, and with a node
//! that is down.

use std::time::Duration;

use super::{
    Plan,
    contender::{Block, Contender},
    fleet::Program,
    floor::Release,
    stats::Samples,
    table::{Line, Unit},
};
use crate::{adapter::Adapter, server::Server};

/// One task, three nodes.
pub(crate) fn one_task(plan: &Plan) -> Vec<Line> {
    let redis = Program::of_the_tests();
    let work = format!("one task, N = 3, {}", redis.name);
    let samples = plan.block_on(async {
        let servers = redis.start(3);
        rounds(plan, &all(&servers).await, 1).await
    });
    let ratio = |over: &str, under: &str, percent| samples.ratio(&key(over, percent), &key(under, percent));
    let mut lines = vec![
        Line::new(&work, "ours over the floor, p50", Unit::Ratio, ratio(OURS, FLOOR, "p50"))
            .at_most(1.05)
            .headline("lock and unlock, one task, three nodes: p50 over that of the floor"),
        Line::new(&work, "ours over the floor, p99", Unit::Ratio, ratio(OURS, FLOOR, "p99")).at_most(1.2),
        Line::new(
            &work,
            "ours with fred over fred's floor, p50",
            Unit::Ratio,
            ratio(FRED, FRED_FLOOR, "p50"),
        )
        .at_most(1.05),
        Line::new(&work, "rslock over the floor, p50", Unit::Ratio, ratio(RSLOCK, FLOOR, "p50")),
        Line::new(&work, "rslock over the floor, p99", Unit::Ratio, ratio(RSLOCK, FLOOR, "p99")),
        Line::new(&work, "the floor with TCP_NODELAY over the floor, p50", Unit::Ratio, {
            ratio(NO_DELAY, FLOOR, "p50")
        }),
        Line::new(&work, "ours, p50", Unit::Micros, samples.of(&key(OURS, "p50"))),
        Line::new(&work, "the floor, p50", Unit::Micros, samples.of(&key(FLOOR, "p50"))),
    ];
    lines.extend(on_valkey(plan, 1, |work, samples| {
        let ratio = |over: &str, under: &str| samples.ratio(&key(over, "p50"), &key(under, "p50"));
        vec![
            Line::new(work, "ours over the native floor, p50", Unit::Ratio, ratio(OURS, NATIVE)),
            Line::new(work, "ours over the script floor, p50", Unit::Ratio, ratio(OURS, FLOOR)),
        ]
    }));
    lines
}

/// 64 tasks, three nodes.
pub(crate) fn many_tasks(plan: &Plan) -> Vec<Line> {
    let redis = Program::of_the_tests();
    let work = format!("{MANY} tasks, N = 3, {}", redis.name);
    let samples = plan.block_on(async {
        let servers = redis.start(3);
        rounds(plan, &all(&servers).await, MANY).await
    });
    let rate = |over: &str, under: &str| samples.ratio(&key(over, "rate"), &key(under, "rate"));
    let cpu = |over: &str, under: &str| samples.ratio(&key(over, "cpu"), &key(under, "cpu"));
    let mut lines = vec![
        Line::new(&work, "throughput, ours over the floor", Unit::Ratio, rate(OURS, FLOOR))
            .at_least(0.95)
            .headline("64 tasks, a resource each: throughput over that of the floor"),
        Line::new(&work, "throughput, ours with fred over fred's floor", Unit::Ratio, rate(FRED, FRED_FLOOR))
            .at_least(0.95),
        Line::new(&work, "throughput, fred's floor with TCP_NODELAY over fred's floor", Unit::Ratio, {
            rate(FRED_NO_DELAY, FRED_FLOOR)
        }),
        Line::new(&work, "throughput, ours with fred over fred's floor with TCP_NODELAY", Unit::Ratio, {
            rate(FRED, FRED_NO_DELAY)
        }),
        Line::new(&work, "throughput, rslock over the floor", Unit::Ratio, rate(RSLOCK, FLOOR)),
        Line::new(&work, "throughput, the floor with TCP_NODELAY over the floor", Unit::Ratio, {
            rate(NO_DELAY, FLOOR)
        }),
        Line::new(&work, "throughput, ours over the floor with TCP_NODELAY", Unit::Ratio, {
            rate(OURS, NO_DELAY)
        }),
        Line::new(&work, "client CPU a cycle, ours over the floor", Unit::Ratio, cpu(OURS, FLOOR))
            .at_most(1.15),
        Line::new(&work, "client CPU a cycle, ours over the floor with TCP_NODELAY", Unit::Ratio, {
            cpu(OURS, NO_DELAY)
        }),
        Line::new(&work, "client CPU a cycle, rslock over the floor", Unit::Ratio, cpu(RSLOCK, FLOOR)),
        Line::new(&work, "ours", Unit::PerSecond, samples.of(&key(OURS, "rate"))),
        Line::new(&work, "the floor", Unit::PerSecond, samples.of(&key(FLOOR, "rate"))),
        Line::new(&work, "client CPU a cycle, ours", Unit::Micros, samples.of(&key(OURS, "cpu"))),
    ];
    lines.extend(on_valkey(plan, MANY, |work, samples| {
        let rate = |over: &str, under: &str| samples.ratio(&key(over, "rate"), &key(under, "rate"));
        vec![
            Line::new(work, "throughput, ours over the script floor", Unit::Ratio, rate(OURS, FLOOR))
                .at_least(1.3),
            Line::new(work, "throughput, ours over the native floor", Unit::Ratio, rate(OURS, NATIVE))
                .at_least(0.95),
            Line::new(
                work,
                "throughput, the native floor over the script floor",
                Unit::Ratio,
                rate(NATIVE, FLOOR),
            ),
        ]
    }));
    lines
}

/// One task, by the number of nodes; and three nodes, by the number of tasks.
pub(crate) fn growth(plan: &Plan) -> Vec<Line> {
    let redis = Program::of_the_tests();
    let mut lines = Vec::new();
    for nodes in [1, 3, 5, 7] {
        let samples = of_two(plan, &redis, nodes, 1);
        let work = format!("one task, N = {nodes}");
        for who in [OURS, FLOOR] {
            let p50 = samples.of(&key(who, "p50"));
            lines.push(Line::new(&work, format!("{who}, p50"), Unit::Micros, p50).at(
                "nodes",
                who,
                nodes as f64,
            ));
        }
    }
    for tasks in [1, 4, 16, 64, 256] {
        let samples = of_two(plan, &redis, 3, tasks);
        let work = format!("tasks: {tasks}, N = 3");
        for who in [OURS, FLOOR] {
            let rate = samples.of(&key(who, "rate"));
            lines.push(Line::new(&work, who, Unit::PerSecond, rate).at("tasks", who, tasks as f64));
        }
    }
    lines
}

/// What a lock and its unlock cost a server and a client, and so how many of them a core can do.
pub(crate) fn limit(plan: &Plan) -> Vec<Line> {
    let mut lines = Vec::new();
    for program in [Ok(Program::of_the_tests()), Program::valkey()] {
        let program = match program {
            Ok(program) => program,
            Err(why) => {
                lines.push(Line::missing("Valkey 9.1", why));
                continue;
            }
        };
        let samples = plan.block_on(async {
            let servers = program.start(3);
            let ours = Contender::ours(Adapter::RedisRs, &servers);
            ours.block(OURS, MANY, WARM_UP).await;
            let mut samples = Samples::default();
            for _ in 0..plan.rounds {
                let before = server_cpu(&servers[0]);
                let block = ours.block(OURS, MANY, WARM_UP).await;
                let server = (server_cpu(&servers[0]) - before) * 1e6 / block.cycles();
                samples.add("server", server);
                samples.add("server core", 1e6 / server);
                samples.add("client core", 1e6 / block.cpu_per_cycle());
            }
            samples
        });
        let work = format!("{MANY} tasks, N = 3, {}", program.name);
        let figure = "locks and unlocks that a core of each node can do";
        lines.extend([
            Line::new(&work, "CPU of a node for a cycle", Unit::Micros, samples.of("server")),
            Line::new(&work, figure, Unit::PerSecond, samples.of("server core")),
            Line::new(&work, "that a core of a client can do", Unit::PerSecond, samples.of("client core")),
        ]);
    }
    lines
}

/// In seconds.
fn server_cpu(server: &Server) -> f64 {
    server.info("cpu", "used_cpu_user") + server.info("cpu", "used_cpu_sys")
}

/// One of three nodes killed, or stopped.
pub(crate) fn faults(plan: &Plan) -> Vec<Line> {
    let redis = Program::of_the_tests();
    let (many, one) = plan.block_on(async {
        let healthy = redis.start(3);
        let mut broken = [redis.start(3), redis.start(3)];
        let mut contenders = vec![("healthy floor", Contender::floor(&healthy, Release::Script).await)];
        for (servers, [ours, floor, rslock]) in broken.iter().zip([KILLED, STOPPED]) {
            contenders.push((ours, Contender::ours(Adapter::RedisRs, servers)));
            contenders.push((floor, Contender::floor(servers, Release::Script).await));
            contenders.push((rslock, Contender::rslock(servers)));
        }
        // They connect while all is well.
        for (who, contender) in &contenders {
            contender.block(who, 1, WARM_UP).await;
        }
        broken[0][2].kill();
        broken[1][2].pause();
        let samples = (rounds(plan, &contenders, MANY).await, rounds(plan, &contenders, 1).await);
        broken[1][2].resume();
        samples
    });
    let mut lines = Vec::new();
    for (fault, [ours, floor, rslock]) in [("killed", KILLED), ("stopped", STOPPED)] {
        let rate = |over: &str, under: &str| many.ratio(&key(over, "rate"), &key(under, "rate"));
        let p50 = |over: &str, under: &str| one.ratio(&key(over, "p50"), &key(under, "p50"));
        let work = format!("{MANY} tasks, 1 of 3 {fault}");
        let of = "throughput over that of the healthy floor";
        lines.extend([
            Line::new(&work, format!("{of}, ours"), Unit::Ratio, rate(ours, "healthy floor")).at_least(0.9),
            Line::new(&work, format!("{of}, the floor"), Unit::Ratio, rate(floor, "healthy floor")),
            Line::new(&work, format!("{of}, rslock"), Unit::Ratio, rate(rslock, "healthy floor")),
        ]);
        let work = format!("one task, 1 of 3 {fault}");
        let of = "p50 over that of the floor under the same fault";
        lines.extend([
            Line::new(&work, format!("{of}, ours"), Unit::Ratio, p50(ours, floor)).at_most(1.1),
            Line::new(&work, format!("{of}, rslock"), Unit::Ratio, p50(rslock, floor)),
        ]);
    }
    lines
}

async fn all(servers: &[Server]) -> Vec<(&'static str, Contender)> {
    vec![
        (OURS, Contender::ours(Adapter::RedisRs, servers)),
        (FLOOR, Contender::floor(servers, Release::Script).await),
        (NO_DELAY, Contender::floor_without_delay(servers).await),
        (FRED, Contender::ours(Adapter::Fred, servers)),
        (FRED_FLOOR, Contender::fred_floor(servers).await),
        (FRED_NO_DELAY, Contender::fred_floor_without_delay(servers).await),
        (RSLOCK, Contender::rslock(servers)),
    ]
}

fn on_valkey(plan: &Plan, tasks: usize, lines: impl Fn(&str, &Samples) -> Vec<Line>) -> Vec<Line> {
    let valkey = match Program::valkey() {
        Ok(valkey) => valkey,
        Err(why) => return vec![Line::missing("Valkey 9.1", why)],
    };
    let samples = plan.block_on(async {
        let servers = valkey.start(3);
        let contenders = [
            (OURS, Contender::ours(Adapter::RedisRs, &servers)),
            (FLOOR, Contender::floor(&servers, Release::Script).await),
            (NATIVE, Contender::floor(&servers, Release::Native).await),
        ];
        rounds(plan, &contenders, tasks).await
    });
    let who = if tasks == 1 { "one task".to_owned() } else { format!("{tasks} tasks") };
    lines(&format!("{who}, N = 3, {}", valkey.name), &samples)
}

fn of_two(plan: &Plan, program: &Program, nodes: usize, tasks: usize) -> Samples {
    plan.block_on(async {
        let servers = program.start(nodes);
        let contenders = [
            (OURS, Contender::ours(Adapter::RedisRs, &servers)),
            (FLOOR, Contender::floor(&servers, Release::Script).await),
        ];
        rounds(plan, &contenders, tasks).await
    })
}

/// Lets them compete. A round is a few short blocks of each in turn, as a busy machine is not equally busy
/// for long; another one begins each time.
pub(super) async fn rounds(plan: &Plan, contenders: &[(&str, Contender)], tasks: usize) -> Samples {
    for (who, contender) in contenders {
        contender.block(who, tasks, WARM_UP).await;
    }
    let mut samples = Samples::default();
    for round in 0..plan.rounds {
        let mut blocks: Vec<Block> = contenders.iter().map(|_| Block::default()).collect();
        for turn in 0..TURNS * contenders.len() {
            let place = (turn + round) % contenders.len();
            let (who, contender) = &contenders[place];
            blocks[place].add(contender.block(who, tasks, BLOCK).await);
        }
        for ((who, _), block) in contenders.iter().zip(&mut blocks) {
            samples.add(key(who, "p50"), block.percentile(50.0));
            samples.add(key(who, "p99"), block.percentile(99.0));
            samples.add(key(who, "rate"), block.per_second());
            samples.add(key(who, "cpu"), block.cpu_per_cycle());
        }
    }
    samples
}

pub(super) fn key(who: &str, what: &str) -> String {
    format!("{who}: {what}")
}

const OURS: &str = "ours";
const FLOOR: &str = "the floor";
const NO_DELAY: &str = "the floor with TCP_NODELAY";
const NATIVE: &str = "the native floor";
const FRED: &str = "ours with fred";
const FRED_FLOOR: &str = "fred's floor";
const FRED_NO_DELAY: &str = "fred's floor with TCP_NODELAY";
const RSLOCK: &str = "rslock";
const KILLED: [&str; 3] = ["ours, killed", "the floor, killed", "rslock, killed"];
const STOPPED: [&str; 3] = ["ours, stopped", "the floor, stopped", "rslock, stopped"];
const MANY: usize = 64;
const BLOCK: Duration = Duration::from_millis(70);
const TURNS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(300);
