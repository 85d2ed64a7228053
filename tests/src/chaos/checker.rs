//! Checks a history: does it violate what a lock guarantees?

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    num::NonZeroU64,
    time::Duration,
};

use super::history::{Entry, Event, Outcome};

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Requests by outcome.
    pub requests: BTreeMap<Outcome, u64>,
    /// Locks that were acquired.
    pub holds: u64,
    /// Records that were replaced while the lock was valid.
    pub writes: u64,
    /// Records that were replaced after the lock's validity had ended. Only a fencing token prevents this.
    pub late: u64,
    /// Holds whose worker was killed while it replaced the record: the record may have been replaced, or not.
    pub uncertain: u64,
    /// Violations: there should be none.
    pub violations: Vec<Violation>,
}

/// A violation of what a lock guarantees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two workers relied on a lock at the same instant.
    Overlap {
        /// The resource.
        resource: usize,
        /// The holds.
        holds: [u64; 2],
        /// For how long.
        by: Duration,
    },
    /// A worker replaced a record under a valid lock, but had not read the last value written under a valid
    /// lock.
    LostUpdate {
        /// The resource.
        resource: usize,
        /// The hold with the stale value.
        hold: u64,
        /// The value that it read.
        read: u64,
        /// The value that it should have read.
        expected: u64,
    },
    /// The record is not the last value that was written.
    Record {
        /// The resource.
        resource: usize,
        /// The record.
        found: u64,
        /// The last value that was written.
        expected: u64,
    },
    /// Two locks of a resource have the same fencing token.
    SameFence {
        /// The resource.
        resource: usize,
        /// The holds.
        holds: [u64; 2],
        /// The token.
        fence: NonZeroU64,
    },
    /// A lock was requested after another one had been acquired, and has no higher token.
    FenceOrder {
        /// The resource.
        resource: usize,
        /// The holds, the earlier one first.
        holds: [u64; 2],
        /// Their tokens.
        fences: [NonZeroU64; 2],
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { resource, holds: [one, other], by } => {
                write!(f, "resource {resource} was held by {one:x} and {other:x} at once, for {by:?}")
            }
            Self::LostUpdate { resource, hold, read, expected } => {
                write!(f, "lost update: {hold:x} read {read} for resource {resource}, which was {expected}")
            }
            Self::SameFence { resource, holds: [one, other], fence } => {
                write!(f, "{one:x} and {other:x} of resource {resource} have the token {fence}")
            }
            Self::FenceOrder { resource, holds: [one, other], fences: [before, after] } => write!(
                f,
                "{other:x} of resource {resource} has the token {after}, and {one:x} had {before} before"
            ),
            Self::Record { resource, found, expected } => {
                write!(f, "the record of resource {resource} is {found} at the end, and was {expected}")
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Hold {
    number: u64,
    asked: Duration,
    won: Duration,
    /// Until when the worker relied on it.
    end: Duration,
    write: Option<Write>,
    fence: Option<NonZeroU64>,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    began: Duration,
    at: Duration,
    read: u64,
    /// Whether the lock was valid afterwards. `None`: it is unknown whether the record was replaced.
    was_valid: Option<bool>,
}

/// Checks the histories of all workers, and the records at the end.
#[must_use]
pub fn check<'a>(entries: impl IntoIterator<Item = &'a Entry>, records: &[u64]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut holds: HashMap<u64, (usize, Hold)> = HashMap::new();
    for Entry { at, hold: number, event } in entries {
        if let Event::Asked { outcome, .. } = event {
            *verdict.requests.entry(*outcome).or_default() += 1;
        }
        if let Event::Won { resource, since, until, fence } = event {
            verdict.holds += 1;
            let (asked, won, end) = (*since, *at, *until);
            let hold = Hold { number: *number, asked, won, end, write: None, fence: *fence };
            holds.insert(*number, (*resource, hold));
        }
        let Some((_, hold)) = holds.get_mut(number) else { continue };
        match event {
            Event::Until { until } => hold.end = *until,
            Event::Writing { read } => {
                hold.write = Some(Write { began: *at, at: *at, read: *read, was_valid: None })
            }
            Event::Wrote { was_valid } => {
                if let Some(write) = &mut hold.write {
                    *write = Write { at: *at, was_valid: Some(*was_valid), ..*write };
                }
            }
            Event::Kept => hold.write = None,
            Event::Over => hold.end = hold.end.min(*at),
            Event::Asked { .. } | Event::Won { .. } => {}
        }
    }
    let mut by_resource: Vec<Vec<Hold>> = vec![Vec::new(); records.len()];
    for (resource, hold) in holds.into_values() {
        by_resource[resource].push(hold);
    }
    for (resource, (mut holds, record)) in by_resource.into_iter().zip(records).enumerate() {
        exclusion(&mut verdict, resource, &mut holds);
        updates(&mut verdict, resource, &mut holds, *record);
        fences(&mut verdict, resource, &holds);
    }
    verdict
}

/// Checks that there are never two holds at the same instant.
fn exclusion(verdict: &mut Verdict, resource: usize, holds: &mut [Hold]) {
    holds.sort_by_key(|hold| hold.won);
    let mut longest: Option<&Hold> = None;
    for hold in holds.iter() {
        if let Some(before) = longest
            && hold.won < before.end.min(hold.end)
        {
            let by = before.end.min(hold.end) - hold.won;
            let holds = [before.number, hold.number];
            verdict.violations.push(Violation::Overlap { resource, holds, by });
        }
        if longest.is_none_or(|before| before.end < hold.end) {
            longest = Some(hold);
        }
    }
}

/// Checks that each write read the value of the write before, and that the record has the last one. Other
/// writes may have come before a late write, and it may have overwritten them: the chain starts again after
/// it.
fn updates(verdict: &mut Verdict, resource: usize, holds: &mut [Hold], record: u64) {
    holds.sort_by_key(|hold| hold.write.map(|write| write.at));
    let late = |hold: &Hold| hold.write.filter(|write| write.was_valid == Some(false));
    let late: Vec<Write> = holds.iter().filter_map(late).collect();
    // The possible values, and whether there may be other ones.
    let (mut expected, mut unsure) = (vec![0], false);
    for hold in holds.iter() {
        let Some(Write { at, read, was_valid, .. }) = hold.write else { continue };
        let fits = expected.contains(&read);
        unsure |= late.iter().any(|late| late.began <= at && at <= late.at);
        match was_valid {
            Some(true) => verdict.writes += 1,
            Some(false) => verdict.late += 1,
            None => verdict.uncertain += 1,
        }
        if !fits && !unsure && was_valid == Some(true) {
            let expected = expected[0];
            let hold = hold.number;
            verdict.violations.push(Violation::LostUpdate { resource, hold, read, expected });
        }
        match was_valid {
            Some(_) => expected = vec![read + 1],
            None => expected.push(read + 1),
        }
        unsure = was_valid == Some(false) || (was_valid.is_none() && unsure);
    }
    if !expected.contains(&record) && !unsure {
        let expected = expected[0];
        verdict.violations.push(Violation::Record { resource, found: record, expected });
    }
}

/// Checks that fencing tokens are unique, and that a lock which was requested after another one had been
/// acquired has the higher one.
fn fences(verdict: &mut Verdict, resource: usize, holds: &[Hold]) {
    let fenced = holds.iter().filter_map(|hold| hold.fence.map(|fence| (fence, hold)));
    let mut fenced: Vec<(NonZeroU64, &Hold)> = fenced.collect();
    fenced.sort_by_key(|(fence, hold)| (*fence, hold.won));
    for pair in fenced.windows(2) {
        let [(fence, one), (same, other)] = pair else { continue };
        if fence == same {
            let (holds, fence) = ([one.number, other.number], *fence);
            verdict.violations.push(Violation::SameFence { resource, holds, fence });
        }
    }
    // Of the locks with higher tokens, the one that was acquired first.
    let mut first: Option<(NonZeroU64, &Hold)> = None;
    for (fence, hold) in fenced.into_iter().rev() {
        if let Some((higher, before)) = first
            && before.won < hold.asked
        {
            let (holds, fences) = ([before.number, hold.number], [higher, fence]);
            verdict.violations.push(Violation::FenceOrder { resource, holds, fences });
        }
        if first.is_none_or(|(_, before)| hold.won < before.won) {
            first = Some((fence, hold));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A hold from `won` to `over`, valid until `until`, that writes the successor of `read` at `wrote`.
    fn hold(number: u64, won: u64, until: u64, over: u64, wrote: u64, read: u64) -> Vec<Entry> {
        let entry = |at, event| Entry { at: ms(at), hold: number, event };
        vec![
            entry(won, Event::Won { resource: 0, since: ms(won), until: ms(until), fence: None }),
            entry(wrote, Event::Writing { read }),
            entry(wrote, Event::Wrote { was_valid: wrote < until }),
            entry(over, Event::Over),
        ]
    }

    fn checked(holds: &[Vec<Entry>], record: u64) -> Verdict {
        check(holds.iter().flatten(), &[record])
    }

    #[test]
    fn holds_one_after_the_other_are_no_violation() {
        let verdict = checked(&[hold(1, 0, 100, 50, 40, 0), hold(2, 51, 150, 140, 60, 1)], 2);
        assert_eq!(verdict.violations, []);
        assert_eq!((verdict.holds, verdict.writes, verdict.late), (2, 2, 0));
    }

    #[test]
    fn two_holds_at_once_are_an_overlap() {
        let verdict = checked(&[hold(1, 0, 100, 90, 40, 0), hold(2, 60, 150, 140, 95, 1)], 2);
        let overlap = Violation::Overlap { resource: 0, holds: [1, 2], by: ms(30) };
        assert_eq!(verdict.violations, [overlap]);
    }

    #[test]
    fn a_long_hold_overlaps_with_each_of_several_short_ones() {
        let holds =
            [hold(1, 0, 900, 900, 10, 0), hold(2, 100, 150, 140, 110, 1), hold(3, 300, 400, 390, 310, 2)];
        assert_eq!(checked(&holds, 3).violations.len(), 2);
    }

    #[test]
    fn a_hold_ends_with_its_validity() {
        let verdict = checked(&[hold(1, 0, 100, 500, 40, 0), hold(2, 101, 200, 190, 110, 1)], 2);
        assert_eq!(verdict.violations, []);
    }

    #[test]
    fn an_extended_hold_ends_with_its_longer_validity() {
        let mut first = hold(1, 0, 100, 300, 40, 0);
        first.insert(1, Entry { at: ms(20), hold: 1, event: Event::Until { until: ms(300) } });
        assert_eq!(checked(&[first, hold(2, 101, 200, 190, 110, 1)], 2).violations.len(), 1);
    }

    #[test]
    fn an_update_that_the_next_hold_did_not_read_is_lost() {
        let verdict = checked(&[hold(1, 0, 100, 50, 40, 0), hold(2, 51, 150, 140, 60, 0)], 1);
        let lost = Violation::LostUpdate { resource: 0, hold: 2, read: 0, expected: 1 };
        assert_eq!(verdict.violations, [lost]);
    }

    #[test]
    fn a_record_that_was_reset_is_a_violation() {
        let verdict = checked(&[hold(1, 0, 100, 50, 40, 0)], 0);
        assert_eq!(verdict.violations, [Violation::Record { resource: 0, found: 0, expected: 1 }]);
    }

    #[test]
    fn a_late_write_is_counted_and_excuses_what_it_overwrote() {
        // Acquires the lock first, is stopped, and writes after the others.
        let late = hold(1, 0, 100, 400, 390, 0);
        let verdict = checked(&[late, hold(2, 110, 200, 190, 120, 0), hold(3, 401, 500, 490, 410, 1)], 2);
        assert_eq!(verdict.violations, []);
        assert_eq!((verdict.writes, verdict.late), (2, 1));
    }

    #[test]
    fn a_late_write_excuses_nothing_that_came_before_it() {
        let holds = [hold(1, 0, 100, 50, 40, 0), hold(2, 51, 99, 90, 60, 0), hold(3, 100, 110, 300, 290, 1)];
        assert_eq!(checked(&holds, 2).violations.len(), 1);
    }

    #[test]
    fn a_worker_that_was_killed_may_have_written_or_not() {
        let mut killed = hold(1, 0, 100, 50, 40, 0);
        killed.truncate(2);
        for (read, record) in [(0, 1), (1, 2)] {
            let verdict = checked(&[killed.clone(), hold(2, 101, 200, 190, 110, read)], record);
            assert_eq!(verdict.violations, []);
            assert_eq!(verdict.uncertain, 1);
        }
        assert_eq!(checked(&[killed, hold(2, 101, 200, 190, 110, 5)], 6).violations.len(), 1);
    }

    /// A lock with a fencing token, from the request to the end.
    fn fenced(number: u64, asked: u64, won: u64, over: u64, fence: u64) -> Vec<Entry> {
        let (fence, since, until) = (NonZeroU64::new(fence), ms(asked), ms(over));
        let won = Entry { at: ms(won), hold: number, event: Event::Won { resource: 0, since, until, fence } };
        vec![won, Entry { at: ms(over), hold: number, event: Event::Over }]
    }

    fn found_in(holds: &[Vec<Entry>]) -> Vec<Violation> {
        checked(holds, 0).violations
    }

    #[test]
    fn tokens_that_rise_are_no_violation_and_those_of_requests_at_the_same_time_have_no_order() {
        let rise = [fenced(1, 0, 5, 10, 7), fenced(2, 3, 15, 20, 8), fenced(3, 16, 30, 40, 90)];
        assert_eq!(found_in(&rise), []);
        // The second was requested before the first had it.
        assert_eq!(found_in(&[fenced(1, 0, 5, 10, 8), fenced(2, 3, 15, 20, 7)]), []);
    }

    #[test]
    fn a_lower_token_of_a_later_request_is_found_and_so_is_one_that_appears_twice() {
        let [seven, eight, nine] = [7, 8, 9].map(|token| NonZeroU64::new(token).unwrap());
        let lower = [fenced(1, 0, 5, 10, 9), fenced(2, 3, 15, 20, 10), fenced(3, 30, 35, 40, 8)];
        let order = |holds, fences| Violation::FenceOrder { resource: 0, holds, fences };
        assert_eq!(found_in(&lower), [order([1, 3], [nine, eight])]);
        let twice = [fenced(1, 0, 5, 10, 7), fenced(2, 3, 15, 20, 7)];
        assert_eq!(found_in(&twice), [Violation::SameFence { resource: 0, holds: [1, 2], fence: seven }]);
    }
}
