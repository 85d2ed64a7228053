//! How long a call goes on: its delays, and the time that it has for them and for its rounds.

// Tests: below; tests/tests/it/sim/waiting.rs, sim/bounds.rs.

use std::{
    mem,
    time::{Duration, Instant},
};

use crate::{
    retry::{MIN_DELAY, Retries, RetryDelay, RetryPolicy},
    settings::MIN_TIMEOUT,
    validity::MAX_TTL,
};

/// The patience of one call. Its delays are a clock, and each of them that passes uses up a retry: whether
/// its end leads to a round, or the call has to wait on for its turn. A round in between uses up none.
pub(crate) struct Patience {
    budget: TimeBudget,
    retries: Retries,
    /// The delay that follows the present one.
    next: Option<RetryDelay>,
    /// The end of the present delay.
    due: Option<Instant>,
    /// Whether a round has begun.
    has_begun: bool,
}

impl Patience {
    /// `node_timeout` bounds each round.
    pub(crate) fn new(
        now: Instant,
        retry: &RetryPolicy,
        node_timeout: Duration,
        timeout: Option<Duration>,
    ) -> Self {
        let budget = TimeBudget::new(now, node_timeout, timeout);
        let mut retries = retry.start();
        let next = retries.next();
        Self { budget, retries, next, due: None, has_begun: false }
    }

    /// Until when the present delay lasts; when it has passed, the next one begins. `None`: no delay is left,
    /// or no time for a round after it.
    pub(crate) fn delay(&mut self, now: Instant, draw: impl FnOnce(u64) -> u64) -> Option<Instant> {
        if self.due.is_none_or(|due| due <= now) {
            let delay = self.next.map(|next| next.draw(draw));
            let delay = delay.and_then(|delay| self.budget.for_a_delay(now, delay));
            self.due = delay.map(|delay| now + delay.min(MAX_TTL));
            self.next = self.next.and_then(|_| self.retries.next());
        }
        self.due
    }

    /// Whether no delay, and so no other round, would follow a round that is lost now.
    pub(crate) fn is_last(&self, now: Instant) -> bool {
        let may_begin = || self.next.is_some() && self.budget.for_a_delay(now, Duration::MAX).is_some();
        !(self.due.is_some_and(|due| due > now) || may_begin())
    }

    /// Records how long a round took.
    pub(crate) fn learn(&mut self, took: Duration) {
        self.budget.learn(took);
    }

    /// The time until the call has to end.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.budget.left(now)
    }

    /// When the call has to end, if it is bounded.
    pub(crate) fn give_up(&self) -> Option<Instant> {
        self.budget.give_up
    }

    /// How long a round that begins now may wait for replies. The first one has some time in any case, even if
    /// its turn came late: only the nodes can say why there is no lock.
    pub(crate) fn for_a_round(&mut self, now: Instant) -> Duration {
        let first = !mem::replace(&mut self.has_begun, true);
        let least = if first { MIN_TIMEOUT.min(self.budget.node_timeout) } else { Duration::ZERO };
        self.budget.for_a_round(now).max(least)
    }
}

/// The time that a call has for its rounds and delays.
struct TimeBudget {
    node_timeout: Duration,
    give_up: Option<Instant>,
    /// The time reserved for the last round, before the duration of a round is known.
    reserve: Duration,
    /// The longest round so far that did not end with a timeout.
    longest: Option<Duration>,
}

impl TimeBudget {
    fn new(now: Instant, node_timeout: Duration, timeout: Option<Duration>) -> Self {
        // The first round needs some time in any case.
        let wait = timeout.map(|wait| wait.max(MIN_TIMEOUT));
        let reserve = wait.map_or(node_timeout, |wait| node_timeout.min((wait / 4).max(MIN_TIMEOUT)));
        let give_up = wait.and_then(|wait| now.checked_add(wait));
        Self { node_timeout, give_up, reserve, longest: None }
    }

    /// Records how long a round took.
    fn learn(&mut self, took: Duration) {
        self.longest = self.longest.max(Some(took));
    }

    fn left(&self, now: Instant) -> Duration {
        self.give_up.map_or(Duration::MAX, |give_up| give_up.saturating_duration_since(now))
    }

    fn for_a_round(&self, now: Instant) -> Duration {
        self.node_timeout.min(self.left(now))
    }

    /// The delay, shortened so that the last round still has enough time; `None` when there is no time for
    /// another round.
    fn for_a_delay(&self, now: Instant, delay: Duration) -> Option<Duration> {
        let left = self.left(now).saturating_sub(self.for_the_last_round());
        (left >= MIN_DELAY).then(|| delay.min(left))
    }

