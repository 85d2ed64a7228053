//! How the adapter for fred reads fred's values and errors. A client of fred needs a server, so the functions
//! of the adapter are called directly.

use std::collections::HashMap;

use std::time::Duration;

use arbitrary::Arbitrary;
use fred::{
    error::{Error, ErrorKind},
    types::{Key as FredKey, Map, Value},
};
use redlock_core::{Acquire, BackendErrorKind, Extend, Inspect, Release, redis::{Command, Reply}};
use redlock_fred::fuzzing;

use super::{Answer, Exchange, Key, Outcome, Shape, Verb, failed, token};

/// A value of fred.
#[derive(Arbitrary, Debug)]
pub(super) enum Tree {
    Null,
    Integer(i64),
    Bit(bool),
    Boolean(bool),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    Queued,
    Map(Vec<(String, Tree)>),
    Array(Vec<Tree>),
    Pairs(Vec<(Option<Vec<u8>>, i64)>),
}

impl Tree {
    fn value(&self) -> Value {
        let bytes = |bytes: &Vec<u8>| Value::Bytes(bytes.clone().into());
        match self {
            Self::Null => Value::Null,
            Self::Integer(number) => Value::Integer(*number),
            Self::Bit(bit) => Value::Integer(i64::from(*bit)),
            Self::Boolean(boolean) => Value::Boolean(*boolean),
            Self::Double(number) => Value::Double(*number),
            Self::String(text) => Value::String(text.into()),
            Self::Bytes(value) => bytes(value),
            Self::Queued => Value::Queued,
            Self::Map(trees) => {
                let pairs: HashMap<FredKey, Value> =
                    trees.iter().map(|(key, value)| (key.into(), value.value())).collect();
                Value::Map(Map::try_from(pairs).expect("a map"))
            }
            Self::Array(trees) => Value::Array(trees.iter().map(Self::value).collect()),
            Self::Pairs(keys) => {
                let pair = |(value, ttl): &(Option<Vec<u8>>, i64)| {
                    Value::Array(vec![value.as_ref().map_or(Value::Null, bytes), Value::Integer(*ttl)])
                };
                Value::Array(keys.iter().map(pair).collect())
            }
        }
    }
}

/// An error of fred: its own, or a server's.
#[derive(Arbitrary, Debug)]
pub(super) struct Failure {
    kind: u8,
    text: String,
}

impl Failure {
    fn error(&self) -> Error {
        Error::new(KINDS[usize::from(self.kind) % KINDS.len()].clone(), self.text.clone())
    }

    fn judge(&self, outcome: &Outcome) {
        let Outcome::Failed(kind) = outcome else { panic!("{self:?} is read as {outcome:?}") };
        if *kind == BackendErrorKind::Transient {
            // Only a server, or fred on its behalf, can report that nothing was executed.
            let code = self.text.split_whitespace().next().unwrap_or_default();
            let transient = self.text == "Too many redirections."
                || !code.is_empty() && code.bytes().all(|letter| letter.is_ascii_uppercase());
            assert!(transient, "{self:?}");
        }
    }
}

pub(super) fn check(exchange: &Exchange) {
    let (resources, token, any) = (exchange.resources(), token(), Duration::from_secs(1));
    let command = match exchange.verb {
        Verb::Acquire => Command::acquire(&Acquire::new(&resources, &token, exchange.ttl, any)),
        Verb::Extend => Command::extend(&Extend::new(&resources, &token, exchange.ttl, any)),
        Verb::Release => Command::release(&Release::new(&resources, &token, any)),
        Verb::Inspect => Command::inspect(&Inspect::new(&resources, any)),
    };
    let sent = fuzzing::to_arguments(&command);
    let sent = sent[1..].iter().map(|value| value.as_bytes_str().expect("text").as_bytes().to_vec());
    assert_eq!(sent.collect::<Vec<_>>(), exchange.arguments());
    match &exchange.answer {
        Answer::Fred(tree) => {
            let value = tree.value();
            let outcome = match exchange.verb {
                Verb::Inspect => fuzzing::key_states(&value, &Inspect::new(&resources, any)).map(Outcome::Keys),
                _ => match fuzzing::to_reply(&value) {
                    Reply::Number(number) if (0..=exchange.most()).contains(&number) => {
                        Some(if number % 2 == 1 { Outcome::Yes } else { Outcome::No })
                    }
                    _ => None,
                },
            };
            // The adapter returns this for a reply of another type.
            let outcome = outcome.unwrap_or(Outcome::Failed(BackendErrorKind::Indeterminate));
            exchange.judge(&outcome, &shape(exchange.verb, &value));
        }
        Answer::FredError(failure) => failure.judge(&failed(&fuzzing::classify(failure.error()))),
        Answer::Wire(_) | Answer::Tree(_) | Answer::Error(_) => {}
    }
}

fn shape(verb: Verb, value: &Value) -> Shape {
    match value {
        Value::Integer(number) => Shape::Number(*number),
        Value::Array(keys) if verb == Verb::Inspect => {
            keys.iter().map(key).collect::<Option<_>>().map_or(Shape::Other, Shape::Keys)
        }
        _ => Shape::Other,
    }
}

fn key(value: &Value) -> Option<Key> {
    let Value::Array(pair) = value else { return None };
    match &pair[..] {
        [Value::Null, Value::Integer(ttl)] => Some(Key { value: None, ttl: *ttl }),
        [value, Value::Integer(ttl)] => Some(Key { value: Some(value.as_bytes()?.to_vec()), ttl: *ttl }),
        _ => None,
    }
}

const KINDS: [ErrorKind; 14] = [
    ErrorKind::Unknown,
    ErrorKind::Config,
    ErrorKind::Auth,
    ErrorKind::Routing,
    ErrorKind::IO,
    ErrorKind::InvalidCommand,
    ErrorKind::InvalidArgument,
    ErrorKind::Url,
    ErrorKind::Protocol,
    ErrorKind::Canceled,
    ErrorKind::Timeout,
    ErrorKind::Cluster,
    ErrorKind::Parse,
    ErrorKind::Backpressure,
];
