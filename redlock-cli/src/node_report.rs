//! What `redlock status` reports of one node: whether it would vote, what its server is, and what endangers
//! locks there.

use std::{sync::Arc, time::Duration};

use redlock_redis_rs::{
    BackendError, BackendErrorKind, NodeOutcome, ServerClock, ServerInfo, ServerRisk, ServerRole,
};
use serde_json::{Value, json};

use crate::output::readable;

/// What was learnt about a node.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) name: String,
    /// Whether it answers.
    pub(crate) answered: Result<(), BackendError>,
    pub(crate) server: Option<Arc<ServerInfo>>,
    pub(crate) uptime: Result<Duration, BackendError>,
    pub(crate) skew: Option<Skew>,
    /// The node before it that leads to the same server.
    pub(crate) same_as: Option<String>,
}

/// By how much a server's time of day differs from the local one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Skew {
    /// In ms; positive when the server's is later.
    ahead: f64,
    /// The true one differs by so many ms at most.
    bound: f64,
}

/// One node's line.
#[derive(Clone, Debug)]
pub(crate) struct NodeReport {
    facts: Facts,
    pub(crate) vote: Vote,
    pub(crate) warnings: Vec<String>,
}

/// Whether a node would vote for a new lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    Votes,
    /// After this time.
    Later(Duration),
    /// Time helps, or the network.
    Fails(String),
    /// Only a change of the configuration helps.
    Rejected(String),
}

impl Skew {
    /// `wall` is the local time since the Unix epoch when the answer came.
    pub(crate) fn new(clock: &ServerClock, wall: Duration) -> Self {
        let half = clock.answered.saturating_duration_since(clock.asked) / 2;
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        let local = wall.saturating_sub(half);
        let ahead = match clock.since_epoch.checked_sub(local) {
            Some(ahead) => ms(ahead),
            None => -ms(local - clock.since_epoch),
        };
        Self { ahead, bound: ms(half) }
    }

    /// More than the trip explains, and more than clients tolerate.
    fn is_large(self) -> bool {
        self.ahead.abs() - self.bound > MAX_SKEW
    }
}

impl NodeReport {
    /// `max_ttl` is the longest TTL of the lock managers, if they have a guard.
    pub(crate) fn new(facts: Facts, max_ttl: Option<Duration>) -> Self {
        let vote = vote(&facts, max_ttl);
        let mut warnings = Vec::new();
        if facts.answered.is_ok() {
            let risks = facts.server.iter().flat_map(|server| server.risks());
            let risks = risks.filter(|risk| max_ttl.is_none() || *risk != ServerRisk::ForgetsAtRestart);
            warnings.extend(risks.map(|risk| risk.to_string()));
            if facts.server.as_ref().is_none_or(|server| server.role.is_none()) {
                warnings.push("it hides what it is: allow its user to call INFO".to_owned());
            }
            if facts.skew.is_some_and(Skew::is_large) {
                warnings.push("its clock and the local one differ: set them by time daemons".to_owned());
            }
        }
        Self { facts, vote, warnings }
    }

    pub(crate) fn name(&self) -> &str {
        &self.facts.name
    }

    /// Whether there is nothing to do about it.
    pub(crate) fn is_well(&self) -> bool {
        self.vote == Vote::Votes && self.warnings.is_empty()
    }

