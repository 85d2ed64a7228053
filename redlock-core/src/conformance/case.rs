//! One check under way: its holders, their requests and the replies, and the keys to remove in the end.

// Tests: conformance/tests.rs.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};

use super::{
    suite::{LATE_SHARE, RECOVERY, Suite, TOO_SLOW},
    verdict::{Clause, Outcome, Verdict, Violation},
};
use crate::{
    backend::{
        Acquire, AcquireReply, Annotate, BackendError, Extend, LockBackend, Release, ReleaseReply, Replace,
    },
    inspect::{Inspect, KeyState},
    resources::Resources,
    token::Token,
    watch::Watch,
};

mod fenced;
mod noted;

#[derive(Clone)]
pub(super) struct Case<'k> {
    pub(super) suite: &'k Suite<'k>,
    clause: Clause,
    check: &'static str,
    number: u64,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    /// Each request, and its reply, if there was one.
    steps: Vec<(String, Option<String>)>,
    /// The tokens that may be stored, and at which keys.
    claims: Vec<(Resources, Token)>,
    /// Those whose notes may be stored.
    noted: Vec<(Resources, Token)>,
    holders: u32,
}

impl<'k> Case<'k> {
    pub(super) fn new(suite: &'k Suite<'k>, clause: Clause, check: &'static str, number: u64) -> Self {
        Self { suite, clause, check, number, log: Arc::default() }
    }

    /// A name of this case. All names of a run have the same hash tag, so a Cluster keeps them on one server.
    pub(super) fn name(&self, label: &str) -> String {
        format!("{}{label}", self.prefix())
    }

    fn prefix(&self) -> String {
        format!("{{conformance-{:016x}}}:{}:", self.suite.run, self.number)
    }

