//! Clause 5: in order.

// Tests: conformance/tests.rs.

use std::{fmt::Debug, time::Duration};

use super::{
    Asked, begin_and_drop,
    case::{LONG, Seen},
    suite::Suite,
    together,
    verdict::{Clause, Outcome, Verdict, Violation},
};
use crate::{
    backend::{Acquire, AcquireReply, Extend, Release, ReleaseReply},
    resources::Resources,
};

/// An acquire, its release and another client's acquire that are under way at once take effect in this order,
/// and so do extensions among them.
pub async fn requests_take_effect_in_order(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::InOrder, "requests_take_effect_in_order", |case| async move {
            let [a, b] = case.holders();
            for round in 0..ROUNDS {
                let key = case.name(&format!("key {round}"));
                all_must(vec![
                    later(a.acquire(&key, LONG), AcquireReply::Granted),
                    later(a.extend(&key, LONG), AcquireReply::Granted),
                    later(a.release(&key), ReleaseReply::Removed),
                    later(a.extend(&key, LONG), AcquireReply::Refused),
                    later(b.acquire(&key, LONG), AcquireReply::Granted),
                    later(a.acquire(&key, LONG), AcquireReply::Refused),
                    later(b.release(&key), ReleaseReply::Removed),
                    later(b.release(&key), ReleaseReply::NotHeld),
                    later(a.acquire(&key, LONG), AcquireReply::Granted),
                ])
                .await?;
                a.must_hold(&key).await?;
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// A request with many long names, which takes longer to send and to read than the short one behind it, is
/// not overtaken. (Over several connections, as those of a pool, it is now and then, so there are many.)
pub async fn a_long_request_is_not_overtaken(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::InOrder, "a_long_request_is_not_overtaken", |case| async move {
            let long = "x".repeat(1000);
            let other = |number| case.name(&format!("{number} {long}"));
            for round in 0..3 {
                let key = case.name(&format!("key {round}"));
                // It is neither the first nor the last one, by which a backend may choose a connection.
                let names: Resources =
                    [other(0), key.clone()].into_iter().chain((1..300).map(other)).collect();
                let [a, b] = case.holders();
                let mut requests = Vec::new();
                for _ in 0..ROUNDS {
                    requests.push(later(a.acquire(names.clone(), LONG), AcquireReply::Granted));
                    requests.push(later(b.acquire(&key, LONG), AcquireReply::Refused));
                    requests.push(later(a.release(names.clone()), ReleaseReply::Removed));
                    requests.push(later(b.acquire(&key, LONG), AcquireReply::Granted));
                    requests.push(later(b.release(&key), ReleaseReply::Removed));
                }
                all_must(requests).await?;
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// A request whose future is dropped before its first poll does nothing, now or later.
pub async fn a_request_that_was_never_polled_does_nothing(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::InOrder, "a_request_that_was_never_polled_does_nothing", |case| async move {
            let [a, b] = case.holders();
            let (free, held) = (Resources::from(case.name("free")), Resources::from(case.name("held")));
            b.acquire(held.clone(), LONG).await.must(AcquireReply::Granted)?;
            let (backend, timeout) = (case.suite.backend, case.suite.timeout);
            drop(backend.acquire(Acquire::new(&free, &a.token, LONG, timeout)));
            drop(backend.extend(Extend::new(&held, &b.token, LONG, timeout)));
            drop(backend.release(Release::new(&held, &b.token, timeout)));
            case.note("A acquires \"free\" and B releases \"held\", dropped before the first poll");
            case.sleep(SETTLE).await;
            b.must_hold(held).await?;
            case.must_be_free(&case.name("free")).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// A release that is polled behind a dropped acquire leaves no key.
pub async fn a_release_removes_what_a_dropped_acquire_left(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::InOrder, "a_release_removes_what_a_dropped_acquire_left", |case| async move {
            let keys: Vec<_> = (0..ROUNDS).map(|round| case.name(&format!("key {round}"))).collect();
            for (round, key) in keys.iter().enumerate() {
                let [a, b] = case.holders();
                begin_and_drop(Box::pin(a.acquire(key, LONG))).await;
                if round % 2 == 1 {
                    begin_and_drop(Box::pin(a.extend(key, LONG))).await;
                }
                a.release(key)
                    .await
                    .ended()?
                    .map_err(|error| case.violation("an answer", error.to_string()))?;
                b.acquire(key, LONG).await.must(AcquireReply::Granted)?;
                b.must_hold(key).await?;
                b.release(key).await.must(ReleaseReply::Removed)?;
            }
            case.sleep(SETTLE).await;
            for key in &keys {
                case.must_be_free(key).await?;
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// After requests that were dropped or timed out, each reply still belongs to its request.
pub async fn replies_belong_to_their_requests(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::InOrder, "replies_belong_to_their_requests", |case| async move {
            let [a, b] = case.holders();
            let (held, free) = (case.name("held"), case.name("free"));
            a.acquire(&held, LONG).await.must(AcquireReply::Granted)?;
            for _ in 0..ROUNDS {
                begin_and_drop(Box::pin(a.acquire(&held, LONG))).await;
                b.acquire(&held, LONG).await.must(AcquireReply::Refused)?;
                begin_and_drop(Box::pin(b.extend(&held, LONG))).await;
                a.extend(&held, LONG).await.must(AcquireReply::Granted)?;
                begin_and_drop(Box::pin(a.extend(&held, LONG))).await;
                b.release(&held).await.must(ReleaseReply::NotHeld)?;
                b.within(Duration::from_millis(1)).release(&held).await.ended()?.ok();
                b.acquire(&free, LONG).await.must(AcquireReply::Granted)?;
                a.within(Duration::from_millis(1)).extend(&held, LONG).await.ended()?.ok();
                a.release(&free).await.must(ReleaseReply::NotHeld)?;
                b.release(&free).await.must(ReleaseReply::Removed)?;
            }
            a.must_hold(&held).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// 300 requests for one key that one task starts at once take effect in order. (A runtime limits the work of
/// a task between two yields; beyond that, queues appear full or empty to it.)
pub async fn order_is_kept_in_a_busy_task(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::InOrder, "order_is_kept_in_a_busy_task", |case| async move {
            for round in 0..3 {
                let key = case.name(&format!("key {round}"));
                let holders: Vec<_> = (0..150).map(|_| case.holder()).collect();
                let mut requests = Vec::new();
                for holder in &holders {
                    requests.push(later(holder.acquire(&key, LONG), AcquireReply::Granted));
                    requests.push(later(holder.release(&key), ReleaseReply::Removed));
                }
                all_must(requests).await?;
                case.must_be_free(&key).await?;
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// Many requests, one after the other, each get the right reply.
pub async fn many_requests_in_a_row_get_replies(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::InOrder, "many_requests_in_a_row_get_replies", |case| async move {
            let key = case.name("key");
            let [a, b] = case.holders();
            for _ in 0..100 {
                a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
                b.acquire(&key, LONG).await.must(AcquireReply::Refused)?;
                a.release(&key).await.must(ReleaseReply::Removed)?;
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// Polls all requests in order before it looks at a reply; then every reply has to be the expected one.
async fn all_must(requests: Vec<Asked<'_, Judge<'_>>>) -> Result<(), Violation> {
    together(requests).await.into_iter().try_for_each(|judge| judge())
}

/// A request, and its expected reply. They are compared when all replies are there, so that a violation shows
/// all.
fn later<'a, T: Debug + PartialEq + Send + 'a>(
    request: impl Future<Output = Seen<'a, T>> + Send + 'a,
    expected: T,
) -> Asked<'a, Judge<'a>> {
    Box::pin(async move {
        let seen = request.await;
        Box::new(move || seen.must(expected)) as Judge<'a>
    })
}

type Judge<'a> = Box<dyn FnOnce() -> Result<(), Violation> + Send + 'a>;

pub(super) const ROUNDS: usize = 20;
/// How long to wait for something that should not happen.
pub(super) const SETTLE: Duration = Duration::from_millis(100);
