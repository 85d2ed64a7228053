//! Managers of several processes that want the same resource: how they share it, and what that costs.

use std::{
    cell::{Cell, RefCell},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, LockBackend, MemoryBackend, Redlock,
    Release, ReleaseReply, Runtime as _, Watch, async_trait,
};
use redlock_tests::{
    harness::{Harness, ms, s},
    sim_runtime::SimRuntime,
};

const TTL: Duration = Duration::from_secs(60);
/// Between a manager and a node.
const ONE_WAY: Duration = Duration::from_micros(100);

/// A connection to a node on which each request and each report takes another time: else the same manager
/// wins every race.
struct Uneven {
    node: MemoryBackend,
    runtime: SimRuntime,
    entropy: Mutex<Entropy>,
    /// When the last request has been sent: they keep their order.
    last: Mutex<Instant>,
    cannot_watch: Arc<AtomicBool>,
}

type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

impl Uneven {
    /// Up to half of the time between a manager and a node.
    fn delay(&self) -> Duration {
        let mut bytes = [0; 4];
        (self.entropy.lock().unwrap())(&mut bytes);
        ONE_WAY.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX) / 2.0)
    }

    async fn sent(&self) {
        let now = self.runtime.now();
        let due = {
            let mut last = self.last.lock().unwrap();
            *last = (now + self.delay()).max(*last + Duration::from_nanos(1));
            *last
        };
        self.runtime.sleep(due - now).await;
    }
}

impl fmt::Debug for Uneven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

#[async_trait]
impl LockBackend for Uneven {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.sent().await;
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.sent().await;
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.sent().await;
        self.node.release(request).await
    }

    async fn watch(&self, request: Watch<'_>) -> Result<(), BackendError> {
        if self.cannot_watch.load(Ordering::Relaxed) {
            return Err(BackendError::new(BackendErrorKind::Rejected, "no watches"));
        }
        self.node.watch(request).await?;
        self.runtime.sleep(self.delay()).await;
        Ok(())
    }
}

fn harness(seed: u64) -> Harness {
    let harness = Harness::seeded(seed, 3);
    for node in &harness.nodes {
        node.delay_requests(ONE_WAY);
        node.delay_replies(ONE_WAY);
    }
    harness
}

fn uneven(harness: &Harness, cannot_watch: &Arc<AtomicBool>) -> Redlock {
    harness.redlock_over(|node| Uneven {
        node,
        runtime: harness.runtime.clone(),
        entropy: Mutex::new(Box::new(harness.sim.entropy())),
        last: Mutex::new(harness.now()),
        cannot_watch: cannot_watch.clone(),
    })
}

/// How long a lock and its unlock take, without any delay of the [`Uneven`].
const CYCLE: Duration = Duration::from_micros(400);

/// What it was like when managers locked again as soon as they had unlocked.
#[derive(Debug)]
struct Shared {
    /// The wait that only one of a hundred exceeds, in turns of all others, once each.
    p99: f64,
    /// The turns of the one that had fewest, over those of the one that had most, when the first was done.
    least: f64,
    /// How long a turn took, over that of a manager alone.
    turn: f64,
    /// Rounds for each turn.
    attempts: f64,
}

fn shared(seed: u64, managers: u32, turns: u32, hold: Duration) -> Shared {
    let harness = harness(seed);
    let redlocks: Vec<Redlock> = (0..managers).map(|_| uneven(&harness, &Arc::default())).collect();
    let alone = (hold + CYCLE + ONE_WAY / 2).as_secs_f64();
    let held = Cell::new(false);
    let had = RefCell::new(vec![0; redlocks.len()]);
    let least = Cell::new(None);
    let take_turns = async |number: usize| {
        let (mut waits, mut attempts) = (Vec::new(), 0);
        for _ in 0..turns {
            let (lock, took) = harness.timed(redlocks[number].lock("x", TTL).retry_forever()).await;
            let lock = lock.unwrap();
            waits.push(took.as_secs_f64() / alone / f64::from(managers - 1));
            attempts += lock.attempts();
            assert!(!held.replace(true), "two have it");
            harness.runtime.sleep(hold).await;
            held.set(false);
            lock.unlock().await.unwrap();
            had.borrow_mut()[number] += 1;
        }
        if least.get().is_none() {
            least.set(had.borrow().iter().min().copied());
        }
        (waits, attempts)
    };
    let all = harness.timed(join_all((0..redlocks.len()).map(take_turns)));
    let (each, took) = harness.run(all);
    let mut waits: Vec<f64> = each.iter().flat_map(|(waits, _)| waits.clone()).collect();
    waits.sort_by(f64::total_cmp);
    let all = f64::from(managers * turns);
    Shared {
        p99: waits[waits.len() * 99 / 100],
        least: f64::from(least.get().unwrap()) / f64::from(turns),
        turn: took.as_secs_f64() / alone / all,
        attempts: f64::from(each.iter().map(|(_, attempts)| attempts).sum::<u32>()) / all,
    }
}

