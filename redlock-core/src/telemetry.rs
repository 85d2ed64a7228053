//! What operators are told: the only place that knows of `tracing` and `metrics`. Without these features it
//! does nothing.
//!
//! Nothing in here is awaited, decides anything, or is called under a lock: a subscriber is somebody else's
//! code.

// Features that are off leave arguments unused.
#![cfg_attr(not(all(feature = "tracing", feature = "metrics")), allow(unused_variables, dead_code))]

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
};

#[cfg(any(feature = "tracing", feature = "metrics"))]
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use self::call::{Call, End, Kind};
use crate::{
    backend::{BackendError, BackendErrorKind},
    claim::Claim,
    error::Error,
    lock::{Lock, UnlockOutcome},
    nodes::Nodes,
    quorum::{LossReason, Vote},
    reply::{NodeOutcome, NodeReply},
    resources::Resources,
    token::Token,
};

mod call;
#[cfg(feature = "tracing")]
mod events;
#[cfg(feature = "tracing")]
mod health;
#[cfg(feature = "metrics")]
mod metrics;

/// What a node, or a round of nodes, is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Acquire,
    Extend,
    Replace,
    Release,
}

/// Why a lock was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its validity ran out before it was released.
    Expired,
    /// While it should have been valid, the nodes said that its keys are gone.
    Gone,
}

/// A lock manager was made.
pub(crate) fn built() {
    #[cfg(feature = "metrics")]
    metrics::describe();
}

/// Tells of a call of `lock`, from its first poll to its end.
pub(crate) async fn lock(
    nodes: &Nodes,
    resources: &Resources,
    work: impl Future<Output = Result<Lock, Error>>,
) -> Result<Lock, Error> {
    let end = |result: &Result<Lock, Error>| match result {
        Ok(lock) => {
            End { outcome: "granted", attempts: Some(lock.attempts()), holder: Some(lock.token().clone()) }
        }
        Err(error) => End::failed(error),
    };
    Call::begin(Kind::Lock, nodes, resources, None).watch(work, end).await
}

/// Tells of an extension, by hand or by a keep-alive, and of a lock that is taken over, which is one as well.
pub(crate) async fn extend<T>(
    nodes: &Nodes,
    claim: &Claim,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let end = |result: &Result<T, Error>| match result {
        Ok(_) => End { outcome: "extended", attempts: None, holder: None },
        Err(error) => End::failed(error),
    };
    Call::begin(Kind::Extend, nodes, &claim.resources, Some(&claim.token)).watch(work, end).await
}

/// Tells of an unlock that is waited for.
pub(crate) async fn unlock(
    nodes: &Nodes,
    claim: &Claim,
    work: impl Future<Output = Result<UnlockOutcome, Error>>,
) -> Result<UnlockOutcome, Error> {
    let end = |result: &Result<UnlockOutcome, Error>| match result {
        Ok(UnlockOutcome::Released) => End { outcome: "released", attempts: None, holder: None },
        Ok(UnlockOutcome::NotHeld) => End { outcome: "already_gone", attempts: None, holder: None },
        Err(error) => End::failed(error),
    };
    Call::begin(Kind::Unlock, nodes, &claim.resources, Some(&claim.token)).watch(work, end).await
}

/// A lock was dropped: it is released in the background.
pub(crate) fn dropped(claim: &Claim) {
    in_a_destructor(|| {
        #[cfg(feature = "tracing")]
        events::dropped(claim);
        #[cfg(feature = "metrics")]
        metrics::unlocked("dropped");
    });
}

/// A round was decided.
pub(crate) fn round(verb: Verb, claim: &Claim, defeat: Option<LossReason>, answers: &[NodeReply]) {
    let outcome = match defeat {
        None => "won",
        Some(LossReason::Refused) => "refused",
        Some(LossReason::NoQuorum) => "no_quorum",
        Some(LossReason::Rejected) => "rejected",
    };
    #[cfg(feature = "tracing")]
    events::round(verb, claim, outcome, &Votes::count(answers));
    #[cfg(feature = "metrics")]
    metrics::round(verb, outcome);
}

