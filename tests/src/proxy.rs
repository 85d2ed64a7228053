//! A TCP proxy in front of a server. It can cut connections, and hold, delay or drop what passes. It runs on
//! a thread of its own, so it serves tests on any runtime.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a failed test panics with its reason"
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

/// Passes bytes between clients and one server until a test injects a fault.
pub struct Proxy {
    port: u16,
    control: Arc<Control>,
    runtime: Option<Runtime>,
}

struct Control {
    /// The port of the server for new connections.
    server: AtomicU16,
    mode: watch::Sender<Mode>,
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Default)]
struct Mode {
    /// A connection ends when this changes.
    generation: u64,
    /// The number of connections, from the first on, whose bytes are read and dropped.
    swallowed: usize,
    held: bool,
    refusing: bool,
    reply_delay: Duration,
}

#[derive(Default)]
struct Seen {
    eat: Option<Eat>,
    eaten: usize,
    /// Whether the bytes of clients are not kept.
    forgetful: bool,
    /// All bytes of clients.
    requests: Vec<u8>,
    connections: usize,
}

struct Eat {
    word: Vec<u8>,
    left: usize,
    then: Then,
}

/// What happens to the connection after a reply was dropped.
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

    /// Starts a proxy that does not keep the bytes of clients, for a long run.
    pub fn forgetful(server: &Server) -> Self {
        Self::with(server, Seen { forgetful: true, ..Seen::default() })
    }

    fn with(server: &Server, seen: Seen) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        // Without blocking on the runtime: the test may run in a runtime of its own.
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

    /// Leads new connections to another server. Existing ones stay.
    pub fn lead_to(&self, server: &Server) {
        self.control.server.store(server.port(), Ordering::Relaxed);
    }

    /// Closes all connections. New ones are accepted.
    pub fn cut(&self) {
        self.control.mode.send_modify(|mode| mode.generation += 1);
    }

    /// Closes all connections, and each new one at once, until [`Proxy::accept`].
    pub fn refuse(&self) {
        self.control.mode.send_modify(|mode| {
            mode.refusing = true;
            mode.generation += 1;
        });
    }

    /// Accepts new connections again.
    pub fn accept(&self) {
        self.control.mode.send_modify(|mode| mode.refusing = false);
    }

    /// Holds all bytes, in both directions, until [`Proxy::release`].
    pub fn hold(&self) {
        self.control.mode.send_modify(|mode| mode.held = true);
    }

    /// Passes on the held bytes, and later ones.
    pub fn release(&self) {
        self.control.mode.send_modify(|mode| mode.held = false);
    }

    /// Reads and drops all bytes of the existing connections, permanently. New ones work.
    pub fn swallow(&self) {
        self.swallow_first(self.connections());
    }

    /// As [`Proxy::swallow`], for this many connections, from the first on.
    pub fn swallow_first(&self, connections: usize) {
        self.control.mode.send_modify(|mode| mode.swallowed = connections);
    }

    /// Delays replies by this time.
    pub fn delay_replies(&self, delay: Duration) {
        self.control.mode.send_modify(|mode| mode.reply_delay = delay);
    }

    /// Drops the replies to the next `replies` requests that contain `word` (EVAL, for example). The server
    /// runs them.
    pub fn eat_replies(&self, word: &str, replies: usize, then: Then) {
        self.control.seen().eat = Some(Eat { word: word.as_bytes().to_vec(), left: replies, then });
    }

    /// How many replies have been dropped.
    pub fn eaten(&self) -> usize {
        self.control.seen().eaten
    }

    /// How often clients have sent a word.
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

    /// Records what a client sends. Returns whether to drop the reply, and what happens to the connection
    /// then.
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
                // A server that has closed the connection may have sent the reason. Pass it on to the client.
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
