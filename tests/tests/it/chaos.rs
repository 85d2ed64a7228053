//! That the checks of the long run see what is wrong: here it is wrong on purpose.

use std::{path::Path, time::Duration};

use redlock_tests::{
    adapter::Adapter,
    chaos::{Broken, Fault, Plan, Report, Violation, run},
};
use tempfile::TempDir;

fn short_run(faults: Vec<Fault>, broken: Option<Broken>) -> Report {
    let folder = TempDir::new().unwrap();
    let plan = Plan {
        length: Duration::from_secs(4),
        calm: Duration::from_secs(1),
        seed: 1,
        workers: 6,
        nodes: 3,
        adapters: vec![Adapter::RedisRs, Adapter::Fred],
        faults,
        broken,
        folder: folder.path().to_owned(),
    };
    run(&plan, Path::new(env!("CARGO_BIN_EXE_chaos"))).unwrap()
}

#[test]
fn workers_that_do_not_exclude_each_other_are_seen_to_overlap_and_to_lose_updates() {
    let violations = short_run(vec![], Some(Broken::OwnLocks)).verdict.violations;
    assert!(violations.iter().any(|found| matches!(found, Violation::Overlap { .. })), "{violations:?}");
    assert!(violations.iter().any(|found| matches!(found, Violation::LostUpdate { .. })), "{violations:?}");
}

#[test]
fn where_all_nodes_forget_two_workers_are_seen_to_hold_a_lock() {
    // Somebody has to hold a lock, and somebody else to want it, when the data is flushed: mostly several do.
    let seen = (0..5).any(|_| !short_run(vec![Fault::Flush], None).verdict.violations.is_empty());
    assert!(seen, "nothing was seen in five runs");
}

#[test]
fn a_short_run_with_what_a_lock_survives_has_no_violation() {
    let verdict = short_run(Fault::survivable(), None).verdict;
    assert_eq!(verdict.violations, []);
    assert!(verdict.holds > 0 && verdict.writes > 0, "{verdict:?}");
}
