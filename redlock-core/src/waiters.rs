//! Who of one process goes to the nodes next: a line for each resource, first come, first served.

// Tests: below; tests/tests/it/sim/queue.rs, sim/turns.rs.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

pub(crate) use self::line::GRACE;
use self::line::{Line, Place};

mod line;

/// The lines of a lock manager. A ticket stands in the line of each of its resources, and has its turn when
/// it is first in all of them. It joins them at the same instant, and waits only for older tickets and for
/// locks that are held, so two tickets never wait for each other.
///
/// Nobody is waited for without end: a place at the head lasts until its owner's next step is overdue, or
/// its lock has lapsed. Then the next in line passes it over.
#[derive(Default)]
pub(crate) struct Queue {
    last: u64,
    lines: HashMap<u64, Line>,
    /// By ticket, from when it first waits.
    waiting: HashMap<u64, Waiting>,
    /// To be woken once the queue is no longer locked: wakers are foreign code.
    woken: Vec<Waker>,
}

#[derive(Default)]
struct Waiting {
    /// Whether something has changed since its last look.
    news: bool,
    /// Whether others passed it over. From then on it waits for nobody.
    passed_over: bool,
    waker: Option<Waker>,
}

/// What a ticket sees of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Its turn has come. If other processes should have a chance first: how long this one has had the lock.
    Turn { after: Option<Duration> },
    /// It is still its turn.
    StillFirst,
    /// It is behind others. The time is when to look again, if it is next in line.
    Behind(Option<Instant>),
}

impl Queue {
    /// Joins the lines, and returns the ticket, and whether it is first: then until `until`.
    pub(crate) fn join(&mut self, lines: &[u64], until: Instant) -> (u64, bool) {
        let ticket = self.ticket();
        let mut first = true;
        for line in lines {
            match self.lines.entry(*line) {
                Entry::Vacant(line) => {
                    line.insert(Line::new(Place { ticket, until: Some(until), held: false }));
                }
                Entry::Occupied(mut line) => {
                    line.get_mut().rest().push_back(Place { ticket, until: None, held: false });
                    first = false;
                }
            }
        }
        if !first {
            self.waiting.insert(ticket, Waiting::default());
        }
        (ticket, first)
    }

