//! `redlock status`: what the nodes are, and who holds which key, according to them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use redlock_redis_rs::{
    BackendError, BackendErrorKind, Inspect, KeyState, LockBackend, NodeOutcome, RedisBackend, Resources,
};
use serde_json::{Value, json};

use crate::{
    arguments::Status,
    exit::{Failure, NO_QUORUM, REJECTED, SUCCESS, TAKEN, UNDECIDED, WARNED},
    node_report::{Facts, NodeReport, Skew, Vote},
    nodes,
    output::{self, readable},
};

/// What a node answers.
struct Answer {
    /// Whether it answers at all.
    node: Result<(), BackendError>,
    /// About each resource.
    keys: Vec<Result<KeyState, BackendError>>,
}

/// Prints what the nodes answer. Returns the exit code.
pub(crate) async fn status(arguments: &Status) -> Result<u8, Failure> {
    let nodes = nodes::open(&arguments.nodes)?;
    let resources: Resources = arguments.resources.iter().collect();
    let answers = join_all(nodes.iter().map(|node| ask(node, &resources, arguments.timeout))).await;
    let report = Report::new(&nodes, answers, &resources, arguments);
    output::print(&if arguments.json { format!("{:#}\n", report.json()) } else { report.text() });
    Ok(report.code)
}

/// All that is printed.
struct Report {
    nodes: Vec<NodeReport>,
    resources: Vec<ResourceReport>,
    code: u8,
}

struct ResourceReport {
    name: String,
    /// By node.
    states: Vec<Result<KeyState, BackendError>>,
    verdict: Verdict,
}

impl Report {
    fn new(
        nodes: &[RedisBackend],
        mut answers: Vec<Answer>,
        resources: &Resources,
        arguments: &Status,
    ) -> Self {
        let shared = count_each_server_once(nodes, &mut answers);
        let facts = nodes.iter().zip(&answers).zip(shared).map(|((node, answer), same_as)| {
            let server = node.server();
            let skew = server.as_ref().and_then(|server| server.clock.as_ref()).map(|clock| {
                let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Skew::new(clock, wall.saturating_sub(Instant::now() - clock.answered))
            });
            let (name, answered) = (node.name().unwrap_or_default().to_owned(), answer.node.clone());
            Facts { name, answered, server, uptime: node.uptime(), skew, same_as }
        });
        let nodes: Vec<_> = facts.map(|facts| NodeReport::new(facts, arguments.max_ttl)).collect();
        let of_resource = |(position, name): (usize, &str)| {
            let states: Vec<_> = answers.iter().map(|answer| answer.keys[position].clone()).collect();
            let verdict = Verdict::new(&states.iter().map(Result::as_ref).collect::<Vec<_>>());
            ResourceReport { name: name.to_owned(), states, verdict }
        };
        let resources: Vec<_> = resources.iter().enumerate().map(of_resource).collect();
        let verdicts = resources.iter().map(|resource| resource.verdict.code());
        let code = verdicts.fold(code_of(&nodes, arguments.strict), u8::max);
        Self { nodes, resources, code }
    }

    fn text(&self) -> String {
        let mut text: String = self.nodes.iter().map(NodeReport::text).collect();
        for ResourceReport { name, states, verdict } in &self.resources {
            text.push_str(&format!("{name:?}: {}\n", verdict.text(self.nodes.len())));
            for (node, state) in self.nodes.iter().zip(states) {
                text.push_str(&format!("  {}: {}\n", node.name(), described(&state.as_ref())));
            }
        }
        text.push_str("(the nodes have just answered this: it may have changed since)\n");
        text
    }

    fn json(&self) -> Value {
        json!({
            "exit_code": self.code,
            "quorum": quorum(self.nodes.len()),
            "voting": self.nodes.iter().filter(|node| node.vote == Vote::Votes).count(),
            "nodes": self.nodes.iter().map(NodeReport::json).collect::<Vec<_>>(),
            "resources": self.resources.iter().map(|resource| resource.json(&self.nodes)).collect::<Vec<_>>(),
        })
    }
}