    /// A client with a token of its own.
    pub(super) fn holder(&self) -> Holder<'k> {
        let mut log = self.log();
        let letter = char::from(b'A' + (log.holders % 26) as u8);
        log.holders += 1;
        let (holders, run) = (log.holders, self.suite.run);
        drop(log);
        let token = format!("{:04x}{holders:04x}{run:016x}{run:016x}", self.number);
        self.holder_with(letter, &token)
    }

    pub(super) fn holders<const N: usize>(&self) -> [Holder<'k>; N] {
        std::array::from_fn(|_| self.holder())
    }

    pub(super) fn holder_with(&self, letter: char, token: &str) -> Holder<'k> {
        let token = token.parse().expect("hex digits that are made here");
        let timeout = self.suite.timeout;
        Holder {
            case: self.clone(),
            backend: self.suite.backend,
            letter,
            token,
            timeout,
            eager: false,
            quiet: false,
        }
    }

    pub(super) fn violation(&self, expected: impl Into<String>, seen: impl Into<String>) -> Violation {
        self.violation_of(self.clause, expected, seen)
    }

    pub(super) fn violation_of(
        &self,
        clause: Clause,
        expected: impl Into<String>,
        seen: impl Into<String>,
    ) -> Violation {
        let log = self.log();
        let shown = &log.steps[log.steps.len().saturating_sub(STEPS)..];
        let step = |(asked, answered): &(String, Option<String>)| {
            format!("{asked}: {}", answered.as_deref().unwrap_or("dropped"))
        };
        let steps = shown.iter().map(step).collect();
        Violation { clause, check: self.check, steps, expected: expected.into(), seen: seen.into() }
    }

    /// Records a step that is not a request.
    pub(super) fn note(&self, done: &str) {
        self.log().steps.push((done.to_owned(), Some("done".to_owned())));
    }

    pub(super) fn now(&self) -> Instant {
        self.suite.runtime.now()
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        self.suite.runtime.sleep(duration).await;
    }

    /// Checks that the key is free: another client can take and release it.
    pub(super) async fn must_be_free(&self, name: &str) -> Result<(), Violation> {
        let stranger = self.holder();
        stranger.acquire(name, LONG).await.must(AcquireReply::Granted)?;
        stranger.release(name).await.must(ReleaseReply::Removed)
    }

    /// Watches a key until it is gone, which has to happen when it expires.
    pub(super) async fn watch(&self, name: &str, life: Life) -> Outcome {
        let stranger = self.holder().quiet();
        let start = self.now();
        let mut last_there = start;
        loop {
            let probe = stranger.acquire(name, LONG).await;
            if probe.answer.as_ref().is_some_and(|answer| answer == &Ok(AcquireReply::Granted)) {
                stranger.release(name).await.must(ReleaseReply::Removed)?;
                if probe.answered < life.earliest {
                    let early = life.earliest - probe.answered;
                    let expected = format!("{} is there for its whole TTL", self.shown(&name.into()));
                    return Err(self.violation(expected, format!("free {early:?} before its time")));
                }
                let unseen = life.earliest.saturating_duration_since(last_there);
                return Ok(if unseen > life.ttl / UNSEEN_SHARE { TOO_SLOW } else { Verdict::Passed });
            }
            probe.must(AcquireReply::Refused)?;
            if probe.asked > life.latest {
                let late = probe.asked - life.latest;
                let expected = format!("{} is free after its TTL", self.shown(&name.into()));
                let seen =
                    format!("still there, {late:?} longer than the {:?} of grace", life.ttl / LATE_SHARE);
                return Err(self.violation(expected, seen));
            }
            last_there = probe.asked;
            self.sleep((life.ttl / PROBES).max(Duration::from_millis(1))).await;
        }
    }

    /// Waits until the backend works again, and returns how many requests that took.
    pub(super) async fn recovered(&self) -> Result<u64, Violation> {
        let (name, stranger) = (self.name("recovery"), self.holder().within(Duration::from_secs(1)));
        let start = self.now();
        for requests in 1.. {
            let seen = stranger.acquire(&name, LONG).await;
            if seen.answer.as_ref().is_some_and(Result::is_ok) {
                seen.must(AcquireReply::Granted)?;
                stranger.release(&name).await.must(ReleaseReply::Removed)?;
                return Ok(requests + 1);
            }
            if self.now() - start > RECOVERY {
                let expected = format!("works again within {RECOVERY:?} after the node does");
                return Err(self.violation_of(Clause::BoundedByTimeout, expected, seen.outcome()));
            }
            self.sleep(Duration::from_millis(50)).await;
        }
        Ok(0)
    }

    /// Removes the keys and notes that may be left. Errors do not matter here.
    pub(super) async fn clean_up(&self) {
        let noted = std::mem::take(&mut self.log().noted);
        for (resources, token) in noted {
            let remove = Annotate::new(&resources, &token, None, self.suite.timeout);
            let cut_off = self.suite.runtime.sleep(self.suite.timeout + self.suite.slack);
            let _ = select(self.suite.backend.annotate(remove), cut_off).await;
        }
        let claims = std::mem::take(&mut self.log().claims);
        for (resources, token) in claims {
            let release = Release::new(&resources, &token, self.suite.timeout);
            let cut_off = self.suite.runtime.sleep(self.suite.timeout + self.suite.slack);
            let _ = select(self.suite.backend.release(release), cut_off).await;
        }
    }

    fn claim(&self, resources: &Resources, token: &Token) {
        let mut log = self.log();
        if !log.claims.iter().any(|(there, by)| there == resources && by == token) {
            log.claims.push((resources.clone(), token.clone()));
        }
    }

    fn shown(&self, resources: &Resources) -> String {
        let prefix = self.prefix();
        let name = |name: &str| {
            let name = format!("{:?}", name.replace(&prefix, ""));
            let short: String = name.chars().take(SHOWN).collect();
            if short == name { name } else { format!("{short}…") }
        };
        let names: Vec<_> = resources.iter().take(3).map(name).collect();
        match resources.iter().len() - names.len() {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that sends requests, with one token.
#[derive(Clone)]
pub(super) struct Holder<'k> {
    case: Case<'k>,
    backend: &'k dyn LockBackend,
    letter: char,
    pub(super) token: Token,
    timeout: Duration,
    /// Whether its watches are eager.
    eager: bool,
    quiet: bool,
}

impl<'k> Holder<'k> {
    /// The same with another timeout.
    pub(super) fn within(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same, with eager watches or others.
    pub(super) fn eager(&self, eager: bool) -> Self {
        Self { eager, ..self.clone() }
    }

    /// The same through another instance of the backend.
    pub(super) fn through(&self, backend: &'k dyn LockBackend) -> Self {
        Self { backend, ..self.clone() }
    }

    /// The same, whose requests are not recorded.
    fn quiet(self) -> Self {
        Self { quiet: true, ..self }
    }

    pub(super) async fn acquire(
        &self,
        names: impl Into<Resources> + Send,
        ttl: Duration,
    ) -> Seen<'k, AcquireReply> {
        let resources = names.into();
        self.case.claim(&resources, &self.token);
        let request = Acquire::new(&resources, &self.token, ttl, self.timeout);
        self.ask(&format!("acquires for {ttl:?}"), &resources, self.backend.acquire(request)).await
    }

    pub(super) async fn extend(
        &self,
        names: impl Into<Resources> + Send,
        ttl: Duration,
    ) -> Seen<'k, AcquireReply> {
        let resources = names.into();
        let request = Extend::new(&resources, &self.token, ttl, self.timeout);
        self.ask(&format!("extends by {ttl:?}"), &resources, self.backend.extend(request)).await
    }

    /// Replaces the token of another holder with this one.
    pub(super) async fn replace(
        &self,
        names: impl Into<Resources> + Send,
        old: &Self,
        ttl: Duration,
    ) -> Seen<'k, AcquireReply> {
        let resources = names.into();
        self.case.claim(&resources, &self.token);
        let request = Replace::new(&resources, &old.token, &self.token, ttl, self.timeout);
        let verb = format!("replaces {} for {ttl:?}", old.letter);
        self.ask(&verb, &resources, self.backend.replace(request)).await
    }

    pub(super) async fn release(&self, names: impl Into<Resources> + Send) -> Seen<'k, ReleaseReply> {
        let resources = names.into();
        let request = Release::new(&resources, &self.token, self.timeout);
        self.ask("releases", &resources, self.backend.release(request)).await
    }

    pub(super) async fn inspect(&self, names: impl Into<Resources> + Send) -> Seen<'k, Vec<KeyState>> {
        let resources = names.into();
        let request = Inspect::new(&resources, self.timeout);
        self.ask("inspects", &resources, self.backend.inspect(request)).await
    }

    pub(super) async fn watch(&self, names: impl Into<Resources> + Send) -> Seen<'k, ()> {
        let resources = names.into();
        let request = Watch::new(&resources, self.timeout);
        let request = if self.eager { request.eager() } else { request };
        self.ask("watches", &resources, self.backend.watch(request)).await
    }

    /// Checks that this holder has the keys. An extension by the shortest TTL changes nothing.
    pub(super) async fn must_hold(&self, names: impl Into<Resources> + Send) -> Result<(), Violation> {
        self.extend(names, Duration::from_millis(1)).await.must(AcquireReply::Granted)
    }

    async fn ask<T: Debug + Send>(
        &self,
        verb: &str,
        resources: &Resources,
        request: impl Future<Output = Result<T, BackendError>> + Send + Unpin,
    ) -> Seen<'k, T> {
        let case = self.case.clone();
        let step = (!self.quiet).then(|| {
            let mut log = case.log();
            log.steps.push((format!("{} {verb} {}", self.letter, case.shown(resources)), None));
            log.steps.len() - 1
        });
        let asked = case.now();
        let cut_off = case.suite.runtime.sleep(self.timeout.saturating_add(case.suite.slack));
        let answer = match select(request, cut_off).await {
            Either::Left((answer, _)) => Some(answer.map_err(Refusal)),
            Either::Right(_) => None,
        };
        let seen = Seen { answer, asked, answered: case.now(), timeout: self.timeout, case };
        if let Some(step) = step {
            let outcome = seen.outcome();
            seen.case.log().steps[step].1 = Some(outcome);
        }
        seen
    }
}

