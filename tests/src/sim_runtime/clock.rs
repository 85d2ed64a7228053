//! Clocks that drift.

use std::time::Duration;

/// How a process' clock relates to true time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// How much faster it runs, in millionths.
    pub(super) faster: i32,
    /// How far it has jumped forward.
    pub(super) ahead: Duration,
}

impl Clock {
    pub(super) fn read(self, elapsed: Duration) -> Duration {
        // Most clocks do not drift. The shortcut pays, as clocks are read at every step.
        if self.faster == 0 {
            return elapsed.saturating_add(self.ahead);
        }
        let rate = u128::from((MILLION + self.faster).unsigned_abs());
        nanos(elapsed.as_nanos().saturating_mul(rate) / u128::from(MILLION.unsigned_abs())) + self.ahead
    }

    /// The first true time at which it shows `local` or more.
    pub(super) fn reaches(self, local: Duration) -> Duration {
        if self.faster == 0 {
            return local.saturating_sub(self.ahead);
        }
        let rate = u128::from((MILLION + self.faster).unsigned_abs());
        let local = local.saturating_sub(self.ahead).as_nanos();
        nanos(local.saturating_mul(u128::from(MILLION.unsigned_abs())).div_ceil(rate))
    }
}

fn nanos(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let seconds = u64::try_from(nanos / SECOND).unwrap_or(u64::MAX);
    Duration::new(seconds, u32::try_from(nanos % SECOND).unwrap_or(0))
}

const MILLION: i32 = 1_000_000;
