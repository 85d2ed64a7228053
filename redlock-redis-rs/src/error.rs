//! The class of each error of redis-rs and of the server.

use redis::{ErrorKind, RedisError, Value};
use redlock_core::{BackendError, BackendErrorKind, redis as server};

use crate::tls;

pub(crate) fn classify(error: RedisError) -> BackendError {
    let (kind, message) = match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            let code = if error.to_string().starts_with("Redis server refused to switch database") {
                Some(code_of_refused_select(error.detail().unwrap_or_default()))
            } else {
                error.code()
            };
            return server::classify(&line(code, error.detail())).into();
        }
        ErrorKind::Client if error.to_string().starts_with(REFUSED) => {
            return server::classify_setup(error.detail().unwrap_or_default()).into();
        }
        ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::NoValidReplicasFoundBySentinel => {
            (BackendErrorKind::Transient, "no server for this node")
        }
        ErrorKind::AuthenticationFailed | ErrorKind::RESP3NotSupported => {
            (BackendErrorKind::Rejected, "cannot log in")
        }
        ErrorKind::InvalidClientConfig | ErrorKind::EmptySentinelList => {
            (BackendErrorKind::Rejected, "cannot connect with this configuration")
        }
        _ if is_refused_by_cluster(&error) => (BackendErrorKind::Rejected, "cannot log in"),
        _ if tls::is_refusal(&error) => (BackendErrorKind::Rejected, "certificate refused"),
        ErrorKind::UnexpectedReturnType => (BackendErrorKind::Indeterminate, "an answer of another type"),
        // Unknown errors count as the worst case: the request may have been executed.
        _ => (BackendErrorKind::Indeterminate, "connection failed"),
    };
    BackendError::new(kind, message).with_source(error)
}

/// Marks a server's error as one of a connection's set-up, to distinguish it from the error of a later
/// command.
pub(crate) fn refusal(error: RedisError) -> RedisError {
    if is_of_server(&error) {
        (ErrorKind::Client, REFUSED, line(error.code(), error.detail())).into()
    } else {
        error
    }
}

/// The server's line as it was: redis-rs takes it apart, and spells some of the codes differently.
fn line(code: Option<&str>, detail: Option<&str>) -> String {
    [code, detail].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The error code of a refused SELECT on a new connection: redis-rs keeps only the text.
fn code_of_refused_select(text: &str) -> &'static str {
    let codes = [
        ("is loading", "LOADING"),
        ("is busy", "BUSY"),
        ("no permissions", "NOPERM"),
        ("Authentication required", "NOAUTH"),
    ];
    codes.into_iter().find(|(words, _)| text.contains(words)).map_or("ERR", |(_, code)| code)
}

/// Whether an answer calls for another connection: the error of a server that is not, or no longer, the right
/// one, or an unknown error.
pub(crate) fn asks_for_another_connection(answer: Result<&[Value], &RedisError>) -> bool {
    let asks = |code, detail| server::classify(&line(code, detail)).connection == server::Connection::Replace;
    match answer {
        Ok(values) => values.iter().any(|value| match value {
            Value::ServerError(error) => asks(Some(error.code()), error.details()),
            _ => false,
        }),
        Err(error) => is_of_server(error) && asks(error.code(), error.detail()),
    }
}

/// Whether a server refuses every command over such a connection.
pub(crate) fn refuses_everybody(error: &RedisError) -> bool {
    let said = server::classify(&line(error.code(), error.detail()));
    is_of_server(error)
        && (said.kind, said.connection) == (BackendErrorKind::Transient, server::Connection::Replace)
}

