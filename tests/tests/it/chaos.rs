//! The checks of the long run detect violations: these runs break the assumptions on purpose.

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
        fenced: true,
        faults,
        broken,
        folder: folder.path().to_owned(),
    };
    run(&plan, Path::new(env!("CARGO_BIN_EXE_chaos"))).unwrap()
}

#[test]
fn overlaps_and_lost_updates_are_detected_when_workers_do_not_exclude_each_other() {
    let violations = short_run(vec![], Some(Broken::OwnLocks)).verdict.violations;
    assert!(violations.iter().any(|found| matches!(found, Violation::Overlap { .. })), "{violations:?}");
    assert!(violations.iter().any(|found| matches!(found, Violation::LostUpdate { .. })), "{violations:?}");
}

#[test]
fn two_holders_are_detected_when_all_nodes_lose_their_data() {
    // The flush shows only while one worker holds a lock and another requests it, which is usually so.
    let seen = (0..5).any(|_| !short_run(vec![Fault::Flush], None).verdict.violations.is_empty());
    assert!(seen, "nothing was seen in five runs");
}

#[test]
fn a_short_run_with_survivable_faults_has_no_violation() {
    let Report { verdict, complaints, .. } = short_run(Fault::survivable(), None);
    assert_eq!(verdict.violations, []);
    assert!(verdict.holds > 0 && verdict.writes > 0, "{verdict:?}");
    let of_tokens = |complaint: &&String| complaint.contains("fencing token");
    assert_eq!(complaints.iter().find(of_tokens), None);
}
