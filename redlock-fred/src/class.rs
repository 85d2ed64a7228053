//! The class of each error of fred and of the server.

use fred::error::{Error, ErrorKind};
use redlock_core::{BackendError, BackendErrorKind};

pub(crate) fn classify(error: Error) -> BackendError {
    if let Some(kind) = server_class(error.details()) {
        return BackendError::new(kind, error.details());
    }
    let (kind, message) = match error.kind() {
        ErrorKind::Config | ErrorKind::Url | ErrorKind::InvalidArgument => {
            (BackendErrorKind::Rejected, "invalid configuration")
        }
        // In the handshake: nothing was run, and nothing will be until somebody changes one of the certificates.
        #[cfg(feature = "rustls")]
        ErrorKind::IO | ErrorKind::Tls if is_refused_certificate(error.details()) => {
            (BackendErrorKind::Rejected, "TLS failed")
        }
        // Said when the last server that was asked sent the request on, and so has not executed it.
        ErrorKind::Routing if error.details() == "Too many redirections." => {
            (BackendErrorKind::Transient, "the keys are being moved")
        }
        // What is not known is taken for the worst: the request may have been executed.
        _ => (BackendErrorKind::Indeterminate, "connection failed"),
    };
    BackendError::new(kind, message).with_source(error)
}

/// The class of what a server says; nothing for words of fred's own. fred keeps the server's line as it was, and a
/// server's line begins with a code.
fn server_class(line: &str) -> Option<BackendErrorKind> {
    let (code, text) = line.split_once(' ').unwrap_or((line, ""));
    if code.is_empty() || !code.bytes().all(|letter| letter.is_ascii_uppercase()) {
        return None;
    }
    if code == SHARED {
        return Some(BackendErrorKind::Indeterminate);
    }
    // Redis 6.2 answers ERR to an error inside of a script, and has the error's own code in the text.
    let in_script = code == "ERR" && text.starts_with("Error running script");
    let passing = if in_script {
        text.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| PASSING.contains(&word))
    } else {
        PASSING.contains(&code) || text.starts_with("max number of clients reached")
    };
    Some(if passing { BackendErrorKind::Transient } else { BackendErrorKind::Rejected })
}

/// Whether one side does not accept the certificate of the other.
#[cfg(feature = "rustls")]
fn is_refused_certificate(text: &str) -> bool {
    text.contains("InvalidCertificate(")
        || text.split_once("AlertReceived(").is_some_and(|(_, alert)| {
            ["ertificate", "UnknownCA", "AccessDenied", "DecryptError"]
                .iter()
                .any(|word| alert.contains(word))
        })
}

/// Codes of servers that cannot write now, and have not.
const PASSING: [&str; 10] =
    ["LOADING", "READONLY", "MASTERDOWN", "TRYAGAIN", "MOVED", "ASK", "BUSY", "OOM", "MISCONF", "NOREPLICAS"];

/// The code with which fred closes a connection. It is then told to every request that was under way, also to those
/// that the server has executed, or will.
const SHARED: &str = "CLUSTERDOWN";

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// fred's error for a server's line; which kind it gives it does not matter.
    fn class_of_line(line: &str) -> BackendErrorKind {
        classify(Error::new(ErrorKind::Unknown, line.to_owned())).kind()
    }

    #[test]
    fn every_server_error_is_in_its_class() {
        for code in PASSING {
            assert_eq!(class_of_line(&format!("{code} some text")), BackendErrorKind::Transient, "{code}");
        }
        for code in ["NOAUTH", "WRONGPASS", "NOPERM", "CROSSSLOT", "WRONGTYPE", "ERR", "NOPROTO"] {
            assert_eq!(class_of_line(&format!("{code} some text")), BackendErrorKind::Rejected, "{code}");
        }
        assert_eq!(class_of_line("ERR max number of clients reached"), BackendErrorKind::Transient);
    }

    #[test]
    fn an_error_that_fred_shares_among_requests_says_nothing_about_one() {
        assert_eq!(class_of_line("CLUSTERDOWN The cluster is down"), BackendErrorKind::Indeterminate);
    }

    #[test]
    fn a_server_error_is_told_in_the_servers_words() {
        let line = "READONLY You can't write against a read only replica.";
        let told = classify(Error::new(ErrorKind::Unknown, line)).to_string();
        assert_eq!(told, format!("transient: {line}"));
    }

    #[test]
    fn errors_inside_of_scripts_are_found_in_the_text_of_old_servers() {
        for (error, class) in [
            ("-OOM command not allowed when used memory > 'maxmemory'.", BackendErrorKind::Transient),
            ("-READONLY You can't write against a read only replica.", BackendErrorKind::Transient),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", BackendErrorKind::Rejected),
        ] {
            let line =
                format!("ERR Error running script (call to f_1b): @user_script:6: @user_script: 6: {error}");
            assert_eq!(class_of_line(&line), class, "{line}");
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
    fn what_only_a_person_can_mend_is_rejected() {
        for kind in [ErrorKind::Config, ErrorKind::Url] {
            let error = classify(Error::new(kind.clone(), "Invalid client configuration."));
            assert_eq!(error.kind(), BackendErrorKind::Rejected, "{kind:?}");
        }
    }
}
