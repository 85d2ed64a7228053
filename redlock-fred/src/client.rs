//! How a command goes through a client of fred.

use std::{
    future::Future,
    task::{Context, Poll, Waker},
    time::Duration,
};

use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, FredResult},
    types::{ClusterHash, CustomCommand, Value, config::Options},
};
use tokio::task::JoinHandle;

use redlock_core::redis::FIRST_KEY;

/// An `EVAL` that is in the client's queue, or further.
pub(crate) enum Sent {
    Answered(FredResult<Value>),
    Waiting(JoinHandle<FredResult<Value>>),
}

impl Sent {
    pub(crate) async fn answer(self) -> FredResult<Value> {
        match self {
            Self::Answered(answer) => answer,
            Self::Waiting(task) => task.await.map_err(Error::from)?,
        }
    }
}

/// An `EVAL` that is put into the client's queue by the first poll.
pub(crate) fn eval(
    client: &Client,
    arguments: Vec<Value>,
    timeout: Duration,
) -> impl Future<Output = FredResult<Value>> + Send + 'static {
    let options = Options {
        // In a cluster a second one, for a server that says MOVED, and so has not executed the first.
        max_attempts: Some(if client.is_clustered() { 2 } else { 1 }),
        // fred goes back to the same server after ASK. When attempts run out over that, it ends the whole
        // client; when redirections do, only the command.
        max_redirections: Some(1),
        // Takes the command out of the queue when it was not sent by then. Nothing else does.
        timeout: Some(timeout),
        // Never sent again after the connection is lost, nor kept for the next connection.
        fail_fast: true,
        // fred does not look for it in a custom command.
        cluster_hash: Some(ClusterHash::Offset(FIRST_KEY)),
        ..Options::default()
    };
    let client = client.with_options(&options);
    // Of fred's ways to run a script, the one that heeds the options.
    let command = CustomCommand::new_static("EVAL", ClusterHash::FirstKey, false);
    async move {
        if timeout.is_zero() {
            // fred would take that for "wait for ever".
            return Err(Error::new(ErrorKind::Timeout, "Not sent in time."));
        }
        client.custom::<Value, Value>(command, arguments).await
    }
}

/// Polls an [`eval`] once, now, so that its place in the queue is taken when this returns. Must be called on
/// a tokio runtime.
pub(crate) fn start(eval: impl Future<Output = FredResult<Value>> + Send + 'static) -> Sent {
    let mut eval = Box::pin(eval);
    match eval.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Sent::Answered(answer),
        // On its own, so that the timeout takes effect when the one who asked has gone away.
        Poll::Pending => Sent::Waiting(tokio::spawn(eval)),
    }
}
