//! The names that one lock covers.

use std::{fmt, iter::Map, slice, sync::Arc};

use crate::invalid::InvalidRequest;

/// The resources of one lock, in the caller's order. Each name is the key on every node, byte for byte,
/// behind the lock manager's [`key_prefix`](crate::RedlockBuilder::key_prefix) if it has one. The resources
/// of a lock, of an error and of [`LockParts`](crate::LockParts) are the keys themselves.
///
/// It converts from one name (`"a"`, `String`) or several (`["a", "b"]`, `Vec<String>`, references to these,
/// `&[..]`). A request with no name, an empty one or a duplicate fails with [`InvalidRequest`] before
/// anything is sent. Clones are cheap.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Resources(Arc<[String]>);

impl Resources {
    /// The names.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// The names, one by one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The keys of these names. An empty name stays empty, as it is invalid with a prefix, too.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Self {
        let key = |name: &str| if name.is_empty() { String::new() } else { format!("{prefix}{name}") };
        self.iter().map(key).collect()
    }

    pub(crate) fn validate(&self) -> Result<(), InvalidRequest> {
        if self.0.is_empty() {
            return Err(InvalidRequest::NoResources);
        }
        if self.iter().any(str::is_empty) {
            return Err(InvalidRequest::EmptyResource);
        }
        if self.0.len() == 1 {
            return Ok(());
        }
        let mut sorted: Vec<&str> = self.iter().collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(InvalidRequest::DuplicateResource { name: pair[0].to_owned() }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `"a"`, or `"a", "b" and 3 more`.
impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, name) in self.0.iter().take(SHOWN).enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{name:?}")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl From<&str> for Resources {
    fn from(name: &str) -> Self {
        Self::from(name.to_owned())
    }
}

impl From<String> for Resources {
    fn from(name: String) -> Self {
        Self(Arc::new([name]))
    }
}

impl From<&String> for Resources {
    fn from(name: &String) -> Self {
        Self::from(name.clone())
    }
}

impl<S: Into<String>> From<Vec<S>> for Resources {
    fn from(names: Vec<S>) -> Self {
        names.into_iter().collect()
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for Resources {
    fn from(names: [S; N]) -> Self {
        names.into_iter().collect()
    }
}

impl<S: AsRef<str>> From<&[S]> for Resources {
    fn from(names: &[S]) -> Self {
        names.iter().map(AsRef::as_ref).collect()
    }
}

impl<S: AsRef<str>, const N: usize> From<&[S; N]> for Resources {
    fn from(names: &[S; N]) -> Self {
        names[..].into()
    }
}

impl<S: AsRef<str>> From<&Vec<S>> for Resources {
    fn from(names: &Vec<S>) -> Self {
        names[..].into()
    }
}

impl<'a> IntoIterator for &'a Resources {
    type Item = &'a str;
    type IntoIter = Map<slice::Iter<'a, String>, fn(&'a String) -> &'a str>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(String::as_str)
    }
}

impl<S: Into<String>> FromIterator<S> for Resources {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

const SHOWN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_resources_keeps_their_order() {
        let expected = ["b", "a"];
        for resources in [
            Resources::from(["b", "a"]),
            Resources::from(vec!["b".to_owned(), "a".to_owned()]),
            Resources::from(&expected[..]),
            Resources::from(&expected),
            Resources::from(&expected.to_vec()),
            expected.into_iter().collect(),
        ] {
            assert_eq!(resources.as_slice(), expected);
            assert_eq!((&resources).into_iter().collect::<Vec<_>>(), expected);
        }
        for resources in
            [Resources::from("b"), Resources::from("b".to_owned()), Resources::from(&"b".to_owned())]
        {
            assert_eq!(resources.as_slice(), ["b"]);
        }
    }

    #[test]
    fn no_name_an_empty_name_and_a_duplicate_name_are_refused() {
        assert_eq!(Resources::from(Vec::<String>::new()).validate(), Err(InvalidRequest::NoResources));
        assert_eq!(Resources::from(["a", ""]).validate(), Err(InvalidRequest::EmptyResource));
        assert_eq!(
            Resources::from(["a", "b", "a"]).validate(),
            Err(InvalidRequest::DuplicateResource { name: "a".to_owned() })
        );
        assert_eq!(Resources::from(["a", "b", "A", " "]).validate(), Ok(()));
    }

    #[test]
    fn a_prefix_hides_neither_an_empty_name_nor_a_duplicate() {
        let keys = |names: &[&str]| Resources::from(names).with_prefix("p:");
        assert_eq!(keys(&["b", "p:a"]).as_slice(), ["p:b", "p:p:a"]);
        assert_eq!(keys(&[]).validate(), Err(InvalidRequest::NoResources));
        assert_eq!(keys(&["a", ""]).validate(), Err(InvalidRequest::EmptyResource));
        let name = "p:a".to_owned();
        assert_eq!(keys(&["a", "a"]).validate(), Err(InvalidRequest::DuplicateResource { name }));
    }

    #[test]
    fn long_lists_are_shortened_for_people() {
        assert_eq!(Resources::from("a\n").to_string(), r#""a\n""#);
        assert_eq!(Resources::from(["a", "b"]).to_string(), r#""a", "b""#);
        assert_eq!(
            Resources::from(["a", "b", "c", "d", "e", "f"]).to_string(),
            r#""a", "b", "c", "d" and 2 more"#
        );
    }
}
