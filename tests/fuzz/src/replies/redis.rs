//! How the adapter for redis-rs reads the values and errors of a connection.

use std::{
    io,
    sync::{Arc, Mutex},
};

use arbitrary::Arbitrary;
use redlock_core::{BackendErrorKind, redis::classify};
use redlock_redis_rs::{
    RedisBackend,
    redis::{
        Arg, Cmd, ErrorKind, Pipeline, PushKind, RedisError, RedisFuture, RedisResult, ServerErrorKind,
        Value, VerbatimFormat, aio::ConnectionLike, parse_redis_value,
    },
};

use super::{Answer, Exchange, Key, Outcome, Shape, Verb};

/// A value of redis-rs. Deep ones come from the wire.
#[derive(Arbitrary, Debug)]
pub(super) enum Tree {
    Nil,
    Int(i64),
    Bit(bool),
    Bulk(Vec<u8>),
    Array(Vec<Tree>),
    Pairs(Vec<(Option<Vec<u8>>, i64)>),
    Simple(String),
    Okay,
    Map(Vec<(Tree, Tree)>),
    Attribute(Box<Tree>, Vec<(Tree, Tree)>),
    Set(Vec<Tree>),
    Double(f64),
    Boolean(bool),
    Verbatim(String),
    Big(Vec<u8>),
    Push(Vec<Tree>),
    /// An error line of the server, which begins with its code.
    Error(String),
}

impl Tree {
    fn value(&self) -> Value {
        let all = |trees: &[Self]| trees.iter().map(Self::value).collect();
        let pairs =
            |pairs: &[(Self, Self)]| pairs.iter().map(|(key, value)| (key.value(), value.value())).collect();
        match self {
            Self::Nil => Value::Nil,
            Self::Int(number) => Value::Int(*number),
            Self::Bit(bit) => Value::Int(i64::from(*bit)),
            Self::Bulk(bytes) => Value::BulkString(bytes.clone()),
            Self::Array(trees) => Value::Array(all(trees)),
            Self::Pairs(keys) => {
                Value::Array(keys.iter().map(|(value, ttl)| pair(value.as_ref(), *ttl)).collect())
            }
            Self::Simple(text) => Value::SimpleString(text.clone()),
            Self::Okay => Value::Okay,
            Self::Map(trees) => Value::Map(pairs(trees)),
            Self::Attribute(data, attributes) => {
                Value::Attribute { data: Box::new(data.value()), attributes: pairs(attributes) }
            }
            Self::Set(trees) => Value::Set(all(trees)),
            Self::Double(number) => Value::Double(*number),
            Self::Boolean(boolean) => Value::Boolean(*boolean),
            Self::Verbatim(text) => {
                Value::VerbatimString { format: VerbatimFormat::Text, text: text.clone() }
            }
            Self::Big(digits) => Value::BigNumber(digits.clone()),
            Self::Push(trees) => Value::Push { kind: PushKind::Invalidate, data: all(trees) },
            Self::Error(line) => server_error(line),
        }
    }
}

fn pair(value: Option<&Vec<u8>>, ttl: i64) -> Value {
    Value::Array(vec![value.map_or(Value::Nil, |value| Value::BulkString(value.clone())), Value::Int(ttl)])
}

/// Parsed by redis-rs.
fn server_error(line: &str) -> Value {
    let line = line.replace(['\r', '\n'], " ");
    parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap_or(Value::Nil)
}

/// An error of redis-rs itself.
#[derive(Arbitrary, Debug)]
pub(super) enum Failure {
    Io(u8, String),
    Kind(u8, String),
    /// A SELECT that was refused, or a Cluster that redis-rs cannot connect to.
    Connecting(bool, String),
}

impl Failure {
    fn error(&self) -> RedisError {
        match self {
            Self::Io(kind, text) => io::Error::new(IO[usize::from(*kind) % IO.len()], text.clone()).into(),
            Self::Kind(kind, text) => {
                (KINDS[usize::from(*kind) % KINDS.len()], "detail", text.clone()).into()
            }
            Self::Connecting(true, text) => {
                let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
                (kind, "Redis server refused to switch database", text.clone()).into()
            }
            Self::Connecting(false, text) => {
                (ErrorKind::Io, "Failed to create initial connections", text.clone()).into()
            }
        }
    }

    /// Checks the kind of the error. An interrupted request may have been executed, so it is not transient.
    fn judge(&self, outcome: &Outcome) {
        let Outcome::Failed(kind) = outcome else { panic!("{self:?} is read as {outcome:?}") };
        match self {
            Self::Io(..) | Self::Connecting(false, _) => {
                assert_ne!(*kind, BackendErrorKind::Transient, "{self:?}");
            }
            Self::Kind(number, text) => {
                let error = RedisError::from((KINDS[usize::from(*number) % KINDS.len()], "detail"));
                if let (ErrorKind::Server(_), Some(code)) = (error.kind(), error.code()) {
                    assert_eq!(*kind, classify(&format!("{code} {text}")).kind, "{self:?}");
                }
            }
            // The text decides. Any kind is possible.
            Self::Connecting(true, _) => {}
        }
    }
}

