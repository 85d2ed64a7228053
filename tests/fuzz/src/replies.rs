//! Replies of servers, and how the adapters read them.

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
    // The core requests no longer TTL.
    exchange.ttl = exchange.ttl.min(MAX_TTL);
    match exchange.answer {
        Answer::Wire(_) | Answer::Tree(_) | Answer::Error(_) => redis::check(&exchange),
        Answer::Fred(_) | Answer::FredError(_) => fred::check(&exchange),
    }
}

/// A request and its reply.
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
    Error(redis::Failure),
    Fred(fred::Tree),
    FredError(fred::Failure),
    /// The bytes of the socket.
    Wire(Vec<u8>),
}

/// A node's reply to any request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Yes,
    No,
    Keys(Vec<KeyState>),
    Failed(BackendErrorKind),
}

impl Exchange {
    fn resources(&self) -> Resources {
        self.names.iter().map(String::as_str).collect()
    }

    async fn ask(&self, node: &impl LockBackend) -> Outcome {
        let (resources, token) = (self.resources(), token());
        let granted = |reply| if reply == AcquireReply::Granted { Outcome::Yes } else { Outcome::No };
        let outcome = match self.verb {
            Verb::Acquire => {
                node.acquire(Acquire::new(&resources, &token, self.ttl, TIMEOUT)).await.map(granted)
            }
            Verb::Extend => {
                node.extend(Extend::new(&resources, &token, self.ttl, TIMEOUT)).await.map(granted)
            }
            Verb::Release => {
                let removed =
                    |released| if released == ReleaseReply::Removed { Outcome::Yes } else { Outcome::No };
                node.release(Release::new(&resources, &token, TIMEOUT)).await.map(removed)
            }
            Verb::Inspect => node.inspect(Inspect::new(&resources, TIMEOUT)).await.map(Outcome::Keys),
        };
        outcome.unwrap_or_else(|error| failed(&error))
    }

    /// Checks how a node reads a value: only small numbers are replies, and an inspection has one state for
    /// each name. For one name, the scripts of a first acquire or release also tell what the server has.
    fn judge(&self, outcome: &Outcome, shape: &Shape) {
        let expected = match (self.verb, shape) {
            (Verb::Inspect, Shape::Keys(keys)) if keys.len() == self.names.len() => {
                let state = |key: &Key| match &key.value {
                    Some(value) => {
                        KeyState::held(value, u64::try_from(key.ttl).ok().map(Duration::from_millis))
                    }
                    None => KeyState::Free,
                };
                Outcome::Keys(keys.iter().map(state).collect())
            }
            (Verb::Inspect, _) => Outcome::Failed(BackendErrorKind::Indeterminate),
            (_, Shape::Number(number)) if (0..=self.most()).contains(number) => {
                if number % 2 == 1 { Outcome::Yes } else { Outcome::No }
            }
            _ => Outcome::Failed(BackendErrorKind::Indeterminate),
        };
        assert_eq!(*outcome, expected, "{self:?}");
        if let Outcome::Keys(states) = outcome {
            for state in states {
                let KeyState::Held { holder, .. } = state else { continue };
                assert!(holder.len() <= Token::PREFIX_LEN * "\\x00".len() && holder.is_ascii(), "{holder:?}");
            }
        }
    }

    /// The largest number that is a reply.
    fn most(&self) -> i64 {
        match self.verb {
            Verb::Acquire if self.names.len() == 1 => 3,
            Verb::Release if self.names.len() == 1 => 5,
            _ => 1,
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

/// The reply of a script, according to the protocol.
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

/// Checks the error's message, too: it is printed.
fn failed(error: &BackendError) -> Outcome {
    assert!(error.to_string().contains(error.message()) && !format!("{error:?}").is_empty());
    assert!(!error.message().contains(char::is_control), "{error:?}");
    Outcome::Failed(error.kind())
}

fn token() -> Token {
    "0123456789abcdef0123456789abcdef01234567".parse().expect("a token")
}

/// Never reached: the reply is already there.
const TIMEOUT: Duration = Duration::from_secs(600);
