//! A process that locks for a bench: it reads orders from standard input, one a line, and replies to each
//! with a line. It ends with its input, and so with the process that started it.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{self, Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use redlock_core::{Lock, Redlock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::sleep,
};

use super::{contender::micros, held};
use crate::{adapter::Adapter, chaos::now};

/// What a worker is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Locks and unlocks this often, and holds it for a millisecond each time. The reply is [`Turns`].
    Turns { resource: String, turns: usize },
    /// Acquires and keeps it. The reply is the instant at which it had the lock.
    Lock { resource: String, ttl: Duration },
    /// Releases what it keeps. The reply is the instant before that.
    Unlock,
    /// Holds many locks for a while. The reply is [`held::Held`].
    Hold(held::Many),
}

/// What the turns of a worker were like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Turns {
    /// How long each lock took, in microseconds.
    pub(crate) waits: Vec<f64>,
    pub(crate) attempts: u32,
}

/// A worker, as seen from the process that started it. Dropping it kills it.
pub(crate) struct Worker {
    process: Child,
    input: ChildStdin,
    replies: Receiver<String>,
}

impl Worker {
    /// Starts this program once more.
    pub(crate) fn start(urls: &[String]) -> Self {
        let program = env::current_exe().expect("the path of this program");
        let mut process = Command::new(program)
            .arg(ARGUMENT)
            .args(urls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, replies) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { process, input, replies }
    }

    pub(crate) fn tell(&mut self, order: &Order) {
        let line = serde_json::to_string(order).expect("an order");
        writeln!(self.input, "{line}").expect("a worker that runs");
    }

    pub(crate) fn reply<T: DeserializeOwned>(&self) -> T {
        let line = self.replies.recv_timeout(PATIENCE).expect("a reply of the worker in time");
        serde_json::from_str(&line).expect("a reply to this order")
    }

    pub(crate) fn ask<T: DeserializeOwned>(&mut self, order: &Order) -> T {
        self.tell(order);
        self.reply()
    }

    /// Its last lock stays on the nodes.
    pub(crate) fn kill(mut self) {
        let _ = self.process.kill();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Works, if this process has been started as a worker. Does not return then.
pub(crate) fn work_if_told() {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() != Some(ARGUMENT) {
        return;
    }
    let (sender, orders) = unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
        process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work(arguments.collect(), orders));
    process::exit(0);
}

async fn work(urls: Vec<String>, mut orders: UnboundedReceiver<String>) {
    let redlock =
        (!urls.is_empty()).then(|| Adapter::RedisRs.manager_of(urls.clone()).build().expect("nodes"));
    let mut kept = None;
    while let Some(line) = orders.recv().await {
        let order = serde_json::from_str(&line).expect("an order");
        let reply = obey(order, redlock.as_ref(), &urls, &mut kept).await;
        println!("{reply}");
    }
}

async fn obey(order: Order, redlock: Option<&Redlock>, urls: &[String], kept: &mut Option<Lock>) -> String {
    let manager = || redlock.expect("nodes for this order");
    match order {
        Order::Turns { resource, turns } => json(&take_turns(manager(), &resource, turns).await),
        Order::Lock { resource, ttl } => {
            *kept = manager().lock(resource, ttl).retry_forever().await.ok();
            json(&now())
        }
        Order::Unlock => {
            let before = now();
            if let Some(lock) = kept.take() {
                let _ = lock.unlock().await;
            }
            // Whoever waits for the lock has it by then: on two cores, the reply would be in its way.
            sleep(AFTER_UNLOCK).await;
            json(&before)
        }
        Order::Hold(many) => json(&held::hold(&many, urls).await),
    }
}

async fn take_turns(redlock: &Redlock, resource: &str, turns: usize) -> Turns {
    let mut all = Turns { waits: Vec::new(), attempts: 0 };
    for _ in 0..turns {
        let start = Instant::now();
        let lock = redlock.lock(resource, super::TTL).retry_forever().await.expect("all servers work");
        all.waits.push(micros(start.elapsed()));
        all.attempts += lock.attempts();
        sleep(Duration::from_millis(1)).await;
        let _ = lock.unlock().await;
    }
    all
}

fn json(reply: &impl Serialize) -> String {
    serde_json::to_string(reply).expect("numbers")
}

const ARGUMENT: &str = "--worker";
/// Longer than a hand-over takes.
const AFTER_UNLOCK: Duration = Duration::from_millis(5);
/// Longer than any order takes.
const PATIENCE: Duration = Duration::from_secs(120);