pub(super) fn check(exchange: &Exchange) {
    let answer = match &exchange.answer {
        Answer::Wire(bytes) => {
            let Ok(value) = parse_redis_value(bytes) else { return };
            Ok(value)
        }
        Answer::Tree(tree) => Ok(tree.value()),
        Answer::Error(failure) => Err(failure.error()),
        Answer::Fred(_) | Answer::FredError(_) => return,
    };
    let connection = Answering { answer: answer.clone(), received: Arc::default() };
    let node = RedisBackend::new(connection.clone());
    let outcome = RUNTIME.with(|runtime| runtime.block_on(exchange.ask(&node)));

    let received = connection.received.lock().expect("nobody panicked");
    // A command that is denied may be followed by others.
    let Some(arguments) = received.first() else { panic!("nothing was sent") };
    assert_eq!(arguments[0], b"EVAL");
    assert_eq!(arguments[2..], exchange.arguments());
    match (&exchange.answer, &answer) {
        (Answer::Error(failure), _) => failure.judge(&outcome),
        (_, Ok(value)) if has_error(value) => {
            let Outcome::Failed(kind) = outcome else { panic!("{value:?} is read as {outcome:?}") };
            if let Value::ServerError(error) = value {
                let words = [Some(error.code()), error.details()];
                let line = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
                assert_eq!(kind, classify(&line).kind, "{value:?}");
            }
        }
        (_, Ok(value)) => exchange.judge(&outcome, &shape(exchange.verb, value)),
        (_, Err(_)) => unreachable!("only a failure is an error"),
    }
}

/// redis-rs turns a value with an error inside into an error.
fn has_error(value: &Value) -> bool {
    match value {
        Value::ServerError(_) => true,
        Value::Array(values) | Value::Set(values) | Value::Push { data: values, .. } => {
            values.iter().any(has_error)
        }
        Value::Map(pairs) => pairs.iter().any(|(key, value)| has_error(key) || has_error(value)),
        Value::Attribute { data, attributes } => {
            has_error(data) || attributes.iter().any(|(key, value)| has_error(key) || has_error(value))
        }
        _ => false,
    }
}

fn shape(verb: Verb, value: &Value) -> Shape {
    match value {
        Value::Attribute { data, .. } => shape(verb, data),
        Value::Int(number) => Shape::Number(*number),
        Value::Array(keys) if verb == Verb::Inspect => {
            keys.iter().map(key).collect::<Option<_>>().map_or(Shape::Other, Shape::Keys)
        }
        _ => Shape::Other,
    }
}

fn key(value: &Value) -> Option<Key> {
    let Value::Array(pair) = value else { return None };
    match &pair[..] {
        [Value::Nil, Value::Int(ttl)] => Some(Key { value: None, ttl: *ttl }),
        [Value::BulkString(value), Value::Int(ttl)] => Some(Key { value: Some(value.clone()), ttl: *ttl }),
        _ => None,
    }
}

/// A connection with one reply to everything.
#[derive(Clone)]
struct Answering {
    answer: RedisResult<Value>,
    received: Arc<Mutex<Vec<Vec<Vec<u8>>>>>,
}

impl ConnectionLike for Answering {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let bytes = |argument: Arg<&[u8]>| match argument {
            Arg::Simple(bytes) => bytes.to_vec(),
            _ => panic!("a cursor"),
        };
        self.received.lock().expect("nobody panicked").push(command.args_iter().map(bytes).collect());
        Box::pin(async { self.answer.clone() })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _: &'a Pipeline,
        _: usize,
        _: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        panic!("a request is one command")
    }

    fn get_db(&self) -> i64 {
        0
    }
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

const IO: [io::ErrorKind; 6] = [
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::BrokenPipe,
    io::ErrorKind::TimedOut,
    io::ErrorKind::UnexpectedEof,
    io::ErrorKind::Other,
];

const KINDS: [ErrorKind; 16] = [
    ErrorKind::Parse,
    ErrorKind::AuthenticationFailed,
    ErrorKind::UnexpectedReturnType,
    ErrorKind::InvalidClientConfig,
    ErrorKind::Io,
    ErrorKind::Client,
    ErrorKind::Extension,
    ErrorKind::MasterNameNotFoundBySentinel,
    ErrorKind::NoValidReplicasFoundBySentinel,
    ErrorKind::EmptySentinelList,
    ErrorKind::ClusterConnectionNotFound,
    ErrorKind::RESP3NotSupported,
    ErrorKind::Server(ServerErrorKind::ResponseError),
    ErrorKind::Server(ServerErrorKind::Moved),
    ErrorKind::Server(ServerErrorKind::ReadOnly),
    ErrorKind::Server(ServerErrorKind::NoPerm),
];
