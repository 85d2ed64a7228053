//! What holds, and how far: beyond the bounds of a promise, the model finds where it breaks.

use super::{
    Expected::{Breaks, Holds, HoldsSoFar},
    Fencing, HUGE, LARGE, SMALL,
    explorer::Bounds,
    setup::{Clocks, Loss, Setup},
};

type Pair = Setup<2>;
type Three = Setup<3>;

fn pair(name: &'static str) -> Pair {
    Pair::new::<3>(name)
}

fn three(name: &'static str) -> Three {
    Three::new::<3>(name)
}

/// Proposals are 0. Some nodes lose their data.
fn lossy<const NODES: usize, const ATTEMPTS: usize>(
    name: &'static str,
    quorum: usize,
    losses: u8,
    loss: Loss,
) -> Setup<ATTEMPTS> {
    Setup { quorum, losses, loss, first_counters: 0, ..Setup::new::<NODES>(name) }
}

/// Proposals are the clients' clocks. A round lasts no longer than a tick.
fn timed(name: &'static str, end: u8, skews: &'static [i8]) -> Pair {
    Pair { first_counters: 0, clocks: Clocks::Skewed { end, skews }, patience: Some(1), ..pair(name) }
}

/// As `timed`, with a node that restarts empty.
fn guarded(name: &'static str, end: u8, skews: &'static [i8], guard: u8) -> Pair {
    Pair { losses: 1, guard, ..timed(name, end, skews) }
}

/// As `timed`, with counters that expire.
fn expiring(name: &'static str, end: u8, skews: &'static [i8], ttl: u8) -> Pair {
    Pair { counter_ttl: Some(ttl), ..timed(name, end, skews) }
}

const TRUE_CLOCKS: &[i8] = &[0];
const SKEWED_CLOCKS: &[i8] = &[-1, 0, 1];
/// Proposals of 0, whatever the time.
const NO_CLOCKS: &[i8] = &[-100];

const X: u8 = 1;
const Y: u8 = 2;
const BOTH: u8 = X | Y;

#[test]
fn tokens_are_unique_and_in_order() {
    Fencing::<3, 2>::check(pair("two rounds"), Holds, SMALL);
    Fencing::<3, 2>::check(
        Pair { clocks: Clocks::Any(&[0, 3]), first_counters: 0, ..pair("any proposal") },
        Holds,
        SMALL,
    );
    let three = Three { first_counters: 0, ..three("three rounds") };
    Fencing::<3, 3>::check(three, HoldsSoFar, Bounds { states: 15_000, ..SMALL });
    Fencing::<3, 2>::check(
        Pair { put_backs: 1, extends: true, first_counters: 0, ..pair("extended and put back") },
        Holds,
        SMALL,
    );
}

#[test]
fn one_token_serves_for_several_resources() {
    let wants = [BOTH, Y];
    Fencing::<3, 2>::check(Pair { wants, first_counters: 0, ..pair("{x, y} and {y}") }, Holds, SMALL);
}

#[test]
fn tokens_outlive_as_many_losses_as_quorums_have_nodes_in_common_less_one() {
    Fencing::<3, 2>::check(lossy::<3, 2>("all of 3 nodes, 1 loss", 3, 1, Loss::All), Holds, SMALL);
    Fencing::<3, 2>::check(lossy::<3, 2>("2 of 3 nodes, 1 loss", 2, 1, Loss::All), Breaks, SMALL);
    Fencing::<3, 2>::check(lossy::<3, 2>("2 of 3 nodes, 1 rollback", 2, 1, Loss::Rollback), Breaks, SMALL);
    Fencing::<4, 2>::check(lossy::<4, 2>("3 of 4 nodes, 2 losses", 3, 2, Loss::All), Breaks, SMALL);
}

#[test]
fn clocks_and_a_guard_make_up_for_losses() {
    Fencing::<3, 2>::check(guarded("clocks, no guard", 4, TRUE_CLOCKS, 0), Breaks, SMALL);
    Fencing::<3, 2>::check(expiring("counters end, proposals of 0", 6, NO_CLOCKS, 3), Breaks, SMALL);
}

#[test]
#[ignore = "a large model, for a release build"]
fn large_models_hold() {
    let check = |setup: Pair| Fencing::<3, 2>::check(setup, Holds, LARGE);
    check(Pair { keys_vanish_in_steps: true, ..pair("keys vanish in steps") });
    check(Pair { first_counters: 3, ..pair("counters 0 to 3") });
    check(Pair { clocks: Clocks::Any(&[0, 2, 4]), ..pair("any of three proposals") });
    check(Pair { put_backs: 1, extends: true, ..pair("extended, put back, counters 0 to 1") });
    let check = |setup: Three| Fencing::<3, 3>::check(setup, Holds, LARGE);
    check(three("three rounds, counters 0 to 1"));
    check(Three { clocks: Clocks::Any(&[0, 3]), first_counters: 0, ..three("three rounds, any proposal") });
    Fencing::<4, 2>::check(Setup::new::<4>("four nodes"), Holds, LARGE);
    Fencing::<5, 2>::check(Setup::new::<5>("five nodes"), Holds, LARGE);
}

