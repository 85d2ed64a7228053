//! Requests that the ledger of their claim tracks: what was sent, and what came of it.

// Tests: ledger.rs; tests/tests/it/sim/cleanup.rs.

use std::{
    num::NonZeroU64,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::{
    backend::{Acquire, AcquireFenced, Extend, Raise, Release, Replace},
    claim::Claim,
    node::{Ask, Asked, Node},
    reaper::schedule_release,
    reply::NodeOutcome,
    settings::Settings,
    validity::Ttl,
};

/// What the nodes of a round are asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) claim: Arc<Claim>,
    pub(crate) action: Action,
    /// How long each node may take.
    pub(crate) timeout: Duration,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Writes the claim's keys. With a proposal, the nodes count.
    Acquire(Ttl, Option<u64>),
    /// Writes them, and the counters of a lock with a fencing token, on a node that has lost them, unless the
    /// lock has ended.
    PutBack(Ttl, Option<NonZeroU64>),
    /// Extends them, and raises the counters of a lock with a fencing token.
    Extend(Ttl, Option<NonZeroU64>),
    /// Raises the counters.
    Raise(NonZeroU64),
    /// Replaces the token of another claim with the claim's.
    Replace(Arc<Claim>, Ttl),
    Release,
}

/// One node's part of a request.
pub(crate) struct Tracked<'a> {
    node: &'a Arc<Node>,
    request: &'a Request,
    asked: Option<Asked<'a>>,
}

impl<'a> Tracked<'a> {
    /// The first poll sends it.
    pub(crate) fn new(node: &'a Arc<Node>, request: &'a Request) -> Self {
        Self { node, request, asked: None }
    }

    pub(crate) fn node(&self) -> &'a Arc<Node> {
        self.node
    }

    /// The outcome. One that is [`Pending`](NodeOutcome::Pending) was not sent, as the lock had ended.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<NodeOutcome> {
        if self.asked.is_none() && !self.begin() {
            return Poll::Ready(NodeOutcome::Pending);
        }
        let asked = self.asked.get_or_insert_with(|| self.node.ask(self.request.to_one(&self.node.settings)));
        let outcome = ready!(asked.poll(cx));
        self.end(&outcome);
        Poll::Ready(outcome)
    }

    /// The node's counter, if it granted and counts.
    pub(crate) fn counter(&self) -> Option<NonZeroU64> {
        self.asked.as_ref().and_then(Asked::counter)
    }

    /// Ends it because its time is up.
    pub(crate) fn cut_off(&mut self) -> NodeOutcome {
        let outcome = self.asked.as_mut().map_or(NodeOutcome::Pending, Asked::cut_off);
        self.end(&outcome);
        outcome
    }

    /// Whether it is sent.
    fn begin(&self) -> bool {
        let (ledger, node) = (&self.request.claim.ledger, self.node.position);
        match &self.request.action {
            Action::Acquire(..) | Action::Replace(..) => ledger.begin_write(node),
            Action::PutBack(..) => return ledger.begin_rewrite(node),
            Action::Extend(..) | Action::Raise(_) => {}
            Action::Release => ledger.begin_removal(node),
        }
        true
    }

    fn end(&self, outcome: &NodeOutcome) {
        let (claim, node) = (&self.request.claim, self.node.position);
        let needs_release = match &self.request.action {
            Action::Acquire(..) | Action::PutBack(..) => claim.ledger.finish_write(node, outcome),
            Action::Replace(old, _) => {
                if let NodeOutcome::Granted = outcome {
                    old.ledger.replaced(node);
                }
                claim.ledger.finish_write(node, outcome)
            }
            Action::Extend(..) | Action::Raise(_) => {
                claim.ledger.finish_extension(node, outcome);
                false
            }
            Action::Release => claim.ledger.finish_removal(node, outcome),
        };
        if needs_release {
            schedule_release(self.node, claim);
        }
    }
}

impl Request {
    fn to_one(&self, settings: &Settings) -> Ask<'_> {
        let Self { claim, action, timeout } = self;
        let (resources, token) = (&claim.resources, &claim.token);
        let counter_ttl = settings.fencing.counter_ttl;
        let acquire = |ttl: &Ttl, proposal: Option<u64>| {
            let acquire = Acquire::new(resources, token, ttl.get(), *timeout);
            match proposal {
                Some(proposal) => Ask::AcquireFenced(AcquireFenced::new(acquire, proposal, counter_ttl)),
                None => Ask::Acquire(acquire),
            }
        };
        match action {
            Action::Acquire(ttl, proposal) => acquire(ttl, *proposal),
            // Where a key is missing, the node counts on: from the lock's own number, at least.
            Action::PutBack(ttl, fence) => acquire(ttl, fence.map(NonZeroU64::get)),
            Action::Extend(ttl, fence) => {
                let extend = Extend::new(resources, token, ttl.get(), *timeout);
                match fence {
                    Some(fence) => Ask::Raise(Raise::extending(extend, *fence, counter_ttl)),
                    None => Ask::Extend(extend),
                }
            }
            Action::Raise(to) => Ask::Raise(Raise::new(resources, token, *to, counter_ttl, *timeout)),
            Action::Replace(old, ttl) => {
                Ask::Replace(Replace::new(resources, &old.token, token, ttl.get(), *timeout))
            }
            Action::Release => Ask::Release(Release::new(resources, token, *timeout)),
        }
    }
}
