//! One node. `redlock_core::redis` has the scripts, and the meaning of a server's errors.

use std::time::Duration;

use redis::{RedisError, Value, aio::MultiplexedConnection};
use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, LockBackend, Release, ReleaseReply,
    async_trait,
    redis::{Argument, Eval, classify, is_done},
};

/// A node over one connection, which stays broken when it breaks.
#[derive(Debug)]
pub(crate) struct OwnBackend(pub(crate) MultiplexedConnection);

impl OwnBackend {
    /// Sends a request once, and waits for its reply until the timeout.
    async fn run(&self, eval: Eval<'_>, timeout: Duration) -> Result<bool, BackendError> {
        let mut command = redis::cmd("EVAL");
        command.arg(eval.script()).arg(eval.keys().iter().len());
        for key in eval.keys() {
            command.arg(key);
        }
        for argument in eval.arguments() {
            match argument {
                Argument::Text(text) => command.arg(text),
                Argument::Number(number) => command.arg(number),
            };
        }
        let mut connection = self.0.clone();
        // Without this, a busy task's requests could overtake one another.
        let reply = tokio::task::unconstrained(command.query_async::<Value>(&mut connection));
        match tokio::time::timeout(timeout, reply).await {
            Ok(Ok(Value::Int(number))) => is_done(number).ok_or_else(unknown),
            Ok(Ok(_)) => Err(unknown()),
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

fn unknown() -> BackendError {
    BackendError::new(BackendErrorKind::Indeterminate, "a reply of another type")
}

#[async_trait]
impl LockBackend for OwnBackend {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let granted = self.run(Eval::acquire(&request), request.timeout).await?;
        Ok(if granted { AcquireReply::Granted } else { AcquireReply::Refused })
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        let granted = self.run(Eval::extend(&request), request.timeout).await?;
        Ok(if granted { AcquireReply::Granted } else { AcquireReply::Refused })
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let removed = self.run(Eval::release(&request), request.timeout).await?;
        Ok(if removed { ReleaseReply::Removed } else { ReleaseReply::NotHeld })
    }
}
