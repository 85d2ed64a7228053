//! The checks of every step of a run.

use std::time::{Duration, Instant};

use redlock_core::{Lease, MemoryBackend, Resources, Runtime};

use crate::sim_runtime::SimRuntime;

/// All locks of a run, and their states.
#[derive(Debug, Default)]
pub(super) struct Checks {
    holds: Vec<Hold>,
    /// Locks that were unlocked before their minimum hold had passed.
    kept: Vec<Kept>,
    /// The keys of each node that lost its data: they count until the node is back.
    pub(super) lost: Vec<Option<LostKeys>>,
    /// How often two clients held a resource at the same instant.
    pub(super) overlaps: u64,
}

/// A lock that was acquired.
#[derive(Debug)]
struct Hold {
    client: usize,
    process: SimRuntime,
    lease: Lease,
    /// The value of its keys when they were looked at last.
    token: Option<String>,
    lapsed: Option<Duration>,
    /// Whether it is over, so that only a revival would be wrong.
    settled: bool,
    noticed: bool,
    /// Whether a routine runs under it.
    routine: bool,
    /// Whether it has been counted as an overlap.
    overlapped: bool,
}

/// A lock that nobody holds, and nobody gets yet.
#[derive(Debug)]
struct Kept {
    client: usize,
    process: SimRuntime,
    resources: Resources,
    /// By the clock of its process.
    until: Instant,
}

/// The keys that a node held when it lost its data.
#[derive(Clone, Debug)]
pub(super) struct LostKeys {
    /// Resource, value, and the true time at which it would have expired.
    pub(super) keys: Vec<(String, String, Duration)>,
}

/// Which of the checks can be made in a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// The run breaks an assumption of the lock: overlaps are only counted, and keys are not checked.
    pub(super) broken: bool,
    /// Nodes lose keys of valid locks, and a guard makes up for it.
    pub(super) guarded: bool,
    /// How long a client may take to notice a loss.
    pub(super) notice: Duration,
}

impl Checks {
    pub(super) fn new(nodes: usize) -> Self {
        Self { holds: Vec::new(), kept: Vec::new(), lost: vec![None; nodes], overlaps: 0 }
    }

    /// Records a lock, and returns its number.
    pub(super) fn won(&mut self, client: usize, process: SimRuntime, lease: Lease, routine: bool) -> usize {
        let hold = Hold {
            client,
            process,
            lease,
            token: None,
            lapsed: None,
            settled: false,
            noticed: false,
            routine,
            overlapped: false,
        };
        self.holds.push(hold);
        self.holds.len() - 1
    }

    /// Records a lock whose keys were left for this time when it was unlocked.
    pub(super) fn kept(
        &mut self,
        client: usize,
        process: SimRuntime,
        resources: Resources,
        remaining: Duration,
    ) {
        let until = process.now() + remaining;
        self.kept.push(Kept { client, process, resources, until });
    }

    pub(super) fn noticed(&mut self, hold: usize) {
        self.holds[hold].noticed = true;
    }

    pub(super) fn routine_over(&mut self, hold: usize) {
        self.holds[hold].routine = false;
    }

    /// Checks that locks that were over are still so at the end.
    pub(super) fn last_look(&self) -> Result<(), String> {
        match self
            .holds
            .iter()
            .find(|hold| hold.settled && !hold.process.is_killed() && hold.lease.is_valid())
        {
            Some(hold) => Err(format!("client {} revived a lock that had lapsed", hold.client)),
            None => Ok(()),
        }
    }

    /// Checks everything. The error is the first violation.
    pub(super) fn look(
        &mut self,
        now: Duration,
        rules: Rules,
        resumed: &[Duration],
        nodes: &[(MemoryBackend, SimRuntime)],
    ) -> Result<(), String> {
        self.lapse(now, rules, resumed)?;
        // What is over stays over: no clock goes back, and no killed process lives again.
        self.kept.retain(|kept| !kept.process.is_killed() && kept.process.now() < kept.until);
        let mut valid: Vec<usize> = Vec::new();
        for (number, hold) in self.holds.iter().enumerate() {
            if hold.lapsed.is_none() && !hold.settled {
                valid.push(number);
            }
        }
        for (position, first) in valid.iter().enumerate() {
            for second in &valid[position + 1..] {
                self.exclude(*first, *second, rules)?;
            }
            if !rules.broken {
                self.keep_out(*first)?;
            }
            if !rules.broken
                && !rules.guarded
                && let Some(token) = self.backed(now, &self.holds[*first], nodes)?
            {
                self.holds[*first].token = Some(token);
            }
        }
        Ok(())
    }

