//! The settings of a run.

// Tests: conformance/tests.rs.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    CHECKS,
    case::Case,
    node_control::NodeControl,
    verdict::{Clause, Outcome, Passed, Verdict, Violations},
};
use crate::{backend::LockBackend, runtime::Runtime};

/// A backend to check, and how.
pub struct Suite<'a> {
    pub(super) backend: &'a dyn LockBackend,
    pub(super) runtime: &'a dyn Runtime,
    pub(super) node: Option<&'a dyn NodeControl>,
    pub(super) second: Option<&'a dyn LockBackend>,
    pub(super) slack: Duration,
    pub(super) timeout: Duration,
    pub(super) ttl: Duration,
    pub(super) run: u64,
    cases: AtomicU64,
}

impl<'a> Suite<'a> {
    /// A suite for a backend with the default settings.
    #[must_use]
    pub fn new(backend: &'a dyn LockBackend, runtime: &'a dyn Runtime) -> Self {
        Self {
            backend,
            runtime,
            node: None,
            second: None,
            slack: DEFAULT_SLACK,
            timeout: DEFAULT_TIMEOUT,
            ttl: DEFAULT_TTL,
            // Different in each run; it need not be a secret.
            run: RandomState::new().hash_one(()),
            cases: AtomicU64::new(0),
        }
    }

    /// The node behind the backend, for the checks that inject faults. The default is none.
    #[must_use]
    pub fn node(mut self, node: &'a dyn NodeControl) -> Self {
        self.node = Some(node);
        self
    }

    /// Another instance of the backend, with a connection of its own, for the same node. The default is none.
    #[must_use]
    pub fn second(mut self, backend: &'a dyn LockBackend) -> Self {
        self.second = Some(backend);
        self
    }

    /// How much later than its timeout a request may end. The default is [`DEFAULT_SLACK`].
    #[must_use]
    pub fn slack(mut self, slack: Duration) -> Self {
        self.slack = slack;
        self
    }

    /// The timeout of requests to a healthy node. The default is [`DEFAULT_TIMEOUT`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The TTL of keys whose expiry is watched, at least 20 ms. The default is [`DEFAULT_TTL`]. Set a longer
    /// one for a node that removes its keys late: a key may live too long by one [`LATE_SHARE`]th of its TTL.
    /// On a busy machine the suite uses up to 16 times as much.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl.max(Duration::from_millis(20));
        self
    }

    /// The part of names and tokens that distinguishes this run from others. The default is random; set it to
    /// make every run use the same ones, in a simulation for example. Use each only once in ten minutes on a
    /// node with fencing tokens, whose counters remain.
    #[must_use]
    pub fn run(mut self, run: u64) -> Self {
        self.run = run;
        self
    }

    /// Runs all checks, one after the other.
    ///
    /// # Errors
    ///
    /// [`Violations`]: how the backend broke its contract. When it cannot even take and release one key,
    /// there is only this violation.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves keys behind, and the node as it is at that moment.
    pub async fn check(&self) -> Result<Passed, Violations> {
        let mut passed = Passed::default();
        let mut violations = Vec::new();
        for (position, (name, check)) in CHECKS.iter().enumerate() {
            match check(self).await {
                Ok(Verdict::Passed) => passed.passed.push(name),
                Ok(Verdict::Skipped(reason)) => passed.skipped.push((name, reason)),
                Err(violation) => violations.push(violation),
            }
            if position == 0 && !violations.is_empty() {
                break;
            }
        }
        if violations.is_empty() {
            return Ok(passed);
        }
        Err(Violations { backend: type_of(self.backend), violations })
    }

    /// Runs one check, and removes the keys that it leaves.
    pub(super) async fn case<'k, F, T>(&'k self, clause: Clause, check: &'static str, trial: F) -> Outcome
    where
        F: FnOnce(Case<'k>) -> T + Send,
        T: Future<Output = Outcome> + Send,
    {
        let case = Case::new(self, clause, check, self.cases.fetch_add(1, Ordering::Relaxed));
        let outcome = trial(case.clone()).await;
        case.clean_up().await;
        outcome
    }

    /// Runs one check that watches the clock. It repeats with longer times if the machine was too slow.
    pub(super) async fn timed<'k, F, T>(&'k self, clause: Clause, check: &'static str, trial: F) -> Outcome
    where
        F: Fn(Case<'k>, Duration) -> T + Send + Sync,
        T: Future<Output = Outcome> + Send,
    {
        for doubled in 0..=DOUBLED {
            let ttl = self.ttl * 2_u32.pow(doubled);
            let verdict = self.case(clause, check, |case| trial(case, ttl)).await?;
            if verdict != TOO_SLOW {
                return Ok(verdict);
            }
        }
        Ok(TOO_SLOW)
    }
}

impl fmt::Debug for Suite<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite")
            .field("backend", &self.backend)
            .field("node", &self.node)
            .field("second", &self.second)
            .field("slack", &self.slack)
            .field("timeout", &self.timeout)
            .field("ttl", &self.ttl)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

/// The type of a backend: the beginning of its `Debug`, whose fields may be long.
fn type_of(backend: &dyn LockBackend) -> String {
    let mut text = format!("{backend:?}");
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').filter(|end| *end > 0);
    text.truncate(end.unwrap_or(text.len()));
    text
}

/// How much later than its timeout a request may end, by default. It is long, for machines that are busy.
pub const DEFAULT_SLACK: Duration = Duration::from_secs(2);
/// The timeout of requests to a healthy node, by default.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The TTL of keys whose expiry is watched, by default.
pub const DEFAULT_TTL: Duration = Duration::from_millis(200);
/// The divisor of the TTL by which a key may live too long: a quarter of it.
pub const LATE_SHARE: u32 = 4;
/// How long a backend may take to work again after its node does.
pub const RECOVERY: Duration = Duration::from_secs(10);

/// How often the TTL is doubled for a machine that is too slow.
const DOUBLED: u32 = 4;
pub(super) const TOO_SLOW: Verdict = Verdict::Skipped("the machine was too busy for a result");
