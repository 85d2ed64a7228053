//! The async runtime that requests run on: tokio, smol, or, with both compiled in, tokio inside of its
//! context and smol elsewhere. That is what redis-rs does, too.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use futures_util::future::{Either, select};
use redlock_core::Runtime;
#[cfg(feature = "smol")]
use redlock_core::SmolRuntime;
#[cfg(feature = "tokio")]
use {
    redlock_core::{BoxFuture, TokioRuntime},
    std::time::Instant,
    tokio::{runtime::Handle, task::try_id},
};

/// The runtime of the caller. `None` outside of tokio, if only tokio is compiled in.
pub(crate) fn current() -> Option<Arc<dyn Runtime>> {
    #[cfg(feature = "tokio")]
    if let Ok(handle) = Handle::try_current() {
        return Some(Arc::new(OnTokio(handle)));
    }
    #[cfg(feature = "smol")]
    let elsewhere: Option<Arc<dyn Runtime>> = Some(Arc::new(SmolRuntime::new()));
    #[cfg(not(feature = "smol"))]
    let elsewhere = None;
    elsewhere
}

/// Whether the caller has one.
pub(crate) fn is_there() -> bool {
    #[cfg(feature = "tokio")]
    // Each handle counts its clones, and threads that count at the same time slow each other down. In a task
    // there is a runtime.
    let is_there = cfg!(feature = "smol") || try_id().is_some() || Handle::try_current().is_ok();
    #[cfg(not(feature = "tokio"))]
    let is_there = true;
    is_there
}

/// One of tokio's runtimes. Unlike with [`TokioRuntime`], its tasks end with it, as the sockets of their
/// connections do.
#[cfg(feature = "tokio")]
#[derive(Debug)]
struct OnTokio(Handle);

#[cfg(feature = "tokio")]
impl Runtime for OnTokio {
    fn now(&self) -> Instant {
        TokioRuntime::new(self.0.clone()).now()
    }

    fn unix_time(&self) -> Duration {
        TokioRuntime::new(self.0.clone()).unix_time()
    }

    /// Not with a timer of tokio itself, which fires only while its runtime is driven: a request may move to
    /// another runtime.
    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        TokioRuntime::new(self.0.clone()).sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<()>) {
        drop(self.0.spawn(task));
    }
}

/// The output of the future, or `None` when it takes longer than `timeout`.
pub(crate) async fn within<F: Future>(
    runtime: &dyn Runtime,
    timeout: Duration,
    future: F,
) -> Option<F::Output> {
    match select(pin!(future), runtime.sleep(timeout)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// The future without tokio's cooperative budget: a task that has used it up would find every channel "full"
/// or "empty".
#[cfg(feature = "tokio")]
pub(crate) fn unconstrained<F: Future>(future: F) -> impl Future<Output = F::Output> {
    tokio::task::unconstrained(future)
}

/// Only tasks of tokio have a budget.
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
