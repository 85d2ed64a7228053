//! `redlock status`: who holds which key, according to the nodes.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use redlock_redis_rs::{
    BackendError, BackendErrorKind, Inspect, KeyState, LockBackend, NodeOutcome, RedisBackend, Resources,
};

use crate::{
    arguments::Status,
    exit::{Failure, NO_QUORUM, REJECTED, SUCCESS, TAKEN, UNDECIDED},
    nodes,
    output::{self, readable},
};

/// What a node answers about each resource.
type Answers = Vec<Result<KeyState, BackendError>>;

/// Prints what the nodes answer. Returns the exit code.
pub(crate) async fn status(arguments: &Status) -> Result<u8, Failure> {
    let nodes = nodes::open(&arguments.nodes)?;
    let resources: Resources = arguments.resources.iter().collect();
    let mut answers = join_all(nodes.iter().map(|node| ask(node, &resources, arguments.timeout))).await;
    count_each_server_once(&nodes, &mut answers);

    let names: Vec<&str> = nodes.iter().map(|node| node.name().unwrap_or_default()).collect();
    let mut text = String::new();
    let mut code = SUCCESS;
    for (position, resource) in resources.iter().enumerate() {
        let states: Vec<Result<&KeyState, &BackendError>> = answers
            .iter()
            .map(|answers| answers.get(position).map_or(Ok(&KeyState::Free), Result::as_ref))
            .collect();
        let verdict = Verdict::new(&states);
        code = code.max(verdict.code());
        text.push_str(&format!("{resource:?}: {}\n", verdict.text(nodes.len())));
        for (name, state) in names.iter().zip(&states) {
            text.push_str(&format!("  {name}: {}\n", described(state)));
        }
    }
    text.push_str("(the nodes have just answered this: it may have changed since)\n");
    output::print(&text);
    Ok(code)
}

/// As for a lock: of several nodes that lead to one server, the first counts.
fn count_each_server_once(nodes: &[RedisBackend], answers: &mut [Answers]) {
    let mut servers = BTreeMap::new();
    for (node, answers) in nodes.iter().zip(answers) {
        let Some(server) =
            node.server().and_then(|server| server.id.clone()).filter(|_| answers.iter().any(Result::is_ok))
        else {
            continue;
        };
        if let Some(other) = servers.get(&server) {
            let error = BackendError::new(BackendErrorKind::Rejected, format!("the same server as {other}"));
            answers.fill(Err(error));
        } else {
            servers.insert(server, node.name().unwrap_or_default());
        }
    }
}

/// All resources at once. When that is rejected, each by itself, as one of the keys may have another type.
async fn ask(node: &RedisBackend, resources: &Resources, timeout: Duration) -> Answers {
    match inspect(node, resources, timeout).await {
        Ok(states) => states.into_iter().map(Ok).collect(),
        Err(error) if error.kind() == BackendErrorKind::Rejected && resources.iter().count() > 1 => {
            let one = async |resource: &str| {
                let states = inspect(node, &resource.into(), timeout).await?;
                Ok(states.into_iter().next().unwrap_or(KeyState::Free))
            };
            join_all(resources.iter().map(one)).await
        }
        Err(error) => vec![Err(error); resources.iter().count()],
    }
}

async fn inspect(
    node: &RedisBackend,
    resources: &Resources,
    timeout: Duration,
) -> Result<Vec<KeyState>, BackendError> {
    let answer = node.inspect(Inspect::new(resources, timeout));
    tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| Err(BackendError::timed_out(timeout)))
}

fn described(state: &Result<&KeyState, &BackendError>) -> String {
    match state {
        Ok(KeyState::Held { holder, remaining: Some(left), .. }) => {
            format!("held by {holder}... for another {}", readable(*left))
        }
        Ok(KeyState::Held { holder, remaining: None, .. }) => {
            format!("held by {holder}... without an expiry: not a lock")
        }
        Ok(_) => "free".to_owned(),
        Err(error) => NodeOutcome::Failed((*error).clone()).to_string(),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Free,
    Held { holder: String, nodes: usize },
    Undecided { answered: usize },
    NoQuorum { answered: usize },
    Rejected,
}

impl Verdict {
    fn new(states: &[Result<&KeyState, &BackendError>]) -> Self {
        let quorum = states.len() / 2 + 1;
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
            Some((Some(holder), nodes)) => Self::Held { holder: holder.to_owned(), nodes },
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
            Self::Held { holder, nodes } => format!("held by {holder}... on {nodes} of {all} nodes"),
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
        let held = |nodes| Verdict::Held { holder: "aaaaaaaa".to_owned(), nodes };
        for (states, expected) in [
            (vec![Ok(&free), Ok(&free), Ok(&a)], Verdict::Free),
            (vec![Ok(&a), Err(&down), Ok(&a)], held(2)),
            (vec![Ok(&a), Ok(&a), Ok(&a)], held(3)),
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