    /// One line for the node, and one for each warning.
    pub(crate) fn text(&self) -> String {
        let mut parts = Vec::new();
        if let (Ok(()), Some(server)) = (&self.facts.answered, &self.facts.server) {
            parts.extend(server.version.clone());
            parts.extend(role(server).map(ToOwned::to_owned));
            parts.extend(self.uptime().map(|uptime| format!("up {}", readable(uptime))));
            let persistent = |is| if is { "append-only file" } else { "no append-only file" };
            parts.extend(server.is_persistent.map(|is| persistent(is).to_owned()));
            parts.extend(server.eviction_policy.clone());
        }
        parts.push(self.vote.text());
        if let Some(Skew { ahead, bound }) = self.facts.skew {
            parts.push(format!("clock {ahead:+.1}ms (within {bound:.1}ms)"));
        }
        let mut text = format!("{}: {}\n", self.facts.name, parts.join(", "));
        for warning in &self.warnings {
            text.push_str(&format!("  warning: {warning}\n"));
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let server = self.facts.server.as_deref().cloned().unwrap_or_default();
        let (reason, later) = match &self.vote {
            Vote::Votes => (None, None),
            Vote::Later(left) => (Some(self.vote.text()), Some(left.as_secs_f64())),
            Vote::Fails(reason) | Vote::Rejected(reason) => (Some(reason.clone()), None),
        };
        json!({
            "name": self.facts.name,
            "reachable": self.facts.answered.is_ok(),
            "votes": self.vote == Vote::Votes,
            "no_vote_reason": reason,
            "votes_in_seconds": later,
            "version": server.version,
            "role": role(&server),
            "run_id": server.id.as_deref(),
            "uptime_seconds": self.uptime().map(|uptime| uptime.as_secs()),
            "append_only_file": server.is_persistent,
            "eviction_policy": server.eviction_policy,
            "clock_skew_ms": self.facts.skew.map(|skew| skew.ahead),
            "clock_skew_bound_ms": self.facts.skew.map(|skew| skew.bound),
            "warnings": self.warnings,
        })
    }

    fn uptime(&self) -> Option<Duration> {
        self.facts.uptime.as_ref().ok().copied()
    }
}

impl Vote {
    fn text(&self) -> String {
        match self {
            Self::Votes => "votes".to_owned(),
            Self::Later(left) => format!("votes in {}", readable(*left)),
            Self::Fails(reason) | Self::Rejected(reason) => format!("no vote: {reason}"),
        }
    }
}

fn vote(facts: &Facts, max_ttl: Option<Duration>) -> Vote {
    let failed = |error: &BackendError| {
        let reason = NodeOutcome::Failed(error.clone()).to_string();
        if error.kind() == BackendErrorKind::Rejected { Vote::Rejected(reason) } else { Vote::Fails(reason) }
    };
    match (&facts.answered, max_ttl, &facts.uptime, &facts.same_as) {
        (Err(error), ..) => failed(error),
        (_, _, _, Some(other)) => Vote::Rejected(format!("rejected: the same server as {other}")),
        (_, Some(_), Err(error), _) => failed(error),
        (_, Some(max_ttl), Ok(uptime), _) if *uptime < max_ttl => Vote::Later(max_ttl - *uptime),
        _ => Vote::Votes,
    }
}

fn role(server: &ServerInfo) -> Option<&'static str> {
    Some(match (server.role?, server.was_promoted) {
        (ServerRole::Primary, Some(true)) => "promoted replica",
        (ServerRole::Primary, _) => "primary",
        _ => "replica",
    })
}

