//! The keys of a node, or its counters, by name and by when they expire.

// Tests: below.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

/// Keys that expire. No operation iterates over all of them: each change takes logarithmic time, and an index
/// by time has the expired ones at its front.
#[derive(Debug)]
pub(super) struct Keys<V = String, T = Instant> {
    by_name: BTreeMap<Arc<str>, Key<V, T>>,
    by_expiry: BTreeSet<(T, Arc<str>)>,
}

/// The value at a name. It changes only through [`Keys`], which keeps the index.
#[derive(Debug)]
pub(super) struct Key<V = String, T = Instant> {
    value: V,
    expires: T,
}

impl<V: Clone, T: Copy + Ord> Keys<V, T> {
    /// Stores a value until `expires`, in place of the old one.
    pub(super) fn put(&mut self, name: &str, value: V, expires: T) {
        self.remove(name);
        let name: Arc<str> = name.into();
        self.by_expiry.insert((expires, name.clone()));
        self.by_name.insert(name, Key { value, expires });
    }

    /// Lets a key live until `expires`, or longer if it already does.
    pub(super) fn extend_to(&mut self, name: &str, expires: T) {
        let Some((name, key)) = self.by_name.get_key_value(name) else { return };
        if key.expires < expires {
            let (name, key) = (name.clone(), key.value.clone());
            self.put(&name, key, expires);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some((name, key)) = self.by_name.remove_entry(name) {
            self.by_expiry.remove(&(key.expires, name));
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_name.clear();
        self.by_expiry.clear();
    }

    /// Removes the keys that have expired.
    pub(super) fn expire(&mut self, now: T) {
        while self.by_expiry.first().is_some_and(|(expires, _)| *expires <= now) {
            if let Some((_, name)) = self.by_expiry.pop_first() {
                self.by_name.remove(&name);
            }
        }
    }

    /// A key that has not expired.
    pub(super) fn get(&self, name: &str, now: T) -> Option<&Key<V, T>> {
        self.by_name.get(name).filter(|key| key.expires > now)
    }

    /// The number of keys, including expired ones that have not been removed yet.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }
}

impl<V, T: Copy> Key<V, T> {
    pub(super) fn value(&self) -> &V {
        &self.value
    }

    pub(super) fn expires(&self) -> T {
        self.expires
    }
}

impl<V, T> Default for Keys<V, T> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new(), by_expiry: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, cmp::Ordering};

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        static COMPARED: Cell<u64> = const { Cell::new(0) };
    }

    /// A time that counts how often it is compared.
    #[derive(Clone, Copy, Debug)]
    struct Time(u64);

    impl Ord for Time {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARED.set(COMPARED.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Time {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Time {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }

    impl Eq for Time {}

    /// How many times one request of each kind compares.
    fn looks(number: u64) -> u64 {
        let mut keys = Keys::default();
        for name in 0..number {
            keys.put(&name.to_string(), String::new(), Time(1_000 + name));
        }
        COMPARED.set(0);
        for now in 0..3 {
            keys.expire(Time(now));
            match now {
                0 => keys.put("new", String::new(), Time(1_500)),
                1 => keys.extend_to("500", Time(number * 2)),
                _ => keys.remove("700"),
            }
        }
        assert_eq!(keys.len() as u64, number);
        COMPARED.get()
    }

    #[test]
    fn a_request_does_not_look_at_every_key() {
        let (few, many) = (looks(1_000), looks(100_000));
        assert!(many < few * 3, "{few} of 1,000 keys, {many} of 100,000");
        assert!(many < 300, "{many}");
    }

    proptest! {
        /// The index leaves the same keys as an iteration over all would.
        #[test]
        fn keys_behave_like_a_plain_list(
            steps in prop::collection::vec((0..5_u8, 0..4_u8, 1..20_u64, 0..3_u64), 1..60),
        ) {
            let (mut keys, mut list, mut now) = (Keys::default(), BTreeMap::new(), 0);
            for (step, name, ttl, passes) in steps {
                now += passes;
                let name = name.to_string();
                let expires = now + ttl;
                match step {
                    0 | 1 => {
                        keys.put(&name, ttl.to_string(), expires);
                        list.insert(name.clone(), (ttl.to_string(), expires));
                    }
                    2 => {
                        keys.extend_to(&name, expires);
                        if let Some((_, until)) = list.get_mut(&name) {
                            *until = expires.max(*until);
                        }
                    }
                    3 => {
                        keys.remove(&name);
                        list.remove(&name);
                    }
                    _ => {
                        keys.expire(now);
                        list.retain(|_, (_, until)| *until > now);
                        prop_assert_eq!(keys.len(), list.len());
                    }
                }
                prop_assert_eq!(keys.by_expiry.len(), keys.len());
                let live = keys.get(&name, now).map(|key| (key.value().to_owned(), key.expires()));
                prop_assert_eq!(live, list.get(&name).filter(|(_, until)| *until > now).cloned());
            }
        }
    }
}
