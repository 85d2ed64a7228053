//! Clause 2: all or nothing.

// Tests: conformance/tests.rs.

use super::{
    case::LONG,
    ownership::first_wins,
    suite::Suite,
    verdict::{Clause, Outcome, Verdict},
};
use crate::{
    backend::{AcquireReply, ReleaseReply},
    resources::Resources,
};

/// An acquire of several keys takes none if another token holds one, whichever it is.
pub async fn an_acquire_of_several_is_all_or_nothing(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::AllOrNothing, "an_acquire_of_several_is_all_or_nothing", |case| async move {
            let [a, b] = case.holders();
            for foreign in 0..3 {
                let names =
                    ["first", "second", "third"].map(|label| case.name(&format!("{label} of {foreign}")));
                b.acquire(&names[foreign], LONG).await.must(AcquireReply::Granted)?;
                a.acquire(&names[..], LONG).await.must(AcquireReply::Refused)?;
                for (position, name) in names.iter().enumerate() {
                    if position == foreign {
                        b.must_hold(name).await?;
                    } else {
                        case.must_be_free(name).await?;
                    }
                }
                b.release(&names[foreign]).await.must(ReleaseReply::Removed)?;
                a.acquire(&names[..], LONG).await.must(AcquireReply::Granted)?;
                for name in &names {
                    b.acquire(name, LONG).await.must(AcquireReply::Refused)?;
                    a.must_hold(name).await?;
                }
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// An extension of several keys extends none if the token lacks one, whichever it is.
pub async fn an_extension_of_several_is_all_or_nothing(suite: &Suite<'_>) -> Outcome {
    suite
        .timed(Clause::AllOrNothing, "an_extension_of_several_is_all_or_nothing", |case, ttl| async move {
            let [a, b] = case.holders();
            let mut verdict = Verdict::Passed;
            for taken in [false, true] {
                for missing in 0..3 {
                    let label = |label| case.name(&format!("{label} of {missing}, {taken}"));
                    let names = ["first", "second", "third"].map(label);
                    let held: Vec<_> = names
                        .iter()
                        .enumerate()
                        .filter(|(position, _)| *position != missing)
                        .map(|(_, name)| name)
                        .collect();
                    if taken {
                        b.acquire(&names[missing], LONG).await.must(AcquireReply::Granted)?;
                    }
                    let acquired = a.acquire(held.iter().copied().cloned().collect::<Vec<_>>(), ttl).await;
                    acquired.must(AcquireReply::Granted)?;
                    a.extend(&names[..], LONG).await.must(AcquireReply::Refused)?;
                    verdict = verdict.and(case.watch(held[0], acquired.life(ttl)).await?);
                    case.sleep(ttl / 10).await;
                    case.must_be_free(held[1]).await?;
                    if taken {
                        b.must_hold(&names[missing]).await?;
                    } else {
                        case.must_be_free(&names[missing]).await?;
                    }
                }
            }
            Ok(verdict)
        })
        .await
}

/// A release of several keys removes those that the token holds, and reports if one was not, whichever it is.
pub async fn a_release_of_several_removes_what_is_held(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::AllOrNothing, "a_release_of_several_removes_what_is_held", |case| async move {
            let [a, b] = case.holders();
            for taken in [false, true] {
                for missing in 0..3 {
                    let label = |label| case.name(&format!("{label} of {missing}, {taken}"));
                    let names = ["first", "second", "third"].map(label);
                    for (position, name) in names.iter().enumerate() {
                        if position != missing {
                            a.acquire(name, LONG).await.must(AcquireReply::Granted)?;
                        } else if taken {
                            b.acquire(name, LONG).await.must(AcquireReply::Granted)?;
                        }
                    }
                    a.release(&names[..]).await.must(ReleaseReply::NotHeld)?;
                    for (position, name) in names.iter().enumerate() {
                        if position == missing && taken {
                            b.must_hold(name).await?;
                        } else {
                            case.must_be_free(name).await?;
                        }
                    }
                }
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// A hundred keys are acquired, refused, extended and released as one.
pub async fn many_resources_are_one_request(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::AllOrNothing, "many_resources_are_one_request", |case| async move {
            let [a, b, c] = case.holders();
            let names: Vec<_> = (0..100).map(|number| case.name(&format!("key {number}"))).collect();
            b.acquire(&names[99], LONG).await.must(AcquireReply::Granted)?;
            a.acquire(&names[..], LONG).await.must(AcquireReply::Refused)?;
            c.acquire(&names[..99], LONG).await.must(AcquireReply::Granted)?;
            c.extend(&names[..], LONG).await.must(AcquireReply::Refused)?;
            c.release(&names[..]).await.must(ReleaseReply::NotHeld)?;
            b.release(&names[99]).await.must(ReleaseReply::Removed)?;

            a.acquire(&names[..], LONG).await.must(AcquireReply::Granted)?;
            a.must_hold(&names[..]).await?;
            for name in [&names[0], &names[50], &names[99]] {
                b.acquire(name, LONG).await.must(AcquireReply::Refused)?;
            }
            a.release(&names[..]).await.must(ReleaseReply::Removed)?;
            b.acquire(&names[..], LONG).await.must(AcquireReply::Granted)?;
            b.release(&names[..]).await.must(ReleaseReply::Removed)?;
            Ok(Verdict::Passed)
        })
        .await
}

/// Of 40 clients that request the same two keys at the same time in either order, the first gets both.
pub async fn several_resources_are_taken_at_one_instant(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::AllOrNothing, "several_resources_are_taken_at_one_instant", |case| async move {
            let (one, two) = (case.name("one"), case.name("two"));
            let orders = [[one.clone(), two.clone()], [two, one]].map(Resources::from);
            let contenders: [_; 40] = case.holders();
            first_wins(&case, &contenders, |position| orders[position % 2].clone()).await?;
            Ok(Verdict::Passed)
        })
        .await
}
