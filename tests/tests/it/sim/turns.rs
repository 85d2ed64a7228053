//! How a turn of the queue is passed on: the end of a lock, a cancelled call, a call that nobody polls.

use std::{
    future::{Future, IntoFuture, poll_fn},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Poll,
};

use redlock_core::{Error, Lock, MemoryBackend};
use redlock_tests::{
    harness::{Harness, ms, s},
    sim_runtime::poll_once,
};

use crate::sim::queue::{assert_nobody_queues, patient, queued, task};

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
            let polled = poll_fn(|cx| {
                let poll = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut using).poll(cx)));
                Poll::Ready(poll.is_err())
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
