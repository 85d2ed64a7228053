//! How many extensions may be under way at a time.

// Tests: below; extensions.rs; tests/tests/it/sim/keep_alive.rs.

use std::time::Duration;

/// How well extensions go.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Fewer when replies take long, because then the nodes, or this process, cannot keep up.
    limit: usize,
    took: Duration,
}

impl Pace {
    /// How many extensions may be under way.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How long an extension takes.
    pub(crate) fn took(&self) -> Duration {
        self.took
    }

    /// An extension has ended after `took`. `replied` is how long the nodes had to reply, and whether they
    /// did.
    pub(crate) fn record(&mut self, took: Duration, replied: Option<(Duration, bool)>) {
        // A rare slow extension counts as slow for some time.
        self.took = took.max(self.took / 8 * 7);
        if let Some((timeout, replied)) = replied {
            self.adapt(took, timeout, replied);
        }
    }

    /// Doubles the limit with each round of fast replies, and lowers it before replies come too late.
    fn adapt(&mut self, took: Duration, timeout: Duration, replied: bool) {
        let limit = match took {
            _ if !replied => self.limit / 8 * 7,
            took if took <= timeout / 4 => self.limit + 1,
            took if took <= timeout / 2 => self.limit,
            _ => self.limit - 1,
        };
        self.limit = limit.clamp(MIN_LIMIT, MAX_LIMIT);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { limit: MIN_LIMIT, took: Duration::ZERO }
    }
}

/// Far more than a process that keeps up ever has under way at a time.
const MAX_LIMIT: usize = 512;
/// The limit at the start, and while no replies come.
const MIN_LIMIT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    fn record(pace: &mut Pace, took: Duration, replied: bool) -> usize {
        pace.record(took, Some((TIMEOUT, replied)));
        pace.limit()
    }

    #[test]
    fn fewer_are_under_way_while_replies_take_long_or_stay_away() {
        let mut pace = Pace::default();
        assert_eq!(pace.limit(), MIN_LIMIT);
        assert_eq!(record(&mut pace, TIMEOUT / 4, true), MIN_LIMIT + 1, "two follow one");
        assert_eq!(record(&mut pace, TIMEOUT / 2, true), MIN_LIMIT + 1);
        assert_eq!(record(&mut pace, TIMEOUT, true), MIN_LIMIT);
        (0..1_000).for_each(|_| pace.record(TIMEOUT / 8, Some((TIMEOUT, true))));
        assert_eq!(pace.limit(), MAX_LIMIT);
        assert_eq!(record(&mut pace, TIMEOUT / 8, false), MAX_LIMIT / 8 * 7);
        (0..100).for_each(|_| pace.record(TIMEOUT, Some((TIMEOUT, false))));
        assert_eq!(pace.limit(), MIN_LIMIT);
        pace.record(Duration::ZERO, None);
        assert_eq!(pace.limit(), MIN_LIMIT, "nothing was sent");
    }

    #[test]
    fn a_slow_extension_counts_for_some_time() {
        let mut pace = Pace::default();
        pace.record(8 * TIMEOUT, None);
        pace.record(TIMEOUT, None);
        assert_eq!(pace.took(), 7 * TIMEOUT);
        pace.record(9 * TIMEOUT, None);
        assert_eq!(pace.took(), 9 * TIMEOUT);
    }
}
