//! Requests to several nodes, under way at the same time.
//!
//! Written by hand instead of `FuturesUnordered`: nodes are few, and polling all of them again is cheaper
//! than a queue of those that are ready.

// Tests: below for panics; tests/tests/it/sim/locking.rs, sim/panics.rs.

use std::{
    fmt,
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    runtime::{BoxFuture, Runtime},
    ticket::Ticket,
};

/// Requests under way, each with the position of its node.
///
/// The first poll sends *every* request before it looks at a reply: a combinator that returns at the first
/// ready future would never start the others. A started request runs to its end: requests under way when this
/// is dropped continue in the background. When it is dropped before its first poll, it sends nothing, unless
/// it was created with [`FanOut::run_on_drop`].
pub(crate) struct FanOut<T: Send + 'static> {
    runtime: Arc<dyn Runtime>,
    requests: Vec<(usize, BoxFuture<T>)>,
    asked: bool,
    run_on_drop: bool,
    /// Dropped when the requests have been sent.
    ticket: Option<Ticket>,
}

impl<T: Send + 'static> FanOut<T> {
    pub(crate) fn new(
        runtime: Arc<dyn Runtime>,
        requests: impl IntoIterator<Item = (usize, BoxFuture<T>)>,
    ) -> Self {
        Self {
            runtime,
            requests: requests.into_iter().collect(),
            asked: false,
            run_on_drop: false,
            ticket: None,
        }
    }

    /// Sends the requests in the background if this is dropped before they were sent.
    pub(crate) fn run_on_drop(mut self) -> Self {
        self.run_on_drop = true;
        self
    }

    /// Passes the turn on as soon as the requests have been sent.
    pub(crate) fn then_pass_on(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }

    /// The replies since the last call, at least one; none when all have been returned.
    pub(crate) async fn next(&mut self) -> Vec<(usize, T)> {
        poll_fn(|cx| {
            let answers = self.poll(cx);
            if answers.is_empty() && !self.requests.is_empty() { Poll::Pending } else { Poll::Ready(answers) }
        })
        .await
    }

    /// Sends every request, and returns the replies that are there at once.
    pub(crate) async fn start(&mut self) -> Vec<(usize, T)> {
        poll_fn(|cx| Poll::Ready(self.poll(cx))).await
    }

    /// Takes out the requests that are still under way.
    pub(crate) fn take_pending(&mut self) -> Vec<(usize, BoxFuture<T>)> {
        mem::take(&mut self.requests)
    }

    /// A panic continues once all others have been polled. A future that has panicked is never polled or
    /// spawned again, as it would panic endlessly.
    fn poll(&mut self, cx: &mut Context<'_>) -> Vec<(usize, T)> {
        self.asked = true;
        let mut answers = Vec::new();
        let mut panicked = None;
        self.requests.retain_mut(|(node, request)| {
            match catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(cx))) {
                Ok(Poll::Ready(answer)) => {
                    answers.push((*node, answer));
                    false
                }
                Ok(Poll::Pending) => true,
                Err(panic) => {
                    panicked.get_or_insert(panic);
                    false
                }
            }
        });
        self.ticket = None;
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        answers
    }
}

impl<T: Send + 'static> Drop for FanOut<T> {
    fn drop(&mut self) {
        if self.requests.is_empty() || !(self.asked || self.run_on_drop) {
            return;
        }
        let mut rest = FanOut::new(self.runtime.clone(), self.take_pending());
        rest.ticket = self.ticket.take();
        self.runtime.spawn(Box::pin(async move { while !rest.next().await.is_empty() {} }));
    }
}

impl<T: Send + 'static> fmt::Debug for FanOut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way: Vec<usize> = self.requests.iter().map(|(node, _)| *node).collect();
        f.debug_struct("FanOut").field("under_way", &under_way).field("asked", &self.asked).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Waker,
    };

    use super::*;
    use crate::runtime::tests::IdleRuntime;

    #[test]
    fn a_panic_does_not_keep_other_requests_from_starting_and_is_not_spawned() {
        let runtime = Arc::new(IdleRuntime::default());
        let polls: Arc<[AtomicUsize; 3]> = Arc::default();
        let request = |node: usize| {
            let polls = polls.clone();
            let request: BoxFuture<()> = Box::pin(poll_fn(move |_| {
                polls[node].fetch_add(1, Ordering::Relaxed);
                assert!(node > 0, "out of order");
                Poll::Pending
            }));
            (node, request)
        };
        let polls = || [0, 1, 2].map(|node: usize| polls[node].load(Ordering::Relaxed));
        let mut fan = FanOut::new(runtime.clone(), (0..3).map(request));
        let mut cx = Context::from_waker(Waker::noop());
        let panic = catch_unwind(AssertUnwindSafe(|| fan.poll(&mut cx))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"out of order"), "the caller gets it");
        assert_eq!(polls(), [1, 1, 1]);
        assert!(fan.poll(&mut cx).is_empty());
        assert_eq!(polls(), [1, 2, 2]);

        drop(fan);
        let mut spawned = runtime.tasks.lock().unwrap().pop().unwrap();
        assert!(spawned.as_mut().poll(&mut cx).is_pending());
        assert_eq!(polls(), [1, 3, 3]);
    }
}
