//! Very many locks that are held: what one costs in memory, and whether their extensions come in time.

use std::{
    fmt, fs,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use redlock_core::{
    Acquire, AcquireReply, BackendError, Extend, KeepAlive, Lock, LockBackend, Redlock, Release,
    ReleaseReply, TokioRuntime,
};
use serde::{Deserialize, Serialize};

use super::{
    contender::cpu,
    fleet::Program,
    stats::{Spread, counted_percentile},
    table::{Line, Unit},
    worker::{Order, Worker},
};
use crate::{adapter::Adapter, server::Server};

/// How many locks are held, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Many {
    locks: usize,
    ttl: Duration,
    watch: Duration,
}

/// What holding them was like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Resident bytes of a lock, without its name.
    bytes: f64,
    /// How long at most after the last one an extension came, as a share of the TTL, for all but one of a
    /// thousand.
    interval: f64,
    extensions: usize,
    lost: usize,
    /// CPU time over time.
    busy: f64,
}

/// 100,000 locks with nodes that grant everything, and 10,000 on servers.
pub(crate) fn many() -> Vec<Line> {
    let mut lines = Vec::new();
    let many = Many { locks: 100_000, ttl: Duration::from_secs(30), watch: Duration::from_secs(32) };
    let held: Held = Worker::start(&[]).ask(&Order::Hold(many.clone()));
    let work = format!("{} locks with keep-alive, TTL 30 s, nodes that only grant", many.locks);
    let figure = "resident bytes of one, without its name";
    lines.push(
        Line::new(&work, figure, Unit::Bytes, one(held.bytes))
            .at_most(1024.0)
            .headline("one of 100,000 locks with keep-alive: resident bytes without its name"),
    );
    lines.extend(in_time(&work, &held));

    let redis = Program::of_the_tests();
    let servers = redis.start(3);
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let many = Many { locks: 10_000, ttl: Duration::from_secs(10), watch: Duration::from_secs(11) };
    let (mut worker, empty) = (Worker::start(&urls), servers[0].info("memory", "used_memory"));
    worker.tell(&Order::Hold(many.clone()));
    // All of them are there by then.
    thread::sleep(many.watch / 2);
    let full = servers[0].info("memory", "used_memory");
    let held: Held = worker.reply();
    let work = format!("{} locks with keep-alive, TTL 10 s, {}", many.locks, redis.name);
    lines.extend(in_time(&work, &held));
    let bytes = one((full - empty) / many.locks as f64);
    lines.push(Line::new(&work, "bytes of one at a node, with its name", Unit::Bytes, bytes));
    lines
}

fn in_time(work: &str, held: &Held) -> [Line; 4] {
    let late = (held.interval - LATEST_SHARE).max(0.0) * 100.0;
    let figure = "lateness of extensions at p99.9, of the TTL";
    [
        Line::new(work, figure, Unit::Percent, one(late)).at_most(2.0),
        Line::new(work, "extensions", Unit::Count, one(held.extensions as f64)),
        Line::new(work, "lost", Unit::Count, one(held.lost as f64)).at_most(0.0),
        Line::new(work, "client CPU, of a core", Unit::Percent, one(held.busy * 100.0)),
    ]
}

/// A run of half a minute is one round.
fn one(number: f64) -> Spread {
    Spread { rounds: vec![number] }
}

/// Takes them, lets the library extend them, and looks at what is left.
pub(crate) async fn hold(many: &Many, urls: &[String]) -> Held {
    let record = Arc::new(Record::new(many));
    let runtime = TokioRuntime::current();
    let node =
        |url: Option<&String>| Recorded { node: url.map(|url| Adapter::RedisRs.open(url)), record: None };
    let mut nodes: Vec<Recorded> = (0..3).map(|number| node(urls.get(number))).collect();
    // The others are asked at the same time.
    nodes[0].record = Some(record.clone());
    let redlock = Redlock::builder(runtime).nodes(nodes).build().expect("nodes");
    drop(take(&redlock, many, "warm-up", WARM_UP).await);

    let before = resident();
    let held = take(&redlock, many, "lock", many.locks).await;
    let (start, spent) = (Instant::now(), cpu());
    tokio::time::sleep(many.watch).await;
    let busy = (cpu() - spent).as_secs_f64() / start.elapsed().as_secs_f64();
    let name = name("lock", 0).len() as f64;
    Held {
        bytes: (resident() - before) / many.locks as f64 - name,
        interval: counted_percentile(&record.counts(), 99.9) / PARTS as f64,
        extensions: record.extensions.load(Ordering::Relaxed),
        lost: held.iter().filter(|lock| !lock.is_valid()).count() + many.locks - held.len(),
        busy,
    }
}

