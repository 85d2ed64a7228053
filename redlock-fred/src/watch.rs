//! The client over whose connection keys are watched.

// Tests: below; tests/tests/it/servers/watching.rs.

use std::{sync::Arc, time::Duration};

use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, FredResult, TrackingInterface},
    types::{
        ClusterHash, CustomCommand, RespVersion, Value,
        client::Invalidation,
        config::{Config, Options},
    },
};
use redlock_core::{
    BackendError, BackendErrorKind, BoxFuture, Runtime, TokioRuntime,
    redis::{Reports, TrackedConnection, Watcher},
};
use tokio::{
    runtime::Handle,
    sync::broadcast::{Receiver, error::RecvError},
    task::AbortHandle,
};

use crate::{
    connection::connection_config,
    error::{classify, classify_setup},
};

/// Watches keys of the server that `config` leads to.
pub(crate) fn watcher(mut config: Config) -> Watcher {
    config.version = RespVersion::RESP3;
    config.fail_fast = true;
    // fred does not pass on the report that all keys have been flushed.
    Watcher::rereading(REREAD, move |reports| {
        let config = config.clone();
        Box::pin(async move {
            // In a task of its own: fred's task outlives a caller that gives up, but not what is dropped here.
            let connected = tokio::spawn(Tracked::connect(config, reports)).await;
            let connected = connected.unwrap_or_else(|error| Err(classify(error.into())))?;
            Ok(Arc::new(connected) as Arc<dyn TrackedConnection>)
        })
    })
}

/// The caller's runtime, if it is one of tokio.
pub(crate) fn runtime() -> Option<Arc<dyn Runtime>> {
    Handle::try_current().ok().map(|handle| Arc::new(OnTokio(handle)) as Arc<dyn Runtime>)
}

/// One of tokio's runtimes. Unlike with [`TokioRuntime`], its tasks end with it, as fred's do.
#[derive(Debug)]
struct OnTokio(Handle);

impl Runtime for OnTokio {
    fn now(&self) -> std::time::Instant {
        TokioRuntime::new(self.0.clone()).now()
    }

    fn unix_time(&self) -> Duration {
        TokioRuntime::new(self.0.clone()).unix_time()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        TokioRuntime::new(self.0.clone()).sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<()>) {
        drop(self.0.spawn(task));
    }
}

/// A client with tracking, and the task that passes its reports on, which ends with fred's task.
struct Tracked {
    client: Client,
    tasks: [AbortHandle; 2],
}

impl Tracked {
    async fn connect(config: Config, reports: Reports) -> Result<Self, BackendError> {
        let client = Client::new(config, None, Some(connection_config()), None);
        let invalidations = client.invalidation_rx();
        let router = client.init().await.map_err(not_connected)?;
        let fred = router.abort_handle();
        let passing_on = tokio::spawn(async move {
            tokio::select! {
                () = pass_on(invalidations, &reports) => {}
                _ = router => {}
            }
            reports.lost();
        });
        let tracked = Self { client, tasks: [fred, passing_on.abort_handle()] };
        tracked.turn_on().await.map_err(not_connected)?;
        Ok(tracked)
    }

    /// In its default mode the server reports each key that the connection reads, once.
    async fn turn_on(&self) -> FredResult<()> {
        let command = CustomCommand::new_static("CLIENT", None::<u16>, false);
        let answer: Value = self.client.custom(command, vec!["TRACKING", "ON"]).await?;
        match answer.as_str().as_deref() {
            Some("OK") => Ok(()),
            _ => Err(Error::new(ErrorKind::Config, "No answer to CLIENT TRACKING.")),
        }
    }
}

