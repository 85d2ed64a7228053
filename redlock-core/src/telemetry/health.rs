//! Whether a node serves, and when to log a change. However fast it changes, the number of lines is bounded.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::moment::Moment;
use crate::backend::BackendErrorKind;

/// A node's [`Condition`], for concurrent requests.
#[derive(Debug, Default)]
pub(super) struct Watched(Mutex<Condition>);

impl Watched {
    /// What to report after an answer. The caller does so without the lock, since it calls foreign code.
    pub(super) fn seen(&self, now: Moment, failure: Option<BackendErrorKind>) -> Seen {
        let mut condition = self.condition();
        let turned = failure.is_some() == condition.is.is_none();
        Seen { turned, transition: condition.seen(now.0, failure) }
    }

    pub(super) fn serves(&self) -> bool {
        self.condition().is.is_none()
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an answer shows of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// It has begun to fail, or to serve again.
    pub(super) turned: bool,
    /// What to log.
    pub(super) transition: Option<Transition>,
}

/// The state of a node by its last answers, and what was logged of it. `None` means that it serves.
#[derive(Debug, Default)]
struct Condition {
    is: Option<BackendErrorKind>,
    logged: Option<BackendErrorKind>,
    /// When a failure was last logged.
    warned: Option<Instant>,
    /// How many changes have not been logged since.
    suppressed: u32,
}

/// A change to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "only logs need to know more"))]
pub(super) enum Transition {
    /// It fails. `suppressed`: changes since the last line.
    Fails { kind: BackendErrorKind, suppressed: u32 },
    /// It serves again; the failure was logged so long ago.
    Serves { failed_for: Duration, suppressed: u32 },
}

impl Condition {
    fn seen(&mut self, now: Instant, failure: Option<BackendErrorKind>) -> Option<Transition> {
        let changed = failure != self.is;
        self.is = failure;
        let since = |warned: Instant| now.saturating_duration_since(warned);
        let transition = match failure {
            None if self.logged.is_some() => {
                let failed_for = self.warned.map(since).unwrap_or_default();
                Transition::Serves { failed_for, suppressed: self.suppressed }
            }
            Some(kind)
                if self.logged != failure && self.warned.is_none_or(|at| since(at) >= BETWEEN_WARNINGS) =>
            {
                self.warned = Some(now);
                Transition::Fails { kind, suppressed: self.suppressed }
            }
            None | Some(_) => {
                self.suppressed = self.suppressed.saturating_add(changed.into());
                return None;
            }
        };
        self.logged = failure;
        self.suppressed = 0;
        Some(transition)
    }
}

/// A failure is logged at once, and another one no sooner than after this time: at most two lines within it.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::{
        BackendErrorKind::{Indeterminate, Rejected, Transient},
        *,
    };

    #[allow(clippy::disallowed_methods)]
    fn some_instant() -> Instant {
        Instant::now()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_node_turns_at_each_change_however_seldom_it_is_logged() {
        let (node, start) = (Watched::default(), some_instant());
        let turns: Vec<_> = [None, Some(Indeterminate), Some(Transient), None, None, Some(Indeterminate)]
            .map(|failure| (node.seen(Moment(start), failure).turned, node.serves()))
            .into();
        let turned = |serves| (true, serves);
        let same = |serves| (false, serves);
        assert_eq!(turns, [same(true), turned(false), same(false), turned(true), same(true), turned(false)]);
    }

    #[test]
    fn a_failure_and_its_end_are_logged_once_each() {
        let (mut node, start) = (Condition::default(), some_instant());
        assert_eq!(node.seen(start, None), None, "a node is taken to serve until it fails");
        let fails = Transition::Fails { kind: Indeterminate, suppressed: 0 };
        assert_eq!(node.seen(start, Some(Indeterminate)), Some(fails));
        for second in 1..600 {
            assert_eq!(node.seen(start + s(second), Some(Indeterminate)), None);
        }
        let serves = Transition::Serves { failed_for: s(600), suppressed: 0 };
        assert_eq!(node.seen(start + s(600), None), Some(serves));
        assert_eq!(node.seen(start + s(601), None), None);
    }

    #[test]
    fn a_node_that_flaps_is_logged_twice_a_minute_at_most() {
        let (mut node, start) = (Condition::default(), some_instant());
        let mut transitions = Vec::new();
        for tenth in 0..6_000 {
            let now = start + Duration::from_millis(100) * tenth;
            transitions.extend(node.seen(now, (tenth % 2 == 0).then_some(Indeterminate)));
        }
        assert_eq!(transitions.len(), 20);
        assert_eq!(
            transitions[2],
            Transition::Fails { kind: Indeterminate, suppressed: 598 },
            "every change is accounted for"
        );
    }

    #[test]
    fn a_suppressed_failure_is_logged_once_a_minute_has_passed() {
        let (mut node, start) = (Condition::default(), some_instant());
        assert!(node.seen(start, Some(Indeterminate)).is_some());
        assert!(node.seen(start + s(1), None).is_some());
        assert_eq!(node.seen(start + s(2), Some(Rejected)), None);
        assert_eq!(node.seen(start + s(59), Some(Rejected)), None);
        let fails = Transition::Fails { kind: Rejected, suppressed: 1 };
        assert_eq!(node.seen(start + s(60), Some(Rejected)), Some(fails));
    }

    #[test]
    fn another_kind_of_failure_is_logged_too() {
        let (mut node, start) = (Condition::default(), some_instant());
        assert!(node.seen(start, Some(Indeterminate)).is_some());
        assert_eq!(node.seen(start + s(10), Some(Transient)), None);
        let fails = Transition::Fails { kind: Transient, suppressed: 1 };
        assert_eq!(node.seen(start + s(70), Some(Transient)), Some(fails));
    }
}
