//! The attempts of one call: round after round, until one is won or none may follow.

// Tests: patience.rs, waiters.rs; tests/tests/it/sim/waiting.rs, sim/queue.rs, sim/turns.rs, sim/bounds.rs.

use std::{
    future::pending,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{Either, join, select};
use rand::RngExt;

use crate::{
    annotation,
    error::Error,
    hold::HoldLimits,
    lease::LeaseState,
    lock::{Acquisition, Lock},
    nodes::Nodes,
    note::Note,
    patience::Patience,
    quorum::LossReason,
    reply::{NodeOutcome, NodeReply},
    resources::Resources,
    retry::RetryPolicy,
    rounds::AcquireRound,
    telemetry::Verb,
    ticket::Ticket,
    votes::LostRound,
    waiters::{GRACE, View},
    wakeup::{after_others, others_first, until_free},
};

/// The options of one call.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) retry: RetryPolicy,
    pub(crate) acquire_timeout: Option<Duration>,
    pub(crate) hold: HoldLimits,
    /// Whether the lock has a fencing token.
    pub(crate) fenced: bool,
    pub(crate) note: Option<Note>,
}

/// Makes rounds until one is won, or the last one is lost. Of the calls of a manager that want one resource,
/// one at a time does so.
pub(crate) async fn acquire(
    nodes: &Arc<Nodes>,
    resources: &Resources,
    ttl: Duration,
    options: &Options,
) -> Result<Lock, Error> {
    resources.validate()?;
    let ttl = nodes.ttl(options.hold.max.map_or(ttl, |max_hold| ttl.min(max_hold)))?;
    let asked = options.hold.cover(nodes.settings(), ttl)?;
    if options.fenced {
        nodes.check_fencing()?;
    }
    if options.note.is_some() {
        nodes.check_notes()?;
    }
    let mut begun = nodes.now();
    let longest = nodes.timeout(ttl) + GRACE;
    let mut patience = Patience::new(begun, &options.retry, nodes.timeout(ttl), options.acquire_timeout);
    let (mut ticket, its_turn) = if options.retry.is_single() {
        (nodes.waiters.outside(resources), true)
    } else {
        nodes.waiters.join(resources, begun + longest)
    };
    let (mut wait, mut woken) = (None, false);
    if !its_turn && let Some(due) = delay(nodes, &mut patience, begun) {
        until_next(nodes, &ticket, &mut patience, due, pending()).await;
        begun = nodes.now();
        ticket.stay(begun + longest);
    } else if its_turn
        && let Some((mut rivals, left)) = others_first(nodes, resources, begun)
        && let Some(due) = delay(nodes, &mut patience, begun)
    {
        // A single attempt has no delay, and so does not come here.
        let others_had_it = after_others(nodes, resources, &mut rivals, left);
        woken = until_next(nodes, &ticket, &mut patience, due, others_had_it).await;
        wait = Some(rivals);
        begun = nodes.now();
        ticket.stay(begun + longest);
    }
    let mut attempts: u32 = 0;
    loop {
        attempts = attempts.saturating_add(1);
        let timeout = patience.for_a_round(begun);
        let claim = nodes.claim(resources.clone(), asked, options.note.clone());
        let mut round = AcquireRound::new(nodes, claim, begun, timeout, options.fenced, ticket);
        let mut won = round.decide(patience.is_last(begun), patience.give_up()).await;
        if !won && patience.is_last(nodes.now()) {
            // It turned out to be the last one. If that was clear from the start, this changes nothing.
            won = round.decide(true, patience.give_up()).await;
        }
        if won {
            let mut won = round.accept(Verb::Acquire);
            let start = won.valid_until - nodes.drift().validity(asked);
            let until = options.hold.from(start);
            if let Some(until) = &until {
                won.valid_until = until.cut(won.valid_until);
            }
            let took = won.decided.map_or(Duration::ZERO, |decided| decided.saturating_duration_since(start));
            won.ticket.hold(start, won.valid_until);
            match &wait {
                Some(rivals) => nodes.usual_rivals.learn(resources, rivals, took),
                // A lock that was handed over within the process says nothing about others.
                None if its_turn => nodes.usual_rivals.learn_of_none(resources, took),
                None => {}
            }
            let state = LeaseState::new(nodes.clone(), won.claim, won.valid_until, won.ticket, won.fence);
            let replies = won.replies;
            let lock = Lock::new(state, ttl, Acquisition { attempts, took, replies, until });
            annotation::write(nodes, &lock.state().claim).await;
            return Ok(lock);
        }
        let now = nodes.now();
        if round.is_certain() {
            patience.learn(now - begun);
        }
        let (rollback, lost) = round.roll_back(Verb::Acquire);
        let (claim, mut holder) = (rollback.claim(), None);
        let delay = match lost.reason {
            LossReason::Rejected => None,
            LossReason::Refused | LossReason::NoQuorum => delay(nodes, &mut patience, now),
        };
        if let Some(due) = delay {
            ticket = rollback.begin().await;
            let rivals = wait.get_or_insert_with(|| nodes.usual_rivals.of(resources));
            rivals.took(now - begun);
            if woken && lost.reason == LossReason::Refused {
                let granted = |reply: &NodeReply| matches!(reply.outcome, NodeOutcome::Granted);
                rivals.collided(lost.replies.iter().any(granted));
            }
            let woken_again = until_free(nodes, resources, &lost.replies, rivals);
            woken = until_next(nodes, &ticket, &mut patience, due, woken_again).await;
            begun = nodes.now();
            ticket.stay(begun + longest);
            // A timer that fired too late has left no time for another round.
            if !patience.left(begun).is_zero() {
                continue;
            }
        } else {
            let left = patience.left(now);
            let settled = pin!(rollback.settle(nodes));
            let settled = select(settled, nodes.runtime().sleep(left));
            if options.note.is_some() && lost.reason == LossReason::Refused {
                let timeout = nodes.timeout(ttl).min(left);
                // Boxed, as few calls need it, and all would have room for it.
                let asked = Box::pin(annotation::holder(nodes, resources, &lost.replies, timeout));
                holder = join(settled, asked).await.1;
            } else {
                settled.await;
            }
        }
        return Err(LostRound { attempts, ..lost }.into_acquire_error(&claim).held_by(holder));
    }
}

