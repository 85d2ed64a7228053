//! Every part of a node's URL takes effect or is an error, and no password is ever printed.

use std::fmt::{Debug, Display};

use redlock_fred::FredBackend;
use redlock_redis_rs::{
    LockBackend, RedisBackend,
    redis::{TlsCertificates, sentinel::SentinelNodeConnectionInfo},
};

/// The name of an opened node, or its error, in every way in which that can be printed, in one line.
type Printed = Result<String, String>;

fn printed<N: LockBackend + Debug, E: Display + Debug>(opened: Result<N, E>) -> Printed {
    opened
        .map(|node| format!("{} {node:?}", node.name().unwrap()))
        .map_err(|error| format!("{error} {error:?}").replace('\n', "\\n"))
}

/// With each of the constructors that accept a URL.
fn open_all(url: &str) -> [(&'static str, Printed); 5] {
    let certificates = || TlsCertificates { client_tls: None, root_cert: None };
    let (url_of_cluster, url_of_sentinel) = (
        url.replacen("redis://", "redis-cluster://", 1),
        url.replacen("redis://", "redis-sentinel://", 1).replace('?', "?sentinelServiceName=main&"),
    );
    let login = SentinelNodeConnectionInfo::default();
    [
        ("open", printed(RedisBackend::open(url))),
        ("open_tls", printed(RedisBackend::open_tls(url.replacen("redis:", "rediss:", 1), certificates()))),
        ("open_cluster", printed(RedisBackend::open_cluster([url, url]))),
        ("open_sentinel", printed(RedisBackend::open_sentinel([url], "main", login))),
        (
            "fred",
            printed(FredBackend::open(url))
                .and(printed(FredBackend::open(&url_of_cluster)))
                .and(printed(FredBackend::open(&url_of_sentinel))),
        ),
    ]
}

#[test]
fn url_parts_that_a_client_would_ignore_are_errors_that_name_the_part() {
    for (rest, part) in [
        ("?db=4", "the parameter `db`"),
        ("?database=4", "the parameter `database`"),
        ("?password=hidden", "the parameter `password`"),
        ("?user=hidden", "the parameter `user`"),
        ("/?hidden=4", "an unknown parameter"),
        ("/?a=1&hidden", "an unknown parameter"),
        ("#hidden", "fragment"),
        ("/hidden", "path"),
    ] {
        for (how, outcome) in open_all(&format!("redis://a.example:6379{rest}")) {
            let error = outcome.expect_err(&format!("{how}: {rest}"));
            assert!(error.contains(part) && !error.contains("hidden"), "{how}: {rest}: {error}");
        }
    }
}

#[test]
fn a_database_counts_where_there_is_one_and_is_an_error_elsewhere() {
    let url = "redis://a.example/4";
    assert_eq!(RedisBackend::open(url).unwrap().name().unwrap(), "a.example:6379/4");
    assert_eq!(FredBackend::open(url).unwrap().name().unwrap(), "a.example:6379/4");
    for error in [
        printed(RedisBackend::open_sentinel([url], "main", SentinelNodeConnectionInfo::default())),
        printed(FredBackend::open("redis-cluster://a.example:1/4")),
    ] {
        let error = error.expect_err("no database");
        assert!(error.contains("path"), "{error}");
    }
    for url in ["redis://a.example?protocol=3", "redis+unix:///run/socket?db=4&user=me&pass=secret"] {
        assert!(RedisBackend::open(url).is_ok(), "{url}");
    }
    for url in ["redis+unix:///run/socket?db=4&db=5", "redis://a.example?protocol=2&protocol=3"] {
        let error = printed(RedisBackend::open(url)).expect_err(url);
        assert!(error.contains("more than once"), "{error}");
    }
    let error = printed(RedisBackend::open("redis://a.example?protocol=hidden")).expect_err("no protocol");
    assert!(error.contains("protocol") && !error.contains("hidden"), "{error}");
    let sentinel =
        "redis-sentinel://a.example:1/4?sentinelServiceName=main&node=b.example:2&node=c.example:3";
    assert_eq!(
        FredBackend::open(sentinel).unwrap().name().unwrap(),
        "main@b.example:2,c.example:3,a.example:1/4"
    );
}

#[test]
fn no_part_of_a_password_is_printed_whatever_is_in_it_and_wherever_it_is() {
    let odd = (0..=0x7f_u8).map(char::from).chain(['ä', '\u{a0}', '\u{2028}', '𝄞']);
    for odd in odd {
        let mut urls = Vec::new();
        for secret in [
            format!("{odd}secret"),
            format!("secret{odd}"),
            format!("sec{odd}secret"),
            format!("12345{odd}secret"),
            format!("1{odd}secret://secret"),
            format!("1{odd}?secret=secret&node=secret"),
            format!("1{odd}/secret/?protocol=secret"),
            format!("1{odd}#secret"),
        ] {
            for (user, password) in [("app", &*secret), ("", &*secret), (&*secret, "x"), (&*secret, &*secret)]
            {
                urls.push(format!("redis://{user}:{password}@a.example:6379/4"));
                // A text that begins with a slash is the path of a socket.
                if !user.starts_with('/') {
                    urls.push(format!("redis+unix://{user}:{password}@a.example/run"));
                }
                urls.push(format!("{user}:{password}@a.example"));
            }
        }
        urls.push(format!("redis://a.example?protocol=secret{odd}"));
        urls.push(format!("redis://a.example:1?node=secret{odd}:secret"));
        for url in urls {
            for (how, outcome) in open_all(&url) {
                let printed = outcome.unwrap_or_else(|error| error);
                assert!(!printed.contains("secret"), "{how}: {url}: {printed}");
            }
        }
    }
}

#[test]
fn an_unencoded_password_is_reported_and_works_once_encoded() {
    for odd in ['/', '?', '#', ' ', '\t'] {
        for (how, outcome) in open_all(&format!("redis://app:12345{odd}x@a.example:6379")) {
            let error = outcome.expect_err(how);
            assert!(error.contains("percent-encoded"), "{how}: {error}");
        }
        let encoded = format!("redis://app:12345%{:02X}x@a.example:6379?", u32::from(odd));
        for (how, outcome) in open_all(&encoded) {
            assert!(outcome.is_ok(), "{how}: {encoded}: {outcome:?}");
        }
    }
}

#[test]
fn a_node_at_an_ipv6_address_is_named_by_a_valid_address() {
    let (url, name) = ("redis://[::1]:17005/4", "[::1]:17005/4");
    let login = SentinelNodeConnectionInfo::default;
    assert_eq!(RedisBackend::open(url).unwrap().name().unwrap(), name);
    assert_eq!(RedisBackend::open(format!("redis://{name}")).unwrap().name().unwrap(), name);
    assert_eq!(FredBackend::open(url).unwrap().name().unwrap(), name);
    assert_eq!(RedisBackend::open_cluster([url]).unwrap().name().unwrap(), "[::1]:17005");
    assert_eq!(
        RedisBackend::open_sentinel(["redis://[::1]"], "main", login()).unwrap().name().unwrap(),
        "main@[::1]:6379"
    );
    assert_eq!(FredBackend::open("redis-cluster://[::1]:17005").unwrap().name().unwrap(), "[::1]:17005");
}
