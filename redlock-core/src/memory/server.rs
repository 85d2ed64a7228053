//! The server behind a node in memory: its keys, the requests on their way to it, and its faults.

// Tests: tests/tests/it/sim/memory.rs.

use std::{
    collections::VecDeque,
    num::NonZeroU64,
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
    fence,
    inspect::KeyState,
    resources::Resources,
    runtime::Runtime,
    server::{ServerInfo, ServerRole},
    token::Token,
    validity::MAX_TTL,
};

pub(super) struct Server {
    pub(super) info: Arc<ServerInfo>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) keys: Keys,
    pub(super) counters: Keys<NonZeroU64>,
    pub(super) notes: Keys<StoredNote>,
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
        let (now, unix_time) = (self.runtime.now(), self.runtime.unix_time());
        loop {
            let (reply, outcome, changed) = {
                let mut state = self.state();
                if state.stopped || state.inbox.front().is_none_or(|request| request.due > now) {
                    return;
                }
                let Some(request) = state.inbox.pop_front() else { return };
                let outcome = state.run(&request.order, now, unix_time);
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

    fn run(&mut self, order: &Order, now: Instant, unix_time: Duration) -> Reply {
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
                let _ = self.obey(order, now, unix_time);
                Err(unreachable("the answer was lost on command"))
            }
            None => self.obey(order, now, unix_time),
        }
    }

    fn obey(&mut self, order: &Order, now: Instant, unix_time: Duration) -> Reply {
        self.keys.expire(now);
        self.counters.expire(now);
        self.notes.expire(now);
        let held = |keys: &Keys, name: &str, token: &Token| {
            keys.get(name, now).map(|key| key.value() == token.as_str())
        };
        Ok(match &order.verb {
            Verb::Acquire(ttl, token, counting) => {
                if order.resources.iter().any(|name| held(&self.keys, name, token) == Some(false)) {
                    return Ok(Outcome::No);
                }
                let free = order.resources.iter().any(|name| held(&self.keys, name, token).is_none());
                let highest = self.highest(&order.resources, now);
                if let Some(Counting { proposal, ttl }) = counting
                    && (free || highest == 0)
                {
                    let proposal = fence::limit(*proposal, micros(unix_time));
                    let Some(counter) = fence::count(highest, proposal) else {
                        return Err(BackendError::new(
                            BackendErrorKind::Rejected,
                            "no fencing token is left",
                        ));
                    };
                    for name in order.resources.iter() {
                        self.counters.put(name, counter, now + *ttl);
                    }
                }
                for name in order.resources.iter() {
                    if held(&self.keys, name, token).is_none() {
                        self.keys.put(name, token.as_str().to_owned(), now + *ttl);
                    }
                }
                if counting.is_some() { self.counted(&order.resources, now) } else { Outcome::Yes }
            }
            Verb::Extend(ttl, token) => {
                if order.resources.iter().any(|name| held(&self.keys, name, token) != Some(true)) {
                    return Ok(Outcome::No);
                }
                for name in order.resources.iter() {
                    self.keys.extend_to(name, now + *ttl);
                }
                Outcome::Yes
            }
            Verb::Raise { token, fence, ttl, counter_ttl } => {
                if order.resources.iter().any(|name| held(&self.keys, name, token) != Some(true)) {
                    return Ok(Outcome::No);
                }
                if fence.get() > fence::MAX_FENCE {
                    let message = "the fencing token is too high";
                    return Err(BackendError::new(BackendErrorKind::Rejected, message));
                }
                for name in order.resources.iter() {
                    let counter = self.counters.get(name, now).map_or(*fence, |counter| *counter.value());
                    self.counters.put(name, counter.max(*fence), now + *counter_ttl);
                    if let Some(ttl) = ttl {
                        self.keys.extend_to(name, now + *ttl);
                    }
                }
                self.counted(&order.resources, now)
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
                    return Ok(Outcome::No);
                }
                for name in order.resources.iter() {
                    let expires = self.keys.get(name, now).map_or(now, |key| key.expires());
                    self.keys.put(name, new.as_str().to_owned(), expires.max(now + *ttl));
                }
                Outcome::Yes
            }
            Verb::Annotate(token, Some(text)) => {
                for name in order.resources.iter() {
                    if let Some(key) = self.keys.get(name, now)
                        && key.value() == token.as_str()
                    {
                        let note = StoredNote { token: token.clone(), text: text.clone() };
                        self.notes.put(name, note, key.expires());
                    }
                }
                Outcome::Yes
            }
            Verb::Annotate(token, None) => {
                for name in order.resources.iter() {
                    if self.notes.get(name, now).is_some_and(|note| note.value().token == *token) {
                        self.notes.remove(name);
                    }
                }
                Outcome::Yes
            }
            Verb::Inspect(with_notes) => {
                let state = |name| self.inspect(name, *with_notes, now);
                Outcome::Keys(order.resources.iter().map(state).collect())
            }
            Verb::Watch => self.watch(&order.resources, now),
        })
    }

    fn inspect(&self, name: &str, with_notes: bool, now: Instant) -> KeyState {
        let Some(key) = self.keys.get(name, now) else { return KeyState::Free };
        let state = KeyState::held(key.value().as_bytes(), Some(key.expires() - now));
        let note = self.notes.get(name, now).filter(|_| with_notes).map(Key::value);
        match note.filter(|note| note.token.as_str() == key.value()) {
            Some(note) => state.with_note(note.text.as_bytes()),
            None => state,
        }
    }

    /// The highest counter of the resources; 0 when there is none.
    fn highest(&self, resources: &Resources, now: Instant) -> u64 {
        let counters = resources.iter().filter_map(|name| self.counters.get(name, now));
        counters.map(|counter| counter.value().get()).max().unwrap_or(0)
    }

    /// The reply of a node that has counted.
    fn counted(&self, resources: &Resources, now: Instant) -> Outcome {
        NonZeroU64::new(self.highest(resources, now)).map_or(Outcome::No, Outcome::Counted)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How long a counter lives: `None` is forever.
pub(super) fn counter_ttl(ttl: Option<Duration>) -> Duration {
    ttl.unwrap_or(MAX_TTL).min(MAX_TTL)
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
    Acquire(Duration, Token, Option<Counting>),
    Extend(Duration, Token),
    Raise {
        token: Token,
        fence: NonZeroU64,
        ttl: Option<Duration>,
        counter_ttl: Duration,
    },
    Release(Token),
    Replace(Duration, Token, Token),
    Annotate(Token, Option<String>),
    /// Whether with notes.
    Inspect(bool),
    Watch,
}

/// A note, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct StoredNote {
    token: Token,
    pub(super) text: String,
}

/// What a fenced acquire says about the counters.
pub(super) struct Counting {
    pub(super) proposal: u64,
    /// Of the counters.
    pub(super) ttl: Duration,
}

pub(super) type Reply = Result<Outcome, BackendError>;

pub(super) enum Outcome {
    Yes,
    No,
    Counted(NonZeroU64),
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
