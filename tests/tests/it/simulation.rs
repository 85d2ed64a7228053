//! The simulation of whole fleets is deterministic, and its checks detect violations. `./tests/run` runs many
//! more seeds, in a release build.

use redlock_tests::simulation::{Fault, Faults, Outcome, Run, Struck, Summary, Timeline};

#[test]
fn a_seed_replays_a_run_line_by_line() {
    let replay = |seed| {
        let timeline = Timeline::kept();
        let run = Run { timeline: timeline.clone(), ..Run::new(seed, Faults::survivable()) };
        let summary = run.run().unwrap();
        let lines: Vec<String> = timeline.lines().iter().map(ToString::to_string).collect();
        (summary, lines)
    };
    for seed in 0..5 {
        let (summary, lines) = replay(seed);
        assert!(lines.len() as u64 > summary.requests, "{} lines", lines.len());
        assert_eq!((summary, lines), replay(seed));
    }
}

#[test]
fn no_two_clients_hold_a_lock_under_any_survivable_fault() {
    let mut total = Summary::default();
    for seed in 0..60 {
        match Run::new(seed, Faults::survivable()).run() {
            Ok(summary) => total.add(&summary),
            Err(violation) => panic!("{violation}"),
        }
    }
    for outcome in Outcome::ALL {
        assert!(total.outcomes[outcome as usize] > 0, "{outcome:?} never occurred");
    }
    let idle: Vec<Fault> = struck(&total.struck, |fault, times| times == 0 && !fault.breaks());
    assert!(idle.is_empty(), "{idle:?} never occurred");
}

#[test]
fn two_holders_are_detected_when_nodes_lose_data_or_their_clocks_jump() {
    for fault in [Fault::Forget, Fault::Jump] {
        let faults = Faults::NONE.with(fault);
        let overlaps: u64 = (0..100).map(|seed| Run::new(seed, faults).run().unwrap().overlaps).sum();
        assert!(overlaps > 0, "{fault}");
    }
}

#[test]
fn nodes_that_restart_without_their_data_cost_no_lock_where_clients_have_the_guard() {
    let faults = Faults::survivable().with(Fault::Forget);
    let (mut total, mut without) = (Summary::default(), Summary::default());
    for seed in 0..60 {
        let run = Run::new(seed, faults);
        without.add(&run.run().unwrap());
        total.add(&run.guarded().run().unwrap());
    }
    assert!(without.overlaps > 0 && total.overlaps == 0, "{} and {}", without.overlaps, total.overlaps);
    assert!(
        total.struck.times(Fault::Forget) > 20 && total.outcomes[Outcome::Won as usize] > 100,
        "{total:?}"
    );
}

fn struck(struck: &Struck, which: impl Fn(Fault, u64) -> bool) -> Vec<Fault> {
    Fault::ALL.into_iter().filter(|fault| which(*fault, struck.times(*fault))).collect()
}