    /// A ticket that stands in no line.
    pub(crate) fn ticket(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Looks at the lines, and passes over those who are overdue. Where the ticket is first, it keeps its
    /// place until `until`.
    pub(crate) fn look(&mut self, ticket: u64, lines: &[u64], now: Instant, until: Instant) -> View {
        let waiting = self.waiting.entry(ticket).or_default();
        if waiting.passed_over {
            waiting.news = false;
            return View::StillFirst;
        }
        let mut first = true;
        let mut watched: Option<Instant> = None;
        for line in lines {
            self.pass_over(*line, ticket, now);
            let Some(line) = self.lines.get_mut(line) else { continue };
            if line.first.ticket == ticket {
                line.first.until = Some(until);
                continue;
            }
            first = false;
            if line.next() == Some(ticket) {
                watched = [watched, line.first.until].into_iter().flatten().min();
            }
        }
        let news = self.waiting.get_mut(&ticket).is_some_and(|waiting| mem::take(&mut waiting.news));
        match (first, news) {
            (false, _) => View::Behind(watched),
            (true, true) => View::Turn { after: self.owes_a_pause(lines, now) },
            (true, false) => {
                // Another process has the lock.
                self.lines_of(lines, Line::begin_anew);
                View::StillFirst
            }
        }
    }

    /// Ready when it is worth to look again.
    pub(crate) fn poll_news(&mut self, ticket: u64, waker: &Waker) -> Poll<()> {
        let waiting = self.waiting.entry(ticket).or_default();
        if waiting.news {
            return Poll::Ready(());
        }
        match &mut waiting.waker {
            Some(known) => known.clone_from(waker),
            None => waiting.waker = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// The owner of the ticket is busy until then at most.
    pub(crate) fn stay(&mut self, ticket: u64, lines: &[u64], until: Instant) {
        self.lines_of(lines, |line| {
            if line.first.ticket == ticket {
                line.first.until = Some(until);
            }
        });
    }

    /// The owner of the ticket has won the lock at `now`, which puts it in front of all others.
    pub(crate) fn hold(&mut self, ticket: u64, lines: &[u64], now: Instant, until: Instant) {
        self.waiting.remove(&ticket);
        for line in lines {
            let place = Place { ticket, until: Some(until), held: true };
            let next = match self.lines.entry(*line) {
                Entry::Vacant(vacant) => vacant.insert(Line::new(place)),
                Entry::Occupied(line) => {
                    let line = line.into_mut();
                    line.put_first(place);
                    line
                }
            };
            next.since.get_or_insert(now);
            let next = next.next();
            self.tell(next);
        }
    }

    /// Leaves all lines.
    pub(crate) fn leave(&mut self, ticket: u64, lines: &[u64]) {
        self.waiting.remove(&ticket);
        for name in lines {
            let Some(line) = self.lines.get_mut(name) else { continue };
            if line.first.ticket == ticket {
                self.remove_first(*name);
            } else if let Some(place) = line.rest().iter().position(|place| place.ticket == ticket) {
                line.rest().remove(place);
                // Somebody has to watch the one in front.
                let next = (place == 0).then(|| line.next()).flatten();
                self.tell(next);
            }
        }
    }

    /// Takes out who has to be woken.
    pub(crate) fn take_woken(&mut self) -> Vec<Waker> {
        mem::take(&mut self.woken)
    }

    /// How many resources are held or waited for, and how many tickets wait.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.lines.len(), self.waiting.len())
    }

    /// Removes those in front of the ticket who are overdue.
    fn pass_over(&mut self, name: u64, ticket: u64, now: Instant) {
        while let Some(line) = self.lines.get_mut(&name).filter(|line| line.first.ticket != ticket) {
            if *line.first.until.get_or_insert(now + GRACE) > now {
                return;
            }
            let Place { ticket: gone, held, .. } = line.first;
            // A holder never looks.
            if !held {
                self.waiting.entry(gone).or_default().passed_over = true;
            }
            self.remove_first(name);
            // Nobody has handed anything over.
            self.lines_of(&[name], Line::begin_anew);
        }
    }

    fn remove_first(&mut self, name: u64) {
        let Entry::Occupied(mut line) = self.lines.entry(name) else { return };
        let Some(next) = line.get_mut().pop() else {
            line.remove();
            return;
        };
        let line = line.get_mut();
        let before = mem::replace(&mut line.first, next);
        if before.held {
            line.turns = line.turns.saturating_add(1);
        }
        let first = line.first.ticket;
        self.tell(Some(first));
    }

    fn tell(&mut self, ticket: Option<u64>) {
        if let Some(waiting) = ticket.and_then(|ticket| self.waiting.get_mut(&ticket)) {
            waiting.news = true;
            self.woken.extend(waiting.waker.take());
        }
    }

    fn owes_a_pause(&mut self, lines: &[u64], now: Instant) -> Option<Duration> {
        let mut had = None;
        self.lines_of(lines, |line| had = had.max(line.owes_a_pause(now)));
        if had.is_some() {
            self.lines_of(lines, Line::begin_anew);
        }
        had
    }

    fn lines_of(&mut self, names: &[u64], mut change: impl FnMut(&mut Line)) {
        for name in names {
            if let Some(line) = self.lines.get_mut(name) {
                change(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::task::ArcWake;
    use proptest::prelude::*;

    use super::*;

    const A: &[u64] = &[1];
    const B: &[u64] = &[2];
    const BOTH: &[u64] = &[1, 2];
    const TURN: View = View::Turn { after: None };

    struct Queued {
        queue: Queue,
        now: Instant,
    }

    impl Queued {
        #[allow(clippy::disallowed_methods)]
        fn new() -> Self {
            Self { queue: Queue::default(), now: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.now + Duration::from_millis(millis)
        }

        fn join(&mut self, lines: &[u64]) -> (u64, bool) {
            self.queue.join(lines, self.at(1_000))
        }

        /// Joins, and wins the lock at once, for 10 s.
        fn held(&mut self, lines: &[u64]) -> u64 {
            let (ticket, first) = self.join(lines);
            assert!(first);
            self.queue.hold(ticket, lines, self.now, self.at(10_000));
            ticket
        }

        /// A look at `now` and so many ms, by somebody who stays for another second.
        fn look(&mut self, ticket: u64, lines: &[u64], millis: u64) -> View {
            self.queue.look(ticket, lines, self.at(millis), self.at(millis + 1_000))
        }

        fn has_news(&mut self, ticket: u64) -> bool {
            self.queue.poll_news(ticket, Waker::noop()).is_ready()
        }

        fn behind(&self, millis: u64) -> View {
            View::Behind(Some(self.at(millis)))
        }
    }

    #[test]
    fn turns_come_in_the_order_of_arrival_and_only_the_next_one_is_woken() {
        let mut line = Queued::new();
        let first = line.held(A);
        let [(second, _), (third, _)] = [line.join(A), line.join(A)];
        assert_eq!(line.look(second, A, 0), line.behind(10_000));
        assert_eq!(line.look(third, A, 0), View::Behind(None));
        assert!(!line.has_news(second) && !line.has_news(third));
        line.queue.leave(first, A);
        assert!(line.has_news(second) && !line.has_news(third));
        assert_eq!(line.look(second, A, 1), TURN);
        assert_eq!(line.look(second, A, 2), View::StillFirst, "once for each turn");
        line.queue.hold(second, A, line.at(3), line.at(9_000));
        assert!(line.has_news(third), "it has to watch the new deadline");
        assert_eq!(line.look(third, A, 3), line.behind(9_000));
        line.queue.leave(second, A);
        assert_eq!(line.look(third, A, 4), TURN);
        line.queue.leave(third, A);
        assert_eq!(line.queue.len(), (0, 0));
    }

    #[test]
    fn a_ticket_that_leaves_from_the_middle_is_not_waited_for() {
        let mut line = Queued::new();
        let first = line.held(A);
        let [(second, _), (third, _), (fourth, _)] = [(); 3].map(|()| line.join(A));
        line.queue.leave(third, A);
        line.queue.leave(second, A);
        assert!(line.has_news(fourth), "it is next, and has to watch");
        line.queue.leave(first, A);
        assert_eq!(line.look(fourth, A, 0), TURN);
        line.queue.leave(fourth, A);
        assert_eq!(line.queue.len(), (0, 0));
    }

    #[test]
    fn several_resources_have_a_turn_when_they_are_first_everywhere() {
        let mut line = Queued::new();
        let (a, b) = (line.held(A), line.held(B));
        let (both, first) = line.join(BOTH);
        assert!(!first);
        let (late, _) = line.join(B);
        line.queue.leave(b, B);
        assert_eq!(line.look(both, BOTH, 1), line.behind(10_000), "A is still held");
        // It waits for its turn, so nobody passes it over.
        assert_eq!(line.look(late, B, 2), line.behind(1_001));
        line.queue.leave(a, A);
        assert_eq!(line.look(both, BOTH, 3), TURN);
        line.queue.leave(both, BOTH);
        assert_eq!(line.look(late, B, 4), TURN);
        line.queue.leave(late, B);
        assert_eq!(line.queue.len(), (0, 0));
    }

    #[test]
    fn a_lapsed_lock_is_passed_over_at_its_deadline_and_an_extension_moves_it() {
        let mut line = Queued::new();
        let leaked = line.held(A);
        let (next, _) = line.join(A);
        line.queue.stay(leaked, A, line.at(12_000));
        assert_eq!(line.look(next, A, 11_999), line.behind(12_000));
        assert_eq!(line.look(next, A, 12_000), TURN);
        line.queue.hold(next, A, line.at(12_001), line.at(20_000));
        line.queue.leave(leaked, A);
        let (third, first) = line.join(A);
        assert!(!first, "the late end of a lapsed lock is no turn");
        line.queue.leave(next, A);
        line.queue.leave(third, A);
        assert_eq!(line.queue.len(), (0, 0));
    }

    #[test]
    fn who_does_not_use_the_turn_is_passed_over_and_goes_on_by_itself() {
        let mut line = Queued::new();
        let first = line.held(A);
        let [(stuck, _), (next, _)] = [line.join(A), line.join(A)];
        line.queue.leave(first, A);
        assert_eq!(line.look(next, A, 0), line.behind(1_000));
        assert_eq!(line.look(next, A, 1_000), TURN);
        assert_eq!(line.look(stuck, A, 1_001), View::StillFirst);
        // It wins all the same, over the head of the other one.
        line.queue.hold(stuck, A, line.at(1_002), line.at(9_000));
        assert!(line.has_news(next));
        assert_eq!(line.look(next, A, 1_003), line.behind(9_000));
        line.queue.leave(stuck, A);
        assert_eq!(line.look(next, A, 1_004), TURN);
        line.queue.leave(next, A);
        assert_eq!(line.queue.len(), (0, 0));
    }

    #[test]
    fn a_lock_that_was_won_out_of_turn_is_waited_for() {
        let mut line = Queued::new();
        let (polling, _) = line.join(A);
        assert_eq!(line.look(polling, A, 0), View::StillFirst);
        let jumper = line.queue.ticket();
        line.queue.hold(jumper, A, line.now, line.at(5_000));
        assert_eq!(line.look(polling, A, 1), line.behind(5_000));
        line.queue.leave(jumper, A);
        assert_eq!(line.look(polling, A, 2), TURN);
        line.queue.leave(polling, A);

        let jumper = line.queue.ticket();
        line.queue.hold(jumper, A, line.now, line.at(5_000));
        assert!(!line.join(A).1);
    }

    struct Count(AtomicUsize);

    impl ArcWake for Count {
        fn wake_by_ref(count: &Arc<Self>) {
            count.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_waker_of_the_next_one_is_handed_out_once() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = futures_util::task::waker(count);
        let mut line = Queued::new();
        let holder = line.held(A);
        let (next, _) = line.join(A);
        assert!(line.queue.poll_news(next, Waker::noop()).is_pending());
        assert!(line.queue.poll_news(next, &waker).is_pending());
        line.queue.leave(holder, A);
        let woken = line.queue.take_woken();
        assert!(woken.len() == 1 && woken[0].will_wake(&waker), "the last one");
        assert!(line.queue.take_woken().is_empty());
    }

    proptest! {
        /// Whatever tickets do, in any order: the oldest that waits has its turn once the locks are gone, and
        /// none is left in the end.
        #[test]
        fn no_order_of_events_leaves_a_queue_without_a_turn(steps: Vec<(u8, u8)>) {
            let mut line = Queued::new();
            let mut waiting: Vec<(u64, &[u64])> = Vec::new();
            let mut held: Vec<(u64, &[u64])> = Vec::new();
            for (action, choice) in steps {
                let lines = [A, B, BOTH][usize::from(choice) % 3];
                match action % 4 {
                    0 => waiting.push((line.join(lines).0, lines)),
                    1 if !waiting.is_empty() => {
                        let (ticket, lines) = waiting.remove(usize::from(choice) % waiting.len());
                        line.queue.leave(ticket, lines);
                    }
                    2 if !held.is_empty() => {
                        let (ticket, lines) = held.remove(usize::from(choice) % held.len());
                        line.queue.leave(ticket, lines);
                    }
                    // Somebody wins, at the turn or not.
                    3 if !waiting.is_empty() => {
                        let won = waiting.remove(usize::from(choice) % waiting.len());
                        line.queue.hold(won.0, won.1, line.now, line.at(10_000));
                        held.push(won);
                    }
                    _ => {}
                }
            }
            for (ticket, lines) in held {
                line.queue.leave(ticket, lines);
            }
            for (ticket, lines) in waiting {
                prop_assert!(!matches!(line.look(ticket, lines, 0), View::Behind(_)));
                line.queue.leave(ticket, lines);
            }
            prop_assert_eq!(line.queue.len(), (0, 0));
        }
    }
}
