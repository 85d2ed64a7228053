//! The async runtime that requests run on: tokio, smol, or, with both compiled in, tokio inside of its
//! context and smol elsewhere. That is what redis-rs does, too.

use std::{future::Future, pin::pin, time::Duration};

use futures_util::future::{Either, select};
#[cfg(feature = "tokio")]
use redlock_core::{Runtime as _, TokioRuntime};

/// A runtime to spawn tasks on.
pub(crate) enum Executor {
    #[cfg(feature = "tokio")]
    Tokio(tokio::runtime::Handle),
    #[cfg(feature = "smol")]
    Smol,
}

impl Executor {
    /// The one of the caller. None when only tokio is compiled in, and the caller is outside of it.
    pub(crate) fn current() -> Option<Self> {
        #[cfg(feature = "tokio")]
        if let Ok(handle) = tokio::runtime::Handle::try_current() {
            return Some(Self::Tokio(handle));
        }
        #[cfg(feature = "smol")]
        let elsewhere = Some(Self::Smol);
        #[cfg(not(feature = "smol"))]
        let elsewhere = None;
        elsewhere
    }

    /// Runs the task in the background; when the runtime is gone, drops it on the spot.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio(handle) => drop(handle.spawn(task)),
            #[cfg(feature = "smol")]
            Self::Smol => smol::spawn(task).detach(),
        }
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        match self {
            #[cfg(feature = "tokio")]
            // Not a timer of tokio's own, which fires only while its runtime is driven: a request may move.
            Self::Tokio(handle) => TokioRuntime::new(handle.clone()).sleep(duration).await,
            #[cfg(feature = "smol")]
            Self::Smol => drop(smol::Timer::after(duration).await),
        }
    }

    /// What comes of the future. None when it takes longer than `timeout`.
    pub(crate) async fn within<F: Future>(&self, timeout: Duration, future: F) -> Option<F::Output> {
        match select(pin!(future), pin!(self.sleep(timeout))).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }
}

/// The future without tokio's budget: a task that has done much already would find every channel "full" or
/// "empty".
#[cfg(feature = "tokio")]
pub(crate) fn unconstrained<F: Future>(future: F) -> impl Future<Output = F::Output> {
    tokio::task::unconstrained(future)
}

/// Only tokio's tasks have a budget.
#[cfg(not(feature = "tokio"))]
pub(crate) fn unconstrained<F: Future>(future: F) -> F {
    future
}

#[cfg(all(test, feature = "tokio", not(feature = "smol")))]
mod tests {
    use std::task::{Context, Poll, Waker};

    use redlock_core::{BackendErrorKind, LockBackend, Release};

    use super::*;
    use crate::RedisBackend;

    #[test]
    fn a_request_outside_of_tokio_is_rejected_and_does_not_panic() {
        let node = RedisBackend::open("redis://127.0.0.1:1").unwrap();
        let (resources, token) = ("a".into(), "0".repeat(40).parse().unwrap());
        let mut asked = node.release(Release::new(&resources, &token, Duration::from_secs(1)));
        let answer = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Err(error)) = answer else { panic!("{answer:?}") };
        assert_eq!(error.kind(), BackendErrorKind::Rejected);
    }
}