/// The middle one of several runs, each figure by itself.
fn usual(managers: u32, turns: u32) -> Shared {
    let runs: Vec<Shared> = (0..5).map(|seed| shared(seed, managers, turns, ms(2))).collect();
    let middle = |figure: fn(&Shared) -> f64| {
        let mut figures: Vec<f64> = runs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Shared {
        p99: middle(|run| run.p99),
        least: middle(|run| run.least),
        turn: middle(|run| run.turn),
        attempts: middle(|run| run.attempts),
    }
}

#[test]
fn many_managers_that_come_back_at_once_take_turns() {
    for managers in [8, 16] {
        let shared = usual(managers, 16);
        assert!(shared.p99 < 3.0 && shared.turn < 1.5 && shared.attempts < 3.0, "{managers}: {shared:?}");
        assert!(shared.least >= 0.2, "{managers}: {shared:?}");
    }
}

/// The first of them never waits, and so learns of the other only from a node that refuses.
#[test]
fn a_manager_that_never_waits_lets_the_only_other_one_have_its_turns() {
    let shared = usual(2, 30);
    assert!(shared.least > 0.8 && shared.turn < 1.2 && shared.attempts < 1.2, "{shared:?}");
}

#[test]
fn a_manager_without_rivals_never_waits_and_one_whose_rivals_have_gone_soon_does_not() {
    let harness = harness(1);
    let (one, other) = (harness.redlock(), harness.redlock());
    let cycle = async |redlock: &Redlock| {
        let cycle = async { redlock.lock("x", TTL).await.unwrap().unlock().await.unwrap() };
        harness.timed(cycle).await.1
    };
    harness.run(async {
        for _ in 0..5 {
            assert_eq!(cycle(&one).await, CYCLE);
        }
        for _ in 0..5 {
            let lock = other.lock("x", TTL).await.unwrap();
            let waiting = async {
                let lock = one.lock("x", TTL).await.unwrap();
                lock.unlock().await.unwrap();
            };
            let unlocked = async {
                harness.sleep(50).await;
                lock.unlock().await.unwrap();
            };
            tokio::join!(waiting, unlocked);
            // Others have come first by now.
            harness.sleep(50).await;
            assert_eq!(cycle(&one).await, CYCLE);
        }
        let lets_others_go_first = async || cycle(&one).await > CYCLE;
        assert!(lets_others_go_first().await);
        let mut cycles = 1;
        while cycles < 10 && lets_others_go_first().await {
            cycles += 1;
        }
        assert!(cycles < 10, "it does not forget");
        for _ in 0..5 {
            assert_eq!(cycle(&one).await, CYCLE);
        }
    });
}

/// Lets the manager wait for another one once, so that it knows of rivals, and has just released the lock.
async fn after_a_rival(harness: &Harness, redlock: &Redlock) {
    let rival = harness.redlock().lock("x", TTL).await.unwrap();
    let waiting = async { redlock.lock("x", TTL).retry_forever().await.unwrap() };
    let unlocked = async {
        harness.sleep(50).await;
        rival.unlock().await.unwrap();
    };
    let (lock, ()) = tokio::join!(waiting, unlocked);
    lock.unlock().await.unwrap();
}

#[test]
fn a_single_attempt_waits_for_nobody() {
    let harness = harness(1);
    let redlock = harness.redlock();
    harness.run(async {
        after_a_rival(&harness, &redlock).await;
        let (lock, took) = harness.timed(redlock.try_lock("x", TTL)).await;
        assert_eq!(took, 2 * ONE_WAY);
        lock.unwrap().unlock().await.unwrap();
        let (lock, took) = harness.timed(redlock.lock("x", TTL).retry_count(1)).await;
        assert!((4 * ONE_WAY..ms(2)).contains(&took), "{took:?}");
        lock.unwrap().unlock().await.unwrap();
    });
    harness.assert_at_rest();
}

#[test]
fn who_lets_others_go_first_does_not_wait_for_nodes_that_cannot_tell() {
    let harness = harness(1);
    let cannot_watch = Arc::default();
    let redlock = uneven(&harness, &cannot_watch);
    harness.run(async {
        after_a_rival(&harness, &redlock).await;
        cannot_watch.store(true, Ordering::Relaxed);
        let (lock, took) = harness.timed(redlock.lock("x", TTL).retry_delay(s(10))).await;
        assert!(took < ms(2), "{took:?}");
        lock.unwrap().unlock().await.unwrap();
    });
}

#[test]
fn a_hand_over_takes_a_release_and_an_acquire() {
    let harness = harness(1);
    let (one, other) = (harness.redlock(), harness.redlock());
    harness.run(async {
        let mut held = one.lock("x", TTL).await.unwrap();
        for turn in 0..6 {
            let next = if turn % 2 == 0 { &other } else { &one };
            let waiting = async { (next.lock("x", TTL).retry_forever().await.unwrap(), harness.now()) };
            let unlocked = async {
                harness.sleep(50).await;
                let begun = harness.now();
                held.unlock().await.unwrap();
                begun
            };
            let ((lock, had), begun) = tokio::join!(waiting, unlocked);
            assert_eq!(had - begun, 4 * ONE_WAY, "turn {turn}");
            assert!(lock.attempts() <= 2, "turn {turn}");
            held = lock;
        }
        held.unlock().await.unwrap();
    });
}

/// Notes which watches are eager.
#[derive(Debug)]
struct Noting {
    node: MemoryBackend,
    eager: Arc<Mutex<Vec<bool>>>,
}

#[async_trait]
impl LockBackend for Noting {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.node.release(request).await
    }

    async fn watch(&self, request: Watch<'_>) -> Result<(), BackendError> {
        self.eager.lock().unwrap().push(request.eager);
        self.node.watch(request).await
    }
}

