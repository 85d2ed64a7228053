//! The waiters of one manager: one at a time goes to the nodes, and a lock is handed over behind its release.

use std::{
    future::{Future, IntoFuture},
    sync::{Arc, Mutex},
    time::Duration,
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BoxFuture, Error, Extend, Lock, LockBackend, LockRequest,
    MemoryBackend, Redlock, Release, ReleaseReply, Runtime, async_trait,
};
use redlock_tests::{
    harness::{Harness, attempts, ms, s},
    sim_runtime::{SimRuntime, poll_once},
};
use tokio::sync::oneshot;

pub(crate) type Call = BoxFuture<Result<Lock, Error>>;

/// Polls a call, so that it stands in the queue.
pub(crate) async fn queued(request: LockRequest) -> Call {
    let mut call = request.into_future();
    assert!(poll_once(&mut call).await.is_pending());
    call
}

/// Starts a task, and returns what waits for its result.
pub(crate) fn task<T: Send + 'static>(
    harness: &Harness,
    task: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> {
    let (done, result) = oneshot::channel();
    harness.runtime.spawn(Box::pin(async move {
        let _ = done.send(task.await);
    }));
    async { result.await.expect("the task runs to its end") }
}

/// A patient request, whose delays are far longer than any test, so that only a turn can end one.
pub(crate) fn patient(redlock: &Redlock, name: &str) -> LockRequest {
    redlock.lock(name, s(60)).retry_forever().retry_delay(s(100_000)).retry_jitter(ms(0))
}

pub(crate) fn assert_nobody_queues(redlock: &Redlock) {
    let shown = format!("{redlock:?}");
    assert!(shown.contains("Waiters { resources: 0, waiting: 0 }"), "{shown}");
}

#[test]
fn turns_are_in_order_of_arrival_and_each_costs_one_trip_and_one_attempt() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(5)));
        let redlock = harness.redlock();
        let held = redlock.lock("x", s(60)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..20 {
            let call = queued(patient(&redlock, "x")).await;
            let (order, runtime) = (order.clone(), harness.runtime.clone());
            tasks.push(task(&harness, async move {
                let lock = call.await.unwrap();
                order.lock().unwrap().push(number);
                assert_eq!(lock.attempts(), 1);
                runtime.sleep(ms(1)).await;
                lock.unlock().await.unwrap();
            }));
        }
        let before = harness.requests();
        let ((), took) = harness
            .timed(async {
                held.unlock().await.unwrap();
                for task in tasks {
                    task.await;
                }
            })
            .await;
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
        // Each turn takes one trip and the hold; the last release comes on top.
        assert_eq!(took, 20 * ms(5 + 1) + ms(5));
        let requests: Vec<u64> =
            harness.requests().iter().zip(before).map(|(now, then)| now - then).collect();
        assert_eq!(requests, [1 + 2 * 20; 3], "an acquire and a release each, and the first release");
        assert_nobody_queues(&redlock);
    });
    harness.assert_at_rest();
}

#[test]
fn a_single_attempt_waits_for_nobody_and_others_wait_for_the_lock_that_it_wins() {
    let harness = Harness::new(3);
    harness.run(async {
        let (redlock, others) = (harness.redlock(), harness.redlock());
        let theirs = others.lock("x", s(60)).await.unwrap();
        let request = redlock.lock("x", s(60)).retry_forever().retry_delay(ms(100)).retry_jitter(ms(0));
        let polling = task(&harness, queued(request).await);
        for request in [redlock.try_lock("x", s(60)), redlock.lock("x", s(60)).retry_count(0)] {
            let (refused, took) = harness.timed(request).await;
            assert!(matches!(refused, Err(Error::Contended(_))));
            assert_eq!(took, ms(0));
        }
        harness.sleep(50).await;
        // Right behind the release, before the nodes' reports are there.
        let attempt = redlock.try_lock("x", s(60)).into_future();
        let (unlocked, lucky) = tokio::join!(theirs.unlock(), attempt);
        unlocked.unwrap();
        let lucky = lucky.unwrap();
        harness.sleep(10).await;
        let requests = harness.requests()[0];
        harness.sleep(900).await;
        assert_eq!(harness.requests()[0], requests, "the waiter polls while its own process has the lock");
        let (lock, took) = harness
            .timed(async {
                lucky.unlock().await.unwrap();
                polling.await.unwrap()
            })
            .await;
        assert_eq!((lock.attempts(), took), (3, ms(0)), "the second one when the nodes reported a change");
        lock.unlock().await.unwrap();
        assert_nobody_queues(&redlock);
    });
}

