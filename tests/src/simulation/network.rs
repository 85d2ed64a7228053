//! The network between clients and nodes: a connection for each pair, and all that happens to what it
//! carries.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use rand::RngExt;
use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, BoxFuture, Extend, LockBackend, MemoryBackend,
    Release, ReleaseReply, Replace, Resources, Runtime, Token, async_trait,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    faults::{Dice, Fault, Faults, Struck},
    ledger::Ledger,
    timeline::Timeline,
};
use crate::sim_runtime::{SimRuntime, poll_once};

/// What carries requests from clients to nodes and replies back.
#[derive(Clone)]
pub(super) struct Network(Arc<Shared>);

struct Shared {
    runtime: SimRuntime,
    nodes: Vec<MemoryBackend>,
    timeline: Timeline,
    state: Mutex<State>,
}

struct State {
    faults: Faults,
    dice: Dice,
    /// Messages that were lost without a word: their senders wait.
    limbo: Vec<Message>,
    links: BTreeMap<(usize, usize), Link>,
    ledger: Ledger,
    struck: Struck,
    requests: u64,
}

/// Between one client and one node.
struct Link {
    /// Its connection; whoever holds the other end delivers what is sent, in order.
    connection: Option<mpsc::UnboundedSender<Message>>,
    /// What passes. Counted, so that cuts may overlap.
    requests_cut: Arc<Cut>,
    replies_cut: Arc<Cut>,
}

/// Lets nothing pass while it is cut. Not tokio's `watch`: that wakes in an order that no seed decides.
#[derive(Default)]
struct Cut {
    cuts: AtomicU32,
    mended: Notify,
}

#[derive(Clone)]
struct Message {
    request: Request,
    sent: Duration,
    /// Not delivered earlier.
    due: Duration,
    answer: Arc<Mutex<Option<oneshot::Sender<Answer>>>>,
    resends: u32,
}

#[derive(Clone)]
pub(super) struct Request {
    pub(super) client: usize,
    pub(super) node: usize,
    pub(super) verb: Verb,
    pub(super) resources: Resources,
    pub(super) token: Token,
}

#[derive(Clone, Debug)]
pub(super) enum Verb {
    Acquire(Duration),
    Extend(Duration),
    /// The token that is to give way.
    Replace(Token, Duration),
    Release,
}

pub(super) type Answer = Result<Said, BackendError>;

/// What a node said.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said {
    Reply(AcquireReply),
    Released(ReleaseReply),
}

/// Which way of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Requests,
    Replies,
}

impl Network {
    pub(super) fn new(
        runtime: SimRuntime,
        seed: u64,
        nodes: Vec<MemoryBackend>,
        faults: Faults,
        timeline: Timeline,
    ) -> Self {
        let state = State {
            faults,
            dice: Dice::new(seed),
            limbo: Vec::new(),
            links: BTreeMap::new(),
            ledger: Ledger::default(),
            struck: Struck::default(),
            requests: 0,
        };
        Self(Arc::new(Shared { runtime, nodes, timeline, state: Mutex::new(state) }))
    }

    /// A client's way to a node.
    pub(super) fn wire(&self, process: SimRuntime, client: usize, node: usize) -> Wire {
        Wire { network: self.clone(), process, client, node, name: format!("node {node}") }
    }

    /// Cuts or mends one way of a link. Cuts are counted.
    pub(super) fn cut(&self, client: usize, node: usize, way: Way, cut: bool) {
        let mut state = self.state();
        let link = state.link(client, node);
        let passage = match way {
            Way::Requests => &link.requests_cut,
            Way::Replies => &link.replies_cut,
        };
        if cut {
            passage.cuts.fetch_add(1, Ordering::Relaxed);
        } else if passage.cuts.fetch_sub(1, Ordering::Relaxed) == 1 {
            passage.mended.notify_waiters();
        }
    }

    /// Replaces a connection: what it carries comes late, or not at all.
    pub(super) fn break_connection(&self, client: usize, node: usize) {
        let mut state = self.state();
        state.link(client, node).connection = None;
    }

    /// From now on nothing more goes wrong in the network.
    pub(super) fn calm(&self) {
        self.state().faults = Faults::NONE;
    }

    /// Ends all connections. What is under way still arrives.
    pub(super) fn close(&self) {
        let mut state = self.state();
        let gone = (std::mem::take(&mut state.links), std::mem::take(&mut state.limbo));
        drop(state);
        drop(gone);
    }

