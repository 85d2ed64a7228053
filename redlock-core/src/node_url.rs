//! The rules for a node's URL, for authors of a backend that opens one.
//!
//! Client libraries ignore parts that they do not know, such as a database in the query: then two programs
//! lock in different databases and do not exclude each other. They also print text that they do not
//! understand, which may be a part of a password. Call [`check`] before them: it refuses everything that the
//! client would ignore, and its errors have no text of the URL.

// Tests: below; tests/tests/it/servers/urls.rs.

/// Refuses a URL with a part that the client would ignore, or that is invalid.
///
/// Blanks and control characters around it are ignored, as URL parsers do.
///
/// ```
/// use redlock_core::node_url::{InvalidUrl, Path, Scheme, check};
///
/// const SCHEMES: [Scheme; 1] = [Scheme::new("redis", Path::Database).parameters(&["protocol"])];
/// assert_eq!(check("redis://me:secret@a.example:6379/4?protocol=3", &SCHEMES), Ok(()));
/// assert_eq!(check("redis://a.example?db=4", &SCHEMES), Err(InvalidUrl::UnknownParameter(Some("db"))));
/// assert_eq!(check("redis://me:sec/ret@a.example", &SCHEMES), Err(InvalidUrl::Unencoded));
/// ```
///
/// # Errors
///
/// The first part of the URL that is invalid.
pub fn check(url: &str, schemes: &[Scheme]) -> Result<(), InvalidUrl> {
    let url = url.trim_matches(is_blank);
    let (scheme, rest) = url.split_once("://").ok_or(InvalidUrl::Scheme)?;
    let known = |known: &&Scheme| known.name.eq_ignore_ascii_case(scheme);
    let scheme = schemes.iter().find(known).ok_or(InvalidUrl::Scheme)?;
    if rest.contains(is_blank) {
        return Err(InvalidUrl::Unencoded);
    }
    let (rest, fragment) = split(rest, '#');
    let (rest, query) = split(rest, '?');
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_socket = scheme.path == Path::Socket;
    if !is_socket || !authority.is_empty() {
        // A character that ends the authority comes before the `@` that ends the password.
        let behind = [Some(path), query, fragment];
        if behind.into_iter().flatten().any(|part| part.contains('@')) {
            return Err(InvalidUrl::Unencoded);
        }
    }
    if !is_socket {
        check_address(authority.rsplit_once('@').map_or(authority, |(_, address)| address))?;
    }
    check_path(path, scheme.path)?;
    check_query(query.unwrap_or_default(), scheme)?;
    match fragment {
        Some(fragment) if !scheme.fragments.contains(&fragment) => Err(InvalidUrl::Fragment),
        _ => Ok(()),
    }
}

/// The parts that URLs of one scheme may have.
#[derive(Clone, Copy, Debug)]
pub struct Scheme {
    name: &'static str,
    path: Path,
    parameters: &'static [&'static str],
    lists: &'static [&'static str],
    fragments: &'static [&'static str],
}

impl Scheme {
    /// A scheme, without `://` and in lower case, whose URLs have neither parameters nor a fragment.
    #[must_use]
    pub const fn new(name: &'static str, path: Path) -> Self {
        Self { name, path, parameters: &[], lists: &[], fragments: &[] }
    }

    /// The parameters that the query may have once.
    #[must_use]
    pub const fn parameters(self, parameters: &'static [&'static str]) -> Self {
        Self { parameters, ..self }
    }

    /// The parameters that the query may have any number of times.
    #[must_use]
    pub const fn lists(self, lists: &'static [&'static str]) -> Self {
        Self { lists, ..self }
    }

    /// The fragments that may follow the `#`.
    #[must_use]
    pub const fn fragments(self, fragments: &'static [&'static str]) -> Self {
        Self { fragments, ..self }
    }
}

/// The meaning of a URL's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Path {
    /// The number of a database.
    Database,
    /// A Unix socket.
    Socket,
    /// None: there must be no path.
    None,
}