/// Waits until the next round: until `due`, the end of the delay, if it is this call's turn, unless it is
/// `woken` before, else for the turn. Who is not at its turn when no delay is left makes a last round all the
/// same: the nodes know best, and nobody waits longer than without a queue. Returns whether it was woken.
async fn until_next(
    nodes: &Nodes,
    ticket: &Ticket,
    patience: &mut Patience,
    mut due: Instant,
    woken: impl Future<Output = ()>,
) -> bool {
    let mut woken = pin!(woken);
    loop {
        match until_turn(nodes, ticket, due, woken.as_mut()).await {
            None => return true,
            Some(View::Turn { after: None } | View::StillFirst) => return false,
            Some(View::Turn { after: Some(had) }) => {
                let pause = pause(had, |width| nodes.with_entropy(|rng| rng.random_range(0..=width)));
                let left = due.saturating_duration_since(nodes.now());
                nodes.runtime().sleep(pause.min(left)).await;
                return false;
            }
            Some(View::Behind(_)) => match delay(nodes, patience, nodes.now()) {
                Some(next) => due = next,
                None => return false,
            },
        }
    }
}

/// Waits for a turn until `due`. `None` when it was woken at its turn.
async fn until_turn(
    nodes: &Nodes,
    ticket: &Ticket,
    due: Instant,
    mut woken: Pin<&mut impl Future<Output = ()>>,
) -> Option<View> {
    loop {
        let now = nodes.now();
        let view = ticket.look(now, due + GRACE);
        let next = match view {
            View::Turn { .. } => return Some(view),
            View::Behind(Some(look_again)) => due.min(look_again),
            View::Behind(None) | View::StillFirst => due,
        };
        if now >= due {
            return Some(view);
        }
        let sleep = nodes.runtime().sleep(next.saturating_duration_since(now));
        let mut news = pin!(ticket.news());
        let news = select(news.as_mut(), sleep);
        if matches!(view, View::StillFirst) {
            if let Either::Left(_) = select(woken.as_mut(), news).await {
                return None;
            }
        } else {
            news.await;
        }
    }
}

fn delay(nodes: &Nodes, patience: &mut Patience, now: Instant) -> Option<Instant> {
    patience.delay(now, |width| nodes.with_entropy(|rng| rng.random_range(0..=width)))
}

/// How long a process waits that has handed a lock over to itself, and so had it for long: about a sixteenth
/// of that time. This is the chance of clients that only poll, and it is what the pauses cost.
fn pause(had: Duration, draw: impl FnOnce(u64) -> u64) -> Duration {
    let share = (had / 16).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    share / 2 + Duration::from_nanos(draw(u64::try_from(share.as_nanos()).unwrap_or(u64::MAX)))
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_share_of_the_time_before_within_bounds() {
        let ms = Duration::from_millis;
        for (had, shortest, longest) in [(0, 2, 6), (64, 2, 6), (160, 5, 15), (1_000_000, 50, 150)] {
            assert_eq!(pause(ms(had), |_| 0), ms(shortest), "{had}");
            assert_eq!(pause(ms(had), |width| width), ms(longest), "{had}");
        }
    }
}
