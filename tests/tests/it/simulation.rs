//! The simulation of whole fleets is exact, and its checks see what they are there to see. `./tests/run` runs
//! many more seeds, in a release build.

use redlock_tests::simulation::{Fault, Faults, Outcome, Run, Struck, Summary, Timeline};

#[test]
fn a_seed_replays_a_run_line_by_line() {
    let told = |seed| {
        let timeline = Timeline::kept();
        let summary = Run { seed, faults: Faults::survivable(), timeline: timeline.clone() }.run().unwrap();
        let lines: Vec<String> = timeline.lines().iter().map(ToString::to_string).collect();
        (summary, lines)
    };
    for seed in 0..5 {
        let (summary, lines) = told(seed);
        assert!(lines.len() as u64 > summary.requests, "{} lines", lines.len());
        assert_eq!((summary, lines), told(seed));
    }
}

#[test]
fn whatever_may_go_wrong_no_two_clients_hold_a_lock() {
    let mut total = Summary::default();
    for seed in 0..60 {
        match Run::new(seed, Faults::survivable()).run() {
            Ok(summary) => total.add(&summary),
            Err(violation) => panic!("{violation}"),
        }
    }
    for outcome in Outcome::ALL {
        assert!(total.outcomes[outcome as usize] > 0, "{outcome:?} never came to be");
    }
    let idle: Vec<Fault> = struck(&total.struck, |fault, times| times == 0 && !fault.breaks());
    assert!(idle.is_empty(), "{idle:?} never struck");
}

#[test]
fn where_nodes_forget_or_their_clocks_jump_two_clients_are_seen_to_hold_a_lock() {
    for fault in [Fault::Forget, Fault::Jump] {
        let faults = Faults::NONE.with(fault);
        let overlaps: u64 = (0..100).map(|seed| Run::new(seed, faults).run().unwrap().overlaps).sum();
        assert!(overlaps > 0, "{fault}");
    }
}

fn struck(struck: &Struck, which: impl Fn(Fault, u64) -> bool) -> Vec<Fault> {
    Fault::ALL.into_iter().filter(|fault| which(*fault, struck.times(*fault))).collect()
}
