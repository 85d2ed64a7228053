//! A backend over a client of your own: here redis-rs' multiplexed connection, as it is.
//!
//! ```text
//! cargo run --example own_backend -- redis://127.0.0.1:7001 redis://127.0.0.1:7002 redis://127.0.0.1:7003
//! ```
//!
//! Copy `backend.rs`, and `tests.rs`, in which the conformance suite checks it.

mod backend;
#[cfg(test)]
mod tests;

use std::{env, error::Error, time::Duration};

use redis::{AsyncConnectionConfig, Client, RedisError};
use redlock_core::{Redlock, TokioRuntime, redis::Dialect};

use self::backend::OwnBackend;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut nodes = Vec::new();
    for url in env::args().skip(1) {
        nodes.push(connect(&url).await?);
    }
    if nodes.is_empty() {
        return Err("it needs the URLs of servers".into());
    }
    let redlock = Redlock::builder(TokioRuntime::current()).nodes(nodes).build()?;
    let lock = redlock.lock("own-backend", Duration::from_secs(10)).await?;
    println!("held for another {:?}", lock.remaining());
    println!("{:?}", lock.unlock().await?);
    Ok(())
}

async fn connect(url: &str) -> Result<OwnBackend, RedisError> {
    // The buffer is far larger than the number of requests under way: when it is full, redis-rs may reorder
    // them.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(1 << 16);
    let connection = Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await?;
    Ok(OwnBackend { connection, dialect: Dialect::new() })
}
