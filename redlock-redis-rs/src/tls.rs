//! What TLS needs, and how its refusals are known.

use redis::RedisError;

use crate::connector::Connector;

/// Sees to it that there is cryptography for connections with TLS. redis-rs brings none, and rustls panics
/// when it finds none, or two.
#[cfg(any(feature = "smol-rustls", feature = "tokio-rustls"))]
pub(crate) fn prepare(connector: &Connector) {
    use rustls::crypto::{CryptoProvider, ring};

    // What the program has installed is left alone, as is the choice of a program without TLS.
    if connector.may_use_tls() && CryptoProvider::get_default().is_none() {
        // An error says that somebody else was faster, which serves as well.
        let _ = ring::default_provider().install_default();
    }
}

#[cfg(not(any(feature = "smol-rustls", feature = "tokio-rustls")))]
pub(crate) fn prepare(_: &Connector) {}

/// Whether one side does not accept the certificate of the other: then nothing was run, and nothing will be
/// until somebody changes one of them.
pub(crate) fn is_refusal(error: &RedisError) -> bool {
    let text = error.to_string();
    text.contains("invalid peer certificate")
        || text.split_once("received fatal alert: ").is_some_and(|(_, alert)| {
            ["ertificate", "UnknownCA", "AccessDenied", "DecryptError"]
                .iter()
                .any(|word| alert.contains(word))
        })
}
