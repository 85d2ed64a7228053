//! Deliberate errors of clients and nodes. The model finds each.

use super::{
    Expected::Breaks,
    Fencing, LARGE, SMALL,
    setup::{Clocks, Deviation, Loss, Setup},
};

/// The model without the error holds: see promises.rs.
fn breaks<const NODES: usize, const ATTEMPTS: usize>(
    deviation: Deviation,
    name: &'static str,
    setup: Setup<ATTEMPTS>,
) {
    Fencing::<NODES, ATTEMPTS>::check(Setup { name, deviation: Some(deviation), ..setup }, Breaks, SMALL);
}

fn three() -> Setup<3> {
    Setup { first_counters: 1, ..Setup::new::<3>("") }
}

#[test]
fn errors_of_clients_are_found() {
    use Deviation::*;
    breaks::<3, 3>(RaiseIsLeftOut, "the raise is left out", three());
    breaks::<3, 3>(OneGrantIsAQuorum, "one grant is a quorum", three());
    breaks::<3, 3>(OneRaiseIsAQuorum, "one raise is a quorum", three());
    breaks::<3, 3>(HigherIsAcknowledged, "a higher counter acknowledges", three());
    breaks::<3, 3>(HigherIsTheToken, "a higher counter is the token", three());
    breaks::<3, 3>(OldAcknowledgementsCount, "old acknowledgements count", three());
    let twice = Setup { executions: 2, ..Setup::new::<3>("") };
    breaks::<3, 2>(OneNodeVotesTwice, "one node votes twice", twice);
    breaks::<3, 3>(OldGrantsCount, "the grants of an earlier round count", three());
    breaks::<3, 3>(
        ExtensionChangesTheToken,
        "an extension changes the token",
        Setup { extends: true, ..three() },
    );
    breaks::<4, 2>(
        RaiseIsLeftOut,
        "half of the nodes are a quorum",
        Setup { quorum: 2, ..Setup::new::<4>("") },
    );
}

#[test]
fn errors_of_nodes_are_found() {
    use Deviation::*;
    breaks::<3, 3>(GrantDoesNotCount, "a grant does not count", three());
    let proposals = Setup { clocks: Clocks::Any(&[0, 2]), ..three() };
    breaks::<3, 3>(ProposalReplaces, "a proposal replaces the counter", proposals);
    breaks::<3, 3>(CountersEndWithKeys, "counters end with their keys", three());
    breaks::<3, 3>(RaiseNeedsNoKey, "a raise needs no key", three());
    breaks::<3, 3>(RaiseAcknowledgesHigher, "a higher counter is raised", three());
    breaks::<3, 3>(RaiseLowers, "a raise lowers", three());
}

#[test]
fn errors_of_nodes_with_several_resources_are_found() {
    use Deviation::*;
    let two = Setup { wants: [3, 2], ..Setup::new::<3>("") };
    breaks::<3, 2>(RaiseNeedsOneKey, "a raise needs one key", two);
    breaks::<3, 2>(RaiseChangesOneCounter, "a raise changes one counter", two);
    breaks::<3, 2>(OneCounterCounts, "one counter counts for all", two);
    let apart = Setup { wants: [3, 1, 2], first_counters: 0, ..three() };
    breaks::<3, 3>(EachCountsForItself, "each counter counts for itself", apart);
    let twice = Setup { executions: 2, ..two };
    breaks::<3, 2>(PartlyHeldDoesNotCount, "a grant does not count where a key is held", twice);
}

#[test]
#[ignore = "a large model, for a release build"]
fn errors_about_time_are_found() {
    use Deviation::*;
    let timed = |end, skews| Setup {
        first_counters: 0,
        clocks: Clocks::Skewed { end, skews },
        patience: Some(1),
        losses: 1,
        ..Setup::<2>::new::<3>("")
    };
    let breaks = |deviation, name, setup| {
        Fencing::<3, 2>::check(Setup { name, deviation: Some(deviation), ..setup }, Breaks, LARGE);
    };
    let ahead = Setup { guard: 4, ..timed(8, &[0, 4]) };
    breaks(ProposalIsNotLimited, "proposals are not limited", ahead);
    let rolls_back = Setup { loss: Loss::Rollback, guard: 2, ..timed(7, &[0]) };
    breaks(DeadlineIsIgnored, "a round ends after its deadline", rolls_back);
    breaks(GuardLetsRaisesPass, "the guard lets raises pass", rolls_back);
}
