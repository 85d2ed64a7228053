//! A flag that is set once and can be waited for, by any number of tasks.

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
    task::AtomicWaker,
};

#[derive(Clone)]
pub(crate) struct Latch {
    flag: Arc<Flag>,
    wait: Shared<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Flag {
    set: AtomicBool,
    waker: AtomicWaker,
}

impl Latch {
    pub(crate) fn new() -> Self {
        let flag = Arc::new(Flag::default());
        let waiting = flag.clone();
        let wait = poll_fn(move |cx| {
            // Registered before the flag is read, or a signal in between would be missed.
            waiting.waker.register(cx.waker());
            if waiting.set.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        });
        Self { flag, wait: wait.boxed().shared() }
    }

    pub(crate) fn set(&self) {
        self.flag.set.store(true, Ordering::Release);
        self.flag.waker.wake();
    }

    /// Completes when the flag is set, at once when it is already.
    pub(crate) fn wait(&self) -> impl Future<Output = ()> + Send + Unpin + use<> {
        self.wait.clone()
    }
}

impl fmt::Debug for Latch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Latch").field(&self.flag.set).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use futures_util::task::noop_waker;

    use super::*;

    #[test]
    fn every_waiter_sees_it_early_and_late() {
        let mut cx = Context::from_waker(futures_util::task::noop_waker_ref());
        let signal = Latch::new();
        let mut early = [signal.wait(), signal.wait()];
        for wait in &mut early {
            assert!(wait.poll_unpin(&mut cx).is_pending());
        }
        signal.clone().set();
        for wait in &mut early {
            assert!(wait.poll_unpin(&mut cx).is_ready());
        }
        assert!(signal.wait().poll_unpin(&mut cx).is_ready());
        drop(noop_waker());
    }

    #[tokio::test]
    async fn waiters_on_other_tasks_are_woken() {
        let signal = Latch::new();
        let tasks: Vec<_> = (0..3).map(|_| tokio::spawn(signal.wait())).collect();
        tokio::task::yield_now().await;
        signal.set();
        for task in tasks {
            task.await.unwrap();
        }
    }
}
