//! Clause 13: a note changes no lock.

// Tests: conformance/tests.rs.

use std::time::Duration;

use super::{
    case::{Case, LONG},
    suite::{Suite, TOO_SLOW},
    verdict::{Clause, Outcome, Verdict},
};
use crate::backend::{AcquireReply, BackendErrorKind, ReleaseReply};

/// An inspection that asks for notes shows the last one of the holder, and none of an earlier holder. Any
/// other shows none.
pub async fn a_note_is_shown_while_its_token_holds_the_key(suite: &Suite<'_>) -> Outcome {
    notes(suite, "a_note_is_shown_while_its_token_holds_the_key", |case| async move {
        let [a, b] = case.holders();
        let key = case.name("key");
        a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
        a.must_note(&key, &[None]).await?;
        for text in ["first", "second", "second"] {
            a.annotate(&key, Some(text)).await.must(())?;
            b.must_note(&key, &[Some(text)]).await?;
        }
        let plain = a.inspect(&key).await;
        if plain.outcome().contains("second") {
            return Err(case.violation("no note, as none was requested", plain.outcome()));
        }
        a.release(&key).await.must(ReleaseReply::Removed)?;
        a.must_note(&key, &[None]).await?;
        b.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
        b.must_note(&key, &[None]).await?;
        b.annotate(&key, Some("another")).await.must(())?;
        b.must_note(&key, &[Some("another")]).await?;
        Ok(Verdict::Passed)
    })
    .await
}