impl ResourceReport {
    fn json(&self, nodes: &[NodeReport]) -> Value {
        let (state, holder, note) = match &self.verdict {
            Verdict::Free => ("free", None, None),
            Verdict::Held { holder, note, .. } => ("held", Some(holder), note.as_ref()),
            Verdict::Undecided { .. } => ("undecided", None, None),
            Verdict::NoQuorum { .. } => ("no_quorum", None, None),
            Verdict::Rejected => ("rejected", None, None),
        };
        let of_node = |(node, key): (&NodeReport, &Result<KeyState, BackendError>)| match key {
            Ok(KeyState::Held { holder, remaining, note, .. }) => {
                let left = remaining.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
                let node = node.name();
                json!({ "node": node, "state": "held", "holder": holder, "remaining_ms": left, "note": note })
            }
            Ok(_) => json!({ "node": node.name(), "state": "free" }),
            Err(_) => json!({ "node": node.name(), "state": "unknown", "error": described(&key.as_ref()) }),
        };
        let keys: Vec<_> = nodes.iter().zip(&self.states).map(of_node).collect();
        json!({ "name": self.name, "state": state, "holder": holder, "note": note, "nodes": keys })
    }
}

/// The exit code for the nodes alone.
fn code_of(nodes: &[NodeReport], is_strict: bool) -> u8 {
    let quorum = quorum(nodes.len());
    let number = |is: fn(&Vote) -> bool| nodes.iter().filter(|node| is(&node.vote)).count();
    if number(|vote| matches!(vote, Vote::Rejected(_))) > nodes.len() - quorum {
        REJECTED
    } else if number(|vote| *vote == Vote::Votes) < quorum {
        NO_QUORUM
    } else if is_strict && !nodes.iter().all(NodeReport::is_well) {
        WARNED
    } else {
        SUCCESS
    }
}

fn quorum(nodes: usize) -> usize {
    nodes / 2 + 1
}

/// As for a lock: of several nodes that lead to one server, the first counts. Returns it for the others.
fn count_each_server_once(nodes: &[RedisBackend], answers: &mut [Answer]) -> Vec<Option<String>> {
    let mut servers: BTreeMap<Arc<str>, String> = BTreeMap::new();
    let shared = nodes.iter().zip(answers).map(|(node, answer)| {
        let server = node.server().and_then(|server| server.id.clone());
        let server = server.filter(|_| answer.node.is_ok())?;
        let other = servers.get(&server).cloned();
        match &other {
            Some(other) => {
                let message = format!("the same server as {other}");
                answer.keys.fill(Err(BackendError::new(BackendErrorKind::Rejected, message)));
            }
            None => drop(servers.insert(server, node.name().unwrap_or_default().to_owned())),
        }
        other
    });
    shared.collect()
}

/// First whether the node answers. Then all resources at once; when that is rejected, each by itself, as
/// one of the keys may have another type.
async fn ask(node: &RedisBackend, resources: &Resources, timeout: Duration) -> Answer {
    let number = resources.iter().count();
    let none: [&str; 0] = [];
    if let Err(error) = inspect(node, Inspect::new(&Resources::from(&none), timeout)).await {
        return Answer { node: Err(error.clone()), keys: vec![Err(error); number] };
    }
    if number == 0 {
        return Answer { node: Ok(()), keys: Vec::new() };
    }
    let keys = match inspect_all(node, resources, timeout).await {
        Ok(states) => states.into_iter().map(Ok).collect(),
        Err(error) if error.kind() == BackendErrorKind::Rejected && number > 1 => {
            let one = async |resource: &str| {
                let states = inspect_all(node, &resource.into(), timeout).await?;
                Ok(states.into_iter().next().unwrap_or(KeyState::Free))
            };
            join_all(resources.iter().map(one)).await
        }
        Err(error) => vec![Err(error); number],
    };
    Answer { node: Ok(()), keys }
}

/// With the notes, unless the user may not read them.
async fn inspect_all(
    node: &RedisBackend,
    resources: &Resources,
    timeout: Duration,
) -> Result<Vec<KeyState>, BackendError> {
    let request = Inspect::new(resources, timeout);
    match inspect(node, request.with_notes()).await {
        Err(error) if error.kind() == BackendErrorKind::Rejected => inspect(node, request).await,
        states => states,
    }
}

async fn inspect(node: &RedisBackend, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
    let (answer, timeout) = (node.inspect(request), request.timeout);
    tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| Err(BackendError::timed_out(timeout)))
}

fn described(state: &Result<&KeyState, &BackendError>) -> String {
    match state {
        Ok(KeyState::Held { holder, remaining: Some(left), note, .. }) => {
            format!("held by {} for another {}", named(holder, note.as_deref()), readable(*left))
        }
        Ok(KeyState::Held { holder, remaining: None, note, .. }) => {
            format!("held by {} without an expiry: not a lock", named(holder, note.as_deref()))
        }
        Ok(_) => "free".to_owned(),
        Err(error) => NodeOutcome::Failed((*error).clone()).to_string(),
    }
}

