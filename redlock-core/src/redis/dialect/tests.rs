//! Requests to a server in memory, which has some of the commands.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::*;
use crate::{
    backend::BackendErrorKind::{self, Indeterminate, Rejected, Transient},
    redis::{Argument, classify, scripts},
    token::Token,
};

const SECOND: Duration = Duration::from_secs(1);
const VALKEY: [&str; 4] = ["EVAL", "SET", "DELIFEQ", "DELEX"];
const OLD: [&str; 1] = ["EVAL"];

/// A server with one key, and the way to it.
#[derive(Default)]
struct Server {
    has: BTreeSet<&'static str>,
    /// Commands that a proxy refuses, and the error.
    refused: Option<(&'static str, &'static str)>,
    /// Every reply.
    always: Option<Reply>,
    key: Option<String>,
    /// The commands that came.
    log: Vec<&'static str>,
}

impl Server {
    fn run(&mut self, command: Command<'_>) -> Result<Reply, BackendError> {
        self.log.push(command.name());
        if let Some((_, line)) = self.refused.filter(|(name, _)| *name == command.name()) {
            return Err(classify(line).into());
        }
        if let Some(reply) = &self.always {
            return Ok(reply.clone());
        }
        if !self.has.contains(command.name()) {
            let words = format!("NOPERM User x may not run the '{}' command", command.name().to_lowercase());
            let words = if self.has.contains("EVAL") { "ERR syntax error" } else { &words };
            return Err(classify(words).into());
        }
        let words: Vec<_> = command.arguments().collect();
        let text = |at: usize| match words[at] {
            Argument::Text(text) => text.to_owned(),
            Argument::Side(_) | Argument::Number(_) => panic!("no word"),
        };
        let number = |done: bool, more: i64| Ok(Reply::Number(i64::from(done) + more));
        match command.name() {
            "SET" => {
                let held = self.key.clone().map_or(Reply::Nil, |held| Reply::Text(held.into()));
                self.acquire(text(1));
                Ok(held)
            }
            "DELIFEQ" => number(self.release(&text(1)), 0),
            "DELEX" => number(self.release(&text(2)), 0),
            _ => {
                let (set, delifeq, delex) =
                    (self.has.contains("SET"), self.has.contains("DELIFEQ"), self.has.contains("DELEX"));
                match &*text(0) {
                    scripts::ACQUIRE_AND_TELL => number(self.acquire(text(3)), if set { 2 } else { 0 }),
                    scripts::ACQUIRE_ONE | scripts::ACQUIRE => number(self.acquire(text(3)), 0),
                    scripts::RELEASE_AND_TELL if delifeq => number(self.release(&text(3)), 2),
                    scripts::RELEASE_AND_TELL if delex => number(self.release(&text(3)), 4),
                    _ => number(self.release(&text(3)), 0),
                }
            }
        }
    }

    fn acquire(&mut self, token: String) -> bool {
        *self.key.get_or_insert(token.clone()) == token
    }

    fn release(&mut self, token: &str) -> bool {
        self.key.take_if(|key| key == token).is_some()
    }
}

/// A node, and the number of its connection.
#[derive(Default)]
struct Node {
    dialect: Dialect,
    server: Mutex<Server>,
    connection: AtomicU64,
}

impl Node {
    fn with(has: impl IntoIterator<Item = &'static str>) -> Self {
        let node = Self::default();
        node.change(|server| server.has = has.into_iter().collect());
        node
    }

    fn change<T>(&self, change: impl FnOnce(&mut Server) -> T) -> T {
        change(&mut self.server.lock().unwrap())
    }

    fn connect_again(&self) {
        self.connection.fetch_add(1, Ordering::Relaxed);
    }

