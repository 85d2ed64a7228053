//! Processes that want one resource: how they share it, how fast one hands over to another, and how fast it
//! is taken when its holder is killed.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    Plan, TTL,
    contender::micros,
    fleet::{Program, Reachable, urls},
    floor::{Floor, Release},
    stats::{Samples, percentile},
    table::{Line, Unit},
    worker::{Order, Turns, Worker},
};
use crate::{chaos::now, server::Server};

/// 16 processes, one resource, a hold of 1 ms.
pub(crate) fn sharing(plan: &Plan) -> Vec<Line> {
    let mut samples = Samples::default();
    let servers = Program::of_the_tests().start(3);
    let mut workers = start(&servers, PROCESSES);
    for worker in &mut workers {
        worker.ask::<Turns>(&Order::Turns { resource: "warm up".to_owned(), turns: 2 });
    }
    for round in 0..plan.rounds {
        let begin = Instant::now();
        let all = PROCESSES * TURNS_EACH;
        workers[0].ask::<Turns>(&Order::Turns { resource: format!("alone:{round}"), turns: all });
        let alone = micros(begin.elapsed());

        let resource = format!("shared:{round}");
        let mut monitors: Vec<_> = servers.iter().map(Server::monitor).collect();
        let begin = Instant::now();
        for worker in &mut workers {
            worker.tell(&Order::Turns { resource: resource.clone(), turns: TURNS_EACH });
        }
        let turns: Vec<Turns> = workers.iter().map(|worker| worker.reply()).collect();
        let wall = micros(begin.elapsed());
        let acquires = servers.iter().zip(&mut monitors).map(|(server, monitor)| {
            server.command::<String>(&["PING", MARK]);
            monitor.lines_until(MARK).iter().filter(|line| is_acquire(line, &resource)).count()
        });
        let busiest = acquires.max().unwrap_or(0);

        let mut waits = turns.iter().flat_map(|turns| turns.waits.clone()).collect::<Vec<f64>>();
        let attempts: u32 = turns.iter().map(|turns| turns.attempts).sum();
        // What all others take, once each.
        let fair = alone / all as f64 * (PROCESSES - 1) as f64;
        samples.add("wall", wall / alone);
        samples.add("wait", percentile(&mut waits, 99.0) / fair);
        samples.add("acquires", busiest as f64 / all as f64);
        samples.add("attempts", f64::from(attempts) / all as f64);
        samples.add("ms", wall / 1e3);
    }
    let work = format!("{PROCESSES} processes, one resource, hold 1 ms, {TURNS_EACH} turns each");
    vec![
        Line::new(&work, "wall over that of one task alone", Unit::Ratio, samples.of("wall")).at_most(1.5),
        Line::new(&work, "p99 wait over the fair share", Unit::Ratio, samples.of("wait")).at_most(3.0),
        Line::new(&work, "acquires at the busiest node for each lock", Unit::Ratio, samples.of("acquires"))
            .at_most(3.0),
        Line::new(&work, "attempts for each lock", Unit::Ratio, samples.of("attempts")),
        Line::new(&work, "wall", Unit::Millis, samples.of("ms")),
    ]
}

/// From the call that unlocks in one process to the lock in another that waits for it.
pub(crate) fn hand_over(plan: &Plan) -> Vec<Line> {
    let samples = handed_over(plan, &Program::of_the_tests().start(3));
    let work = "hand-over between two processes";
    vec![
        Line::new(work, "p50 over a release trip and an acquire trip", Unit::Ratio, {
            samples.ratio("p50", "trips")
        })
        .at_most(1.5)
        .headline("from one process to another: p50 over a release trip and an acquire trip"),
        Line::new(work, "the same, released by another library's script", Unit::Ratio, {
            samples.ratio("others", "trips")
        })
        .at_most(1.5),
        Line::new(
            work,
            "p50 over the same trips, each after a pause",
            Unit::Ratio,
            samples.ratio("p50", "idle"),
        ),
        Line::new(work, "the same trips, each after a pause, p50", Unit::Micros, samples.of("idle")),
        Line::new(work, "p50", Unit::Micros, samples.of("p50")),
        Line::new(work, "the slowest", Unit::Micros, samples.of("most")),
        Line::new(work, "a release trip and an acquire trip, p50", Unit::Micros, samples.of("trips")),
    ]
}

