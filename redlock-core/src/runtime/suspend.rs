//! How long the machine has been suspended. Meanwhile the monotonic clock of Linux, which `Instant` and tokio
//! read, stands still, but the servers' keys still expire.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// How long the machine has been suspended since the first call. It never goes back, and is the same for
/// every clock in the process, so that their times can be compared.
pub(super) fn suspended_time() -> Duration {
    static COUNTED: LazyLock<SuspendedTime> = LazyLock::new(SuspendedTime::default);
    let counted = COUNTED.since_start();
    #[cfg(test)]
    let counted = counted + PRETENDED.get();
    counted
}

#[cfg(test)]
thread_local! {
    /// An additional time of suspension that this thread sees.
    static PRETENDED: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

/// Makes this thread see a machine that has been suspended for so long.
#[cfg(test)]
pub(super) fn pretend(suspended: Duration) {
    PRETENDED.set(suspended);
}

#[derive(Debug)]
struct SuspendedTime {
    at_start: Duration,
    /// The highest reading so far, in nanoseconds.
    counted: AtomicU64,
}

impl SuspendedTime {
    fn since_start(&self) -> Duration {
        self.count(since_boot())
    }

    /// Returns the highest of all readings. A reading is too low by the time between its two clocks, never
    /// too high, and a clock made of it must not go back.
    fn count(&self, suspended: Duration) -> Duration {
        let more = suspended.saturating_sub(self.at_start);
        let nanos = u64::try_from(more.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.counted.fetch_max(nanos, Ordering::Relaxed).max(nanos))
    }
}

impl Default for SuspendedTime {
    fn default() -> Self {
        Self { at_start: since_boot(), counted: AtomicU64::new(0) }
    }
}

/// `CLOCK_BOOTTIME` counts suspended time, `CLOCK_MONOTONIC` does not; otherwise they run alike. The first is
/// read first, so a thread that is delayed between the two sees too little, not too much.
fn since_boot() -> Duration {
    let with = read(ClockId::Boottime);
    let without = read(ClockId::Monotonic);
    with.saturating_sub(without)
}

fn read(clock: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Duration::new(tv_sec.unsigned_abs(), u32::try_from(tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspended_time_is_counted_from_the_start_and_never_goes_back() {
        let seconds = Duration::from_secs;
        let time = SuspendedTime { at_start: seconds(100), counted: AtomicU64::new(0) };
        assert_eq!(time.count(seconds(100)), seconds(0));
        assert_eq!(time.count(seconds(130)), seconds(30));
        assert_eq!(time.count(seconds(129)), seconds(30));
        assert_eq!(time.count(seconds(7)), seconds(30));
        assert_eq!(time.count(seconds(131)), seconds(31));
    }

    #[test]
    fn a_machine_that_is_awake_counts_next_to_nothing() {
        let time = SuspendedTime::default();
        for _ in 0..1_000 {
            time.since_start();
        }
        assert!(time.since_start() < Duration::from_millis(100), "{time:?}");
    }
}
