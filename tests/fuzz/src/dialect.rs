//! Replies to requests in the forms that a server may have, in any order and over any connections.

use std::{
    cell::RefCell,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arbitrary::{Arbitrary, Unstructured};
use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, FencedReply, Release, ReleaseReply, Resources,
    Token,
    redis::{Argument, Command, Dialect, Reply, classify},
};

/// Each request is decided by a reply to its own last command, whatever came before.
pub fn check(data: &[u8]) {
    let Ok(scene) = Scene::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let dialect = if scene.only_scripts { Dialect::scripts() } else { Dialect::new() };
    let connection = AtomicU64::new(0);
    for turn in &scene.turns {
        turn.reply_alone();
        connection.fetch_add(turn.connections.into(), Ordering::Relaxed);
        let wire = Wire { turn, token: token(), connection: &connection, sent: Mutex::default() };
        RUNTIME.with_borrow(|runtime| runtime.block_on(turn.play(&dialect, &wire, scene.only_scripts)));
    }
}

#[derive(Arbitrary, Debug)]
struct Scene {
    only_scripts: bool,
    turns: Vec<Turn>,
}

#[derive(Arbitrary, Debug)]
struct Turn {
    acquires: bool,
    several: bool,
    /// How many connections are made before it.
    connections: u8,
    /// The replies to its commands; then the node is lost.
    replies: Vec<Answer>,
}

#[derive(Arbitrary, Debug)]
enum Answer {
    Nil,
    Small(u8),
    Number(i64),
    Own,
    Text(Vec<u8>),
    Other,
    /// The server does not let this user call the command, or does not know it.
    Denied(bool),
    Line(String),
    /// The connection is lost, and another one is made.
    Lost,
}

/// A server that replies as it is told.
struct Wire<'a> {
    turn: &'a Turn,
    token: Token,
    connection: &'a AtomicU64,
    /// Each command's name, whether it acquires or releases with the token, the largest number that it
    /// accepts, and the reply.
    sent: Mutex<Vec<Sent>>,
}

struct Sent {
    name: &'static str,
    most: i64,
    accepted: bool,
    reply: Option<Reply>,
    has_token: bool,
}

impl Wire<'_> {
    fn send(&self, command: Command<'_>) -> Result<Reply, BackendError> {
        let arguments: Vec<_> = command.arguments().collect();
        assert_eq!((arguments.len(), command.is_empty()), (command.len(), false));
        assert_eq!(arguments[command.first_key()], Argument::Text("a"));
        let printed = format!("{command:?}{arguments:?}");
        assert!(!printed.contains(self.token.as_str()), "{printed}");
        let has_token = arguments.contains(&Argument::Text(self.token.as_str()));

        let mut sent = self.sent.lock().expect("nobody panicked");
        let answer = self
            .turn
            .replies
            .get(sent.len())
            .map_or_else(|| Err(self.lost()), |answer| self.reply(answer, &command));
        let numbers = (0..=9).filter(|number| command.accepts(&Reply::Number(*number)));
        sent.push(Sent {
            name: command.name(),
            most: numbers.max().unwrap_or(-1),
            accepted: answer.as_ref().is_ok_and(|reply| command.accepts(reply)),
            reply: answer.as_ref().ok().cloned(),
            has_token,
        });
        answer
    }

    fn reply(&self, answer: &Answer, command: &Command<'_>) -> Result<Reply, BackendError> {
        Ok(match answer {
            Answer::Nil => Reply::Nil,
            Answer::Small(number) => Reply::Number(i64::from(number % 8)),
            Answer::Number(number) => Reply::Number(*number),
            Answer::Own => Reply::Text(self.token.as_str().into()),
            Answer::Text(text) => Reply::Text(text.clone()),
            Answer::Other => Reply::Other,
            Answer::Denied(true) => {
                let name = command.name().to_lowercase();
                return Err(classify(&format!(
                    "NOPERM User x has no permissions to run the '{name}' command"
                ))
                .into());
            }
            Answer::Denied(false) => {
                return Err(classify(&format!("ERR unknown command '{}'", command.name())).into());
            }
            Answer::Line(line) => return Err(classify(line).into()),
            Answer::Lost => return Err(self.lost()),
        })
    }

    fn lost(&self) -> BackendError {
        self.connection.fetch_add(1, Ordering::Relaxed);
        BackendError::new(BackendErrorKind::Indeterminate, "lost")
    }
}

