//! Clauses 3 and 4: idempotent in the token, extend never shortens.

// Tests: conformance/tests.rs.

use super::{
    case::LONG,
    suite::Suite,
    verdict::{Clause, Outcome, Verdict},
};
use crate::backend::AcquireReply;

/// A repeated acquire is granted again, and the key does not live longer for it.
pub async fn a_repeated_acquire_is_granted_and_extends_nothing(suite: &Suite<'_>) -> Outcome {
    suite
        .timed(
            Clause::Idempotent,
            "a_repeated_acquire_is_granted_and_extends_nothing",
            |case, ttl| async move {
                let a = case.holder();
                let names = ["one", "two"].map(|label| case.name(label));
                let acquired = a.acquire(&names[..], ttl).await;
                acquired.must(AcquireReply::Granted)?;
                let again = a.acquire(&names[..], ttl).await;
                case.sleep(ttl / 2).await;
                let late = a.acquire(&names[..], ttl).await;
                again.must(AcquireReply::Granted)?;
                late.must(AcquireReply::Granted)?;
                if late.answered >= acquired.life(ttl).earliest() {
                    // It may have written a new key.
                    return Ok(super::suite::TOO_SLOW);
                }
                let verdict = case.watch(&names[0], acquired.life(ttl)).await?;
                case.sleep(ttl / 10).await;
                case.must_be_free(&names[1]).await?;
                Ok(verdict)
            },
        )
        .await
}

/// A repeated acquire after an extension does not shorten the extension.
pub async fn a_repeated_acquire_shortens_nothing(suite: &Suite<'_>) -> Outcome {
    suite
        .timed(Clause::Idempotent, "a_repeated_acquire_shortens_nothing", |case, ttl| async move {
            let a = case.holder();
            let key = case.name("key");
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            a.acquire(&key, ttl / 10).await.must(AcquireReply::Granted)?;
            case.sleep(ttl / 2).await;
            case.holder().acquire(&key, LONG).await.must(AcquireReply::Refused)?;
            a.must_hold(&key).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// Keys that the token already holds do not prevent an acquire of more, and do not live longer for it.
pub async fn an_acquire_of_some_that_are_held_is_granted(suite: &Suite<'_>) -> Outcome {
    suite
        .timed(Clause::Idempotent, "an_acquire_of_some_that_are_held_is_granted", |case, ttl| async move {
            let a = case.holder();
            let names = ["one", "two", "three"].map(|label| case.name(label));
            let acquired = a.acquire(&names[1], ttl).await;
            acquired.must(AcquireReply::Granted)?;
            let all = a.acquire(&names[..], LONG).await;
            all.must(AcquireReply::Granted)?;
            if all.answered >= acquired.life(ttl).earliest() {
                return Ok(super::suite::TOO_SLOW);
            }
            let verdict = case.watch(&names[1], acquired.life(ttl)).await?;
            a.must_hold(&names[0]).await?;
            a.must_hold(&names[2]).await?;
            Ok(verdict)
        })
        .await
}

/// An extension lets a key live for the TTL from then on.
pub async fn an_extension_lengthens_the_ttl(suite: &Suite<'_>) -> Outcome {
    suite
        .timed(Clause::ExtendNeverShortens, "an_extension_lengthens_the_ttl", |case, ttl| async move {
            let a = case.holder();
            let key = case.name("key");
            a.acquire(&key, ttl).await.must(AcquireReply::Granted)?;
            let extended = a.extend(&key, 2 * ttl).await;
            if extended.must(AcquireReply::Granted).is_err() && extended.answered - extended.asked > ttl / 2 {
                return Ok(super::suite::TOO_SLOW);
            }
            extended.must(AcquireReply::Granted)?;
            case.watch(&key, extended.life(2 * ttl)).await
        })
        .await
}

/// An extension of several keys lengthens the TTL of each.
pub async fn an_extension_of_several_lengthens_all(suite: &Suite<'_>) -> Outcome {
    suite
        .timed(Clause::ExtendNeverShortens, "an_extension_of_several_lengthens_all", |case, ttl| async move {
            let a = case.holder();
            let names = ["one", "two", "three"].map(|label| case.name(label));
            let acquired = a.acquire(&names[..], ttl).await;
            acquired.must(AcquireReply::Granted)?;
            let extended = a.extend(&names[..], LONG).await;
            if extended.answered >= acquired.life(ttl).earliest() {
                return Ok(super::suite::TOO_SLOW);
            }
            extended.must(AcquireReply::Granted)?;
            case.sleep(2 * ttl).await;
            for name in &names {
                a.must_hold(name).await?;
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// An extension by less than the remaining TTL changes nothing.
pub async fn an_extension_never_shortens(suite: &Suite<'_>) -> Outcome {
    suite
        .timed(Clause::ExtendNeverShortens, "an_extension_never_shortens", |case, ttl| async move {
            let a = case.holder();
            let (key, other) = (case.name("key"), case.name("other"));
            // A backend may have another command for one key.
            let alone = case.name("alone");
            a.acquire(&alone, LONG).await.must(AcquireReply::Granted)?;
            a.extend(&alone, ttl).await.must(AcquireReply::Granted)?;
            let acquired = a.acquire(&key, 2 * ttl).await;
            acquired.must(AcquireReply::Granted)?;
            // One of the two keys would live shorter, the other longer.
            a.acquire(&other, LONG).await.must(AcquireReply::Granted)?;
            let extended = a.extend([&key, &other].map(Clone::clone), ttl).await;
            if extended.answered >= acquired.life(2 * ttl).earliest() {
                return Ok(super::suite::TOO_SLOW);
            }
            extended.must(AcquireReply::Granted)?;
            if extended.asked + ttl > acquired.asked + 2 * ttl {
                return Ok(super::suite::TOO_SLOW);
            }
            let verdict = case.watch(&key, acquired.life(2 * ttl)).await?;
            a.must_hold(&other).await?;
            a.must_hold(&alone).await?;
            Ok(verdict)
        })
        .await
}
