//! For how long a lock is held at least and at most.

// Tests: below; tests/tests/it/sim/min_hold.rs, sim/using.rs, sim/handover.rs.

use std::time::{Duration, Instant};

use crate::{
    invalid::InvalidRequest,
    settings::Settings,
    validity::{MAX_TTL, Ttl},
};

/// The bounds of one request, or what is left of them at a hand-over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HoldLimits {
    pub(crate) min: Option<Duration>,
    pub(crate) max: Option<Duration>,
}

impl HoldLimits {
    /// The TTL that the nodes are asked for in place of `ttl`: longer, if the validity would not last for the
    /// minimum.
    pub(crate) fn cover(self, settings: &Settings, ttl: Ttl) -> Result<Ttl, InvalidRequest> {
        Ok(self.least_ttl(settings)?.map_or(ttl, |least| least.max(ttl)))
    }

    /// The shortest TTL with a validity that lasts for the minimum, if there is one.
    pub(crate) fn least_ttl(self, settings: &Settings) -> Result<Option<Ttl>, InvalidRequest> {
        let Some(min_hold) = self.min.filter(|min| !min.is_zero()) else { return Ok(None) };
        if let Some(max_hold) = self.max.filter(|max| min_hold > *max) {
            return Err(InvalidRequest::MinHoldTooLong { min_hold, max_hold });
        }
        // Of more than that, the TTL is too long anyway.
        let needed = settings.drift.ttl_for(min_hold.min(MAX_TTL), Ttl::UNBOUNDED);
        settings.ttl(needed.get()).map(Some)
    }

    /// The moments when a lock that has been held since `start` may be released, and has to be. `None` when it
    /// has neither: most locks.
    pub(crate) fn from(self, start: Instant) -> Option<Box<HoldUntil>> {
        let after = |limit: Option<Duration>| limit.and_then(|limit| start.checked_add(limit));
        let until = HoldUntil { min: after(self.min), max: after(self.max) };
        (until.min.is_some() || until.max.is_some()).then(|| Box::new(until))
    }
}

/// Until when a lock is held, at least and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HoldUntil {
    pub(crate) min: Option<Instant>,
    pub(crate) max: Option<Instant>,
}

impl HoldUntil {
    /// The end of a validity that may be a little longer than the maximum, as the TTL for the minimum is.
    pub(crate) fn cut(&self, valid_until: Instant) -> Instant {
        self.max.map_or(valid_until, |max| max.min(valid_until))
    }

    /// What is left at `now`. A minimum that has passed is none; a maximum that has passed still is one.
    pub(crate) fn left(&self, now: Instant) -> HoldLimits {
        let left = |until: Instant| until.saturating_duration_since(now);
        HoldLimits { min: self.min.map(left).filter(|min| !min.is_zero()), max: self.max.map(left) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        admission::Admission,
        fencing::Fencing,
        runtime::{Runtime as _, tests::IdleRuntime},
        validity::Drift,
    };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn settings(max_ttl: Option<Duration>, drift: f64) -> Settings {
        Settings {
            runtime: Arc::new(IdleRuntime::default()),
            drift: Drift::new(drift).unwrap(),
            node_timeout: None,
            admission: Admission { max_ttl, ..Admission::default() },
            fencing: Fencing::default(),
        }
    }

    fn limits(min: Duration, max: Option<Duration>) -> HoldLimits {
        HoldLimits { min: Some(min), max }
    }

    #[test]
    fn the_nodes_are_asked_for_the_longer_of_the_ttl_and_what_the_minimum_needs() {
        let settings = settings(None, 0.01);
        let ttl = settings.ttl(s(10)).unwrap();
        for min in [Duration::ZERO, Duration::from_nanos(1), s(1), Duration::from_millis(9_897)] {
            assert_eq!(limits(min, None).cover(&settings, ttl), Ok(ttl), "{min:?}");
        }
        assert_eq!(HoldLimits::default().cover(&settings, ttl), Ok(ttl));
        for min in [s(10), s(60), MAX_TTL / 2] {
            let asked = limits(min, Some(min)).cover(&settings, ttl).unwrap();
            let over = settings.drift.validity(asked) - min;
            assert!(over <= Duration::from_millis(2), "{min:?}: {over:?}");
        }
    }

    #[test]
    fn a_minimum_whose_ttl_is_too_long_is_refused() {
        let guarded = settings(Some(s(60)), 0.01);
        let ttl = guarded.ttl(s(10)).unwrap();
        assert!(limits(s(59), None).cover(&guarded, ttl).is_ok());
        let Err(InvalidRequest::TtlTooLong { ttl: needed, max }) = limits(s(60), None).cover(&guarded, ttl)
        else {
            panic!("with the drift, it takes more than a minute")
        };
        assert!(needed > s(60) && needed < s(61) && max == s(60), "{needed:?}, {max:?}");
        for (min, drift) in [(MAX_TTL, 0.0), (Duration::MAX, 0.01), (s(1), 0.999_999_999_9)] {
            let settings = settings(None, drift);
            let refused = limits(min, None).cover(&settings, ttl);
            assert!(matches!(refused, Err(InvalidRequest::TtlTooLong { max: MAX_TTL, .. })), "{refused:?}");
        }
    }

    #[test]
    fn a_minimum_over_the_maximum_is_refused() {
        let settings = settings(None, 0.01);
        let ttl = settings.ttl(s(1)).unwrap();
        let (min_hold, max_hold) = (s(3), s(2));
        let refused = limits(min_hold, Some(max_hold)).cover(&settings, ttl);
        assert_eq!(refused, Err(InvalidRequest::MinHoldTooLong { min_hold, max_hold }));
    }

    #[test]
    fn what_is_left_of_the_bounds_goes_to_whoever_takes_the_lock_over() {
        let start = IdleRuntime::default().now();
        let until = limits(s(3), Some(s(5))).from(start).unwrap();
        assert_eq!(until.left(start + s(1)), limits(s(2), Some(s(4))));
        assert_eq!(until.left(start + s(3)), HoldLimits { min: None, max: Some(s(2)) });
        assert_eq!(until.left(start + s(9)), HoldLimits { min: None, max: Some(s(0)) });
        assert_eq!(HoldLimits::default().from(start), None);
        assert_eq!(until.cut(start + s(4)), start + s(4));
        assert_eq!(until.cut(start + s(6)), start + s(5));
    }
}
