//! Answers that a Redis server never gives, or that nobody has heard of: by a server that says whatever it is told to.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use redlock_core::{
    Acquire, BackendErrorKind,
    BackendErrorKind::{Indeterminate, Rejected, Transient},
};
use redlock_tests::adapter::Adapter;
use rstest::rstest;

const SOON: Duration = Duration::from_secs(10);
/// Commands that one connection may send, and arguments of one.
const BOUND: usize = 1_000;

/// Answers each `EVAL` as it is told, in the protocol's bytes without the last line break.
struct Fake {
    port: u16,
    reply: Arc<Mutex<String>>,
    over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Fake {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (reply, over) = (Arc::<Mutex<String>>::default(), Arc::<AtomicBool>::default());
        let accepting = thread::spawn({
            let (reply, over) = (Arc::clone(&reply), Arc::clone(&over));
            move || {
                for stream in listener.incoming().take(BOUND) {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let reply = Arc::clone(&reply);
                    // It ends when the client closes the connection, or is silent for long.
                    thread::spawn(move || stream.and_then(|stream| serve(&stream, &reply)));
                }
            }
        });
        Self { port, reply, over, accepting: Some(accepting) }
    }

    fn says(&self, reply: &str) {
        reply.clone_into(&mut self.reply.lock().unwrap());
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread up.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        drop(self.accepting.take().map(JoinHandle::join));
    }
}

fn serve(mut stream: &TcpStream, reply: &Mutex<String>) -> io::Result<()> {
    stream.set_read_timeout(Some(6 * SOON))?;
    let mut commands = BufReader::new(stream.try_clone()?);
    for _ in 0..BOUND {
        let command = read_command(&mut commands)?;
        let answer = match &*command[0].to_ascii_uppercase() {
            "EVAL" => reply.lock().unwrap().clone(),
            "PING" => "+PONG".to_owned(),
            "INFO" => "$19\r\nredis_version:7.0.0".to_owned(),
            "CLIENT" if command[1].eq_ignore_ascii_case("ID") => ":1".to_owned(),
            _ => "+OK".to_owned(),
        };
        stream.write_all(format!("{answer}\r\n").as_bytes())?;
    }
    Ok(())
}

fn read_command(from: &mut impl BufRead) -> io::Result<Vec<String>> {
    let arguments = read_number(from)?;
    (0..arguments.min(BOUND))
        .map(|_| {
            let mut argument = vec![0; read_number(from)? + "\r\n".len()];
            from.read_exact(&mut argument)?;
            Ok(String::from_utf8_lossy(&argument).trim_end().to_owned())
        })
        .collect()
}

/// Of a line such as `*3` or `$12`.
fn read_number(from: &mut impl BufRead) -> io::Result<usize> {
    let mut line = String::new();
    from.take(32).read_line(&mut line)?;
    let number = line.trim_end().get(1..).and_then(|number| number.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_adapter_gives_an_answer_the_class_and_the_words_that_it_has_everywhere(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let server = Fake::start();
    let node = adapter.open(&format!("redis://127.0.0.1:{}", server.port));
    let (resources, token) = ("a".into(), "0".repeat(40).parse().unwrap());
    let odd = "an answer of another type";
    let cases: [(&str, BackendErrorKind, &str); 18] = [
        ("-UNKNOWN x", Indeterminate, "UNKNOWN x"),
        ("-UNKNOWN", Indeterminate, "UNKNOWN"),
        ("-ERR_X y", Indeterminate, "ERR_X y"),
        ("-upstream failure", Indeterminate, "upstream failure"),
        ("-loading x", Indeterminate, "loading x"),
        ("-ERR Connection timed out", Indeterminate, "ERR Connection timed out"),
        ("-", Indeterminate, "an error without words"),
        ("+OK", Indeterminate, odd),
        ("+QUEUED", Indeterminate, odd),
        ("$-1", Indeterminate, odd),
        ("*0", Indeterminate, odd),
        ("*1\r\n:1", Indeterminate, odd),
        ("$1\r\n1", Indeterminate, odd),
        (":2", Indeterminate, odd),
        ("-FAILOVER in progress", Transient, "FAILOVER in progress"),
        ("-NOTREADY x", Transient, "NOTREADY x"),
        (
            "-ERR max number of clients + cluster connections reached",
            Transient,
            "ERR max number of clients + cluster connections reached",
        ),
        ("-DENIED x", Rejected, "DENIED x"),
    ];
    for (reply, kind, words) in cases {
        server.says(reply);
        let request = Acquire::new(&resources, &token, SOON, SOON);
        let error = node.acquire(request).await.expect_err(reply);
        assert_eq!((error.kind(), error.message()), (kind, words), "{reply:?}");
    }
}
