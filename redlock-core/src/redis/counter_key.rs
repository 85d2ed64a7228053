//! The key of a resource's counter.

// Tests: below; tests/tests/it/servers/fencing.rs.

use std::fmt;

/// The key at which a server keeps the counter of a resource, for its fencing tokens.
///
/// Its `Display` is the key: for the resource `a` it is `{a}:fence`, and for one whose name contains a `}`,
/// such as `{a}:b`, it is `{a}:b.fence`. No two resources share a counter. On a Cluster, a counter is in the
/// slot of its resource, with one exception: a name that contains a `}`, but has no hash tag (`a}b`, `{}a`).
/// A Cluster rejects that one with `CROSSSLOT`.
///
/// A resource whose name is the key of another's counter should not be locked. While a client holds such a
/// lock, fenced requests for the other resource are rejected, and while the counter is there, nobody gets
/// that lock.
///
/// ```
/// use redlock_core::redis::CounterKey;
///
/// assert_eq!(CounterKey::of("report").to_string(), "{report}:fence");
/// assert_eq!(CounterKey::of("{account:1}:balance").to_string(), "{account:1}:balance.fence");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CounterKey<'a> {
    resource: &'a str,
}

impl<'a> CounterKey<'a> {
    /// That of a resource.
    #[must_use]
    pub fn of(resource: &'a str) -> Self {
        Self { resource }
    }

    /// What the key consists of, one behind the other. A client that copies them into its command needs no
    /// string for the key.
    #[must_use]
    pub fn parts(self) -> [&'a str; 3] {
        // The ends differ, so a key of one form is none of the other.
        if self.resource.contains('}') {
            ["", self.resource, ".fence"]
        } else {
            // The whole name becomes the hash tag.
            ["{", self.resource, "}:fence"]
        }
    }
}

impl fmt::Display for CounterKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().into_iter().try_for_each(|part| f.write_str(part))
    }
}

/// As a string.
impl fmt::Debug for CounterKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// As the Cluster specification says: the CRC16 (XMODEM) of the hash tag, or else of the whole key.
    fn slot(key: &str) -> u16 {
        let hashed = key.find('{').and_then(|open| {
            let behind = &key[open + 1..];
            behind.find('}').filter(|close| *close > 0).map(|close| &behind[..close])
        });
        let mut crc = 0_u16;
        for byte in hashed.unwrap_or(key).bytes() {
            crc ^= u16::from(byte) << 8;
            for _ in 0..8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            }
        }
        crc % 16_384
    }

    #[test]
    fn the_slots_of_this_test_are_those_of_the_specification() {
        assert_eq!(slot("123456789"), 0x31c3);
        assert_eq!(slot("foo"), 12_182);
        assert_eq!(slot("{foo}.bar"), slot("foo"));
        assert_ne!(slot("bar{}{foo}"), slot("foo"), "only the first brace matters");
    }

    /// Every name of up to six characters out of those that matter.
    fn names() -> impl Iterator<Item = String> {
        let letters = ['{', '}', 'a', ':'];
        (1..=6_u32).flat_map(move |length| {
            (0..4_usize.pow(length)).map(move |code| {
                let letter = |place| letters[code / 4_usize.pow(place) % 4];
                (0..length).map(letter).collect()
            })
        })
    }

    #[test]
    fn a_counter_is_in_its_resources_slot_unless_the_name_has_a_brace_and_no_tag() {
        let has_tag = |name: &str| {
            name.split_once('{')
                .and_then(|(_, behind)| behind.split_once('}'))
                .is_some_and(|(tag, _)| !tag.is_empty())
        };
        let mut exceptions = 0;
        for name in names() {
            let key = CounterKey::of(&name).to_string();
            if has_tag(&name) || !name.contains('}') {
                assert_eq!(slot(&key), slot(&name), "{name}: {key}");
            } else {
                exceptions += 1;
            }
        }
        assert!(exceptions > 0);
    }

    #[test]
    fn no_two_resources_share_a_counter_and_none_is_its_own() {
        let mut keys: HashMap<String, String> = HashMap::new();
        // With what could be taken for the end of a key.
        let ends = [":fence", ".fence", "}:fence", "}.fence"];
        let with_ends = ends.map(|end| names().map(move |name| format!("{name}{end}")));
        for name in names().chain(with_ends.into_iter().flatten()) {
            let key = CounterKey::of(&name).to_string();
            assert_ne!(key, name);
            if let Some(other) = keys.insert(key, name.clone()) {
                assert_eq!(other, name, "one counter");
            }
        }
        for (name, key) in [("a", "{a}:fence"), ("{a}", "{a}.fence"), ("a{a", "{a{a}:fence")] {
            assert_eq!(keys.get(key).map(String::as_str), Some(name));
        }
    }
}