#[test]
fn of_the_waiters_of_a_process_one_polls_while_another_process_has_the_lock() {
    let harness = Harness::new(3);
    harness.run(async {
        let (redlock, others) = (harness.redlock(), harness.redlock());
        let theirs = others.lock("x", s(600)).await.unwrap();
        let mut tasks = Vec::new();
        for _ in 0..50 {
            let request = redlock.lock("x", s(60)).retry_forever().retry_delay(ms(100)).retry_jitter(ms(0));
            tasks.push(task(&harness, queued(request).await));
        }
        let before = harness.requests()[0];
        harness.sleep(10_050).await;
        // An acquire and its roll-back each.
        assert_eq!(harness.requests()[0] - before, 2 * 100);
        theirs.unlock().await.unwrap();
        let mut rounds = 0;
        for task in tasks {
            let lock = task.await.unwrap();
            rounds += lock.attempts();
            lock.unlock().await.unwrap();
        }
        assert_eq!(rounds, 102 + 49);
        assert_nobody_queues(&redlock);
    });
}

#[test]
fn several_resources_in_any_order_never_wait_for_each_other() {
    for seed in 0..20 {
        let harness = Harness::seeded(seed, 3);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.delay_replies(ms(1)));
            let redlock = harness.redlock();
            let orders: [&[&str]; 6] =
                [&["a", "b"], &["b", "a"], &["b", "c"], &["c", "a"], &["a"], &["c", "b", "a"]];
            let tasks = orders.map(|names| {
                let (redlock, runtime) = (redlock.clone(), harness.runtime.clone());
                task(&harness, async move {
                    let mut most = 0;
                    for _ in 0..20 {
                        let request = redlock.lock(names, s(60)).retry_forever();
                        let lock = request.retry_delay(s(100_000)).retry_jitter(ms(0)).await.unwrap();
                        most = most.max(lock.attempts());
                        runtime.sleep(ms(1)).await;
                        lock.unlock().await.unwrap();
                    }
                    most
                })
            });
            for task in tasks {
                assert_eq!(task.await, 1, "seed {seed}");
            }
            assert!(harness.runtime.elapsed() < s(2), "seed {seed}: {:?}", harness.runtime.elapsed());
            assert_nobody_queues(&redlock);
        });
    }
}

#[test]
fn patience_in_the_queue_is_what_it_is_without_one() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let held = redlock.lock("x", s(60)).await.unwrap();
        let _behind = queued(patient(&redlock, "x")).await;
        let request = redlock.lock("x", s(60)).retry_delay(ms(70)).retry_jitter(ms(0));
        let (error, took) = harness.timed(request.clone().retry_count(3)).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Contended(_)), "{error}");
        assert_eq!((attempts(&error), took), (1, ms(210)), "the nodes are asked once, at the end");

        let delays = request.clone().retry_delays(|| [ms(10), ms(20)]);
        let (error, took) = harness.timed(delays).await;
        assert_eq!((attempts(&error.unwrap_err()), took), (1, ms(30)));
        let none = request.clone().retry_forever().retry_delays(|| [0_u64; 0].map(ms));
        let (error, took) = harness.timed(none).await;
        assert_eq!((attempts(&error.unwrap_err()), took), (1, ms(0)));

        let bounded = request.clone().retry_forever().acquire_timeout(s(2));
        let (error, took) = harness.timed(bounded).await;
        // A quarter is kept for the first attempt; then it is clear that attempts take no time.
        assert_eq!((attempts(&error.unwrap_err()), took), (2, ms(1_950)));
        let (error, took) = harness.timed(request.retry_forever().acquire_timeout(s(0))).await;
        assert!(error.is_err() && took <= ms(50), "{took:?}");
        held.unlock().await.unwrap();
    });
}