    pub(super) fn struck(&self) -> Struck {
        self.state().struck
    }

    pub(super) fn strike(&self, fault: Fault) {
        self.state().struck.count(fault);
    }

    /// What has reached the nodes.
    pub(super) fn ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.state().ledger)
    }

    /// How many requests clients have sent.
    pub(super) fn requests(&self) -> u64 {
        self.state().requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request on its connection, and gives where its answer comes.
    fn send(&self, request: Request) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        self.state().requests += 1;
        self.transmit(Message {
            request,
            sent: Duration::ZERO,
            due: Duration::ZERO,
            answer: Arc::new(Mutex::new(Some(sender))),
            resends: RESENDS,
        });
        receiver
    }

    fn transmit(&self, mut message: Message) {
        let now = self.0.runtime.elapsed();
        let (client, node) = (message.request.client, message.request.node);
        let mut state = self.state();
        message.sent = now;
        message.due = now + state.latency();
        if state.strikes(Fault::Delay, 0.01) {
            message.due += state.dice.of(Fault::Delay).random_range(Duration::from_millis(10)..LONG);
        }
        if state.strikes(Fault::Reconnect, 0.005) {
            state.link(client, node).connection = None;
        }
        if state.strikes(Fault::Lose, 0.01) {
            state.link(client, node).connection = None;
            self.0.timeline.request(now, &message.request, "is lost");
            if state.dice.of(Fault::Lose).random_bool(0.5) {
                state.limbo.push(message);
            }
            return;
        }
        if state.strikes(Fault::Duplicate, 0.01) {
            state.ledger.sent(now, &message.request);
            let copy = Message {
                due: message.due + state.dice.of(Fault::Duplicate).random_range(Duration::ZERO..LONG),
                answer: Arc::default(),
                ..message.clone()
            };
            let network = self.clone();
            self.0.runtime.spawn(Box::pin(async move {
                network.deliver_at(copy).await;
            }));
        }
        state.ledger.sent(now, &message.request);
        let connected = state.link(client, node).connection.clone();
        let connection = connected.unwrap_or_else(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            state.link(client, node).connection = Some(sender.clone());
            self.0.runtime.spawn(Box::pin(self.clone().carry(receiver)));
            sender
        });
        drop(state);
        // The other end is there as long as this one.
        let _ = connection.send(message);
    }

    /// One connection: delivers in order.
    async fn carry(self, mut messages: mpsc::UnboundedReceiver<Message>) {
        while let Some(message) = messages.recv().await {
            self.deliver_at(message).await;
        }
    }

    /// Brings a request to its node, and leaves the rest to a task: the next one need not wait for the
    /// answer.
    async fn deliver_at(&self, message: Message) {
        let runtime = &self.0.runtime;
        let early = message.due.saturating_sub(runtime.elapsed());
        runtime.sleep(early).await;
        let (client, node) = (message.request.client, message.request.node);
        let cut = self.state().link(client, node).requests_cut.clone();
        cut.passable().await;
        self.0.timeline.request(runtime.elapsed(), &message.request, "arrives");
        let request = message.request.clone();
        let nodes = self.0.nodes.clone();
        let mut running: BoxFuture<Answer> =
            Box::pin(async move { run(&nodes[request.node], &request).await });
        // Its first step puts it into the node's inbox.
        if let Poll::Ready(answer) = poll_once(&mut running).await {
            running = Box::pin(async { answer });
        }
        let network = self.clone();
        runtime.spawn(Box::pin(async move {
            let answer = running.await;
            let now = network.0.runtime.elapsed();
            let took = now - message.sent;
            network.ledger(|ledger| ledger.answered(now, took, &message.request, answer.is_ok()));
            network.reply(message, answer).await;
        }));
    }

    async fn reply(&self, message: Message, answer: Answer) {
        let runtime = &self.0.runtime;
        let (client, node) = (message.request.client, message.request.node);
        let (latency, lost, again, cut) = {
            let mut state = self.state();
            let lost = state.strikes(Fault::LoseReply, 0.02);
            let again = lost && message.resends > 0 && state.strikes(Fault::Resend, 0.5);
            if lost {
                state.link(client, node).connection = None;
            }
            (state.latency(), lost, again, state.link(client, node).replies_cut.clone())
        };
        runtime.sleep(latency).await;
        if again {
            self.transmit(Message { resends: message.resends - 1, ..message });
            return;
        }
        if lost {
            return;
        }
        cut.passable().await;
        let waiting = message.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiting) = waiting {
            self.0.timeline.answer(runtime.elapsed(), &message.request, &answer);
            // Nobody waits any more: late.
            let _ = waiting.send(answer);
        }
    }
}

