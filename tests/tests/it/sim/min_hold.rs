//! Locks that are held for at least some time, whatever becomes of their process: a job runs once a period.

use std::{
    future::IntoFuture,
    panic::{AssertUnwindSafe, resume_unwind},
    time::Duration,
};

use futures_util::FutureExt as _;
use redlock_core::{Error, InvalidRequest, LockRequest, Redlock, Runtime, UnlockOutcome};
use redlock_tests::{
    harness::{Harness, attempts, ms, s},
    sim_runtime::SimRuntime,
};

use crate::sim::queue::{assert_nobody_queues, queued, task};

const TTL: Duration = Duration::from_secs(2);
const MIN_HOLD: Duration = Duration::from_secs(10);
/// What its TTL is longer by: a hundredth of it, and the 2 ms of the nodes' clocks, and a rounding.
const DRIFT: Duration = Duration::from_millis(105);

/// The lock of a job that runs once a period.
fn job(redlock: &Redlock) -> LockRequest {
    redlock.lock("x", TTL).min_hold(MIN_HOLD)
}

/// A manager in a process of its own.
fn machine(harness: &Harness) -> (SimRuntime, Redlock) {
    let process = harness.sim.process(0);
    let builder = Redlock::builder(process.clone()).nodes(harness.nodes.clone());
    (process, builder.entropy(harness.sim.entropy()).build().unwrap())
}

/// How long after `start` another machine gets the lock that it tries for every 10 ms.
async fn free_again(harness: &Harness, start: std::time::Instant) -> Duration {
    let (_, other) = machine(harness);
    loop {
        match other.try_lock("x", TTL).await {
            Ok(lock) => {
                let after = harness.now() - start;
                drop(lock);
                return after;
            }
            Err(Error::Contended(_)) => harness.sleep(10).await,
            Err(error) => panic!("{error}"),
        }
    }
}

fn assert_just_after(after: Duration, min_hold: Duration) {
    let (least, most) = (min_hold, min_hold + DRIFT + ms(20));
    assert!((least..=most).contains(&after), "{after:?}, not {least:?} to {most:?}");
}

/// How a job ends whose machine is gone then.
type End = fn(&Harness, &SimRuntime, Redlock) -> redlock_core::BoxFuture<()>;

const ENDS: [(&str, End); 5] = [
    ("unlocked", |_, _, redlock| {
        Box::pin(async move {
            let lock = job(&redlock).await.unwrap();
            let remaining = lock.remaining();
            let UnlockOutcome::Kept { remaining: kept, .. } = lock.unlock().await.unwrap() else {
                panic!("it is released")
            };
            assert_eq!(kept, remaining);
            assert!((MIN_HOLD..MIN_HOLD + ms(3)).contains(&kept), "{kept:?}");
        })
    }),
    ("dropped", |_, _, redlock| Box::pin(async move { drop(job(&redlock).await.unwrap()) })),
    ("a guard is dropped", |harness, _, redlock| {
        let later = harness.runtime.sleep(s(3));
        Box::pin(async move {
            let guard = job(&redlock).await.unwrap().keep_alive();
            later.await;
            drop(guard);
        })
    }),
    ("a routine returns", |_, _, redlock| {
        Box::pin(async move { assert_eq!(job(&redlock).using(async |_| 5).await.unwrap(), 5) })
    }),
    ("a routine panics", |_, _, redlock| {
        Box::pin(async move {
            let routine = async |_| resume_unwind(Box::new("of the routine"));
            let used = AssertUnwindSafe(job(&redlock).using(routine).into_future()).catch_unwind();
            assert!(used.await.is_err());
        })
    }),
];

#[test]
fn nobody_gets_the_lock_of_a_job_that_is_done_before_its_time_and_somebody_does_right_after() {
    for down in [0, 1] {
        for (name, end) in ENDS {
            let harness = Harness::new(3);
            harness.run(async {
                harness.nodes[..down].iter().for_each(|node| node.shut_down());
                let (start, (process, redlock)) = (harness.now(), machine(&harness));
                end(&harness, &process, redlock.clone()).await;
                drop(redlock);
                // Time for what it would do in the background.
                harness.sleep(10).await;
                process.kill();
                harness.sleep(1_000).await;
                assert_eq!(harness.requests(), [1, 1, 1], "{name}: nothing is sent at the end");
                let after = free_again(&harness, start).await;
                assert_just_after(after, MIN_HOLD);
            });
        }
    }
}

