//! Checks the tokens as they come.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// The tokens of all locks, and what is wrong with them.
#[derive(Debug, Default)]
pub struct Judge {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// For each resource and token, the client.
    tokens: HashMap<(&'static str, u64), usize>,
    /// For each resource, the highest token of a lock that was won.
    highest: HashMap<&'static str, u64>,
    /// For each resource, the token of the lock that was won last, and until when it is valid.
    held: HashMap<&'static str, (u64, Instant)>,
    /// For each resource, how many locks there were.
    wins: HashMap<&'static str, u64>,
    acquires: u64,
    overlaps: u64,
    violations: Vec<Violation>,
}

/// What tokens never do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two locks have the same token.
    Twice {
        /// The resource.
        resource: &'static str,
        /// The token.
        token: u64,
        /// The clients.
        clients: [usize; 2],
    },
    /// A lock that was requested after another one was won has no higher token.
    Order {
        /// The client.
        client: usize,
        /// The resources.
        resources: &'static [&'static str],
        /// Its token.
        token: u64,
        /// That of the lock before.
        before: u64,
    },
}

impl Judge {
    /// Before a request. Returns the highest token of a lock on one of the resources that was won before.
    pub(super) fn begin(&self, resources: &'static [&'static str]) -> u64 {
        let state = self.state();
        resources.iter().filter_map(|resource| state.highest.get(resource)).max().copied().unwrap_or(0)
    }

    /// After a request that began then and has won.
    pub(super) fn complete(
        &self,
        client: usize,
        resources: &'static [&'static str],
        before: u64,
        token: u64,
        until: Instant,
    ) {
        let mut state = self.state();
        state.acquires += 1;
        if token <= before {
            state.violations.push(Violation::Order { client, resources, token, before });
        }
        let now = Instant::now();
        for &resource in resources {
            *state.wins.entry(resource).or_default() += 1;
            if let Some(other) = state.tokens.insert((resource, token), client) {
                state.violations.push(Violation::Twice { resource, token, clients: [other, client] });
            }
            let highest = state.highest.entry(resource).or_default();
            *highest = token.max(*highest);
            let held = state.held.insert(resource, (token, until));
            state.overlaps += u64::from(held.is_some_and(|(_, until)| until > now));
        }
    }

    /// Before a lock is given back.
    pub(super) fn over(&self, resources: &'static [&'static str], token: u64) {
        let mut state = self.state();
        for resource in resources {
            if state.held.get(resource).is_some_and(|(last, _)| *last == token) {
                state.held.remove(resource);
            }
        }
    }

    /// For each resource, how many locks were won.
    pub(super) fn wins(&self) -> HashMap<&'static str, u64> {
        self.state().wins.clone()
    }

    pub(super) fn has_violations(&self) -> bool {
        !self.state().violations.is_empty()
    }

    /// How many locks there were, how many of them while another one was still held, and what is wrong.
    pub(super) fn verdict(&self) -> (u64, u64, Vec<Violation>) {
        let state = self.state();
        (state.acquires, state.overlaps, state.violations.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice { resource, token, clients: [one, other] } => {
                write!(f, "clients {one} and {other} have the token {token} for {resource}")
            }
            Self::Order { client, resources, token, before } => {
                write!(
                    f,
                    "client {client} has {token} for {resources:?}, and {before} was won before it began"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_twice_and_a_token_out_of_order_are_violations() {
        let (x, both): (&[&str], &[&str]) = (&["x"], &["x", "y"]);
        let judge = Judge::default();
        let complete = |client, resources, begun, token| {
            judge.complete(client, resources, begun, token, Instant::now());
        };
        let (first, second) = (judge.begin(x), judge.begin(both));
        complete(1, x, first, 7);
        complete(2, both, second, 5);
        assert!(!judge.has_violations(), "they were requested at the same time");
        assert_eq!([judge.begin(x), judge.begin(&["y"])], [7, 5]);
        let begun = judge.begin(both);
        complete(3, both, begun, 6);
        complete(4, &["y"], 0, 6);
        let (acquires, _, violations) = judge.verdict();
        assert_eq!(acquires, 4);
        assert_eq!(
            violations,
            [
                Violation::Order { client: 3, resources: both, token: 6, before: 7 },
                Violation::Twice { resource: "y", token: 6, clients: [3, 4] },
            ]
        );
    }
}
