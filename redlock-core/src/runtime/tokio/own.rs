//! Background tasks, and a runtime of the library for those without another.

// Tests: tests/tests/it/runtimes/thread_end.rs, runtimes/tokio.rs.

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    thread,
};

use tokio::runtime::{Builder, Handle};

use super::has_threads;
use crate::runtime::BoxFuture;

/// Runs a task on the caller's runtime. Outside of every runtime it runs on `home`, if that has threads of
/// its own, else on the library's: it is unknown whether a `block_on` drives a current-thread one.
pub(super) fn spawn(home: &Handle, task: BoxFuture<()>) {
    let runtime = Handle::try_current().ok().or_else(|| has_threads(home).then(|| home.clone()));
    let task = Moving(Some(task));
    match runtime {
        Some(runtime) => drop(runtime.spawn(task)),
        None => drop(task),
    }
}

/// A task that moves to the library's runtime when its own one ends, or has ended: a release under way
/// completes there.
struct Moving(Option<BoxFuture<()>>);

impl Future for Moving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Taken out while it is polled, so that a task that has panicked does not move.
        let Some(mut task) = self.0.take() else { return Poll::Ready(()) };
        let poll = task.as_mut().poll(cx);
        if poll.is_pending() {
            self.0 = Some(task);
        }
        poll
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        if let Some(task) = self.0.take()
            && let Some(own) = own_runtime()
        {
            drop(own.spawn(task));
        }
    }
}

/// A runtime with one thread of its own that never ends, created when it is first needed. `None` when there
/// is no thread for it; the next call tries again.
pub(super) fn own_runtime() -> Option<Handle> {
    static OWN: Mutex<Option<Handle>> = Mutex::new(None);
    let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    if own.is_none() {
        *own = start();
    }
    own.clone()
}

/// With all drivers that are compiled in, as connections are made on it as well.
fn start() -> Option<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    let handle = runtime.handle().clone();
    let run = move || runtime.block_on(pending::<()>());
    thread::Builder::new().name("redlock".to_owned()).spawn(run).ok()?;
    Some(handle)
}
