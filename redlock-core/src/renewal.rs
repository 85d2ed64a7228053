//! When a lock that is kept alive is extended, and for how long.

// Tests: below; tests/tests/it/sim/keep_alive.rs, sim/using.rs.

use std::time::{Duration, Instant};

use crate::validity::Ttl;

/// How one lock is kept alive. Its moments count from the last success, not from the remaining validity: a
/// third of the rest, again and again, would approach the deadline without ever reaching it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal {
    ttl: Ttl,
    /// When the lock has been held for long enough.
    until: Option<Instant>,
}

impl Renewal {
    pub(crate) fn new(ttl: Ttl, until: Option<Instant>) -> Self {
        Self { ttl, until }
    }

    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// When the first extension is due. `start` is when the round of the present validity began, if that was
    /// for the TTL. The longer validity of an earlier extension is no reason to wait longer, but that of a
    /// minimum hold is: `kept_from` is when a round for the TTL would have to begin to reach its end. `draw`
    /// returns a random number from 0 to its argument.
    pub(crate) fn first(
        &self,
        now: Instant,
        start: Instant,
        kept_from: Option<Instant>,
        draw: impl FnOnce(u64) -> u64,
    ) -> Instant {
        self.next(start.min(kept_from.map_or(now, |from| from.max(now))), draw)
    }

    /// When the next extension is due, after one that began at `start`.
    pub(crate) fn next(&self, start: Instant, draw: impl FnOnce(u64) -> u64) -> Instant {
        let (earliest, latest) = (self.ttl.get() / EARLIEST_SHARE, self.ttl.get() / LATEST_SHARE);
        let spread = u64::try_from((latest - earliest).as_nanos()).unwrap_or(u64::MAX);
        start + earliest + Duration::from_nanos(draw(spread))
    }

    /// When the next extension is due, after one that failed.
    pub(crate) fn retry(&self, now: Instant) -> Instant {
        now + self.ttl.get() / TRIES_PER_TTL
    }

    /// How long an extension may wait for replies with this remaining validity: half of it, so that there is
    /// time for another try, or all of it when another try would come too late.
    pub(crate) fn timeout(&self, left: Duration) -> Duration {
        if left / 2 > self.ttl.get() / TRIES_PER_TTL { left / 2 } else { left }
    }

    /// The TTL of an extension at `now`, so that the lock is not held for longer than it may be.
    pub(crate) fn ttl(&self, now: Instant) -> Option<Duration> {
        match self.until {
            Some(until) => until.checked_duration_since(now).map(|left| left.min(self.ttl.get())),
            None => Some(self.ttl.get()),
        }
    }
}

/// An extension comes a third of the TTL after the last one ...
const EARLIEST_SHARE: u32 = 3;
/// ... or up to a half of it.
const LATEST_SHARE: u32 = 2;
const TRIES_PER_TTL: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validity::Drift;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn renewal(until: Option<Instant>) -> Renewal {
        Renewal::new(Ttl::new(seconds(30), Drift::new(0.01).unwrap()).unwrap(), until)
    }

    #[allow(clippy::disallowed_methods)]
    fn some_instant() -> Instant {
        Instant::now()
    }

    fn first(_: u64) -> u64 {
        0
    }

    fn last(max: u64) -> u64 {
        max
    }

    #[test]
    fn extensions_come_after_a_third_to_a_half_of_the_ttl_however_long_they_take() {
        let (renewal, start) = (renewal(None), some_instant());
        assert_eq!(renewal.first(start + seconds(4), start, None, first), start + seconds(10));
        assert_eq!(renewal.first(start, start + seconds(50), None, first), start + seconds(10));
        assert_eq!(renewal.next(start + seconds(10), first), start + seconds(20));
        assert_eq!(renewal.next(start + seconds(20), last), start + seconds(35));
        assert_eq!(renewal.next(start, |max| max / 5), start + seconds(11));
    }

    #[test]
    fn a_lock_with_a_minimum_hold_is_first_extended_towards_its_end() {
        let (renewal, now) = (renewal(None), some_instant());
        let due = |start, kept_from| renewal.first(now, now + start, kept_from, first) - now;
        assert_eq!(due(seconds(100), Some(now + seconds(100))), seconds(110));
        assert_eq!(due(seconds(300), Some(now + seconds(100))), seconds(110), "of a longer validity");
        assert_eq!(due(seconds(0), Some(now + seconds(100))), seconds(10), "of a shorter one");
        assert_eq!(due(seconds(50), now.checked_sub(seconds(1))), seconds(10), "when it has passed");
    }

    #[test]
    fn an_extension_leaves_time_for_another_while_there_is_any() {
        let renewal = renewal(None);
        assert_eq!(renewal.timeout(seconds(20)), seconds(10));
        assert_eq!(renewal.timeout(seconds(7)), seconds(7) / 2);
        assert_eq!(renewal.timeout(seconds(6)), seconds(6));
        assert_eq!(renewal.timeout(seconds(0)), seconds(0));
    }

    #[test]
    fn a_failed_extension_is_tried_again_at_a_bounded_rate() {
        let start = some_instant();
        assert_eq!(renewal(None).retry(start), start + seconds(3));
    }

    #[test]
    fn the_maximum_hold_cuts_the_last_extension() {
        let start = some_instant();
        assert_eq!(renewal(None).ttl(start), Some(seconds(30)));
        let renewal = renewal(Some(start + seconds(100)));
        assert_eq!(renewal.ttl(start), Some(seconds(30)));
        assert_eq!(renewal.ttl(start + seconds(80)), Some(seconds(20)));
        assert_eq!(renewal.ttl(start + seconds(101)), None);
    }
}