/// A round was given up half-way, because its call was.
pub(crate) fn round_cancelled(claim: &Claim) {
    in_a_destructor(|| {
        #[cfg(feature = "tracing")]
        events::round(Verb::Acquire, claim, "cancelled", &Votes::default());
        #[cfg(feature = "metrics")]
        metrics::round(Verb::Acquire, "cancelled");
    });
}

/// One request to one node.
pub(crate) struct Request<'a> {
    nodes: &'a Nodes,
    node: usize,
    verb: Verb,
    token: &'a Token,
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    start: Instant,
}

impl<'a> Request<'a> {
    pub(crate) fn begin(nodes: &'a Nodes, node: usize, verb: Verb, token: &'a Token) -> Self {
        Self {
            nodes,
            node,
            verb,
            token,
            #[cfg(any(feature = "tracing", feature = "metrics"))]
            start: nodes.now(),
        }
    }

    /// `informative`: whether the answer says something about the node. A timeout that was cut short does
    /// not.
    pub(crate) fn answered<T: Copy + Into<NodeOutcome>>(
        self,
        answer: &Result<T, BackendError>,
        informative: bool,
    ) {
        #[cfg(any(feature = "tracing", feature = "metrics"))]
        {
            let (now, watch) = (self.nodes.now(), &self.nodes.nodes[self.node].watch);
            let took = now.saturating_duration_since(self.start);
            let said = answer.as_ref().map(|answer| (*answer).into());
            let outcome = outcome_of_request(said.as_ref().map_err(|error| error.kind()));
            #[cfg(feature = "metrics")]
            metrics::answered(watch.label(), self.verb, outcome, took);
            #[cfg(feature = "tracing")]
            {
                let error = answer.as_ref().err();
                events::answered(watch.label(), self.verb, outcome, took, error, self.token);
                if informative {
                    watch.turned(self.nodes, now, error, self.token);
                }
            }
        }
    }
}

/// What is remembered of a node.
#[derive(Debug)]
pub(crate) struct NodeTelemetry {
    /// Its name, or its position when it has none.
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    label: Arc<str>,
    #[cfg(feature = "tracing")]
    condition: health::Watched,
    /// Whether it was told that it shares its server.
    #[cfg(feature = "tracing")]
    shares: AtomicBool,
    #[cfg(feature = "metrics")]
    owed: metrics::Owed,
}

impl NodeTelemetry {
    pub(crate) fn new(position: usize, name: Option<&str>) -> Self {
        #[cfg(any(feature = "tracing", feature = "metrics"))]
        let label: Arc<str> = name.map_or_else(|| position.to_string().into(), Into::into);
        Self {
            #[cfg(feature = "metrics")]
            owed: metrics::Owed::new(label.clone()),
            #[cfg(any(feature = "tracing", feature = "metrics"))]
            label,
            #[cfg(feature = "tracing")]
            condition: health::Watched::default(),
            #[cfg(feature = "tracing")]
            shares: AtomicBool::new(false),
        }
    }

    /// The node has no vote, as `other` leads to the same server; told once.
    pub(crate) fn shares_server_with(&self, other: &Self) {
        #[cfg(feature = "tracing")]
        if !self.shares.swap(true, Ordering::Relaxed) {
            events::shares_server(&self.label, &other.label);
        }
    }

    /// The node owes more releases than before, or fewer.
    pub(crate) fn owes(&self, before: usize, after: usize) {
        #[cfg(feature = "tracing")]
        events::owes(&self.label, before, after);
        #[cfg(feature = "metrics")]
        self.owed.change(before, after);
    }

