//! What the adapter for fred makes of fred's values and errors: its client has no server, and a mock answers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use arbitrary::Arbitrary;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    mocks::{MockCommand, Mocks},
    types::{
        Key as FredKey, Map, Value,
        config::{Config, ReconnectPolicy},
    },
};
use redlock_core::BackendErrorKind;
use redlock_fred::FredBackend;

use super::{Answer, Exchange, Key, Said, Shape, Verb};

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

/// An error of fred, also for what a server says.
#[derive(Arbitrary, Debug)]
pub(super) struct Trouble {
    kind: u8,
    text: String,
}

impl Trouble {
    fn error(&self) -> Error {
        Error::new(KINDS[usize::from(self.kind) % KINDS.len()].clone(), self.text.clone())
    }

    fn judge(&self, said: &Said) {
        let Said::Failed(kind) = said else { panic!("{self:?} is taken for {said:?}") };
        if *kind == BackendErrorKind::Transient {
            // Said by a server, or on its behalf: nothing was executed.
            let code = self.text.split_whitespace().next().unwrap_or_default();
            let passing = self.text == "Too many redirections."
                || !code.is_empty() && code.bytes().all(|letter| letter.is_ascii_uppercase());
            assert!(passing, "{self:?}");
        }
    }
}

pub(super) fn check(exchange: &Exchange) {
    let answer = match &exchange.answer {
        Answer::Fred(tree) => Ok(tree.value()),
        Answer::FredError(trouble) => Err(trouble.error()),
        Answer::Wire(_) | Answer::Tree(_) | Answer::Error(_) => return,
    };
    let server = Arc::new(Answering { answer: answer.clone(), asked: Mutex::default() });
    let said = ask(exchange, server.clone());

    let asked = server.asked.lock().expect("nobody panicked");
    let [command] = &asked[..] else { panic!("asked {} times", asked.len()) };
    assert_eq!(&*command.cmd, "EVAL");
    let text = |value: &Value| value.as_bytes_str().expect("text").as_bytes().to_vec();
    assert_eq!(command.args[1..].iter().map(text).collect::<Vec<_>>(), exchange.arguments());
    match (&exchange.answer, &answer) {
        (Answer::FredError(trouble), _) => trouble.judge(&said),
        (_, Ok(value)) => exchange.judge(&said, &shape(exchange.verb, value)),
        (_, Err(_)) => unreachable!("only trouble is an error"),
    }
}

/// What the adapter makes of what this server answers.
fn ask(exchange: &Exchange, server: Arc<Answering>) -> Said {
    // A runtime for each question: a client of fred goes with its tasks.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let config = Config { mocks: Some(server), ..Config::default() };
        let client = Client::new(config, None, None, Some(ReconnectPolicy::new_constant(0, 1)));
        client.init().await.expect("there is nothing to connect to");
        exchange.ask(&FredBackend::new(client).expect("it has a policy")).await
    })
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

/// A server that has one answer to everything.
#[derive(Debug)]
struct Answering {
    answer: Result<Value, Error>,
    asked: Mutex<Vec<MockCommand>>,
}

impl Mocks for Answering {
    fn process_command(&self, command: MockCommand) -> Result<Value, Error> {
        self.asked.lock().expect("nobody panicked").push(command);
        self.answer.clone()
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
