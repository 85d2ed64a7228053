//! Tracks which requests have reached which nodes: whose keys may remain when their clients are done.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    time::Duration,
};

use super::network::{Request, Verb};

#[derive(Debug, Default)]
pub(super) struct Ledger {
    claims: BTreeMap<String, Claim>,
    /// By token and node.
    entries: BTreeMap<(String, usize), Entry>,
    /// By client and node.
    links: BTreeMap<(usize, usize), Link>,
    /// Tokens whose keys are deliberately left to expire.
    abandoned: BTreeSet<String>,
}

/// A client's requests with one token.
#[derive(Debug)]
struct Claim {
    client: usize,
    began: Duration,
    /// What its round has raised counters to.
    raised: BTreeSet<NonZeroU64>,
}

/// A claim's state on one node.
#[derive(Debug, Default)]
struct Entry {
    /// When the node last executed an acquire.
    acquired: Duration,
    released: bool,
}

/// How well the network serves a client and a node.
#[derive(Debug, Default)]
struct Link {
    /// How many requests will still arrive.
    under_way: u32,
    /// When a request was last late.
    late: Option<Duration>,
}

impl Ledger {
    /// Records a request of a client, which may never arrive.
    pub(super) fn begun(&mut self, now: Duration, request: &Request) {
        let token = request.token.as_str();
        if !self.claims.contains_key(token) {
            let claim = Claim { client: request.client, began: now, raised: BTreeSet::new() };
            self.claims.insert(token.to_owned(), claim);
        }
        if let (Verb::Raise { fence, ttl: None, .. }, Some(claim)) =
            (&request.verb, self.claims.get_mut(token))
        {
            claim.raised.insert(*fence);
        }
    }

    /// When the first request with the token was sent, and how many trips its round took.
    pub(super) fn round(&self, token: &str) -> Option<(Duration, usize)> {
        self.claims.get(token).map(|claim| (claim.began, 1 + claim.raised.len()))
    }

    /// Records a request that will arrive, even if late.
    pub(super) fn sent(&mut self, request: &Request) {
        self.link(request).under_way += 1;
    }

    /// Records that such a request has arrived, this long after it was sent, and whether its node executed
    /// it.
    pub(super) fn answered(&mut self, now: Duration, took: Duration, request: &Request, executed: bool) {
        let link = self.link(request);
        link.under_way -= 1;
        if took > IN_TIME {
            link.late = Some(now);
        }
        match &request.verb {
            Verb::Acquire(_) | Verb::AcquireFenced { .. } | Verb::Replace(..) => {
                self.entry(request).acquired = now;
            }
            Verb::Extend(_) | Verb::Raise { .. } | Verb::Annotate(_) => {}
            Verb::Release => self.entry(request).released |= executed,
        }
    }

    /// Records a token whose keys are deliberately left to expire.
    pub(super) fn abandon(&mut self, token: &str) {
        self.abandoned.insert(token.to_owned());
    }

    /// The client whose key this is, if the key should have been removed by `now`.
    ///
    /// A key may remain if the network delivered the acquire late: after the release, or when the key should
    /// have expired from the client's point of view. It may also remain if the link was bad in the last
    /// `grace`.
    pub(super) fn owner_of_leftover(
        &self,
        now: Duration,
        grace: Duration,
        token: &str,
        node: usize,
    ) -> Option<usize> {
        let claim = self.claims.get(token)?;
        let entry = self.entries.get(&(token.to_owned(), node))?;
        let link = self.links.get(&(claim.client, node))?;
        let late = entry.acquired > claim.began + IN_TIME;
        let unserved = link.under_way > 0 || link.late.is_some_and(|late| late + grace > now);
        let excused = late || entry.released || unserved || self.abandoned.contains(token);
        (!excused).then_some(claim.client)
    }

    fn link(&mut self, request: &Request) -> &mut Link {
        self.links.entry((request.client, request.node)).or_default()
    }

    fn entry(&mut self, request: &Request) -> &mut Entry {
        self.entries.entry((request.token.as_str().to_owned(), request.node)).or_default()
    }
}

/// How long a request may take until it is executed.
const IN_TIME: Duration = Duration::from_millis(100);
