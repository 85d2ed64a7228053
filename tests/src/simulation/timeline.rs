//! The events of a run, one line each, to understand a run.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redlock_core::{AcquireReply, FencedReply, ReleaseReply};

use super::network::{Answer, Reply, Request, Verb};

/// Lines, if the events are recorded; otherwise it costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Timeline(Option<Arc<Mutex<Vec<Line>>>>);

/// One event.
#[derive(Clone, Debug)]
pub struct Line {
    at: Duration,
    client: Option<usize>,
    node: Option<usize>,
    text: String,
}

impl Timeline {
    /// A timeline that records the events.
    #[must_use]
    pub fn kept() -> Self {
        Self(Some(Arc::default()))
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let lines = self.0.as_ref().map(|lines| lines.lock().unwrap_or_else(PoisonError::into_inner).clone());
        lines.unwrap_or_default()
    }

    pub(super) fn client(&self, at: Duration, client: usize, text: impl FnOnce() -> String) {
        self.add(|| Line { at, client: Some(client), node: None, text: text() });
    }

    pub(super) fn node(&self, at: Duration, node: usize, text: impl FnOnce() -> String) {
        self.add(|| Line { at, client: None, node: Some(node), text: text() });
    }

    pub(super) fn link(&self, at: Duration, client: usize, node: usize, text: impl FnOnce() -> String) {
        self.add(|| Line { at, client: Some(client), node: Some(node), text: text() });
    }

    pub(super) fn request(&self, at: Duration, request: &Request, what: &str) {
        self.link(at, request.client, request.node, || format!("{} {what}", describe(request)));
    }

    pub(super) fn answer(&self, at: Duration, request: &Request, answer: &Answer) {
        self.link(at, request.client, request.node, || {
            let answer = match answer {
                Ok(Reply::Acquired(AcquireReply::Granted)) => "granted".to_owned(),
                Ok(Reply::Fenced(FencedReply::Granted { counter })) => format!("granted, {counter}"),
                Ok(Reply::Acquired(_) | Reply::Fenced(_)) => "refused".to_owned(),
                Ok(Reply::Released(ReleaseReply::Removed)) => "removed".to_owned(),
                Ok(Reply::Released(_)) => "not held".to_owned(),
                Ok(Reply::Annotated) => "done".to_owned(),
                Err(error) => error.to_string(),
            };
            format!("{} answered: {answer}", describe(request))
        });
    }

    fn add(&self, line: impl FnOnce() -> Line) {
        if let Some(lines) = &self.0 {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line());
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |name: &str, number: Option<usize>| {
            number.map_or(String::new(), |number| format!("{name} {number}"))
        };
        let millis = self.at.as_secs_f64() * 1_000.0;
        let (client, node) = (who("client", self.client), who("node", self.node));
        write!(f, "{millis:>12.3} ms  {client:<9} {node:<7} {}", self.text)
    }
}

fn describe(request: &Request) -> String {
    let (verb, ttl) = match &request.verb {
        Verb::Acquire(ttl) => ("acquire", Some(ttl)),
        Verb::AcquireFenced { ttl, .. } => ("acquire, fenced,", Some(ttl)),
        Verb::Extend(ttl) => ("extend", Some(ttl)),
        Verb::Raise { ttl, .. } => ("raise", ttl.as_ref()),
        Verb::Replace(_, ttl) => ("replace", Some(ttl)),
        Verb::Release => ("release", None),
        Verb::Annotate(Some(_)) => ("note", None),
        Verb::Annotate(None) => ("remove note", None),
    };
    let names: Vec<&str> = request.resources.iter().collect();
    let duration = ttl.map_or(String::new(), |ttl| format!(" for {ttl:?}"));
    let number = match request.verb {
        Verb::AcquireFenced { proposal, .. } => format!(", at least {proposal}"),
        Verb::Raise { fence, .. } => format!(" to {fence}"),
        _ => String::new(),
    };
    format!("{verb} {} {}{duration}{number}", names.join("+"), &request.token.as_str()[..6])
}
