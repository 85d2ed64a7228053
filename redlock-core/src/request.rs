//! One call of `lock`: its options, and its rounds.

use std::{
    future::{Future, IntoFuture},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, Either, select};
use rand::RngExt;

use crate::{
    error::Error,
    keep_alive::Lease,
    lease::LeaseState,
    lock::{Acquisition, Lock},
    nodes::{MIN_TIMEOUT, Nodes},
    quorum::LossReason,
    resources::Resources,
    retry::{Delay, DelaySource, MIN_DELAY, RetryPolicy},
    rounds::{AcquireRound, LostRound},
    telemetry::{Call, Kind, Outcome, Verb},
};

/// A lock that is asked for, from [`Redlock::lock`](crate::Redlock::lock): await it, or change its options
/// first.
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until the request is awaited"]
pub struct LockRequest {
    nodes: Arc<Nodes>,
    retry: RetryPolicy,
    resources: Resources,
    ttl: Duration,
    wait: Option<Duration>,
    longest: Option<Duration>,
}

impl LockRequest {
    pub(crate) fn new(nodes: Arc<Nodes>, retry: RetryPolicy, resources: Resources, ttl: Duration) -> Self {
        Self { nodes, retry, resources, ttl, wait: None, longest: None }
    }

    /// As [`RedlockBuilder::retry_count`](crate::RedlockBuilder::retry_count), for this call.
    pub fn retry_count(mut self, count: u32) -> Self {
        self.retry.count = Some(count);
        self
    }

    /// As [`RedlockBuilder::retry_forever`](crate::RedlockBuilder::retry_forever), for this call.
    pub fn retry_forever(mut self) -> Self {
        self.retry.count = None;
        self
    }

    /// As [`RedlockBuilder::retry_delay`](crate::RedlockBuilder::retry_delay), for this call.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.retry.delay.set_delay(delay);
        self
    }

    /// As [`RedlockBuilder::retry_jitter`](crate::RedlockBuilder::retry_jitter), for this call.
    pub fn retry_jitter(mut self, jitter: Duration) -> Self {
        self.retry.delay.set_jitter(jitter);
        self
    }

    /// As [`RedlockBuilder::retry_delays`](crate::RedlockBuilder::retry_delays), for this call.
    pub fn retry_delays<F, I>(mut self, delays: F) -> Self
    where
        F: Fn() -> I + Send + Sync + 'static,
        I: IntoIterator<Item = Duration>,
        I::IntoIter: Send + 'static,
    {
        self.retry.delay = Delay::Custom(DelaySource::new(delays));
        self
    }

    /// Gives up after `wait` at the latest (or 50 ms, when that is longer), counted from the first poll. The
    /// retry count still bounds the attempts: to wait for all of this time, add
    /// [`retry_forever`](LockRequest::retry_forever). The default is no bound.
    ///
    /// Enough of it is kept for the last round: half as much again as the longest round of this call took,
    /// but at least 50 ms; until one has shown how long it takes, the last quarter, or the node timeout when
    /// that is shorter.
    pub fn acquire_timeout(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// The longest that [`using`](LockRequest::using) and [`Lock::keep_alive`] hold the lock, counted from
    /// the round that won it: a ttl that is longer is cut to it, and no extension goes past it. The default
    /// is no bound.
    pub fn max_hold(mut self, longest: Duration) -> Self {
        self.longest = Some(longest);
        self
    }

    /// As [`Redlock::using`](crate::Redlock::using), with the options of this request.
    ///
    /// # Errors
    ///
    /// As [`Redlock::using`](crate::Redlock::using).
    pub async fn using<F, Fut>(self, routine: F) -> Result<Fut::Output, Error>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        let guard = self.await?.keep_alive();
        let finished = {
            let lost = pin!(guard.lost());
            // Polled first: at the loss, a routine that waits for it can still give its own result.
            match select(pin!(routine(guard.lease())), lost).await {
                Either::Left((output, _)) => Some(output),
                Either::Right(((), _)) => None,
            }
        };
        match finished {
            Some(output) => {
                // Its outcome must not hide the routine's. Nodes that cannot be reached are asked again.
                let _ = guard.unlock().await;
                Ok(output)
            }
            None => {
                let claim = guard.stop().hold().claim.clone();
                Err(Error::Lost(LostRound::lapsed().report(&claim)))
            }
        }
    }

    async fn run(self) -> Result<Lock, Error> {
        let call = Call::begin(Kind::Lock, &*self.nodes.runtime, &self.resources, None);
        call.watch(self.win(), |lock| Outcome::Granted { attempts: lock.attempts(), token: lock.token() })
            .await
    }

    async fn win(&self) -> Result<Lock, Error> {
        self.resources.validate()?;
        let ttl = self.nodes.ttl(self.longest.map_or(self.ttl, |longest| self.ttl.min(longest)))?;
        let mut time = TimeBudget::new(&self.nodes, self.nodes.timeout(ttl), self.wait);
        let mut retries = self.retry.start();
        let mut attempts: u32 = 0;
        loop {
            attempts = attempts.saturating_add(1);
            let delay = retries.next(|width| self.nodes.with_entropy(|rng| rng.random_range(0..=width)));
            let begun = self.nodes.now();
            let mut round =
                AcquireRound::new(&self.nodes, self.resources.clone(), ttl, time.for_a_round(begun));
            let mut won = round.decide(time.for_a_delay(begun, delay).is_none()).await;
            if !won && time.for_a_delay(self.nodes.now(), delay).is_none() {
                // It was the last after all. Where that was clear from the start, this changes nothing.
                won = round.decide(true).await;
            }
            if won {
                let (claim, valid_until, votes) = round.accept(Verb::Acquire);
                let start = valid_until - self.nodes.drift.validity(ttl);
                let longest = self.longest.and_then(|longest| start.checked_add(longest));
                let took = self.nodes.now().saturating_duration_since(start);
                let hold = LeaseState::new(self.nodes.clone(), claim, valid_until);
                return Ok(Lock::new(hold, ttl, Acquisition { attempts, took, votes, longest }));
            }
            let now = self.nodes.now();
            if round.is_certain() {
                time.learn(now - begun);
            }
            let (undoing, defeated) = round.undo(Verb::Acquire);
            let delay = match defeated.defeat {
                LossReason::Rejected => None,
                LossReason::Refused | LossReason::NoQuorum => time.for_a_delay(now, delay),
            };
            match delay {
                Some(delay) => {
                    let claim = undoing.claim();
                    undoing.begin().await;
                    self.nodes.runtime.sleep(delay).await;
                    // A timer that came too late has left no time for another round.
                    if time.left(self.nodes.now()).is_zero() {
                        return Err(LostRound { attempts, ..defeated }.into_acquire_error(&claim));
                    }
                }
                None => {
                    let claim = undoing.claim();
                    let patience = self.nodes.runtime.sleep(time.left(self.nodes.now()));
                    select(pin!(undoing.settle(&self.nodes)), patience).await;
                    return Err(LostRound { attempts, ..defeated }.into_acquire_error(&claim));
                }
            }
        }
    }
}

