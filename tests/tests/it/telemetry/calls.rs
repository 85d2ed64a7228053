//! What is reported for each call: its span, its outcome, and the events at the default log level.

use redlock_core::{BackendErrorKind, Error, Lease, Runtime, ServerRole, UnlockOutcome};
use redlock_tests::harness::{Harness, ms, s};
use rstest::rstest;
use tracing::Level;

use crate::{
    sim::{
        notes::{Noteless, Way},
        restart_guard::Playing,
    },
    telemetry::capture::Capture,
};

#[rstest]
#[case::granted("granted", "1", "3/0/0/0/0", &[])]
#[case::granted_at_last("granted", "2", "3/0/0/0/0", &[])]
#[case::contended("contended", "4", "0/3/0/0/0", &[])]
#[case::no_quorum("no_quorum", "4", "1/0/2/0/0", &["WARN node unhealthy", "WARN node unhealthy"])]
#[case::rejected("rejected", "1", "1/0/0/2/0", &["WARN node unhealthy", "WARN node unhealthy"])]
fn a_lock_is_one_span_with_its_outcome_attempts_and_votes(
    #[case] outcome: &str,
    #[case] attempts: &str,
    #[case] votes: &str,
    #[case] loud: &[&str],
) {
    let harness = Harness::new(3);
    let (result, capture) = Capture::of(&harness, async {
        match (outcome, attempts) {
            ("granted", "2") => harness.nodes.iter().for_each(|node| node.set("x", "other", ms(50))),
            ("contended", _) => harness.nodes.iter().for_each(|node| node.set("x", "other", s(60))),
            ("no_quorum", _) => harness.nodes[1..].iter().for_each(|node| node.shut_down()),
            ("rejected", _) => {
                harness.nodes[1..].iter().for_each(|node| node.fail_next(9, BackendErrorKind::Rejected));
            }
            _ => {}
        }
        harness.redlock().lock(["x", "y"], s(10)).await
    });
    let spans = capture.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    let span = &spans[0];
    assert_eq!((span.text.as_str(), span.level, span.get("resources")), ("lock", Level::INFO, "2"));
    assert_eq!((span.get("outcome"), span.get("attempts")), (outcome, attempts));
    assert_eq!(capture.named("round").len().to_string(), attempts);
    assert_eq!(span.votes(), votes);
    assert_eq!(capture.named("begin")[0].get("names"), r#""x", "y""#);
    let holder = result.as_ref().map_or("", |lock| &lock.token().as_str()[..8]);
    assert_eq!(span.get("holder"), holder);
    assert_eq!(capture.loud(), loud, "contention is no error, and a dead node is reported once");
}

#[test]
fn a_lock_reports_its_fencing_token() {
    let harness = Harness::new(3);
    let (lock, capture) =
        Capture::of(&harness, async { harness.redlock().lock("x", s(10)).fenced().await.unwrap() });
    let fence = lock.fence().unwrap().to_string();
    assert_eq!(capture.last_span().get("fence"), fence);
    assert_eq!(capture.named("done")[0].get("fence"), fence);
}

#[rstest]
fn the_label_of_a_manager_is_in_its_spans_and_in_what_a_service_logs(#[values("reports", "")] label: &str) {
    let harness = Harness::new(4);
    let (_, capture) = Capture::of(&harness, async {
        // With a node that leads to the server of another.
        let other_way = harness.nodes[0].clone().with_name("other way");
        let redlock = harness.builder().node(other_way).label(label).build().unwrap();
        let mut lock = redlock.lock("x", s(10)).await.unwrap();
        harness.nodes[2].shut_down();
        lock.extend(s(10)).await.unwrap();
        harness.nodes[2].start();
        lock.extend(s(10)).await.unwrap();
        lock.lease().lost().await;
    });
    let expected =
        ["WARN node has no vote of its own", "WARN node unhealthy", "INFO node recovered", "WARN lock lost"];
    assert_eq!(capture.loud(), expected);
    let loud: Vec<_> = capture.entries().into_iter().filter(|entry| entry.level <= Level::INFO).collect();
    for entry in loud.iter().chain(&capture.spans()) {
        let manager = entry.fields.get("manager").map(String::as_str);
        assert_eq!(manager, (!label.is_empty()).then_some(label), "{entry:?}");
    }
}

#[test]
fn a_note_that_a_node_does_not_take_is_reported_for_whoever_looks_for_it() {
    let harness = Harness::new(1);
    let ((), capture) = Capture::of(&harness, async {
        let redlock = harness.redlock_over(|node| Noteless(node, Way::Fails));
        let lock = redlock.lock("x", s(10)).note("nightly report").await.unwrap();
        lock.unlock().await.unwrap();
    });
    assert_eq!(capture.loud(), [] as [&str; 0]);
    let reported = capture.named("note not stored");
    assert_eq!(reported.len(), 2, "and one for its removal");
    assert_eq!((reported[0].level, reported[0].get("node")), (Level::DEBUG, "0"));
    assert_eq!(reported[0].get("error"), "indeterminate: no notes today");
    assert!(!format!("{:?}", capture.entries()).contains("nightly"), "no log has a note");
}

#[test]
fn a_node_that_leads_to_the_server_of_another_is_reported_once() {
    let harness = Harness::new(2);
    let (_, capture) = Capture::of(&harness, async {
        let redlock =
            harness.builder().node(harness.nodes[0].clone().with_name("other way")).build().unwrap();
        for _ in 0..3 {
            let mut lock = redlock.lock("x", s(10)).await.unwrap();
            lock.extend(s(10)).await.unwrap();
            lock.unlock().await.unwrap();
            // So that a reply after the quorum has arrived.
            harness.sleep(1_000).await;
        }
    });
    assert_eq!(capture.loud(), ["WARN node has no vote of its own"]);
    let reported = &capture.named("node has no vote of its own")[0];
    assert_eq!((reported.get("node"), reported.get("same_server_as")), ("other way", "node 0"));
}

#[test]
fn a_node_within_its_guard_is_reported_once_and_again_when_it_votes() {
    let harness = Harness::new(3);
    let (_, capture) = Capture::of(&harness, async {
        let redlock = harness.builder().max_ttl(s(30)).build().unwrap();
        harness.nodes[1].restart_empty();
        for _ in 0..40 {
            redlock.lock("x", s(10)).await.unwrap().unlock().await.unwrap();
            harness.sleep(1_000).await;
        }
    });
    assert_eq!(capture.loud(), ["WARN node has no vote", "INFO node votes again"]);
    let reported = &capture.named("node has no vote")[0];
    assert_eq!(reported.get("node"), "node 1");
    assert!(reported.get("error").contains("may have forgotten locks"), "{reported:?}");
}

#[test]
fn a_server_that_endangers_locks_is_reported_once() {
    let harness = Harness::new(3);
    let (_, capture) = Capture::of(&harness, async {
        let playing = |node| Playing { node, role: Some(ServerRole::Replica) };
        let redlock = harness.redlock_over(playing);
        for _ in 0..3 {
            redlock.lock("x", s(10)).await.unwrap().unlock().await.unwrap();
            harness.sleep(1_000).await;
        }
    });
    assert_eq!(capture.loud(), ["WARN server endangers locks"; 3]);
    let reported = &capture.named("server endangers locks")[0];
    assert_eq!(reported.get("risk"), "it is a replica, which is no independent node");
}

#[test]
fn an_invalid_call_is_reported_too() {
    let harness = Harness::new(3);
    let (result, capture) = Capture::of(&harness, async { harness.redlock().lock("", s(10)).await });
    assert!(matches!(result, Err(Error::InvalidRequest(_))));
    assert_eq!(capture.last_span().get("outcome"), "invalid");
    assert_eq!(capture.named("reply").len(), 0);
}

#[test]
fn a_dropped_call_is_cancelled_and_its_time_is_reported() {
    let harness = Harness::new(3);
    let (_, capture) = Capture::of(&harness, async {
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(200)));
        let request = harness.redlock().lock("x", s(10)).into_future();
        assert!(harness.cancel_after(ms(120), request).await.is_none());
        let _never_polled = harness.redlock().lock("x", s(10)).into_future();
        harness.sleep(1_000).await;
    });
    let spans = capture.spans();
    assert_eq!(spans.len(), 1, "a request that is never polled has no span: {spans:?}");
    assert_eq!((spans[0].get("outcome"), spans[0].get("elapsed_ms")), ("cancelled", "120"));
    assert_eq!(capture.named("round")[0].get("outcome"), "cancelled");
    assert_eq!(spans[0].votes(), "0/0/0/0/3", "nobody had answered yet");
    assert_eq!(capture.named("reply").len(), 6, "acquires and their releases are answered all the same");
    assert_eq!(capture.loud(), [""; 0]);
    harness.assert_free("x");
}

