//! The class of each error of fred and of the server.

use fred::error::{Error, ErrorKind};
use redlock_core::{BackendError, BackendErrorKind, redis as server};

pub(crate) fn classify(error: Error) -> BackendError {
    if let Some(line) = server_line(&error) {
        let mut said = server::classify(line);
        if line.trim_start().starts_with(SHARED) {
            said.kind = BackendErrorKind::Indeterminate;
        }
        return said.into();
    }
    let (kind, message) = match error.kind() {
        ErrorKind::Config | ErrorKind::Url | ErrorKind::InvalidArgument => {
            (BackendErrorKind::Rejected, "invalid configuration")
        }
        // In the handshake: nothing was executed, and nothing will be until one of the certificates changes.
        #[cfg(feature = "rustls")]
        ErrorKind::IO | ErrorKind::Tls if is_refused_certificate(error.details()) => {
            (BackendErrorKind::Rejected, "TLS failed")
        }
        // The last server redirected the request, so it has not executed it.
        ErrorKind::Routing if error.details() == "Too many redirections." => {
            (BackendErrorKind::Transient, "the keys are being moved")
        }
        // Unknown errors count as the worst case: the request may have been executed.
        _ => (BackendErrorKind::Indeterminate, "connection failed"),
    };
    BackendError::new(kind, message).with_source(error)
}

/// The class of an error that prevented a connection.
pub(crate) fn classify_setup(error: Error) -> BackendError {
    match server_line(&error) {
        Some(line) => server::classify_setup(line).into(),
        None => classify(error),
    }
}

/// Whether an answer calls for another connection: the error of a server that is not, or no longer, the right
/// one, or an unknown error.
pub(crate) fn asks_for_another_connection(error: &Error) -> bool {
    server_line(error).is_some_and(|line| server::classify(line).connection == server::Connection::Replace)
}

/// The error line of a server, or `None` for an error of fred itself. fred keeps the server's line as it was.
/// A line without a code that fred knows has the kind `Unknown`, as do some errors of fred itself, which say
/// as little.
fn server_line(error: &Error) -> Option<&str> {
    let line = error.details();
    if line == "No response!" {
        // fred's text for an empty line.
        return Some("");
    }
    let code = line.split(' ').next().unwrap_or_default();
    let has_code = !code.is_empty() && code.bytes().all(|letter| letter.is_ascii_uppercase());
    (has_code || *error.kind() == ErrorKind::Unknown).then_some(line)
}

/// Whether one side does not accept the other's certificate.
#[cfg(feature = "rustls")]
fn is_refused_certificate(text: &str) -> bool {
    text.contains("InvalidCertificate(")
        || text.split_once("AlertReceived(").is_some_and(|(_, alert)| {
            ["ertificate", "UnknownCA", "AccessDenied", "DecryptError"]
                .iter()
                .any(|word| alert.contains(word))
        })
}

/// The code with which fred closes a connection. fred then fails every request in flight with it, also those
/// that the server has executed or will execute.
const SHARED: &str = "CLUSTERDOWN";

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A server's line. fred gives most lines the kind `Unknown`; of the others the kind does not matter.
    fn of_server(line: &str) -> BackendError {
        classify(Error::new(ErrorKind::Unknown, line.to_owned()))
    }

    #[test]
    fn an_error_line_keeps_its_kind_and_text() {
        for (line, expected) in [
            ("READONLY You can't write against a read only replica.", BackendErrorKind::Transient),
            ("NOPERM x", BackendErrorKind::Rejected),
            ("ERR unknown command 'EVAL'", BackendErrorKind::Rejected),
            ("NEWCODE", BackendErrorKind::Indeterminate),
            ("ERR_X y", BackendErrorKind::Indeterminate),
            ("upstream failure", BackendErrorKind::Indeterminate),
        ] {
            let error = of_server(line);
            assert_eq!((error.kind(), error.message()), (expected, line));
        }
        // What fred makes of an empty line.
        let error = of_server("No response!");
        let expected = (BackendErrorKind::Indeterminate, "an error without words");
        assert_eq!((error.kind(), error.message()), expected);
    }

    #[test]
    fn a_code_counts_whichever_kind_fred_gives_it() {
        for (kind, line, expected) in [
            (ErrorKind::Auth, "NOAUTH Authentication required.", BackendErrorKind::Rejected),
            (ErrorKind::InvalidArgument, "WRONGTYPE x", BackendErrorKind::Rejected),
            (ErrorKind::Cluster, "MOVED 1 127.0.0.1:1", BackendErrorKind::Transient),
            (ErrorKind::Config, "ERR This instance has cluster support disabled", BackendErrorKind::Rejected),
        ] {
            let error = classify(Error::new(kind, line.to_owned()));
            assert_eq!((error.kind(), error.message()), (expected, line));
        }
    }

    #[test]
    fn an_error_that_fred_shares_among_requests_says_nothing_about_one() {
        for line in ["CLUSTERDOWN The cluster is down", " CLUSTERDOWN", "CLUSTERDOWN"] {
            let error = of_server(line);
            assert_eq!((error.kind(), error.message()), (BackendErrorKind::Indeterminate, line.trim()));
        }
    }

    #[test]
    fn errors_inside_of_scripts_are_found_in_the_text_of_old_servers() {
        let line =
            "ERR Error running script (call to f_1b): @user_script:2: WRONGTYPE Operation against a key";
        assert_eq!(of_server(line).kind(), BackendErrorKind::Rejected);
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
            let error = classify(io::Error::from(kind).into());
            assert_eq!(error.kind(), BackendErrorKind::Indeterminate, "{kind}");
        }
        for kind in [
            ErrorKind::IO,
            ErrorKind::Timeout,
            ErrorKind::Canceled,
            ErrorKind::Routing,
            ErrorKind::Protocol,
            ErrorKind::Backpressure,
            ErrorKind::Unknown,
        ] {
            let error = classify(Error::new(kind.clone(), "Too many failed write attempts."));
            assert_eq!(error.kind(), BackendErrorKind::Indeterminate, "{kind:?}");
        }
    }

    #[test]
    fn an_error_that_only_a_person_can_fix_is_rejected() {
        for kind in [ErrorKind::Config, ErrorKind::Url] {
            let error = classify(Error::new(kind.clone(), "Invalid client configuration."));
            assert_eq!(error.kind(), BackendErrorKind::Rejected, "{kind:?}");
        }
    }
}