    /// Checks that a lapsed lock stays lapsed, that the client notices it, and that the routine under it
    /// stops.
    fn lapse(&mut self, now: Duration, rules: Rules, resumed: &[Duration]) -> Result<(), String> {
        for hold in self.holds.iter_mut().filter(|hold| !hold.settled) {
            if hold.process.is_killed() {
                hold.settled = true;
                continue;
            }
            let valid = hold.lease.is_valid();
            let Some(lapsed) = hold.lapsed else {
                if !valid {
                    hold.lapsed = Some(now);
                }
                continue;
            };
            let client = hold.client;
            if valid {
                return Err(format!("client {client} revived a lock that lapsed at {lapsed:?}"));
            }
            hold.settled = hold.noticed && !hold.routine;
            let since = lapsed.max(resumed[client]);
            if hold.process.is_stopped() || now <= since + rules.notice {
                continue;
            }
            if !hold.noticed {
                return Err(format!("client {client} has not noticed a loss since {since:?}"));
            }
            if hold.routine {
                return Err(format!("client {client} runs a routine whose lock was lost at {since:?}"));
            }
        }
        Ok(())
    }

    fn exclude(&mut self, first: usize, second: usize, rules: Rules) -> Result<(), String> {
        let (one, other) = (&self.holds[first], &self.holds[second]);
        let Some(name) = shared(one.lease.resources(), other.lease.resources()) else { return Ok(()) };
        if rules.broken {
            if !(one.overlapped && other.overlapped) {
                self.overlaps += 1;
            }
            self.holds[first].overlapped = true;
            self.holds[second].overlapped = true;
            return Ok(());
        }
        let left = |hold: &Hold| format!("client {} for {:?}", hold.client, hold.lease.remaining());
        Err(format!("{name:?} is held by {} and by {}", left(one), left(other)))
    }

    /// Checks that nobody has got a lock that is kept.
    fn keep_out(&self, hold: usize) -> Result<(), String> {
        let hold = &self.holds[hold];
        for kept in &self.kept {
            if let Some(name) = shared(&kept.resources, hold.lease.resources()) {
                let (client, by) = (hold.client, kept.client);
                return Err(format!("{name:?} is held by client {client}, and kept by client {by}"));
            }
        }
        Ok(())
    }

    /// Checks that a valid lock has its keys on a quorum of nodes until its validity ends. Returns their value if
    /// it is another one than last time.
    fn backed(
        &self,
        now: Duration,
        hold: &Hold,
        nodes: &[(MemoryBackend, SimRuntime)],
    ) -> Result<Option<String>, String> {
        let left = hold.process.in_true_time(hold.lease.remaining());
        let names = hold.lease.resources();
        let quorum = nodes.len() / 2 + 1;
        // Whether a node has this value at all names, for long enough.
        let has = |number: usize, node: &(MemoryBackend, SimRuntime), token: &str| {
            names.iter().all(|name| {
                self.with_key(now, number, node, name, |value, ttl| value == token && ttl >= left)
                    == Some(true)
            })
        };
        let votes = |token: &str| {
            let nodes = nodes.iter().enumerate();
            nodes.filter(|(number, node)| has(*number, node, token)).take(quorum).count()
        };
        // Almost always the value that it was last time.
        if hold.token.as_deref().is_some_and(|token| votes(token) == quorum) {
            return Ok(None);
        }
        let mut most = 0;
        let first = names.iter().next().unwrap_or_default();
        for (number, node) in nodes.iter().enumerate() {
            let token = self.with_key(now, number, node, first, |value, _| value.to_owned());
            let Some(token) = token else { continue };
            let votes = votes(&token);
            if votes == quorum {
                return Ok(Some(token));
            }
            most = most.max(votes);
        }
        let client = hold.client;
        Err(format!(
            "client {client} holds {names:?} for {left:?}, but only {most} of {} nodes do",
            nodes.len()
        ))
    }

    /// Passes the value at a name of a node and the true time until it expires to `look`. What a node lost
    /// counts until it would have expired.
    fn with_key<T>(
        &self,
        now: Duration,
        node: usize,
        (backend, clock): &(MemoryBackend, SimRuntime),
        name: &str,
        look: impl FnOnce(&str, Duration) -> T,
    ) -> Option<T> {
        match &self.lost[node] {
            None => backend.with_key(name, |value, ttl| look(value, clock.in_true_time(ttl))),
            Some(lost) => {
                let (_, value, expires) = lost.keys.iter().find(|key| key.0 == name)?;
                Some(look(value, expires.saturating_sub(now)))
            }
        }
    }
}

pub(super) fn shared<'a>(one: &'a Resources, other: &Resources) -> Option<&'a str> {
    one.iter().find(|name| other.iter().any(|other| other == *name))
}
