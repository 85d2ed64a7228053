//! The keys beside a resource's: of its counter, and of its note.

// Tests: below; tests/tests/it/servers/fencing.rs, servers/notes.rs.

use std::fmt;

/// A key that belongs to a resource: of the counter for its fencing tokens, or of the note of its holder.
///
/// Its `Display` is the key: for the resource `a` it is `{a}:fence` or `{a}:note`, and for one whose name
/// contains a `}`, such as `{a}:b`, it is `{a}:b.fence` or `{a}:b.note`. No two resources share such a key.
/// On a Cluster, it is in the slot of its resource, with one exception: a name that contains a `}`, but has
/// no hash tag (`a}b`, `{}a`). A Cluster rejects requests that need both keys with `CROSSSLOT` there.
///
/// A resource whose name is such a key of another one should not be locked. While the counter or the note
/// is there, nobody gets that lock. While a client holds such a lock, requests that would need the counter
/// are rejected, and no note is written.
///
/// ```
/// use redlock_core::redis::SideKey;
///
/// assert_eq!(SideKey::counter("report").to_string(), "{report}:fence");
/// assert_eq!(SideKey::note("{account:1}:balance").to_string(), "{account:1}:balance.note");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SideKey<'a> {
    resource: &'a str,
    kind: SideKind,
}

/// What is stored beside a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SideKind {
    Counter,
    Note,
}

impl<'a> SideKey<'a> {
    /// That of a resource's counter for fencing tokens.
    #[must_use]
    pub fn counter(resource: &'a str) -> Self {
        Self::new(resource, SideKind::Counter)
    }

    /// That of the note of a resource's holder.
    #[must_use]
    pub fn note(resource: &'a str) -> Self {
        Self::new(resource, SideKind::Note)
    }

    pub(super) fn new(resource: &'a str, kind: SideKind) -> Self {
        Self { resource, kind }
    }

    /// What the key consists of, one behind the other. A client that copies them into its command needs no
    /// string for the key.
    #[must_use]
    pub fn parts(self) -> [&'a str; 3] {
        // The ends differ, so a key of one form is none of the other.
        let (behind_a_tag, within) = match self.kind {
            SideKind::Counter => (".fence", "}:fence"),
            SideKind::Note => (".note", "}:note"),
        };
        if self.resource.contains('}') {
            ["", self.resource, behind_a_tag]
        } else {
            // The whole name becomes the hash tag.
            ["{", self.resource, within]
        }
    }
}

impl fmt::Display for SideKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().into_iter().try_for_each(|part| f.write_str(part))
    }
}

/// As a string.
impl fmt::Debug for SideKey<'_> {
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

    const KINDS: [SideKind; 2] = [SideKind::Counter, SideKind::Note];

    #[test]
    fn a_side_key_is_in_its_resources_slot_unless_the_name_has_a_brace_and_no_tag() {
        let has_tag = |name: &str| {
            name.split_once('{')
                .and_then(|(_, behind)| behind.split_once('}'))
                .is_some_and(|(tag, _)| !tag.is_empty())
        };
        let mut exceptions = 0;
        for (name, kind) in names().flat_map(|name| KINDS.map(|kind| (name.clone(), kind))) {
            let key = SideKey::new(&name, kind).to_string();
            if has_tag(&name) || !name.contains('}') {
                assert_eq!(slot(&key), slot(&name), "{name}: {key}");
            } else {
                exceptions += 1;
            }
        }
        assert!(exceptions > 0);
    }

    #[test]
    fn no_two_resources_share_a_side_key_and_none_is_its_own() {
        let mut keys: HashMap<String, (String, SideKind)> = HashMap::new();
        // With what could be taken for the end of a key.
        let ends = [":fence", ".fence", "}:fence", "}.fence", ":note", ".note", "}:note", "}.note"];
        let with_ends = ends.map(|end| names().map(move |name| format!("{name}{end}")));
        for name in names().chain(with_ends.into_iter().flatten()) {
            for kind in KINDS {
                let key = SideKey::new(&name, kind).to_string();
                assert_ne!(key, name);
                if let Some(other) = keys.insert(key, (name.clone(), kind)) {
                    assert_eq!(other, (name.clone(), kind), "one key");
                }
            }
        }
        for (key, name, kind) in [
            ("{a}:fence", "a", SideKind::Counter),
            ("{a}.fence", "{a}", SideKind::Counter),
            ("{a{a}:note", "a{a", SideKind::Note),
            ("{a}.note", "{a}", SideKind::Note),
        ] {
            assert_eq!(keys.get(key), Some(&(name.to_owned(), kind)));
        }
    }
}