/// Why a URL is invalid. It has no text of the URL, which may be a part of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUrl {
    /// The scheme is missing or unknown.
    #[error("it does not begin with a known scheme, such as redis://")]
    Scheme,
    /// A character ends the password early, or is not allowed in a URL.
    #[error(
        "a `/`, `?`, `#` or blank in a user name or password has to be percent-encoded (%2F, %3F, %23, %20)"
    )]
    Unencoded,
    /// The host is missing or invalid.
    #[error("it has no valid host")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// The path is not the number of a database.
    #[error("its path is not the number of a database, as in redis://host:port/4")]
    Database,
    /// There is a path, and the scheme has none.
    #[error("it has a path, which has no meaning here")]
    Path,
    /// The client would ignore a parameter. Its name is here if it is one of a few well-known ones.
    #[error(
        "its query has {}, which has no meaning here (a URL is scheme://user:password@host:port/database)",
        .0.map_or_else(|| "an unknown parameter".to_owned(), |name| format!("the parameter `{name}`"))
    )]
    UnknownParameter(Option<&'static str>),
    /// The client would use one of several parameters of this name.
    #[error("its query has the parameter `{0}` more than once")]
    DuplicateParameter(&'static str),
    /// The client would ignore the fragment, the part after the `#`.
    #[error("its fragment (after the `#`) has no meaning here")]
    Fragment,
}

/// Why a node cannot be opened. It has no text of the URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is invalid.
    #[error("invalid URL: {0}")]
    Url(#[from] InvalidUrl),
    /// The client library does not accept something else: TLS without its feature, a certificate, an empty
    /// list of URLs.
    #[error("{0}")]
    Client(String),
}

fn check_address(address: &str) -> Result<(), InvalidUrl> {
    let (host, port) = match address.find(']') {
        Some(end) if address.starts_with('[') => {
            let (host, port) = address.split_at(end + 1);
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(InvalidUrl::Port)?) })
        }
        _ => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(InvalidUrl::Host);
    }
    match port {
        Some(port) if number(port).is_none_or(|port| !(1..=u32::from(u16::MAX)).contains(&port)) => {
            Err(InvalidUrl::Port)
        }
        _ => Ok(()),
    }
}

fn check_path(path: &str, meaning: Path) -> Result<(), InvalidUrl> {
    match meaning {
        Path::Socket => Ok(()),
        _ if path.is_empty() || path == "/" => Ok(()),
        Path::Database => number(&path[1..]).map(drop).ok_or(InvalidUrl::Database),
        Path::None => Err(InvalidUrl::Path),
    }
}

fn check_query(query: &str, scheme: &Scheme) -> Result<(), InvalidUrl> {
    let names = || query.split('&').filter(|part| !part.is_empty()).map(|part| split(part, '=').0);
    for name in names() {
        if scheme.lists.contains(&name) {
            continue;
        }
        let well_known = || WELL_KNOWN.into_iter().find(|known| *known == name);
        let known = scheme.parameters.iter().find(|known| **known == name);
        let known = known.ok_or_else(|| InvalidUrl::UnknownParameter(well_known()))?;
        if names().filter(|other| other == known).count() > 1 {
            return Err(InvalidUrl::DuplicateParameter(known));
        }
    }
    Ok(())
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

/// Only digits, and few enough.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_blank(letter: char) -> bool {
    letter.is_whitespace() || letter.is_control()
}

