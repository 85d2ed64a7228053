//! Bounds on arguments, on memory, and on the rate of requests.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, ConfigError, Error, Extend, InvalidRequest,
    LockBackend, MAX_TTL, MemoryBackend, Redlock, Release, ReleaseReply, Runtime, async_trait,
};
use redlock_tests::harness::{Harness, ms, s};

#[test]
fn invalid_requests_are_refused_before_anything_is_sent() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let none: [&str; 0] = [];
        let invalid = async |request: redlock_core::LockRequest| match request.await {
            Err(Error::InvalidRequest(invalid)) => invalid,
            other => panic!("{other:?}"),
        };
        assert_eq!(invalid(redlock.lock(none, s(1))).await, InvalidRequest::NoResources);
        assert_eq!(invalid(redlock.lock("", s(1))).await, InvalidRequest::EmptyResource);
        let repeated = InvalidRequest::DuplicateResource { name: "a".to_owned() };
        assert_eq!(invalid(redlock.lock(["a", "b", "a"], s(1))).await, repeated);
        for ttl in [ms(0), ms(1), ms(2), Duration::from_nanos(1)] {
            assert!(
                matches!(invalid(redlock.lock("a", ttl)).await, InvalidRequest::TtlTooShort { .. }),
                "{ttl:?}"
            );
        }
        for ttl in [MAX_TTL + ms(1), ms(u64::MAX), Duration::MAX] {
            assert!(
                matches!(invalid(redlock.lock("a", ttl)).await, InvalidRequest::TtlTooLong { .. }),
                "{ttl:?}"
            );
        }
        assert_eq!(harness.requests(), [0, 0, 0]);

        let mut lock = redlock.lock("a", s(1)).await.unwrap();
        for ttl in [ms(0), Duration::MAX] {
            assert!(matches!(lock.extend(ttl).await, Err(Error::InvalidRequest(_))));
        }
        assert!(lock.is_valid(), "a bad extension loses nothing");
        assert_eq!(harness.requests(), [1, 1, 1]);
    });
}

#[test]
fn the_shortest_and_the_longest_ttl_work() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = harness.redlock().lock("a", ms(3)).await.unwrap();
        assert_eq!(lock.remaining(), Duration::from_micros(970));
        lock.unlock().await.unwrap();
        let mut lock =
            harness.redlock().lock("a", MAX_TTL).retry_count(0).acquire_timeout(Duration::MAX).await.unwrap();
        lock.extend(MAX_TTL).await.unwrap();
        let guard = lock.keep_alive();
        harness.sleep(1_000).await;
        guard.unlock().await.unwrap();
        harness.sleep(1).await;
    });
    harness.assert_at_rest();
}

#[test]
fn invalid_managers_are_not_built() {
    let harness = Harness::new(3);
    for factor in [f64::NAN, f64::INFINITY, -1.0, -0.01, 1.0, 2.0] {
        let error = harness.builder().drift_factor(factor).build().unwrap_err();
        assert!(matches!(error, ConfigError::InvalidDriftFactor { .. }), "{error}");
    }
    let error = harness.builder().node_timeout(ms(0)).build().unwrap_err();
    assert!(matches!(error, ConfigError::ZeroNodeTimeout), "{error}");
    let error = Redlock::builder(harness.runtime.clone()).build().unwrap_err();
    assert!(matches!(error, ConfigError::NoNodes), "{error}");
    let error = harness.builder().node(harness.nodes[1].clone()).build().unwrap_err();
    assert!(matches!(error, ConfigError::DuplicateNode { name } if name == "node 1"));
    let nameless = || MemoryBackend::new(harness.runtime.clone());
    Redlock::builder(harness.runtime.clone()).node(nameless()).node(nameless()).build().unwrap();
}