async fn take(redlock: &Redlock, many: &Many, kind: &str, number: usize) -> Vec<KeepAlive> {
    let lock = |number| async move {
        let lock = redlock.lock(name(kind, number), many.ttl).await;
        lock.ok().map(Lock::keep_alive)
    };
    stream::iter(0..number)
        .map(lock)
        .buffer_unordered(AT_ONCE)
        .filter_map(|lock| async { lock })
        .collect()
        .await
}

fn name(kind: &str, number: usize) -> String {
    format!("{kind}:{number:06}")
}

/// In bytes.
fn resident() -> f64 {
    let pages = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: f64 = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * rustix::param::page_size() as f64
}

/// When the locks of a run were extended.
struct Record {
    start: Instant,
    ttl: Duration,
    /// For each lock, the microseconds since the start at which it was last taken or extended.
    last: Vec<AtomicU64>,
    /// How many extensions came so many parts of the TTL after the last one.
    intervals: Vec<AtomicUsize>,
    extensions: AtomicUsize,
}

impl Record {
    fn new(many: &Many) -> Self {
        // Written to, so that the pages are there before memory is measured.
        let last = (0..many.locks).map(|_| AtomicU64::new(1)).collect();
        let intervals = (0..=PARTS * 2).map(|_| AtomicUsize::new(0)).collect();
        let start = Instant::now();
        Self { start, ttl: many.ttl, last, intervals, extensions: AtomicUsize::new(0) }
    }

    /// A lock of the run is taken or extended, so long after the start. Returns the time since the last time.
    fn taken(&self, name: &str, now: Duration) -> Option<Duration> {
        let number: usize = name.strip_prefix("lock:")?.parse().ok()?;
        let now = now.as_micros() as u64;
        let before = self.last.get(number)?.swap(now, Ordering::Relaxed);
        Some(Duration::from_micros(now.saturating_sub(before)))
    }

    fn extended(&self, name: &str, now: Duration) {
        let Some(interval) = self.taken(name, now) else { return };
        let part = (interval.as_secs_f64() / self.ttl.as_secs_f64() * PARTS as f64) as usize;
        self.intervals[part.min(self.intervals.len() - 1)].fetch_add(1, Ordering::Relaxed);
        self.extensions.fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> Vec<usize> {
        self.intervals.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// A node, or one that grants everything and keeps nothing.
struct Recorded {
    node: Option<Arc<dyn LockBackend>>,
    record: Option<Arc<Record>>,
}

#[async_trait]
impl LockBackend for Recorded {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let reply = match &self.node {
            Some(node) => node.acquire(request).await,
            None => Ok(AcquireReply::Granted),
        };
        if let Some(record) = &self.record {
            for name in request.resources.iter() {
                record.taken(name, record.start.elapsed());
            }
        }
        reply
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        let reply = match &self.node {
            Some(node) => node.extend(request).await,
            None => Ok(AcquireReply::Granted),
        };
        if let Some(record) = &self.record {
            request.resources.iter().for_each(|name| record.extended(name, record.start.elapsed()));
        }
        reply
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        match &self.node {
            Some(node) => node.release(request).await,
            None => Ok(ReleaseReply::Removed),
        }
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").field("node", &self.node).finish_non_exhaustive()
    }
}

/// An extension is due after half of the TTL at the latest.
const LATEST_SHARE: f64 = 0.5;
/// The parts of a TTL in which intervals are counted.
const PARTS: usize = 1000;
const WARM_UP: usize = 1000;
const AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_counted_in_thousandths_of_the_ttl() {
        let seconds = Duration::from_secs;
        let record = Record::new(&Many { locks: 2, ttl: seconds(30), watch: seconds(30) });
        record.taken("lock:000001", seconds(1));
        record.extended("lock:000001", seconds(13));
        record.extended("lock:000001", seconds(28));
        record.extended("lock:000001", seconds(100));
        record.extended("warm-up:000001", seconds(5));
        record.extended("lock:000002", seconds(5));
        let counted: Vec<usize> =
            (0..).zip(record.counts()).filter(|(_, n)| *n > 0).map(|(at, _)| at).collect();
        assert_eq!(counted, [400, 500, 2 * PARTS], "and what is longer than twice the TTL");
        assert_eq!(record.extensions.load(Ordering::Relaxed), 3);
    }
}
