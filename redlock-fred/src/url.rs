//! Reads URLs by fred, and names nodes.

use fred::{
    error::Error,
    types::config::{Config, Server, ServerConfig},
};
use redlock_core::node_url::{OpenError, Path, Scheme, check};

/// The configuration in a URL. fred accepts any scheme, and without a TLS feature it uses plain text for
/// `rediss`.
pub(crate) fn config(url: &str) -> Result<Config, OpenError> {
    check(url, &SCHEMES)?;
    let scheme = url.trim_start().split(':').next().unwrap_or_default().to_ascii_lowercase();
    let tls = ["rediss", "valkeys"].iter().any(|encrypted| scheme.starts_with(encrypted));
    #[cfg(feature = "rustls")]
    if tls {
        use fred::rustls::crypto::{CryptoProvider, ring};
        // rustls panics when it finds none, or two. An error means that another thread was faster, which is
        // as good.
        if CryptoProvider::get_default().is_none() {
            let _ = ring::default_provider().install_default();
        }
    }
    let config = Config::from_url(url).map_err(|error| refused(&error))?;
    if tls && !config.uses_tls() {
        return Err(OpenError::Client("TLS needs the feature `rustls`".to_owned()));
    }
    Ok(config)
}

fn refused(error: &Error) -> OpenError {
    let words = match error.details() {
        // The only text of fred that contains a part of the URL.
        words if words.starts_with("Invalid host:port") => "A `node` is not host:port.",
        "Invalid integer string." => "Its database is over 255, or the port of a `node` is none.",
        words => words,
    };
    OpenError::Client(format!("fred does not accept the URL: {words}"))
}

/// What errors call a client: its addresses and database, without credentials.
pub(crate) fn name(config: &Config) -> String {
    let address = |server: Server| match server.port {
        // A Unix socket.
        0 => server.host.to_string(),
        // A client that was not made from a URL may have this.
        port if server.host.contains(':') && !server.host.starts_with('[') => {
            format!("[{}]:{port}", server.host)
        }
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

const SCHEMES: [Scheme; 16] = [
    Scheme::new("redis", Path::Database),
    Scheme::new("rediss", Path::Database),
    Scheme::new("valkey", Path::Database),
    Scheme::new("valkeys", Path::Database),
    Scheme::new("redis-cluster", Path::None).lists(NODE),
    Scheme::new("rediss-cluster", Path::None).lists(NODE),
    Scheme::new("valkey-cluster", Path::None).lists(NODE),
    Scheme::new("valkeys-cluster", Path::None).lists(NODE),
    Scheme::new("redis-sentinel", Path::Database).lists(NODE).parameters(OF_SENTINEL),
    Scheme::new("rediss-sentinel", Path::Database).lists(NODE).parameters(OF_SENTINEL),
    Scheme::new("valkey-sentinel", Path::Database).lists(NODE).parameters(OF_SENTINEL),
    Scheme::new("valkeys-sentinel", Path::Database).lists(NODE).parameters(OF_SENTINEL),
    Scheme::new("redis+unix", Path::Socket),
    Scheme::new("rediss+unix", Path::Socket),
    Scheme::new("valkey+unix", Path::Socket),
    Scheme::new("valkeys+unix", Path::Socket),
];
const NODE: &[&str] = &["node"];
#[cfg(not(feature = "sentinel-auth"))]
const OF_SENTINEL: &[&str] = &["sentinelServiceName"];
/// Without its feature, fred ignores the Sentinels' user and password.
#[cfg(feature = "sentinel-auth")]
const OF_SENTINEL: &[&str] = &["sentinelServiceName", "sentinelUsername", "sentinelPassword"];

#[cfg(test)]
mod tests {
    use redlock_core::{LockBackend as _, node_url::InvalidUrl};

    use super::*;
    use crate::FredBackend;

    #[test]
    fn a_node_is_named_by_its_address_without_credentials() {
        for (url, name) in [
            ("redis://me:secret@a.example", "a.example:6379"),
            ("valkey://:secret@a.example:1/3", "a.example:1/3"),
            ("redis://:secret@[::1]:1", "[::1]:1"),
            ("redis-cluster://me:secret@a.example:1?node=b.example:2", "b.example:2,a.example:1"),
            ("redis-sentinel://:secret@a.example:1?sentinelServiceName=main", "main@a.example:1"),
        ] {
            let node = FredBackend::open(url).expect(url);
            assert_eq!(node.name().unwrap(), name);
            assert!(!format!("{node:?}").contains("secret"), "{node:?}");
        }
        assert_eq!(FredBackend::open("redis://a").expect("a URL").with_name("a").name().unwrap(), "a");
        let config = Config { server: ServerConfig::new_centralized("::1", 1), ..Config::default() };
        assert_eq!(name(&config), "[::1]:1");
    }

    #[test]
    fn an_invalid_url_is_an_error_without_its_password() {
        for url in [
            "",
            "a.example:6379",
            "http://:secret@a",
            "redisx://:secret@a",
            "redis://:secret@a:x",
            "redis://:secret@a/x",
            "redis://:secret@a/256",
            "redis-cluster://a:1?node=secret:secret:1",
            "redis-cluster://a:1?node=secret:1&node=secret%3A2%3A3",
            "redis-sentinel://:secret@a:1",
        ] {
            let error = FredBackend::open(url).expect_err(url);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
        let error = FredBackend::open("redis://a/256").expect_err("a database over the most");
        assert!(error.to_string().contains("database"), "{error}");
    }

    #[test]
    fn a_login_at_the_sentinels_needs_its_feature() {
        let url = "redis-sentinel://a:1?sentinelServiceName=main&sentinelUsername=me&sentinelPassword=secret";
        let expected = InvalidUrl::UnknownParameter(Some("sentinelUsername"));
        let refused = (!cfg!(feature = "sentinel-auth")).then_some(OpenError::Url(expected));
        assert_eq!(config(url).err(), refused);
    }

    #[test]
    fn tls_is_used_or_refused() {
        for url in ["rediss://a", "valkeys://a", "REDISS://a", " rediss://a", "rediss-cluster://a:1"] {
            let config = config(url);
            if cfg!(feature = "rustls") {
                assert!(config.expect(url).uses_tls(), "{url}");
            } else {
                assert!(matches!(config, Err(OpenError::Client(_))), "{url}");
            }
        }
    }
}
