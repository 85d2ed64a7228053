//! A flag that is set once and can be waited for, by any number of tasks.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_channel::oneshot::{self, Receiver, Sender};
use futures_util::{
    FutureExt as _,
    future::{OptionFuture, Shared},
};

/// A flag that is set once: when it is dropped, at the latest.
#[derive(Debug, Default)]
pub(crate) struct Latch(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// Most are set before anybody waits.
    #[default]
    Unwatched,
    /// Dropping the sender is the signal.
    Watched {
        _sender: Sender<()>,
        signal: Shared<Receiver<()>>,
    },
    Set,
}

impl Latch {
    pub(crate) fn set(&self) {
        // Dropped outside of the lock, because wakers are foreign code.
        let before = mem::replace(&mut *self.state(), State::Set);
        drop(before);
    }

    /// Completes when the flag is set, at once when it is already.
    pub(crate) fn wait(&self) -> impl Future<Output = ()> + Send + Unpin + use<> {
        let mut state = self.state();
        if let State::Unwatched = *state {
            let (sender, signal) = oneshot::channel();
            *state = State::Watched { _sender: sender, signal: signal.shared() };
        }
        let signal = match &*state {
            State::Watched { signal, .. } => Some(signal.clone()),
            State::Unwatched | State::Set => None,
        };
        OptionFuture::from(signal).map(|_| ())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn early_and_late_waiters_see_the_latch() {
        let mut cx = Context::from_waker(Waker::noop());
        let latch = Latch::default();
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
        let latch = Latch::default();
        let mut wait = latch.wait();
        assert!(wait.poll_unpin(&mut cx).is_pending());
        drop(latch);
        assert!(wait.poll_unpin(&mut cx).is_ready());
    }

    #[tokio::test]
    async fn waiters_on_other_tasks_are_woken() {
        let latch = Latch::default();
        let tasks: Vec<_> = (0..3).map(|_| tokio::spawn(latch.wait())).collect();
        tokio::task::yield_now().await;
        latch.set();
        for task in tasks {
            task.await.unwrap();
        }
    }
}
