//! The constructors of a node, by what it leads to.

use std::sync::Arc;

use redis::Client;
#[cfg(any(feature = "smol-rustls", feature = "tokio-rustls"))]
use redis::TlsCertificates;
#[cfg(feature = "cluster")]
use redis::cluster::ClusterClient;
#[cfg(feature = "sentinel")]
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo};
use redlock_core::node_url::OpenError;

use super::{Line, RedisBackend};
use crate::{connection::LazyConnection, connector::Connector};

impl RedisBackend {
    /// A node by its URL: `redis://[user:password@]host[:port][/database]`, `redis+unix://`, or `rediss://`
    /// with the feature `tokio-rustls` or `smol-rustls`. For a [`redis::ConnectionInfo`] see
    /// [`RedisBackend::from_client`].
    ///
    /// In the user and the password, characters with a meaning in URLs (`/`, `?`, `#`, `@`, `:`, `%`, a
    /// blank) are percent-encoded. What redis-rs would ignore, such as a database in the query, is an error:
    /// two programs that lock in different databases do not exclude each other.
    ///
    /// Sends nothing yet: a server that is down is not an error here. The connection has `TCP_NODELAY`,
    /// keep-alive probes and, on Linux, a user timeout of 2 seconds. The first request makes it; when it
    /// breaks, the next request makes a new one.
    ///
    /// # Errors
    ///
    /// When the URL is invalid, or has a part without a meaning here. No error contains any of its text.
    pub fn open(url: impl AsRef<str>) -> Result<Self, OpenError> {
        Connector::server(url.as_ref()).map(Self::lazy)
    }

    /// A node by its `rediss://` URL, with a certificate authority in place of the system's, a certificate
    /// for the client, or both. Otherwise as [`RedisBackend::open`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use redlock_redis_rs::{RedisBackend, redis::{ClientTlsConfig, TlsCertificates}};
    ///
    /// let certificates = TlsCertificates {
    ///     root_cert: Some(std::fs::read("ca.pem")?),
    ///     client_tls: Some(ClientTlsConfig {
    ///         client_cert: std::fs::read("client.pem")?,
    ///         client_key: std::fs::read("client.key")?,
    ///     }),
    /// };
    /// let node = RedisBackend::open_tls("rediss://a.example:6379", certificates)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the URL or a certificate is invalid, or the URL is not `rediss://`.
    #[cfg(any(feature = "smol-rustls", feature = "tokio-rustls"))]
    pub fn open_tls(url: impl AsRef<str>, certificates: TlsCertificates) -> Result<Self, OpenError> {
        Connector::tls_server(url.as_ref(), certificates).map(Self::lazy)
    }

    /// A node by a client, which keeps its socket options: see [`RedisBackend::open`] for those that a lock
    /// needs. Sends nothing yet.
    #[must_use]
    pub fn from_client(client: Client) -> Self {
        Self::lazy(Connector::Server(client))
    }

    /// A node that is a whole Redis Cluster, by the URLs of some of its servers.
    ///
    /// Sends nothing yet. Its connections have the socket options of [`RedisBackend::open`], and send each
    /// command once. A server of the Cluster has 2 seconds for an answer, even if a request has a longer
    /// timeout.
    ///
    /// A request's resources must be in one slot, as those with the same hash tag are (`{account:1}:balance`,
    /// `{account:1}:history`); otherwise the node rejects it with CROSSSLOT.
    ///
    /// # Errors
    ///
    /// When there is no URL, when one is invalid as in [`RedisBackend::open`], or when they differ in their
    /// credentials, database or TLS.
    #[cfg(feature = "cluster")]
    pub fn open_cluster(urls: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, OpenError> {
        let (connector, name) = Connector::cluster(urls)?;
        Ok(Self::lazy(connector).with_name(name))
    }

    /// A node that is a whole Redis Cluster, by a client with its own settings. Sends nothing yet.
    ///
    /// The client needs `retries(0)`, since a command must not be sent twice, and a `response_timeout`; for
    /// the socket options that a lock needs see [`RedisBackend::open`].
    #[cfg(feature = "cluster")]
    #[must_use]
    pub fn from_cluster_client(client: ClusterClient) -> Self {
        Self::lazy(Connector::cluster_client(client))
    }

    /// A node that is the server which Sentinels, by their URLs, name as `master`; `login` has the master's
    /// credentials and database.
    ///
    /// Sends nothing yet. The node asks the Sentinels for the address before it makes a connection: at the
    /// first request, when the connection breaks or is silent, and when the server turns out not to be a
    /// master. The socket options are those of [`RedisBackend::open`], even if `login` has others.
    ///
    /// A replica that is promoted may lack the latest keys. It counts as a server that has lost them.
    ///
    /// # Errors
    ///
    /// When there is no URL, or when one is invalid as in [`RedisBackend::open`], or has a database: the
    /// master's is in `login`.
    #[cfg(feature = "sentinel")]
    pub fn open_sentinel(
        urls: impl IntoIterator<Item = impl AsRef<str>>,
        master: impl Into<String>,
        login: SentinelNodeConnectionInfo,
    ) -> Result<Self, OpenError> {
        let (connector, name) = Connector::sentinel(urls, master.into(), login)?;
        Ok(Self::lazy(connector).with_name(name))
    }

    /// A node that is the server which Sentinels name, by a client for its master with its own settings (say,
    /// certificates). Sends nothing yet. For the socket options that a lock needs see [`RedisBackend::open`].
    ///
    /// The client keeps connections to Sentinels, which live on the runtime that made them: with tokio,
    /// prefer a multi-thread one.
    #[cfg(feature = "sentinel")]
    #[must_use]
    pub fn from_sentinel_client(client: SentinelClient) -> Self {
        Self::lazy(Connector::sentinel_client(client))
    }

    fn lazy(connector: Connector) -> Self {
        let connection = LazyConnection::new(connector);
        let name = connection.name();
        Self { line: Line::Own(connection.clone()), connection, name, commands: Arc::default() }
    }
}
