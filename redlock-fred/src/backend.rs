//! The backend: one request, one command.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, FredResult},
    types::{
        Value,
        config::{Config, Server, ServerConfig},
    },
};
use redlock_core::{
    Acquire, BackendError, BackendErrorKind, Extend, Inspect, KeyState, LockBackend, Release, Released,
    Replace, Reply,
};
use tokio::{runtime::Handle, time::Instant};

use crate::{
    answer::{done, key_states},
    class::{classify, classify_setup},
    client,
    connection::Reconnecting,
    given::Given,
    scripts,
};

/// A Redis or Valkey server as a node, over a client of fred.
///
/// ```no_run
/// use std::time::Duration;
/// use redlock_fred::{FredBackend, Redlock, TokioRuntime};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redlock = Redlock::builder(TokioRuntime::current())
///     .node(FredBackend::open("redis://a:6379")?)
///     .node(FredBackend::open("redis://b:6379")?)
///     .node(FredBackend::open("redis://c:6379")?)
///     .build()?;
/// let lock = redlock.lock("locks:account:322456", Duration::from_secs(10)).await?;
/// # drop(lock);
/// # Ok(())
/// # }
/// ```
///
/// Requests need to be polled on a tokio runtime with a timer, as fred's commands do. On another they are
/// [rejected](BackendErrorKind::Rejected).
#[derive(Clone)]
pub struct FredBackend {
    line: Line,
    name: String,
}

#[derive(Clone)]
enum Line {
    Own(Arc<Reconnecting>),
    Given(Arc<Given>),
}

impl FredBackend {
    /// A node by its URL, in any form that fred knows: `redis://`, `redis-cluster://`, `redis-sentinel://`, and with
    /// the feature `rustls` `rediss://` and its kin.
    ///
    /// Nothing is sent yet: a server that is down is no error here. The connection has `TCP_NODELAY` on, keep-alive
    /// probes and, on Linux, a user timeout of 2 seconds; it is made at the first request, and made again at the
    /// first request after it broke.
    ///
    /// # Errors
    ///
    /// When the URL makes no sense, or asks for TLS without the feature `rustls`.
    pub fn open(url: &str) -> FredResult<Self> {
        let link = Reconnecting::new(config(url)?);
        let name = name(link.config());
        Ok(Self { line: Line::Own(Arc::new(link)), name })
    }

    /// A node by a client that has been initialized, and stays so for as long as the node is used. Its
    /// [`ConnectionConfig`](fred::types::config::ConnectionConfig) is left as it is: see [`FredBackend::open`] for
    /// what a lock needs. While it is not connected, requests fail at once, with the reason.
    ///
    /// # Errors
    ///
    /// Of the kind [`ErrorKind::Config`] when the client has no reconnect policy: after the first lost connection it
    /// would never work again.
    pub fn new(client: Client) -> FredResult<Self> {
        if !client.has_reconnect_policy() {
            return Err(Error::new(ErrorKind::Config, "a client for locks needs a reconnect policy"));
        }
        let name = name(&client.client_config());
        Ok(Self { line: Line::Given(Arc::new(Given::new(client))), name })
    }

    /// What errors call this node. The default is the address, without credentials.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    async fn run(&self, arguments: Vec<Value>, timeout: Duration) -> Result<Value, BackendError> {
        if Handle::try_current().is_err() {
            return Err(BackendError::new(BackendErrorKind::Rejected, "fred runs on tokio only"));
        }
        let deadline = Instant::now() + timeout.min(LONGEST);
        let answer = match &self.line {
            Line::Given(given) => {
                if let Some(why_not) = given.why_not_connected() {
                    return Err(why_not);
                }
                client::start(client::eval(&given.client, arguments, timeout.min(LONGEST))).answer().await
            }
            Line::Own(link) => match link.send(arguments, deadline) {
                Ok(sent) => sent.answer().await,
                Err(waiting) => match tokio::time::timeout_at(deadline, waiting).await {
                    Ok(Ok(Ok(sent))) => sent.answer().await,
                    Ok(Ok(Err(error))) => return Err(classify_setup(error)),
                    Ok(Err(_)) => {
                        return Err(classify(Error::new(ErrorKind::Canceled, "The runtime is gone.")));
                    }
                    Err(_) => return Err(BackendError::timed_out(timeout)),
                },
            },
        };
        answer.map_err(|error| match error.kind() {
            ErrorKind::Timeout => BackendError::timed_out(timeout),
            ErrorKind::Canceled => self.why_not_sent(error),
            _ => classify(error),
        })
    }

    /// fred cancels what it has not sent. Why, it told before, if at all.
    fn why_not_sent(&self, error: Error) -> BackendError {
        match &self.line {
            Line::Given(given) => given.why_not_connected().unwrap_or_else(|| classify(error)),
            Line::Own(_) => classify(error),
        }
    }
}

