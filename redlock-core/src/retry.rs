//! The retry policy: how many attempts, and after which delay.

use std::{fmt, sync::Arc, time::Duration};

/// How failed attempts are retried. The default is 3 retries (4 attempts in all), each after 200 ms +- 100
/// ms.
#[derive(Clone, Debug)]
pub(crate) struct RetryPolicy {
    /// The number of attempts after the first; `None` is no limit.
    pub(crate) count: Option<u32>,
    pub(crate) delay: Delay,
}

impl RetryPolicy {
    /// Whether there is only one attempt.
    pub(crate) fn is_single(&self) -> bool {
        self.count == Some(0)
    }

    /// The retries of one call of `lock`, from the beginning.
    pub(crate) fn start(&self) -> Retries {
        let delays = match &self.delay {
            Delay::Fixed { delay, jitter } => Delays::Fixed { delay: *delay, jitter: *jitter },
            Delay::Custom(DelaySource(source)) => Delays::Custom(source()),
        };
        Retries { left: self.count, delays }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            count: Some(3),
            delay: Delay::Fixed { delay: Duration::from_millis(200), jitter: Duration::from_millis(100) },
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Delay {
    /// Uniform in `delay - jitter ..= delay + jitter`, never below zero.
    Fixed {
        delay: Duration,
        jitter: Duration,
    },
    Custom(DelaySource),
}

impl Delay {
    /// Changes the fixed delay; in place of a custom one, with the default jitter.
    pub(crate) fn set_delay(&mut self, to: Duration) {
        *self.fixed().0 = to;
    }

    /// Changes the jitter; in place of a custom delay, with the default delay.
    pub(crate) fn set_jitter(&mut self, to: Duration) {
        *self.fixed().1 = to;
    }

    fn fixed(&mut self) -> (&mut Duration, &mut Duration) {
        if let Self::Custom(_) = self {
            *self = RetryPolicy::default().delay;
        }
        match self {
            Self::Fixed { delay, jitter } => (delay, jitter),
            Self::Custom(_) => unreachable!("replaced above"),
        }
    }
}

type BoxedDelays = Box<dyn Iterator<Item = Duration> + Send>;

/// Makes a new iterator of delays for each call of `lock`.
#[derive(Clone)]
pub(crate) struct DelaySource(Arc<dyn Fn() -> BoxedDelays + Send + Sync>);

impl DelaySource {
    pub(crate) fn new<F, I>(source: F) -> Self
    where
        F: Fn() -> I + Send + Sync + 'static,
        I: IntoIterator<Item = Duration>,
        I::IntoIter: Send + 'static,
    {
        Self(Arc::new(move || Box::new(source().into_iter())))
    }
}

impl fmt::Debug for DelaySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DelaySource")
    }
}

enum Delays {
    Fixed { delay: Duration, jitter: Duration },
    Custom(BoxedDelays),
}

/// The retries of one call of `lock`.
pub(crate) struct Retries {
    left: Option<u32>,
    delays: Delays,
}

impl Retries {
    /// The delay before the next attempt; `None` when there is none.
    pub(crate) fn next(&mut self) -> Option<RetryDelay> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        Some(match &mut self.delays {
            Delays::Fixed { delay, jitter } => RetryDelay { delay: *delay, jitter: Some(*jitter) },
            Delays::Custom(delays) => RetryDelay { delay: delays.next()?, jitter: None },
        })
    }
}

/// The delay before an attempt. Its jitter is drawn only when the attempt follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryDelay {
    delay: Duration,
    jitter: Option<Duration>,
}

impl RetryDelay {
    /// Never below [`MIN_DELAY`]. `draw` returns a random number from 0 to its argument.
    pub(crate) fn draw(self, draw: impl FnOnce(u64) -> u64) -> Duration {
        self.jitter.map_or(self.delay, |jitter| jittered(self.delay, jitter, draw)).max(MIN_DELAY)
    }
}

fn jittered(delay: Duration, jitter: Duration, draw: impl FnOnce(u64) -> u64) -> Duration {
    // Beyond the range of a draw, 292 years, the ends of the interval exceed any wait.
    let jitter = jitter.min(MAX_JITTER);
    let width = u64::try_from(jitter.as_nanos().saturating_mul(2)).unwrap_or(u64::MAX);
    let extra = Duration::from_nanos(draw(width));
    if extra < jitter { delay.saturating_sub(jitter - extra) } else { delay.saturating_add(extra - jitter) }
}

