//! The server that a node in memory stands for: its keys, the requests on their way to it, and its troubles.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    backend::{BackendError, BackendErrorKind},
    inspect::KeyState,
    resources::Resources,
    runtime::Runtime,
    signal::Signal,
    token::Token,
};

pub(super) struct Server {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) keys: BTreeMap<String, Key>,
    pub(super) inbox: VecDeque<Request>,
    pub(super) stopped: bool,
    pub(super) down: bool,
    pub(super) request_delay: Duration,
    pub(super) reply_delay: Duration,
    pub(super) failures: Option<(usize, Failure)>,
    pub(super) requests: u64,
}

pub(super) struct Key {
    pub(super) value: String,
    pub(super) expires: Instant,
}

#[derive(Clone, Copy)]
pub(super) enum Failure {
    Refuse(BackendErrorKind),
    LoseReply,
}

/// A request on its way to the node. It arrives, whether or not somebody still waits for its answer.
pub(super) struct Request {
    pub(super) order: Order,
    pub(super) due: Instant,
    pub(super) answer: Arc<Pending>,
}

impl Server {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request in, in order, and runs what is due.
    pub(super) fn arrive(self: &Arc<Self>, order: Order) -> Result<Arc<Pending>, BackendError> {
        let now = self.runtime.now();
        let answer = Arc::new(Pending { outcome: Mutex::default(), given: Signal::new() });
        let delay = {
            let mut state = self.state();
            state.requests += 1;
            if state.down {
                return Err(unreachable("connection refused"));
            }
            // Not before the one ahead: a shorter delay than before must not overtake.
            let earliest = state.inbox.back().map_or(now, |ahead| ahead.due);
            let due = earliest.max(now + state.request_delay);
            state.inbox.push_back(Request { order, due, answer: answer.clone() });
            due - now
        };
        if delay.is_zero() {
            self.run_due();
        } else {
            let node = self.clone();
            let arrived = self.runtime.sleep(delay);
            self.runtime.spawn(Box::pin(async move {
                arrived.await;
                node.run_due();
            }));
        }
        Ok(answer)
    }

    pub(super) fn run_due(&self) {
        let now = self.runtime.now();
        loop {
            let (answer, outcome) = {
                let mut state = self.state();
                if state.stopped || state.inbox.front().is_none_or(|request| request.due > now) {
                    return;
                }
                let Some(request) = state.inbox.pop_front() else { return };
                (request.answer, state.run(&request.order, now))
            };
            answer.give(outcome);
        }
    }
}

impl State {
    fn run(&mut self, order: &Order, now: Instant) -> Result<Outcome, BackendError> {
        let failure = match &mut self.failures {
            Some((left, failure)) if *left > 0 => {
                *left -= 1;
                Some(*failure)
            }
            _ => None,
        };
        match failure {
            Some(Failure::Refuse(kind)) => Err(BackendError::new(kind, "failed on command")),
            Some(Failure::LoseReply) => {
                self.obey(order, now);
                Err(unreachable("the answer was lost on command"))
            }
            None => Ok(self.obey(order, now)),
        }
    }

    fn obey(&mut self, order: &Order, now: Instant) -> Outcome {
        self.keys.retain(|_, key| key.expires > now);
        let held = |keys: &BTreeMap<String, Key>, name: &str, token: &Token| {
            keys.get(name).map(|key| key.value == token.as_str())
        };
        match &order.verb {
            Verb::Acquire(ttl, token) => {
                if order.resources.iter().any(|name| held(&self.keys, name, token) == Some(false)) {
                    return Outcome::No;
                }
                for name in order.resources.iter() {
                    let key = || Key { value: token.as_str().to_owned(), expires: now + *ttl };
                    self.keys.entry(name.to_owned()).or_insert_with(key);
                }
                Outcome::Yes
            }
            Verb::Extend(ttl, token) => {
                if order.resources.iter().any(|name| held(&self.keys, name, token) != Some(true)) {
                    return Outcome::No;
                }
                for name in order.resources.iter() {
                    if let Some(key) = self.keys.get_mut(name) {
                        key.expires = key.expires.max(now + *ttl);
                    }
                }
                Outcome::Yes
            }
            Verb::Release(token) => {
                let mut outcome = Outcome::Yes;
                for name in order.resources.iter() {
                    if held(&self.keys, name, token) == Some(true) {
                        self.keys.remove(name);
                    } else {
                        outcome = Outcome::No;
                    }
                }
                outcome
            }
            Verb::Replace(ttl, old, new) => {
                let ours =
                    |name| [old, new].into_iter().any(|token| held(&self.keys, name, token) == Some(true));
                if !order.resources.iter().all(ours) {
                    return Outcome::No;
                }
                for name in order.resources.iter() {
                    if let Some(key) = self.keys.get_mut(name) {
                        new.as_str().clone_into(&mut key.value);
                        key.expires = key.expires.max(now + *ttl);
                    }
                }
                Outcome::Yes
            }
            Verb::Inspect => {
                let state = |name: &str| {
                    let key = self.keys.get(name);
                    key.map_or(KeyState::Free, |key| {
                        KeyState::held(key.value.as_bytes(), Some(key.expires - now))
                    })
                };
                Outcome::Keys(order.resources.iter().map(state).collect())
            }
        }
    }

    pub(super) fn live(&self, resource: &str, now: Instant) -> Option<&Key> {
        self.keys.get(resource).filter(|key| key.expires > now)
    }
}

pub(super) struct Order {
    pub(super) verb: Verb,
    pub(super) resources: Resources,
}

pub(super) enum Verb {
    Acquire(Duration, Token),
    Extend(Duration, Token),
    Release(Token),
    Replace(Duration, Token, Token),
    Inspect,
}

pub(super) enum Outcome {
    Yes,
    No,
    Keys(Vec<KeyState>),
}

/// An answer that somebody may still wait for.
pub(super) struct Pending {
    pub(super) outcome: Mutex<Option<Result<Outcome, BackendError>>>,
    pub(super) given: Signal,
}

impl Pending {
    pub(super) fn give(&self, outcome: Result<Outcome, BackendError>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.given.set();
    }

    pub(super) async fn taken(&self) -> Result<Outcome, BackendError> {
        self.given.wait().await;
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        outcome.expect("given before the signal, and taken once")
    }
}

pub(super) fn unreachable(message: &str) -> BackendError {
    BackendError::new(BackendErrorKind::Indeterminate, message)
}