/// Words that people use in a query, which are therefore no part of a password.
const WELL_KNOWN: [&str; 12] = [
    "db",
    "database",
    "user",
    "username",
    "pass",
    "password",
    "protocol",
    "timeout",
    "node",
    "sentinelServiceName",
    "sentinelUsername",
    "sentinelPassword",
];

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMES: [Scheme; 4] = [
        Scheme::new("redis", Path::Database).parameters(&["protocol"]),
        Scheme::new("rediss", Path::Database).fragments(&["insecure"]),
        Scheme::new("redis-cluster", Path::None).lists(&["node"]),
        Scheme::new("redis+unix", Path::Socket).parameters(&["db"]),
    ];

    #[test]
    fn valid_urls_are_accepted() {
        for url in [
            "redis://a",
            " redis://a\n",
            "REDIS://a/",
            "redis://a/15",
            "redis://a?",
            "redis://a?protocol=3&",
            "redis://:p@a",
            "redis://u:p:@;,[]=+$!%2F@a:1/4",
            "redis://u:p@s@a:1",
            "redis://[::1]",
            "redis://u@[::1]:65535/1",
            "rediss://a#insecure",
            "redis-cluster://a:1?node=b:1&node=c:1",
            "redis+unix:///run/a@b.sock?db=4",
            "redis+unix://u:p@a/run/socket",
        ] {
            assert_eq!(check(url, &SCHEMES), Ok(()), "{url}");
        }
    }

    #[test]
    fn an_error_names_the_invalid_part() {
        for (url, error) in [
            ("", InvalidUrl::Scheme),
            ("a:6379", InvalidUrl::Scheme),
            ("u:p@a", InvalidUrl::Scheme),
            ("ftp://a", InvalidUrl::Scheme),
            ("redis://u:p/w@a", InvalidUrl::Unencoded),
            ("redis://u:p?w@a", InvalidUrl::Unencoded),
            ("redis://u:p#w@a", InvalidUrl::Unencoded),
            ("redis://u:1/w@a?db=4", InvalidUrl::Unencoded),
            ("redis://u:p w@a", InvalidUrl::Unencoded),
            ("redis://u:p\tw@a", InvalidUrl::Unencoded),
            ("redis+unix://u:p/w@a/run/socket", InvalidUrl::Unencoded),
            ("redis://", InvalidUrl::Host),
            ("redis://u:p@", InvalidUrl::Host),
            ("redis://:6379", InvalidUrl::Host),
            ("redis://a:", InvalidUrl::Port),
            ("redis://a:0", InvalidUrl::Port),
            ("redis://a:65536", InvalidUrl::Port),
            ("redis://a:+1", InvalidUrl::Port),
            ("redis://a:1:2", InvalidUrl::Port),
            ("redis://::1:6379", InvalidUrl::Host),
            ("redis://[::1]6379", InvalidUrl::Port),
            ("redis://a/db4", InvalidUrl::Database),
            ("redis://a/-1", InvalidUrl::Database),
            ("redis://a/4/5", InvalidUrl::Database),
            ("redis://a//4", InvalidUrl::Database),
            ("redis-cluster://a/4", InvalidUrl::Path),
            ("redis://a?db=4", InvalidUrl::UnknownParameter(Some("db"))),
            ("redis://a/?protocol=3&password=x", InvalidUrl::UnknownParameter(Some("password"))),
            ("redis://a?d%62=4", InvalidUrl::UnknownParameter(None)),
            ("redis://a?DB", InvalidUrl::UnknownParameter(None)),
            ("redis-cluster://a?db=1", InvalidUrl::UnknownParameter(Some("db"))),
            ("redis+unix:///run/socket?db=1&db=2", InvalidUrl::DuplicateParameter("db")),
            ("redis://a#", InvalidUrl::Fragment),
            ("redis://a#4", InvalidUrl::Fragment),
            ("rediss://a#x", InvalidUrl::Fragment),
            ("redis+unix:///run/socket#x", InvalidUrl::Fragment),
        ] {
            assert_eq!(check(url, &SCHEMES), Err(error), "{url}");
        }
    }

    #[test]
    fn an_error_is_one_line_that_names_the_part() {
        let text = |error: InvalidUrl| OpenError::from(error).to_string();
        let named = text(InvalidUrl::UnknownParameter(Some("db")));
        assert!(named.starts_with("invalid URL: its query has the parameter `db`, which"), "{named}");
        let other = text(InvalidUrl::UnknownParameter(None));
        assert!(other.starts_with("invalid URL: its query has an unknown parameter, which"), "{other}");
        assert_eq!(text(InvalidUrl::Port), "invalid URL: its port is not a number from 1 to 65535");
    }
}