/// A holder, with its note.
fn named(holder: &str, note: Option<&str>) -> String {
    let note = note.map_or_else(String::new, |note| format!(" ({note})"));
    format!("{holder}...{note}")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Free,
    /// The note is that of the first node that has one of this holder.
    Held {
        holder: String,
        note: Option<String>,
        nodes: usize,
    },
    Undecided {
        answered: usize,
    },
    NoQuorum {
        answered: usize,
    },
    Rejected,
}

impl Verdict {
    fn new(states: &[Result<&KeyState, &BackendError>]) -> Self {
        let quorum = quorum(states.len());
        let answered = states.iter().filter(|state| state.is_ok()).count();
        let rejected = |state: &&Result<_, &BackendError>| matches!(state, Err(error) if error.kind() == BackendErrorKind::Rejected);
        if states.iter().filter(rejected).count() > states.len() - quorum {
            return Self::Rejected;
        }
        if answered < quorum {
            return Self::NoQuorum { answered };
        }
        let mut holders: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        for state in states.iter().flatten() {
            let holder = match state {
                KeyState::Held { holder, .. } => Some(holder.as_str()),
                _ => None,
            };
            *holders.entry(holder).or_default() += 1;
        }
        match holders.into_iter().find(|(_, nodes)| *nodes >= quorum) {
            Some((Some(of_most), nodes)) => {
                let note = states.iter().flatten().find_map(|state| match state {
                    KeyState::Held { holder, note, .. } if holder == of_most => note.clone(),
                    _ => None,
                });
                Self::Held { holder: of_most.to_owned(), note, nodes }
            }
            Some((None, _)) => Self::Free,
            None => Self::Undecided { answered },
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Free => SUCCESS,
            Self::Held { .. } => TAKEN,
            Self::Undecided { .. } => UNDECIDED,
            Self::NoQuorum { .. } => NO_QUORUM,
            Self::Rejected => REJECTED,
        }
    }

    fn text(&self, all: usize) -> String {
        match self {
            Self::Free => "free".to_owned(),
            Self::Held { holder, note, nodes } => {
                format!("held by {} on {nodes} of {all} nodes", named(holder, note.as_deref()))
            }
            Self::Undecided { answered } => {
                format!("undecided: {answered} of {all} nodes answered, and no majority says the same")
            }
            Self::NoQuorum { answered } => format!("no quorum: {answered} of {all} nodes answered"),
            Self::Rejected => "rejected: fix the configuration".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_a_majority_of_all_nodes() {
        let (free, a, b) = (KeyState::Free, KeyState::held(b"aaaaaaaaaa", None), KeyState::held(b"bb", None));
        let down = BackendError::timed_out(Duration::from_secs(1));
        let rejects = BackendError::new(BackendErrorKind::Rejected, "no");
        let noted = |note: Option<&str>, nodes| Verdict::Held {
            holder: "aaaaaaaa".to_owned(),
            note: note.map(str::to_owned),
            nodes,
        };
        let held = |nodes| noted(None, nodes);
        let (with_note, other) = (a.clone().with_note(b"who"), b.clone().with_note(b"other"));
        for (states, expected) in [
            (vec![Ok(&free), Ok(&free), Ok(&a)], Verdict::Free),
            (vec![Ok(&a), Err(&down), Ok(&a)], held(2)),
            (vec![Ok(&a), Ok(&a), Ok(&a)], held(3)),
            (vec![Ok(&other), Ok(&a), Ok(&with_note)], noted(Some("who"), 2)),
            (vec![Ok(&a), Ok(&b), Ok(&free)], Verdict::Undecided { answered: 3 }),
            (vec![Ok(&a), Err(&down), Ok(&free)], Verdict::Undecided { answered: 2 }),
            (vec![Ok(&a), Ok(&a), Ok(&b), Ok(&b)], Verdict::Undecided { answered: 4 }),
            (vec![Ok(&a), Err(&down), Err(&rejects)], Verdict::NoQuorum { answered: 1 }),
            (vec![Ok(&a), Err(&rejects), Err(&rejects)], Verdict::Rejected),
        ] {
            assert_eq!(Verdict::new(&states), expected, "{states:?}");
        }
    }
}
