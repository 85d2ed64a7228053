//! Clauses 6 to 8: one round trip, bounded by the timeout, classified errors; and order under faults.

// Tests: conformance/tests.rs.

use std::{fmt::Debug, time::Duration};

use futures_util::future::join;

use super::{
    Asked, begin_and_drop,
    case::{Case, LONG, Seen},
    node_control::{FaultOutcome, NodeControl},
    order::{ROUNDS, SETTLE},
    suite::Suite,
    together,
    verdict::{Clause, Outcome, Verdict, Violation},
};
use crate::{
    MAX_TTL,
    backend::{AcquireReply, BackendErrorKind, FencedReply, ReleaseReply},
};

/// Every request, for one key or for several, is one command. Needs [`NodeControl::commands`].
pub async fn a_request_is_one_command(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::OneRoundTrip, "a_request_is_one_command", |case| async move {
            let [a, b] = case.holders();
            let one = vec![case.name("one")];
            let three = ["one", "two", "three"].map(|label| case.name(label)).to_vec();
            // The set-up of a connection does not count.
            a.release(&one[..]).await.must(ReleaseReply::NotHeld)?;
            for names in [one, three] {
                let names = &names[..];
                let Some(before) = commands(&case).await else { return Ok(NOT_COUNTED) };
                a.acquire(names, LONG).await.must(AcquireReply::Granted)?;
                a.acquire(names, LONG).await.must(AcquireReply::Granted)?;
                b.acquire(names, LONG).await.must(AcquireReply::Refused)?;
                a.extend(names, 2 * LONG).await.must(AcquireReply::Granted)?;
                b.extend(names, 2 * LONG).await.must(AcquireReply::Refused)?;
                b.release(names).await.must(ReleaseReply::NotHeld)?;
                a.release(names).await.must(ReleaseReply::Removed)?;
                let Some(mut after) = commands(&case).await else { return Ok(NOT_COUNTED) };
                if after - before != 7 {
                    let expected = "7 requests are 7 commands";
                    return Err(case.violation(expected, format!("{} commands", after - before)));
                }
                if suite.backend.can_annotate() {
                    a.annotate(names, Some("a note")).await.must(())?;
                    a.annotate(names, None).await.must(())?;
                    let Some(noted) = commands(&case).await else { return Ok(NOT_COUNTED) };
                    if noted - after != 2 {
                        let expected = "2 requests about notes are 2 commands";
                        return Err(case.violation(expected, format!("{} commands", noted - after)));
                    }
                    after = noted;
                }
                if !suite.backend.can_fence() {
                    continue;
                }
                let counter = a.acquire_fenced(names, LONG, 0).await.counter()?;
                b.acquire_fenced(names, LONG, 0).await.must(FencedReply::Refused)?;
                a.raise(names, counter + 1, None).await.must_count(counter + 1)?;
                a.raise(names, counter + 2, Some(LONG)).await.must_count(counter + 2)?;
                a.release(names).await.must(ReleaseReply::Removed)?;
                let Some(fenced) = commands(&case).await else { return Ok(NOT_COUNTED) };
                if fenced - after != 5 {
                    let expected = "5 fenced requests are 5 commands";
                    return Err(case.violation(expected, format!("{} commands", fenced - after)));
                }
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// A request without a reply is not sent again. Needs [`NodeControl::commands`] and
/// [`NodeControl::stop`].
pub async fn a_request_is_not_sent_again(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::OneRoundTrip, "a_request_is_not_sent_again", |case| async move {
            let a = case.holder();
            let key = case.name("key");
            a.release(&key).await.must(ReleaseReply::NotHeld)?;
            let Some(before) = commands(&case).await else { return Ok(NOT_COUNTED) };
            let Some(node) = stopped(&case).await else { return Ok(NOT_STOPPED) };
            let brief = a.within(BRIEF);
            for _ in 0..3 {
                brief.acquire(&key, LONG).await;
                brief.release(&key).await;
            }
            resume(&case, node).await;
            let more = case.recovered().await?;
            case.sleep(SETTLE).await;
            let Some(after) = commands(&case).await else { return Ok(NOT_COUNTED) };
            let most = 6 + more;
            if after - before > most {
                let expected = format!("at most {most} commands, one for each request");
                return Err(case.violation(expected, format!("{} commands", after - before)));
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// A request with a very short timeout ends before its deadline, with a reply or as indeterminate, and the
/// next ones work.
pub async fn a_short_timeout_ends_the_request(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::BoundedByTimeout, "a_short_timeout_ends_the_request", |case| async move {
            let [a, b] = case.holders();
            let key = case.name("key");
            for round in 0..ROUNDS {
                let brief = a.within(if round % 2 == 0 {
                    Duration::from_micros(1)
                } else {
                    Duration::from_millis(1)
                });
                in_class(&case, &brief.acquire(&key, LONG).await, NO_ANSWER)?;
                in_class(&case, &brief.extend(&key, LONG).await, NO_ANSWER)?;
                in_class(&case, &brief.release(&key).await, NO_ANSWER)?;
            }
            // This comes after them, whatever their outcomes.
            a.release(&key).await.ended()?.map_err(|error| case.violation("a reply", error.to_string()))?;
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            b.acquire(&key, LONG).await.must(AcquireReply::Refused)?;
            a.release(&key).await.must(ReleaseReply::Removed)?;
            case.sleep(SETTLE).await;
            case.must_be_free(&key).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// A timeout of [`MAX_TTL`] works like any other.
pub async fn a_long_timeout_works(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::BoundedByTimeout, "a_long_timeout_works", |case| async move {
            let [a, b] = case.holders::<2>().map(|holder| holder.within(MAX_TTL));
            let key = case.name("key");
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            b.acquire(&key, LONG).await.must(AcquireReply::Refused)?;
            a.extend(&key, LONG).await.must(AcquireReply::Granted)?;
            a.release(&key).await.must(ReleaseReply::Removed)?;
            Ok(Verdict::Passed)
        })
        .await
}

/// While the node is stopped, requests end within their timeout, as indeterminate, and the first one after
/// that works. Needs [`NodeControl::stop`].
pub async fn a_stopped_node_fails_before_the_deadline(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::BoundedByTimeout, "a_stopped_node_fails_before_the_deadline", |case| async move {
            let [a, b] = case.holders();
            let (held, free) = (case.name("held"), case.name("free"));
            a.acquire(&held, LONG).await.must(AcquireReply::Granted)?;
            let Some(node) = stopped(&case).await else { return Ok(NOT_STOPPED) };
            let (a, b) = (a.within(BRIEF), b.within(BRIEF));
            let acquired = b.acquire(&free, LONG).await;
            let extended = a.extend(&held, LONG).await;
            let released = b.release(&held).await;
            let inspected = a.inspect(&held).await;
            resume(&case, node).await;
            case.recovered().await?;
            silent(&case, &acquired)?;
            silent(&case, &extended)?;
            silent(&case, &released)?;
            match inspected.ended()? {
                Err(error) if error.kind() == BackendErrorKind::Rejected => {}
                _ => silent(&case, &inspected)?,
            }
            a.within(case.suite.timeout).must_hold(&held).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// A request waits for a late reply within its timeout. Needs [`NodeControl::stop`].
pub async fn a_slow_reply_is_awaited(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::BoundedByTimeout, "a_slow_reply_is_awaited", |case| async move {
            let a = case.holder().within(Duration::from_secs(60));
            let key = case.name("key");
            a.release(&key).await.must(ReleaseReply::NotHeld)?;
            let Some(node) = stopped(&case).await else { return Ok(NOT_STOPPED) };
            let resumed = async {
                case.sleep(SLOW).await;
                node.resume().await;
            };
            let (acquired, ()) = join(a.acquire(&key, LONG), resumed).await;
            acquired.must(AcquireReply::Granted)?;
            a.must_hold(&key).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// On a stopped node, an acquire times out or is dropped, and its release is polled behind it: no key is left
/// when the node continues. Needs [`NodeControl::stop`].
pub async fn a_release_behind_an_acquire_that_timed_out_leaves_no_key(suite: &Suite<'_>) -> Outcome {
    let check = "a_release_behind_an_acquire_that_timed_out_leaves_no_key";
    suite
        .case(Clause::InOrder, check, |case| async move {
            let keys: Vec<_> = (0..ROUNDS).map(|round| case.name(&format!("key {round}"))).collect();
            case.holder().release(&keys[0]).await.must(ReleaseReply::NotHeld)?;
            let Some(node) = stopped(&case).await else { return Ok(NOT_STOPPED) };
            for (round, key) in keys.iter().enumerate() {
                let brief = case.holder().within(if round < 3 { BRIEF } else { BRIEF / 10 });
                match round % 3 {
                    0 => {
                        let acquire =
                            Box::pin(async { drop(brief.acquire(key, LONG).await) }) as Asked<'_, ()>;
                        together(vec![acquire, Box::pin(async { drop(brief.release(key).await) })]).await;
                    }
                    1 => {
                        brief.acquire(key, LONG).await;
                        brief.release(key).await;
                    }
                    _ => {
                        begin_and_drop(Box::pin(brief.acquire(key, LONG))).await;
                        brief.release(key).await;
                    }
                }
            }
            resume(&case, node).await;
            case.recovered().await?;
            case.sleep(SETTLE).await;
            for key in &keys {
                case.must_be_free(key).await?;
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// While the node is down, requests fail within their timeout, as indeterminate or transient, and work again
/// soon after it is up. Needs [`NodeControl::shut_down`].
pub async fn a_node_that_is_down_fails_before_the_deadline(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::BoundedByTimeout, "a_node_that_is_down_fails_before_the_deadline", |case| async move {
            let [a, b] = case.holders();
            let key = case.name("key");
            a.release(&key).await.must(ReleaseReply::NotHeld)?;
            let Some(node) = down(&case).await else { return Ok(NOT_DOWN) };
            let (brief, mut found) = (a.within(BRIEF), Vec::new());
            for _ in 0..3 {
                let acquired = brief.acquire(&key, LONG).await;
                found.push(failed(&case, &acquired));
                let released = brief.release(&key).await;
                found.push(failed(&case, &released));
            }
            start(&case, node).await;
            case.recovered().await?;
            found.into_iter().collect::<Result<(), _>>()?;
            b.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            Ok(Verdict::Passed)
        })
        .await
}

/// An acquire that timed out while the node was down does not run when the node is up again. Needs
/// [`NodeControl::shut_down`].
pub async fn nothing_is_sent_late(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::BoundedByTimeout, "nothing_is_sent_late", |case| async move {
            let keys: Vec<_> = (0..ROUNDS).map(|round| case.name(&format!("key {round}"))).collect();
            let a = case.holder();
            a.release(&keys[0]).await.must(ReleaseReply::NotHeld)?;
            let Some(node) = down(&case).await else { return Ok(NOT_DOWN) };
            let brief = a.within(BRIEF / 4);
            for key in &keys {
                brief.acquire(key, LONG).await;
            }
            begin_and_drop(Box::pin(brief.acquire(&case.name("dropped"), LONG))).await;
            case.sleep(BRIEF).await;
            start(&case, node).await;
            case.recovered().await?;
            case.sleep(2 * SETTLE).await;
            for key in &keys {
                case.must_be_free(key).await?;
            }
            case.must_be_free(&case.name("dropped")).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// Checks that the request ended before its deadline, and that its error, if any, is of one of these kinds.
fn in_class<T: Debug>(
    case: &Case<'_>,
    seen: &Seen<'_, T>,
    kinds: &[BackendErrorKind],
) -> Result<(), Violation> {
    match seen.ended()? {
        Err(error) if !kinds.contains(&error.kind()) => {
            let kinds: Vec<_> = kinds.iter().map(ToString::to_string).collect();
            let expected = format!("an error of class {}", kinds.join(" or "));
            Err(case.violation_of(Clause::ClassifiedErrors, expected, seen.outcome()))
        }
        _ => Ok(()),
    }
}

/// Checks that the request got no reply.
fn silent<T: Debug>(case: &Case<'_>, seen: &Seen<'_, T>) -> Result<(), Violation> {
    in_class(case, seen, NO_ANSWER)?;
    unanswered(case, seen, "no reply from a node that is stopped")
}

/// Checks that the request got no reply, or failed for now.
fn failed<T: Debug>(case: &Case<'_>, seen: &Seen<'_, T>) -> Result<(), Violation> {
    in_class(case, seen, &[BackendErrorKind::Indeterminate, BackendErrorKind::Transient])?;
    unanswered(case, seen, "no reply from a node that is down")
}

fn unanswered<T: Debug>(case: &Case<'_>, seen: &Seen<'_, T>, expected: &str) -> Result<(), Violation> {
    match seen.ended()? {
        Ok(_) => Err(case.violation_of(Clause::ClassifiedErrors, expected, seen.outcome())),
        Err(_) => Ok(()),
    }
}

async fn commands(case: &Case<'_>) -> Option<u64> {
    case.suite.node?.commands().await
}

async fn stopped<'k>(case: &Case<'k>) -> Option<&'k dyn NodeControl> {
    let node = case.suite.node?;
    let stopped = node.stop().await == FaultOutcome::Done;
    case.note("the node is stopped");
    stopped.then_some(node)
}

async fn resume(case: &Case<'_>, node: &dyn NodeControl) {
    node.resume().await;
    case.note("the node continues");
}

async fn down<'k>(case: &Case<'k>) -> Option<&'k dyn NodeControl> {
    let node = case.suite.node?;
    let down = node.shut_down().await == FaultOutcome::Done;
    case.note("the node is shut down");
    down.then_some(node)
}

async fn start(case: &Case<'_>, node: &dyn NodeControl) {
    node.start().await;
    case.note("the node is started");
}

const NOT_COUNTED: Verdict = Verdict::Skipped("no node that counts its commands was given");
const NOT_STOPPED: Verdict = Verdict::Skipped("no node that can be stopped was given");
const NOT_DOWN: Verdict = Verdict::Skipped("no node that can be shut down was given");
const NO_ANSWER: &[BackendErrorKind] = &[BackendErrorKind::Indeterminate];
/// The timeout of requests to a node with a fault.
const BRIEF: Duration = Duration::from_millis(200);
/// The delay of a slow reply: longer than clients wait by default.
const SLOW: Duration = Duration::from_millis(700);
