//! Which keys the watches of one connection wait for, which of them to read, and who is woken. There is no
//! clock and no async.

// Tests: below.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::resources::Resources;

/// The keys that are watched over one connection. The server remembers which of them the connection has read,
/// and reports the next change of each.
///
/// Many watches of a key share one reading of it. A report, and a change that nobody watches, cost no memory.
#[derive(Debug)]
pub(super) struct WatchedKeys<W> {
    keys: BTreeMap<Arc<str>, Key>,
    watches: BTreeMap<u64, Watching<W>>,
    /// The keys whose state is not known, and has not been asked for.
    unread: BTreeSet<Arc<str>>,
    next: u64,
}

#[derive(Debug)]
struct Key {
    known: Known,
    watches: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    /// Nothing, and it has been asked for. A change that is reported meanwhile may be newer than the answer.
    Asked {
        changed: bool,
    },
    Held,
    Free,
}

#[derive(Debug)]
struct Watching<W> {
    names: Vec<Arc<str>>,
    eager: bool,
    waker: W,
}

impl<W> WatchedKeys<W> {
    /// A watch of all of these keys, which ends when they are free; an eager one already when that is possible
    /// after a report. Returns its number.
    pub(super) fn add(&mut self, resources: &Resources, eager: bool, waker: W) -> u64 {
        let number = self.next;
        self.next += 1;
        let mut names = Vec::new();
        for name in resources.iter() {
            let known = self.keys.get_key_value(name);
            let name = known.map_or_else(|| Arc::from(name), |(name, _)| name.clone());
            let key = self.keys.entry(name.clone()).or_insert_with(|| {
                self.unread.insert(name.clone());
                Key { known: Known::Nothing, watches: BTreeSet::new() }
            });
            key.watches.insert(number);
            names.push(name);
        }
        // If all of them are known to be free, nothing else would end it.
        if names.iter().all(|name| self.keys[name].known == Known::Free) {
            names.iter().for_each(|name| self.read_again(name));
        }
        self.watches.insert(number, Watching { names, eager, waker });
        number
    }

    /// Ends a watch, unless it has ended.
    pub(super) fn remove(&mut self, number: u64) -> Option<W> {
        let watching = self.watches.remove(&number)?;
        for name in watching.names {
            if let Some(key) = self.keys.get_mut(&name) {
                key.watches.remove(&number);
                if key.watches.is_empty() {
                    self.keys.remove(&name);
                    self.unread.remove(&name);
                }
            }
        }
        Some(watching.waker)
    }

    /// The next keys to read, `most` of them.
    pub(super) fn take_unread(&mut self, most: usize) -> Vec<Arc<str>> {
        let names: Vec<_> = self.unread.iter().take(most).cloned().collect();
        for name in &names {
            self.unread.remove(name);
            if let Some(key) = self.keys.get_mut(name) {
                key.known = Known::Asked { changed: false };
            }
        }
        names
    }

    /// The answer for a key. Returns the watches that end with it.
    pub(super) fn read(&mut self, name: &str, is_free: bool) -> Vec<W> {
        let Some((name, key)) = self.keys.get_key_value(name) else { return Vec::new() };
        let (name, Known::Asked { changed }) = (name.clone(), key.known) else { return Vec::new() };
        let known = if is_free { Known::Free } else { Known::Held };
        let mut ended = Vec::new();
        if let Some(key) = self.keys.get_mut(&name) {
            key.known = known;
            if is_free {
                ended.extend(key.watches.iter().copied());
            }
        }
        let is_free = |name: &Arc<str>| self.keys.get(name).is_none_or(|key| key.known == Known::Free);
        ended.retain(|number| {
            self.watches.get(number).is_some_and(|watching| watching.names.iter().all(is_free))
        });
        let mut ended: Vec<W> = ended.into_iter().filter_map(|number| self.remove(number)).collect();
        if changed {
            ended.extend(self.changed(&name));
        }
        ended
    }

