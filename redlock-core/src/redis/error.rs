//! The errors of Redis, Valkey and the proxies in front of them.

// Tests: below; tests/tests/it/servers/errors.rs.

use crate::backend::{BackendError, BackendErrorKind};

/// The meaning of a server's error line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerError {
    /// For the vote, and for the keys that may have been written.
    pub kind: BackendErrorKind,
    /// For the connection of the reply.
    pub connection: Connection,
    /// The server's text: one line of at most 256 characters.
    pub message: String,
}

/// What to do with a connection after an error line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Connection {
    /// Another connection would get the same reply.
    Keep,
    /// It leads to the wrong server, the server closes it, or the line is unknown: make a new one, at a
    /// bounded rate.
    Replace,
}

impl From<ServerError> for BackendError {
    fn from(error: ServerError) -> Self {
        Self::new(error.kind, error.message)
    }
}

/// The meaning of an error when the node is a single server, as far as the backend knows. A server that
/// refers to the slots of other servers is a part of a Cluster. The backend does not follow it there, so this
/// lasts until the user opens the Cluster, as one node: the message names `how_to_open_it`.
///
/// ```
/// use redlock_core::{BackendError, BackendErrorKind, redis::{classify, of_single_server}};
///
/// let moved = BackendError::from(classify("MOVED 3999 127.0.0.1:6381"));
/// assert_eq!(moved.kind(), BackendErrorKind::Transient);
/// assert_eq!(of_single_server(moved, "open_cluster").kind(), BackendErrorKind::Rejected);
/// ```
#[must_use]
pub fn of_single_server(error: BackendError, how_to_open_it: &str) -> BackendError {
    let code = error.message().split(' ').next().unwrap_or_default();
    if !OF_CLUSTERS.contains(&code) {
        return error;
    }
    let message =
        format!("{} (a Cluster is one node, with all of its servers: {how_to_open_it})", error.message());
    BackendError::new(BackendErrorKind::Rejected, message)
}

/// The meaning of an error line. An error that is known to last is rejected. One that is known to pass, with
/// nothing written, is transient. After any other the outcome is unknown.
///
/// ```
/// use redlock_core::{BackendErrorKind, redis::{Connection, classify}};
///
/// let error = classify("READONLY You can't write against a read only replica.");
/// assert_eq!((error.kind, error.connection), (BackendErrorKind::Transient, Connection::Replace));
/// ```
#[must_use]
pub fn classify(line: &str) -> ServerError {
    let (code, text) = line.trim_start().split_once(' ').unwrap_or((line.trim(), ""));
    let in_script = code == "ERR" && text.starts_with("Error running script");
    let has = |known: &[&str]| {
        // For an error inside of a script, Redis 6.2 replies ERR, with the error's own code in the text.
        known.contains(&code)
            || in_script
                && text
                    .split(|letter: char| !letter.is_ascii_alphanumeric())
                    .any(|word| known.contains(&word))
    };
    let says = |known: &[&str]| {
        let text = text.to_ascii_lowercase();
        // Redis 6.2 has no code before an error that a script has caught and returns.
        (code == "ERR" || code == "@user_script:") && known.iter().any(|words| text.contains(words))
    };
    let (kind, connection) = if has(&WRONG_SERVER) || has(&CLOSING) || says(&CLOSING_TEXTS) {
        (BackendErrorKind::Transient, Connection::Replace)
    } else if has(&TRANSIENT) {
        (BackendErrorKind::Transient, Connection::Keep)
    } else if has(&PERMANENT) || says(&PERMANENT_TEXTS) {
        (BackendErrorKind::Rejected, Connection::Keep)
    } else {
        (BackendErrorKind::Indeterminate, Connection::Replace)
    };
    ServerError { kind, connection, message: one_line(line) }
}

/// The meaning of an error line that greets a connection, or replies to its set-up (`AUTH`, `HELLO`,
/// `SELECT`). It is as [`classify`], but an unknown error is transient, as no request has been sent by then.
///
/// ```
/// use redlock_core::{BackendErrorKind, redis::classify_setup};
///
/// assert_eq!(classify_setup("upstream failure").kind, BackendErrorKind::Transient);
/// assert_eq!(classify_setup("WRONGPASS x").kind, BackendErrorKind::Rejected);
/// ```
#[must_use]
pub fn classify_setup(line: &str) -> ServerError {
    let mut said = classify(line);
    if said.kind == BackendErrorKind::Indeterminate {
        said.kind = BackendErrorKind::Transient;
    }
    said
}

fn one_line(line: &str) -> String {
    let words = line.split(|letter: char| letter.is_whitespace() || letter.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        "an error without words".to_owned()
    } else {
        line.chars().take(MAX_MESSAGE).collect()
    }
}

