//! A flag that is set once and can be waited for, by any number of tasks.

use std::sync::{Mutex, PoisonError};

use futures_channel::oneshot::{self, Receiver, Sender};
use futures_util::{FutureExt as _, future::Shared};

/// A flag that is set once: when it is dropped, at the latest.
#[derive(Debug)]
pub(crate) struct Latch {
    /// Dropping it is the signal.
    unset: Mutex<Option<Sender<()>>>,
    signal: Shared<Receiver<()>>,
}

impl Latch {
    pub(crate) fn new() -> Self {
        let (unset, signal) = oneshot::channel();
        Self { unset: Mutex::new(Some(unset)), signal: signal.shared() }
    }

    pub(crate) fn set(&self) {
        // Outside of the lock, because wakers are foreign code.
        let unset = self.unset.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(unset);
    }

    /// Completes when the flag is set, at once when it is already.
    pub(crate) fn wait(&self) -> impl Future<Output = ()> + Send + Unpin + use<> {
        self.signal.clone().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn early_and_late_waiters_see_the_latch() {
        let mut cx = Context::from_waker(Waker::noop());
        let latch = Latch::new();
        let mut early = [latch.wait(), latch.wait()];
        for wait in &mut early {
            assert!(wait.poll_unpin(&mut cx).is_pending());
        }
        latch.set();
        for wait in &mut early {
            assert!(wait.poll_unpin(&mut cx).is_ready());
        }
        assert!(latch.wait().poll_unpin(&mut cx).is_ready());
    }

    #[test]
    fn a_latch_that_is_dropped_is_set() {
        let mut cx = Context::from_waker(Waker::noop());
        let latch = Latch::new();
        let mut wait = latch.wait();
        assert!(wait.poll_unpin(&mut cx).is_pending());
        drop(latch);
        assert!(wait.poll_unpin(&mut cx).is_ready());
    }

    #[tokio::test]
    async fn waiters_on_other_tasks_are_woken() {
        let latch = Latch::new();
        let tasks: Vec<_> = (0..3).map(|_| tokio::spawn(latch.wait())).collect();
        tokio::task::yield_now().await;
        latch.set();
        for task in tasks {
            task.await.unwrap();
        }
    }
}