fn is_of_server(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// redis-rs reports only in the text why it could connect to none of a Cluster's servers.
fn is_refused_by_cluster(error: &RedisError) -> bool {
    let text = error.to_string();
    text.starts_with("Failed to create initial connections")
        && ["AuthenticationFailed", "NOAUTH", "WRONGPASS", "NoPerm", "NOPERM"]
            .iter()
            .any(|word| text.contains(word))
}

/// The prefix of a server's error in the set-up of a connection.
const REFUSED: &str = "the server refused the connection";

#[cfg(test)]
mod tests {
    use std::io;

    use redis::{ServerErrorKind, parse_redis_value};

    use super::*;

    fn parsed(line: &str) -> Value {
        parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("an error line")
    }

    fn of_server(line: &str) -> BackendError {
        let Value::ServerError(error) = parsed(line) else { panic!("{line:?} is no error") };
        classify(error.into())
    }

    #[test]
    fn an_error_line_passes_through_redis_rs_unchanged() {
        // Each code that redis-rs knows is spelled in another way there.
        for line in [
            "ASK 1 127.0.0.1:1",
            "BUSY x",
            "CLUSTERDOWN The cluster is down",
            "CROSSSLOT x",
            "ERR max number of clients reached",
            "ERR unknown command 'EVAL'",
            "EXECABORT x",
            "LOADING x",
            "MASTERDOWN x",
            "MOVED 1 127.0.0.1:1",
            "NOPERM x",
            "NOSCRIPT No matching script.",
            "NOSUB x",
            "NOTBUSY x",
            "READONLY You can't write against a read only replica.",
            "TRYAGAIN x",
            // Others.
            "DENIED x",
            "NOAUTH Authentication required.",
            "WRONGTYPE x",
            "NEWCODE x",
            "NEWCODE",
            "ERR_X y",
            "loading x",
            "upstream failure",
            // Old servers have the code of an error inside of a script in the text.
            "ERR Error running script (call to f_1b): @user_script:6: -OOM command not allowed",
            "ERR Error running script (call to f_1b): @user_script:2: WRONGTYPE Operation against",
        ] {
            let (error, expected) = (of_server(line), server::classify(line));
            assert_eq!((error.kind(), error.message()), (expected.kind, line));
        }
        assert_eq!(of_server("").message(), "an error without words");
    }

    #[test]
    fn an_error_line_keeps_its_kind() {
        for (line, expected) in [
            ("READONLY x", BackendErrorKind::Transient),
            ("NOPERM x", BackendErrorKind::Rejected),
            ("NEWCODE x", BackendErrorKind::Indeterminate),
        ] {
            assert_eq!(of_server(line).kind(), expected, "{line}");
        }
    }

    #[test]
    fn replies_and_errors_inside_of_scripts_can_ask_for_another_connection() {
        for (line, asks) in [
            ("READONLY You can't write against a read only replica.", true),
            ("MASTERDOWN Link with MASTER is down", true),
            ("ERR Error running script (call to f_1b): @user_script:6: -READONLY You can't write.", true),
            ("upstream failure", true),
            ("ERR READONLY is no code here", true),
            ("LOADING Redis is loading the dataset in memory", false),
            ("NOAUTH Authentication required.", false),
            ("ERR unknown command 'EVAL'", false),
        ] {
            let value = parsed(line);
            assert_eq!(asks_for_another_connection(Ok(&[Value::Int(1), value.clone()])), asks, "{line}");
            let error = value.extract_error().expect_err("an error");
            assert_eq!(asks_for_another_connection(Err(&error)), asks, "{line}");
        }
        assert!(!asks_for_another_connection(Ok(&[Value::Int(1)])));
        assert!(!asks_for_another_connection(Err(&io::Error::from(io::ErrorKind::TimedOut).into())));
    }

    #[test]
    fn a_refused_select_has_the_code_that_redis_rs_drops() {
        for (answer, expected) in [
            (
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL",
                BackendErrorKind::Transient,
            ),
            ("LOADING Redis is loading the dataset in memory", BackendErrorKind::Transient),
            ("ERR DB index is out of range", BackendErrorKind::Rejected),
            ("ERR invalid DB index", BackendErrorKind::Rejected),
            ("NOPERM User app has no permissions to run the 'select' command", BackendErrorKind::Rejected),
            ("NOAUTH Authentication required.", BackendErrorKind::Rejected),
            ("ERR Connection timed out", BackendErrorKind::Indeterminate),
        ] {
            let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
            let (_, without_code) = answer.split_once(' ').expect("a code");
            let error =
                RedisError::from((kind, "Redis server refused to switch database", without_code.to_owned()));
            let error = classify(error);
            assert_eq!((error.kind(), error.message()), (expected, answer));
        }
    }

    #[test]
    fn an_open_outcome_is_indeterminate() {
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::TimedOut,
            io::ErrorKind::UnexpectedEof,
        ] {
            assert_eq!(
                classify(io::Error::from(kind).into()).kind(),
                BackendErrorKind::Indeterminate,
                "{kind}"
            );
        }
        for kind in [ErrorKind::Parse, ErrorKind::UnexpectedReturnType] {
            assert_eq!(
                classify((kind, "what is this").into()).kind(),
                BackendErrorKind::Indeterminate,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn an_error_that_only_a_person_can_fix_is_rejected() {
        for kind in [ErrorKind::AuthenticationFailed, ErrorKind::InvalidClientConfig] {
            assert_eq!(classify((kind, "test").into()).kind(), BackendErrorKind::Rejected, "{kind:?}");
        }
        let no_permission = RedisError::from((ErrorKind::Server(ServerErrorKind::NoPerm), "test"));
        assert_eq!(classify(no_permission).kind(), BackendErrorKind::Rejected);
    }
}
