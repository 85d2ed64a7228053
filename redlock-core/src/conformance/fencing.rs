//! Clause 11: counters only grow. An optional ability.

// Tests: conformance/tests.rs.

use std::time::Duration;

use super::{
    case::{Case, LONG},
    suite::{Suite, TOO_SLOW},
    verdict::{Clause, Outcome, Verdict},
};
use crate::{
    backend::{AcquireReply, BackendErrorKind, FencedReply, ReleaseReply},
    fence::MAX_FENCE,
};

/// A fenced acquire stores the token as any acquire does: others are refused, and only the holder extends and
/// releases.
pub async fn a_fenced_acquire_stores_the_token(suite: &Suite<'_>) -> Outcome {
    fencing(suite, Clause::HeldByToken, "a_fenced_acquire_stores_the_token", |case| async move {
        let [a, b] = case.holders();
        let key = case.name("key");
        a.acquire_fenced(&key, LONG, 0).await.counter()?;
        b.acquire(&key, LONG).await.must(AcquireReply::Refused)?;
        b.acquire_fenced(&key, LONG, 0).await.must(FencedReply::Refused)?;
        b.release(&key).await.must(ReleaseReply::NotHeld)?;
        a.must_hold(&key).await?;
        a.release(&key).await.must(ReleaseReply::Removed)?;
        b.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
        a.acquire_fenced(&key, LONG, 0).await.must(FencedReply::Refused)?;
        b.must_hold(&key).await?;
        Ok(Verdict::Passed)
    })
    .await
}

/// Each grant counts on by one, or up to a proposal that is higher. The first one of all starts at 1.
pub async fn a_grant_counts_on_or_up_to_the_proposal(suite: &Suite<'_>) -> Outcome {
    fencing(suite, COUNTERS, "a_grant_counts_on_or_up_to_the_proposal", |case| async move {
        let (key, new) = (case.name("key"), case.name("new"));
        for (proposal, counter) in [(1_000, 1_000), (0, 1_001), (1_001, 1_002), (7, 1_003), (2_000, 2_000)] {
            let holder = case.holder();
            holder.acquire_fenced(&key, LONG, proposal).await.must_count(counter)?;
            holder.release(&key).await.must(ReleaseReply::Removed)?;
        }
        case.holder().acquire_fenced(&new, LONG, 0).await.must_count(1)?;
        Ok(Verdict::Passed)
    })
    .await
}

/// A proposal that is far ahead of the node's clock is not taken: the counters end in the year 2255.
pub async fn a_proposal_is_limited_by_the_nodes_clock(suite: &Suite<'_>) -> Outcome {
    fencing(suite, COUNTERS, "a_proposal_is_limited_by_the_nodes_clock", |case| async move {
        let [a, b] = case.holders();
        let key = case.name("key");
        let seen = a.acquire_fenced(&key, LONG, u64::MAX).await;
        let counter = seen.counter()?;
        if counter > MAX_FENCE / 2 {
            return Err(case.violation("the node's time in microseconds, and a second", seen.outcome()));
        }
        a.release(&key).await.must(ReleaseReply::Removed)?;
        b.acquire_fenced(&key, LONG, 0).await.must_count(counter + 1)?;
        Ok(Verdict::Passed)
    })
    .await
}

/// A repeated fenced acquire is granted with the same counter, whatever it proposes. With a further key it
/// counts.
pub async fn a_repeated_fenced_acquire_keeps_the_counter(suite: &Suite<'_>) -> Outcome {
    fencing(suite, Clause::Idempotent, "a_repeated_fenced_acquire_keeps_the_counter", |case| async move {
        let a = case.holder();
        let names = ["one", "two", "three"].map(|label| case.name(label));
        for names in [&names[..1], &names[1..]] {
            a.acquire_fenced(names, LONG, 1_000).await.must_count(1_000)?;
            for proposal in [1_000, 5_000, 0] {
                a.acquire_fenced(names, LONG, proposal).await.must_count(1_000)?;
            }
        }
        a.release(&names[2]).await.must(ReleaseReply::Removed)?;
        a.acquire_fenced(&names[..], LONG, 0).await.must_count(1_001)?;
        a.acquire_fenced(&names[0], LONG, 0).await.must_count(1_001)?;
        a.must_hold(&names[..]).await?;
        Ok(Verdict::Passed)
    })
    .await
}