impl Turn {
    async fn play(&self, dialect: &Dialect, wire: &Wire<'_>, only_scripts: bool) {
        let resources: Resources = if self.several { ["a", "b"].into() } else { "a".into() };
        let connection = || wire.connection.load(Ordering::Relaxed);
        let send = |command| std::future::ready(wire.send(command));
        let outcome = if self.acquires {
            let request = Acquire::new(&resources, &wire.token, TTL, TTL);
            let outcome = dialect.acquire(request, connection, send).await;
            outcome.map(|reply| reply == AcquireReply::Granted)
        } else {
            let request = Release::new(&resources, &wire.token, TTL);
            let outcome = dialect.release(request, connection, send).await;
            outcome.map(|reply| reply == ReleaseReply::Removed)
        };
        let sent = wire.sent.lock().expect("nobody panicked");
        self.judge(outcome.as_ref(), &sent, only_scripts);
    }

    fn judge(&self, outcome: Result<&bool, &BackendError>, sent: &[Sent], only_scripts: bool) {
        let names: Vec<_> = sent.iter().map(|sent| sent.name).collect();
        assert!((1..=4).contains(&sent.len()), "{names:?}");
        if only_scripts || self.several {
            assert_eq!(names, ["EVAL"]);
        }
        // Its release may be behind it already: an acquire is sent once, and the others only probe.
        if self.acquires {
            let times = sent.iter().filter(|sent| sent.has_token).count();
            assert!(times == 1 && sent[0].has_token && matches!(sent[0].name, "EVAL" | "SET"), "{names:?}");
            assert!(sent[1..].iter().all(|sent| matches!(sent.name, "DELIFEQ" | "DELEX")), "{names:?}");
        } else {
            assert!(sent.iter().all(|sent| sent.has_token && sent.name != "SET"), "{names:?}");
        }
        let last = sent.last().expect("one at least");
        match outcome {
            Ok(yes) => {
                assert!(last.accepted, "{last:?} decided the request as {yes}");
                assert!(!self.acquires || sent.len() == 1, "{names:?}");
                let expected = match &last.reply {
                    Some(Reply::Number(number)) => (0..=last.most).contains(number) && number % 2 == 1,
                    Some(Reply::Nil) => true,
                    Some(Reply::Text(text)) => text == token().as_str().as_bytes(),
                    _ => panic!("{last:?} decided the request"),
                };
                assert_eq!(*yes, expected, "{last:?}");
            }
            Err(error) => {
                assert!(
                    !error.message().is_empty() && !error.message().contains(char::is_control),
                    "{error:?}"
                );
                // A reply to an acquire that the command has decides it.
                assert!(!(self.acquires && sent.len() == 1 && last.accepted), "{last:?} is {error:?}");
            }
        }
    }

    /// What the replies mean alone.
    fn reply_alone(&self) {
        for answer in &self.replies {
            let Answer::Number(number) = answer else { continue };
            let reply = Reply::Number(*number);
            let vote = reply.vote().ok().map(|vote| vote == AcquireReply::Granted);
            assert_eq!(
                vote,
                [Some(false), Some(true)].get(usize::try_from(*number).unwrap_or(9)).copied().flatten()
            );
            match reply.fenced() {
                Ok(FencedReply::Granted { counter }) => assert_eq!(i64::try_from(counter.get()), Ok(*number)),
                Ok(_) => assert_eq!(*number, 0),
                Err(_) => assert!(!(0..1 << 53).contains(number), "{number}"),
            }
        }
    }
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} to {} (up to {})", self.reply, self.name, self.most)
    }
}

fn token() -> Token {
    "0123456789abcdef0123456789abcdef01234567".parse().expect("a token")
}

thread_local! {
    static RUNTIME: RefCell<tokio::runtime::Runtime> =
        RefCell::new(tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));
}

const TTL: Duration = Duration::from_secs(10);
