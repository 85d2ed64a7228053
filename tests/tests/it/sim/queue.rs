//! The waiters of one manager: one at a time goes to the nodes, and a lock is handed over behind its release.

use std::{
    future::{Future, IntoFuture},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use redlock_core::{BoxFuture, Error, Lock, LockRequest, MemoryBackend, Redlock, Runtime};
use redlock_tests::{
    harness::{Harness, attempts, ms, s},
    sim_runtime::poll_once,
};
use tokio::sync::oneshot;

type Call = BoxFuture<Result<Lock, Error>>;

/// Polls a call, so that it stands in the queue.
async fn queued(request: LockRequest) -> Call {
    let mut call = request.into_future();
    assert!(poll_once(&mut call).await.is_pending());
    call
}

/// Starts a task, and returns what waits for its result.
fn task<T: Send + 'static>(
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
fn patient(redlock: &Redlock, name: &str) -> LockRequest {
    redlock.lock(name, s(60)).retry_forever().retry_delay(s(100_000)).retry_jitter(ms(0))
}

fn assert_nobody_queues(redlock: &Redlock) {
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

/// How a lock can end, with the time until its keys are gone. The validity of 10 s ends after 9.898 s.
const ENDS: [(&str, u64); 9] = [
    ("unlock", 0),
    ("a dropped unlock", 0),
    ("drop", 0),
    ("lost", 0),
    ("guard", 0),
    ("guard, unlocked", 0),
    ("forget", 10_000),
    ("parts", 10_000),
    ("leak", 10_000),
];

async fn end(harness: &Harness, how: &str, mut lock: Lock) -> Option<Lock> {
    match how {
        "unlock" => drop(lock.unlock().await.unwrap()),
        "a dropped unlock" => {
            let mut unlock = Box::pin(lock.unlock());
            assert!(poll_once(&mut unlock).await.is_pending());
        }
        "drop" => drop(lock),
        "lost" => {
            harness.nodes.iter().for_each(MemoryBackend::clear);
            assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))));
            return Some(lock);
        }
        "guard" => drop(lock.keep_alive()),
        "guard, unlocked" => drop(lock.keep_alive().unlock().await.unwrap()),
        "forget" => lock.forget(),
        "parts" => drop(lock.into_parts()),
        "leak" => mem::forget(lock),
        _ => unreachable!("{how}"),
    }
    None
}

#[test]
fn a_turn_is_passed_on_however_the_lock_ends() {
    for (how, gone) in ENDS {
        let harness = Harness::new(3);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.delay_replies(ms(2)));
            let redlock = harness.redlock();
            let held = redlock.lock("x", s(10)).await.unwrap();
            let request = redlock.lock("x", s(10)).retry_forever().retry_delay(ms(100)).retry_jitter(ms(0));
            let waiter = task(&harness, queued(request).await);
            let requests = harness.requests()[0];
            harness.sleep(900).await;
            assert_eq!(harness.requests()[0], requests, "{how}: the waiter stays at home");
            let start = harness.now();
            let rest = end(&harness, how, held).await;
            let lock = waiter.await.unwrap();
            let took = harness.now() - start;
            if gone == 0 {
                assert_eq!(lock.attempts(), 1, "{how}");
                assert!(took <= ms(4), "{how}: {took:?}");
            } else {
                // The keys are on the nodes until their TTL ends, which the waiter finds out with its delays.
                assert!((ms(gone - 910)..ms(gone - 900 + 110)).contains(&took), "{how}: {took:?}");
            }
            drop(rest);
            lock.unlock().await.unwrap();
            harness.sleep(50).await;
            if how != "leak" {
                assert_nobody_queues(&redlock);
            }
        });
    }
}

#[test]
fn a_lapsed_lock_is_waited_for_until_its_validity_ends_and_no_longer() {
    for extended in [false, true] {
        let harness = Harness::new(3);
        harness.run(async {
            let redlock = harness.redlock();
            let mut held = redlock.lock("x", s(10)).await.unwrap();
            let call = queued(patient(&redlock, "x")).await;
            let waiter = task(&harness, call);
            harness.sleep(1_000).await;
            if extended {
                held.extend(s(20)).await.unwrap();
            }
            let (deadline, requests) = (harness.now() + held.remaining(), harness.requests()[0]);
            // Another client's commands have deleted the keys, which nobody notices.
            harness.nodes.iter().for_each(MemoryBackend::clear);
            let lock = waiter.await.unwrap();
            assert_eq!(harness.now(), deadline);
            assert_eq!((lock.attempts(), harness.requests()[0]), (1, requests + 1));
            drop(held);
            assert!(lock.is_valid());
            lock.unlock().await.unwrap();
            harness.sleep(1).await;
            assert_nobody_queues(&redlock);
        });
    }
}

