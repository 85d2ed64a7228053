//! Every run of a few fenced rounds on a few nodes, with the decisions of the code itself: what the nodes
//! count is `count` and `limit`, and what the clients conclude is `after_grants` and `RaiseTally`.
//!
//! No two tokens of one resource may be the same, and a round that starts after another one is done must have
//! the higher token: while keys vanish at any time, and requests and replies are lost, late, repeated and
//! reordered. Beside the code as it is, there are deliberate errors of clients and nodes: each must be found.
//!
//! The unit tests run small models. The large ones are for a release build, and take some minutes and less
//! than 6 GB:
//!
//! ```text
//! cargo test --release -p redlock-core --lib fence::model -- --ignored --nocapture --test-threads 1
//! ```
//!
//! What covers more than it seems:
//!
//! * Each attempt is a client of its own, with a value of its own, and may start at any time. So two clients
//!   that acquire twice are among four attempts.
//! * A client decides with any part of the replies that there are. So a step in which a reply arrives is not
//!   needed, nor one in which it is lost. A request that is lost is one that is never executed.
//! * A key may vanish at any time, so nothing rests on mutual exclusion, and there are no releases. Where a
//!   key vanishes no sooner than it is granted again, its holder can only do more. One model checks this.
//! * Nodes have no names, nor have attempts that want the same: states that differ in nothing else are one.

use std::{mem, time::Duration};

use self::{
    clients::Says,
    explorer::{Bounds, End, Model, explore},
    setup::{Clocks, Setup},
    state::{Phase, RESOURCES, State},
};

mod clients;
mod deviations;
mod explorer;
mod nodes;
mod promises;
mod setup;
mod state;

/// The model in one configuration.
struct Fencing<const NODES: usize, const ATTEMPTS: usize> {
    setup: Setup<ATTEMPTS>,
}

