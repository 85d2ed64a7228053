//! The attempts of one call: round after round, until one is won or none may follow.

// Tests: below for the time budget; tests/tests/it/sim/waiting.rs, sim/bounds.rs.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::select;
use rand::RngExt;

use crate::{
    error::Error,
    lease::LeaseState,
    lock::{Acquisition, Lock},
    nodes::Nodes,
    quorum::LossReason,
    resources::Resources,
    retry::{MIN_DELAY, RetryPolicy},
    rounds::AcquireRound,
    settings::MIN_TIMEOUT,
    telemetry::Verb,
    votes::LostRound,
};

/// The options of one call.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) retry: RetryPolicy,
    pub(crate) acquire_timeout: Option<Duration>,
    pub(crate) max_hold: Option<Duration>,
}

/// Makes rounds until one is won, or the last one is lost.
pub(crate) async fn acquire(
    nodes: &Arc<Nodes>,
    resources: &Resources,
    ttl: Duration,
    options: &Options,
) -> Result<Lock, Error> {
    resources.validate()?;
    let ttl = nodes.ttl(options.max_hold.map_or(ttl, |max_hold| ttl.min(max_hold)))?;
    let mut budget = TimeBudget::new(nodes, nodes.timeout(ttl), options.acquire_timeout);
    let mut retries = options.retry.start();
    let mut attempts: u32 = 0;
    loop {
        attempts = attempts.saturating_add(1);
        let retry = retries.next();
        let may_retry = |now| retry.is_some() && budget.for_a_delay(now, Duration::MAX).is_some();
        let begun = nodes.now();
        let mut round = AcquireRound::new(nodes, resources.clone(), ttl, begun, budget.for_a_round(begun));
        let mut won = round.decide(!may_retry(begun)).await;
        if !won && !may_retry(nodes.now()) {
            // It turned out to be the last one. If that was clear from the start, this changes nothing.
            won = round.decide(true).await;
        }
        if won {
            let won = round.accept(Verb::Acquire);
            let start = won.valid_until - nodes.drift().validity(ttl);
            let keep_until = options.max_hold.and_then(|max_hold| start.checked_add(max_hold));
            let took = won.decided.map_or(Duration::ZERO, |decided| decided.saturating_duration_since(start));
            let state = LeaseState::new(nodes.clone(), won.claim, won.valid_until);
            let replies = won.replies;
            return Ok(Lock::new(state, ttl, Acquisition { attempts, took, replies, keep_until }));
        }
        let now = nodes.now();
        if round.is_certain() {
            budget.learn(now - begun);
        }
        let (rollback, lost) = round.roll_back(Verb::Acquire);
        let claim = rollback.claim();
        let delay = match lost.reason {
            LossReason::Rejected => None,
            LossReason::Refused | LossReason::NoQuorum => retry.and_then(|retry| {
                let delay = retry.draw(|width| nodes.with_entropy(|rng| rng.random_range(0..=width)));
                budget.for_a_delay(now, delay)
            }),
        };
        let is_last = match delay {
            Some(delay) => {
                rollback.begin().await;
                nodes.runtime().sleep(delay).await;
                // A timer that fired too late has left no time for another round.
                budget.left(nodes.now()).is_zero()
            }
            None => {
                let patience = nodes.runtime().sleep(budget.left(nodes.now()));
                select(pin!(rollback.settle(nodes)), patience).await;
                true
            }
        };
        if is_last {
            return Err(LostRound { attempts, ..lost }.into_acquire_error(&claim));
        }
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
    fn new(nodes: &Nodes, node_timeout: Duration, timeout: Option<Duration>) -> Self {
        // The first round needs some time in any case.
        let wait = timeout.map(|wait| wait.max(MIN_TIMEOUT));
        let reserve = wait.map_or(node_timeout, |wait| node_timeout.min((wait / 4).max(MIN_TIMEOUT)));
        let give_up = wait.and_then(|wait| nodes.now().checked_add(wait));
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
}
