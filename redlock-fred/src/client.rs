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
    types::{
        ClusterHash, CustomCommand, Value,
        config::{Config, Options},
    },
};
use redlock_core::redis::Dialect;
use tokio::task::JoinHandle;

/// A command with its arguments, for fred.
pub(crate) struct Request {
    pub(crate) name: &'static str,
    pub(crate) arguments: Vec<Value>,
    /// The position of the first key among the arguments.
    pub(crate) first_key: usize,
}

/// The forms of requests for a client. The servers of a Cluster may differ.
pub(crate) fn dialect(config: &Config) -> Dialect {
    if config.server.is_clustered() { Dialect::scripts() } else { Dialect::new() }
}

/// A command that is in the client's queue, or further.
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

/// A command that is put into the client's queue by the first poll.
pub(crate) fn command(
    client: &Client,
    request: Request,
    timeout: Duration,
) -> impl Future<Output = FredResult<Value>> + Send + 'static {
    let options = Options {
        // In a Cluster a second attempt, for a server that answers MOVED and so has not executed the first.
        max_attempts: Some(if client.is_clustered() { 2 } else { 1 }),
        // After ASK, fred returns to the same server. If it runs out of attempts there, it ends the whole
        // client; if it runs out of redirections, only the command fails.
        max_redirections: Some(1),
        // Removes the command from the queue if it has not been sent by then. Nothing else does.
        timeout: Some(timeout),
        // Never resent after the connection is lost, nor kept for the next connection.
        fail_fast: true,
        // fred does not look for it in a custom command.
        cluster_hash: Some(ClusterHash::Offset(request.first_key)),
        ..Options::default()
    };
    let client = client.with_options(&options);
    // The only way of fred to run a script that respects the options.
    let command = CustomCommand::new_static(request.name, ClusterHash::FirstKey, false);
    async move {
        if timeout.is_zero() {
            // fred reads that as "wait forever".
            return Err(Error::new(ErrorKind::Timeout, "Not sent before the deadline."));
        }
        client.custom::<Value, Value>(command, request.arguments).await
    }
}

/// Polls a [`command`] once, now, so that its place in the queue is taken when this returns. Must be called
/// on a tokio runtime.
pub(crate) fn start(command: impl Future<Output = FredResult<Value>> + Send + 'static) -> Sent {
    let mut command = Box::pin(command);
    match command.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Sent::Answered(answer),
        // In a task of its own, so that the timeout takes effect even when the caller has gone.
        Poll::Pending => Sent::Waiting(tokio::spawn(command)),
    }
}
