//! One node. `redlock_core::redis` has the commands, and the meaning of a server's replies and errors.

use std::time::Duration;

use redis::{RedisError, Value, aio::MultiplexedConnection};
use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, LockBackend, Release, ReleaseReply,
    async_trait,
    redis::{Argument, Command, Dialect, Reply, classify},
};

/// A node over one connection, which stays broken when it breaks.
#[derive(Debug)]
pub(crate) struct OwnBackend {
    pub(crate) connection: MultiplexedConnection,
    /// The commands that its server has.
    pub(crate) dialect: Dialect,
}

impl OwnBackend {
    /// Sends a command once, and waits for its reply until the timeout.
    async fn send(&self, command: Command<'_>, timeout: Duration) -> Result<Reply, BackendError> {
        let mut to_send = redis::cmd(command.name());
        for argument in command.arguments() {
            match argument {
                Argument::Text(text) => to_send.arg(text),
                Argument::Side(key) => to_send.arg(key.to_string()),
                Argument::Number(number) => to_send.arg(number),
            };
        }
        let mut connection = self.connection.clone();
        // Without this, a busy task's requests could overtake one another.
        let reply = tokio::task::unconstrained(to_send.query_async::<Value>(&mut connection));
        match tokio::time::timeout(timeout, reply).await {
            Ok(Ok(Value::Nil)) => Ok(Reply::Nil),
            Ok(Ok(Value::Int(number))) => Ok(Reply::Number(number)),
            Ok(Ok(Value::BulkString(text))) => Ok(Reply::Text(text)),
            Ok(Ok(_)) => Ok(Reply::Other),
            Ok(Err(error)) => Err(meaning(&error)),
            Err(_) => Err(BackendError::timed_out(timeout)),
        }
    }
}

/// The core's table has the meaning of a server's error. After any other error the outcome is unknown.
fn meaning(error: &RedisError) -> BackendError {
    match error.code() {
        Some(code) => classify(&format!("{code} {}", error.detail().unwrap_or_default())).into(),
        None => BackendError::new(BackendErrorKind::Indeterminate, error.to_string()),
    }
}

#[async_trait]
impl LockBackend for OwnBackend {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.dialect.acquire(request, || 0, |command| self.send(command, request.timeout)).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.send(Command::extend(&request), request.timeout).await?.vote()
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.dialect.release(request, || 0, |command| self.send(command, request.timeout)).await
    }
}