#[test]
fn of_many_machines_one_runs_the_job_each_period() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(3)));
        for _ in 0..10 {
            let mut runs = 0;
            // Their clocks differ by up to eight seconds.
            for _ in 0..5 {
                let (process, redlock) = machine(&harness);
                match job(&redlock).retry_count(0).using(async |_| ()).await {
                    Ok(()) => runs += 1,
                    Err(error) => assert!(matches!(error, Error::Contended(_)), "{error}"),
                }
                process.kill();
                harness.sleep(2_000).await;
            }
            assert_eq!(runs, 1);
            harness.sleep(2_000).await;
        }
    });
}

#[test]
fn a_routine_that_is_cancelled_has_begun_and_a_request_that_is_cancelled_has_not() {
    let harness = Harness::new(3);
    harness.run(async {
        let (redlock, start) = (harness.redlock(), harness.now());
        harness.nodes.iter().for_each(|node| node.delay_requests(ms(5)));
        let runtime = harness.runtime.clone();
        let using =
            |runtime: SimRuntime| job(&redlock).using(move |_| async move { runtime.sleep(s(100)).await });
        assert!(harness.cancel_after(ms(4), using(runtime.clone())).await.is_none());
        harness.sleep(50).await;
        harness.assert_free("x");
        assert!(harness.cancel_after(s(1), using(runtime)).await.is_none());
        harness.sleep(100).await;
        assert_eq!(harness.values("x").iter().flatten().count(), 3, "the job had begun");
        let after = free_again(&harness, start + ms(54)).await;
        assert_just_after(after, MIN_HOLD);
        harness.sleep(50).await;
    });
    harness.assert_at_rest();
}

#[test]
fn when_its_time_has_passed_the_lock_is_released_at_once() {
    let ends: [fn(redlock_core::KeepAlive) -> redlock_core::BoxFuture<()>; 3] = [
        |guard| Box::pin(async { assert_eq!(guard.unlock().await.unwrap(), UnlockOutcome::Released) }),
        |guard| Box::pin(async { drop(guard) }),
        |guard| Box::pin(async { drop(guard.stop()) }),
    ];
    for end in ends {
        let harness = Harness::new(3);
        harness.run(async {
            let guard = job(&harness.redlock()).await.unwrap().keep_alive();
            harness.sleep(10_000).await;
            assert!(guard.is_valid());
            end(guard).await;
            harness.sleep(1).await;
            harness.assert_free("x");
        });
        harness.assert_at_rest();
    }
    let harness = Harness::new(3);
    harness.run(async {
        let runtime = harness.runtime.clone();
        let used = job(&harness.redlock()).using(|_| async move { runtime.sleep(MIN_HOLD).await });
        used.await.unwrap();
        harness.assert_free("x");
    });
}

#[test]
fn a_lock_that_has_lapsed_or_was_stolen_is_not_kept() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = job(&harness.redlock()).await.unwrap();
        harness.nodes.iter().for_each(|node| node.set("x", "thief", s(60)));
        let mut guard = lock.keep_alive();
        guard.lost().await;
        assert_eq!(guard.stop().unlock().await.unwrap(), UnlockOutcome::NotHeld);
        harness.nodes.iter().for_each(|node| node.remove("x"));

        let lock = job(&harness.redlock()).await.unwrap();
        harness.sleep(11_000).await;
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld);

        // Found lost before its time, and dropped: what is left of it only blocks others.
        let mut lock = job(&harness.redlock()).await.unwrap();
        harness.nodes[..2].iter().for_each(|node| node.set("x", "thief", s(60)));
        assert!(matches!(lock.extend(TTL).await, Err(Error::Lost(_))));
        drop(lock);
        harness.sleep(1).await;
        assert_eq!(harness.nodes[2].get("x"), None);
        guard = harness.redlock().lock("y", TTL).await.unwrap().keep_alive();
        drop(guard);
        harness.sleep(1).await;
    });
    harness.assert_at_rest();
}