impl IntoFuture for LockRequest {
    type Output = Result<Lock, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// The time that a call has for its rounds and delays.
struct TimeBudget {
    node_timeout: Duration,
    give_up: Option<Instant>,
    /// What is kept for the last round, while nothing is known about how long one takes.
    reserve: Duration,
    /// The longest round so far whose end was not brought about by a timeout.
    longest: Option<Duration>,
}

impl TimeBudget {
    fn new(nodes: &Nodes, node_timeout: Duration, wait: Option<Duration>) -> Self {
        // The first round needs some time in any case.
        let wait = wait.map(|wait| wait.max(MIN_TIMEOUT));
        let reserve = wait.map_or(node_timeout, |wait| node_timeout.min((wait / 4).max(MIN_TIMEOUT)));
        let give_up = wait.and_then(|wait| nodes.now().checked_add(wait));
        Self { node_timeout, give_up, reserve, longest: None }
    }

    /// Learns how long a round took.
    fn learn(&mut self, took: Duration) {
        self.longest = self.longest.max(Some(took));
    }

    fn left(&self, now: Instant) -> Duration {
        self.give_up.map_or(Duration::MAX, |give_up| give_up.saturating_duration_since(now))
    }

    fn for_a_round(&self, now: Instant) -> Duration {
        self.node_timeout.min(self.left(now))
    }

    /// The delay, cut so that the last round still has the time that it needs; `None` when there is no time
    /// for another, or no other.
    fn for_a_delay(&self, now: Instant, delay: Option<Duration>) -> Option<Duration> {
        let left = self.left(now).saturating_sub(self.for_the_last_round());
        delay.filter(|_| left >= MIN_DELAY).map(|delay| delay.min(left))
    }

    /// A round that takes longer than those before has half of their time more.
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
        assert_eq!(time.for_a_delay(now, Some(ms(200))), Some(ms(200)));
        assert_eq!(time.for_a_delay(now, None), None);
        assert_eq!(time.for_a_delay(now + ms(700), Some(ms(200))), Some(ms(50)));
        assert_eq!(time.for_a_delay(now + ms(750), Some(ms(200))), None);
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
            // No more than what is kept when nothing is known.
            (&[200], 750),
        ] {
            let mut time = a_second_from(now);
            rounds.iter().for_each(|took| time.learn(ms(*took)));
            let delay = Some(ms(2_000));
            assert_eq!(time.for_a_delay(now, delay), Some(ms(last)), "{rounds:?}");
            assert_eq!(time.for_a_delay(now + ms(last), delay), None, "{rounds:?}");
        }
    }

    #[test]
    fn without_a_bound_nothing_is_cut() {
        let now = some_instant();
        let time = TimeBudget { node_timeout: ms(500), give_up: None, reserve: ms(500), longest: None };
        assert_eq!(time.for_a_round(now), ms(500));
        assert_eq!(time.for_a_delay(now, Some(Duration::MAX - ms(500))), Some(Duration::MAX - ms(500)));
    }
}