/// An error, which is equal to no other.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) BackendError);

impl PartialEq for Refusal {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

/// The outcome of a request.
pub(super) struct Seen<'k, T> {
    /// `None` when it did not end before its deadline.
    pub(super) answer: Option<Result<T, Refusal>>,
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    timeout: Duration,
    case: Case<'k>,
}

impl<T: Debug> Seen<'_, T> {
    pub(super) fn outcome(&self) -> String {
        match &self.answer {
            None => format!("no end after {:?}", self.answered - self.asked),
            Some(Ok(answer)) => format!("{answer:?}"),
            Some(Err(Refusal(error))) => format!("error, {error}"),
        }
    }

    /// Checks that the reply is this one.
    pub(super) fn must(&self, expected: T) -> Result<(), Violation>
    where
        T: PartialEq,
    {
        match &self.answer {
            None => Err(self.overdue()),
            Some(Ok(answer)) if *answer == expected => Ok(()),
            _ => Err(self.case.violation(format!("{expected:?}"), self.outcome())),
        }
    }

    /// The reply, or the error, of a request that ended before its deadline.
    pub(super) fn ended(&self) -> Result<Result<&T, &BackendError>, Violation> {
        match &self.answer {
            None => Err(self.overdue()),
            Some(answer) => Ok(answer.as_ref().map_err(|refusal| &refusal.0)),
        }
    }

    /// When a key expires that this request has written or extended.
    pub(super) fn life(&self, ttl: Duration) -> Life {
        // The margin of the library itself for clocks that drift and for whole milliseconds.
        let early = ttl / 100 + Duration::from_millis(2);
        Life { earliest: self.asked + ttl - early, latest: self.answered + ttl + ttl / LATE_SHARE, ttl }
    }

    fn overdue(&self) -> Violation {
        let expected =
            format!("an end within the timeout of {:?}, or {:?} later", self.timeout, self.case.suite.slack);
        self.case.violation_of(Clause::BoundedByTimeout, expected, self.outcome())
    }
}

/// When a key has to expire.
#[derive(Clone, Copy)]
pub(super) struct Life {
    earliest: Instant,
    latest: Instant,
    ttl: Duration,
}

impl Life {
    /// The key has to be there until then.
    pub(super) fn earliest(&self) -> Instant {
        self.earliest
    }
}

/// Longer than any check takes.
pub(super) const LONG: Duration = Duration::from_secs(600);
/// How many steps a violation shows.
const STEPS: usize = 12;
/// How many characters of a name are shown.
const SHOWN: usize = 40;
/// How often a watched key is checked in its TTL.
const PROBES: u32 = 40;
/// A key that was not checked for this share of its TTL may have expired early, unnoticed.
const UNSEEN_SHARE: u32 = 4;