    #[cfg(any(feature = "tracing", feature = "metrics"))]
    fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Tells when the node has begun to fail, or to serve again.
    #[cfg(feature = "tracing")]
    fn turned(&self, nodes: &Nodes, now: Instant, error: Option<&BackendError>, token: &Token) {
        if let Some(turn) = self.condition.seen(now, error.map(BackendError::kind)) {
            let serving = nodes.nodes.iter().filter(|node| node.watch.condition.serves()).count();
            events::turned(&self.label, turn, error, token, serving, nodes.len());
        }
    }
}

/// What is remembered of a lock that is held.
#[derive(Debug)]
pub(crate) struct LockTelemetry {
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    start: Instant,
    /// Whether its loss was told.
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    lost: AtomicBool,
}

impl LockTelemetry {
    pub(crate) fn begin(nodes: &Nodes) -> Self {
        Self {
            #[cfg(any(feature = "tracing", feature = "metrics"))]
            start: nodes.now(),
            #[cfg(any(feature = "tracing", feature = "metrics"))]
            lost: AtomicBool::new(false),
        }
    }

    /// Tells of a loss, the first time that it is noticed.
    pub(crate) fn lost(&self, claim: &Claim, loss: Loss) {
        #[cfg(any(feature = "tracing", feature = "metrics"))]
        if !self.lost.swap(true, Ordering::Relaxed) {
            #[cfg(feature = "tracing")]
            events::lost(claim, loss.reason());
            #[cfg(feature = "metrics")]
            metrics::lost(loss);
        }
    }

    /// The hold is over; told once. One whose validity, until `valid_until`, was over before has been lost.
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    pub(crate) fn ended(&self, nodes: &Nodes, claim: &Claim, valid_until: Instant) {
        let now = nodes.now();
        in_a_destructor(|| {
            if now >= valid_until {
                self.lost(claim, Loss::Expired);
            }
            #[cfg(feature = "metrics")]
            metrics::held(now.saturating_duration_since(self.start));
        });
    }

    #[cfg(not(any(feature = "tracing", feature = "metrics")))]
    pub(crate) fn ended(&self, nodes: &Nodes, claim: &Claim, valid_until: std::time::Instant) {}
}

/// Tells of something where a panic would do harm. Subscribers and recorders use thread-locals, and at the
/// end of a thread, when another thread-local is dropped that holds a lock, theirs may be gone: a panic there
/// ends the process.
fn in_a_destructor(tell: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(tell)));
}

/// The votes of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Votes {
    yes: u64,
    no: u64,
    failed: u64,
    rejected: u64,
    /// Not waited for.
    pending: u64,
}

impl Votes {
    fn count(answers: &[NodeReply]) -> Self {
        let mut votes = Self::default();
        for answer in answers {
            *match answer.outcome.vote() {
                Some(Vote::Yes) => &mut votes.yes,
                Some(Vote::No) => &mut votes.no,
                Some(Vote::Failed) => &mut votes.failed,
                Some(Vote::Rejected) => &mut votes.rejected,
                None => &mut votes.pending,
            } += 1;
        }
        votes
    }
}

impl Loss {
    fn reason(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Gone => "gone",
        }
    }
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Extend => "extend",
            Self::Replace => "replace",
            Self::Release => "release",
        }
    }
}

fn outcome_of_request(said: Result<&NodeOutcome, BackendErrorKind>) -> &'static str {
    match said {
        Ok(NodeOutcome::Granted) => "granted",
        Ok(NodeOutcome::Refused) => "refused",
        Ok(NodeOutcome::Removed) => "removed",
        Ok(NodeOutcome::NotHeld) => "not_held",
        Ok(NodeOutcome::Failed(_) | NodeOutcome::Late | NodeOutcome::Pending) => "other",
        Err(BackendErrorKind::Indeterminate) => "indeterminate",
        Err(BackendErrorKind::Transient) => "transient",
        Err(BackendErrorKind::Rejected) => "rejected",
    }
}