    /// Ends the watches of a key whose state cannot be learnt.
    pub(super) fn give_up(&mut self, name: &str) -> Vec<W> {
        let numbers = self.keys.get(name).map(|key| key.watches.clone()).unwrap_or_default();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// The server reports that a key has been changed, has expired, or has been removed. Returns the watches
    /// that end with that: the eager ones, unless another of their keys is held, or asked for: a key may not be
    /// forgotten before its answer is there. The others wait for what is read now.
    pub(super) fn changed(&mut self, name: &str) -> Vec<W> {
        let was_held = self.keys.get(name).is_some_and(|key| key.known == Known::Held);
        self.read_again(name);
        let Some(key) = self.keys.get(name).filter(|_| was_held) else { return Vec::new() };
        let may_be_free = |name: &Arc<str>| {
            self.keys.get(name).is_none_or(|key| matches!(key.known, Known::Free | Known::Nothing))
        };
        let ends = |number: &u64| {
            self.watches
                .get(number)
                .is_some_and(|watching| watching.eager && watching.names.iter().all(may_be_free))
        };
        let ended: Vec<u64> = key.watches.iter().copied().filter(ends).collect();
        ended.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// Any key may have been changed.
    pub(super) fn all_changed(&mut self) {
        let names: Vec<_> = self.keys.keys().cloned().collect();
        names.iter().for_each(|name| self.read_again(name));
    }

    fn read_again(&mut self, name: &str) {
        let Some((name, _)) = self.keys.get_key_value(name) else { return };
        let name = name.clone();
        let Some(key) = self.keys.get_mut(&name) else { return };
        match &mut key.known {
            Known::Asked { changed } => *changed = true,
            known => {
                *known = Known::Nothing;
                self.unread.insert(name);
            }
        }
    }

    /// Ends all watches.
    pub(super) fn end_all(&mut self) -> Vec<W> {
        self.keys.clear();
        self.unread.clear();
        std::mem::take(&mut self.watches).into_values().map(|watching| watching.waker).collect()
    }

    /// Whether there is a key to read.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }
}

impl<W> Default for WatchedKeys<W> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), watches: BTreeMap::new(), unread: BTreeSet::new(), next: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn unread(keys: &mut WatchedKeys<u8>) -> Vec<String> {
        keys.take_unread(9).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_key_is_read_once_for_all_of_its_watches_and_again_after_each_change() {
        let mut keys = WatchedKeys::default();
        keys.add(&"a".into(), false, 1);
        keys.add(&"a".into(), false, 2);
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.read("a", false), []);
        keys.add(&"a".into(), false, 3);
        assert_eq!(unread(&mut keys), [""; 0], "the server reports the next change");
        keys.changed("a");
        keys.changed("a");
        assert_eq!(keys.changed("unknown"), []);
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.read("a", false), [], "an extension, or another owner");
        keys.all_changed();
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.read("a", true), [1, 2, 3]);
        assert!(keys.is_empty() && keys.keys.is_empty());
    }

    #[test]
    fn a_change_that_is_reported_before_the_answer_is_read_counts() {
        let mut keys = WatchedKeys::default();
        keys.add(&"a".into(), false, 1);
        assert_eq!(unread(&mut keys), ["a"]);
        keys.changed("a");
        assert_eq!(unread(&mut keys), [""; 0], "one question at a time");
        assert_eq!(keys.read("a", false), []);
        assert_eq!(unread(&mut keys), ["a"]);
        keys.changed("a");
        assert_eq!(keys.read("a", true), [1]);
    }

    #[test]
    fn several_keys_have_to_be_free_at_one_time() {
        let mut keys = WatchedKeys::default();
        keys.add(&["a", "b"].into(), false, 1);
        keys.add(&"b".into(), false, 2);
        assert_eq!(unread(&mut keys), ["a", "b"]);
        assert_eq!(keys.read("a", true), []);
        assert_eq!(keys.read("b", false), []);
        keys.changed("a");
        keys.changed("b");
        assert_eq!(unread(&mut keys), ["a", "b"]);
        assert_eq!(keys.read("b", true), [2], "a is not known any more");
        assert_eq!(keys.read("a", false), []);
        keys.changed("a");
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.read("a", true), [1]);
    }

    #[test]
    fn an_eager_watch_ends_with_a_report_and_the_others_with_what_is_read_then() {
        let mut keys = WatchedKeys::default();
        keys.add(&"a".into(), true, 1);
        assert_eq!(keys.changed("a"), [], "it has not been asked for");
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.read("a", false), []);
        keys.add(&"a".into(), false, 2);
        keys.all_changed();
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.read("a", false), [], "it was not reported");
        assert_eq!(keys.changed("a"), [1]);
        assert_eq!(unread(&mut keys), ["a"]);
        keys.add(&"a".into(), true, 3);
        assert_eq!(keys.changed("a"), [], "while it is asked for");
        assert_eq!(keys.read("a", false), [3]);
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.read("a", true), [2]);
        keys.add(&"a".into(), true, 4);
        unread(&mut keys);
        assert_eq!(keys.read("a", false), []);
        assert_eq!(keys.changed("a"), [4]);
        assert!(keys.is_empty() && keys.keys.is_empty() && keys.unread.is_empty());
    }

    #[test]
    fn an_eager_watch_of_several_keys_waits_while_another_one_is_held_or_asked_for() {
        let mut keys = WatchedKeys::default();
        keys.add(&["a", "b"].into(), true, 1);
        unread(&mut keys);
        assert_eq!(keys.read("a", false), []);
        assert_eq!(keys.changed("a"), []);
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.read("a", false), []);
        assert_eq!(keys.read("b", false), []);
        assert_eq!(keys.changed("a"), []);
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.read("a", true), []);
        assert_eq!(keys.changed("b"), [1]);
    }

    #[test]
    fn a_watch_of_keys_that_are_known_to_be_free_reads_them_again() {
        let mut keys = WatchedKeys::default();
        keys.add(&["a", "b"].into(), false, 1);
        unread(&mut keys);
        assert_eq!(keys.read("a", true), []);
        assert_eq!(keys.read("b", false), []);
        keys.add(&"a".into(), false, 2);
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.read("a", true), [2]);
    }

    #[test]
    fn a_key_that_nobody_watches_any_more_is_forgotten_and_its_answer_is_nobodys() {
        let mut keys = WatchedKeys::default();
        let first = keys.add(&"a".into(), false, 1);
        let second = keys.add(&"a".into(), false, 2);
        unread(&mut keys);
        assert_eq!(keys.remove(first), Some(1));
        assert_eq!(keys.remove(first), None);
        keys.remove(second);
        assert!(keys.keys.is_empty());
        keys.add(&"a".into(), false, 3);
        assert_eq!(keys.read("a", true), [], "the answer to the question before");
        assert_eq!(unread(&mut keys), ["a"]);
        assert_eq!(keys.give_up("a"), [3]);
        keys.add(&"a".into(), false, 4);
        assert_eq!(keys.end_all(), [4]);
        assert!(keys.is_empty() && keys.unread.is_empty());
    }

    /// A server, which reports the next change of each key that was read, and the client's reader, which reads
    /// what it sent in order: reports take effect at once, and answers later.
    #[derive(Default)]
    struct Model {
        keys: WatchedKeys<u32>,
        live: BTreeSet<u32>,
        watches: u32,
        held: [bool; 3],
        tracked: [bool; 3],
        wire: VecDeque<(usize, Option<bool>)>,
        answers: VecDeque<(usize, bool)>,
    }

    impl Model {
        fn step(&mut self, step: u8, key: usize) {
            match step {
                0 | 1 => {
                    self.held[key] = step == 0;
                    if std::mem::take(&mut self.tracked[key]) {
                        self.wire.push_back((key, None));
                    }
                }
                2 | 3 => {
                    let both = Resources::from([NAMES[key], NAMES[(key + 1) % 3]]);
                    let names = if step == 2 { NAMES[key].into() } else { both };
                    self.keys.add(&names, self.watches % 2 == 1, self.watches);
                    self.live.insert(self.watches);
                    self.watches += 1;
                }
                4 => {
                    for name in self.keys.take_unread(2) {
                        let key = NAMES.iter().position(|other| **other == *name).unwrap();
                        self.tracked[key] = true;
                        self.wire.push_back((key, Some(!self.held[key])));
                    }
                }
                5 => match self.wire.pop_front() {
                    Some((key, Some(is_free))) => self.answers.push_back((key, is_free)),
                    Some((key, None)) => {
                        let ended = self.keys.changed(NAMES[key]);
                        self.end(ended);
                    }
                    None => {}
                },
                _ => {
                    if let Some((key, is_free)) = self.answers.pop_front() {
                        let ended = self.keys.read(NAMES[key], is_free);
                        self.end(ended);
                    }
                }
            }
        }
    }

    impl Model {
        fn end(&mut self, ended: Vec<u32>) {
            for watch in ended {
                assert!(self.live.remove(&watch), "it ends twice");
            }
        }
    }

    const NAMES: [&str; 3] = ["a", "b", "c"];

    proptest! {
        /// Whatever happened before: when the keys are free and stay so, every watch ends.
        #[test]
        fn no_watch_is_missed(steps in prop::collection::vec((0..7_u8, 0..3_usize), 1..80)) {
            let mut model = Model::default();
            steps.into_iter().for_each(|(step, key)| model.step(step, key));
            (0..3).for_each(|key| model.step(1, key));
            for _ in 0..300 {
                [4, 5, 6].into_iter().for_each(|step| model.step(step, 0));
            }
            prop_assert!(model.live.is_empty() && model.keys.is_empty(), "{:?}", model.keys);
            prop_assert!(model.keys.keys.is_empty() && model.keys.unread.is_empty());
        }
    }
}
