//! Running a routine under a lock.

// Tests: tests/tests/it/sim/using.rs, sim/panics.rs.

use std::{
    fmt,
    future::{Future, IntoFuture},
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;

use crate::{
    error::Error,
    keep_alive::KeepAlive,
    lease::Lease,
    lock::{Lock, UnlockOutcome},
    request::LockRequest,
    votes::LostRound,
};

/// The routine of a [`LockRequest`] that comes from [`Redlock::using`](crate::Redlock::using).
#[derive(Clone)]
pub struct Using<F> {
    routine: F,
}

impl LockRequest {
    /// As [`Redlock::using`](crate::Redlock::using), with the options of this request. More options can
    /// follow.
    pub fn using<F, Fut>(self, routine: F) -> LockRequest<Using<F>>
    where
        F: FnOnce(Lease) -> Fut,
        Fut: Future,
    {
        self.with_routine(Using { routine })
    }
}

impl<F, Fut> IntoFuture for LockRequest<Using<F>>
where
    F: FnOnce(Lease) -> Fut,
    Fut: Future,
{
    type Output = Result<Fut::Output, Error>;
    type IntoFuture = UsingFuture<F, Fut>;

    fn into_future(self) -> Self::IntoFuture {
        let (request, Using { routine }) = self.split();
        UsingFuture(State::Acquiring { lock: request.into_future(), routine })
    }
}

impl<F> fmt::Debug for Using<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Using").finish_non_exhaustive()
    }
}

/// Acquires a lock, runs a routine under it, and releases it. It can be sent to another thread when the
/// routine can.
// Written out: an `async` block has no name, and a boxed one would have to say whether it can be sent.
#[must_use = "futures do nothing unless they are polled"]
pub struct UsingFuture<F, Fut: Future>(State<F, Fut>);

enum State<F, Fut: Future> {
    Acquiring {
        lock: BoxFuture<'static, Result<Lock, Error>>,
        routine: F,
    },
    /// In the order in which they are dropped.
    Running {
        routine: Pin<Box<Fut>>,
        lost: BoxFuture<'static, ()>,
        guard: KeepAlive,
    },
    Releasing {
        unlock: BoxFuture<'static, Result<UnlockOutcome, Error>>,
        output: Fut::Output,
    },
    Ended,
}

impl<F, Fut> State<F, Fut>
where
    F: FnOnce(Lease) -> Fut,
    Fut: Future,
{
    fn running(lock: Lock, routine: F) -> Self {
        let guard = lock.keep_alive();
        let lease = guard.lease();
        Self::Running {
            routine: Box::pin(routine(guard.lease())),
            lost: Box::pin(async move { lease.lost().await }),
            guard,
        }
    }
}

impl<F, Fut> Future for UsingFuture<F, Fut>
where
    F: FnOnce(Lease) -> Fut,
    Fut: Future,
{
    type Output = Result<Fut::Output, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            // Taken out: a routine that panics is dropped at once, and its lock released.
            match mem::replace(&mut self.0, State::Ended) {
                State::Acquiring { mut lock, routine } => match lock.as_mut().poll(cx) {
                    Poll::Ready(lock) => self.0 = State::running(lock?, routine),
                    Poll::Pending => {
                        self.0 = State::Acquiring { lock, routine };
                        return Poll::Pending;
                    }
                },
                State::Running { mut routine, mut lost, guard } => {
                    // Polled first, so that a routine that waits for the loss can still return its own
                    // result.
                    if let Poll::Ready(output) = routine.as_mut().poll(cx) {
                        drop((routine, lost));
                        self.0 = State::Releasing { unlock: Box::pin(guard.unlock()), output };
                    } else if lost.as_mut().poll(cx).is_ready() {
                        drop((routine, lost));
                        let claim = guard.stop().state().claim.clone();
                        return Poll::Ready(Err(Error::Lost(LostRound::lapsed().report(&claim))));
                    } else {
                        self.0 = State::Running { routine, lost, guard };
                        return Poll::Pending;
                    }
                }
                State::Releasing { mut unlock, output } => {
                    // Its outcome must not hide the routine's. On nodes that cannot be reached it is retried.
                    if unlock.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Ok(output));
                    }
                    self.0 = State::Releasing { unlock, output };
                    return Poll::Pending;
                }
                State::Ended => panic!("polled after it has ended"),
            }
        }
    }
}

/// Nothing in it is pinned in its place.
impl<F, Fut: Future> Unpin for UsingFuture<F, Fut> {}

impl<F, Fut: Future> fmt::Debug for UsingFuture<F, Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            State::Acquiring { .. } => "acquiring",
            State::Running { .. } => "running",
            State::Releasing { .. } => "releasing",
            State::Ended => "ended",
        };
        f.debug_tuple("UsingFuture").field(&state).finish()
    }
}
