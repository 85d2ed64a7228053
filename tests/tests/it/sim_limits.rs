//! Bounds: on what is asked for, on memory, and on the rate of requests.

use std::time::Duration;

use redlock_core::{BackendErrorKind, ConfigError, Error, InvalidRequest, MAX_TTL, MemoryBackend, Redlock};

use crate::bed::{Bed, ms, s};

#[test]
fn requests_that_make_no_sense_are_refused_before_anything_is_sent() {
    let bed = Bed::new(3);
    bed.run(async {
        let redlock = bed.redlock();
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
        assert_eq!(bed.requests(), [0, 0, 0]);

        let mut lock = redlock.lock("a", s(1)).await.unwrap();
        for ttl in [ms(0), Duration::MAX] {
            assert!(matches!(lock.extend(ttl).await, Err(Error::InvalidRequest(_))));
        }
        assert!(lock.is_valid(), "a bad extension loses nothing");
        assert_eq!(bed.requests(), [1, 1, 1]);
    });
}

#[test]
fn the_shortest_and_the_longest_ttl_work() {
    let bed = Bed::new(3);
    bed.run(async {
        let lock = bed.redlock().lock("a", ms(3)).await.unwrap();
        assert_eq!(lock.remaining(), Duration::from_micros(970));
        lock.unlock().await.unwrap();
        let mut lock =
            bed.redlock().lock("a", MAX_TTL).retry_count(0).acquire_timeout(Duration::MAX).await.unwrap();
        lock.extend(MAX_TTL).await.unwrap();
        let guard = lock.keep_alive();
        bed.sleep(1_000).await;
        guard.unlock().await.unwrap();
        bed.sleep(1).await;
    });
    bed.assert_at_rest();
}

#[test]
fn managers_that_make_no_sense_are_not_built() {
    let bed = Bed::new(3);
    for factor in [f64::NAN, f64::INFINITY, -1.0, -0.01, 1.0, 2.0] {
        let error = bed.builder().drift_factor(factor).build().unwrap_err();
        assert!(matches!(error, ConfigError::InvalidDriftFactor { .. }), "{error}");
    }
    let error = bed.builder().node_timeout(ms(0)).build().unwrap_err();
    assert!(matches!(error, ConfigError::ZeroNodeTimeout), "{error}");
    let error = Redlock::builder(bed.runtime.clone()).build().unwrap_err();
    assert!(matches!(error, ConfigError::NoNodes), "{error}");
    let error = bed.builder().node(bed.nodes[1].clone()).build().unwrap_err();
    assert!(matches!(error, ConfigError::DuplicateNode { name } if name == "node 1"));
    let nameless = || MemoryBackend::new(bed.runtime.clone());
    Redlock::builder(bed.runtime.clone()).node(nameless()).node(nameless()).build().unwrap();
}

#[test]
fn waiting_for_an_hour_takes_constant_memory_and_a_bounded_rate() {
    for troubled in [false, true] {
        let bed = Bed::new(3);
        bed.run(async {
            bed.nodes.iter().for_each(|node| node.set("x", "other", s(7_200)));
            if troubled {
                // One that never answers and one that answers nonsense: the held one decides nothing alone.
                bed.nodes[0].stop();
                bed.nodes[1].fail_next(usize::MAX, BackendErrorKind::Indeterminate);
            }
            let redlock = bed.redlock();
            let mut waiting = Box::pin(redlock.lock("x", s(2)).retry_forever().into_future());
            let mut most = (0, 0);
            for _ in 0..60 {
                tokio::select! {
                    biased;
                    locked = &mut waiting => panic!("{locked:?}"),
                    () = bed.sleep(60_000) => {}
                }
                most = most.max((bed.runtime.tasks(), bed.runtime.timers()));
            }
            assert!(most.0 <= 8 && most.1 <= 16, "tasks and timers: {most:?}");
            // A round takes 100 ms at least, or with the silent node 200: an acquire and a release, and at most one
            // request a second for what is owed.
            for requests in bed.requests() {
                assert!(requests <= 3_600 * 21, "{requests}");
            }
            drop(waiting);
            bed.nodes[0].resume();
            // What may still come is asked for until ten TTLs have passed.
            bed.sleep(25_000).await;
        });
        bed.assert_at_rest();
    }
}

#[test]
fn a_long_ttl_makes_neither_long_hangs_nor_many_tasks() {
    let bed = Bed::new(3);
    bed.run(async {
        bed.nodes[0].stop();
        bed.nodes[1].set("x", "other", s(1_000_000));
        bed.nodes[2].set("x", "other", s(1_000_000));
        let redlock = bed.redlock();
        let mut waiting = Box::pin(redlock.lock("x", s(24 * 3_600)).retry_forever().into_future());
        for _ in 0..100 {
            tokio::select! {
                biased;
                locked = &mut waiting => panic!("{locked:?}"),
                () = bed.sleep(10_000) => {}
            }
            assert!(bed.runtime.tasks() < 100, "{} tasks", bed.runtime.tasks());
        }
        drop(waiting);
        bed.nodes.iter().for_each(|node| node.stop());
        let (error, took) = bed.timed(redlock.lock("x", s(24 * 3_600))).await;
        assert!(matches!(error, Err(Error::NoQuorum(_))));
        assert!(took < s(12), "{took:?}");
    });
}