    /// The commands that came since the last call.
    fn log(&self) -> Vec<&'static str> {
        self.change(|server| std::mem::take(&mut server.log))
    }

    async fn acquire(&self, digit: char) -> Result<bool, BackendErrorKind> {
        self.acquire_all("a".into(), digit).await.map_err(|error| error.kind())
    }

    async fn acquire_all(&self, resources: Resources, digit: char) -> Result<bool, BackendError> {
        let token = token(digit);
        let request = Acquire::new(&resources, &token, SECOND, SECOND);
        let connection = || self.connection.load(Ordering::Relaxed);
        let asked = self.dialect.acquire(request, connection, async |command| self.send(command)).await;
        asked.map(|reply| reply == AcquireReply::Granted)
    }

    async fn release(&self, digit: char) -> Result<bool, BackendErrorKind> {
        let (resources, token) = ("a".into(), token(digit));
        let request = Release::new(&resources, &token, SECOND);
        let connection = || self.connection.load(Ordering::Relaxed);
        let asked = self.dialect.release(request, connection, async |command| self.send(command)).await;
        asked.map(|reply| reply == ReleaseReply::Removed).map_err(|error| error.kind())
    }

    fn send(&self, command: Command<'_>) -> Result<Reply, BackendError> {
        self.change(|server| server.run(command))
    }
}

fn token(digit: char) -> Token {
    digit.to_string().repeat(40).parse().unwrap()
}

#[tokio::test]
async fn the_first_requests_over_a_connection_are_scripts_and_the_next_ones_what_the_server_has() {
    let (all, delex) = (&VALKEY[..], &["EVAL", "SET", "DELEX"][..]);
    for (has, forms) in [
        (all, ["SET", "DELIFEQ"]),
        (delex, ["SET", "DELEX"]),
        (&["EVAL", "SET"], ["SET", "EVAL"]),
        (&OLD, ["EVAL"; 2]),
    ] {
        let node = Node::with(has.iter().copied());
        for _ in 0..2 {
            assert_eq!((node.acquire('1').await, node.acquire('2').await), (Ok(true), Ok(false)));
            assert_eq!(node.acquire('1').await, Ok(true), "{has:?}");
            assert_eq!((node.release('2').await, node.release('1').await), (Ok(false), Ok(true)));
            assert_eq!((node.release('1').await, node.acquire('2').await), (Ok(false), Ok(true)));
            assert_eq!(node.release('2').await, Ok(true), "{has:?}");
            let [set, del] = forms;
            assert_eq!(node.log(), ["EVAL", set, set, "EVAL", del, del, set, del], "{has:?}");
            node.connect_again();
        }
    }
}

#[tokio::test]
async fn several_resources_and_a_cluster_get_scripts_only() {
    let node = Node::with(VALKEY);
    let several = || node.acquire_all(["a", "b"].into(), '1');
    assert!(matches!((several().await, several().await), (Ok(true), Ok(true))));
    let cluster = Node { dialect: Dialect::scripts(), ..Node::with(VALKEY) };
    for _ in 0..2 {
        assert_eq!((cluster.acquire('1').await, cluster.release('1').await), (Ok(true), Ok(true)));
    }
    assert_eq!((node.log(), cluster.log()), (vec!["EVAL"; 2], vec!["EVAL"; 4]));
}

/// The release of an acquire may have been sent right behind it. If the acquire followed in another form, it
/// would be behind its release, and nobody would remove its key.
#[tokio::test]
async fn an_acquire_that_the_server_does_not_know_is_not_sent_in_another_form() {
    let node = Node::with(VALKEY);
    for _ in 0..2 {
        assert_eq!((node.acquire('1').await, node.release('1').await), (Ok(true), Ok(true)));
    }
    // A failover behind the connection.
    node.change(|server| server.has = OLD.into());
    node.log();
    assert_eq!(node.acquire('2').await, Err(Transient));
    assert_eq!((node.log(), node.change(|server| server.key.clone())), (vec!["SET"], None));
    // A release is, at once.
    node.change(|server| server.key = Some("2".repeat(40)));
    assert_eq!(node.release('2').await, Ok(true));
    assert_eq!(node.log(), ["DELIFEQ", "EVAL"]);
    assert_eq!((node.acquire('1').await, node.release('1').await), (Ok(true), Ok(true)));
    assert_eq!(node.log(), ["EVAL"; 2]);
}