    /// A round may take one and a half times as long as those before.
    fn for_the_last_round(&self) -> Duration {
        let needed = |took: Duration| took.saturating_add(took / 2).max(MIN_TIMEOUT);
        self.longest.map_or(self.reserve, |took| self.reserve.min(needed(took)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Delay;

    #[allow(clippy::disallowed_methods)]
    fn some_instant() -> Instant {
        Instant::now()
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn a_second_from(now: Instant) -> TimeBudget {
        TimeBudget { node_timeout: ms(500), give_up: Some(now + ms(1_000)), reserve: ms(250), longest: None }
    }

    #[test]
    fn the_last_round_has_its_reserve_and_no_round_runs_over() {
        let now = some_instant();
        let time = a_second_from(now);
        assert_eq!(time.for_a_round(now), ms(500));
        assert_eq!(time.for_a_round(now + ms(900)), ms(100));
        assert_eq!(time.for_a_delay(now, ms(200)), Some(ms(200)));
        assert_eq!(time.for_a_delay(now + ms(700), ms(200)), Some(ms(50)));
        assert_eq!(time.for_a_delay(now + ms(750), ms(200)), None);
        assert_eq!(time.left(now + ms(2_000)), ms(0));
    }

    #[test]
    fn the_last_round_comes_as_late_as_the_longest_of_those_before_lets_it() {
        let now = some_instant();
        for (rounds, last) in [
            (&[0][..], 950),
            (&[20, 30, 1], 950),
            (&[100, 40], 850),
            (&[160], 760),
            // No more than the reserve before the duration is known.
            (&[200], 750),
        ] {
            let mut time = a_second_from(now);
            rounds.iter().for_each(|took| time.learn(ms(*took)));
            let delay = ms(2_000);
            assert_eq!(time.for_a_delay(now, delay), Some(ms(last)), "{rounds:?}");
            assert_eq!(time.for_a_delay(now + ms(last), delay), None, "{rounds:?}");
        }
    }

    #[test]
    fn without_a_bound_nothing_is_cut() {
        let now = some_instant();
        let time = TimeBudget { node_timeout: ms(500), give_up: None, reserve: ms(500), longest: None };
        assert_eq!(time.for_a_round(now), ms(500));
        assert_eq!(time.for_a_delay(now, Duration::MAX - ms(500)), Some(Duration::MAX - ms(500)));
    }

    fn patience(count: Option<u32>, timeout: Option<Duration>, now: Instant) -> Patience {
        let delay = Delay::Fixed { delay: ms(100), jitter: ms(0) };
        Patience::new(now, &RetryPolicy { count, delay }, ms(500), timeout)
    }

    #[test]
    fn delays_that_pass_use_up_the_retries_and_rounds_in_between_do_not() {
        let now = some_instant();
        let at = |millis| now + ms(millis);
        let mut patience = patience(Some(2), None, now);
        assert!(!patience.is_last(now));
        assert_eq!(patience.delay(now, |_| 0), Some(at(100)));
        // Its turn comes twice meanwhile, and each time the round is lost.
        for millis in [30, 99] {
            assert!(!patience.is_last(at(millis)));
            assert_eq!(patience.delay(at(millis), |_| 0), Some(at(100)));
        }
        assert_eq!(patience.delay(at(101), |_| 0), Some(at(201)));
        assert!(!patience.is_last(at(200)));
        assert!(patience.is_last(at(201)));
        for millis in [201, 500] {
            assert_eq!(patience.delay(at(millis), |_| 0), None);
        }
    }

    #[test]
    fn a_bounded_wait_ends_with_a_delay_that_leaves_time_for_the_last_round() {
        let now = some_instant();
        let at = |millis| now + ms(millis);
        let mut patience = patience(None, Some(ms(400)), now);
        for due in [100, 200, 300] {
            assert_eq!(patience.delay(at(due - 100), |_| 0), Some(at(due)));
        }
        assert_eq!((patience.is_last(at(300)), patience.delay(at(300), |_| 0)), (true, None));
    }

    #[test]
    fn only_the_first_round_has_time_when_it_comes_too_late() {
        let now = some_instant();
        let mut patience = patience(None, Some(ms(400)), now);
        assert_eq!(patience.for_a_round(now + ms(390)), ms(50));
        assert_eq!(patience.for_a_round(now + ms(390)), ms(10));
        assert_eq!(patience.left(now + ms(410)), ms(0));
    }

    #[test]
    fn an_endless_delay_is_bounded() {
        let now = some_instant();
        let delay = Delay::Fixed { delay: Duration::MAX, jitter: ms(0) };
        let mut patience = Patience::new(now, &RetryPolicy { count: None, delay }, ms(500), None);
        assert_eq!(patience.delay(now, |_| 0), Some(now + MAX_TTL));
    }
}
