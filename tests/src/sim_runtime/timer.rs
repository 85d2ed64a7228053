//! What wakes a task: another one, or the clock.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Wake},
    time::Duration,
};

use super::SimRuntime;

/// Makes a task ready.
pub(super) struct TaskWaker {
    pub(super) runtime: SimRuntime,
    pub(super) id: u64,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut state = self.runtime.state();
        if !state.ready.contains(&self.id) {
            state.ready.push_back(self.id);
        }
    }
}

/// Ends at this true time of the run.
pub(super) async fn reaches(runtime: SimRuntime, due: Duration) {
    let mut timer = Timer { runtime, due, key: None };
    poll_fn(|cx| timer.poll(cx)).await;
}

/// Set when it is polled for the first time, and gone when it is dropped.
struct Timer {
    runtime: SimRuntime,
    due: Duration,
    key: Option<(Duration, u64)>,
}

impl Timer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.runtime.state();
        if state.elapsed >= self.due {
            return Poll::Ready(());
        }
        let key = *self.key.get_or_insert_with(|| {
            state.next_id += 1;
            (self.due, state.next_id)
        });
        state.timers.insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.runtime.state().timers.remove(&key);
        }
    }
}
