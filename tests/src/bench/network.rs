//! The same over a network: on loopback a trip takes a few dozen microseconds, so that the work of a client
//! and of the servers is most of a cycle; between machines the trips are.

use std::time::Duration;

use super::{
    Plan,
    contender::Contender,
    cycles::{key, rounds},
    distance::Distance,
    fleet::{Program, urls},
    floor::Release,
    processes::handed_over,
    table::{Line, Unit},
};
use crate::{adapter::Adapter, server::Server};

/// One task, with and without a node that is down, and a hand-over between two processes.
pub(crate) fn network(plan: &Plan) -> Vec<Line> {
    let mut lines = healthy(plan);
    lines.extend(one_down(plan));

    let (_servers, distances) = far_away();
    let handed = handed_over(plan, &distances);
    lines.push(
        Line::new(
            far("hand-over between two processes"),
            "p50 over a release trip and an acquire trip",
            Unit::Ratio,
            handed.ratio("p50", "trips"),
        )
        .at_most(1.5),
    );
    lines
}

fn healthy(plan: &Plan) -> Vec<Line> {
    let (one, many) = plan.block_on(async {
        let (_servers, distances) = far_away();
        let fenced =
            Adapter::RedisRs.manager_of(urls(&distances)).fenced().build().expect("nodes that can fence");
        let contenders = [
            (OURS, Contender::ours(Adapter::RedisRs, &distances)),
            (FENCED, Contender::Ours(fenced)),
            (FLOOR, Contender::floor(&distances, Release::Script).await),
            (NO_DELAY, Contender::floor_without_delay(&distances).await),
            (FRED, Contender::ours(Adapter::Fred, &distances)),
            (FRED_FLOOR, Contender::fred_floor(&distances).await),
            (FRED_NO_DELAY, Contender::fred_floor_without_delay(&distances).await),
            (RSLOCK, Contender::rslock(&distances)),
        ];
        (rounds(plan, &contenders, 1).await, rounds(plan, &contenders, MANY).await)
    });
    let work = far("one task");
    let p50 = |over: &str, under: &str| one.ratio(&key(over, "p50"), &key(under, "p50"));
    let mut lines = vec![
        Line::new(&work, "ours over the floor, p50", Unit::Ratio, p50(OURS, FLOOR)).at_most(1.05).headline(
            "lock and unlock, one task, over a network with a round trip of a millisecond: the same",
        ),
        Line::new(&work, "ours with fred over fred's floor, p50", Unit::Ratio, p50(FRED, FRED_FLOOR))
            .at_most(1.05),
        Line::new(&work, "with a token over without, p50", Unit::Ratio, p50(FENCED, OURS)).at_most(1.05),
        Line::new(&work, "rslock over the floor, p50", Unit::Ratio, p50(RSLOCK, FLOOR)),
        Line::new(&work, "ours, p50", Unit::Micros, one.of(&key(OURS, "p50"))),
    ];
    let work = far(&format!("{MANY} tasks, a resource each"));
    let rate = |over: &str, under: &str| many.ratio(&key(over, "rate"), &key(under, "rate"));
    lines.extend([
        Line::new(&work, "throughput, ours over the floor", Unit::Ratio, rate(OURS, FLOOR)).at_least(0.95),
        Line::new(&work, "throughput, ours with fred over fred's floor", Unit::Ratio, rate(FRED, FRED_FLOOR))
            .at_least(0.95),
        Line::new(
            &work,
            "throughput, ours over the floor with TCP_NODELAY",
            Unit::Ratio,
            rate(OURS, NO_DELAY),
        ),
        Line::new(&work, "throughput, ours with fred over fred's floor with TCP_NODELAY", Unit::Ratio, {
            rate(FRED, FRED_NO_DELAY)
        }),
        Line::new(&work, "throughput, with a token over without", Unit::Ratio, rate(FENCED, OURS))
            .at_least(0.8),
        Line::new(&work, "throughput, rslock over the floor", Unit::Ratio, rate(RSLOCK, FLOOR)),
        Line::new(&work, "ours", Unit::PerSecond, many.of(&key(OURS, "rate"))),
    ]);
    lines
}

fn one_down(plan: &Plan) -> Vec<Line> {
    let mut lines = Vec::new();
    for fault in ["killed", "stopped"] {
        let samples = plan.block_on(async {
            let (mut servers, distances) = far_away();
            let contenders = [
                (OURS, Contender::ours(Adapter::RedisRs, &distances)),
                (FLOOR, Contender::floor(&distances, Release::Script).await),
                (RSLOCK, Contender::rslock(&distances)),
            ];
            // They connect while all is well.
            for (who, contender) in &contenders {
                contender.block(who, 1, WARM_UP).await;
            }
            if fault == "killed" {
                servers[2].kill();
            } else {
                servers[2].pause();
            }
            // A stopped one ends all the same when it is dropped.
            rounds(plan, &contenders, 1).await
        });
        let work = far(&format!("one task, 1 of 3 {fault}"));
        let p50 = |over: &str| samples.ratio(&key(over, "p50"), &key(FLOOR, "p50"));
        let of = "p50 over that of the floor under the same fault";
        lines.push(Line::new(&work, format!("{of}, ours"), Unit::Ratio, p50(OURS)).at_most(1.1));
        lines.push(Line::new(&work, format!("{of}, rslock"), Unit::Ratio, p50(RSLOCK)));
    }
    lines
}

fn far_away() -> (Vec<Server>, Vec<Distance>) {
    let servers = Program::of_the_tests().start(3);
    let distances = servers.iter().map(|server| Distance::to(server, ONE_WAY)).collect();
    (servers, distances)
}

fn far(what: &str) -> String {
    format!("{what}, N = 3, a round trip of a millisecond")
}

const MANY: usize = 64;
const ONE_WAY: Duration = Duration::from_micros(500);
const WARM_UP: Duration = Duration::from_millis(300);
const OURS: &str = "ours";
const FENCED: &str = "ours with a token";
const FLOOR: &str = "the floor";
const NO_DELAY: &str = "the floor with TCP_NODELAY";
const FRED: &str = "ours with fred";
const FRED_FLOOR: &str = "fred's floor";
const FRED_NO_DELAY: &str = "fred's floor with TCP_NODELAY";
const RSLOCK: &str = "rslock";
