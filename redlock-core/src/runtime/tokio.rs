// Tests: below; tests/tests/it/runtimes/tokio.rs.

use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::suspend::suspended_time;
use super::{BoxFuture, Runtime};

mod own;
mod timer;
mod values;

pub(super) use self::values::Own;

/// Runs on tokio. It needs tokio runtimes with an enabled time driver (`enable_time` or `enable_all`);
/// [`RedlockBuilder::build`](crate::RedlockBuilder::build) fails without.
///
/// Each call that locks, extends, waits or unlocks runs on the caller's runtime, whichever that is. So a lock
/// manager, its locks and guards work on any runtime and any thread, even when nobody drives the runtime of
/// their creation any more, or when it has ended: a `static` one serves every `#[tokio::test]`. A paused
/// tokio clock pauses it.
///
/// Background work, such as the release of a dropped lock, runs
///
/// * on the caller's runtime, and moves to a thread of the library when that runtime ends;
/// * outside of every runtime, for example on a plain thread, on the runtime of the handle if that is a
///   multi-thread one, else on the thread of the library.
///
/// That thread is named `redlock`, and starts when it is first needed. A current-thread runtime runs its
/// tasks only while a `block_on` drives it: if a lock is dropped right before the runtime stands still, its
/// release runs when the runtime continues, or ends.
///
/// On Linux and Android the clock also counts the time in which the machine was suspended. On other systems
/// it is tokio's clock, which on macOS and the BSDs stands still meanwhile. Even where the clock counts
/// suspended time, a timer that was set before the suspension fires late. After a resume, `is_valid` and
/// `remaining` are right at once, but a task that waits for the loss of a lock wakes only when its timer
/// fires.
#[derive(Clone, Debug)]
pub struct TokioRuntime {
    handle: Handle,
}

impl TokioRuntime {
    /// The runtime of `handle`, for callers outside of a runtime.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// The runtime that the caller runs on.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as [`Handle::current`] does. [`TokioRuntime::try_current`] does not.
    #[must_use]
    pub fn current() -> Self {
        Self::new(Handle::current())
    }

    /// The runtime that the caller runs on, if any.
    ///
    /// # Errors
    ///
    /// [`NoRuntime`] outside of a tokio runtime.
    pub fn try_current() -> Result<Self, NoRuntime> {
        Handle::try_current().map(Self::new).map_err(|_| NoRuntime)
    }
}

impl Runtime for TokioRuntime {
    fn now(&self) -> Instant {
        let now = timer::now(&self.handle).into_std();
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let now = now + suspended_time();
        now
    }

    fn unix_time(&self) -> Duration {
        super::unix_time()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        timer::sleep(&self.handle, duration)
    }

    fn spawn(&self, task: BoxFuture<()>) {
        own::spawn(&self.handle, task);
    }
}

/// Whether a runtime has threads of its own. A current-thread one stands still unless a `block_on` drives it.
fn has_threads(runtime: &Handle) -> bool {
    runtime.runtime_flavor() == RuntimeFlavor::MultiThread
}

