//! Notes of holders: they come and go with their locks, and no lock depends on them.

use std::future::pending;

use redlock_core::{
    Acquire, AcquireReply, Annotate, BackendError, BackendErrorKind, ConfigError, Error, Extend, Inspect,
    InvalidRequest, KeyState, LockBackend, MemoryBackend, Note, Redlock, Release, ReleaseReply, Replace,
    async_trait,
};
use redlock_tests::harness::{Harness, Plain, ms, s};

const NOTE: &str = "build-3 pid 42: nightly report";

#[test]
fn a_note_comes_and_goes_with_the_lock() {
    for drops in [false, true] {
        let harness = Harness::new(3);
        harness.run(async {
            let redlock = harness.builder().note(NOTE).build().unwrap();
            let lock = redlock.lock(["a", "b"], s(10)).await.unwrap();
            assert_eq!(
                [notes(&harness, "a"), notes(&harness, "b")],
                [vec![Some(NOTE.to_owned()); 3], vec![Some(NOTE.to_owned()); 3]]
            );
            assert_eq!(shown(&harness, "a").await, vec![Some(NOTE.to_owned()); 3]);
            if drops {
                drop(lock);
                harness.sleep(1).await;
            } else {
                lock.unlock().await.unwrap();
            }
            assert_eq!([notes(&harness, "a"), notes(&harness, "b")], [vec![None; 3], vec![None; 3]]);
            harness.assert_free("a");
        });
        harness.assert_at_rest();
    }
}

#[test]
fn a_note_expires_with_a_lock_that_is_forgotten() {
    let harness = Harness::new(3);
    harness.run(async {
        harness.redlock().lock("x", s(10)).note(NOTE).await.unwrap().forget();
        harness.sleep(9_999).await;
        assert_eq!(notes(&harness, "x"), vec![Some(NOTE.to_owned()); 3]);
        harness.sleep(1).await;
        assert_eq!(notes(&harness, "x"), vec![None; 3]);
    });
}

#[test]
fn a_note_stays_with_a_lock_that_is_kept() {
    for drops in [false, true] {
        let harness = Harness::new(3);
        harness.run(async {
            let lock = harness.redlock().lock("x", s(1)).min_hold(s(10)).note(NOTE).await.unwrap();
            if drops {
                drop(lock);
            } else {
                lock.unlock().await.unwrap();
            }
            harness.sleep(10_000).await;
            assert_eq!(notes(&harness, "x"), vec![Some(NOTE.to_owned()); 3]);
            harness.sleep(200).await;
            assert_eq!(notes(&harness, "x"), vec![None; 3]);
            harness.assert_free("x");
        });
        harness.assert_at_rest();
    }
}

#[test]
fn a_note_lives_on_with_each_extension_also_where_the_keys_were_lost() {
    let harness = Harness::new(3);
    harness.run(async {
        let lock = harness.redlock().lock("x", s(10)).note(NOTE).await.unwrap();
        harness.nodes[1].restart_empty();
        let guard = lock.keep_alive();
        harness.sleep(60_000).await;
        assert!(guard.is_valid());
        assert_eq!(shown(&harness, "x").await, vec![Some(NOTE.to_owned()); 3]);
        guard.unlock().await.unwrap();
        assert_eq!(notes(&harness, "x"), vec![None; 3]);
    });
}

#[test]
fn locks_without_a_note_send_nothing_and_those_with_one_a_request_each_time() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        for (noted, requests) in [(false, 3), (true, 6)] {
            let before = harness.requests();
            let request = redlock.lock("x", s(10));
            let mut lock = if noted { request.note(NOTE) } else { request }.await.unwrap();
            lock.extend(s(10)).await.unwrap();
            lock.unlock().await.unwrap();
            let sent: Vec<_> = harness.requests().iter().zip(before).map(|(now, then)| now - then).collect();
            assert_eq!(sent, [requests; 3], "{noted}");
        }
    });
}

