//! Reads URLs by redis-rs, and prints addresses.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError};
use redlock_core::node_url::{OpenError, Path, Scheme, check};

/// The server at a URL.
pub(crate) fn of_server(url: &str) -> Result<ConnectionInfo, OpenError> {
    parse(url, &SERVER)
}

/// Some servers of a Cluster.
#[cfg(feature = "cluster")]
pub(crate) fn of_cluster(
    urls: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<Vec<ConnectionInfo>, OpenError> {
    urls.into_iter().map(|url| parse(url.as_ref(), &CLUSTER)).collect()
}

/// Some Sentinels.
#[cfg(feature = "sentinel")]
pub(crate) fn of_sentinels(
    urls: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<Vec<ConnectionInfo>, OpenError> {
    urls.into_iter().map(|url| parse(url.as_ref(), &SENTINEL)).collect()
}

fn parse(url: &str, schemes: &[Scheme]) -> Result<ConnectionInfo, OpenError> {
    check(url, schemes)?;
    url.into_connection_info().map_err(|error| {
        let words = error.to_string();
        // The detail may contain a part of the URL.
        let known = words.strip_suffix(error.detail().unwrap_or_default()).unwrap_or_default();
        OpenError::Client(format!("redis-rs does not accept the URL: {}", known.trim_end_matches(": ")))
    })
}

/// The error of redis-rs for settings that it does not accept.
pub(crate) fn refused(error: RedisError) -> OpenError {
    OpenError::Client(error.to_string())
}

/// A server's address; an IPv6 address is in brackets, as the port needs.
pub(crate) fn address(server: &ConnectionInfo) -> String {
    match server.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } if host.contains(':') => {
            format!("[{host}]:{port}")
        }
        address => address.to_string(),
    }
}

#[cfg(any(feature = "cluster", feature = "sentinel"))]
pub(crate) fn addresses(servers: &[ConnectionInfo]) -> String {
    servers.iter().map(address).collect::<Vec<_>>().join(",")
}

const SERVER: [Scheme; 7] = [
    Scheme::new("redis", Path::Database).parameters(PROTOCOL),
    Scheme::new("valkey", Path::Database).parameters(PROTOCOL),
    Scheme::new("rediss", Path::Database).parameters(PROTOCOL).fragments(INSECURE),
    Scheme::new("valkeys", Path::Database).parameters(PROTOCOL).fragments(INSECURE),
    Scheme::new("redis+unix", Path::Socket).parameters(OF_SOCKET),
    Scheme::new("valkey+unix", Path::Socket).parameters(OF_SOCKET),
    Scheme::new("unix", Path::Socket).parameters(OF_SOCKET),
];
/// Without `protocol`: this crate chooses it.
#[cfg(feature = "cluster")]
const CLUSTER: [Scheme; 4] = [
    Scheme::new("redis", Path::Database),
    Scheme::new("valkey", Path::Database),
    Scheme::new("rediss", Path::Database).fragments(INSECURE),
    Scheme::new("valkeys", Path::Database).fragments(INSECURE),
];
/// A Sentinel has no databases, and the master's is not in its URL.
#[cfg(feature = "sentinel")]
const SENTINEL: [Scheme; 4] = [
    Scheme::new("redis", Path::None).parameters(PROTOCOL),
    Scheme::new("valkey", Path::None).parameters(PROTOCOL),
    Scheme::new("rediss", Path::None).parameters(PROTOCOL).fragments(INSECURE),
    Scheme::new("valkeys", Path::None).parameters(PROTOCOL).fragments(INSECURE),
];
const PROTOCOL: &[&str] = &["protocol"];
const OF_SOCKET: &[&str] = &["db", "user", "pass", "protocol"];
/// Turns off the check of the host name.
const INSECURE: &[&str] = &["insecure"];
