//! Requests to several nodes, under way at the same time.

use std::{
    fmt,
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use crate::runtime::{BoxFuture, Runtime};

/// Requests under way, each with the position of its node.
///
/// The first poll asks *every* node before any answer is looked at: a combinator that returns at the first ready
/// future would leave the others unasked. Once asked, a request is finished: what is still under way when the fan
/// is dropped goes on in the background. A fan that is dropped before its first poll has asked nobody, and asks
/// nobody, unless it was made with [`Fan::without_fail`].
pub(crate) struct Fan<T: Send + 'static> {
    runtime: Arc<dyn Runtime>,
    requests: Vec<(usize, BoxFuture<T>)>,
    asked: bool,
    without_fail: bool,
}

impl<T: Send + 'static> Fan<T> {
    pub(crate) fn new(
        runtime: Arc<dyn Runtime>,
        requests: impl IntoIterator<Item = (usize, BoxFuture<T>)>,
    ) -> Self {
        Self { runtime, requests: requests.into_iter().collect(), asked: false, without_fail: false }
    }

    /// Asks in the background what has not been asked when the fan is dropped.
    pub(crate) fn without_fail(mut self) -> Self {
        self.without_fail = true;
        self
    }

    /// The answers that came in since the last call, one at least; none when all have been given.
    pub(crate) async fn next(&mut self) -> Vec<(usize, T)> {
        poll_fn(|cx| {
            let answers = self.poll(cx);
            if answers.is_empty() && !self.requests.is_empty() { Poll::Pending } else { Poll::Ready(answers) }
        })
        .await
    }

    /// Asks every node, and returns at once with what was answered on the spot.
    pub(crate) async fn ask(&mut self) -> Vec<(usize, T)> {
        poll_fn(|cx| Poll::Ready(self.poll(cx))).await
    }

    /// Takes out the requests that are still under way.
    pub(crate) fn take(&mut self) -> Vec<(usize, BoxFuture<T>)> {
        mem::take(&mut self.requests)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Vec<(usize, T)> {
        self.asked = true;
        let mut answers = Vec::new();
        self.requests.retain_mut(|(node, request)| match request.as_mut().poll(cx) {
            Poll::Ready(answer) => {
                answers.push((*node, answer));
                false
            }
            Poll::Pending => true,
        });
        answers
    }
}

impl<T: Send + 'static> Drop for Fan<T> {
    fn drop(&mut self) {
        if self.requests.is_empty() || !(self.asked || self.without_fail) {
            return;
        }
        let mut rest = Fan::new(self.runtime.clone(), self.take());
        self.runtime.spawn(Box::pin(async move { while !rest.next().await.is_empty() {} }));
    }
}

impl<T: Send + 'static> fmt::Debug for Fan<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way: Vec<usize> = self.requests.iter().map(|(node, _)| *node).collect();
        f.debug_struct("Fan").field("under_way", &under_way).field("asked", &self.asked).finish()
    }
}
