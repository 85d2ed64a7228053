//! Nodes, from the arguments or the environment.

use std::env;

use redlock_redis_rs::{
    RedisBackend,
    node_url::{InvalidUrl, OpenError},
};

use crate::{
    arguments,
    exit::{Failure, USAGE},
};

/// The nodes that the arguments or the environment name.
pub(crate) fn open(nodes: &arguments::Nodes) -> Result<Vec<RedisBackend>, Failure> {
    let listed = match env::var(VARIABLE) {
        Ok(listed) => listed,
        // The arguments take precedence, so it does not matter beside them.
        Err(env::VarError::NotUnicode(_)) if nodes.urls.is_empty() => {
            return Err(Failure::new(USAGE, format!("{VARIABLE} is not UTF-8")));
        }
        Err(_) => String::new(),
    };
    open_given(&nodes.urls, &listed)
}

/// The nodes that are given; when there are none, those that are listed.
pub(crate) fn open_given(given: &[String], listed: &str) -> Result<Vec<RedisBackend>, Failure> {
    let (urls, from): (Vec<&str>, _) = if given.is_empty() {
        let separated = listed.split([',', ' ', '\t', '\n']);
        (separated.filter(|url| !url.is_empty()).collect(), VARIABLE)
    } else {
        (given.iter().map(String::as_str).collect(), "--node")
    };
    if urls.is_empty() {
        return Err(Failure::new(USAGE, format!("no nodes: give --node URL for each, or set {VARIABLE}")));
    }
    let open = |(position, url): (usize, &&str)| {
        open_one(url).map_err(|error| {
            // The URL itself may contain a password, or be a part of one that a separator has cut.
            let hint = if listed.contains('@') { ENCODE } else { "" };
            Failure::new(USAGE, format!("{from}: number {}: {error}{hint}", position + 1))
        })
    };
    urls.iter().enumerate().map(open).collect()
}

fn open_one(url: &str) -> Result<RedisBackend, OpenError> {
    if url.contains("://") {
        RedisBackend::open(url)
    } else if url.contains('@') {
        // An address with a user has to be a URL. So the rest of a password after a comma is not mistaken for
        // a node.
        Err(InvalidUrl::Scheme.into())
    } else {
        RedisBackend::open(format!("redis://{url}"))
    }
}

const VARIABLE: &str = "REDLOCK_NODES";
/// For a list that contains a user or a password.
const ENCODE: &str =
    "; in a user name or password, commas, blanks and any of /?#@:% must be percent-encoded (%2C, %20, ...)";