const MAX_MESSAGE: usize = 256;
/// Codes that only servers of a Cluster have.
const OF_CLUSTERS: [&str; 3] = ["MOVED", "ASK", "CROSSSLOT"];
/// Codes of servers that are not, or no longer, the right ones. They have written nothing.
const WRONG_SERVER: [&str; 4] = ["READONLY", "MASTERDOWN", "FAILOVER", "STALE"];
/// Errors of servers that close a connection, because they refuse all of its kind now.
const CLOSING: [&str; 1] = ["DENIED"];
const CLOSING_TEXTS: [&str; 1] = ["max number of clients"];
/// Codes of servers that cannot serve the request now, and have written nothing.
const TRANSIENT: [&str; 13] = [
    "LOADING",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
    "BUSY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "INPROG",
    "NOTREADY",
    "UNKILLABLE",
    "NOSCRIPT",
];
/// Codes of errors that last until the configuration or the request changes.
///
/// `FENCE` is that of our scripts: what is stored at a counter's key is none, or no number is left. They have
/// written nothing.
const PERMANENT: [&str; 7] = ["NOAUTH", "WRONGPASS", "NOPERM", "CROSSSLOT", "WRONGTYPE", "NOPROTO", "FENCE"];
const PERMANENT_TEXTS: [&str; 13] = [
    "unknown command",
    "syntax error",
    "wrong number of arguments",
    "invalid db index",
    "db index is out of range",
    "invalid expire time",
    "invalid password",
    "no password is set",
    "without any password configured",
    "user executing the script",
    "acl failure in script",
    "cluster support disabled",
    // A server of Redis 6.2 that replicates scripts, not their effects (`lua-replicate-commands no`).
    "write commands not allowed after non deterministic commands",
];

#[cfg(test)]
mod tests {
    use super::*;
    use BackendErrorKind::{Indeterminate, Rejected, Transient};

    fn meaning(line: &str) -> (BackendErrorKind, Connection) {
        let error = classify(line);
        (error.kind, error.connection)
    }

    #[test]
    fn every_code_and_text_has_its_kind_outside_and_inside_of_scripts() {
        let codes = [
            (&WRONG_SERVER[..], (Transient, Connection::Replace)),
            (&CLOSING[..], (Transient, Connection::Replace)),
            (&TRANSIENT[..], (Transient, Connection::Keep)),
            (&PERMANENT[..], (Rejected, Connection::Keep)),
        ];
        for (code, expected) in
            codes.into_iter().flat_map(|(codes, to)| codes.iter().map(move |code| (code, to)))
        {
            assert_eq!(meaning(code), expected, "{code}");
            assert_eq!(meaning(&format!("{code} some text")), expected, "{code}");
            let old = format!("ERR Error running script (call to f_1b): @user_script:6: -{code} some text");
            assert_eq!(meaning(&old), expected, "{old}");
        }
        for text in CLOSING_TEXTS {
            assert_eq!(meaning(&format!("ERR {text} reached")), (Transient, Connection::Replace), "{text}");
        }
        for text in PERMANENT_TEXTS {
            assert_eq!(meaning(&format!("ERR {text}")), (Rejected, Connection::Keep), "{text}");
            let caught = format!("@user_script: 3: {text}");
            assert_eq!(meaning(&caught), (Rejected, Connection::Keep), "{caught}");
        }
    }

    #[test]
    fn an_unknown_line_leaves_the_outcome_open() {
        for line in [
            "",
            " ",
            "ERR",
            "upstream failure",
            "no upstream host",
            "ERR Connection timed out",
            "loading x",
            "ERR_X y",
            "NEWCODE y",
            "ERR Error running script: Script killed by user",
            "ERR READONLY is no code here",
            "READONLYX y",
            "upstream said: unknown command",
        ] {
            assert_eq!(meaning(line), (Indeterminate, Connection::Replace), "{line:?}");
        }
    }

    #[test]
    fn one_server_of_a_cluster_is_no_node() {
        let single = |line: &str| of_single_server(classify(line).into(), "how");
        for code in OF_CLUSTERS {
            let error = single(&format!("{code} x"));
            let message = format!("{code} x (a Cluster is one node, with all of its servers: how)");
            assert_eq!((error.kind(), error.message()), (Rejected, &*message));
        }
        for line in ["CLUSTERDOWN The cluster is down", "LOADING x", "ERR MOVED x", "MOVEDX y"] {
            let plain = BackendError::from(classify(line));
            assert_eq!(
                (single(line).kind(), single(line).message()),
                (plain.kind(), plain.message()),
                "{line}"
            );
        }
    }

    #[test]
    fn a_message_is_one_line_of_a_bounded_length_in_the_servers_words() {
        assert_eq!(classify("OOM not\r\nallowed\t now").message, "OOM not allowed now");
        assert_eq!(classify("\r\n").message, "an error without words");
        assert_eq!(classify(&"ä".repeat(1_000)).message.chars().count(), MAX_MESSAGE);
        let error = BackendError::from(classify("NOAUTH Authentication required."));
        assert_eq!(error.to_string(), "rejected: NOAUTH Authentication required.");
    }
}
