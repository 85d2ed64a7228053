//! Replacing a token, which takes over a lock from another process. An optional ability.

// Tests: conformance/tests.rs.

use std::time::Duration;

use super::{
    case::{LONG, Seen},
    suite::Suite,
    verdict::{Clause, Outcome, Verdict, Violation},
};
use crate::backend::{AcquireReply, BackendErrorKind, ReleaseReply};

/// A replacement moves the keys to the new token: the old one can no longer change them, nor be replaced
/// again.
pub async fn a_replacement_gives_the_keys_to_the_new_token(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "a_replacement_gives_the_keys_to_the_new_token", |case| async move {
            let [a, b, c] = case.holders();
            let names = ["one", "two"].map(|label| case.name(label));
            a.acquire(&names[..], LONG).await.must(AcquireReply::Granted)?;
            let replaced = b.replace(&names[..], &a, LONG).await;
            if !can(&replaced, |expected| {
                case.violation_of(Clause::ClassifiedErrors, expected, replaced.outcome())
            })? {
                return Ok(CANNOT);
            }
            replaced.must(AcquireReply::Granted)?;
            for name in &names {
                b.must_hold(name).await?;
                a.extend(name, LONG).await.must(AcquireReply::Refused)?;
                a.release(name).await.must(ReleaseReply::NotHeld)?;
            }
            c.replace(&names[..], &a, LONG).await.must(AcquireReply::Refused)?;
            b.release(&names[..]).await.must(ReleaseReply::Removed)?;
            Ok(Verdict::Passed)
        })
        .await
}

/// A key that is free, or that another token holds, is not replaced.
pub async fn a_replacement_needs_the_old_token(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "a_replacement_needs_the_old_token", |case| async move {
            let [a, b, c] = case.holders();
            let (free, held) = (case.name("free"), case.name("held"));
            let replaced = b.replace(&free, &a, LONG).await;
            if !able(&replaced) {
                return Ok(CANNOT);
            }
            replaced.must(AcquireReply::Refused)?;
            case.must_be_free(&free).await?;
            c.acquire(&held, LONG).await.must(AcquireReply::Granted)?;
            b.replace(&held, &a, LONG).await.must(AcquireReply::Refused)?;
            c.must_hold(&held).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// A replacement of several keys, one of which the old token does not hold, replaces none, whichever it is.
pub async fn a_replacement_of_several_is_all_or_nothing(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::AllOrNothing, "a_replacement_of_several_is_all_or_nothing", |case| async move {
            for missing in 0..3 {
                let [a, b, c] = case.holders();
                let names =
                    ["first", "second", "third"].map(|label| case.name(&format!("{label} of {missing}")));
                for (position, name) in names.iter().enumerate() {
                    if position != missing {
                        a.acquire(name, LONG).await.must(AcquireReply::Granted)?;
                    } else if missing != 1 {
                        c.acquire(name, LONG).await.must(AcquireReply::Granted)?;
                    }
                }
                let replaced = b.replace(&names[..], &a, LONG).await;
                if !able(&replaced) {
                    return Ok(CANNOT);
                }
                replaced.must(AcquireReply::Refused)?;
                for (position, name) in names.iter().enumerate() {
                    if position != missing {
                        a.must_hold(name).await?;
                    } else if missing != 1 {
                        c.must_hold(name).await?;
                    } else {
                        case.must_be_free(name).await?;
                    }
                }
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// A repeated replacement is granted again, even if some of the keys have been replaced already.
pub async fn a_repeated_replacement_is_granted(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::Idempotent, "a_repeated_replacement_is_granted", |case| async move {
            let [a, b] = case.holders();
            let names = ["one", "two"].map(|label| case.name(label));
            a.acquire(&names[..], LONG).await.must(AcquireReply::Granted)?;
            let replaced = b.replace(&names[0], &a, LONG).await;
            if !able(&replaced) {
                return Ok(CANNOT);
            }
            replaced.must(AcquireReply::Granted)?;
            for _ in 0..2 {
                b.replace(&names[..], &a, LONG).await.must(AcquireReply::Granted)?;
            }
            b.must_hold(&names[..]).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// The keys live at least for the TTL of the replacement, and never shorter than before.
pub async fn a_replacement_lengthens_and_never_shortens(suite: &Suite<'_>) -> Outcome {
    suite
        .timed(
            Clause::ExtendNeverShortens,
            "a_replacement_lengthens_and_never_shortens",
            |case, ttl| async move {
                let [a, b] = case.holders();
                let (short, long) = (case.name("short"), case.name("long"));
                let acquired = a.acquire(&short, ttl).await;
                acquired.must(AcquireReply::Granted)?;
                let replaced = b.replace(&short, &a, LONG).await;
                if !able(&replaced) {
                    return Ok(CANNOT);
                }
                if replaced.answered >= acquired.life(ttl).earliest() {
                    return Ok(super::suite::TOO_SLOW);
                }
                replaced.must(AcquireReply::Granted)?;
                a.acquire(&long, LONG).await.must(AcquireReply::Granted)?;
                b.replace(&long, &a, Duration::from_millis(1)).await.must(AcquireReply::Granted)?;
                case.sleep(2 * ttl).await;
                b.must_hold(&short).await?;
                b.must_hold(&long).await?;
                Ok(Verdict::Passed)
            },
        )
        .await
}

/// Whether the backend has the ability. A backend without it rejects the request.
fn able(seen: &Seen<'_, AcquireReply>) -> bool {
    !matches!(seen.ended(), Ok(Err(error)) if error.kind() == BackendErrorKind::Rejected)
}

/// As [`able`]; an error of another class is a violation.
fn can(
    seen: &Seen<'_, AcquireReply>,
    violation: impl Fn(&'static str) -> Violation,
) -> Result<bool, Violation> {
    match seen.ended()? {
        Err(error) if error.kind() != BackendErrorKind::Rejected => Err(violation("Granted, or Rejected")),
        _ => Ok(able(seen)),
    }
}

const CANNOT: Verdict = Verdict::Skipped("the backend cannot take over locks");