/// Whatever becomes of the notes, a lock takes the time that it takes without.
#[test]
fn a_node_that_does_not_take_notes_neither_delays_a_lock_nor_keeps_requests_for_long() {
    for way in [Way::Hangs, Way::Fails, Way::Panics] {
        let harness = Harness::new(3);
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(3)));
        harness.run(async {
            let nodes = harness.nodes.iter().map(|node| Noteless(node.clone(), way));
            let builder =
                Redlock::builder(harness.runtime.clone()).nodes(nodes).entropy(harness.sim.entropy());
            let redlock = builder.note(NOTE).build().unwrap();
            let (lock, took) = harness.timed(redlock.lock("x", s(10))).await;
            assert_eq!(took, ms(3), "{way:?}");
            let mut lock = lock.unwrap();
            let (extended, took) = harness.timed(lock.extend(s(10))).await;
            assert!(extended.is_ok() && took == ms(3), "{way:?}: {extended:?}, {took:?}");
            let (unlocked, took) = harness.timed(lock.unlock()).await;
            assert!(unlocked.is_ok() && took == ms(3), "{way:?}: {unlocked:?}, {took:?}");
            // The node timeout.
            harness.sleep(500).await;
        });
        harness.assert_at_rest();
    }
}

#[test]
fn a_silent_node_gets_no_notes() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.builder().note(NOTE).build().unwrap();
        let mut lock = redlock.lock("x", s(10)).await.unwrap();
        harness.nodes[0].stop();
        lock.extend(s(10)).await.unwrap();
        // Its timeout shows that it is silent.
        harness.sleep(1_000).await;
        let before = harness.nodes[0].requests();
        lock.extend(s(10)).await.unwrap();
        assert_eq!(harness.nodes[0].requests() - before, 1, "the extension");
        harness.nodes[0].resume();
        harness.sleep(1_000).await;
        lock.extend(s(10)).await.unwrap();
        lock.extend(s(10)).await.unwrap();
        assert_eq!(shown(&harness, "x").await, vec![Some(NOTE.to_owned()); 3]);
    });
}

#[test]
fn who_is_refused_and_has_a_note_learns_of_the_holders() {
    let harness = Harness::new(3);
    harness.nodes.iter().for_each(|node| node.delay_replies(ms(3)));
    harness.run(async {
        let holder = harness.builder().note("a\nb").build().unwrap();
        let lock = holder.lock("x", s(10)).await.unwrap();
        let redlock = harness.redlock();

        let before = harness.requests();
        let (refused, took) = harness.timed(redlock.try_lock("x", s(10))).await;
        let error = refused.unwrap_err();
        assert_eq!(error.report().unwrap().holder_note(), None);
        assert_eq!(took, ms(3));
        let without: Vec<_> = harness.requests().iter().zip(before).map(|(now, then)| now - then).collect();

        let before = harness.requests();
        let (refused, took) = harness.timed(redlock.try_lock("x", s(10)).note(NOTE)).await;
        let error = refused.unwrap_err();
        assert_eq!(took, ms(6), "one more trip");
        let report = error.report().unwrap();
        assert_eq!(report.holder_note(), Some("a\\nb"));
        assert_eq!(report.holder.as_ref().unwrap().prefix, lock.token().prefix());
        let text = format!("\"x\" is held by another owner, {} (a\\nb) (1 attempt; ", lock.token().prefix());
        assert!(error.to_string().starts_with(&text), "{error}");
        let with: Vec<_> = harness.requests().iter().zip(before).map(|(now, then)| now - then).collect();
        assert_eq!(with, without.iter().map(|requests| requests + 1).collect::<Vec<_>>());
    });
}

#[test]
fn a_holder_without_a_note_is_not_named() {
    let harness = Harness::new(3);
    harness.run(async {
        let _lock = harness.redlock().lock("x", s(10)).await.unwrap();
        let error = harness.redlock().try_lock("x", s(10)).note(NOTE).await.unwrap_err();
        assert!(error.report().unwrap().holder.is_none(), "{error}");
        assert!(error.to_string().starts_with("\"x\" is held by another owner (1 attempt; "), "{error}");
    });
}

