//! Six workers share one account, and two of the five nodes fail during the run. Only the lock protects the
//! account: a worker reads it, pauses, and writes it back, so two workers at a time would lose updates.
//!
//! ```text
//! cargo run --example quickstart
//! cargo run --example quickstart -- redis://127.0.0.1:7001 redis://127.0.0.1:7002 redis://127.0.0.1:7003
//! ```
//!
//! Without arguments the nodes live in the process, and the demo stops one and shuts down another. With the
//! URLs of servers it fails none of them: stop, kill and continue them yourself while it runs, and watch. A
//! server that restarts without its data has to stay away for the TTL first, 1 s here, as always with
//! Redlock.
//!
//! At the end the demo checks from its records that no two holds overlapped and that no update was lost, and
//! shows that rounds do not take longer while nodes are down. The exit code is 0 when all is well, 1 when it
//! is not, and 2 when an argument is invalid.

mod proof;
mod summary;
mod timeline;
mod watch;

use std::{
    env,
    error::Error,
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use redlock_redis_rs::{LockBackend, MemoryBackend, RedisBackend, Redlock, TokioRuntime, UnlockOutcome};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    proof::{Proof, Span},
    summary::{Hold, Summary},
    timeline::{Timeline, nth},
    watch::{Health, Watched},
};

const WORKERS: [&str; 6] = ["worker 1", "worker 2", "worker 3", "worker 4", "worker 5", "worker 6"];
const HOLDS_EACH: usize = 4;
const HOLDS: usize = WORKERS.len() * HOLDS_EACH;

const TTL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

type Failed = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let urls: Vec<String> = env::args_os().skip(1).map(|url| url.to_string_lossy().into_owned()).collect();
    let run = match Run::new(&urls) {
        Ok(run) => Arc::new(run),
        Err(error) => {
            eprintln!("quickstart: {error}");
            return ExitCode::from(2);
        }
    };
    let (holds, failures) = run.clone().work().await;
    run.timeline.end();

    let spans: Vec<Span> = holds.iter().map(|hold| hold.span).collect();
    let proof = Proof::new(&spans, run.account.load(Ordering::Acquire), HOLDS);
    print!("{}", Summary { workers: &WORKERS, holds: &holds, health: &run.health });
    println!("{proof}{}", summary::rounds(&holds));
    for failure in &failures {
        println!("{failure}");
    }
    if proof.holds_up() && failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the workers share.
struct Run {
    redlock: Redlock,
    resource: String,
    account: AtomicUsize,
    timeline: Arc<Timeline>,
    health: Arc<Health>,
    /// The nodes that the demo fails; none when they are servers.
    ours: Vec<MemoryBackend>,
    begun: AtomicUsize,
}

impl Run {
    fn new(urls: &[String]) -> Result<Self, Failed> {
        let runtime = TokioRuntime::current();
        let mut ours = Vec::new();
        let mut nodes: Vec<Arc<dyn LockBackend>> = Vec::new();
        for (position, url) in (1..).zip(urls) {
            // The URL itself may have a password in it.
            let node =
                RedisBackend::open(url.as_str()).map_err(|error| format!("argument {position}: {error}"))?;
            nodes.push(Arc::new(node));
        }
        if nodes.is_empty() {
            ours.extend(["a", "b", "c", "d", "e"].map(|letter| memory_node(letter, &runtime)));
            nodes.extend(ours.iter().map(|node| Arc::new(node.clone()) as Arc<dyn LockBackend>));
        }

        let timeline = Arc::new(Timeline::new(
            nodes.iter().map(|node| node.name().unwrap_or_default().to_owned()).collect(),
        ));
        let health = Arc::new(Health::new(timeline.clone()));
        let watched = (0..).zip(nodes).map(|(position, node)| Watched::new(node, position, health.clone()));
        let redlock = Redlock::builder(runtime).nodes(watched).build()?;

        timeline.begin(&WORKERS);
        let (resource, begun) = (unique("quickstart:account"), AtomicUsize::new(0));
        Ok(Self { redlock, resource, account: AtomicUsize::new(0), timeline, health, ours, begun })
    }

