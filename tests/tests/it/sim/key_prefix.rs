//! Lock managers that put a prefix before each name.

use redlock_core::{Error, InvalidRequest, Redlock, UnlockOutcome};
use redlock_tests::harness::{Harness, ms, s};

use crate::sim::queue::{patient, task};

fn prefixed(harness: &Harness) -> Redlock {
    harness.builder().key_prefix("locks:").build().unwrap()
}

#[test]
fn the_prefix_is_added_once_and_everything_shows_the_key() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = prefixed(&harness);
        let lock = redlock.lock(["a", "locks:b"], s(10)).await.unwrap();
        assert_eq!(lock.resources().as_slice(), ["locks:a", "locks:locks:b"]);
        let token = lock.token().as_str();
        for key in ["locks:a", "locks:locks:b"] {
            assert_eq!(harness.holding(key, token), 3, "{key}");
        }
        for name in ["a", "b", "locks:b"] {
            harness.assert_free(name);
        }
        assert_eq!(lock.lease().resources(), lock.resources());

        let error = redlock.try_lock("a", s(10)).await.unwrap_err();
        assert_eq!(error.report().unwrap().resources.as_slice(), ["locks:a"]);
        assert!(error.to_string().starts_with("\"locks:a\" is held"), "{error}");
        let keys = redlock.using("c", s(10), async |lease| lease.resources().as_slice().to_vec());
        assert_eq!(keys.await.unwrap(), ["locks:c"]);

        // Without one, the name is the key.
        let plain = harness.redlock().lock("locks:d", s(10)).await.unwrap();
        assert_eq!(plain.resources().as_slice(), ["locks:d"]);
        assert_eq!(harness.holding("locks:d", plain.token().as_str()), 3);
        let empty = harness.builder().key_prefix("").build().unwrap();
        assert_eq!(empty.lock("e", s(10)).await.unwrap().resources().as_slice(), ["e"]);
    });
}

#[test]
fn names_are_invalid_with_a_prefix_as_without() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = prefixed(&harness);
        let none: [&str; 0] = [];
        let name = "locks:a".to_owned();
        for (names, expected) in [
            (&none[..], InvalidRequest::NoResources),
            (&["a", ""], InvalidRequest::EmptyResource),
            (&[""], InvalidRequest::EmptyResource),
            (&["a", "a"], InvalidRequest::DuplicateResource { name }),
        ] {
            let Err(Error::InvalidRequest(invalid)) = redlock.lock(names, s(10)).await else { panic!() };
            assert_eq!(invalid, expected, "{names:?}");
        }
        assert_eq!(harness.requests(), [0, 0, 0]);
    });
}

#[test]
fn parts_have_whole_keys_and_go_to_managers_with_another_prefix_or_none() {
    let harness = Harness::new(3);
    harness.run(async {
        let other = harness.builder().key_prefix("other:").build().unwrap();
        let mut parts = prefixed(&harness).lock("a", s(10)).await.unwrap().into_parts();
        for redlock in [harness.redlock(), other, prefixed(&harness)] {
            assert_eq!(parts.resources, ["locks:a"]);
            let mut lock = redlock.from_parts(&parts).await.unwrap();
            assert_eq!(harness.holding("locks:a", lock.token().as_str()), 3);
            lock.extend(s(10)).await.unwrap();
            parts = lock.into_parts();
        }
        let lock = harness.redlock().from_parts(&parts).await.unwrap();
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
        harness.assert_free("locks:a");
    });
}

#[test]
fn waiters_wait_for_keys_and_counters_count_for_them() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(5)));
        let redlock = harness.builder().key_prefix("locks:").fenced().build().unwrap();
        let lock = redlock.lock("a", s(60)).await.unwrap();
        let fence = lock.fence();
        assert_eq!((harness.nodes[0].counter("locks:a"), harness.nodes[0].counter("a")), (fence, None));
        // One in the queue of the process, and one of another process without a prefix, which watches the key.
        let [near, far] = [(&redlock, "a"), (&harness.redlock(), "locks:a")].map(|(redlock, name)| {
            let request = patient(redlock, name);
            task(&harness, async move {
                let lock = request.await.unwrap();
                let fence = lock.fence();
                lock.unlock().await.unwrap();
                fence
            })
        });
        harness.sleep(1_000).await;
        let start = harness.now();
        lock.unlock().await.unwrap();
        assert!(near.await > fence);
        assert_eq!(far.await, None);
        assert!(harness.now() - start < s(1), "{:?}", harness.now() - start);
    });
}
