// Tests: tests/tests/it/runtimes/smol.rs.

use std::time::{Duration, Instant};

use smol::Timer;

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::suspend::suspended_time;
use super::{BoxFuture, Runtime};

/// Runs on smol: its timers, and its global executor for background tasks.
///
/// The global executor has threads of its own (`SMOL_THREADS`, one by default). So locks can be polled,
/// extended and dropped on any thread and under any executor, and background work continues while the caller
/// blocks. On Linux and Android the clock also counts the time in which the machine was suspended; on macOS
/// and the BSDs it stands still meanwhile.
///
/// A timer that was set before a suspension fires late, by the time of the suspension. After a resume,
/// `is_valid` and `remaining` are right at once, but a task that waits for the loss of a lock wakes only when
/// its timer fires.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SmolRuntime;

impl SmolRuntime {
    /// The runtime. All of them share smol's executor.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Runtime for SmolRuntime {
    #[allow(clippy::disallowed_methods, reason = "this is where the time comes from")]
    fn now(&self) -> Instant {
        let now = Instant::now();
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let now = now + suspended_time();
        now
    }

    fn unix_time(&self) -> Duration {
        super::unix_time()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        // A timer that is too far away for the clock never fires.
        let timer = Timer::after(duration);
        Box::pin(async move {
            timer.await;
        })
    }

    fn spawn(&self, task: BoxFuture<()>) {
        smol::spawn(task).detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_together_with_sleep_and_tasks_run_without_a_caller_that_waits() {
        let runtime = SmolRuntime::new();
        let (sender, receiver) = std::sync::mpsc::channel();
        let start = runtime.now();
        let slept = runtime.sleep(Duration::from_millis(30));
        let there = runtime.clone();
        runtime.spawn(Box::pin(async move {
            slept.await;
            sender.send(there.now()).unwrap();
        }));
        let passed = receiver.recv().unwrap() - start;
        assert!(passed >= Duration::from_millis(30), "{passed:?}");
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn suspended_time_is_counted() {
        let runtime = SmolRuntime::new();
        let before = runtime.now();
        crate::runtime::suspend::pretend(Duration::from_secs(3_600));
        let ahead = runtime.now() - before;
        assert!(ahead > Duration::from_secs(3_590), "{ahead:?}");
    }

    #[test]
    fn the_longest_sleep_does_not_panic_and_does_not_end() {
        let runtime = SmolRuntime::new();
        let mut slept = runtime.sleep(Duration::MAX);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(slept.as_mut().poll(&mut cx).is_pending());
    }
}
