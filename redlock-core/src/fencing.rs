//! The options of fencing tokens.

// Tests: below; tests/tests/it/sim/fencing.rs.

use std::time::Duration;

use crate::{invalid::ConfigError, quorum, validity::MAX_TTL};

/// How a lock manager makes fencing tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fencing {
    /// Whether each lock has one, or only those of calls that ask for it.
    pub(crate) always: bool,
    /// How many nodes have to have it; `None` is the quorum of all rounds.
    quorum: Option<usize>,
    /// How long a counter lives after its last change; `None` is forever.
    pub(crate) counter_ttl: Option<Duration>,
}

impl Fencing {
    pub(crate) fn set_quorum(&mut self, nodes: usize) {
        self.quorum = Some(nodes);
    }

    /// Of so many nodes.
    pub(crate) fn quorum(&self, nodes: usize) -> usize {
        self.quorum.unwrap_or_else(|| quorum::quorum(nodes))
    }

    pub(crate) fn check(&self, nodes: usize) -> Result<(), ConfigError> {
        let (quorum, least) = (self.quorum(nodes), quorum::quorum(nodes));
        if !(least..=nodes).contains(&quorum) {
            return Err(ConfigError::InvalidFenceQuorum { quorum, least, nodes });
        }
        match self.counter_ttl {
            Some(ttl) if !(MIN_COUNTER_TTL..=MAX_TTL).contains(&ttl) => {
                Err(ConfigError::InvalidFenceCounterTtl { ttl, min: MIN_COUNTER_TTL, max: MAX_TTL })
            }
            _ => Ok(()),
        }
    }
}

impl Default for Fencing {
    fn default() -> Self {
        Self { always: false, quorum: None, counter_ttl: Some(DAY) }
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Of clocks that are set by NTP, none is wrong by half of that.
const MIN_COUNTER_TTL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quorum_is_a_majority_or_more() {
        for (nodes, valid) in [(1, vec![1]), (2, vec![2]), (3, vec![2, 3]), (5, vec![3, 4, 5])] {
            for quorum in 0..=nodes + 1 {
                let mut fencing = Fencing::default();
                fencing.set_quorum(quorum);
                assert_eq!(fencing.check(nodes).is_ok(), valid.contains(&quorum), "{quorum} of {nodes}");
                assert_eq!(fencing.quorum(nodes), quorum);
            }
            assert_eq!(Fencing::default().quorum(nodes), valid[0]);
        }
    }

    #[test]
    fn counters_live_for_a_minute_or_longer() {
        let check = |counter_ttl| Fencing { counter_ttl, ..Fencing::default() }.check(3).is_ok();
        assert!(check(None) && check(Some(MIN_COUNTER_TTL)) && check(Some(MAX_TTL)));
        let tick = Duration::from_nanos(1);
        assert!(!check(Some(MIN_COUNTER_TTL - tick)) && !check(Some(MAX_TTL + tick)));
    }
}
