//! Exit codes. They are those of sysexits.h where one fits, to avoid the usual codes of commands.

use redlock_redis_rs::{ConfigError, Error};

pub(crate) const SUCCESS: u8 = 0;
/// Of `status` only: no majority says the same.
pub(crate) const UNDECIDED: u8 = 1;
/// Of `status --strict` only: a quorum votes, but a node does not, or has a warning.
pub(crate) const WARNED: u8 = 2;
/// EX_USAGE
pub(crate) const USAGE: u8 = 64;
/// EX_UNAVAILABLE
pub(crate) const NO_QUORUM: u8 = 69;
/// EX_OSERR
pub(crate) const OS_ERROR: u8 = 71;
/// EX_TEMPFAIL
pub(crate) const TAKEN: u8 = 75;
/// EX_CONFIG
pub(crate) const REJECTED: u8 = 78;
/// The first number that sysexits.h leaves free.
pub(crate) const LOST: u8 = 79;
/// As of timeout(1).
pub(crate) const TIMED_OUT: u8 = 124;
/// As of shells.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
pub(crate) const NOT_FOUND: u8 = 127;

/// As of shells.
pub(crate) fn of_signal(number: i32) -> u8 {
    u8::try_from(number).unwrap_or(0).saturating_add(128)
}

/// Why the command did not run, or not to its end.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// What is printed.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let code = if matches!(error, ConfigError::RandomSource { .. }) { OS_ERROR } else { USAGE };
        Self::new(code, error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Contended(_) => TAKEN,
            Error::Rejected(_) => REJECTED,
            Error::Lost(_) => LOST,
            Error::InvalidRequest(_) => USAGE,
            _ => NO_QUORUM,
        };
        Self::new(code, error.to_string())
    }
}
