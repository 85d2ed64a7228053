//! Clause 1: a key is held by a token.

// Tests: conformance/tests.rs.

use std::{sync::Arc, time::Duration};

use super::{
    Asked,
    case::{Case, Holder, LONG, Seen},
    suite::Suite,
    together,
    verdict::{Clause, Outcome, Verdict, Violation},
};
use crate::{
    MAX_TTL,
    backend::{AcquireReply, BackendErrorKind, LockBackend, ReleaseReply},
    inspect::KeyState,
    resources::Resources,
};

/// A free key is granted, and its release removes it.
pub async fn a_free_key_is_granted_and_released(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "a_free_key_is_granted_and_released", |case| async move {
            let [a, b] = case.holders();
            let key = case.name("key");
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            a.release(&key).await.must(ReleaseReply::Removed)?;
            b.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            b.release(&key).await.must(ReleaseReply::Removed)?;
            Ok(Verdict::Passed)
        })
        .await
}

/// An acquire of a key that another token holds is refused, and the key stays as it is.
pub async fn a_held_key_is_refused_to_others(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "a_held_key_is_refused_to_others", |case| async move {
            let [a, b] = case.holders();
            let key = case.name("key");
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            b.acquire(&key, LONG).await.must(AcquireReply::Refused)?;
            b.acquire(&key, LONG).await.must(AcquireReply::Refused)?;
            a.must_hold(&key).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// An extension of a key that is free, or that another token holds, is refused and changes nothing.
pub async fn only_the_holder_extends(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "only_the_holder_extends", |case| async move {
            let [a, b] = case.holders();
            let key = case.name("key");
            a.extend(&key, LONG).await.must(AcquireReply::Refused)?;
            case.must_be_free(&key).await?;
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            b.extend(&key, LONG).await.must(AcquireReply::Refused)?;
            a.must_hold(&key).await?;
            a.release(&key).await.must(ReleaseReply::Removed)?;
            a.extend(&key, LONG).await.must(AcquireReply::Refused)?;
            case.must_be_free(&key).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// A release of a key that is free, or that another token holds, reports this and changes nothing.
pub async fn only_the_holder_releases(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "only_the_holder_releases", |case| async move {
            let [a, b] = case.holders();
            let key = case.name("key");
            a.release(&key).await.must(ReleaseReply::NotHeld)?;
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            b.release(&key).await.must(ReleaseReply::NotHeld)?;
            a.must_hold(&key).await?;
            a.release(&key).await.must(ReleaseReply::Removed)?;
            a.release(&key).await.must(ReleaseReply::NotHeld)?;
            Ok(Verdict::Passed)
        })
        .await
}

/// Requests with another token neither lengthen nor shorten the TTL of a key.
pub async fn others_leave_the_ttl_alone(suite: &Suite<'_>) -> Outcome {
    suite
        .timed(Clause::HeldByToken, "others_leave_the_ttl_alone", |case, ttl| async move {
            let [a, b] = case.holders();
            let key = case.name("key");
            let life = a.acquire(&key, ttl).await;
            life.must(AcquireReply::Granted)?;
            for other in [LONG, ttl / 10] {
                // It ends by itself when the machine is so slow that the key is gone.
                if b.acquire(&key, other).await.must(AcquireReply::Refused).is_err()
                    && case.now() < life.life(ttl).earliest()
                {
                    return Err(case.violation("Refused", "Granted"));
                }
                b.extend(&key, other).await.ended()?.ok();
                b.release(&key).await.ended()?.ok();
            }
            case.watch(&key, life.life(ttl)).await
        })
        .await
}

/// A key is there for its TTL, and gone after it.
pub async fn a_key_lives_for_its_ttl(suite: &Suite<'_>) -> Outcome {
    suite
        .timed(Clause::HeldByToken, "a_key_lives_for_its_ttl", |case, ttl| async move {
            let a = case.holder();
            let key = case.name("key");
            let acquired = a.acquire(&key, ttl).await;
            acquired.must(AcquireReply::Granted)?;
            case.watch(&key, acquired.life(ttl)).await
        })
        .await
}

/// Once a key has lapsed and another token holds it, the first token can do nothing to it.
pub async fn a_lapsed_key_is_not_the_old_holders(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "a_lapsed_key_is_not_the_old_holders", |case| async move {
            let [a, b] = case.holders();
            let key = case.name("key");
            a.acquire(&key, case.suite.ttl / 10).await.must(AcquireReply::Granted)?;
            case.sleep(case.suite.ttl).await;
            a.extend(&key, LONG).await.must(AcquireReply::Refused)?;
            b.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            a.acquire(&key, LONG).await.must(AcquireReply::Refused)?;
            a.extend(&key, LONG).await.must(AcquireReply::Refused)?;
            a.release(&key).await.must(ReleaseReply::NotHeld)?;
            b.must_hold(&key).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// A TTL of 1 ms and one of [`MAX_TTL`] work like any other.
pub async fn the_shortest_and_the_longest_ttl_are_kept(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "the_shortest_and_the_longest_ttl_are_kept", |case| async move {
            let [a, b] = case.holders();
            let (short, long) = (case.name("short"), case.name("long"));
            a.acquire(&short, Duration::from_millis(1)).await.must(AcquireReply::Granted)?;
            case.sleep(case.suite.ttl / 2).await;
            b.acquire(&short, Duration::from_millis(1)).await.must(AcquireReply::Granted)?;

            a.acquire(&long, MAX_TTL).await.must(AcquireReply::Granted)?;
            b.acquire(&long, MAX_TTL).await.must(AcquireReply::Refused)?;
            a.extend(&long, MAX_TTL).await.must(AcquireReply::Granted)?;
            b.acquire(&long, MAX_TTL).await.must(AcquireReply::Refused)?;
            if let Ok(states) = a.inspect(&long).await.ended()?
                && let [KeyState::Held { remaining, .. }] = &states[..]
                && remaining.is_none_or(|left| left < MAX_TTL - LONG || left > MAX_TTL)
            {
                return Err(case.violation(format!("about {MAX_TTL:?} left"), format!("{remaining:?}")));
            }
            a.release(&long).await.must(ReleaseReply::Removed)?;
            Ok(Verdict::Passed)
        })
        .await
}

/// Of 50 clients that request a key at the same time, one gets it: the first.
pub async fn one_of_many_contenders_wins(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "one_of_many_contenders_wins", |case| async move {
            let key = case.name("key");
            let contenders: [_; 50] = case.holders();
            first_wins(&case, &contenders, |_| key.as_str().into()).await?;
            Ok(Verdict::Passed)
        })
        .await
}

/// The keys of one instance of the backend are there for another. Needs [`Suite::second`].
pub async fn another_instance_sees_the_keys(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "another_instance_sees_the_keys", |case| async move {
            let Some(second) = case.suite.second else {
                return Ok(Verdict::Skipped("no second instance of the backend was given"));
            };
            let [a, b] = case.holders();
            let key = case.name("key");
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            b.through(second).acquire(&key, LONG).await.must(AcquireReply::Refused)?;
            a.through(second).extend(&key, LONG).await.must(AcquireReply::Granted)?;
            a.through(second).release(&key).await.must(ReleaseReply::Removed)?;
            b.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            a.through(second).acquire(&key, LONG).await.must(AcquireReply::Refused)?;
            b.release(&key).await.must(ReleaseReply::Removed)?;
            Ok(Verdict::Passed)
        })
        .await
}

/// After a grant, each instance reports the same server.
pub async fn another_instance_knows_the_server_by_the_same_identity(suite: &Suite<'_>) -> Outcome {
    let check = "another_instance_knows_the_server_by_the_same_identity";
    suite
        .case(Clause::OneIdentity, check, |case| async move {
            let Some(second) = case.suite.second else {
                return Ok(Verdict::Skipped("no second instance of the backend was given"));
            };
            let holder = case.holder();
            let key = case.name("key");
            holder.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            let id = identity(case.suite.backend);
            holder.through(second).acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            let other = identity(second);
            if id != other {
                return Err(case.violation(format!("the identity {id:?}"), format!("{other:?}")));
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// An inspection reports the state of each key, in order, and changes nothing. A backend without this ability
/// rejects it.
pub async fn an_inspection_reports_the_keys(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "an_inspection_reports_the_keys", |case| async move {
            let [a, b] = case.holders();
            let names = ["held", "free", "other"].map(|label| case.name(label));
            a.acquire(&names[0], LONG).await.must(AcquireReply::Granted)?;
            b.acquire(&names[2], 2 * LONG).await.must(AcquireReply::Granted)?;
            let seen = a.inspect(&names[..]).await;
            let states = match seen.ended()? {
                Ok(states) => states,
                Err(error) if error.kind() == BackendErrorKind::Rejected => {
                    return Ok(Verdict::Skipped("the backend cannot inspect keys"));
                }
                Err(_) => {
                    return Err(case.violation_of(
                        Clause::ClassifiedErrors,
                        "the state of each key, or Rejected",
                        seen.outcome(),
                    ));
                }
            };
            let shows = |state: Option<&KeyState>, token: &str, ttl: Duration| match state {
                Some(KeyState::Held { holder, remaining: Some(left), .. }) => {
                    token.starts_with(holder) && !holder.is_empty() && (ttl - LONG / 2..=ttl).contains(left)
                }
                _ => false,
            };
            let right = states.len() == names.len()
                && shows(states.first(), a.token.as_str(), LONG)
                && states[1] == KeyState::Free
                && shows(states.last(), b.token.as_str(), 2 * LONG);
            if !right {
                let expected = format!(
                    "{}… for up to {LONG:?}, free, {}… for up to {:?}",
                    &a.token.as_str()[..8],
                    &b.token.as_str()[..8],
                    2 * LONG
                );
                return Err(case.violation(expected, seen.outcome()));
            }
            a.must_hold(&names[0]).await?;
            case.must_be_free(&names[1]).await?;
            b.must_hold(&names[2]).await?;
            Ok(Verdict::Passed)
        })
        .await
}

fn identity(backend: &dyn LockBackend) -> Option<Arc<str>> {
    backend.server()?.id.clone()
}

/// Checks that only the first gets the keys that all request at the same time, each by its position.
pub(super) async fn first_wins<'k>(
    case: &Case<'k>,
    contenders: &[Holder<'k>],
    names: impl Fn(usize) -> Resources + Send + Sync,
) -> Result<(), Violation> {
    let names = &names;
    let ask = |(position, one): (usize, &Holder<'k>)| -> Asked<'_, Seen<'k, AcquireReply>> {
        let one = one.clone();
        Box::pin(async move { one.acquire(names(position), LONG).await })
    };
    let answers = together(contenders.iter().enumerate().map(ask).collect()).await;
    let mut winners = Vec::new();
    for (position, seen) in answers.iter().enumerate() {
        if seen.ended()?.is_ok_and(|reply| *reply == AcquireReply::Granted) {
            winners.push(position);
        } else {
            seen.must(AcquireReply::Refused)?;
        }
    }
    if winners != [0] {
        let expected = format!("number 0 of {} wins", contenders.len());
        return Err(case.violation(expected, format!("numbers {winners:?} do")));
    }
    contenders[0].must_hold(names(0)).await
}
