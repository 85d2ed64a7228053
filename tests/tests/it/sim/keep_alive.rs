//! Many locks that one process keeps alive, and extensions without a reply.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BoxFuture, Extend, KeepAlive, LockBackend, MemoryBackend, Redlock,
    Release, ReleaseReply, Runtime, async_trait,
};
use redlock_tests::{
    harness::{Harness, ms, s},
    sim_runtime::SimRuntime,
};

async fn hold(redlock: &Redlock, number: usize, ttl: Duration) -> Vec<KeepAlive> {
    let mut held = Vec::new();
    for name in 0..number {
        held.push(redlock.lock(format!("{name}"), ttl).await.unwrap().keep_alive());
    }
    held
}

#[test]
fn locks_taken_together_are_not_extended_together() {
    let harness = Harness::new(3);
    harness.run(async {
        let held = hold(&harness.redlock(), 300, s(6)).await;
        let mut before = harness.nodes[0].requests();
        harness.sleep(1_999).await;
        assert_eq!(harness.nodes[0].requests(), before, "none before a third of the TTL");
        // Each has its first one by half of the TTL.
        let mut tenths = Vec::new();
        for _ in 0..10 {
            harness.sleep(100).await;
            tenths.push(harness.nodes[0].requests() - before);
            before = harness.nodes[0].requests();
        }
        assert!(tenths.iter().all(|requests| (15..=60).contains(requests)), "{tenths:?}");
        drop(held);
        harness.sleep(2_000).await;
    });
    harness.assert_at_rest();
}

#[test]
fn an_extension_without_a_reply_is_retried_before_the_deadline_however_long_the_node_timeout() {
    for share in [2, 3, 1] {
        let harness = Harness::new(3);
        harness.run(async {
            let redlock = harness.builder().node_timeout(s(6) * share / 3).build().unwrap();
            let guard = redlock.lock("x", s(6)).await.unwrap().keep_alive();
            harness.sleep(1_900).await;
            // The nodes run the requests, and their replies come when nobody waits any more.
            harness.nodes.iter().for_each(|node| node.delay_replies(s(60)));
            while harness.nodes[0].requests() < 2 {
                harness.sleep(10).await;
            }
            harness.nodes.iter().for_each(|node| node.delay_replies(ms(0)));
            harness.sleep(20_000).await;
            assert!(guard.is_valid(), "a node timeout of {share} thirds of the TTL");
        });
    }
}

/// A process that holds more locks than it can ever extend.
#[test]
fn an_overloaded_process_keeps_the_locks_that_it_can_bear() {
    let harness = Harness::new(1);
    harness.run(async {
        let queue = Arc::new(Mutex::new(harness.now()));
        let redlock =
            harness.redlock_over(|node| Busy { node, runtime: harness.runtime.clone(), free: queue.clone() });
        // The node extends 1,500 of them in a TTL, and is asked for twice as many.
        let held = hold(&redlock, 2_000, s(30)).await;
        let alive = |held: &[KeepAlive]| held.iter().filter(|guard| guard.is_valid()).count();
        let mut course = BTreeMap::new();
        for second in 0..90 {
            harness.sleep(1_000).await;
            course.insert(second, alive(&held));
        }
        assert!(alive(&held) > 900, "{course:?}");
        drop(held);
        harness.sleep(120_000).await;
    });
    harness.assert_at_rest();
}

/// A node that extends 50 locks a second, one after the other. Other requests take no time.
#[derive(Debug)]
struct Busy {
    node: MemoryBackend,
    runtime: SimRuntime,
    free: Arc<Mutex<Instant>>,
}

#[async_trait]
impl LockBackend for Busy {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        let now = self.runtime.now();
        let done = {
            let mut free = self.free.lock().unwrap();
            *free = now.max(*free) + ms(20);
            *free
        };
        self.runtime.sleep(done - now).await;
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.node.release(request).await
    }
}

/// A lock manager that is used on one runtime, and then on another.
#[derive(Clone, Debug)]
struct Moving {
    runtimes: [SimRuntime; 2],
    second: Arc<AtomicBool>,
}

impl Moving {
    fn here(&self) -> &SimRuntime {
        &self.runtimes[usize::from(self.second.load(Ordering::Relaxed))]
    }
}

impl Runtime for Moving {
    fn now(&self) -> Instant {
        self.here().now()
    }

