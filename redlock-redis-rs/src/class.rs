//! The class of each error of redis-rs and of the server.

use redis::{ErrorKind, RedisError};
use redlock_core::{BackendError, BackendErrorKind};

use crate::tls;

pub(crate) fn classify(error: RedisError) -> BackendError {
    let (kind, message) = match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            // In the server's own words: redis-rs spells its codes in another way.
            let words = [error.code(), error.detail()].into_iter().flatten().collect::<Vec<_>>().join(" ");
            return BackendError::new(server_class(&error), words);
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
        ErrorKind::UnexpectedReturnType => (BackendErrorKind::Rejected, "an answer of another type"),
        // What is not known is taken for the worst: the request may have been executed.
        _ => (BackendErrorKind::Indeterminate, "connection failed"),
    };
    BackendError::new(kind, message).with_source(error)
}

fn server_class(error: &RedisError) -> BackendErrorKind {
    let code = error.code().unwrap_or_default();
    let detail = error.detail().unwrap_or_default();
    let passing = if is_in_script(code, detail) {
        words(detail).any(|word| PASSING.contains(&word))
    } else if error.to_string().contains("refused to switch database") {
        // The answer to the SELECT of a new connection, without its code.
        !LASTING.iter().any(|text| detail.contains(text))
    } else {
        PASSING.contains(&code) || detail.starts_with("max number of clients reached")
    };
    if passing { BackendErrorKind::Transient } else { BackendErrorKind::Rejected }
}

/// Redis 6.2 answers ERR to an error inside of a script, and has the error's own code in the text.
fn is_in_script(code: &str, detail: &str) -> bool {
    code == "ERR" && detail.starts_with("Error running script")
}

/// Whether a server says that it is a replica.
#[cfg(feature = "sentinel")]
pub(crate) fn is_read_only(code: Option<&str>, detail: Option<&str>) -> bool {
    let (code, detail) = (code.unwrap_or_default(), detail.unwrap_or_default());
    code == READONLY || (is_in_script(code, detail) && words(detail).any(|word| word == READONLY))
}

/// Why none of a Cluster's servers could be connected to is told by redis-rs in the text alone.
fn is_refused_by_cluster(error: &RedisError) -> bool {
    let text = error.to_string();
    text.starts_with("Failed to create initial connections")
        && ["AuthenticationFailed", "NOAUTH", "WRONGPASS", "NoPerm", "NOPERM"]
            .iter()
            .any(|word| text.contains(word))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric())
}

const READONLY: &str = "READONLY";
/// Codes of servers that cannot write now, and have not.
const PASSING: [&str; 11] = [
    "LOADING",
    READONLY,
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
    "BUSY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
];

/// What a server says to a SELECT that it will never do. For anything else it may be loading its data, or busy.
const LASTING: [&str; 4] = ["out of range", "invalid DB index", "permissions", "Authentication required"];

#[cfg(test)]
mod tests {
    use std::io;

    use redis::{ServerErrorKind, Value, parse_redis_value};

    use super::*;

    fn class_of_reply(line: &str) -> BackendErrorKind {
        let value = parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("an error line");
        let Value::ServerError(error) = value else { panic!("{value:?} is no error") };
        classify(error.into()).kind()
    }

    #[test]
    fn every_server_error_is_in_its_class() {
        for code in PASSING {
            assert_eq!(class_of_reply(&format!("{code} some text")), BackendErrorKind::Transient, "{code}");
        }
        for code in ["NOAUTH", "WRONGPASS", "NOPERM", "CROSSSLOT", "WRONGTYPE", "ERR", "NOPROTO"] {
            assert_eq!(class_of_reply(&format!("{code} some text")), BackendErrorKind::Rejected, "{code}");
        }
        assert_eq!(class_of_reply("ERR max number of clients reached"), BackendErrorKind::Transient);
    }

    #[test]
    fn a_server_error_is_told_in_the_servers_words() {
        let value =
            parse_redis_value(b"-READONLY You can't write against a read only replica.\r\n").expect("a line");
        let Value::ServerError(error) = value else { panic!("{value:?} is no error") };
        let told = classify(error.into()).to_string();
        assert_eq!(told, "transient: READONLY You can't write against a read only replica.");
    }

    #[test]
    fn errors_inside_of_scripts_are_found_in_the_text_of_old_servers() {
        for (line, class) in [
            (
                "ERR Error running script (call to f_1b): @user_script:6: @user_script: 6: -OOM command not allowed when used memory > 'maxmemory'.",
                BackendErrorKind::Transient,
            ),
            (
                "ERR Error running script (call to f_1b): @user_script:6: @user_script: 6: -READONLY You can't write against a read only replica.",
                BackendErrorKind::Transient,
            ),
            (
                "ERR Error running script (call to f_1b): @user_script:2: WRONGTYPE Operation against a key holding the wrong kind of value",
                BackendErrorKind::Rejected,
            ),
        ] {
            assert_eq!(class_of_reply(line), class, "{line}");
        }
    }

    #[cfg(feature = "sentinel")]
    #[test]
    fn a_replica_is_known_by_its_code_inside_of_scripts_too() {
        for line in [
            &b"-READONLY You can't write against a read only replica.\r\n"[..],
            b"-ERR Error running script (call to f_1b): @user_script:6: @user_script: 6: -READONLY You can't write.\r\n",
        ] {
            let value = parse_redis_value(line).expect("a line");
            let Value::ServerError(error) = value else { panic!("{value:?}") };
            assert!(is_read_only(Some(error.code()), error.details()), "{error:?}");
        }
        assert!(!is_read_only(Some("ERR"), Some("READONLY is no code here")));
    }

    #[test]
    fn a_new_connection_that_cannot_select_its_database_yet_may_heal() {
        for (answer, class) in [
            ("Redis is busy running a script. You can only call SCRIPT KILL", BackendErrorKind::Transient),
            ("Redis is loading the dataset in memory", BackendErrorKind::Transient),
            ("DB index is out of range", BackendErrorKind::Rejected),
            ("User app has no permissions to run the 'select' command", BackendErrorKind::Rejected),
        ] {
            let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
            let error =
                RedisError::from((kind, "Redis server refused to switch database", answer.to_owned()));
            assert_eq!(classify(error).kind(), class, "{answer}");
        }
    }

    #[test]
    fn what_leaves_the_outcome_open_is_indeterminate() {
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
        let parse = RedisError::from((ErrorKind::Parse, "what is this"));
        assert_eq!(classify(parse).kind(), BackendErrorKind::Indeterminate);
    }

    #[test]
    fn what_only_a_person_can_mend_is_rejected() {
        for kind in
            [ErrorKind::AuthenticationFailed, ErrorKind::InvalidClientConfig, ErrorKind::UnexpectedReturnType]
        {
            assert_eq!(classify((kind, "test").into()).kind(), BackendErrorKind::Rejected, "{kind:?}");
        }
        let no_permission = RedisError::from((ErrorKind::Server(ServerErrorKind::NoPerm), "test"));
        assert_eq!(classify(no_permission).kind(), BackendErrorKind::Rejected);
    }
}
