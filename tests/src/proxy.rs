//! A TCP proxy in front of a server: it cuts, holds, delays and eats what passes. It runs on a thread of its
//! own, for tests on any runtime.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test ends with a panic that says why"
)]

use std::{
    fmt,
    future::pending,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::watch,
};

use crate::server::Server;

/// Passes bytes between clients and one server, unless it is told otherwise.
pub struct Proxy {
    port: u16,
    control: Arc<Control>,
    runtime: Option<Runtime>,
}

struct Control {
    /// The port of the server that new connections lead to.
    server: AtomicU16,
    mode: watch::Sender<Mode>,
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Default)]
struct Mode {
    /// A connection ends when this is not what it was at its beginning.
    generation: u64,
    /// What comes on the first so many connections is taken, and goes nowhere.
    swallowed: usize,
    held: bool,
    refusing: bool,
    reply_delay: Duration,
}

#[derive(Default)]
struct Seen {
    eat: Option<Eat>,
    eaten: usize,
    /// Whether what clients sent is not kept.
    forgetful: bool,
    /// All that clients sent.
    requests: Vec<u8>,
    connections: usize,
}

struct Eat {
    word: Vec<u8>,
    left: usize,
    then: Then,
}

/// What happens to the connection after a reply was eaten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is closed.
    Cut,
    /// It stays, and later replies pass.
    Keep,
}

impl Proxy {
    /// Starts a proxy on a free loopback port.
    pub fn to(server: &Server) -> Self {
        Self::with(server, Seen::default())
    }

    /// Starts a proxy that does not remember what was sent, for a long run.
    pub fn forgetful(server: &Server) -> Self {
        Self::with(server, Seen { forgetful: true, ..Seen::default() })
    }

    fn with(server: &Server, seen: Seen) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        // Not by blocking on the runtime: a test may be in one of its own.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("a socket option");
        let port = listener.local_addr().expect("a bound address").port();
        let server = AtomicU16::new(server.port());
        let control = Arc::new(Control { server, mode: watch::Sender::default(), seen: Mutex::new(seen) });
        let there = control.clone();
        runtime.spawn(async move {
            listen(TcpListener::from_std(listener).expect("a listener"), there).await;
        });
        Self { port, control, runtime: Some(runtime) }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL, without a password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Leads new connections to another server. Those that there are stay.
    pub fn lead_to(&self, server: &Server) {
        self.control.server.store(server.port(), Ordering::Relaxed);
    }

    /// Closes all connections. New ones are taken.
    pub fn cut(&self) {
        self.control.mode.send_modify(|mode| mode.generation += 1);
    }

    /// Closes all connections, and new ones as soon as they are made, until it accepts again.
    pub fn refuse(&self) {
        self.control.mode.send_modify(|mode| {
            mode.refusing = true;
            mode.generation += 1;
        });
    }

    /// Takes new connections again.
    pub fn accept(&self) {
        self.control.mode.send_modify(|mode| mode.refusing = false);
    }

    /// Passes nothing on, in either direction; it comes through, late, after `release`.
    pub fn hold(&self) {
        self.control.mode.send_modify(|mode| mode.held = true);
    }

    /// Passes on what was held, and what comes.
    pub fn release(&self) {
        self.control.mode.send_modify(|mode| mode.held = false);
    }

    /// Takes what comes on the connections that there are, for good, and passes nothing on. New ones work.
    pub fn swallow(&self) {
        self.swallow_first(self.connections());
    }

    /// As [`Proxy::swallow`], for the first so many connections.
    pub fn swallow_first(&self, connections: usize) {
        self.control.mode.send_modify(|mode| mode.swallowed = connections);
    }

    /// Passes replies on this much later.
    pub fn delay_replies(&self, delay: Duration) {
        self.control.mode.send_modify(|mode| mode.reply_delay = delay);
    }

    /// Eats the replies to the next `replies` requests that mention `word` (say, EVAL). The server runs them.
    pub fn eat_replies(&self, word: &str, replies: usize, then: Then) {
        self.control.seen().eat = Some(Eat { word: word.as_bytes().to_vec(), left: replies, then });
    }

    /// How many replies have been eaten.
    pub fn eaten(&self) -> usize {
        self.control.seen().eaten
    }

    /// How often a word has been sent by clients.
    pub fn sent(&self, word: &str) -> usize {
        let seen = self.control.seen();
        seen.requests.windows(word.len()).filter(|window| *window == word.as_bytes()).count()
    }

    /// How many connections have been made.
    pub fn connections(&self) -> usize {
        self.control.seen().connections
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Control {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a client sends, and whether the reply to it is to be eaten.
    fn note(&self, bytes: &[u8]) -> Option<Then> {
        let mut seen = self.seen();
        if !seen.forgetful {
            seen.requests.extend_from_slice(bytes);
        }
        let eat = seen.eat.as_mut().filter(|eat| eat.left > 0)?;
        if !bytes.windows(eat.word.len()).any(|window| window == eat.word) {
            return None;
        }
        eat.left -= 1;
        Some(eat.then)
    }
}

async fn listen(listener: TcpListener, control: Arc<Control>) {
    while let Ok((client, _)) = listener.accept().await {
        if control.mode.borrow().refusing {
            continue;
        }
        let number = {
            let mut seen = control.seen();
            seen.connections += 1;
            seen.connections
        };
        let control = control.clone();
        tokio::spawn(async move {
            let generation = control.mode.borrow().generation;
            let mut mode = control.mode.subscribe();
            tokio::select! {
                _ = pass(client, number, &control) => {}
                _ = mode.wait_for(|mode| mode.generation != generation) => {}
            }
        });
    }
}

async fn pass(client: TcpStream, number: usize, control: &Control) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", control.server.load(Ordering::Relaxed))).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let eating = Mutex::new(None);
    let eating = || eating.lock().unwrap_or_else(PoisonError::into_inner);
    let requests = async {
        let mut held = control.mode.subscribe();
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = from_client.read(&mut buffer).await?;
            let bytes = &buffer[..read];
            if bytes.is_empty() {
                return Ok::<(), io::Error>(());
            }
            if let Some(then) = control.note(bytes) {
                *eating() = Some(then);
            }
            let _ = held.wait_for(|mode| !mode.held).await;
            if held.borrow().swallowed < number && to_server.write_all(bytes).await.is_err() {
                // A server that has gone away may have said why. That is still on its way to the client.
                return pending().await;
            }
        }
    };
    let replies = async {
        let mut held = control.mode.subscribe();
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = from_server.read(&mut buffer).await?;
            let bytes = &buffer[..read];
            if bytes.is_empty() {
                return Ok::<(), io::Error>(());
            }
            let eaten = eating().take();
            if let Some(then) = eaten {
                control.seen().eaten += 1;
                if then == Then::Cut {
                    return Ok(());
                }
                continue;
            }
            let delay = control.mode.borrow().reply_delay;
            tokio::time::sleep(delay).await;
            let _ = held.wait_for(|mode| !mode.held).await;
            to_client.write_all(bytes).await?;
        }
    };
    tokio::select! {
        result = requests => result,
        result = replies => result,
    }
}

const CHUNK: usize = 64 * 1024;