impl Cut {
    async fn passable(&self) {
        loop {
            let mended = self.mended.notified();
            if self.cuts.load(Ordering::Relaxed) == 0 {
                return;
            }
            mended.await;
        }
    }
}

impl State {
    fn link(&mut self, client: usize, node: usize) -> &mut Link {
        self.links.entry((client, node)).or_insert_with(|| Link {
            connection: None,
            requests_cut: Arc::default(),
            replies_cut: Arc::default(),
        })
    }

    fn strikes(&mut self, fault: Fault, probability: f64) -> bool {
        // Drawn in any case, so that a run goes the same way up to where the fault would have struck.
        let strikes = self.dice.of(fault).random_bool(probability) && self.faults.has(fault);
        if strikes {
            self.struck.count(fault);
        }
        strikes
    }

    fn latency(&mut self) -> Duration {
        Duration::from_micros(self.dice.latency.random_range(50..2_000))
    }
}

async fn run(node: &MemoryBackend, request: &Request) -> Answer {
    let Request { resources, token, .. } = request;
    match &request.verb {
        Verb::Acquire(ttl) => {
            node.acquire(Acquire::new(resources, token, *ttl, Duration::MAX)).await.map(Said::Reply)
        }
        Verb::Extend(ttl) => {
            node.extend(Extend::new(resources, token, *ttl, Duration::MAX)).await.map(Said::Reply)
        }
        Verb::Replace(old, ttl) => {
            node.replace(Replace::new(resources, old, token, *ttl, Duration::MAX)).await.map(Said::Reply)
        }
        Verb::Release => {
            node.release(Release::new(resources, token, Duration::MAX)).await.map(Said::Released)
        }
    }
}

/// One client's way to one node.
pub(super) struct Wire {
    network: Network,
    process: SimRuntime,
    client: usize,
    node: usize,
    name: String,
}

impl Wire {
    async fn ask(
        &self,
        verb: Verb,
        resources: &Resources,
        token: &Token,
        timeout: Duration,
    ) -> Result<Said, BackendError> {
        let request = Request {
            client: self.client,
            node: self.node,
            verb,
            resources: resources.clone(),
            token: token.clone(),
        };
        self.network.0.timeline.request(self.network.0.runtime.elapsed(), &request, "sent");
        let answered = self.network.send(request);
        tokio::select! {
            biased;
            answer = answered => {
                answer.unwrap_or_else(|_| Err(BackendError::new(BackendErrorKind::Indeterminate, "connection reset")))
            }
            () = self.process.sleep(timeout) => Err(BackendError::timed_out(timeout)),
        }
    }
}

#[async_trait]
impl LockBackend for Wire {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let verb = Verb::Acquire(request.ttl);
        self.ask(verb, request.resources, request.token, request.timeout).await?.reply()
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        let verb = Verb::Extend(request.ttl);
        self.ask(verb, request.resources, request.token, request.timeout).await?.reply()
    }

    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        let verb = Verb::Replace(request.old.clone(), request.ttl);
        self.ask(verb, request.resources, request.new, request.timeout).await?.reply()
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.ask(Verb::Release, request.resources, request.token, request.timeout).await?.released()
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} to {}", self.client, self.name)
    }
}

impl Said {
    fn reply(self) -> Result<AcquireReply, BackendError> {
        match self {
            Self::Reply(reply) => Ok(reply),
            Self::Released(_) => Err(unreadable()),
        }
    }

    fn released(self) -> Result<ReleaseReply, BackendError> {
        match self {
            Self::Released(released) => Ok(released),
            Self::Reply(_) => Err(unreadable()),
        }
    }
}

fn unreadable() -> BackendError {
    BackendError::new(BackendErrorKind::Indeterminate, "the answer to another question")
}

/// How often the client library sends a request again.
const RESENDS: u32 = 3;
/// The longest that a message is delayed: far past any ttl.
const LONG: Duration = Duration::from_secs(15);
