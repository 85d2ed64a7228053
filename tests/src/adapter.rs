//! The adapters, so that one test runs with each of them.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a failed test panics with its reason"
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
    /// Opens a node by its URL, as most users do.
    pub fn open(self, url: &str) -> Arc<dyn LockBackend> {
        match self {
            Self::RedisRs => Arc::new(RedisBackend::open(url).expect("the test's own URL")),
            Self::Fred => Arc::new(FredBackend::open(url).expect("the test's own URL")),
        }
    }

    /// A builder for a lock manager on these servers, with the defaults.
    pub fn manager<'a>(self, servers: impl IntoIterator<Item = &'a Server>) -> RedlockBuilder {
        self.manager_of(servers.into_iter().map(Server::url))
    }

    /// A builder for a lock manager on the servers at these URLs.
    pub fn manager_of(self, urls: impl IntoIterator<Item = String>) -> RedlockBuilder {
        let nodes = urls.into_iter().map(|url| self.open(&url));
        Redlock::builder(TokioRuntime::current()).nodes(nodes)
    }
}
