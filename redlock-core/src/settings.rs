//! The settings for requests to all nodes of a lock manager: the runtime, the drift, and the timeouts.

// Tests: below; tests/tests/it/sim/limits.rs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admission::Admission,
    fencing::Fencing,
    invalid::InvalidRequest,
    runtime::Runtime,
    validity::{Drift, Ttl},
};

/// The settings of a lock manager that its nodes share.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) drift: Drift,
    /// The timeout of each node in each round; `None` is a share of the TTL.
    pub(crate) node_timeout: Option<Duration>,
    pub(crate) admission: Admission,
    pub(crate) fencing: Fencing,
}

impl Settings {
    pub(crate) fn now(&self) -> Instant {
        self.runtime.now()
    }

    /// The guard of a node counts on no lock living longer than the longest TTL.
    pub(crate) fn ttl(&self, ttl: Duration) -> Result<Ttl, InvalidRequest> {
        match self.admission.max_ttl {
            Some(max) if ttl > max => Err(InvalidRequest::TtlTooLong { ttl, max }),
            _ => Ttl::new(ttl, self.drift),
        }
    }

    /// How long each node may take to reply: never longer than a lock with this TTL would be valid.
    pub(crate) fn timeout(&self, ttl: Ttl) -> Duration {
        let share = || (ttl.get() / TIMEOUT_SHARE).clamp(MIN_TIMEOUT, MAX_TIMEOUT);
        self.node_timeout.unwrap_or_else(share).min(self.drift.validity(ttl))
    }

    /// How long a node may take to reply at most, whatever the TTL.
    pub(crate) fn max_timeout(&self) -> Duration {
        self.node_timeout.unwrap_or(MAX_TIMEOUT)
    }

    /// Whether a node that has not replied within `timeout` had enough time. A timeout that was shortened, by
    /// a short TTL or a bounded wait, shows nothing about the node.
    pub(crate) fn is_full(&self, timeout: Duration) -> bool {
        timeout >= self.node_timeout.unwrap_or(MIN_TIMEOUT).min(MIN_TIMEOUT)
    }
}

/// The default node timeout is a twentieth of the TTL ...
const TIMEOUT_SHARE: u32 = 20;
/// ... but not less than this ...
pub(crate) const MIN_TIMEOUT: Duration = Duration::from_millis(50);
/// ... and not more than this: even for a long TTL, no call should wait for a dead node for long.
const MAX_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tests::IdleRuntime;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn settings(node_timeout: Option<Duration>) -> Settings {
        let (runtime, drift) = (Arc::new(IdleRuntime::default()), Drift::new(0.01).unwrap());
        let (admission, fencing) = (Admission::default(), Fencing::default());
        Settings { runtime, drift, node_timeout, admission, fencing }
    }

    #[test]
    fn a_ttl_is_at_most_the_longest_of_the_manager() {
        let admission = Admission { max_ttl: Some(ms(30_000)), ..Admission::default() };
        let settings = Settings { admission, ..settings(None) };
        assert!(settings.ttl(ms(30_000)).is_ok());
        let (ttl, max) = (ms(30_000) + Duration::from_nanos(1), ms(30_000));
        assert_eq!(settings.ttl(ttl), Err(InvalidRequest::TtlTooLong { ttl, max }));
        assert!(matches!(settings.ttl(ms(2)), Err(InvalidRequest::TtlTooShort { .. })));
    }

    #[test]
    fn a_node_has_a_share_of_the_ttl_and_never_more_than_the_validity() {
        for (ttl, default, own) in
            [(10, 7, 7), (500, 50, 300), (2_000, 100, 300), (10_000, 500, 300), (60_000, 2_000, 300)]
        {
            let ttl = Ttl::new(ms(ttl), Drift::new(0.01).unwrap()).unwrap();
            let timeout = |node_timeout| settings(node_timeout).timeout(ttl).as_millis();
            assert_eq!((timeout(None), timeout(Some(ms(300)))), (default, own), "{ttl:?}");
        }
        assert_eq!(settings(None).max_timeout(), ms(2_000));
        assert_eq!(settings(Some(ms(5_000))).max_timeout(), ms(5_000));
    }

    #[test]
    fn a_timeout_that_was_cut_short_says_nothing_about_the_node() {
        let full = |node_timeout: Option<u64>, timeout| settings(node_timeout.map(ms)).is_full(ms(timeout));
        assert!(full(None, 50) && full(Some(10), 10) && full(Some(500), 50));
        assert!(!full(None, 49) && !full(Some(10), 9) && !full(Some(500), 49));
    }
}
