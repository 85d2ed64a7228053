//! Depth-first search through every state of a model. Of a state that it has left it keeps a fingerprint.

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    time::{Duration, Instant},
};

/// States, the steps between them, and what may not happen.
pub(super) trait Model {
    type State: Copy + Hash + fmt::Debug;
    type Step: Copy + fmt::Debug;

    fn first_states(&self) -> Vec<Self::State>;

    /// Adds every state that is one step away.
    fn steps(&self, state: &Self::State, into: &mut Vec<(Self::Step, Self::State)>);

    /// One state for all that differ in names only.
    fn representative(&self, state: &Self::State) -> Self::State;

    /// What is wrong with the state.
    fn violation(&self, state: &Self::State) -> Option<&'static str>;

    /// What the state shows to be possible, as bits.
    fn witnesses(&self, state: &Self::State) -> u8;
}

/// Where the search stops, finished or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) states: usize,
    pub(super) time: Duration,
}

#[derive(Debug)]
pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) transitions: u64,
    pub(super) depth: usize,
    /// The bits of all states.
    pub(super) witnesses: u8,
    pub(super) end: End,
    pub(super) took: Duration,
}

#[derive(Debug)]
pub(super) enum End {
    /// Every state has been seen, and nothing is wrong.
    Holds,
    /// Bounds ended the search before it was finished.
    OutOfBounds,
    /// What is wrong, and a path to it: not the shortest one, and names may change on it.
    Violated(&'static str, Vec<String>),
}

#[allow(clippy::disallowed_methods, reason = "the time of a search is no part of its result")]
pub(super) fn explore<M: Model>(model: &M, bounds: Bounds) -> Explored {
    let start = Instant::now();
    let mut seen: HashSet<u64, BuildHasherDefault<AsItIs>> = HashSet::default();
    let mut open = Vec::new();
    let mut path: Vec<(Option<M::Step>, M::State)> = Vec::new();
    let mut next = Vec::new();
    let mut explored =
        Explored { states: 0, transitions: 0, depth: 0, witnesses: 0, end: End::Holds, took: Duration::ZERO };
    for state in model.first_states() {
        let state = model.representative(&state);
        if seen.insert(fingerprint(&state)) {
            open.push((0, None, state));
        }
    }
    while let Some((depth, step, state)) = open.pop() {
        path.truncate(depth);
        path.push((step, state));
        explored.states += 1;
        explored.depth = explored.depth.max(depth);
        explored.witnesses |= model.witnesses(&state);
        if let Some(wrong) = model.violation(&state) {
            let lines = path.iter().map(|(step, state)| format!("{step:?}\n      {state:?}")).collect();
            explored.end = End::Violated(wrong, lines);
            break;
        }
        let now_and_then = explored.states.is_multiple_of(1 << 14);
        if explored.states >= bounds.states || now_and_then && start.elapsed() > bounds.time {
            explored.end = End::OutOfBounds;
            break;
        }
        next.clear();
        model.steps(&state, &mut next);
        explored.transitions += next.len() as u64;
        for (step, state) in next.drain(..) {
            let state = model.representative(&state);
            if seen.insert(fingerprint(&state)) {
                open.push((depth + 1, Some(step), state));
            }
        }
    }
    explored.took = start.elapsed();
    explored
}

/// 64 bits: among 10^8 states, two have the same ones with a probability of 3 in 10,000.
fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = Folded(SEED);
    state.hash(&mut hasher);
    hasher.finish()
}

/// Multiplies, and folds the halves of the product: the standard hasher takes longer than a step.
struct Folded(u64);

impl Folded {
    fn add(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        self.0 = (product as u64 ^ (product >> 64) as u64).wrapping_add(SEED);
    }
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.add(u64::from(number));
    }

    fn write_u32(&mut self, number: u32) {
        self.add(u64::from(number));
    }

    /// A variant of an enum.
    fn write_isize(&mut self, number: isize) {
        self.add(number as u64);
    }

    /// The length of an array, which never differs.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        let product = u128::from(self.0 ^ FACTOR) * u128::from(SEED);
        product as u64 ^ (product >> 64) as u64
    }
}

/// Of a fingerprint, which is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are hashed");
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

#[cfg(test)]
mod tests {
    use super::*;

    /// Two counters, each counting to a bound. Their names do not matter.
    struct Counters {
        bound: u8,
        forbidden: [u8; 2],
    }

    impl Model for Counters {
        type State = [u8; 2];
        type Step = usize;

        fn first_states(&self) -> Vec<[u8; 2]> {
            vec![[0, 0]]
        }

        fn steps(&self, state: &[u8; 2], into: &mut Vec<(usize, [u8; 2])>) {
            for which in (0..2).filter(|which| state[*which] < self.bound) {
                let mut next = *state;
                next[which] += 1;
                into.push((which, next));
            }
        }

        fn representative(&self, state: &[u8; 2]) -> [u8; 2] {
            [state[0].min(state[1]), state[0].max(state[1])]
        }

        fn violation(&self, state: &[u8; 2]) -> Option<&'static str> {
            (*state == self.forbidden).then_some("forbidden")
        }

        fn witnesses(&self, state: &[u8; 2]) -> u8 {
            u8::from(*state == [self.bound; 2])
        }
    }

    const BOUNDS: Bounds = Bounds { states: 1000, time: Duration::from_secs(60) };

    #[test]
    fn every_state_is_visited_once() {
        let explored = explore(&Counters { bound: 9, forbidden: [9, 0] }, BOUNDS);
        assert!(matches!(explored.end, End::Holds), "{explored:?}");
        assert_eq!((explored.states, explored.transitions, explored.depth), (55, 99, 18));
        assert_eq!(explored.witnesses, 1);
    }

    #[test]
    fn a_violation_is_found_with_a_path_to_it() {
        let explored = explore(&Counters { bound: 9, forbidden: [3, 4] }, BOUNDS);
        let End::Violated("forbidden", path) = explored.end else { panic!("{explored:?}") };
        assert_eq!(path.len(), 3 + 4 + 1);
        assert!(path[0].contains("[0, 0]") && path[7].contains("[3, 4]"), "{path:?}");
    }

    #[test]
    fn bounds_end_a_search() {
        let explored = explore(&Counters { bound: 99, forbidden: [99, 0] }, BOUNDS);
        assert!(matches!(explored.end, End::OutOfBounds), "{explored:?}");
        assert_eq!(explored.states, 1000);
    }
}