const MAX_JITTER: Duration = Duration::from_nanos(u64::MAX / 2);

/// Keeps a policy without delays from spinning: a round on an in-process node may take no time at all.
pub(crate) const MIN_DELAY: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, rand_core::UnwrapErr, rngs::SysRng};

    use super::*;
    use crate::validity::MAX_TTL;

    fn all(policy: &RetryPolicy) -> Vec<Duration> {
        let mut retries = policy.start();
        let mut rng = UnwrapErr(SysRng);
        let draw = |delay: RetryDelay| delay.draw(|width| rng.random_range(0..=width));
        std::iter::from_fn(|| retries.next()).map(draw).take(1_000).collect()
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_default_is_three_retries_of_200_ms_give_or_take_100() {
        for _ in 0..200 {
            let delays = all(&RetryPolicy::default());
            assert_eq!(delays.len(), 3);
            assert!(delays.iter().all(|delay| (millis(100)..=millis(300)).contains(delay)), "{delays:?}");
        }
    }

    #[test]
    fn jitter_reaches_both_ends() {
        assert_eq!(jittered(millis(200), millis(100), |_| 0), millis(100));
        assert_eq!(jittered(millis(200), millis(100), |width| width), millis(300));
    }

    #[test]
    fn endless_jitter_reaches_both_ends_too() {
        for jitter in [Duration::MAX, Duration::from_nanos(u64::MAX)] {
            assert_eq!(jittered(millis(200), jitter, |_| 0), Duration::ZERO);
            assert_eq!(jittered(millis(200), jitter, |width| width / 2), millis(200));
            assert!(jittered(millis(200), jitter, |width| width) > MAX_TTL);
        }
        assert_eq!(jittered(Duration::MAX, millis(100), |width| width), Duration::MAX);
        assert_eq!(jittered(Duration::MAX, millis(100), |_| 0), Duration::MAX - millis(100));
    }

    #[test]
    fn zero_is_no_retry_and_none_is_no_limit() {
        let mut policy = RetryPolicy { count: Some(0), ..RetryPolicy::default() };
        assert_eq!(all(&policy), []);
        policy.count = None;
        assert_eq!(all(&policy).len(), 1_000);
    }

    #[test]
    fn custom_delays_start_afresh_and_end_with_their_iterator() {
        let doubling = || (0..4).map(|power| millis(50 << power));
        let policy = RetryPolicy { count: None, delay: Delay::Custom(DelaySource::new(doubling)) };
        for _ in 0..2 {
            assert_eq!(all(&policy), [millis(50), millis(100), millis(200), millis(400)]);
        }
        let policy = RetryPolicy { count: Some(2), ..policy };
        assert_eq!(all(&policy), [millis(50), millis(100)]);
    }

    #[test]
    fn no_delay_is_a_millisecond() {
        let delay = Delay::Fixed { delay: Duration::ZERO, jitter: Duration::ZERO };
        let policy = RetryPolicy { count: Some(2), delay };
        assert_eq!(all(&policy), [MIN_DELAY; 2]);
    }

    #[test]
    fn setting_a_fixed_delay_or_jitter_replaces_custom_delays() {
        let custom = Delay::Custom(DelaySource::new(|| [millis(1)]));
        let mut delay = custom.clone();
        delay.set_delay(millis(5));
        assert!(
            matches!(delay, Delay::Fixed { delay, jitter } if delay == millis(5) && jitter == millis(100))
        );
        let mut delay = custom;
        delay.set_jitter(millis(5));
        assert!(
            matches!(delay, Delay::Fixed { delay, jitter } if delay == millis(200) && jitter == millis(5))
        );
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_bounds(delay: Duration, jitter: Duration) {
            let got = jittered(delay, jitter, |width| UnwrapErr(SysRng).random_range(0..=width));
            prop_assert!(got >= delay.saturating_sub(jitter));
            prop_assert!(got <= delay.saturating_add(jitter));
        }
    }
}
