//! Clause 12: an uptime is never too long.

// Tests: conformance/tests.rs.

use std::time::Duration;

use super::{
    case::{Case, LONG},
    node_control::FaultOutcome,
    suite::{RECOVERY, Suite},
    verdict::{Clause, Outcome, Verdict, Violation},
};
use crate::backend::{AcquireReply, BackendErrorKind};

/// After a grant, the uptime is known, and then grows no faster than time passes. A backend without this
/// ability rejects it.
pub async fn an_uptime_grows_no_faster_than_time(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::UptimeNeverTooLong, "an_uptime_grows_no_faster_than_time", |case| async move {
            let a = case.holder();
            let key = case.name("key");
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            let start = case.now();
            let Some(before) = uptime(&case)? else { return Ok(UNKNOWN) };
            case.sleep(case.suite.ttl).await;
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            let Some(after) = uptime(&case)? else {
                return Err(case.violation(format!("{before:?} and more"), "an uptime that is not known"));
            };
            let most = before.saturating_add(case.now() - start);
            if after > most {
                return Err(
                    case.violation(format!("at most {most:?} after {before:?}"), format!("{after:?}"))
                );
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// A node that has restarted without its keys has been running since then at most. Needs
/// [`NodeControl::restart_empty`](super::NodeControl::restart_empty).
pub async fn a_restart_begins_a_new_uptime(suite: &Suite<'_>) -> Outcome {
    suite
        .case(Clause::UptimeNeverTooLong, "a_restart_begins_a_new_uptime", |case| async move {
            let a = case.holder();
            let key = case.name("key");
            a.acquire(&key, LONG).await.must(AcquireReply::Granted)?;
            if uptime(&case)?.is_none() {
                return Ok(UNKNOWN);
            }
            case.sleep(case.suite.ttl).await;
            let restarted = case.now();
            let Some(node) = case.suite.node else { return Ok(NOT_RESTARTED) };
            if node.restart_empty().await == FaultOutcome::NotPossible {
                return Ok(NOT_RESTARTED);
            }
            case.note("the node restarts without its keys");
            case.recovered().await?;
            // It may not be known with the very first reply.
            while case.suite.backend.uptime().is_err() && case.now() - restarted < RECOVERY {
                a.acquire(&key, LONG).await.ended()?.ok();
            }
            let (uptime, most) = (uptime(&case)?, case.now() - restarted);
            if uptime.is_none_or(|uptime| uptime > most) {
                return Err(case.violation(format!("at most {most:?}"), format!("{uptime:?}")));
            }
            Ok(Verdict::Passed)
        })
        .await
}

/// `None` if the backend cannot tell.
fn uptime(case: &Case<'_>) -> Result<Option<Duration>, Violation> {
    match case.suite.backend.uptime() {
        Ok(uptime) => Ok(Some(uptime)),
        Err(error) if error.kind() == BackendErrorKind::Rejected => Ok(None),
        Err(error) => {
            let expected = "an uptime after a grant, or Rejected";
            Err(case.violation_of(Clause::ClassifiedErrors, expected, error.to_string()))
        }
    }
}

const UNKNOWN: Verdict = Verdict::Skipped("the backend cannot tell how long its server has been running");
const NOT_RESTARTED: Verdict = Verdict::Skipped("no node that can be restarted without its keys was given");
