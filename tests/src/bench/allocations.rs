//! Allocations of a cycle, and the bytes that a cycle sends to a node.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::{
    Plan,
    contender::Contender,
    fleet::Program,
    floor::Release,
    stats::Samples,
    table::{Line, Unit},
};
use crate::{adapter::Adapter, server::Server};

/// Counts the allocations of this thread while the function runs.
pub type Count = fn(&mut dyn FnMut()) -> u64;

/// Allocations of a cycle in the steady state, one task on a runtime of one thread, which also runs the
/// clients' own tasks.
pub(crate) fn allocations(plan: &Plan, count: Count) -> Vec<Line> {
    let mut lines = Vec::new();
    for (nodes, goal) in [(1, 25.0), (3, 45.0), (5, 62.0)] {
        let runtime = current_thread();
        let servers = Program::of_the_tests().start(nodes);
        let contenders = runtime.block_on(contenders(&servers));
        let mut samples = Samples::default();
        for (who, contender) in &contenders {
            cycles(&runtime, contender, WARM_UP);
            for _ in 0..plan.rounds {
                let allocations = count(&mut || cycles(&runtime, contender, CYCLES));
                samples.add(*who, allocations as f64 / f64::from(CYCLES));
            }
        }
        let work = format!("allocations a cycle, N = {nodes}");
        for (who, _) in &contenders {
            let line = Line::new(&work, *who, Unit::Count, samples.of(who));
            lines.push(if *who == OURS { line.at_most(goal) } else { line });
        }
    }
    lines
}

/// Bytes that a cycle sends to a node, as the node has counted them.
pub(crate) fn bytes(plan: &Plan) -> Vec<Line> {
    let mut lines = of_program(plan, &Program::of_the_tests());
    match Program::valkey() {
        Ok(valkey) => lines.extend(of_program(plan, &valkey)),
        Err(why) => lines.push(Line::missing("bytes to a node, Valkey 9.1", why)),
    }
    lines
}

fn of_program(plan: &Plan, program: &Program) -> Vec<Line> {
    let runtime = current_thread();
    let servers = program.start(3);
    let mut contenders = runtime.block_on(contenders(&servers));
    if program.deletes_if_equal {
        let native = runtime.block_on(Contender::floor(&servers, Release::Native));
        contenders.push(("the native floor", native));
    }
    let mut samples = Samples::default();
    for (who, contender) in &contenders {
        cycles(&runtime, contender, WARM_UP);
        for _ in 0..plan.rounds {
            let asked = {
                let before = received(&servers[0]);
                received(&servers[0]) - before
            };
            let before = received(&servers[0]);
            cycles(&runtime, contender, CYCLES);
            samples.add(*who, (received(&servers[0]) - before - asked) / f64::from(CYCLES));
        }
    }

    let work = format!("bytes to a node a cycle, N = 3, {}", program.name);
    let line = |(who, _): &(&str, Contender)| {
        let line = Line::new(&work, *who, Unit::Bytes, samples.of(who));
        if *who == OURS { line.at_most(200.0) } else { line }
    };
    contenders.iter().map(line).collect()
}

async fn contenders(servers: &[Server]) -> Vec<(&'static str, Contender)> {
    vec![
        (OURS, Contender::ours(Adapter::RedisRs, servers)),
        ("the floor", Contender::floor(servers, Release::Script).await),
        ("ours with fred", Contender::ours(Adapter::Fred, servers)),
        ("fred's floor", Contender::fred_floor(servers).await),
        ("rslock", Contender::rslock(servers)),
    ]
}

/// Ends when the last straggler has had time to finish.
fn cycles(runtime: &Runtime, contender: &Contender, number: u32) {
    runtime.block_on(async {
        for _ in 0..number {
            assert!(contender.cycle("bench").await, "no other client, and all servers work");
        }
        tokio::time::sleep(STRAGGLERS).await;
    });
}

/// Bytes that a server has received since it started, those of this question included.
fn received(server: &Server) -> f64 {
    server.info("stats", "total_net_input_bytes")
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

const OURS: &str = "ours";
const WARM_UP: u32 = 200;
const CYCLES: u32 = 500;
const STRAGGLERS: Duration = Duration::from_millis(20);