#[test]
fn waiting_for_an_hour_takes_constant_memory_and_a_bounded_rate() {
    for faulty in [false, true] {
        let harness = Harness::new(3);
        harness.run(async {
            harness.nodes.iter().for_each(|node| node.set("x", "other", s(7_200)));
            if faulty {
                // One node never replies and one fails: the held one alone decides nothing.
                harness.nodes[0].stop();
                harness.nodes[1].fail_next(usize::MAX, BackendErrorKind::Indeterminate);
            }
            let redlock = harness.redlock();
            let mut waiting = Box::pin(redlock.lock("x", s(2)).retry_forever().into_future());
            let mut most = (0, 0);
            for _ in 0..60 {
                tokio::select! {
                    biased;
                    locked = &mut waiting => panic!("{locked:?}"),
                    () = harness.sleep(60_000) => {}
                }
                most = most.max((harness.runtime.tasks(), harness.runtime.timers()));
            }
            assert!(most.0 <= 8 && most.1 <= 16, "tasks and timers: {most:?}");
            // A round takes at least 100 ms, or 200 ms with the silent node: an acquire and a release.
            // Pending releases add at most one request a second.
            for requests in harness.requests() {
                assert!(requests <= 3_600 * 21, "{requests}");
            }
            drop(waiting);
            harness.nodes[0].resume();
            // A release whose acquire may still take effect stays pending for ten TTLs.
            harness.sleep(25_000).await;
        });
        harness.assert_at_rest();
    }
}

#[test]
fn a_long_ttl_makes_neither_long_hangs_nor_many_tasks() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes[0].stop();
        harness.nodes[1].set("x", "other", s(1_000_000));
        harness.nodes[2].set("x", "other", s(1_000_000));
        let redlock = harness.redlock();
        let mut waiting = Box::pin(redlock.lock("x", s(24 * 3_600)).retry_forever().into_future());
        for _ in 0..100 {
            tokio::select! {
                biased;
                locked = &mut waiting => panic!("{locked:?}"),
                () = harness.sleep(10_000) => {}
            }
            assert!(harness.runtime.tasks() < 100, "{} tasks", harness.runtime.tasks());
        }
        drop(waiting);
        harness.nodes.iter().for_each(|node| node.stop());
        let (error, took) = harness.timed(redlock.lock("x", s(24 * 3_600))).await;
        assert!(matches!(error, Err(Error::NoQuorum(_))));
        assert!(took < s(12), "{took:?}");
    });
}

#[test]
fn one_timer_cuts_off_all_requests_of_a_round_and_the_backend_says_why() {
    let harness = Harness::new(3);
    harness.run(async {
        let enforced = Arc::new(AtomicUsize::new(0));
        let redlock = harness.redlock_over(|_| Hanging { enforced: enforced.clone() });
        let request = redlock.try_lock("x", s(10)).into_future();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        harness.runtime.spawn(Box::pin(async move { drop(sender.send(request.await)) }));
        harness.sleep(499).await;
        assert_eq!((harness.runtime.timers(), enforced.load(Ordering::Relaxed)), (1, 3));
        let (result, took) = harness.timed(receiver).await;
        let error = result.unwrap().unwrap_err();
        assert_eq!(took, ms(1), "{error}");
        for reply in &error.report().unwrap().replies {
            assert_eq!(reply.to_string(), format!("node {}: indeterminate: no connection yet", reply.node));
        }
    });
}

/// A node whose requests never end. It counts those that the caller is to cut off.
#[derive(Debug)]
struct Hanging {
    enforced: Arc<AtomicUsize>,
}

impl Hanging {
    async fn hang<T>(&self, enforced: bool) -> T {
        self.enforced.fetch_add(usize::from(enforced), Ordering::Relaxed);
        pending().await
    }
}

#[async_trait]
impl LockBackend for Hanging {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.hang(request.caller_enforces_timeout).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.hang(request.caller_enforces_timeout).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.hang(request.caller_enforces_timeout).await
    }

    fn timed_out(&self, _: Duration) -> BackendError {
        BackendError::new(BackendErrorKind::Indeterminate, "no connection yet")
    }
}
