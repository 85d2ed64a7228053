//! A server with scripted replies, for those that no real one sends, or not when a test needs them.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a failed test panics with its reason"
)]

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use redlock_core::redis::{Argument, Command as Request};

/// A listener on loopback, with a thread for each connection.
pub struct Fake {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    connections: AtomicUsize,
    over: AtomicBool,
    greet: Box<dyn Fn() -> Reply + Send + Sync>,
    answer: Box<dyn Fn(&Command) -> Reply + Send + Sync>,
}

/// A command of a client.
#[derive(Debug)]
pub struct Command {
    /// Its words, the first in capitals.
    pub words: Vec<String>,
    /// How many commands the connection received before.
    pub number: usize,
}

impl Command {
    /// Whether it is a request of a lock: not a part of a handshake, and not the question about the
    /// server.
    pub fn is_request(&self) -> bool {
        let any = "any".into();
        let is_script = |argument| matches!(argument, Argument::Text(script) if script == self.words[1]);
        match &*self.words[0] {
            "EVAL" => !Request::server_info(&any).arguments().next().is_some_and(is_script),
            name => NATIVE.contains(&name),
        }
    }
}

/// What the server does with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Sends a reply: the protocol's bytes, without the last line break.
    Say(String),
    /// Sends a reply, and closes the connection.
    SayAndClose(String),
    /// Sends bytes as they are, and closes the connection.
    BreakOff(String),
    /// Closes the connection.
    Close,
    /// Sends nothing.
    Nothing,
}

impl Reply {
    /// A reply: the protocol's bytes, without the last line break.
    pub fn say(text: impl Into<String>) -> Self {
        Self::Say(text.into())
    }

    /// A healthy server's reply to a command of a handshake, and `:1` to every other command.
    pub fn usual(command: &Command) -> Self {
        Self::say(match &*command.words[0] {
            "PING" => "+PONG",
            "INFO" => "$19\r\nredis_version:7.0.0",
            "CLIENT" if command.words[1].eq_ignore_ascii_case("ID") => ":1",
            "CLIENT" | "AUTH" | "SELECT" => "+OK",
            // The question about the server has no answer.
            "EVAL" if !command.is_request() => "$-1",
            _ => ":1",
        })
    }
}

impl Fake {
    /// Starts a server with a reply to each command.
    pub fn start(answer: impl Fn(&Command) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with_greeting(|| Reply::Nothing, answer)
    }

    /// Starts a server that sends a greeting on each new connection.
    pub fn start_with_greeting(
        greet: impl Fn() -> Reply + Send + Sync + 'static,
        answer: impl Fn(&Command) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let port = listener.local_addr().expect("a bound address").port();
        let shared = Arc::new(Shared {
            connections: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            greet: Box::new(greet),
            answer: Box::new(answer),
        });
        let there = shared.clone();
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                if there.over.load(Ordering::SeqCst) {
                    return;
                }
                there.connections.fetch_add(1, Ordering::SeqCst);
                let shared = there.clone();
                // It ends when the client closes the connection, or is silent for too long.
                thread::spawn(move || stream.and_then(|stream| serve(&stream, &shared)));
            }
        });
        Self { port, shared, accepting: Some(accepting) }
    }

    /// The URL, without a password.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many connections have been made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the thread.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        drop(self.accepting.take().map(JoinHandle::join));
    }
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let mut commands = BufReader::new(stream.try_clone()?);
    let mut reply = (shared.greet)();
    for number in 0.. {
        match reply {
            Reply::Say(text) => stream.write_all(format!("{text}\r\n").as_bytes())?,
            Reply::SayAndClose(text) => return stream.write_all(format!("{text}\r\n").as_bytes()),
            Reply::BreakOff(bytes) => return stream.write_all(bytes.as_bytes()),
            Reply::Close => return Ok(()),
            Reply::Nothing => {}
        }
        let words = read_command(&mut commands)?;
        reply = (shared.answer)(&Command { words, number });
    }
    Ok(())
}

fn read_command(from: &mut impl BufRead) -> io::Result<Vec<String>> {
    let words = read_number(from)?;
    let mut words: Vec<String> = (0..words.min(WORDS))
        .map(|_| {
            let mut word = vec![0; read_number(from)? + "\r\n".len()];
            from.read_exact(&mut word)?;
            Ok(String::from_utf8_lossy(&word).trim_end().to_owned())
        })
        .collect::<io::Result<_>>()?;
    words.first_mut().ok_or(io::ErrorKind::InvalidData)?.make_ascii_uppercase();
    Ok(words)
}

/// Reads the number of a line such as `*3` or `$12`.
fn read_number(from: &mut impl BufRead) -> io::Result<usize> {
    let mut line = String::new();
    from.take(32).read_line(&mut line)?;
    let number = line.trim_end().get(1..).and_then(|number| number.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The requests that are no scripts.
const NATIVE: [&str; 3] = ["SET", "DELIFEQ", "DELEX"];
/// More words than any command of the library has.
const WORDS: usize = 1_000;
const SILENCE: Duration = Duration::from_secs(60);
