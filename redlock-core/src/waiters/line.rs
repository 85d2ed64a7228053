// Tests: below for pauses; waiters.rs for the rest.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

/// The line of one resource. The first place is apart from the others: without contention there is no other,
/// and no room for any.
pub(super) struct Line {
    pub(super) first: Place,
    #[allow(clippy::box_collection, reason = "nearly every line has none, and there are many")]
    rest: Option<Box<VecDeque<Place>>>,
    /// How many locks in a row were handed over within the process, and since when it has the resource.
    pub(super) turns: u32,
    pub(super) since: Option<Instant>,
}

pub(super) struct Place {
    pub(super) ticket: u64,
    /// Until when it keeps the others waiting; `None` until the next in line has looked.
    pub(super) until: Option<Instant>,
    /// Whether the lock is held, not just tried for.
    pub(super) held: bool,
}

impl Line {
    pub(super) fn new(first: Place) -> Self {
        Self { first, rest: None, turns: 0, since: None }
    }

    pub(super) fn next(&self) -> Option<u64> {
        self.rest.as_ref()?.front().map(|place| place.ticket)
    }

    /// Takes out the next one.
    pub(super) fn pop(&mut self) -> Option<Place> {
        self.rest.as_mut()?.pop_front()
    }

    /// All but the first.
    pub(super) fn rest(&mut self) -> &mut VecDeque<Place> {
        self.rest.get_or_insert_default()
    }

    pub(super) fn put_first(&mut self, place: Place) {
        if self.first.ticket != place.ticket {
            self.rest().retain(|other| other.ticket != place.ticket);
            let displaced = mem::replace(&mut self.first, place);
            self.rest().push_front(displaced);
        } else {
            self.first = place;
        }
    }

    /// How long the process has had the resource, if that was so long or so often that it owes a pause.
    pub(super) fn owes_a_pause(&self, now: Instant) -> Option<Duration> {
        let had = now.saturating_duration_since(self.since?);
        (self.turns >= MAX_LOCAL_TURNS || self.turns > 0 && had >= MAX_LOCAL_TIME).then_some(had)
    }

    pub(super) fn begin_anew(&mut self) {
        self.turns = 0;
        self.since = None;
    }
}

/// How often in a row a process hands a lock over to itself, before others have a chance ...
pub(crate) const MAX_LOCAL_TURNS: u32 = 64;
/// ... and for how long.
pub(crate) const MAX_LOCAL_TIME: Duration = Duration::from_secs(1);
/// How late the owner of a turn may be, for example because its runtime stands still.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)]
    fn some_instant() -> Instant {
        Instant::now()
    }

    /// A line whose lock was handed over so often, by a process that has had it from `since` on.
    fn line(turns: u32, since: Instant) -> Line {
        let first = Place { ticket: 1, until: None, held: false };
        Line { turns, since: Some(since), ..Line::new(first) }
    }

    #[test]
    fn a_process_that_hands_a_lock_over_to_itself_for_long_owes_the_others_a_pause() {
        let now = some_instant();
        let soon = now + Duration::from_millis(9);
        assert_eq!(line(MAX_LOCAL_TURNS - 1, now).owes_a_pause(soon), None);
        assert_eq!(line(MAX_LOCAL_TURNS, now).owes_a_pause(soon), Some(Duration::from_millis(9)));
        let long = now + MAX_LOCAL_TIME;
        assert_eq!(line(1, now).owes_a_pause(long - Duration::from_nanos(1)), None);
        assert_eq!(line(1, now).owes_a_pause(long), Some(MAX_LOCAL_TIME));
        assert_eq!(line(0, now).owes_a_pause(long), None, "it was not handed over");
        let mut anew = line(MAX_LOCAL_TURNS, now);
        anew.begin_anew();
        assert_eq!(anew.owes_a_pause(long), None);
    }
}
