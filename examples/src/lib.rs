//! What the small examples share.

use std::error::Error;

use redlock_redis_rs::{MemoryBackend, RedisBackend, Redlock, TokioRuntime};

/// A lock manager for the servers at these URLs, or for three nodes in memory when there are none.
///
/// # Errors
///
/// For a URL that is invalid. A server that is down is no error here.
pub fn connect(urls: impl IntoIterator<Item = String>) -> Result<Redlock, Box<dyn Error>> {
    let runtime = TokioRuntime::current();
    let servers = urls.into_iter().map(RedisBackend::open).collect::<Result<Vec<_>, _>>()?;
    let memory = if servers.is_empty() { 3 } else { 0 };
    let memory = (0..memory).map(|_| MemoryBackend::new(runtime.clone()));
    Ok(Redlock::builder(runtime.clone()).nodes(servers).nodes(memory).build()?)
}