#[test]
fn an_extension_reports_whether_it_was_confirmed() {
    let harness = Harness::new(3);
    let (_, capture) = Capture::of(&harness, async {
        let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
        lock.extend(s(10)).await.unwrap();
        harness.nodes[1..].iter().for_each(|node| node.fail_next(1, BackendErrorKind::Transient));
        assert!(matches!(lock.extend(s(10)).await, Err(Error::NoQuorum(_))));
        harness.nodes.iter().for_each(|node| node.clear());
        assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))));
        drop(lock);
    });
    let spans = capture.spans();
    let outcomes: Vec<_> = spans.iter().map(|span| (span.text.as_str(), span.get("outcome"))).collect();
    let expected = [("lock", "granted"), ("extend", "extended"), ("extend", "no_quorum"), ("extend", "lost")];
    assert_eq!(outcomes, expected);
    let holders: Vec<_> = spans.iter().map(|span| span.get("holder")).collect();
    assert!(holders.iter().all(|holder| *holder == holders[0] && holder.len() == 8), "{holders:?}");
    assert_eq!(spans[2].votes(), "1/0/2/0/0");

    let lost = capture.named("lock lost");
    assert_eq!(lost.len(), 1, "once, although it is dropped later");
    assert_eq!((lost[0].level, lost[0].get("reason")), (Level::WARN, "gone"));
    assert_eq!((lost[0].get("holder"), lost[0].within.unwrap().0), (holders[0], "extend"));
    assert_eq!(capture.named("lock dropped: it is released in the background").len(), 1);
}

