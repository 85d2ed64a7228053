//! Clause 1, for names and tokens of every kind.

// Tests: conformance/tests.rs.

use super::{
    case::LONG,
    suite::Suite,
    verdict::{Clause, Outcome, Verdict},
};
use crate::backend::{AcquireReply, ReleaseReply};

/// Names that look alike are different keys: with spaces, controls, NUL, letters beyond ASCII, of 1 KiB and
/// more.
pub async fn names_are_taken_byte_for_byte(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "names_are_taken_byte_for_byte", |case| async move {
            let base = case.name("name");
            let mut names = vec![base.clone(), base.to_uppercase()];
            for odd in ODD {
                names.extend([format!("{base}{odd}"), format!("{odd}{base}"), format!("{base}{odd}{odd}")]);
            }
            let long = "x".repeat(1024);
            names.extend([format!("{base}{long}"), format!("{base}{long}y"), format!("{base}{long}{long}")]);
            let holders: Vec<_> = names.iter().map(|_| case.holder()).collect();
            for (name, holder) in names.iter().zip(&holders) {
                holder.acquire(name, LONG).await.must(AcquireReply::Granted)?;
            }
            for (name, holder) in names.iter().zip(&holders) {
                holder.must_hold(name).await?;
            }
            for (name, holder) in names.iter().zip(&holders) {
                holder.release(name).await.must(ReleaseReply::Removed)?;
            }
            // All of them at once, as one lock.
            let together: Vec<_> = ODD.iter().map(|odd| format!("{base}{odd}")).collect();
            let [a, b] = case.holders();
            a.acquire(&together[..], LONG).await.must(AcquireReply::Granted)?;
            for name in &together {
                b.acquire(name, LONG).await.must(AcquireReply::Refused)?;
            }
            a.release(&together[..]).await.must(ReleaseReply::Removed)?;
            Ok(Verdict::Passed)
        })
        .await
}

/// A name with wildcards, or with the prefix of another one, stands for itself alone.
pub async fn names_are_no_patterns_and_no_prefixes(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "names_are_no_patterns_and_no_prefixes", |case| async move {
            let a = case.holder();
            let plain = ["ab", "abc", "a", "xbc"].map(|label| case.name(label));
            a.acquire(&plain[..], LONG).await.must(AcquireReply::Granted)?;
            for pattern in ["a*", "*", "?bc", "[ax]bc", "ab", "%", "_b", "a.*", "^", ""] {
                let name = case.name(pattern);
                if plain.contains(&name) {
                    continue;
                }
                a.release(&name).await.must(ReleaseReply::NotHeld)?;
                a.extend(&name, LONG).await.must(AcquireReply::Refused)?;
                a.must_hold(&plain[..]).await?;
                // Nor does it block another name.
                case.must_be_free(&name).await?;
            }
            a.release(&plain[2]).await.must(ReleaseReply::Removed)?;
            for name in [&plain[0], &plain[1], &plain[3]] {
                a.must_hold(name).await?;
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// Tokens of 32 to 128 digits are different when one byte is different, or the length.
pub async fn tokens_are_compared_byte_for_byte(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::HeldByToken, "tokens_are_compared_byte_for_byte", |case| async move {
            let key = case.name("key");
            let (zeros, letters) = ("0".repeat(31), "abcdef0123456789".repeat(8));
            let tokens = [
                format!("{zeros}1"),
                format!("0{zeros}1"),
                format!("1{zeros}"),
                format!("1e{zeros}"),
                letters[..32].to_owned(),
                letters[..33].to_owned(),
                letters[..32].to_uppercase(),
                letters[..127].to_owned(),
                letters[..128].to_owned(),
                format!("{}0", &letters[..127]),
            ];
            let holders = tokens.each_ref().map(|token| case.holder_with('T', token));
            for (position, holder) in holders.iter().enumerate() {
                holder.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
                for (other, foreign) in holders.iter().enumerate() {
                    if other != position {
                        foreign.acquire(&key, LONG).await.must(AcquireReply::Refused)?;
                        foreign.extend(&key, LONG).await.must(AcquireReply::Refused)?;
                        foreign.release(&key).await.must(ReleaseReply::NotHeld)?;
                    }
                }
                holder.must_hold(&key).await?;
                holder.release(&key).await.must(ReleaseReply::Removed)?;
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// Text that may confuse a client, a protocol or a file system. The two é are different strings.
const ODD: [&str; 29] = [
    " ", "\t", "\n", "\r\n", "\0", "\0z", "\u{1b}", "\"", "'", "\\", "\\n", "/", "/../", "..", ":", "*", "?",
    "[a]", "{}", "{a}", "}{", "$1", "%00", "%s", "é", "e\u{301}", "ß", "日本", "🔒",
];
