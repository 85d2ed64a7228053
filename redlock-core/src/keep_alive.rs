//! Extending a lock in the background.

// Tests: below for the schedule; tests/tests/it/sim/keep_alive.rs, sim/using.rs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::select;
use rand::RngExt;

use crate::{
    error::Error,
    latch::Latch,
    lease::{Lease, LeaseState},
    lock::{Lock, UnlockOutcome},
    validity::Ttl,
};

/// A lock that a task of its own extends, a third to a half of its TTL after the last extension. While an
/// extension fails, the task retries every tenth of the TTL, until one succeeds or the validity has ended.
///
/// The moment is random each time, so that locks taken together are not extended together. When a process
/// holds so many locks that extensions fall behind, the nearest deadlines go first.
///
/// The task ends with the guard. Dropping the guard releases the lock in the background.
#[derive(Debug)]
#[must_use = "a guard that is dropped releases its lock"]
pub struct KeepAlive {
    lock: Lock,
    /// Set when the guard is dropped.
    _stop: Latch,
}

impl KeepAlive {
    fn new(lock: Lock) -> Self {
        let stop = Latch::default();
        // Boxed before it is moved into the task, which would keep room for it twice.
        let extending = Box::pin(extend_until_over(lock.state().clone(), lock.ttl(), lock.keep_until()));
        let stopped = stop.wait();
        lock.state().nodes.runtime().spawn(Box::pin(async move {
            select(extending, stopped).await;
        }));
        Self { lock, _stop: stop }
    }

    /// A view of the lock, for the code that it guards.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.lock.lease()
    }

    /// Whether the lock is valid now, see [`Lock::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.lock.is_valid()
    }

    /// Completes when the lock is lost, see [`Lease::lost`].
    pub async fn lost(&self) {
        self.lock.state().ended().await;
    }

    /// Stops extending and returns the lock.
    pub fn stop(self) -> Lock {
        self.lock
    }

    /// Stops extending and releases the lock.
    ///
    /// # Errors
    ///
    /// As [`Lock::unlock`].
    pub async fn unlock(self) -> Result<UnlockOutcome, Error> {
        self.stop().unlock().await
    }
}

impl Lock {
    /// Lets a task extend the lock until the guard is dropped: see [`KeepAlive`].
    pub fn keep_alive(self) -> KeepAlive {
        KeepAlive::new(self)
    }
}

async fn extend_until_over(state: Arc<LeaseState>, ttl: Ttl, until: Option<Instant>) {
    let nodes = &state.nodes;
    let draw = |max| nodes.with_entropy(|rng| rng.random_range(0..=max));
    let won = state.valid_until() - nodes.drift().validity(ttl);
    let mut schedule = RenewalSchedule::new(nodes.now(), won, ttl, draw);
    loop {
        nodes.runtime().sleep(schedule.next().saturating_duration_since(nodes.now())).await;
        let turn = nodes.extensions.turn(&**nodes.runtime(), nodes.max_timeout(), state.valid_until()).await;
        let start = nodes.now();
        let Some(ttl) = within(ttl, until, start).and_then(|ttl| nodes.ttl(ttl).ok()) else {
            return;
        };
        let left = state.valid_until().saturating_duration_since(start);
        let extended = state.extend_within(ttl, schedule.timeout(left)).await;
        turn.finish(nodes.timeout(ttl), !matches!(extended, Err(Error::NoQuorum(_))));
        match extended {
            Ok(()) => schedule.extended(start, draw),
            Err(Error::Lost(_)) => return,
            Err(_) => schedule.failed(nodes.now()),
        }
    }
}

/// The TTL of an extension at `now`, so that the lock is not held beyond `until`.
fn within(ttl: Ttl, until: Option<Instant>, now: Instant) -> Option<Duration> {
    match until {
        Some(until) => until.checked_duration_since(now).map(|left| left.min(ttl.get())),
        None => Some(ttl.get()),
    }
}