    fn unix_time(&self) -> Duration {
        self.here().unix_time()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.here().sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<()>) {
        self.here().spawn(task);
    }
}

#[test]
fn locks_whose_extensions_stall_with_their_runtime_are_taken_over_by_the_next() {
    let harness = Harness::new(3);
    let moving = Moving { runtimes: [(); 2].map(|()| harness.sim.process(0)), second: Arc::default() };
    harness.run(async {
        let builder = Redlock::builder(moving.clone()).nodes(harness.nodes.clone());
        let redlock = builder.entropy(harness.sim.entropy()).node_timeout(s(4)).build().unwrap();
        // As many extensions as may be under way at first.
        let stalled = hold(&redlock, 16, s(30)).await;
        harness.sleep(9_000).await;
        harness.nodes.iter().for_each(MemoryBackend::stop);
        harness.sleep(6_100).await;
        moving.runtimes[0].stop();
        harness.nodes.iter().for_each(MemoryBackend::resume);
        moving.second.store(true, Ordering::Relaxed);
        harness.sleep(6_000).await;
        let guard = redlock.lock("other", s(30)).await.unwrap().keep_alive();
        harness.sleep(100_000).await;
        assert!(guard.is_valid(), "it waits for the stalled extensions");
        assert!(stalled.iter().all(KeepAlive::is_valid), "nobody extends them");

        moving.runtimes[0].resume();
        harness.sleep(10).await;
        assert_eq!(harness.runtime.tasks(), 1, "the first one has nothing to do any more");
        harness.sleep(100_000).await;
        assert!(guard.is_valid() && stalled.iter().all(KeepAlive::is_valid));
    });
}

#[test]
fn one_task_with_one_timer_extends_all_locks_and_ends_with_the_last() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let mut held = hold(&redlock, 200, s(6)).await;
        for _ in 0..3_000 {
            harness.sleep(10).await;
            assert_eq!((harness.runtime.tasks(), harness.runtime.timers()), (1, 1));
        }
        assert!(held.iter().all(KeepAlive::is_valid));
        let last = held.pop();
        drop(held);
        harness.sleep(10_000).await;
        assert_eq!((harness.runtime.tasks(), harness.runtime.timers()), (1, 1));
        drop(last);
        harness.sleep(1).await;
        harness.assert_at_rest();
        // Another one can follow.
        let again = hold(&redlock, 1, s(1)).await;
        harness.sleep(10_000).await;
        assert!(again[0].is_valid());
        assert_eq!((harness.runtime.tasks(), harness.runtime.timers()), (1, 1));
    });
}

#[test]
fn locks_that_lapse_together_are_lost_together_and_nothing_is_left_to_do() {
    let harness = Harness::new(3);
    harness.run(async {
        let held = hold(&harness.redlock(), 1_000, s(10)).await;
        let before = harness.requests();
        // As when a machine is suspended.
        harness.runtime.stall(s(60));
        harness.sleep(1).await;
        assert!(!held.iter().any(KeepAlive::is_valid));
        harness.assert_at_rest();
        assert_eq!(harness.requests(), before, "nothing is sent for a lock that has lapsed");
    });
}

#[test]
fn a_lock_with_a_short_ttl_is_extended_beside_one_with_a_long_ttl() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let long = redlock.lock("long", s(600)).await.unwrap().keep_alive();
        harness.sleep(1_000).await;
        let short = redlock.lock("short", s(1)).await.unwrap().keep_alive();
        harness.sleep(60_000).await;
        assert!(short.is_valid() && long.is_valid());
    });
}

#[test]
fn a_guard_that_is_dropped_while_its_lock_is_extended_takes_its_extension_along() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let mut held = hold(&redlock, 2, s(30)).await;
        harness.sleep(9_000).await;
        harness.nodes.iter().for_each(MemoryBackend::stop);
        harness.sleep(6_001).await;
        harness.nodes.iter().for_each(MemoryBackend::resume);
        let (stopped, lease) = (held.pop().unwrap(), held[0].lease());
        let lock = stopped.stop();
        let left = lock.remaining();
        harness.sleep(100).await;
        assert_eq!(lock.remaining(), left - ms(100), "it has been extended");
        harness.sleep(60_000).await;
        assert!(!lock.is_valid() && lease.is_valid());
    });
}