#[test]
fn a_node_that_is_late_keeps_its_keys_too() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[2].stop();
        let lock = job(&harness.redlock()).await.unwrap();
        assert!(matches!(lock.unlock().await.unwrap(), UnlockOutcome::Kept { .. }));
        harness.sleep(50).await;
        harness.nodes[2].resume();
        harness.sleep(5_000).await;
        assert_eq!(harness.values("x").iter().flatten().count(), 3);
        harness.nodes[0].shut_down();
        let error = harness.redlock().try_lock("x", TTL).await.unwrap_err();
        assert!(matches!(error, Error::Contended(_)), "{error}");
    });
}

#[test]
fn a_keep_alive_extends_when_the_rest_is_that_of_a_usual_ttl() {
    for seed in 0..20 {
        let harness = Harness::seeded(seed, 3);
        harness.run(async {
            let guard = job(&harness.redlock()).await.unwrap().keep_alive();
            // A third of the TTL after the moment when a validity of the TTL would have begun.
            harness.sleep(10_000 - 1_978 + 666).await;
            assert_eq!(harness.requests(), [1, 1, 1]);
            harness.sleep(336).await;
            assert_eq!(harness.requests(), [2, 2, 2]);
            assert!(harness.nodes[0].ttl("x").unwrap() <= TTL, "by the TTL of the request");
            let UnlockOutcome::Kept { remaining, .. } = guard.unlock().await.unwrap() else { panic!() };
            assert!(remaining <= TTL, "{remaining:?}");
        });
    }
    // With a longer TTL, nothing differs.
    let harness = Harness::new(3);
    harness.run(async {
        let guard = harness.redlock().lock("x", s(30)).min_hold(MIN_HOLD).await.unwrap().keep_alive();
        harness.sleep(9_998).await;
        assert_eq!(harness.requests(), [1, 1, 1]);
        harness.sleep(5_003).await;
        assert_eq!(harness.requests(), [2, 2, 2]);
        drop(guard);
    });
}

#[test]
fn who_waits_in_the_process_waits_as_for_another_process_and_asks_no_more_often() {
    for (delay, most) in [(s(100), 2), (s(1), 12)] {
        let harness = Harness::new(3);
        harness.run(async {
            let (redlock, start) = (harness.redlock(), harness.now());
            let lock = job(&redlock).await.unwrap();
            let waiter = redlock.lock("x", TTL).retry_forever().retry_delay(delay).retry_jitter(ms(0));
            let waiter = task(&harness, queued(waiter).await);
            harness.sleep(100).await;
            assert!(matches!(lock.unlock().await.unwrap(), UnlockOutcome::Kept { .. }));
            let sent = harness.requests()[0];
            let won = waiter.await.unwrap();
            assert_just_after(harness.now() - start, MIN_HOLD);
            assert!(won.attempts() <= most, "{delay:?}: {}", won.attempts());
            // An acquire for each attempt, and a release for each that failed.
            assert!(
                harness.requests()[0] - sent < 2 * u64::from(most),
                "{delay:?}: {:?}",
                harness.requests()
            );
            drop(won);
            let call = queued(redlock.lock("x", TTL).retry_delay(delay)).await;
            drop(call);
            harness.sleep(1).await;
            assert_nobody_queues(&redlock);
        });
    }
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        drop(job(&redlock).await.unwrap());
        let error = redlock.lock("x", TTL).await.unwrap_err();
        assert!(matches!(error, Error::Contended(_)), "{error}");
        assert_eq!(attempts(&error), 4);
    });
}

