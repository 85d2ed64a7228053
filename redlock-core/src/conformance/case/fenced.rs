//! Requests about the counters for fencing tokens.

// Tests: conformance/tests.rs.

use std::{num::NonZeroU64, time::Duration};

use super::{Holder, LONG, Seen};
use crate::{
    backend::{Acquire, AcquireFenced, BackendErrorKind, FencedReply, Raise},
    conformance::verdict::Violation,
    resources::Resources,
};

impl<'k> Holder<'k> {
    /// The counters live longer than any check takes.
    pub(in super::super) async fn acquire_fenced(
        &self,
        names: impl Into<Resources> + Send,
        ttl: Duration,
        proposal: u64,
    ) -> Seen<'k, FencedReply> {
        self.acquire_counted(names, ttl, proposal, LONG).await
    }

    pub(in super::super) async fn acquire_counted(
        &self,
        names: impl Into<Resources> + Send,
        ttl: Duration,
        proposal: u64,
        counter_ttl: Duration,
    ) -> Seen<'k, FencedReply> {
        let resources = names.into();
        self.case.claim(&resources, &self.token);
        let acquire = Acquire::new(&resources, &self.token, ttl, self.timeout);
        let request = AcquireFenced::new(acquire, proposal, Some(counter_ttl));
        let verb = format!("acquires for {ttl:?}, fenced, and proposes {proposal}:");
        self.ask(&verb, &resources, self.backend.acquire_fenced(request)).await
    }

    pub(in super::super) async fn raise(
        &self,
        names: impl Into<Resources> + Send,
        fence: u64,
        ttl: Option<Duration>,
    ) -> Seen<'k, FencedReply> {
        self.raise_counted(names, fence, ttl, LONG).await
    }

    pub(in super::super) async fn raise_counted(
        &self,
        names: impl Into<Resources> + Send,
        fence: u64,
        ttl: Option<Duration>,
        counter_ttl: Duration,
    ) -> Seen<'k, FencedReply> {
        let resources = names.into();
        let number = NonZeroU64::new(fence).unwrap_or(NonZeroU64::MIN);
        let raise = Raise::new(&resources, &self.token, number, Some(counter_ttl), self.timeout);
        let verb = match ttl {
            None => format!("raises to {fence}"),
            Some(ttl) => format!("raises to {fence}, and extends by {ttl:?},"),
        };
        self.ask(&verb, &resources, self.backend.raise(Raise { ttl, ..raise })).await
    }
}

impl Seen<'_, FencedReply> {
    /// Checks that the reply is a grant with this counter.
    pub(in super::super) fn must_count(&self, counter: u64) -> Result<(), Violation> {
        match NonZeroU64::new(counter) {
            Some(counter) => self.must(FencedReply::Granted { counter }),
            None => self.must(FencedReply::Refused),
        }
    }

    /// The counter of a grant.
    pub(in super::super) fn counter(&self) -> Result<u64, Violation> {
        match self.ended()? {
            Ok(FencedReply::Granted { counter }) => Ok(counter.get()),
            _ => Err(self.case.violation("Granted", self.outcome())),
        }
    }

    pub(in super::super) fn must_be_rejected(&self) -> Result<(), Violation> {
        match self.ended()? {
            Err(error) if error.kind() == BackendErrorKind::Rejected => Ok(()),
            _ => Err(self.case.violation("an error, rejected", self.outcome())),
        }
    }
}