#[tokio::test]
async fn who_may_not_run_scripts_gets_native_commands_if_there_are_both() {
    for (removal, probes) in [("DELIFEQ", &["DELIFEQ"][..]), ("DELEX", &["DELIFEQ", "DELEX"])] {
        let node = Node::with(["SET", removal]);
        assert_eq!(node.acquire('1').await, Err(Transient));
        assert_eq!(node.log(), [&["EVAL"], probes].concat());
        for _ in 0..2 {
            assert_eq!((node.acquire('1').await, node.release('1').await), (Ok(true), Ok(true)));
            assert_eq!(node.log(), ["SET", removal]);
            // No script could tell about another connection.
            node.connect_again();
        }
        let node = Node::with(["SET", removal]);
        assert_eq!((node.release('1').await, node.release('1').await), (Ok(false), Ok(false)));
        assert_eq!(node.log(), [&["EVAL"], probes, &[removal]].concat());
    }
}

#[tokio::test]
async fn who_cannot_release_is_rejected_with_a_hint_and_does_not_acquire() {
    let node = Node::with(["SET"]);
    for _ in 0..2 {
        let error = node.acquire_all("a".into(), '1').await.unwrap_err();
        assert_eq!(error.kind(), Rejected);
        assert!(
            error.message().starts_with("NOPERM User x may not run the 'eval' command (")
                && error.message().contains("DELIFEQ"),
            "{error}"
        );
        assert_eq!(node.release('1').await, Err(Rejected));
    }
    assert_eq!(node.change(|server| server.key.clone()), None);
    assert!(!node.log().contains(&"SET"));

    let node = Node::with(["DELIFEQ"]);
    assert_eq!((node.acquire('1').await, node.acquire('1').await), (Err(Transient), Err(Rejected)));
}

#[tokio::test]
async fn a_native_command_that_something_in_between_refuses_is_not_used() {
    for (name, line) in [("DELIFEQ", "ERR unknown command 'DELIFEQ'"), ("DELIFEQ", "unsupported command")] {
        let node = Node::with(VALKEY);
        node.change(|server| server.refused = Some((name, line)));
        let refused = if line.starts_with("ERR") { Ok(true) } else { Err(Indeterminate) };
        for connection in 0..4 {
            for number in 0..3 {
                assert_eq!(node.acquire('1').await, Ok(true));
                let fails = connection < MOST_FAILURES && number == 1;
                assert_eq!(node.release('1').await, if fails { refused } else { Ok(true) }, "{line}");
            }
            node.connect_again();
        }
        let uses = node.log().into_iter().filter(|sent| *sent == name).count();
        assert_eq!(uses, usize::from(MOST_FAILURES), "{line}");
    }
}

#[tokio::test]
async fn a_native_acquire_that_something_in_between_refuses_is_not_used() {
    let node = Node::with(VALKEY);
    node.change(|server| server.refused = Some(("SET", "upstream failure")));
    let mut failed = 0;
    for _ in 0..4 {
        for _ in 0..3 {
            failed += u32::from(node.acquire('1').await.is_err());
            assert!(node.release('1').await.is_ok());
        }
        node.connect_again();
    }
    assert_eq!(failed, u32::from(MOST_FAILURES));
}

#[tokio::test]
async fn a_reply_to_everything_grants_nothing_unless_it_is_one() {
    let replies =
        [Reply::Nil, Reply::Other, Reply::Text(b"OK".to_vec()), Reply::Text(token('1').as_str().into())];
    for reply in replies {
        let node = Node::default();
        node.change(|server| server.always = Some(reply.clone()));
        for _ in 0..3 {
            assert_eq!(node.acquire('1').await, Err(Indeterminate), "{reply:?}");
            assert_eq!(node.release('1').await, Err(Indeterminate), "{reply:?}");
        }
        assert_eq!(node.log(), ["EVAL"; 6], "nothing is learnt of {reply:?}");
    }
}