    /// Lets all workers work, and returns their holds and what went wrong.
    async fn work(self: Arc<Self>) -> (Vec<Hold>, Vec<String>) {
        let mut workers = JoinSet::new();
        for (worker, name) in WORKERS.iter().enumerate() {
            let run = self.clone();
            workers.spawn(async move {
                let mut holds = Vec::new();
                let outcome = run.one_worker(worker, &mut holds).await;
                (holds, outcome.map_err(|error| format!("{name} gave up: {error}")))
            });
        }
        let (mut holds, mut failures) = (Vec::new(), Vec::new());
        while let Some(finished) = workers.join_next().await {
            match finished {
                Ok((mut own, outcome)) => {
                    holds.append(&mut own);
                    failures.extend(outcome.err());
                }
                Err(panicked) => failures.push(format!("a worker panicked: {panicked}")),
            }
        }
        holds.sort_by_key(|hold| hold.span.from);
        (holds, failures)
    }

    async fn one_worker(&self, worker: usize, holds: &mut Vec<Hold>) -> Result<(), Failed> {
        let (timeline, name) = (&self.timeline, WORKERS[worker]);
        for turn in 0..HOLDS_EACH {
            let asked = timeline.now();
            let lock = self
                .redlock
                .lock(&self.resource, TTL)
                .retry_forever()
                .acquire_timeout(PATIENCE)
                .retry_delay(Duration::from_millis(15))
                .retry_jitter(Duration::from_millis(10))
                .await?;
            let from = timeline.now();
            let round = lock.took();
            let attempt = nth(lock.attempts());
            timeline.say(from, name, &format!("holds, {attempt} attempt"), lock.replies());
            self.fail_nodes();

            let seen = self.account.load(Ordering::Acquire);
            sleep(varied(worker, turn)).await;
            // A worker that was delayed for longer than the TTL must not write any more.
            if !lock.is_valid() {
                return Err("the lock lapsed before the account was written".into());
            }
            self.account.store(seen + 1, Ordering::Release);

            // Before the release is sent: from then on the next worker may hold the lock.
            let to = timeline.now();
            let span = Span { from, to };
            timeline.say(to, name, &format!("releases after {} ms", span.length().as_millis()), &[]);
            holds.push(Hold { worker, asked, span, round });
            match lock.unlock().await {
                Ok(UnlockOutcome::Released) => {}
                Ok(_) => timeline.say(timeline.now(), name, "no longer held it", &[]),
                Err(error) => timeline.say(timeline.now(), name, &format!("cannot confirm: {error}"), &[]),
            }
            // Without a pause this worker would take the lock again before the others notice that it is free.
            sleep(varied(worker + 1, turn)).await;
        }
        Ok(())
    }

    /// Fails a node after a third of the holds, and another after two thirds: while the lock is held, so that
    /// its release is the first request that fails.
    fn fail_nodes(&self) {
        let [_, b, _, d, _] = &self.ours[..] else { return };
        let begun = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        if begun == HOLDS / 3 {
            b.stop();
            self.timeline.say(
                self.timeline.now(),
                b.name().unwrap_or_default(),
                "is stopped, as by SIGSTOP",
                &[],
            );
        } else if begun == 2 * HOLDS / 3 {
            d.shut_down();
            self.timeline.say(self.timeline.now(), d.name().unwrap_or_default(), "is shut down", &[]);
        }
    }
}

fn memory_node(letter: &str, runtime: &TokioRuntime) -> MemoryBackend {
    let node = MemoryBackend::new(runtime.clone()).with_name(format!("node {letter}"));
    node.delay_requests(Duration::from_millis(1));
    node.delay_replies(Duration::from_millis(1));
    node
}

/// A name that no other run uses at the same time.
fn unique(name: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{name}:{}-{}", process::id(), now.as_micros())
}

/// From 20 to 60 ms, another for each worker and turn.
fn varied(worker: usize, turn: usize) -> Duration {
    let spread = (worker * 13 + turn * 17) % 41;
    Duration::from_millis(20 + spread as u64)
}

#[cfg(test)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_workers_hold_the_lock_while_two_nodes_fail() {
    let run = Arc::new(Run::new(&[]).unwrap());
    let (holds, failures) = run.clone().work().await;
    let spans: Vec<Span> = holds.iter().map(|hold| hold.span).collect();
    let proof = Proof::new(&spans, run.account.load(Ordering::Acquire), HOLDS);
    assert!(proof.holds_up() && failures.is_empty(), "{proof}, {failures:?}");
    // On a busy machine, a node that works may be slow, too.
    assert!(run.health.down(run.timeline.now()).is_superset(&[1, 3].into()), "{:?}", run.health.changes());
}
