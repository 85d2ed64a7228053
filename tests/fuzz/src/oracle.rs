//! Why a request must be refused, and how long a lock may be valid, computed in another way than in the core.

use std::time::Duration;

use redlock_core::{InvalidRequest, MAX_TTL};

/// Why a request must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Nothing,
    NoResources,
    EmptyResource,
    Repeated,
    TooLong,
    TooShort,
}

impl Flaw {
    pub(crate) fn of(names: &[String], ttl: Duration, drift: f64) -> Self {
        let millis = ttl.as_millis();
        if names.is_empty() {
            Self::NoResources
        } else if names.iter().any(String::is_empty) {
            Self::EmptyResource
        } else if (1..names.len()).any(|position| names[..position].contains(&names[position])) {
            Self::Repeated
        } else if ttl > MAX_TTL {
            Self::TooLong
        } else if most_validity(millis, drift) <= 0.0 {
            Self::TooShort
        } else {
            Self::Nothing
        }
    }

    /// Panics unless the error reports this flaw. A TTL that leaves hardly any validity may be refused, too:
    /// the core rounds down.
    pub(crate) fn assert_reported(self, error: &InvalidRequest, ttl: Duration, drift: f64) {
        let right = match error {
            InvalidRequest::NoResources => self == Self::NoResources,
            InvalidRequest::EmptyResource => self == Self::EmptyResource,
            InvalidRequest::DuplicateResource { .. } => self == Self::Repeated,
            InvalidRequest::TtlTooLong { .. } => self == Self::TooLong,
            InvalidRequest::TtlTooShort { .. } => {
                self == Self::TooShort
                    || self == Self::Nothing && most_validity(ttl.as_millis(), drift) <= rounding(ttl)
            }
            _ => false,
        };
        assert!(right, "{self:?} is reported as {error:?}");
    }
}

/// A TTL minus its drift, in ms.
fn most_validity(millis: u128, drift: f64) -> f64 {
    let millis = millis as f64;
    millis - millis * drift - 2.0
}

/// By how much, in ms, the core may round the validity down: it rounds the factor to billionths. Includes the
/// error of floating point here.
fn rounding(ttl: Duration) -> f64 {
    ttl.as_secs_f64() * 2e-6 + 1e-3
}

/// A lock that was requested at this instant is valid for at most its TTL minus the drift.
pub(crate) fn assert_not_too_long(valid: Duration, ttl: Duration, drift: f64) {
    let valid = valid.as_secs_f64() * 1_000.0;
    let most = most_validity(ttl.as_millis(), drift);
    assert!(valid <= most + rounding(ttl), "valid for {valid} ms, of {ttl:?} minus a drift of {drift}");
}
