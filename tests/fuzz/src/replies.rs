//! What servers answer, as the adapters take it.

mod fred;
mod redis;

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, Inspect, KeyState, LockBackend, MAX_TTL,
    Release, ReleaseReply, Resources, Token,
};

pub fn check(data: &[u8]) {
    let Ok(mut exchange) = Exchange::arbitrary_take_rest(Unstructured::new(data)) else { return };
    // The core asks for no more.
    exchange.ttl = exchange.ttl.min(MAX_TTL);
    match exchange.answer {
        Answer::Wire(_) | Answer::Tree(_) | Answer::Error(_) => redis::check(&exchange),
        Answer::Fred(_) | Answer::FredError(_) => fred::check(&exchange),
    }
}

/// A request, and what comes back.
#[derive(Arbitrary, Debug)]
struct Exchange {
    verb: Verb,
    names: Vec<String>,
    ttl: Duration,
    answer: Answer,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Acquire,
    Extend,
    Release,
    Inspect,
}

#[derive(Arbitrary, Debug)]
enum Answer {
    Tree(redis::Tree),
    Error(redis::Trouble),
    Fred(fred::Tree),
    FredError(fred::Trouble),
    /// As it comes out of the socket.
    Wire(Vec<u8>),
}

/// What a node said, in one type.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Yes,
    No,
    Keys(Vec<KeyState>),
    Failed(BackendErrorKind),
}

impl Exchange {
    fn resources(&self) -> Resources {
        self.names.iter().map(String::as_str).collect()
    }

    async fn ask(&self, node: &impl LockBackend) -> Said {
        let (resources, token) = (self.resources(), token());
        let granted = |reply| if reply == AcquireReply::Granted { Said::Yes } else { Said::No };
        let said = match self.verb {
            Verb::Acquire => {
                node.acquire(Acquire::new(&resources, &token, self.ttl, TIMEOUT)).await.map(granted)
            }
            Verb::Extend => {
                node.extend(Extend::new(&resources, &token, self.ttl, TIMEOUT)).await.map(granted)
            }
            Verb::Release => {
                let removed = |released| if released == ReleaseReply::Removed { Said::Yes } else { Said::No };
                node.release(Release::new(&resources, &token, TIMEOUT)).await.map(removed)
            }
            Verb::Inspect => node.inspect(Inspect::new(&resources, TIMEOUT)).await.map(Said::Keys),
        };
        said.unwrap_or_else(|error| failed(&error))
    }

    /// What a node has to make of a value: only 1 and 0 are answers, and of a look at keys one state for each
    /// name.
    fn judge(&self, said: &Said, shape: &Shape) {
        let expected = match (self.verb, shape) {
            (Verb::Inspect, Shape::Keys(keys)) if keys.len() == self.names.len() => {
                let state = |key: &Key| match &key.value {
                    Some(value) => {
                        KeyState::held(value, u64::try_from(key.ttl).ok().map(Duration::from_millis))
                    }
                    None => KeyState::Free,
                };
                Said::Keys(keys.iter().map(state).collect())
            }
            (Verb::Inspect, _) => Said::Failed(BackendErrorKind::Indeterminate),
            (_, Shape::Number(1)) => Said::Yes,
            (_, Shape::Number(0)) => Said::No,
            _ => Said::Failed(BackendErrorKind::Indeterminate),
        };
        assert_eq!(*said, expected, "{self:?}");
        if let Said::Keys(states) = said {
            for state in states {
                let KeyState::Held { holder, .. } = state else { continue };
                assert!(holder.len() <= Token::PREFIX_LEN * "\\x00".len() && holder.is_ascii(), "{holder:?}");
            }
        }
    }

    /// The arguments of `EVAL` after the script.
    fn arguments(&self) -> Vec<Vec<u8>> {
        let token = (self.verb != Verb::Inspect).then(|| token().as_str().to_owned());
        let number = match self.verb {
            Verb::Acquire | Verb::Extend => Some(self.ttl.as_millis().to_string()),
            Verb::Inspect => Some(Token::PREFIX_LEN.to_string()),
            Verb::Release => None,
        };
        let keys = std::iter::once(self.names.len().to_string()).chain(self.names.iter().cloned());
        keys.chain(token).chain(number).map(String::into_bytes).collect()
    }
}

/// What a script answers, by the protocol.
#[derive(Debug)]
enum Shape {
    Number(i64),
    Keys(Vec<Key>),
    Other,
}

#[derive(Debug)]
struct Key {
    value: Option<Vec<u8>>,
    ttl: i64,
}

/// Told as people are told.
fn failed(error: &BackendError) -> Said {
    assert!(error.to_string().contains(error.message()) && !format!("{error:?}").is_empty());
    assert!(!error.message().contains(char::is_control), "{error:?}");
    Said::Failed(error.kind())
}

fn token() -> Token {
    "0123456789abcdef0123456789abcdef01234567".parse().expect("a token")
}

/// Never waited for: the answer is there already.
const TIMEOUT: Duration = Duration::from_secs(600);