#[test]
#[ignore = "a large model, for a release build"]
fn huge_models_hold_so_far() {
    let check = |setup: Pair| Fencing::<3, 2>::check(setup, HoldsSoFar, HUGE);
    check(Pair { executions: 2, first_counters: 0, ..pair("acquires arrive twice") });
    let check = |setup: Three| Fencing::<3, 3>::check(setup, HoldsSoFar, HUGE);
    check(Three {
        extends: true,
        put_backs: 1,
        first_counters: 0,
        ..three("three rounds, extended, put back")
    });
    check(Three {
        keys_vanish_in_steps: true,
        first_counters: 0,
        ..three("three rounds, keys vanish in steps")
    });
    let four = Setup { first_counters: 0, ..Setup::new::<3>("four rounds") };
    Fencing::<3, 4>::check(four, HoldsSoFar, HUGE);
    let five = Setup { first_counters: 0, ..Setup::new::<5>("five nodes, three rounds") };
    Fencing::<5, 3>::check(five, HoldsSoFar, HUGE);
}

#[test]
#[ignore = "a large model, for a release build"]
fn large_models_of_several_resources_hold() {
    let first_counters = 0;
    let check = |setup: Three, expected, bounds| Fencing::<3, 3>::check(setup, expected, bounds);
    check(Three { wants: [BOTH, X, Y], first_counters, ..three("{x, y}, {x}, {y}") }, Holds, LARGE);
    check(Three { wants: [BOTH, BOTH, Y], first_counters, ..three("{x, y} twice, {y}") }, Holds, LARGE);
    let wants = [BOTH, Y];
    Fencing::<3, 2>::check(Pair { wants, ..pair("{x, y} and {y}, counters 0 to 1") }, Holds, LARGE);
    let twice =
        Pair { wants, executions: 2, first_counters, ..pair("{x, y} and {y}, acquires arrive twice") };
    Fencing::<3, 2>::check(twice, HoldsSoFar, HUGE);
}

#[test]
#[ignore = "a large model, for a release build"]
fn large_models_with_losses_keep_their_promises() {
    Fencing::<3, 3>::check(lossy::<3, 3>("all of 3 nodes, 2 losses", 3, 2, Loss::All), Holds, LARGE);
    Fencing::<3, 2>::check(lossy::<3, 2>("all of 3 nodes, 3 losses", 3, 3, Loss::All), Breaks, LARGE);
    Fencing::<3, 2>::check(lossy::<3, 2>("all of 3 nodes, 2 rollbacks", 3, 2, Loss::Rollback), Holds, LARGE);
    Fencing::<4, 2>::check(lossy::<4, 2>("3 of 4 nodes, 1 loss", 3, 1, Loss::All), Holds, LARGE);
    Fencing::<5, 2>::check(lossy::<5, 2>("3 of 5 nodes, 1 loss", 3, 1, Loss::All), Breaks, LARGE);
    Fencing::<5, 2>::check(lossy::<5, 2>("4 of 5 nodes, 2 losses", 4, 2, Loss::All), Holds, LARGE);
    Fencing::<5, 2>::check(lossy::<5, 2>("4 of 5 nodes, 3 losses", 4, 3, Loss::All), Breaks, LARGE);
}

#[test]
#[ignore = "a large model, for a release build"]
fn large_models_with_clocks_and_a_guard_keep_their_promises() {
    let check = |setup: Pair, expected| Fencing::<3, 2>::check(setup, expected, LARGE);
    check(guarded("true clocks, guard 1", 5, TRUE_CLOCKS, 1), Breaks);
    check(guarded("true clocks, guard 2", 7, TRUE_CLOCKS, 2), Holds);
    check(Pair { losses: 3, ..guarded("true clocks, guard 2, all nodes lost", 6, TRUE_CLOCKS, 2) }, Holds);
    check(
        Pair {
            losses: 2,
            loss: Loss::Rollback,
            ..guarded("true clocks, guard 2, 2 rollbacks", 6, TRUE_CLOCKS, 2)
        },
        Holds,
    );
    check(guarded("clocks 1 off, guard 3", 7, SKEWED_CLOCKS, 3), Breaks);
    check(guarded("clocks 1 off, guard 4", 8, SKEWED_CLOCKS, 4), Holds);
    check(guarded("a clock 4 ahead, guard 4", 8, &[0, 4], 4), Holds);
    check(guarded("a clock 4 behind, guard 4", 8, &[0, -4], 4), Breaks);
    Fencing::<3, 3>::check(
        Three {
            first_counters: 0,
            clocks: Clocks::Skewed { end: 5, skews: TRUE_CLOCKS },
            patience: Some(1),
            losses: 1,
            guard: 2,
            ..three("three rounds, true clocks, guard 2")
        },
        Holds,
        LARGE,
    );
}

#[test]
#[ignore = "a large model, for a release build"]
fn large_models_with_counters_that_expire_keep_their_promises() {
    let check = |setup: Pair, expected| Fencing::<3, 2>::check(setup, expected, LARGE);
    check(expiring("true clocks, counters for 1", 7, TRUE_CLOCKS, 1), Breaks);
    check(expiring("true clocks, counters for 2", 7, TRUE_CLOCKS, 2), Holds);
    check(expiring("clocks 1 off, counters for 3", 7, SKEWED_CLOCKS, 3), Breaks);
    check(expiring("clocks 1 off, counters for 4", 8, SKEWED_CLOCKS, 4), Holds);
}