/// The hand-overs of [`hand_over`] in microseconds, `p50` and `most`; `others` when another library's script
/// releases; and the floor's `trips` for a release and an acquire, `idle` when each comes after a pause.
pub(crate) fn handed_over(plan: &Plan, servers: &[impl Reachable]) -> Samples {
    let mut samples = Samples::default();
    let mut workers = start(servers, 2);
    let (runtime, resource) = (super::multi_thread(), "handed over");
    let floor = runtime.block_on(Floor::connect(servers, Release::Script));
    let lock = Order::Lock { resource: resource.to_owned(), ttl: TTL };
    for _ in 0..plan.rounds {
        let mut trips: Vec<f64> = (0..TRIPS).map(|_| runtime.block_on(trip(&floor))).collect();
        let trips = percentile(&mut trips, 50.0);
        let mut idle = Vec::new();
        for number in 0..HAND_OVERS {
            thread::sleep(waits(number));
            let start = Instant::now();
            let token = runtime.block_on(floor.lock("idle")).expect("all servers work");
            let locked = micros(start.elapsed());
            thread::sleep(waits(number));
            let start = Instant::now();
            runtime.block_on(floor.unlock("idle", &token));
            idle.push(locked + micros(start.elapsed()));
        }
        samples.add("idle", percentile(&mut idle, 50.0));
        let mut took = Vec::new();
        for number in 0..HAND_OVERS {
            let [holder, waiter] = if number % 2 == 0 { [0, 1] } else { [1, 0] };
            if number == 0 {
                workers[holder].ask::<Duration>(&lock);
            }
            workers[waiter].tell(&lock);
            thread::sleep(waits(number));
            let from: Duration = workers[holder].ask(&Order::Unlock);
            took.push(micros(workers[waiter].reply::<Duration>().saturating_sub(from)));
        }
        // Whoever had it last.
        workers[HAND_OVERS % 2].ask::<Duration>(&Order::Unlock);
        samples.add("p50", percentile(&mut took, 50.0));
        samples.add("most", percentile(&mut took, 100.0));
        samples.add("trips", trips);

        let mut took = Vec::new();
        for number in 0..HAND_OVERS {
            let token = runtime.block_on(floor.lock(resource)).expect("all servers work");
            workers[0].tell(&lock);
            thread::sleep(waits(number));
            let from = now();
            runtime.block_on(floor.unlock(resource, &token));
            took.push(micros(workers[0].reply::<Duration>().saturating_sub(from)));
            workers[0].ask::<Duration>(&Order::Unlock);
        }
        samples.add("others", percentile(&mut took, 50.0));
    }
    samples
}

/// The holder is killed; from the end of its TTL until a waiter has the lock.
pub(crate) fn expiry(plan: &Plan) -> Vec<Line> {
    let mut samples = Samples::default();
    let servers = Program::of_the_tests().start(3);
    let ttl = Duration::from_secs(2);
    for round in 0..plan.rounds {
        let mut workers = start(&servers, 2);
        let lock = Order::Lock { resource: format!("left:{round}"), ttl };
        let held: Duration = workers[0].ask(&lock);
        workers[1].tell(&lock);
        thread::sleep(Duration::from_millis(200));
        workers.remove(0).kill();
        let taken: Duration = workers[0].reply();
        // The nodes' TTL began at most a trip earlier.
        samples.add("late", (taken.as_secs_f64() - (held + ttl).as_secs_f64()) * 1e3);
    }
    let work = "holder killed (kill -9), TTL 2 s";
    vec![
        Line::new(work, "from the expiry until a waiter has it", Unit::Millis, samples.of("late"))
            .at_most(100.0),
    ]
}

fn start(servers: &[impl Reachable], number: usize) -> Vec<Worker> {
    let urls = urls(servers);
    (0..number).map(|_| Worker::start(&urls)).collect()
}

async fn trip(floor: &Floor) -> f64 {
    let start = Instant::now();
    assert!(floor.cycle("trip").await, "all servers work");
    micros(start.elapsed())
}

/// So long has the waiter waited when the lock is released.
fn waits(number: usize) -> Duration {
    Duration::from_millis(30 + 7 * (number as u64 % 5))
}

/// Whether a line of MONITOR is a request that takes this resource: a `SET` with `NX`, or a script that is
/// given a token and more. One that releases is given the token alone.
fn is_acquire(line: &str, resource: &str) -> bool {
    let Some((_, words)) = line.split_once('"') else { return false };
    let words: Vec<&str> = words.trim_end_matches('"').split("\" \"").collect();
    match words[..] {
        ["SET", key, _, ref options @ ..] => key == resource && options.contains(&"NX"),
        ["EVAL" | "EVALSHA", _, "1", key, ref arguments @ ..] => key == resource && arguments.len() > 1,
        _ => false,
    }
}

const PROCESSES: usize = 16;
const TURNS_EACH: usize = 12;
const HAND_OVERS: usize = 12;
const TRIPS: usize = 100;
const MARK: &str = "the turns are over";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_take_the_resource_are_told_from_the_others() {
        let line = |words: &str| format!("+1764366000.123456 [0 127.0.0.1:40000] {words}");
        let takes = |words: &str| is_acquire(&line(words), "a");
        assert!(takes(r#""SET" "a" "token" "NX" "PX" "10000""#));
        assert!(takes(r#""SET" "a" "token" "NX" "GET" "PX" "10000""#));
        assert!(takes(r#""EVAL" "return \"x\" \"NX\"" "1" "a" "token" "10000""#));
        assert!(takes(r#""EVALSHA" "0123" "1" "a" "token" "10000""#));
        assert!(!takes(r#""EVAL" "return 1" "1" "a" "token""#), "a release");
        assert!(!takes(r#""SET" "b" "token" "NX" "PX" "10000""#), "another resource");
        assert!(!takes(r#""SET" "a" "token""#), "no lock");
        assert!(!takes(r#""DELIFEQ" "a" "token""#));
        assert!(!takes(r#""GET" "a""#));
        assert!(!is_acquire("OK", "a"));
    }
}