/// In ms: clients propose fencing tokens by their clocks, and a node accepts a second more than its own.
const MAX_SKEW: f64 = 1_000.0;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const MAX_TTL: Duration = Duration::from_secs(30);

    fn error(kind: BackendErrorKind) -> BackendError {
        BackendError::new(kind, "no")
    }

    fn facts() -> Facts {
        let mut server = ServerInfo::default();
        server.version = Some("redis 7.0.15".to_owned());
        server.role = Some(ServerRole::Primary);
        server.was_promoted = Some(false);
        server.eviction_policy = Some("noeviction".to_owned());
        server.is_persistent = Some(true);
        Facts {
            name: "a:6379".to_owned(),
            answered: Ok(()),
            server: Some(Arc::new(server)),
            uptime: Ok(Duration::from_secs(3_600)),
            skew: Some(Skew { ahead: -1.25, bound: 0.5 }),
            same_as: None,
        }
    }

    fn with(change: impl FnOnce(&mut Facts, &mut ServerInfo)) -> Facts {
        let mut facts = facts();
        let mut server = facts.server.take().as_deref().cloned().unwrap_or_default();
        change(&mut facts, &mut server);
        Facts { server: Some(Arc::new(server)), ..facts }
    }

    #[test]
    fn a_node_has_one_line_and_one_for_each_warning() {
        let report = NodeReport::new(facts(), None);
        let expected = "a:6379: redis 7.0.15, primary, up 1h, append-only file, noeviction, votes, clock -1.2ms \
                        (within 0.5ms)\n";
        assert_eq!(report.text(), expected);
        assert!(report.is_well());
        let promoted = with(|_, server| {
            server.was_promoted = Some(true);
            server.is_persistent = Some(false);
        });
        let report = NodeReport::new(promoted, None);
        assert_eq!((report.text().lines().count(), report.warnings.len()), (3, 2), "{}", report.text());
        assert!(report.text().contains(", promoted replica, ") && !report.is_well());
    }

    #[test]
    fn a_node_votes_unless_it_fails_shares_its_server_or_is_within_its_guard() {
        use BackendErrorKind::{Indeterminate, Rejected};

        let young = with(|facts, _| facts.uptime = Ok(MAX_TTL - Duration::from_secs(12)));
        assert_eq!(vote(&young, Some(MAX_TTL)), Vote::Later(Duration::from_secs(12)));
        assert_eq!(vote(&young, None), Vote::Votes);
        let old = with(|facts, _| facts.uptime = Ok(MAX_TTL));
        assert_eq!(vote(&old, Some(MAX_TTL)), Vote::Votes);
        let hidden = with(|facts, _| facts.uptime = Err(error(Rejected)));
        assert_eq!(vote(&hidden, Some(MAX_TTL)), Vote::Rejected("rejected: no".to_owned()));
        assert_eq!(vote(&hidden, None), Vote::Votes);
        let down = with(|facts, _| facts.answered = Err(error(Indeterminate)));
        assert_eq!(vote(&down, None), Vote::Fails("indeterminate: no".to_owned()));
        let same = with(|facts, _| facts.same_as = Some("b".to_owned()));
        assert_eq!(vote(&same, Some(MAX_TTL)), Vote::Rejected("rejected: the same server as b".to_owned()));
    }

    #[test]
    fn with_a_guard_a_node_may_forget_and_one_that_hides_what_it_is_gets_a_warning() {
        let forgets = with(|_, server| server.is_persistent = Some(false));
        assert_eq!(NodeReport::new(forgets.clone(), None).warnings.len(), 1);
        assert!(NodeReport::new(forgets, Some(MAX_TTL)).is_well());
        let hides = Facts { server: None, ..facts() };
        assert_eq!(NodeReport::new(hides, None).warnings.len(), 1);
        let down = Facts { answered: Err(error(BackendErrorKind::Indeterminate)), server: None, ..facts() };
        assert_eq!(NodeReport::new(down, None).warnings, [""; 0], "its failure says it all");
    }

    #[test]
    fn a_skew_is_known_within_half_a_trip() {
        let asked = Instant::now();
        let answered = asked + Duration::from_millis(20);
        let skew = |since_epoch, wall| {
            let clock = ServerClock::new(Duration::from_millis(since_epoch), asked, answered);
            Skew::new(&clock, Duration::from_millis(wall))
        };
        assert_eq!(skew(50_000, 50_010), Skew { ahead: 0.0, bound: 10.0 });
        assert_eq!(skew(50_250, 50_010), Skew { ahead: 250.0, bound: 10.0 });
        assert_eq!(skew(49_000, 50_010), Skew { ahead: -1_000.0, bound: 10.0 });
        assert!(!skew(49_000, 50_010).is_large() && skew(48_989, 50_010).is_large());
        assert!(skew(51_011, 50_010).is_large());
    }

    #[test]
    fn the_json_has_the_same_facts() {
        let young = with(|facts, _| facts.uptime = Ok(MAX_TTL - Duration::from_secs(12)));
        let json = NodeReport::new(young, Some(MAX_TTL)).json();
        assert_eq!(json["votes"], false);
        assert_eq!(json["votes_in_seconds"], 12.0);
        assert_eq!(json["uptime_seconds"], 18);
        assert_eq!((&json["role"], &json["version"]), (&json!("primary"), &json!("redis 7.0.15")));
        assert_eq!((&json["warnings"], &json["clock_skew_ms"]), (&json!([]), &json!(-1.25)));
    }
}
