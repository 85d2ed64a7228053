//! The interface to an async runtime: a clock, a timer and background tasks.

// Tests: tests/tests/it/runtimes/tokio.rs, runtimes/smol.rs.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

mod per_runtime;
#[cfg(feature = "smol")]
mod smol;
#[cfg(all(any(feature = "smol", feature = "tokio"), any(target_os = "linux", target_os = "android")))]
mod suspend;
#[cfg(feature = "tokio")]
mod tokio;

pub use self::per_runtime::PerRuntime;
#[cfg(feature = "smol")]
pub use self::smol::SmolRuntime;
#[cfg(feature = "tokio")]
pub use self::tokio::{NoRuntime, TokioRuntime};

/// An owned future that can be sent to another thread.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A clock, a timer and background tasks.
///
/// The core has no other access to time or tasks. So a simulated runtime controls everything in a test, and a
/// paused clock pauses everything.
///
/// # Contract
///
/// * `now` never goes back, and moves together with `sleep`: after `sleep(d)`, `now` is later by `d` or more.
///   It should count the time in which the machine was suspended, since the servers' clocks do. With a clock
///   that does not, a lock that expired during the suspension looks valid afterwards.
/// * `sleep` accepts any duration up to [`Duration::MAX`] and does not panic.
/// * `spawn` runs the task to its end in the background. It never panics, even outside of the runtime or
///   after the runtime's end; then it may drop the task.
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// The current time of the monotonic clock.
    fn now(&self) -> Instant;

    /// The wall clock: the time since 1970 in UTC. Only the proposals for fencing tokens come from it, and a
    /// metric that says since when a lock is held. So it may be wrong, jump, and go back: then tokens take more
    /// round trips, but stay unique and in order.
    fn unix_time(&self) -> Duration;

    /// Completes after `duration`, counted from the call.
    fn sleep(&self, duration: Duration) -> BoxFuture<()>;

    /// Runs a task in the background.
    fn spawn(&self, task: BoxFuture<()>);
}

impl<R: Runtime + ?Sized> Runtime for Arc<R> {
    fn now(&self) -> Instant {
        (**self).now()
    }

    fn unix_time(&self) -> Duration {
        (**self).unix_time()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        (**self).sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<()>) {
        (**self).spawn(task);
    }
}

/// The wall clock of the system. One that is set to a time before 1970 shows 1970.
#[cfg(any(feature = "smol", feature = "tokio"))]
#[allow(clippy::disallowed_methods, reason = "it decides nothing: see `Runtime::unix_time`")]
fn unix_time() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{future::ready, sync::Mutex};

    use super::*;

    /// Keeps its tasks, and runs none. Its clocks can be set ahead.
    #[derive(Default)]
    pub(crate) struct IdleRuntime {
        pub(crate) tasks: Mutex<Vec<BoxFuture<()>>>,
        pub(crate) ahead: Mutex<Duration>,
    }

    impl Runtime for IdleRuntime {
        #[allow(clippy::disallowed_methods)]
        fn now(&self) -> Instant {
            Instant::now() + *self.ahead.lock().unwrap()
        }

        fn unix_time(&self) -> Duration {
            *self.ahead.lock().unwrap()
        }

        fn sleep(&self, _: Duration) -> BoxFuture<()> {
            Box::pin(ready(()))
        }

        fn spawn(&self, task: BoxFuture<()>) {
            self.tasks.lock().unwrap().push(task);
        }
    }

    impl fmt::Debug for IdleRuntime {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("IdleRuntime")
        }
    }
}