#[test]
fn a_process_that_hands_a_lock_over_to_itself_lets_others_have_it() {
    for seed in 0..10 {
        let harness = Harness::seeded(seed, 3);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.delay_replies(ms(1)));
            let (redlock, other) = (harness.redlock(), harness.redlock());
            let turns = Arc::new(Mutex::new(0));
            let running = Arc::new(Mutex::new(true));
            let tasks = [(); 4].map(|()| {
                let (redlock, runtime) = (redlock.clone(), harness.runtime.clone());
                let (turns, running) = (turns.clone(), running.clone());
                task(&harness, async move {
                    while *running.lock().unwrap() {
                        let lock = patient(&redlock, "x").await.unwrap();
                        *turns.lock().unwrap() += 1;
                        runtime.sleep(ms(1)).await;
                        lock.unlock().await.unwrap();
                    }
                })
            });
            harness.sleep(20).await;
            let before = *turns.lock().unwrap();
            let request = other.lock("x", s(60)).retry_forever().retry_delay(ms(1)).retry_jitter(ms(0));
            let lock = request.await.unwrap();
            let meanwhile = *turns.lock().unwrap() - before;
            assert!(meanwhile <= 64, "seed {seed}: {meanwhile} turns");
            *running.lock().unwrap() = false;
            lock.unlock().await.unwrap();
            for task in tasks {
                task.await;
            }
        });
    }
}

/// As on a busy machine.
#[derive(Debug)]
struct Stalling {
    node: MemoryBackend,
    runtime: SimRuntime,
}

#[async_trait]
impl LockBackend for Stalling {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.runtime.stall(ms(5));
        self.node.release(request).await
    }
}

#[test]
fn a_delay_that_has_passed_when_it_begins_still_leads_to_an_attempt() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.set("x", "other", s(60)));
        let redlock = harness.redlock_over(|node| Stalling { node, runtime: harness.runtime.clone() });
        let request = redlock.lock("x", s(60)).retry_count(5).retry_delay(ms(1)).retry_jitter(ms(0));
        assert_eq!(attempts(&request.await.unwrap_err()), 6);
    });
}

#[test]
fn a_pause_for_others_is_within_the_bound_of_a_wait() {
    for seed in 0..20 {
        let harness = Harness::seeded(seed, 3);
        harness.run(async {
            let redlock = harness.redlock();
            let held = redlock.lock("x", s(60)).await.unwrap();
            // The last attempt comes at 1.5 s, unless the turn comes first.
            let request = redlock.lock("x", s(60)).retry_forever().retry_delay(s(10)).acquire_timeout(s(2));
            let waiter = task(&harness, queued(request).await);
            harness.sleep(1_499).await;
            held.unlock().await.unwrap();
            let (lock, took) = harness.timed(waiter).await;
            assert!(lock.is_ok() && took <= ms(1), "seed {seed}: {took:?}");
        });
    }
}

#[test]
fn many_waiters_with_short_delays_do_not_spin() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let tasks: Vec<_> = (0..30)
            .map(|_| {
                let (redlock, runtime) = (redlock.clone(), harness.runtime.clone());
                task(&harness, async move {
                    let mut most = Duration::ZERO;
                    for _ in 0..10 {
                        let lock = redlock.lock("x", s(1)).retry_forever().retry_delay(ms(1)).await.unwrap();
                        most = most.max(lock.took());
                        runtime.sleep(ms(3)).await;
                        lock.unlock().await.unwrap();
                    }
                    most
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert!(harness.requests()[0] <= 2 * 300 + 20, "{:?}", harness.requests());
        assert_nobody_queues(&redlock);
    });
}
