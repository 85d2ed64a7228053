use std::time::{Duration, Instant};

use tokio::{runtime::Handle, time};

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::suspend::SuspendedTime;
use super::{BoxFuture, Runtime};

/// Runs on tokio. Needs a tokio runtime whose time driver is enabled (`enable_time` or `enable_all`);
/// [`Builder::build`](crate::Builder::build) fails without.
///
/// It holds a [`Handle`], so locks can be asked, extended and dropped on any thread. A paused tokio clock pauses
/// it. On Linux and Android its clock also counts the time in which the machine was suspended; on other systems
/// tokio's clock decides, which on macOS and the BSDs stands still meanwhile.
///
/// Asking for a lock, extending and unlocking need the runtime; when it has been shut down, they fail, or panic as
/// tokio's timers do. Dropping a lock does not.
///
/// Even where the clock counts suspended time, a timer that was set before the machine was suspended fires late:
/// after a resume `is_valid` and `remaining` are right at once, but what waits for the loss of a lock is woken
/// only when its timer has run out.
#[derive(Clone, Debug)]
pub struct TokioRuntime {
    handle: Handle,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    suspended: std::sync::Arc<SuspendedTime>,
}

impl TokioRuntime {
    /// The runtime that `handle` belongs to.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self {
            handle,
            #[cfg(any(target_os = "linux", target_os = "android"))]
            suspended: std::sync::Arc::default(),
        }
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
        // Entered, so that a paused clock is seen from other threads too.
        let _entered = self.handle.enter();
        let now = time::Instant::now().into_std();
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let now = now + self.suspended.since_start();
        now
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        let _entered = self.handle.enter();
        Box::pin(time::sleep(duration))
    }

    fn spawn(&self, task: BoxFuture<()>) {
        drop(self.handle.spawn(task));
    }
}

/// There is no tokio runtime here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not called from within a tokio runtime")]
pub struct NoRuntime;

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;
    use crate::{ConfigError, MemoryBackend, Redlock};

    #[test]
    fn a_paused_clock_is_followed_from_any_thread() {
        let tokio = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let runtime = TokioRuntime::new(tokio.handle().clone());
        let start = runtime.now();
        tokio.block_on(runtime.sleep(Duration::from_secs(3600)));
        let there = {
            let runtime = runtime.clone();
            std::thread::spawn(move || runtime.now()).join().unwrap()
        };
        let passed = there - start;
        assert!((Duration::from_secs(3600)..Duration::from_secs(3601)).contains(&passed), "{passed:?}");
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn suspended_time_is_counted() {
        let tokio = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let awake = TokioRuntime::new(tokio.handle().clone());
        let suspended = SuspendedTime::after(Duration::from_secs(30));
        let resumed = TokioRuntime { suspended: std::sync::Arc::new(suspended), ..awake.clone() };
        let ahead = resumed.now() - awake.now();
        assert!((Duration::from_secs(29)..Duration::from_secs(31)).contains(&ahead), "{ahead:?}");
    }

    #[test]
    fn nothing_panics_outside_of_the_runtime_or_after_it() {
        assert_eq!(TokioRuntime::try_current().err(), Some(NoRuntime));
        let tokio = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let runtime = TokioRuntime::new(tokio.handle().clone());
        let (sender, receiver) = std::sync::mpsc::channel();
        runtime.spawn(Box::pin(async move { sender.send("ran").unwrap() }));
        assert_eq!(receiver.recv().unwrap(), "ran");
        drop(runtime.sleep(Duration::MAX));
        drop(tokio);
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        runtime.spawn(Box::pin(async move { sender.send(()).unwrap() }));
        assert!(receiver.recv().is_err(), "a task that cannot run is dropped");
        runtime.now();
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
