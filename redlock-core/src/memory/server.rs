//! The server behind a node in memory: its keys, the requests on their way to it, and its faults.

// Tests: tests/tests/it/sim/memory.rs.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_channel::oneshot::{self, Receiver, Sender};

use super::keys::{Key, Keys};
use crate::{
    backend::{BackendError, BackendErrorKind},
    inspect::KeyState,
    resources::Resources,
    runtime::Runtime,
    server::{ServerInfo, ServerRole},
    token::Token,
};

pub(super) struct Server {
    pub(super) info: Arc<ServerInfo>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) keys: Keys,
    pub(super) inbox: VecDeque<Request>,
    pub(super) watches: Vec<Watching>,
    pub(super) stopped: bool,
    pub(super) down: bool,
    /// When it was last started after it was shut down.
    pub(super) started: Option<Instant>,
    pub(super) request_delay: Duration,
    pub(super) reply_delay: Duration,
    pub(super) failures: Option<(usize, Failure)>,
    pub(super) requests: u64,
}

#[derive(Clone, Copy)]
pub(super) enum Failure {
    Refuse(BackendErrorKind),
    LoseReply,
}

/// A request on its way to the node. It arrives even if its caller no longer waits for the reply.
pub(super) struct Request {
    pub(super) order: Order,
    pub(super) due: Instant,
    pub(super) reply: Sender<Reply>,
}

/// A watch of keys that are held. When its keys change, it is told, once, and looks again.
pub(super) struct Watching {
    resources: Resources,
    /// When the last of its keys expires.
    expires: Instant,
    changed: Sender<()>,
}

impl Server {
    pub(super) fn new(runtime: impl Runtime) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let id = format!("in memory {}", MADE.fetch_add(1, Ordering::Relaxed));
        let info = ServerInfo {
            id: Some(id.into()),
            role: Some(ServerRole::Primary),
            was_promoted: Some(false),
            eviction_policy: Some("noeviction".to_owned()),
            is_persistent: Some(true),
            ..ServerInfo::default()
        };
        Self { info: Arc::new(info), runtime: Arc::new(runtime), state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a request, in order, and runs those that are due. The caller awaits the reply; when there will
    /// be none, the connection is reset.
    pub(super) fn arrive(self: &Arc<Self>, order: Order) -> Result<Receiver<Reply>, BackendError> {
        let now = self.runtime.now();
        let (reply, replied) = oneshot::channel();
        let delay = {
            let mut state = self.state();
            if !matches!(order.verb, Verb::Watch) {
                state.requests += 1;
            }
            if state.down {
                return Err(unreachable("connection refused"));
            }
            // Not before the previous one: a request with a shorter delay must not overtake it.
            let earliest = state.inbox.back().map_or(now, |ahead| ahead.due);
            let due = earliest.max(now + state.request_delay);
            state.inbox.push_back(Request { order, due, reply });
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
        Ok(replied)
    }

    /// Changes the keys, as a client that is not in the inbox does.
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        let now = self.runtime.now();
        let changed = {
            let mut state = self.state();
            change(&mut state);
            state.take_changed(now)
        };
        // Without the lock, because it wakes waiting tasks.
        tell(changed);
    }

    pub(super) fn run_due(&self) {
        let now = self.runtime.now();
        loop {
            let (reply, outcome, changed) = {
                let mut state = self.state();
                if state.stopped || state.inbox.front().is_none_or(|request| request.due > now) {
                    return;
                }
                let Some(request) = state.inbox.pop_front() else { return };
                let outcome = state.run(&request.order, now);
                (request.reply, outcome, state.take_changed(now))
            };
            // Its caller may have gone.
            let _ = reply.send(outcome);
            tell(changed);
        }
    }
}

impl State {
    /// The watches whose keys are free, or expire at another time than before.
    fn take_changed(&mut self, now: Instant) -> Vec<Watching> {
        let keys = &self.keys;
        let is_changed =
            |watching: &mut Watching| last_expiry(keys, &watching.resources, now) != Some(watching.expires);
        self.watches.extract_if(.., is_changed).collect()
    }

    fn watch(&mut self, resources: &Resources, now: Instant) -> Outcome {
        let Some(expires) = last_expiry(&self.keys, resources, now) else { return Outcome::Yes };
        if self.watches.len() == self.watches.capacity() {
            // Before it grows: watches come and go while the keys stay.
            self.watches.retain(|watching| !watching.changed.is_canceled());
        }
        let (sender, changed) = oneshot::channel();
        self.watches.push(Watching { resources: resources.clone(), expires, changed: sender });
        Outcome::Held(Armed { changed, expires })
    }

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
        self.keys.expire(now);
        let held = |keys: &Keys, name: &str, token: &Token| {
            keys.get(name, now).map(|key| key.value() == token.as_str())
        };
        match &order.verb {
            Verb::Acquire(ttl, token) => {
                if order.resources.iter().any(|name| held(&self.keys, name, token) == Some(false)) {
                    return Outcome::No;
                }
                for name in order.resources.iter() {
                    if held(&self.keys, name, token).is_none() {
                        self.keys.put(name, token.as_str().to_owned(), now + *ttl);
                    }
                }
                Outcome::Yes
            }
            Verb::Extend(ttl, token) => {
                if order.resources.iter().any(|name| held(&self.keys, name, token) != Some(true)) {
                    return Outcome::No;
                }
                for name in order.resources.iter() {
                    self.keys.extend_to(name, now + *ttl);
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
                    let expires = self.keys.get(name, now).map_or(now, |key| key.expires());
                    self.keys.put(name, new.as_str().to_owned(), expires.max(now + *ttl));
                }
                Outcome::Yes
            }
            Verb::Inspect => {
                let state = |name: &str| {
                    let key = self.keys.get(name, now);
                    key.map_or(KeyState::Free, |key| {
                        KeyState::held(key.value().as_bytes(), Some(key.expires() - now))
                    })
                };
                Outcome::Keys(order.resources.iter().map(state).collect())
            }
            Verb::Watch => self.watch(&order.resources, now),
        }
    }
}

/// When the last of the keys expires; `None` when all are free.
fn last_expiry(keys: &Keys, resources: &Resources, now: Instant) -> Option<Instant> {
    resources.iter().filter_map(|name| keys.get(name, now)).map(Key::expires).max()
}

fn tell(changed: Vec<Watching>) {
    for watching in changed {
        // Its caller may have gone.
        let _ = watching.changed.send(());
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
    Watch,
}

pub(super) type Reply = Result<Outcome, BackendError>;

pub(super) enum Outcome {
    Yes,
    No,
    Keys(Vec<KeyState>),
    Held(Armed),
}

/// How a watch of keys that are held goes on.
pub(super) struct Armed {
    /// Told when they have changed; cancelled when the connection is reset.
    pub(super) changed: Receiver<()>,
    /// When the last of them expires.
    pub(super) expires: Instant,
}

pub(super) fn unreachable(message: &str) -> BackendError {
    BackendError::new(BackendErrorKind::Indeterminate, message)
}
