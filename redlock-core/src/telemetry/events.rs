//! Spans and events. A token is never told whole, and names of resources only at the level debug.

use std::{
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tracing::{Span, debug, field, info, info_span, trace, warn};

use super::{
    Verb, Votes,
    call::{End, Kind},
    health::Transition,
};
use crate::{
    backend::BackendError, claim::Claim, error_text::with_sources, resources::Resources, token::Token,
};

pub(super) fn span(kind: Kind, resources: &Resources, token: Option<&Token>) -> Span {
    macro_rules! span {
        ($name:literal) => {
            info_span!(
                target: "redlock",
                $name,
                resources = resources.as_slice().len(),
                holder = field::Empty,
                attempts = field::Empty,
                yes = field::Empty,
                no = field::Empty,
                failed = field::Empty,
                rejected = field::Empty,
                pending = field::Empty,
                outcome = field::Empty,
                elapsed_ms = field::Empty,
            )
        };
    }
    let span = match kind {
        Kind::Lock => span!("lock"),
        Kind::Extend => span!("extend"),
        Kind::Unlock => span!("unlock"),
    };
    if let Some(token) = token {
        span.record("holder", holder(token));
    }
    span
}

/// Polls and drops the work in the span. A guard across an await would leave the span entered for whoever is
/// polled next.
pub(super) async fn inside<F: Future>(span: Span, work: F) -> F::Output {
    let mut work = pin!(Some(work));
    let mut inside = Inside { span, work: work.as_mut() };
    poll_fn(|cx| {
        let _entered = inside.span.enter();
        inside.work.as_mut().as_pin_mut().map_or(Poll::Pending, |work| work.poll(cx))
    })
    .await
}

/// As `tracing::Instrumented`, whose destructor panics where the subscriber's thread-locals are gone.
struct Inside<'a, F> {
    span: Span,
    work: Pin<&'a mut Option<F>>,
}

impl<F> Drop for Inside<'_, F> {
    fn drop(&mut self) {
        let entered = catch_unwind(AssertUnwindSafe(|| self.span.enter()));
        self.work.set(None);
        drop(entered);
    }
}

/// In an event, since a field of a span has the level of its span.
pub(super) fn begun(resources: &Resources) {
    debug!(target: "redlock", names = %resources, "begin");
}

pub(super) fn ended(span: &Span, end: &End, took: Duration) {
    if let Some(attempts) = end.attempts {
        span.record("attempts", attempts);
    }
    if let Some(token) = &end.holder {
        span.record("holder", holder(token));
    }
    span.record("outcome", end.outcome);
    span.record("elapsed_ms", millis(took));
    let (outcome, elapsed_ms) = (end.outcome, millis(took));
    debug!(target: "redlock", outcome, elapsed_ms, "done");
}

pub(super) fn round(verb: Verb, claim: &Claim, outcome: &'static str, votes: &Votes) {
    let Votes { yes, no, failed, rejected, pending } = *votes;
    let span = Span::current();
    for (name, votes) in
        [("yes", yes), ("no", no), ("failed", failed), ("rejected", rejected), ("pending", pending)]
    {
        span.record(name, votes);
    }
    let (verb, holder) = (verb.name(), holder(&claim.token));
    debug!(target: "redlock", verb, holder, outcome, yes, no, failed, rejected, pending, "round");
}

pub(super) fn answered(
    node: &str,
    verb: Verb,
    outcome: &'static str,
    took: Duration,
    error: Option<&BackendError>,
    token: &Token,
) {
    let (verb, holder, elapsed_ms) = (verb.name(), holder(token), millis(took));
    match error {
        None => trace!(target: "redlock", node, verb, holder, outcome, elapsed_ms, "answer"),
        Some(error) => {
            let error = Scrubbed { error, token };
            debug!(target: "redlock", node, verb, holder, outcome, elapsed_ms, %error, "failed request");
        }
    }
}

pub(super) fn turned(
    node: &str,
    turn: Transition,
    error: Option<&BackendError>,
    token: &Token,
    serving: usize,
    nodes: usize,
) {
    match turn {
        Transition::Fails { kind, suppressed } => {
            let error = error.map(|error| field::display(Scrubbed { error, token }));
            warn!(target: "redlock", node, %kind, error, serving, nodes, suppressed, "node unhealthy");
        }
        Transition::Serves { failed_for, suppressed } => {
            let failed_for_ms = millis(failed_for);
            info!(target: "redlock", node, failed_for_ms, serving, nodes, suppressed, "node recovered");
        }
    }
}

pub(super) fn shares_server(node: &str, same_server_as: &str) {
    warn!(target: "redlock", node, same_server_as, "node has no vote of its own");
}

pub(super) fn lost(claim: &Claim, reason: &'static str) {
    let (resources, holder) = (claim.resources.as_slice().len(), holder(&claim.token));
    warn!(target: "redlock", reason, resources, holder, "lock lost");
    debug!(target: "redlock", names = %claim.resources, holder, "what was lost");
}

pub(super) fn dropped(claim: &Claim) {
    let holder = holder(&claim.token);
    debug!(target: "redlock", holder, "lock dropped: it is released in the background");
}

pub(super) fn owes(node: &str, before: usize, owed: usize) {
    if owed > before {
        debug!(target: "redlock", node, owed, "node owes a release: it is asked again");
    } else if owed < before {
        debug!(target: "redlock", node, owed, "release no longer owed");
    }
}

/// Enough of a token to tell two holders apart, and to find the same one in `inspect`.
fn holder(token: &Token) -> &str {
    token.prefix()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A node's error, and its sources, without the token: some servers and proxies repeat what they were sent.
struct Scrubbed<'a> {
    error: &'a BackendError,
    token: &'a Token,
}

impl fmt::Display for Scrubbed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = with_sources(self.error);
        f.write_str(&text.replace(self.token.as_str(), &format!("{}…", holder(self.token))))
    }
}