#[test]
fn after_a_report_that_was_wrong_those_that_follow_soon_are_believed_and_later_ones_verified() {
    let harness = Harness::seeded(1, 1);
    let eager = Arc::<Mutex<Vec<bool>>>::default();
    let waiter = harness.redlock_over(|node| Noting { node, eager: eager.clone() });
    let holder = harness.redlock();
    harness.run(async {
        let mut held = holder.lock("x", TTL).await.unwrap();
        let waiting = async {
            let lock = waiter.lock("x", TTL).retry_forever().retry_delay(s(1_000)).await.unwrap();
            assert_eq!(lock.attempts(), 3);
            lock.unlock().await.unwrap();
        };
        let seen = async || {
            harness.sleep(50).await;
            eager.lock().unwrap().clone()
        };
        let extended = async {
            harness.sleep(1_000).await;
            held.extend(TTL).await.unwrap();
            assert_eq!(seen().await, [true, true]);
            harness.sleep(100).await;
            held.extend(TTL).await.unwrap();
            assert_eq!(seen().await, [true, true, false], "it is verified");
            held.unlock().await.unwrap();
        };
        tokio::join!(waiting, extended);
    });
}

/// Two nodes are further away than the third, for all. When that one reports the release, the requests of the
/// holder are on their way to the others; those of who waits follow them.
#[test]
fn who_waits_tries_when_the_nearest_node_reports_the_release() {
    let harness = harness(1);
    for far in &harness.nodes[1..] {
        far.delay_requests(ms(1));
        far.delay_replies(ms(1));
    }
    let (one, other) = (harness.redlock(), harness.redlock());
    harness.run(async {
        let held = one.lock("x", TTL).await.unwrap();
        let waiting = async { (other.lock("x", TTL).retry_forever().await.unwrap(), harness.now()) };
        let unlocked = async {
            harness.sleep(50).await;
            let begun = harness.now();
            held.unlock().await.unwrap();
            begun
        };
        let ((lock, had), begun) = tokio::join!(waiting, unlocked);
        assert_eq!(had - begun, 2 * ONE_WAY + ms(2));
        assert_eq!(lock.attempts(), 2);
        lock.unlock().await.unwrap();
    });
}

/// The nodes report an extension as they report a release.
#[test]
fn an_extension_costs_who_waits_one_attempt_and_those_after_it_none() {
    let harness = harness(1);
    let (holder, waiter) = (harness.redlock(), harness.redlock());
    harness.run(async {
        let mut held = holder.lock("x", TTL).await.unwrap();
        let waiting = async {
            let lock = waiter.lock("x", TTL).retry_forever().retry_delay(s(1_000)).await.unwrap();
            (lock, harness.now())
        };
        let unlocked = async {
            for _ in 0..20 {
                harness.sleep(1_000).await;
                held.extend(TTL).await.unwrap();
            }
            harness.sleep(1_000).await;
            let begun = harness.now();
            held.unlock().await.unwrap();
            begun
        };
        let ((lock, had), begun) = tokio::join!(waiting, unlocked);
        assert_eq!(lock.attempts(), 3);
        // It has seen others get the lock, as it believes.
        assert!(had - begun < ms(2), "{:?}", had - begun);
        lock.unlock().await.unwrap();
    });
    harness.assert_at_rest();
}
