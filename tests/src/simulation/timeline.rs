//! What happened in a run, one line each, for a run that has to be understood.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redlock_core::{AcquireReply, ReleaseReply};

use super::network::{Answer, Request, Said, Verb};

/// Lines, when the run is told; nothing else is slowed down by it.
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
    /// One that keeps what it is told.
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
        self.link(at, request.client, request.node, || format!("{} {what}", told(request)));
    }

    pub(super) fn answer(&self, at: Duration, request: &Request, answer: &Answer) {
        self.link(at, request.client, request.node, || {
            let answer = match answer {
                Ok(Said::Reply(AcquireReply::Granted)) => "granted".to_owned(),
                Ok(Said::Reply(_)) => "refused".to_owned(),
                Ok(Said::Released(ReleaseReply::Removed)) => "removed".to_owned(),
                Ok(Said::Released(_)) => "not held".to_owned(),
                Err(error) => error.to_string(),
            };
            format!("{} answered: {answer}", told(request))
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

fn told(request: &Request) -> String {
    let (verb, ttl) = match &request.verb {
        Verb::Acquire(ttl) => ("acquire", Some(ttl)),
        Verb::Extend(ttl) => ("extend", Some(ttl)),
        Verb::Replace(_, ttl) => ("replace", Some(ttl)),
        Verb::Release => ("release", None),
    };
    let names: Vec<&str> = request.resources.iter().collect();
    let ttl = ttl.map_or(String::new(), |ttl| format!(" for {ttl:?}"));
    format!("{verb} {} {}{ttl}", names.join("+"), &request.token.as_str()[..6])
}