#[test]
fn an_unlock_reports_whether_the_lock_was_still_held() {
    let harness = Harness::new(3);
    let (_, capture) = Capture::of(&harness, async {
        let redlock = harness.redlock();
        assert_eq!(redlock.lock("x", s(10)).await.unwrap().unlock().await.unwrap(), UnlockOutcome::Released);
        let lock = redlock.lock("x", s(10)).await.unwrap();
        harness.nodes.iter().for_each(|node| node.clear());
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld);
        let lock = redlock.lock("x", s(10)).await.unwrap();
        harness.sleep(10_000).await;
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld);
        let lock = redlock.lock("x", s(10)).await.unwrap();
        harness.nodes[1..].iter().for_each(|node| node.shut_down());
        assert!(matches!(lock.unlock().await, Err(Error::NoQuorum(_))));
    });
    let unlocks: Vec<_> = capture.spans().into_iter().filter(|span| span.text == "unlock").collect();
    let outcomes: Vec<_> = unlocks.iter().map(|span| span.get("outcome")).collect();
    assert_eq!(outcomes, ["released", "not_held", "not_held", "no_quorum"]);
    let lost = capture.named("lock lost");
    assert_eq!(lost.iter().map(|entry| entry.get("reason")).collect::<Vec<_>>(), ["gone", "expired"]);
}

#[test]
fn a_lock_that_is_kept_is_reported_as_such_and_not_as_lost() {
    let harness = Harness::new(3);
    let (_, capture) = Capture::of(&harness, async {
        let redlock = harness.redlock();
        let lock = redlock.lock("x", s(10)).min_hold(s(10)).await.unwrap();
        assert!(matches!(lock.unlock().await.unwrap(), UnlockOutcome::Kept { .. }));
        drop(redlock.lock("y", s(10)).min_hold(s(10)).await.unwrap());
        harness.sleep(60_000).await;
    });
    assert_eq!(capture.last_span().get("outcome"), "granted");
    let unlocks: Vec<_> = capture.spans().into_iter().filter(|span| span.text == "unlock").collect();
    assert_eq!(unlocks.iter().map(|span| span.get("outcome")).collect::<Vec<_>>(), ["kept"]);
    assert_eq!(capture.named("lock dropped: it is left to its TTL").len(), 1);
    assert_eq!(capture.named("lock dropped: it is released in the background").len(), 0);
    assert_eq!(capture.loud(), [""; 0]);
}

#[test]
fn a_lock_that_expires_under_its_routine_is_reported_once_at_its_deadline() {
    let harness = Harness::new(3);
    let (took, capture) = Capture::of(&harness, async {
        let (nodes, runtime) = (harness.nodes.clone(), harness.runtime.clone());
        let routine = |_: Lease| async move {
            nodes.iter().for_each(|node| node.shut_down());
            runtime.sleep(s(60)).await;
        };
        let (result, took) = harness.timed(harness.redlock().using("x", s(10), routine)).await;
        assert!(matches!(result, Err(Error::Lost(_))));
        harness.sleep(20_000).await;
        took
    });
    assert_eq!(took, ms(9_898));
    let expected = ["WARN node unhealthy", "WARN node unhealthy", "WARN node unhealthy", "WARN lock lost"];
    assert_eq!(capture.loud(), expected);
    assert_eq!(capture.named("lock lost")[0].get("reason"), "expired");
    let failing: Vec<_> = capture
        .named("node unhealthy")
        .iter()
        .map(|entry| (entry.get("node").to_owned(), entry.get("serving").to_owned()))
        .collect();
    let expected = [("node 0", "2"), ("node 1", "1"), ("node 2", "0")];
    assert_eq!(failing, expected.map(|(node, serving)| (node.to_owned(), serving.to_owned())));
}

#[test]
fn a_lock_released_before_its_deadline_is_never_reported_lost() {
    let harness = Harness::new(3);
    let (_, capture) = Capture::of(&harness, async {
        let redlock = harness.redlock();
        let runtime = harness.runtime.clone();
        redlock.using("x", s(1), |_| async move { runtime.sleep(s(5)).await }).await.unwrap();
        let lock = redlock.lock("x", s(1)).await.unwrap();
        let lease = lock.lease();
        drop(lock);
        lease.lost().await;
        let guard = redlock.lock("y", s(1)).await.unwrap().keep_alive();
        harness.sleep(500).await;
        guard.unlock().await.unwrap();
        let parts = redlock.lock("z", s(1)).await.unwrap().into_parts();
        redlock.from_parts(&parts).await.unwrap().forget();
        harness.sleep(5_000).await;
    });
    assert_eq!(capture.loud(), [""; 0]);
}