impl TrackedConnection for Tracked {
    fn is_free(&self, name: Arc<str>) -> BoxFuture<Result<bool, BackendError>> {
        let options = Options {
            max_attempts: Some(1),
            timeout: Some(connection_config().internal_command_timeout),
            fail_fast: true,
            ..Options::default()
        };
        let client = self.client.with_options(&options);
        Box::pin(async move {
            let command = CustomCommand::new_static("GET", ClusterHash::FirstKey, false);
            is_free(client.custom(command, vec![Value::from(&*name)]).await)
        })
    }
}

impl Drop for Tracked {
    /// fred's task would keep the client alive.
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn pass_on(mut invalidations: Receiver<Invalidation>, reports: &Reports) {
    loop {
        match invalidations.recv().await {
            Ok(invalidation) => {
                invalidation.keys.iter().for_each(|key| reports.changed(key.as_bytes()));
            }
            Err(RecvError::Lagged(_)) => reports.all_changed(),
            Err(RecvError::Closed) => return,
        }
    }
}

fn is_free(answer: FredResult<Value>) -> Result<bool, BackendError> {
    match answer {
        Ok(Value::Null) => Ok(true),
        Ok(Value::String(_) | Value::Bytes(_)) => Ok(false),
        Ok(_) => Err(BackendError::new(BackendErrorKind::Indeterminate, "an answer of another type")),
        // A value of another type is in the way of a lock, too.
        Err(error) if error.details().starts_with("WRONGTYPE") => Ok(false),
        Err(error) => Err(classify(error)),
    }
}

/// Why there is no connection for watching. A server, or a proxy before it, that accepts a connection and
/// closes it at the first command has refused that.
fn not_connected(error: Error) -> BackendError {
    let is_unreachable = matches!(error.kind(), ErrorKind::Timeout)
        || matches!(error.kind(), ErrorKind::IO) && error.details().contains("efused");
    let found = classify_setup(error.clone());
    if found.kind() == BackendErrorKind::Indeterminate && !is_unreachable {
        return BackendError::new(BackendErrorKind::Rejected, "the connection for watching was refused")
            .with_source(error);
    }
    found
}

const REREAD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_key_is_free_only_when_the_server_says_that_nothing_is_there() {
        let failed = |line: &str| Err(Error::new(ErrorKind::Unknown, line.to_owned()));
        for (answer, expected) in [
            (Ok(Value::Null), Ok(true)),
            (Ok(Value::from("ab")), Ok(false)),
            (Ok(Value::Bytes(vec![0xff].into())), Ok(false)),
            (failed("WRONGTYPE Operation against a key"), Ok(false)),
            (failed("NOPERM no permissions"), Err(BackendErrorKind::Rejected)),
            (failed("LOADING Redis is loading"), Err(BackendErrorKind::Transient)),
            (Ok(Value::Integer(0)), Err(BackendErrorKind::Indeterminate)),
        ] {
            let line = format!("{answer:?}");
            assert_eq!(is_free(answer).map_err(|error| error.kind()), expected, "{line}");
        }
    }

    #[test]
    fn a_connection_that_is_closed_at_its_set_up_is_refused_and_one_that_fails_is_not() {
        for (error, expected) in [
            (io::Error::from(io::ErrorKind::UnexpectedEof).into(), BackendErrorKind::Rejected),
            (Error::new(ErrorKind::Canceled, "Canceled."), BackendErrorKind::Rejected),
            (Error::new(ErrorKind::Unknown, "ERR unknown command 'HELLO'"), BackendErrorKind::Rejected),
            (Error::new(ErrorKind::Auth, "NOPERM no permissions"), BackendErrorKind::Rejected),
            (io::Error::from(io::ErrorKind::ConnectionRefused).into(), BackendErrorKind::Indeterminate),
            (Error::new(ErrorKind::Timeout, "Timeout"), BackendErrorKind::Indeterminate),
            (Error::new(ErrorKind::Unknown, "LOADING Redis is loading"), BackendErrorKind::Transient),
        ] {
            let text = error.to_string();
            assert_eq!(not_connected(error).kind(), expected, "{text}");
        }
    }
}