#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "printed")]
enum Step {
    Tick,
    Client { what: &'static str, attempt: usize, number: u32 },
    Decision { attempt: usize, says: Says },
    Node { what: &'static str, node: usize, attempt: usize, number: u32 },
    Fault { what: &'static str, node: usize },
}

/// What a configuration has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// All tokens are unique and in order, and all attempts can finish, some in one trip, some in more.
    Holds,
    /// As `Holds`, as far as the bounds go.
    HoldsSoFar,
    /// The model finds an error.
    Breaks,
}

impl<const NODES: usize, const ATTEMPTS: usize> Model for Fencing<NODES, ATTEMPTS> {
    type State = State<NODES, ATTEMPTS>;
    type Step = Step;

    fn first_states(&self) -> Vec<Self::State> {
        let choices = self.setup.first_counters + 1;
        let used = self.setup.wants.iter().fold(0_u8, |all, wants| all | wants);
        let now = u8::from(matches!(self.setup.clocks, Clocks::Skewed { .. }));
        let mut states = vec![State::new([[0; RESOURCES]; NODES], now)];
        for (node, resource) in (0..NODES).flat_map(|node| (0..RESOURCES).map(move |which| (node, which))) {
            if used & 1 << resource == 0 {
                continue;
            }
            let with = |state: State<NODES, ATTEMPTS>, counter| {
                let mut state = state;
                state.nodes[node].counters[resource] = counter;
                state.nodes[node].saved[resource] = counter;
                state
            };
            states = states
                .into_iter()
                .flat_map(|state| (0..choices).map(move |counter| with(state, counter)))
                .collect();
        }
        states
    }

    fn steps(&self, state: &Self::State, into: &mut Vec<(Step, Self::State)>) {
        if let Clocks::Skewed { end, .. } = self.setup.clocks
            && state.now < end
        {
            let mut next = *state;
            next.now += 1;
            for node in &mut next.nodes {
                if node.guarded_until <= next.now {
                    node.guarded_until = 0;
                    for with in &mut node.with {
                        mem::take(&mut with.unripe).iter().for_each(|reply| with.replies.note(reply));
                    }
                }
            }
            into.push((Step::Tick, next));
        }
        for attempt in 0..ATTEMPTS {
            self.act(state, attempt, into);
            for node in 0..NODES {
                self.serve(state, node, attempt, into);
            }
        }
        for node in 0..NODES {
            self.befall(state, node, into);
        }
    }

    fn representative(&self, state: &Self::State) -> Self::State {
        state.sorted(self.setup.attempts_alike())
    }

    fn violation(&self, state: &Self::State) -> Option<&'static str> {
        let done = |attempt: &usize| state.attempts[*attempt].phase == Phase::Done;
        for one in (0..ATTEMPTS).filter(done) {
            if state.attempts[one].out_of_order {
                return Some("out of order");
            }
            for other in (0..one).filter(done) {
                let share_a_resource = self.setup.wants[one] & self.setup.wants[other] != 0;
                if share_a_resource && state.attempts[one].token == state.attempts[other].token {
                    return Some("the same token twice");
                }
            }
        }
        None
    }

    fn witnesses(&self, state: &Self::State) -> u8 {
        let done = || state.attempts.iter().filter(|attempt| attempt.phase == Phase::Done);
        let all_done = done().count() == ATTEMPTS;
        let in_trips = |trips| done().any(|attempt| attempt.trips == trips);
        [
            (ALL_DONE, all_done && state.losses == self.setup.losses),
            (ONE_TRIP, in_trips(1)),
            (TWO_TRIPS, in_trips(2)),
            (MORE_TRIPS, in_trips(3)),
        ]
        .into_iter()
        .filter_map(|(bit, is_so)| is_so.then_some(bit))
        .sum()
    }
}

impl<const NODES: usize, const ATTEMPTS: usize> Fencing<NODES, ATTEMPTS> {
    /// Explores it, prints a line, and panics unless the result is the expected one.
    #[allow(clippy::print_stdout)]
    fn check(setup: Setup<ATTEMPTS>, expected: Expected, bounds: Bounds) {
        let explored = explore(&Self { setup }, bounds);
        let seen =
            [(ALL_DONE, "all done"), (ONE_TRIP, "1 trip"), (TWO_TRIPS, "2 trips"), (MORE_TRIPS, "3 or more")];
        let seen = seen.into_iter().filter(|(bit, _)| explored.witnesses & bit != 0);
        let shown = seen.map(|(_, name)| name).collect::<Vec<_>>().join(", ");
        let end = match &explored.end {
            End::Holds => "holds",
            End::OutOfBounds => "out of bounds",
            End::Violated(wrong, _) => wrong,
        };
        println!(
            "{:<62} {NODES} nodes {ATTEMPTS} attempts: {end}; {} states, {} transitions, depth {}, {:.1} s; seen: {shown}",
            setup.name,
            explored.states,
            explored.transitions,
            explored.depth,
            explored.took.as_secs_f64()
        );
        match (&explored.end, expected) {
            (End::Holds, Expected::Holds) | (End::Holds | End::OutOfBounds, Expected::HoldsSoFar) => {
                let needed = ALL_DONE | ONE_TRIP | TWO_TRIPS;
                assert_eq!(explored.witnesses & needed, needed, "{}: only {shown}", setup.name);
            }
            (End::Violated(..), Expected::Breaks) => {}
            (End::Violated(wrong, path), Expected::Holds | Expected::HoldsSoFar) => {
                panic!("{}: {wrong}\n{}", setup.name, path.join("\n"))
            }
            (end, expected) => panic!("{}: expected {expected:?}, found {end:?}", setup.name),
        }
    }
}

/// For the unit tests.
const SMALL: Bounds = Bounds { states: 1_000_000, time: Duration::from_secs(60) };
/// For the large models, of which each has to end within them.
const LARGE: Bounds = Bounds { states: 150_000_000, time: Duration::from_secs(900) };
/// For models that no search finishes soon.
const HUGE: Bounds = Bounds { states: 5_000_000, ..LARGE };

/// Every attempt is done, and as many nodes as may have lost data.
const ALL_DONE: u8 = 1;
/// Some attempt has its token after so many trips.
const ONE_TRIP: u8 = 2;
const TWO_TRIPS: u8 = 4;
const MORE_TRIPS: u8 = 8;
