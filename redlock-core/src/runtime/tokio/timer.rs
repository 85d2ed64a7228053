//! A timer that follows the task that waits for it.

// Tests: runtime/tokio.rs; tests/tests/it/runtimes/tokio.rs.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{self, Instant, Sleep},
};

use super::own::own_runtime;
use crate::runtime::BoxFuture;

/// The time on the clock of the caller's runtime; outside of every runtime, on that of `home`.
#[allow(clippy::disallowed_methods, reason = "this is where the time comes from")]
pub(super) fn now(home: &Handle) -> Instant {
    match Handle::try_current() {
        Ok(_) => Instant::now(),
        // At the end of a thread, where tokio no longer works. A paused clock is missed then.
        Err(none) if none.is_thread_local_destroyed() => Instant::from_std(std::time::Instant::now()),
        Err(_) => {
            // Entered, so that other threads see a paused clock, too.
            let _entered = home.enter();
            Instant::now()
        }
    }
}

/// Completes after `duration`, counted from the call on the clock of [`now`].
///
/// A timer of tokio fires only while its runtime is driven, and panics when that has ended. So the deadline
/// is fixed here, and the timer for it belongs to the runtime that polls.
///
/// # Panics
///
/// When it uses `home`, and that has no timer.
pub(super) fn sleep(home: &Handle, duration: Duration) -> BoxFuture<()> {
    let (mut armed, timer) = match Handle::try_current() {
        Ok(here) if here.id() == home.id() => (Some(here.id()), Some(time::sleep(duration))),
        Ok(here) => (Some(here.id()), caught(|| time::sleep(duration))),
        Err(none) if none.is_thread_local_destroyed() => (None, None),
        Err(_) => (Some(home.id()), Some(arm(home, duration))),
    };
    let deadline = timer.as_ref().map_or_else(
        || {
            let start = now(home);
            start.checked_add(duration).unwrap_or(start + FAR_AWAY)
        },
        Sleep::deadline,
    );
    let home = home.clone();
    Box::pin(async move {
        let mut timer = pin!(timer);
        // Whether the caller's runtime has no timer, or no longer one.
        let mut refused = false;
        poll_fn(|cx| {
            loop {
                let here = if refused { None } else { Handle::try_current().ok() };
                if let Some(here) = here.or_else(own_runtime) {
                    if armed != Some(here.id()) {
                        armed = Some(here.id());
                        let left = deadline.saturating_duration_since(now(&home));
                        timer.set(caught(|| arm(&here, left)));
                    }
                    let poll = timer.as_mut().as_pin_mut().and_then(|timer| caught(|| timer.poll(cx)));
                    if let Some(poll) = poll {
                        return poll;
                    }
                    timer.set(None);
                    if !refused {
                        refused = true;
                        continue;
                    }
                }
                // There is no timer at all. This is slow, but it ends.
                if now(&home) >= deadline {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        })
        .await;
    })
}

fn arm(runtime: &Handle, duration: Duration) -> Sleep {
    let _entered = runtime.enter();
    time::sleep(duration)
}

/// tokio's timers panic where they do not work.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Also tokio's limit for "forever".
const FAR_AWAY: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
