//! The simulation of whole fleets is deterministic, and its checks detect violations. `./tests/run` runs many
//! more seeds, in a release build.

use std::time::Duration;

use redlock_tests::simulation::{
    Contention, Fault, Faults, Fencing, Outcome, Run, Struck, Summary, Timeline, contend,
};

#[test]
fn a_seed_replays_a_run_line_by_line() {
    let replay = |seed| {
        let timeline = Timeline::kept();
        let run = Run { timeline: timeline.clone(), ..Run::new(seed, Faults::survivable()) };
        let summary = run.run().unwrap();
        let lines: Vec<String> = timeline.lines().iter().map(ToString::to_string).collect();
        (summary, lines)
    };
    // In the later ones a release wakes waiters of several resources.
    for seed in (0..5).chain([1_394_070_189_043_560, 1_394_070_189_043_607, 1_394_070_189_043_615]) {
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
    let survivable = Faults::survivable();
    let idle: Vec<Fault> = struck(&total.struck, |fault, times| times == 0 && survivable.has(fault));
    assert!(idle.is_empty(), "{idle:?} never occurred");
}

#[test]
fn fencing_tokens_are_unique_and_in_order_even_where_two_clients_hold_a_lock() {
    let mut total = Summary::default();
    for seed in 0..60 {
        match (Run { fencing: Fencing::Always, ..Run::new(seed, Faults::of_tokens()) }).run() {
            Ok(summary) => total.add(&summary),
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(total.overlaps > 0, "the faults are too weak");
    let [one, two, _] = total.trips;
    assert!(one > two && two > 0, "{:?}", total.trips);
}

#[test]
fn tokens_that_are_not_in_order_are_detected_when_nodes_lose_their_counters() {
    let faults = Faults::NONE.with(Fault::Uncount);
    let run = |seed| Run { fencing: Fencing::Always, ..Run::new(seed, faults) };
    let disorders: u64 = (0..40).map(|seed| run(seed).run().unwrap().disorders).sum();
    assert!(disorders > 0);
}

#[test]
fn with_clocks_most_tokens_take_one_trip_under_contention() {
    let trips = |clients, clocks_off| {
        let duration = Duration::from_secs(1);
        let [one, two, more] = contend(7, Contention { nodes: 3, clients, clocks_off, duration });
        assert!(one + two + more > 100, "{clients} clients have {one} + {two} + {more} locks");
        (two + more) as f64 / (one + two + more) as f64
    };
    assert!(trips(1, None) == 0.0 && trips(1, Some(5)) == 0.0);
    assert!(trips(4, Some(0)) < 0.05);
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
