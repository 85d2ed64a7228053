//! What TLS needs, and how to recognize its refusals.

use redis::RedisError;

use crate::connector::Connector;

/// Installs a crypto provider for TLS connections, if there is none. redis-rs brings none, and rustls panics
/// when it finds none, or two.
#[cfg(any(feature = "smol-rustls", feature = "tokio-rustls"))]
pub(crate) fn prepare(connector: &Connector) {
    use rustls::crypto::{CryptoProvider, ring};

    // A provider of the program stays, and a program without TLS keeps its choice.
    if connector.may_use_tls() && CryptoProvider::get_default().is_none() {
        // An error means that another thread was faster, which is as good.
        let _ = ring::default_provider().install_default();
    }
}

#[cfg(not(any(feature = "smol-rustls", feature = "tokio-rustls")))]
pub(crate) fn prepare(_: &Connector) {}

/// Whether one side does not accept the other's certificate: nothing was executed, and nothing will be until
/// one of them changes.
pub(crate) fn is_refusal(error: &RedisError) -> bool {
    let text = error.to_string();
    text.contains("invalid peer certificate")
        || text.split_once("received fatal alert: ").is_some_and(|(_, alert)| {
            ["ertificate", "UnknownCA", "AccessDenied", "DecryptError"]
                .iter()
                .any(|word| alert.contains(word))
        })
}