/// When to extend. It counts from the last success, not from the remaining validity: a third of the rest,
/// again and again, would approach the deadline without ever reaching it.
#[derive(Debug)]
struct RenewalSchedule {
    next: Instant,
    ttl: Ttl,
}

impl RenewalSchedule {
    /// `start` is when the round of the present validity began, if that was for `ttl`; the longer validity of
    /// an earlier extension is no reason to wait longer. `draw` returns a random number from 0 to its
    /// argument.
    fn new(now: Instant, start: Instant, ttl: Ttl, draw: impl FnOnce(u64) -> u64) -> Self {
        let mut schedule = Self { next: now, ttl };
        schedule.extended(start.min(now), draw);
        schedule
    }

    fn next(&self) -> Instant {
        self.next
    }

    fn extended(&mut self, start: Instant, draw: impl FnOnce(u64) -> u64) {
        let (earliest, latest) = (self.ttl.get() / EARLIEST_SHARE, self.ttl.get() / LATEST_SHARE);
        let spread = u64::try_from((latest - earliest).as_nanos()).unwrap_or(u64::MAX);
        self.next = start + earliest + Duration::from_nanos(draw(spread));
    }

    fn failed(&mut self, now: Instant) {
        self.next = now + self.ttl.get() / TRIES_PER_TTL;
    }

    /// How long an extension may wait for replies with this remaining validity: half of it, so that there is
    /// time for another try, or all of it when another try would come too late.
    fn timeout(&self, left: Duration) -> Duration {
        if left / 2 > self.ttl.get() / TRIES_PER_TTL { left / 2 } else { left }
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

    fn ttl(duration: Duration) -> Ttl {
        Ttl::new(duration, Drift::new(0.01).unwrap()).unwrap()
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
        let start = some_instant();
        let mut schedule = RenewalSchedule::new(start + seconds(4), start, ttl(seconds(30)), first);
        assert_eq!(schedule.next(), start + seconds(10));
        assert_eq!(
            RenewalSchedule::new(start, start + seconds(50), ttl(seconds(30)), first).next(),
            start + seconds(10)
        );
        schedule.extended(start + seconds(10), first);
        assert_eq!(schedule.next(), start + seconds(20));
        schedule.extended(start + seconds(20), last);
        assert_eq!(schedule.next(), start + seconds(35));
        schedule.extended(start, |max| max / 5);
        assert_eq!(schedule.next(), start + seconds(11));
    }

    #[test]
    fn an_extension_leaves_time_for_another_while_there_is_any() {
        let schedule = RenewalSchedule::new(some_instant(), some_instant(), ttl(seconds(30)), first);
        assert_eq!(schedule.timeout(seconds(20)), seconds(10));
        assert_eq!(schedule.timeout(seconds(7)), seconds(7) / 2);
        assert_eq!(schedule.timeout(seconds(6)), seconds(6));
        assert_eq!(schedule.timeout(seconds(0)), seconds(0));
    }

    #[test]
    fn a_failed_extension_is_tried_again_at_a_bounded_rate() {
        let start = some_instant();
        let mut schedule = RenewalSchedule::new(start, start, ttl(seconds(30)), first);
        schedule.failed(start + seconds(11));
        assert_eq!(schedule.next(), start + seconds(14));
        schedule.failed(schedule.next());
        assert_eq!(schedule.next(), start + seconds(17));
    }

    #[test]
    fn the_maximum_hold_cuts_the_last_extension() {
        let start = some_instant();
        let ttl = ttl(seconds(30));
        assert_eq!(within(ttl, None, start), Some(seconds(30)));
        assert_eq!(within(ttl, Some(start + seconds(100)), start), Some(seconds(30)));
        assert_eq!(within(ttl, Some(start + seconds(100)), start + seconds(80)), Some(seconds(20)));
        assert_eq!(within(ttl, Some(start + seconds(100)), start + seconds(101)), None);
    }
}
