//! The adapters, so that one scenario runs over each of them.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test ends with a panic that says why"
)]

use std::sync::Arc;

use redlock_core::{LockBackend, Redlock, RedlockBuilder, TokioRuntime};
use redlock_fred::FredBackend;
use redlock_redis_rs::RedisBackend;

use crate::server::Server;

/// A client library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapter {
    /// redis-rs.
    RedisRs,
    /// fred.
    Fred,
}

impl Adapter {
    /// A node by its URL, as most users make it.
    pub fn open(self, url: &str) -> Arc<dyn LockBackend> {
        match self {
            Self::RedisRs => Arc::new(RedisBackend::open(url).expect("a URL that we made ourselves")),
            Self::Fred => Arc::new(FredBackend::open(url).expect("a URL that we made ourselves")),
        }
    }

    /// Starts to make a lock manager on servers, as most users do.
    pub fn manager<'a>(self, servers: impl IntoIterator<Item = &'a Server>) -> RedlockBuilder {
        self.manager_of(servers.into_iter().map(Server::url))
    }

    /// Starts to make a lock manager on the servers at some URLs.
    pub fn manager_of(self, urls: impl IntoIterator<Item = String>) -> RedlockBuilder {
        let nodes = urls.into_iter().map(|url| self.open(&url));
        Redlock::builder(TokioRuntime::current()).nodes(nodes)
    }
}