/// A fenced acquire of several keys, one of which is held, takes none and changes no counter, whichever it
/// is.
pub async fn a_fenced_acquire_of_several_is_all_or_nothing(suite: &Suite<'_>) -> Outcome {
    fencing(suite, Clause::AllOrNothing, "a_fenced_acquire_of_several_is_all_or_nothing", |case| async move {
        for held in 0..3 {
            let [a, b, c] = case.holders();
            let names = ["first", "second", "third"].map(|label| case.name(&format!("{label} of {held}")));
            a.acquire_fenced(&names[..], LONG, 1_000).await.must_count(1_000)?;
            a.release(&names[..]).await.must(ReleaseReply::Removed)?;
            b.acquire_fenced(&names[held], LONG, 0).await.must_count(1_001)?;
            a.acquire_fenced(&names[..], LONG, 5_000).await.must(FencedReply::Refused)?;
            b.acquire_fenced(&names[held], LONG, 0).await.must_count(1_001)?;
            for (_, name) in names.iter().enumerate().filter(|(position, _)| *position != held) {
                case.must_be_free(name).await?;
                c.acquire_fenced(name, LONG, 0).await.must_count(1_001)?;
            }
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// Several resources get one number, which is higher than the counter of each, and from which each counts on.
pub async fn several_resources_get_one_number(suite: &Suite<'_>) -> Outcome {
    fencing(suite, COUNTERS, "several_resources_get_one_number", |case| async move {
        for highest in 0..3 {
            let [a, b, c] = case.holders();
            let names = ["first", "second", "third"].map(|label| case.name(&format!("{label} of {highest}")));
            a.acquire_fenced(&names[highest], LONG, 1_000).await.must_count(1_000)?;
            a.release(&names[highest]).await.must(ReleaseReply::Removed)?;
            b.acquire_fenced(&names[..], LONG, 0).await.must_count(1_001)?;
            b.release(&names[..]).await.must(ReleaseReply::Removed)?;
            for name in &names {
                c.acquire_fenced(name, LONG, 0).await.must_count(1_002)?;
            }
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// A raise sets a counter that is lower, and leaves one that is higher, which is the reply.
pub async fn a_raise_sets_what_is_lower_and_leaves_what_is_higher(suite: &Suite<'_>) -> Outcome {
    let name = "a_raise_sets_what_is_lower_and_leaves_what_is_higher";
    fencing(suite, COUNTERS, name, |case| async move {
        let [a, b] = case.holders();
        let key = case.name("key");
        a.acquire_fenced(&key, LONG, 1_000).await.must_count(1_000)?;
        for (to, counter) in [(1_010, 1_010), (1_005, 1_010), (1_010, 1_010)] {
            a.raise(&key, to, None).await.must_count(counter)?;
        }
        a.acquire_fenced(&key, LONG, 0).await.must_count(1_010)?;
        a.release(&key).await.must(ReleaseReply::Removed)?;
        b.acquire_fenced(&key, LONG, 0).await.must_count(1_011)?;
        Ok(Verdict::Passed)
    })
    .await
}

/// A raise of a key that is free, or that another token holds, is refused and changes no counter.
pub async fn a_raise_needs_the_token(suite: &Suite<'_>) -> Outcome {
    fencing(suite, Clause::HeldByToken, "a_raise_needs_the_token", |case| async move {
        let [a, b] = case.holders();
        let (free, held) = (case.name("free"), case.name("held"));
        a.raise(&free, 1_000, Some(LONG)).await.must(FencedReply::Refused)?;
        b.acquire_fenced(&free, LONG, 0).await.must_count(1)?;
        b.acquire_fenced(&held, LONG, 7).await.must_count(7)?;
        a.raise(&held, 1_000, None).await.must(FencedReply::Refused)?;
        b.acquire_fenced(&held, LONG, 0).await.must_count(7)?;
        b.must_hold(&held).await?;
        Ok(Verdict::Passed)
    })
    .await
}

/// A raise of several keys raises the counters of all, and of none when the token holds only some of them.
pub async fn a_raise_of_several_is_all_or_nothing(suite: &Suite<'_>) -> Outcome {
    fencing(suite, Clause::AllOrNothing, "a_raise_of_several_is_all_or_nothing", |case| async move {
        for missing in 0..3 {
            let [a, b] = case.holders();
            let names = ["first", "second", "third"].map(|label| case.name(&format!("{label} of {missing}")));
            a.acquire_fenced(&names[..], LONG, 1_000).await.must_count(1_000)?;
            a.raise(&names[..], 2_000, None).await.must_count(2_000)?;
            for name in &names {
                a.acquire_fenced(name, LONG, 0).await.must_count(2_000)?;
            }
            a.release(&names[missing]).await.must(ReleaseReply::Removed)?;
            a.raise(&names[..], 3_000, None).await.must(FencedReply::Refused)?;
            b.acquire_fenced(&names[missing], LONG, 0).await.must_count(2_001)?;
            a.raise(&names[..], 3_000, None).await.must(FencedReply::Refused)?;
            b.acquire_fenced(&names[missing], LONG, 0).await.must_count(2_001)?;
            for (_, name) in names.iter().enumerate().filter(|(position, _)| *position != missing) {
                a.acquire_fenced(name, LONG, 0).await.must_count(2_000)?;
            }
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// A raise with a TTL lets the keys live for it, and never shorter than before; one without leaves their
/// expiry.
pub async fn a_raise_extends_by_its_ttl_and_never_shortens(suite: &Suite<'_>) -> Outcome {
    if !suite.backend.can_fence() {
        return Ok(CANNOT);
    }
    suite
        .timed(
            Clause::ExtendNeverShortens,
            "a_raise_extends_by_its_ttl_and_never_shortens",
            |case, ttl| async move {
                let a = case.holder();
                let (short, long, plain) = (case.name("short"), case.name("long"), case.name("plain"));
                let acquired = a.acquire_fenced(&short, ttl, 0).await;
                acquired.must_count(1)?;
                let raised = a.raise(&short, 5, Some(LONG)).await;
                if raised.answered >= acquired.life(ttl).earliest() {
                    return Ok(TOO_SLOW);
                }
                raised.must_count(5)?;
                a.acquire_fenced(&long, LONG, 0).await.must_count(1)?;
                a.raise(&long, 5, Some(Duration::from_millis(1))).await.must_count(5)?;

                let acquired = a.acquire_fenced(&plain, ttl, 0).await;
                acquired.must_count(1)?;
                let raised = a.raise(&plain, 5, None).await;
                if raised.answered >= acquired.life(ttl).earliest() {
                    return Ok(TOO_SLOW);
                }
                raised.must_count(5)?;
                let verdict = case.watch(&plain, acquired.life(ttl)).await?;
                case.sleep(ttl).await;
                a.must_hold(&short).await?;
                a.must_hold(&long).await?;
                Ok(verdict)
            },
        )
        .await
}

/// A counter is still there when its key has been released, has expired, or has been given to another token.
pub async fn a_counter_outlives_its_key(suite: &Suite<'_>) -> Outcome {
    if !suite.backend.can_fence() {
        return Ok(CANNOT);
    }
    suite
        .timed(COUNTERS, "a_counter_outlives_its_key", |case, ttl| async move {
            let [a, b, c] = case.holders();
            let key = case.name("key");
            a.acquire_fenced(&key, LONG, 1_000).await.must_count(1_000)?;
            a.release(&key).await.must(ReleaseReply::Removed)?;
            let acquired = b.acquire_fenced(&key, ttl, 0).await;
            acquired.must_count(1_001)?;
            let verdict = case.watch(&key, acquired.life(ttl)).await?;
            c.acquire_fenced(&key, LONG, 0).await.must_count(1_002)?;
            let replaced = a.replace(&key, &c, LONG).await;
            let cannot =
                matches!(replaced.ended(), Ok(Err(error)) if error.kind() == BackendErrorKind::Rejected);
            if !cannot {
                replaced.must(AcquireReply::Granted)?;
                a.acquire_fenced(&key, LONG, 0).await.must_count(1_002)?;
            }
            Ok(verdict)
        })
        .await
}

/// A counter that nobody has used for its TTL is gone, and no earlier.
pub async fn a_counter_lives_for_its_ttl(suite: &Suite<'_>) -> Outcome {
    if !suite.backend.can_fence() {
        return Ok(CANNOT);
    }
    suite
        .timed(COUNTERS, "a_counter_lives_for_its_ttl", |case, ttl| async move {
            let [a, b] = case.holders();
            let (used, unused) = (case.name("used"), case.name("unused"));
            let counted = a.acquire_counted(&used, LONG, 1_000, ttl).await;
            counted.must_count(1_000)?;
            a.acquire_counted(&unused, LONG, 1_000, ttl).await.must_count(1_000)?;
            a.release(&[&used, &unused]).await.must(ReleaseReply::Removed)?;
            case.sleep(ttl / 2).await;
            let again = b.acquire_counted(&used, LONG, 0, ttl).await;
            if again.answered >= counted.life(ttl).earliest() {
                return Ok(TOO_SLOW);
            }
            again.must_count(1_001)?;
            case.sleep(2 * ttl).await;
            b.acquire_counted(&unused, LONG, 0, ttl).await.must_count(1)?;
            Ok(Verdict::Passed)
        })
        .await
}

/// A counter lives on from each raise, also from one to a lower number: it has to outlive a lock that is
/// extended for longer than its TTL.
pub async fn a_raise_keeps_the_counter_alive(suite: &Suite<'_>) -> Outcome {
    if !suite.backend.can_fence() {
        return Ok(CANNOT);
    }
    suite
        .timed(COUNTERS, "a_raise_keeps_the_counter_alive", |case, ttl| async move {
            let a = case.holder();
            let key = case.name("key");
            let mut last = a.acquire_counted(&key, LONG, 1_000, ttl).await;
            last.must_count(1_000)?;
            for _ in 0..4 {
                case.sleep(ttl / 2).await;
                let raised = a.raise_counted(&key, 7, None, ttl).await;
                if raised.answered >= last.life(ttl).earliest() {
                    return Ok(TOO_SLOW);
                }
                raised.must_count(1_000)?;
                last = raised;
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// All numbers up to 2^53 - 1 are exact. When none is left, requests are rejected and change nothing.
pub async fn counters_are_exact_up_to_the_highest(suite: &Suite<'_>) -> Outcome {
    fencing(suite, COUNTERS, "counters_are_exact_up_to_the_highest", |case| async move {
        let key = case.name("key");
        let mut last = 0;
        for number in [1_234_567_890_123_457, (1 << 52) + 1, MAX_FENCE - 2] {
            let [a, b] = case.holders();
            a.acquire_fenced(&key, LONG, 0).await.must_count(last + 1)?;
            a.raise(&key, number, None).await.must_count(number)?;
            a.acquire_fenced(&key, LONG, 0).await.must_count(number)?;
            a.release(&key).await.must(ReleaseReply::Removed)?;
            b.acquire_fenced(&key, LONG, 0).await.must_count(number + 1)?;
            b.release(&key).await.must(ReleaseReply::Removed)?;
            last = number + 1;
        }
        let [a, b] = case.holders();
        a.acquire_fenced(&key, LONG, 0).await.must_count(MAX_FENCE)?;
        a.raise(&key, MAX_FENCE + 1, None).await.must_be_rejected()?;
        a.release(&key).await.must(ReleaseReply::Removed)?;
        for proposal in [0, u64::MAX] {
            b.acquire_fenced(&key, LONG, proposal).await.must_be_rejected()?;
        }
        case.must_be_free(&key).await?;
        a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
        a.raise(&key, 1, None).await.must_count(MAX_FENCE)?;
        Ok(Verdict::Passed)
    })
    .await
}

/// Runs one check of a backend that has counters.
async fn fencing<'k, F, T>(suite: &'k Suite<'k>, clause: Clause, check: &'static str, trial: F) -> Outcome
where
    F: FnOnce(Case<'k>) -> T + Send,
    T: Future<Output = Outcome> + Send,
{
    if suite.backend.can_fence() { suite.case(clause, check, trial).await } else { Ok(CANNOT) }
}

const COUNTERS: Clause = Clause::CountersOnlyGrow;
const CANNOT: Verdict = Verdict::Skipped("the backend has no fencing tokens");