#[async_trait]
impl LockBackend for FredBackend {
    async fn acquire(&self, request: Acquire<'_>) -> Result<Reply, BackendError> {
        let arguments =
            scripts::arguments(scripts::ACQUIRE, request.resources, Some(request.token), Some(request.ttl));
        let granted = done(&self.run(arguments, request.timeout).await?)?;
        Ok(if granted { Reply::Granted } else { Reply::Refused })
    }

    async fn extend(&self, request: Extend<'_>) -> Result<Reply, BackendError> {
        let arguments =
            scripts::arguments(scripts::EXTEND, request.resources, Some(request.token), Some(request.ttl));
        let granted = done(&self.run(arguments, request.timeout).await?)?;
        Ok(if granted { Reply::Granted } else { Reply::Refused })
    }

    async fn release(&self, request: Release<'_>) -> Result<Released, BackendError> {
        let arguments = scripts::arguments(scripts::RELEASE, request.resources, Some(request.token), None);
        let removed = done(&self.run(arguments, request.timeout).await?)?;
        Ok(if removed { Released::Removed } else { Released::NotHeld })
    }

    async fn replace(&self, request: Replace<'_>) -> Result<Reply, BackendError> {
        let mut arguments =
            scripts::arguments(scripts::REPLACE, request.resources, Some(request.new), Some(request.ttl));
        arguments.push(Value::from(request.old.as_str()));
        let granted = done(&self.run(arguments, request.timeout).await?)?;
        Ok(if granted { Reply::Granted } else { Reply::Refused })
    }

    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        let arguments = scripts::arguments(scripts::INSPECT, request.resources, None, None);
        let answer = self.run(arguments, request.timeout).await?;
        key_states(&answer, request.resources)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for FredBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FredBackend").field("name", &self.name).finish_non_exhaustive()
    }
}

/// fred takes any scheme, and without a TLS feature takes `rediss` for plain text.
fn config(url: &str) -> FredResult<Config> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    let kind = scheme.strip_prefix("redis").or_else(|| scheme.strip_prefix("valkey"));
    let (tls, kind) = match kind {
        Some(kind) => kind.strip_prefix('s').map_or((false, kind), |kind| (true, kind)),
        None => return Err(Error::new(ErrorKind::Url, "the scheme is not one of Redis")),
    };
    if !["", "-cluster", "-sentinel", "+unix"].contains(&kind) {
        return Err(Error::new(ErrorKind::Url, "the scheme is not one of Redis"));
    }
    #[cfg(feature = "rustls")]
    if tls {
        use fred::rustls::crypto::{CryptoProvider, ring};
        // rustls panics when it finds none, or two. Fails when another thread was faster, which is as good.
        if CryptoProvider::get_default().is_none() {
            let _ = ring::default_provider().install_default();
        }
    }
    let config = Config::from_url(url)?;
    if tls && !config.uses_tls() {
        return Err(Error::new(ErrorKind::Config, "TLS needs the feature `rustls`"));
    }
    Ok(config)
}

/// What to tell of a client in errors: its addresses and database, without credentials.
fn name(config: &Config) -> String {
    let address = |server: Server| match server.port {
        // A Unix socket.
        0 => server.host.to_string(),
        port => format!("{}:{port}", server.host),
    };
    let hosts: Vec<_> = config.server.hosts().into_iter().map(address).collect();
    let mut name = hosts.join(",");
    if let ServerConfig::Sentinel { service_name, .. } = &config.server {
        name = format!("{service_name}@{name}");
    }
    match config.database {
        None | Some(0) => name,
        Some(database) => format!("{name}/{database}"),
    }
}

/// More than anybody waits for an answer, and little enough to be added to a time.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_goes_by_its_address_without_credentials() {
        for (url, name) in [
            ("redis://me:secret@a.example", "a.example:6379"),
            ("valkey://:secret@a.example:1/3", "a.example:1/3"),
            ("redis-cluster://me:secret@a.example:1?node=b.example:2", "b.example:2,a.example:1"),
            ("redis-sentinel://:secret@a.example:1?sentinelServiceName=main", "main@a.example:1"),
        ] {
            let node = FredBackend::open(url).expect(url);
            assert_eq!(node.name(), name);
            assert!(!format!("{node:?}").contains("secret"), "{node:?}");
        }
        assert_eq!(FredBackend::open("redis://a").expect("a URL").named("a").name(), "a");
    }

    #[test]
    fn a_url_that_makes_no_sense_is_an_error_without_its_password() {
        for url in [
            "",
            "a.example:6379",
            "http://:secret@a",
            "redisx://:secret@a",
            "redis://:secret@a:x",
            "redis://:secret@a/x",
        ] {
            let error = FredBackend::open(url).expect_err(url);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn tls_is_used_or_refused() {
        for url in ["rediss://a", "valkeys://a", "REDISS://a", "rediss-cluster://a:1"] {
            let config = config(url);
            if cfg!(feature = "rustls") {
                assert!(config.expect(url).uses_tls(), "{url}");
            } else {
                assert_eq!(*config.expect_err(url).kind(), ErrorKind::Config, "{url}");
            }
        }
    }
}