/// A note of 256 bytes is stored whole, whatever its text.
pub async fn a_note_is_stored_as_it_is(suite: &Suite<'_>) -> Outcome {
    notes(suite, "a_note_is_stored_as_it_is", |case| async move {
        let a = case.holder();
        let key = case.name("key");
        a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
        let (ascii, long) = ("x".repeat(256), "\u{20ac}".repeat(85));
        for text in
            ["", " ", "it's \"50%\" of C:\\", "note 01234567 ", "n\u{e4}chtlich \u{6771}", &ascii, &long]
        {
            a.annotate(&key, Some(text)).await.must(())?;
            a.must_note(&key, &[Some(text)]).await?;
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// No note is written at a key that is free, or that another token holds.
pub async fn a_note_needs_the_token(suite: &Suite<'_>) -> Outcome {
    notes(suite, "a_note_needs_the_token", |case| async move {
        let [a, b] = case.holders();
        let (free, held) = (case.name("free"), case.name("held"));
        a.annotate(&free, Some("of a free key")).await.must(())?;
        case.must_be_free(&free).await?;
        a.acquire(&free, LONG).await.must(AcquireReply::Granted)?;
        a.must_note(&free, &[None]).await?;

        b.acquire(&held, LONG).await.must(AcquireReply::Granted)?;
        a.annotate(&held, Some("of another")).await.must(())?;
        a.must_note(&held, &[None]).await?;
        b.annotate(&held, Some("its own")).await.must(())?;
        a.annotate(&held, Some("of another")).await.must(())?;
        a.must_note(&held, &[Some("its own")]).await?;
        b.must_hold(&held).await?;
        Ok(Verdict::Passed)
    })
    .await
}

/// A note is removed by its own token only, also when that no longer holds the key.
pub async fn a_note_is_removed_by_its_token_alone(suite: &Suite<'_>) -> Outcome {
    notes(suite, "a_note_is_removed_by_its_token_alone", |case| async move {
        let [a, b] = case.holders();
        let key = case.name("key");
        a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
        a.annotate(&key, None).await.must(())?;
        a.annotate(&key, Some("its own")).await.must(())?;
        b.annotate(&key, None).await.must(())?;
        a.must_note(&key, &[Some("its own")]).await?;
        a.annotate(&key, None).await.must(())?;
        a.must_note(&key, &[None]).await?;
        a.must_hold(&key).await?;

        a.annotate(&key, Some("its own")).await.must(())?;
        a.release(&key).await.must(ReleaseReply::Removed)?;
        a.annotate(&key, None).await.must(())?;
        a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
        a.must_note(&key, &[None]).await?;
        Ok(Verdict::Passed)
    })
    .await
}

/// A note of several keys is beside each of those that the token holds, whichever these are.
pub async fn a_note_is_beside_each_key_that_the_token_holds(suite: &Suite<'_>) -> Outcome {
    notes(suite, "a_note_is_beside_each_key_that_the_token_holds", |case| async move {
        for missing in 0..3 {
            let [a, b] = case.holders();
            let names = ["first", "second", "third"].map(|label| case.name(&format!("{label} of {missing}")));
            a.acquire(&names[..], LONG).await.must(AcquireReply::Granted)?;
            a.annotate(&names[..], Some("of all")).await.must(())?;
            a.must_note(&names[..], &[Some("of all"); 3]).await?;
            a.release(&names[missing]).await.must(ReleaseReply::Removed)?;
            b.acquire(&names[missing], LONG).await.must(AcquireReply::Granted)?;
            a.annotate(&names[..], Some("of two")).await.must(())?;
            let mut expected = [Some("of two"); 3];
            expected[missing] = None;
            a.must_note(&names[..], &expected).await?;
            a.annotate(&names[..], None).await.must(())?;
            a.must_note(&names[..], &[None; 3]).await?;
            b.must_hold(&names[missing]).await?;
        }
        Ok(Verdict::Passed)
    })
    .await
}

/// Writing and removing a note changes neither the value of a key nor its TTL.
pub async fn a_note_leaves_the_key_as_it_is(suite: &Suite<'_>) -> Outcome {
    if !suite.backend.can_annotate() {
        return Ok(CANNOT);
    }
    suite
        .timed(NOTES, "a_note_leaves_the_key_as_it_is", |case, ttl| async move {
            let a = case.holder();
            let key = case.name("key");
            let acquired = a.acquire(&key, ttl).await;
            acquired.must(AcquireReply::Granted)?;
            for note in [Some("a note"), None, Some("another")] {
                a.annotate(&key, note).await.must(())?;
            }
            let held = a.extend(&key, Duration::from_millis(1)).await;
            if held.answered >= acquired.life(ttl).earliest() {
                return Ok(TOO_SLOW);
            }
            held.must(AcquireReply::Granted)?;
            case.watch(&key, acquired.life(ttl)).await
        })
        .await
}

/// A note expires with its key. Written again after an extension, it lives on with it.
pub async fn a_note_lives_as_long_as_its_key(suite: &Suite<'_>) -> Outcome {
    if !suite.backend.can_annotate() {
        return Ok(CANNOT);
    }
    suite
        .timed(NOTES, "a_note_lives_as_long_as_its_key", |case, ttl| async move {
            let a = case.holder();
            if cannot_inspect(&case).await {
                return Ok(CANNOT);
            }
            let (short, long) = (case.name("short"), case.name("long"));
            let acquired = a.acquire(&[&short, &long], ttl).await;
            acquired.must(AcquireReply::Granted)?;
            let noted = a.annotate(&[&short, &long], Some("a note")).await;
            noted.must(())?;
            let extended = a.extend(&long, LONG).await;
            if extended.answered >= acquired.life(ttl).earliest() {
                return Ok(TOO_SLOW);
            }
            extended.must(AcquireReply::Granted)?;
            a.annotate(&long, Some("a note")).await.must(())?;
            let verdict = case.watch(&short, acquired.life(ttl)).await?;
            case.sleep(ttl / 2).await;
            a.acquire(&short, LONG).await.must(AcquireReply::Granted)?;
            a.must_note(&[&short, &long], &[None, Some("a note")]).await?;
            Ok(verdict)
        })
        .await
}

/// Runs one check of a backend that has notes, and shows them.
async fn notes<'k, F, T>(suite: &'k Suite<'k>, check: &'static str, trial: F) -> Outcome
where
    F: FnOnce(Case<'k>) -> T + Send,
    T: Future<Output = Outcome> + Send,
{
    if !suite.backend.can_annotate() {
        return Ok(CANNOT);
    }
    suite
        .case(NOTES, check, |case| async move {
            if cannot_inspect(&case).await { Ok(CANNOT) } else { trial(case).await }
        })
        .await
}

async fn cannot_inspect(case: &Case<'_>) -> bool {
    let seen = case.holder().inspect_notes(&case.name("any")).await;
    matches!(seen.ended(), Ok(Err(error)) if error.kind() == BackendErrorKind::Rejected)
}

const NOTES: Clause = Clause::NoteChangesNoLock;
const CANNOT: Verdict = Verdict::Skipped("the backend has no notes, or shows none");
