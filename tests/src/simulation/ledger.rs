//! What has reached which nodes: whose keys may still be there when their clients are done.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::network::{Request, Verb};

#[derive(Debug, Default)]
pub(super) struct Ledger {
    claims: BTreeMap<String, Claim>,
    /// By token and node.
    entries: BTreeMap<(String, usize), Entry>,
    /// Tokens whose holders left their keys to the ttl.
    abandoned: BTreeSet<String>,
}

/// What a client asks for with one token.
#[derive(Debug)]
struct Claim {
    client: usize,
    began: Duration,
}

/// What one node has of a claim.
#[derive(Debug, Default)]
struct Entry {
    /// When it last carried out an acquire.
    acquired: Duration,
    /// How many releases will still arrive.
    releases_under_way: u32,
    released: bool,
}

impl Ledger {
    /// Notes a request that will arrive, if late.
    pub(super) fn sent(&mut self, now: Duration, request: &Request) {
        let token = request.token.as_str();
        if !self.claims.contains_key(token) {
            self.claims.insert(token.to_owned(), Claim { client: request.client, began: now });
        }
        if let Verb::Release = request.verb {
            self.entry(request).releases_under_way += 1;
        }
    }

    /// Notes that a request which would arrive has done so, and whether its node carried it out.
    pub(super) fn answered(&mut self, now: Duration, request: &Request, executed: bool) {
        match request.verb {
            Verb::Acquire(_) => self.entry(request).acquired = now,
            Verb::Extend(_) => {}
            Verb::Release => {
                let entry = self.entry(request);
                entry.releases_under_way -= 1;
                entry.released |= executed;
            }
        }
    }

    /// Notes a token whose keys are left to the ttl on purpose.
    pub(super) fn abandon(&mut self, token: &str) {
        self.abandoned.insert(token.to_owned());
    }

    /// The client whose key this is, when it ought to have been removed by now.
    ///
    /// It need not have been when the network brought the acquire late: after the release, or when the client may
    /// take the key for expired. Nor when it has not brought the release yet.
    pub(super) fn owner_of_leftover(&self, token: &str, node: usize) -> Option<usize> {
        let claim = self.claims.get(token)?;
        let entry = self.entries.get(&(token.to_owned(), node))?;
        let late = entry.acquired > claim.began + IN_TIME;
        let excused = late || entry.released || entry.releases_under_way > 0 || self.abandoned.contains(token);
        (!excused).then_some(claim.client)
    }

    fn entry(&mut self, request: &Request) -> &mut Entry {
        self.entries.entry((request.token.as_str().to_owned(), request.node)).or_default()
    }
}

/// What a request may take to be carried out.
const IN_TIME: Duration = Duration::from_millis(100);
