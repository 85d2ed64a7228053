//! The network between clients and nodes: a connection for each pair, and the faults of its messages.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use rand::RngExt;
use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BoxFuture, Extend, FencedReply,
    LockBackend, MemoryBackend, Raise, Release, ReleaseReply, Replace, Resources, Runtime, Token,
};
use tokio::sync::{Notify, mpsc, oneshot};

use self::wire::Wire;
use super::{
    faults::{Dice, Fault, Faults, Struck},
    ledger::Ledger,
    timeline::Timeline,
};
use crate::sim_runtime::{SimRuntime, poll_once};

mod wire;

/// Carries requests from clients to nodes, and the replies back.
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
    /// Messages that were lost silently: their senders wait.
    limbo: Vec<Message>,
    links: BTreeMap<(usize, usize), Link>,
    ledger: Ledger,
    struck: Struck,
    requests: u64,
}

/// The link between one client and one node.
struct Link {
    /// Its connection. The task at the other end delivers the messages in order.
    connection: Option<mpsc::UnboundedSender<Message>>,
    /// The cuts of both directions, counted because they may overlap.
    requests_cut: Arc<Cut>,
    replies_cut: Arc<Cut>,
}

/// Lets no message pass while it is cut. Not tokio's `watch`, as the seed does not decide its wake-up order.
#[derive(Default)]
struct Cut {
    cuts: AtomicU32,
    mended: Notify,
}

#[derive(Clone)]
struct Message {
    request: Request,
    sent: Duration,
    /// The earliest delivery.
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
    AcquireFenced {
        ttl: Duration,
        proposal: u64,
        counter_ttl: Option<Duration>,
    },
    Extend(Duration),
    /// With a TTL, an extension.
    Raise {
        fence: NonZeroU64,
        ttl: Option<Duration>,
        counter_ttl: Option<Duration>,
    },
    /// The token to replace.
    Replace(Token, Duration),
    Release,
    /// Without a text, the note is removed.
    Annotate(Option<String>),
}

pub(super) type Answer = Result<Reply, BackendError>;

/// A node's reply.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    Acquired(AcquireReply),
    Fenced(FencedReply),
    Released(ReleaseReply),
    Annotated,
}

/// A direction of a link.
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

    /// A client's connection to a node.
    pub(super) fn wire(&self, process: SimRuntime, client: usize, node: usize) -> Wire {
        Wire { network: self.clone(), process, client, node, name: format!("node {node}") }
    }

    /// Cuts or mends one direction of a link. Cuts are counted.
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

    /// Replaces a connection: the messages on the old one arrive late, or not at all.
    pub(super) fn break_connection(&self, client: usize, node: usize) {
        let mut state = self.state();
        state.link(client, node).connection = None;
    }

    /// Ends all faults of the network.
    pub(super) fn calm(&self) {
        self.state().faults = Faults::NONE;
    }

    /// Ends all connections. Messages under way still arrive.
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

    /// The ledger of the requests that have reached the nodes.
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

    /// Sends a request on its connection, and returns the receiver of the reply.
    fn send(&self, request: Request) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        let now = self.0.runtime.elapsed();
        let mut state = self.state();
        state.requests += 1;
        state.ledger.begun(now, &request);
        drop(state);
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
            state.ledger.sent(&message.request);
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
        state.ledger.sent(&message.request);
        let connected = state.link(client, node).connection.clone();
        let connection = connected.unwrap_or_else(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            state.link(client, node).connection = Some(sender.clone());
            self.0.runtime.spawn(Box::pin(self.clone().carry(receiver)));
            sender
        });
        drop(state);
        // The receiver lives as long as the sender.
        let _ = connection.send(message);
    }

    /// One connection, which delivers in order.
    async fn carry(self, mut messages: mpsc::UnboundedReceiver<Message>) {
        while let Some(message) = messages.recv().await {
            self.deliver_at(message).await;
        }
    }

    /// Delivers a request to its node, and leaves the reply to a task, so the next request need not wait for
    /// it.
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
        // The first poll puts it into the node's inbox.
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
            // The sender no longer waits, so the reply is late.
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
        // Drawn in any case: a run without the fault is the same until the fault would have struck.
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
            node.acquire(Acquire::new(resources, token, *ttl, Duration::MAX)).await.map(Reply::Acquired)
        }
        Verb::AcquireFenced { ttl, proposal, counter_ttl } => {
            let acquire = Acquire::new(resources, token, *ttl, Duration::MAX);
            let request = AcquireFenced::new(acquire, *proposal, *counter_ttl);
            node.acquire_fenced(request).await.map(Reply::Fenced)
        }
        Verb::Raise { fence, ttl, counter_ttl } => {
            let request = match ttl {
                Some(ttl) => {
                    let extend = Extend::new(resources, token, *ttl, Duration::MAX);
                    Raise::extending(extend, *fence, *counter_ttl)
                }
                None => Raise::new(resources, token, *fence, *counter_ttl, Duration::MAX),
            };
            node.raise(request).await.map(Reply::Fenced)
        }
        Verb::Extend(ttl) => {
            node.extend(Extend::new(resources, token, *ttl, Duration::MAX)).await.map(Reply::Acquired)
        }
        Verb::Replace(old, ttl) => {
            node.replace(Replace::new(resources, old, token, *ttl, Duration::MAX)).await.map(Reply::Acquired)
        }
        Verb::Release => {
            node.release(Release::new(resources, token, Duration::MAX)).await.map(Reply::Released)
        }
        Verb::Annotate(note) => {
            let request = Annotate::new(resources, token, note.as_deref(), Duration::MAX);
            node.annotate(request).await.map(|()| Reply::Annotated)
        }
    }
}

/// How often the client library retransmits a request.
const RESENDS: u32 = 3;
/// The longest delay of a message: far longer than any TTL.
const LONG: Duration = Duration::from_secs(15);