#[test]
fn the_search_for_the_holder_ends_with_the_node_timeout_and_the_acquire_timeout() {
    let harness = Harness::new(3);
    harness.run(async {
        let _lock = harness.redlock().lock("x", s(10)).await.unwrap();
        let nodes = harness.nodes.iter().map(|node| Noteless(node.clone(), Way::Hangs));
        let builder = Redlock::builder(harness.runtime.clone()).nodes(nodes).entropy(harness.sim.entropy());
        let redlock = builder.note(NOTE).node_timeout(ms(300)).build().unwrap();
        let (refused, took) = harness.timed(redlock.try_lock("x", s(10))).await;
        assert!(matches!(refused, Err(Error::Contended(_))), "{refused:?}");
        assert_eq!(took, ms(300));
        let request = redlock.lock("x", s(10)).retry_forever().acquire_timeout(ms(1_000));
        let (refused, took) = harness.timed(request).await;
        assert!(matches!(refused, Err(Error::Contended(_))), "{refused:?}");
        assert!(took <= ms(1_000), "{took:?}");
    });
}

#[test]
fn a_lock_that_was_handed_over_has_the_note_of_its_taker() {
    let harness = Harness::new(3);
    harness.run(async {
        let giver = harness.builder().note("giver").build().unwrap();
        let taker = harness.builder().note("taker").build().unwrap();
        let parts = giver.lock("x", s(10)).await.unwrap().into_parts();
        assert_eq!(shown(&harness, "x").await, vec![Some("giver".to_owned()); 3]);
        let lock = taker.from_parts(&parts).await.unwrap();
        assert_eq!(shown(&harness, "x").await, vec![Some("taker".to_owned()); 3]);

        let lock = harness.redlock().from_parts(&lock.into_parts()).await.unwrap();
        assert_eq!(shown(&harness, "x").await, vec![None; 3], "it has none");
        assert!(lock.is_valid());
    });
}

#[test]
fn a_note_needs_nodes_that_can_store_it() {
    let harness = Harness::new(3);
    harness.run(async {
        let nodes = || harness.nodes.iter().cloned().map(Plain);
        let error = Redlock::builder(harness.runtime.clone()).nodes(nodes()).note(NOTE).build().unwrap_err();
        assert!(matches!(&error, ConfigError::NotesUnsupported { node } if node == "node 0"), "{error:?}");
        assert_eq!(error.to_string(), "the backend of node 0 has no notes");
        let redlock = harness.redlock_over(Plain);
        let error = redlock.lock("x", s(10)).note(Note::of_process("x")).await.unwrap_err();
        assert!(
            matches!(&error, Error::InvalidRequest(InvalidRequest::NotesUnsupported { node }) if node == "node 0"),
            "{error:?}"
        );
        assert_eq!(harness.requests(), [0; 3]);
        assert!(redlock.lock("x", s(10)).await.is_ok());
    });
}

/// What is stored on each node, whoever holds the key.
fn notes(harness: &Harness, name: &str) -> Vec<Option<String>> {
    harness.nodes.iter().map(|node| node.note(name)).collect()
}

/// What each node shows.
async fn shown(harness: &Harness, name: &str) -> Vec<Option<String>> {
    let mut notes = Vec::new();
    for node in &harness.nodes {
        let states = node.inspect(Inspect::new(&name.into(), s(1)).with_notes()).await.unwrap();
        notes.extend(states.into_iter().map(|state| match state {
            KeyState::Held { note, .. } => note,
            _ => None,
        }));
    }
    notes
}

/// How a node refuses notes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Hangs,
    Fails,
    Panics,
}

/// A node that locks, and does nothing else.
#[derive(Debug)]
pub(crate) struct Noteless(pub(crate) MemoryBackend, pub(crate) Way);

impl Noteless {
    async fn fail<T>(&self) -> Result<T, BackendError> {
        match self.1 {
            Way::Hangs => pending().await,
            Way::Fails => Err(BackendError::new(BackendErrorKind::Indeterminate, "no notes today")),
            Way::Panics => panic!("no notes"),
        }
    }
}

#[async_trait]
impl LockBackend for Noteless {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.0.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.0.extend(request).await
    }

    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        self.0.replace(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.0.release(request).await
    }

    fn can_annotate(&self) -> bool {
        true
    }

    async fn annotate(&self, _: Annotate<'_>) -> Result<(), BackendError> {
        self.fail().await
    }

    async fn inspect(&self, _: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        self.fail().await
    }
}