#[test]
fn a_panic_under_a_lock_passes_the_turn_on() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let mut using = redlock
            .using("x", s(10), |_| async {
                tokio::task::yield_now().await;
                panic!("the routine is wrong");
            })
            .into_future();
        let mut call = None;
        let panicked = loop {
            let polled = std::future::poll_fn(|cx| {
                let poll = catch_unwind(AssertUnwindSafe(|| std::pin::Pin::new(&mut using).poll(cx)));
                std::task::Poll::Ready(poll.is_err())
            });
            if polled.await {
                break true;
            }
            if call.is_none() {
                call = Some(queued(patient(&redlock, "x")).await);
            }
        };
        assert!(panicked);
        let lock = call.unwrap().await.unwrap();
        assert_eq!(lock.attempts(), 1);
        lock.unlock().await.unwrap();
        assert_nobody_queues(&redlock);
    });
}

/// The first waiter is dropped after any number of polls: in the queue, at its turn, in its round.
#[test]
fn a_cancelled_waiter_passes_its_turn_on_and_its_keys_are_in_nobodys_way() {
    for after in 0..40 {
        let harness = Harness::new(3);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.delay_replies(ms(10)));
            let redlock = harness.redlock();
            let held = redlock.lock("x", s(10)).await.unwrap();
            let first = queued(patient(&redlock, "x")).await;
            let waiter = task(&harness, queued(patient(&redlock, "x")).await);
            let cancelled = harness.cancel_after(ms(after), first);
            let unlocked = async {
                harness.sleep(10).await;
                held.unlock().await.unwrap();
            };
            let (lock, ()) = tokio::join!(cancelled, unlocked);
            // Won in time, and dropped at once.
            drop(lock);
            let lock = waiter.await.unwrap();
            assert_eq!(lock.attempts(), 1, "after {after} ms");
            let latest = ms(10 + 10 + 10 + 10).max(ms(after + 10));
            assert!(harness.runtime.elapsed() <= latest, "{after}: {:?}", harness.runtime.elapsed());
            lock.unlock().await.unwrap();
            harness.sleep(100).await;
            assert_nobody_queues(&redlock);
            harness.assert_free("x");
        });
        harness.assert_at_rest();
    }
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
        theirs.unlock().await.unwrap();
        let lucky = redlock.try_lock("x", s(60)).await.unwrap();
        let requests = harness.requests()[0];
        harness.sleep(900).await;
        assert_eq!(harness.requests()[0], requests, "the waiter polls while its own process has the lock");
        let (lock, took) = harness
            .timed(async {
                lucky.unlock().await.unwrap();
                polling.await.unwrap()
            })
            .await;
        assert_eq!((lock.attempts(), took), (2, ms(0)));
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
fn the_last_attempt_of_a_waiter_out_of_turn_wins_a_lock_that_others_wait_for() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let held = redlock.lock("x", s(60)).await.unwrap();
        let waiter = task(&harness, queued(patient(&redlock, "x")).await);
        let last = task(&harness, queued(redlock.lock("x", s(60)).retry_count(1)).await);
        // The nodes have lost it, which its holder does not know.
        harness.nodes.iter().for_each(MemoryBackend::clear);
        let won = last.await.unwrap();
        assert_eq!(won.attempts(), 1);
        drop(held);
        harness.sleep(100).await;
        let ((), took) = harness
            .timed(async {
                won.unlock().await.unwrap();
                waiter.await.unwrap().unlock().await.unwrap();
            })
            .await;
        assert_eq!(took, ms(0));
        assert_nobody_queues(&redlock);
    });
}

/// As on a runtime that nobody drives: it has its turn, and does nothing.
#[test]
fn a_waiter_that_nobody_polls_is_passed_over() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let held = redlock.lock("x", s(60)).await.unwrap();
        let stuck = queued(patient(&redlock, "x")).await;
        let request = redlock.lock("x", s(60)).retry_forever().retry_delay(ms(100)).retry_jitter(ms(0));
        let waiter = task(&harness, queued(request).await);
        held.unlock().await.unwrap();
        let (lock, took) = harness.timed(waiter).await;
        let lock = lock.unwrap();
        assert!(took <= ms(1_100) && lock.attempts() == 1, "{took:?}");
        // It goes on as if it were alone: it is refused, and waits for its delay.
        let mut stuck = stuck;
        for _ in 0..3 {
            assert!(poll_once(&mut stuck).await.is_pending());
        }
        lock.unlock().await.unwrap();
        drop(stuck);
        harness.sleep(1).await;
        assert_nobody_queues(&redlock);
    });
}

/// A call whose round nobody polls any more.
#[test]
fn a_round_that_nobody_polls_is_passed_over() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(MemoryBackend::stop);
        let redlock = harness.redlock();
        let stuck = queued(redlock.lock("x", s(10))).await;
        harness.nodes.iter().for_each(MemoryBackend::resume);
        harness.sleep(10).await;
        harness.nodes.iter().for_each(MemoryBackend::clear);
        let request = redlock.lock("x", s(10)).retry_forever().retry_delay(ms(100)).retry_jitter(ms(0));
        let (lock, took) = harness.timed(request).await;
        // The timeout of the round, half a second, and the grace.
        assert!(took <= ms(1_600), "{took:?}");
        lock.unwrap().unlock().await.unwrap();
        drop(stuck);
        harness.sleep(100).await;
        assert_nobody_queues(&redlock);
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