#[test]
fn the_shortest_hold_goes_with_the_lock_that_is_handed_over() {
    let harness = Harness::new(3);
    harness.run(async {
        let start = harness.now();
        let lock = job(&harness.redlock()).max_hold(s(60)).await.unwrap();
        harness.sleep(4_000).await;
        let parts = lock.into_parts();
        assert_eq!((parts.min_hold, parts.max_hold), (Some(s(6)), Some(s(56))));
        harness.sleep(1_000).await;
        let (process, redlock) = machine(&harness);
        let taken = redlock.from_parts(&parts).await.unwrap();
        assert!((s(6)..s(6) + ms(3)).contains(&taken.remaining()), "{:?}", taken.remaining());
        assert!(matches!(taken.unlock().await.unwrap(), UnlockOutcome::Kept { .. }));
        process.kill();
        let after = free_again(&harness, start + s(5)).await;
        assert_just_after(after, s(6));

        // Of parts that say no more of their validity, the minimum still counts.
        let mut parts = harness.redlock().lock("x", TTL).await.unwrap().into_parts();
        assert_eq!(parts.min_hold, None);
        parts.min_hold = Some(MIN_HOLD);
        let (taken, start) = (harness.redlock().from_parts(&parts).await.unwrap(), harness.now());
        drop(taken);
        assert_just_after(free_again(&harness, start).await, MIN_HOLD);

        // One that has passed is none.
        let lock = harness.redlock().lock("x", s(60)).min_hold(s(1)).await.unwrap();
        harness.sleep(1_000).await;
        let parts = lock.into_parts();
        assert_eq!(parts.min_hold, None);
        let taken = harness.redlock().from_parts(&parts).await.unwrap();
        assert_eq!(taken.unlock().await.unwrap(), UnlockOutcome::Released);
    });
}

#[test]
fn a_lock_with_a_fencing_token_is_kept_as_well() {
    let harness = Harness::new(3);
    harness.run(async {
        let (redlock, start) = (harness.redlock(), harness.now());
        let lock = job(&redlock).fenced().await.unwrap();
        let fence = lock.fence();
        assert!(matches!(lock.unlock().await.unwrap(), UnlockOutcome::Kept { .. }));
        let next = redlock.lock("x", TTL).fenced().retry_forever().await.unwrap();
        assert_just_after(harness.now() - start, MIN_HOLD);
        assert!(next.fence() > fence);
    });
}

#[test]
fn the_longest_hold_ends_one_that_is_as_short() {
    let harness = Harness::new(3);
    harness.run(async {
        let runtime = harness.runtime.clone();
        let using = job(&harness.redlock()).max_hold(MIN_HOLD).using(|_| async move {
            runtime.sleep(s(60)).await;
        });
        let (result, took) = harness.timed(using).await;
        assert!(matches!(result, Err(Error::Lost(_))), "{result:?}");
        assert_eq!(took, MIN_HOLD);
    });
}

#[test]
fn a_shortest_hold_that_is_too_long_is_refused_before_anything_is_sent() {
    let harness = Harness::new(3);
    harness.run(async {
        let refused = async |request: LockRequest| match request.await {
            Err(Error::InvalidRequest(invalid)) => invalid,
            other => panic!("{other:?}"),
        };
        let (min_hold, max_hold) = (s(3), s(2));
        let request = harness.redlock().lock("x", TTL).min_hold(min_hold).max_hold(max_hold);
        assert_eq!(refused(request).await, InvalidRequest::MinHoldTooLong { min_hold, max_hold });
        let request = harness.redlock().lock("x", TTL).min_hold(Duration::MAX);
        assert!(matches!(refused(request).await, InvalidRequest::TtlTooLong { .. }));
        let guarded = harness.builder().max_ttl(s(10)).build().unwrap();
        let invalid = refused(guarded.lock("x", TTL).min_hold(s(10))).await;
        assert!(matches!(invalid, InvalidRequest::TtlTooLong { max, .. } if max == s(10)), "{invalid}");
        assert_eq!(harness.requests(), [0, 0, 0]);

        let mut parts = job(&harness.redlock()).await.unwrap().into_parts();
        parts.max_hold = Some(s(1));
        let error = harness.redlock().from_parts(&parts).await.unwrap_err();
        let too_long = matches!(error, Error::InvalidRequest(InvalidRequest::MinHoldTooLong { .. }));
        assert!(too_long, "{error}");
        assert_eq!(harness.requests(), [1, 1, 1]);
    });
}
