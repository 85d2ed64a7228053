//! A backend over a client of your own: here redis-rs' multiplexed connection, taken as it is.
//!
//!     cargo run -p redlock-tests --example own_backend -- redis://a:6379 redis://b:6379 redis://c:6379

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

use std::{env, error::Error, time::Duration};

use redis::{Client, RedisError, Value, aio::MultiplexedConnection};
use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, LockBackend, Redlock, Release,
    ReleaseReply, TokioRuntime, async_trait,
    redis::{Argument, Eval, classify, is_done},
};

/// A node over one connection, which is not made again when it breaks.
#[derive(Debug)]
struct OwnBackend(MultiplexedConnection);

impl OwnBackend {
    /// Sends a request, once, and waits for its answer until the timeout.
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
        // Its queue would let a busy task's requests overtake one another.
        let asked = tokio::task::unconstrained(command.query_async::<Value>(&mut connection));
        match tokio::time::timeout(timeout, asked).await {
            Ok(Ok(Value::Int(answer))) => is_done(answer).ok_or_else(unknown),
            Ok(Ok(_)) => Err(unknown()),
            Ok(Err(error)) => Err(meaning(&error)),
            Err(_) => Err(BackendError::timed_out(timeout)),
        }
    }
}

/// What a server says has its meaning in the core's table; all else leaves the outcome open.
fn meaning(error: &RedisError) -> BackendError {
    match error.code() {
        Some(code) => classify(&format!("{code} {}", error.detail().unwrap_or_default())).into(),
        None => BackendError::new(BackendErrorKind::Indeterminate, error.to_string()),
    }
}

fn unknown() -> BackendError {
    BackendError::new(BackendErrorKind::Indeterminate, "an answer of another type")
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

async fn connect(url: &str) -> Result<OwnBackend, RedisError> {
    // Far above how many requests are under way at a time: beyond that redis-rs does not keep their order.
    let config =
        redis::AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(1 << 16);
    Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await.map(OwnBackend)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut nodes = Vec::new();
    for url in env::args().skip(1) {
        nodes.push(connect(&url).await?);
    }
    let redlock = Redlock::builder(TokioRuntime::current()).nodes(nodes).build()?;
    let lock = redlock.lock("own-backend", Duration::from_secs(10)).await?;
    println!("held for another {:?}", lock.remaining());
    println!("{:?}", lock.unlock().await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use redlock_core::conformance::Suite;
    use redlock_tests::server::Server;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_keeps_the_contract() {
        let server = Server::start();
        let url = format!("redis://{}", server.address());
        let (node, second) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
        let passed = Suite::new(&node, &TokioRuntime::current()).second(&second).check().await.unwrap();
        let skipped: Vec<_> = passed.skipped().iter().map(|(check, _)| *check).collect();
        assert!(passed.passed().len() > 20, "skipped: {skipped:?}");
    }
}
