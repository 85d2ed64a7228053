//! How long a lock is valid: the TTL, the clock drift, and the difference.

use std::time::Duration;

use crate::invalid::{ConfigError, InvalidRequest};

/// The longest TTL, 100 years: more than any lock needs, and within what every server and every clock can add
/// to its current time.
pub const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A TTL as nodes count it: whole milliseconds, at most [`MAX_TTL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ttl {
    millis: u64,
}

impl Ttl {
    /// More than any lock may have.
    pub(crate) const UNBOUNDED: Self = Self { millis: u64::MAX };

    /// Rounds down to whole milliseconds: a node must not keep the key for less than the client counts on.
    pub(crate) fn new(ttl: Duration, drift: Drift) -> Result<Self, InvalidRequest> {
        if ttl > MAX_TTL {
            return Err(InvalidRequest::TtlTooLong { ttl, max: MAX_TTL });
        }
        let whole = Self::from_millis(ttl.as_millis());
        if drift.validity(whole).is_zero() {
            return Err(InvalidRequest::TtlTooShort { ttl, drift: drift.of(whole) });
        }
        Ok(whole)
    }

    pub(crate) fn get(self) -> Duration {
        Duration::from_millis(self.millis)
    }

    fn from_millis(millis: u128) -> Self {
        Self { millis: u64::try_from(millis).unwrap_or(u64::MAX) }
    }
}

/// The share of a TTL that is reserved because clocks run at different speeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drift {
    /// The factor in parts per billion, rounded up, so that the arithmetic is exact.
    billionths: u64,
}

impl Drift {
    pub(crate) const DEFAULT_FACTOR: f64 = 0.01;

    pub(crate) fn new(factor: f64) -> Result<Self, ConfigError> {
        if !(0.0..1.0).contains(&factor) {
            return Err(ConfigError::InvalidDriftFactor { factor });
        }
        Ok(Self { billionths: (factor * 1e9).ceil() as u64 })
    }

    /// `ttl x factor + 2 ms`, rounded up. The 2 ms are for the nodes' expiry, which counts whole
    /// milliseconds.
    pub(crate) fn of(self, ttl: Ttl) -> Duration {
        // At most 100 years x 1e9, well within 128 bits; the quotient is at most the TTL, plus one.
        let nanos = (ttl.get().as_nanos() * u128::from(self.billionths)).div_ceil(1_000_000_000);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)) + EXPIRY_PRECISION
    }

    /// The shortest TTL of which drift leaves `validity`, but `longest` at most.
    pub(crate) fn ttl_for(self, validity: Duration, longest: Ttl) -> Ttl {
        let kept = u128::from(1_000_000_000_u64.saturating_sub(self.billionths));
        // One nanosecond more, for the rounding of the drift.
        let parts = (validity + EXPIRY_PRECISION).as_nanos().saturating_add(1).saturating_mul(1_000_000_000);
        let millis = parts.checked_div(kept).unwrap_or(u128::MAX) / 1_000_000 + 1;
        Ttl::from_millis(millis).min(longest)
    }

    /// The rest of a TTL after the drift; zero when the drift takes all of it.
    pub(crate) fn validity(self, ttl: Ttl) -> Duration {
        ttl.get().saturating_sub(self.of(ttl))
    }
}

const EXPIRY_PRECISION: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drift() -> Drift {
        Drift::new(Drift::DEFAULT_FACTOR).unwrap()
    }

    #[test]
    fn the_published_example_is_reproduced() {
        let ttl = Ttl::new(Duration::from_millis(500), drift()).unwrap();
        assert_eq!(drift().of(ttl), Duration::from_millis(7));
        assert_eq!(drift().validity(ttl), Duration::from_millis(493));
    }

    #[test]
    fn the_longest_ttl_is_a_hundred_years() {
        assert_eq!(MAX_TTL.as_secs(), 3_153_600_000);
    }

    #[test]
    fn factors_outside_of_zero_to_one_are_refused() {
        for factor in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -f64::MIN_POSITIVE, 1.0, 2.0] {
            assert!(matches!(Drift::new(factor), Err(ConfigError::InvalidDriftFactor { .. })), "{factor}");
        }
        assert!(Drift::new(0.0).is_ok());
        assert!(Drift::new(1.0_f64.next_down()).is_ok());
    }

    #[test]
    fn a_ttl_that_drift_uses_up_or_servers_refuse_is_refused() {
        for millis in [0, 1, 2] {
            let ttl = Duration::from_millis(millis);
            assert!(matches!(Ttl::new(ttl, drift()), Err(InvalidRequest::TtlTooShort { .. })), "{millis}");
        }
        assert!(Ttl::new(Duration::from_micros(2_999), drift()).is_err(), "2 ms once rounded down");
        assert!(Ttl::new(Duration::from_millis(3), drift()).is_ok());
        assert!(Ttl::new(MAX_TTL, drift()).is_ok());
        for ttl in [MAX_TTL + Duration::from_nanos(1), Duration::from_millis(u64::MAX), Duration::MAX] {
            assert!(matches!(Ttl::new(ttl, drift()), Err(InvalidRequest::TtlTooLong { .. })), "{ttl:?}");
        }
    }

    proptest! {
        #[test]
        fn drift_is_never_rounded_in_favor_of_the_holder(nanos in 3_000_000..MAX_TTL.as_nanos() as u64, factor in 0.0..0.999_f64) {
            let drift = Drift::new(factor).unwrap();
            let Ok(ttl) = Ttl::new(Duration::from_nanos(nanos), drift) else { return Ok(()) };
            prop_assert!(ttl.get() <= Duration::from_nanos(nanos));
            prop_assert_eq!(ttl.get().subsec_nanos() % 1_000_000, 0);
            // Exact value of the factor as a fraction of 2^64, compared in integers.
            let scaled = (factor * 2_f64.powi(64)) as u128;
            let least = mul_shift_64(ttl.get().as_nanos(), scaled) + 2_000_000;
            let given = drift.of(ttl).as_nanos();
            prop_assert!(given >= least, "{} < {}", given, least);
            prop_assert!(given <= least + ttl.get().as_nanos() / 1_000_000_000 + 2, "{} > {}", given, least);
            prop_assert_eq!(drift.validity(ttl) + drift.of(ttl), ttl.get());
        }
    }

    proptest! {
        #[test]
        fn a_ttl_for_a_validity_leaves_it_and_hardly_more(nanos in 1..MAX_TTL.as_nanos() as u64 / 2, factor in 0.0..0.4_f64) {
            let drift = Drift::new(factor).unwrap();
            let longest = Ttl::new(MAX_TTL, drift).unwrap();
            let validity = Duration::from_nanos(nanos);
            let ttl = drift.ttl_for(validity, longest);
            prop_assert!(drift.validity(ttl) >= validity, "{:?} of {:?}", drift.validity(ttl), ttl);
            prop_assert!(drift.validity(ttl) <= validity + Duration::from_millis(2), "{:?} of {:?}", drift.validity(ttl), ttl);
            prop_assert_eq!(drift.ttl_for(MAX_TTL, longest), longest);
        }
    }

    /// `a * b >> 64` for `a < 2^64`, `b < 2^64`.
    fn mul_shift_64(a: u128, b: u128) -> u128 {
        let (low, high) = (b & u128::from(u32::MAX), b >> 32);
        ((a * low) >> 64) + ((a * high) >> 32)
    }
}
