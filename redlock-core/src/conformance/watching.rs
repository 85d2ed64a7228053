//! Clause 10: a watch waits, and misses nothing.

// Tests: conformance/tests.rs.

use std::time::Duration;

use futures_util::future::{join, join_all};

use super::{
    begin_and_drop,
    case::{Case, Holder, LONG},
    order::{ROUNDS, SETTLE},
    suite::Suite,
    verdict::{Clause, Outcome, Verdict, Violation},
};
use crate::backend::{AcquireReply, BackendErrorKind, ReleaseReply};

/// A watch of keys that are free completes at once. A backend without this ability rejects it.
pub async fn a_watch_of_free_keys_completes_at_once(suite: &Suite<'_>) -> Outcome {
    case(suite, "a_watch_of_free_keys_completes_at_once", |case| async move {
        for round in 0..ROUNDS {
            let keys = ["a", "b"].map(|label| case.name(&format!("{label} {round}")));
            case.holder().watch(&keys[..=round % 2]).await.must(())?;
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// A watch of a held key waits until its timeout, or until it is dropped.
pub async fn a_watch_of_held_keys_waits(suite: &Suite<'_>) -> Outcome {
    case(suite, "a_watch_of_held_keys_waits", |case| async move {
        let [a, b] = case.holders();
        let key = case.name("key");
        a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
        begin_and_drop(Box::pin(b.watch(&key))).await;
        must_wait(&case, &b, std::slice::from_ref(&key)).await?;
        a.must_hold(&key).await?;
        Ok(Verdict::Passed)
    })
    .await
}

/// A key that is released between a refused acquire and the start of the watch, or at the same time, ends the
/// watch.
pub async fn a_release_beside_the_start_of_a_watch_is_not_missed(suite: &Suite<'_>) -> Outcome {
    case(suite, "a_release_beside_the_start_of_a_watch_is_not_missed", |case| async move {
        for round in 0..ROUNDS {
            let [a, b] = case.holders();
            let key = case.name(&format!("key {round}"));
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            b.acquire(&key, LONG).await.must(AcquireReply::Refused)?;
            let b = b.eager(round % 2 == 1);
            let (released, watched) = match round % 3 {
                0 => (a.release(&key).await, b.watch(&key).await),
                1 => join(a.release(&key), b.watch(&key)).await,
                _ => {
                    let (watched, released) = join(b.watch(&key), a.release(&key)).await;
                    (released, watched)
                }
            };
            released.must(ReleaseReply::Removed)?;
            watched.must(())?;
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// A watch ends soon after the release of its key, through another instance of the backend if there is one.
pub async fn a_watch_ends_at_a_release_by_anybody(suite: &Suite<'_>) -> Outcome {
    case(suite, "a_watch_ends_at_a_release_by_anybody", |case| async move {
        for round in 0..ROUNDS {
            let [a, b] = case.holders();
            let (a, b) = (a.through(suite.second.unwrap_or(suite.backend)), b.eager(round % 2 == 1));
            let key = case.name(&format!("key {round}"));
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            let pause = Duration::from_millis(round as u64);
            let released = async {
                case.sleep(pause).await;
                a.release(&key).await.must(ReleaseReply::Removed)
            };
            let (free, released) = join(until_free(&case, &b, std::slice::from_ref(&key)), released).await;
            released?;
            free?;
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// Of many watches of one key each ends at its release, whichever others have been dropped before.
pub async fn all_watches_of_a_key_end_at_its_release(suite: &Suite<'_>) -> Outcome {
    case(suite, "all_watches_of_a_key_end_at_its_release", |case| async move {
        let (a, key) = (case.holder(), case.name("key"));
        a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
        let watching: Vec<Holder<'_>> = (0..ROUNDS).map(|_| case.holder()).collect();
        let all = join_all(watching.iter().enumerate().map(|(position, holder)| {
            let key = &key;
            async move {
                if position % 2 == 0 {
                    begin_and_drop(Box::pin(holder.watch(key))).await;
                }
                holder.eager(position % 3 == 0).watch(key).await.must(())
            }
        }));
        let released = async {
            case.sleep(SETTLE).await;
            a.release(&key).await.must(ReleaseReply::Removed)
        };
        let (all, released) = join(all, released).await;
        released?;
        all.into_iter().collect::<Result<(), Violation>>()?;
        Ok(Verdict::Passed)
    })
    .await
}

/// A watch ends when its key expires.
pub async fn a_watch_ends_at_the_expiry(suite: &Suite<'_>) -> Outcome {
    case(suite, "a_watch_ends_at_the_expiry", |case| async move {
        for round in 0..3 {
            let [a, b] = case.holders();
            let key = case.name(&format!("key {round}"));
            a.acquire(&key, suite.ttl).await.must(AcquireReply::Granted)?;
            until_free(&case, &b.eager(round == 1), &[key]).await?;
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// A watch of several keys ends when the last one that is held has become free, and not before.
pub async fn a_watch_of_several_waits_for_all(suite: &Suite<'_>) -> Outcome {
    case(suite, "a_watch_of_several_waits_for_all", |case| async move {
        for round in 0..4 {
            let [a, b, c] = case.holders();
            let c = c.eager(round >= 2);
            let keys = ["first", "free", "last"].map(|label| case.name(&format!("{label} {round}")));
            // Which one stays until the end.
            let (early, late) = if round % 2 == 0 { (0, 2) } else { (2, 0) };
            a.acquire(&keys[early], LONG).await.must(AcquireReply::Granted)?;
            b.acquire(&keys[late], LONG).await.must(AcquireReply::Granted)?;
            let released = async {
                a.release(&keys[early]).await.must(ReleaseReply::Removed)?;
                must_wait(&case, &c, &keys).await?;
                b.release(&keys[late]).await.must(ReleaseReply::Removed)
            };
            let (free, released) = join(until_free(&case, &c, &keys), released).await;
            released?;
            free?;
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// A watch of a key that is extended still ends at its release.
pub async fn a_watch_goes_on_after_an_extension(suite: &Suite<'_>) -> Outcome {
    case(suite, "a_watch_goes_on_after_an_extension", |case| async move {
        for round in 0..5 {
            let [a, b] = case.holders();
            let b = b.eager(round % 2 == 1);
            let key = case.name(&format!("key {round}"));
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            let released = async {
                for extension in 2..5 {
                    case.sleep(Duration::from_millis(round)).await;
                    a.extend(&key, extension * LONG).await.must(AcquireReply::Granted)?;
                }
                case.sleep(Duration::from_millis(round)).await;
                a.release(&key).await.must(ReleaseReply::Removed)
            };
            let (free, released) = join(until_free(&case, &b, std::slice::from_ref(&key)), released).await;
            released?;
            free?;
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// Runs a check, unless the backend rejects watches.
async fn case<'k, F, T>(suite: &'k Suite<'k>, check: &'static str, trial: F) -> Outcome
where
    F: FnOnce(Case<'k>) -> T + Send,
    T: Future<Output = Outcome> + Send,
{
    suite
        .case(Clause::WatchMissesNothing, check, |case| async move {
            let [a, b] = case.holders();
            let key = case.name("held");
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            // With the full timeout, as it may have to connect, and ended by the release.
            let released = async {
                case.sleep(Duration::from_millis(1)).await;
                a.release(&key).await.must(ReleaseReply::Removed)
            };
            let (able, released) = join(b.watch(&key), released).await;
            released?;
            match able.ended()? {
                Err(error) if error.kind() == BackendErrorKind::Rejected => {
                    return Ok(Verdict::Skipped("the backend cannot watch keys"));
                }
                Err(error) if error.kind() == BackendErrorKind::Transient => {
                    let expected = "an end, or Rejected";
                    return Err(case.violation_of(Clause::ClassifiedErrors, expected, able.outcome()));
                }
                _ => {}
            }
            trial(case.clone()).await
        })
        .await
}

/// Watches keys until another client could take them. A watch that completes too early starts again.
async fn until_free(case: &Case<'_>, holder: &Holder<'_>, keys: &[String]) -> Result<(), Violation> {
    let start = case.now();
    loop {
        holder.watch(keys).await.must(())?;
        let probe = holder.acquire(keys, LONG).await;
        if probe.answer.as_ref().is_some_and(|answer| answer == &Ok(AcquireReply::Granted)) {
            return holder.release(keys).await.must(ReleaseReply::Removed);
        }
        probe.must(AcquireReply::Refused)?;
        if case.now() - start > 2 * case.suite.timeout {
            return Err(case.violation("an end when the keys are free", "none"));
        }
        // For a backend that always completes too early.
        case.sleep(Duration::from_millis(1)).await;
    }
}

/// Checks that watches of held keys do not complete again and again.
async fn must_wait(case: &Case<'_>, holder: &Holder<'_>, keys: &[String]) -> Result<(), Violation> {
    for _ in 0..TOO_EARLY {
        match holder.within(SETTLE).watch(keys).await.ended()? {
            Ok(()) => {}
            Err(error) if error.kind() == BackendErrorKind::Indeterminate => return Ok(()),
            Err(error) => {
                let expected = "Indeterminate at the timeout";
                return Err(case.violation_of(Clause::ClassifiedErrors, expected, error.to_string()));
            }
        }
    }
    Err(case.violation("to wait while a key is held", format!("completed {TOO_EARLY} times")))
}

/// How often in a row a watch may complete while nothing changes.
const TOO_EARLY: usize = 5;