/// The caller is outside of every tokio runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not called from within a tokio runtime")]
pub struct NoRuntime;

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc::channel},
        task::{Context, Wake, Waker},
        thread::{self, Thread},
    };

    use tokio::runtime::Builder;

    use super::*;
    use crate::{ConfigError, MemoryBackend, Redlock};

    /// Wakes a thread that has no runtime.
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn block_on_outside(mut future: BoxFuture<()>) {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            thread::park();
        }
    }

    #[test]
    fn a_paused_clock_is_followed_from_any_thread() {
        let tokio = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let runtime = TokioRuntime::new(tokio.handle().clone());
        let start = runtime.now();
        tokio.block_on(runtime.sleep(Duration::from_secs(3600)));
        let there = {
            let runtime = runtime.clone();
            thread::spawn(move || runtime.now()).join().unwrap()
        };
        let passed = there - start;
        assert!((Duration::from_secs(3600)..Duration::from_secs(3601)).contains(&passed), "{passed:?}");
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn suspended_time_is_counted() {
        let tokio = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let runtime = TokioRuntime::new(tokio.handle().clone());
        let before = runtime.now();
        crate::runtime::suspend::pretend(Duration::from_secs(30));
        let ahead = runtime.now() - before;
        assert!((Duration::from_secs(29)..Duration::from_secs(31)).contains(&ahead), "{ahead:?}");
    }

    #[test]
    fn a_task_that_its_runtime_does_not_run_to_its_end_moves_and_one_that_panics_does_not() {
        assert_eq!(TokioRuntime::try_current().err(), Some(NoRuntime));
        let tokio = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let runtime = TokioRuntime::new(tokio.handle().clone());
        let (sender, receiver) = channel();
        let spawn = |task: &'static str| {
            let (sender, there) = (sender.clone(), runtime.clone());
            runtime.spawn(Box::pin(async move {
                sender.send(("begins", task)).unwrap();
                there.sleep(Duration::from_millis(30)).await;
                assert_ne!(task, "panics", "in the background");
                sender.send(("ends", task)).unwrap();
            }));
            assert_eq!(receiver.recv().unwrap(), ("begins", task));
        };
        spawn("panics");
        assert!(receiver.recv_timeout(Duration::from_millis(100)).is_err());
        spawn("a");
        drop(tokio);
        assert_eq!(receiver.recv().unwrap(), ("ends", "a"), "half-way");
        spawn("b");
        assert_eq!(receiver.recv().unwrap(), ("ends", "b"), "not begun");
    }

    #[test]
    fn a_timer_moves_to_the_runtime_that_waits_for_it() {
        let runtime = |time| {
            let mut builder = Builder::new_current_thread();
            if time { builder.enable_time().build().unwrap() } else { builder.build().unwrap() }
        };
        let ms = Duration::from_millis;
        let (home, other, no_timer) = (runtime(true), runtime(true), runtime(false));
        let clock = TokioRuntime::new(home.handle().clone());
        let slept = || {
            let mut slept = clock.sleep(ms(30));
            let _inside = home.enter();
            assert!(slept.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            slept
        };
        let start = clock.now();
        other.block_on(slept());
        no_timer.block_on(slept());
        no_timer.block_on(async { clock.sleep(ms(10)).await });
        block_on_outside(slept());
        let (first, second) = (slept(), slept());
        drop(home);
        other.block_on(first);
        block_on_outside(second);
        {
            // As a blocking task does that continues after the end of its runtime.
            let _inside = clock.handle.enter();
            block_on_outside(clock.sleep(ms(10)));
        }
        let passed = clock.now() - start;
        assert!((ms(140)..ms(2_000)).contains(&passed), "{passed:?}");
        let (mut longest, mut cx) = (clock.sleep(Duration::MAX), Context::from_waker(Waker::noop()));
        assert!(longest.as_mut().poll(&mut cx).is_pending());
    }

    #[test]
    fn a_manager_is_not_built_on_a_runtime_without_a_timer() {
        let build = |tokio: &tokio::runtime::Runtime| {
            let runtime = TokioRuntime::new(tokio.handle().clone());
            Redlock::builder(runtime.clone()).node(MemoryBackend::new(runtime)).build()
        };
        let error = build(&Builder::new_current_thread().build().unwrap()).unwrap_err();
        assert!(matches!(error, ConfigError::Timer { .. }), "{error}");
        assert!(error.to_string().contains("enable_time"), "{error}");
        build(&Builder::new_current_thread().enable_time().build().unwrap()).unwrap();
    }

    #[test]
    fn current_is_the_runtime_one_is_in() {
        let tokio = Builder::new_current_thread().enable_time().build().unwrap();
        let id = tokio.block_on(async { TokioRuntime::current().handle.id() });
        assert_eq!(id, tokio.handle().id());
    }
}
