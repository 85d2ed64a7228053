//! The clients of a run: they do all that users do, at random.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng, seq::IndexedRandom};
use redlock_core::{Error, Lease, Lock, LockRequest, Redlock, Runtime, Token, UnlockOutcome};

use super::{Outcome, World, faults::Fault};
use crate::sim_runtime::SimRuntime;

/// One task of a client. A client is a process with a lock manager, which its tasks share.
pub(super) struct Client {
    pub(super) world: Arc<World>,
    pub(super) number: usize,
    pub(super) process: SimRuntime,
    pub(super) redlock: Redlock,
    pub(super) rng: ChaCha8Rng,
    /// The source of cancellations: a separate one, so that a run without them is otherwise the same.
    pub(super) cancel: ChaCha8Rng,
}

impl Client {
    pub(super) async fn run(mut self) {
        let operations = self.rng.random_range(2..10);
        for _ in 0..operations {
            if self.world.is_calm() {
                break;
            }
            let rng = ChaCha8Rng::from_rng(&mut self.rng);
            let polls = self.cancel.random_range(0..60);
            let cancelled = self.cancel.random_bool(0.15) && self.world.faults.has(Fault::Cancel);
            let operation = self.survive(self.operation(rng));
            if cancelled {
                self.world.network.strike(Fault::Cancel);
                if drop_after(polls, operation).await.is_none() {
                    self.say(|| "cancels its operation".to_owned());
                    self.world.outcome(self.number, Outcome::Cancelled);
                }
            } else {
                operation.await;
            }
            let pause = self.rng.random_range(0..100);
            self.sleep(pause).await;
        }
        self.say(|| "is done".to_owned());
        self.world.done(self.number);
    }

    /// A panic of a routine ends its operation.
    async fn survive(&self, operation: impl Future<Output = ()>) {
        if let Err(panic) = caught(operation).await {
            if !panic.is::<RoutinePanic>() {
                resume_unwind(panic);
            }
            self.say(|| "survives a panic of its routine".to_owned());
        }
    }

    async fn operation(&self, mut rng: ChaCha8Rng) {
        match rng.random_range(0..10) {
            0..5 => {
                let mut request = self.request(&mut rng);
                let min_hold = rng.random_bool(0.2).then(|| millis(rng.random_range(1..MAX_MIN_HOLD_MILLIS)));
                if let Some(min_hold) = min_hold {
                    request = request.min_hold(min_hold);
                }
                match request.await {
                    Ok(lock) => {
                        if min_hold.is_some() {
                            // However it ends, its keys may stay.
                            self.world.abandon(lock.token().as_str());
                        }
                        self.won(lock.lease(), Some(lock.token()), Won::Alone);
                        self.hold(&mut rng, lock).await;
                    }
                    Err(error) => self.failed(&error),
                }
            }
            5..9 => self.use_one(&mut rng).await,
            _ => self.take_over(&mut rng).await,
        }
    }

    fn request(&self, rng: &mut ChaCha8Rng) -> LockRequest {
        let ttl = ttl(rng);
        let request = match rng.random_range(0..4) {
            0 => self.redlock.lock(RESOURCES, ttl),
            _ => self.redlock.lock(*RESOURCES.choose(rng).expect("two"), ttl),
        };
        let request = request
            .retry_count(rng.random_range(0..8))
            .retry_delay(millis(rng.random_range(1..150)))
            .retry_jitter(millis(rng.random_range(0..50)));
        let request = if rng.random_bool(0.2) {
            request.acquire_timeout(millis(rng.random_range(1..1_000)))
        } else {
            request
        };
        // Locks without a fencing token exclude those with one, but do not count.
        if self.world.fencing.is_some() && rng.random_bool(0.9) { request.fenced() } else { request }
    }

    async fn hold(&self, rng: &mut ChaCha8Rng, mut lock: Lock) {
        self.say(|| {
            let fence = lock.fence().map_or(String::new(), |fence| format!(" and has {fence}"));
            format!("holds {} for {:?}{fence}", &lock.token().as_str()[..6], lock.remaining())
        });
        for _ in 0..rng.random_range(0..4) {
            self.sleep(rng.random_range(0..1_000)).await;
            let extended = if rng.random_bool(0.8) {
                lock.extend(ttl(rng)).await
            } else {
                let kept = lock.keep_alive();
                self.sleep(rng.random_range(0..2_000)).await;
                lock = kept.stop();
                Ok(())
            };
            match extended {
                Ok(()) => self.say(|| format!("holds for another {:?}", lock.remaining())),
                Err(error) => self.failed(&error),
            }
        }
        self.sleep(rng.random_range(0..300)).await;
        let names = lock.resources().clone();
        match rng.random_range(0..9) {
            0 => drop(lock),
            8 => {
                self.say(|| "forgets that it has a lock".to_owned());
                self.world.abandon(lock.token().as_str());
                self.world.leak(lock);
            }
            1 => {
                self.say(|| "leaves its lock to expire".to_owned());
                self.world.abandon(lock.token().as_str());
                lock.forget();
            }
            2 => {
                self.say(|| "hands its lock over".to_owned());
                self.world.offer(lock.into_parts());
            }
            _ => match lock.unlock().await {
                Ok(found) => {
                    self.say(|| format!("unlocks: {found:?}"));
                    if let UnlockOutcome::Kept { remaining, .. } = found {
                        self.world.checks().kept(self.number, self.process.clone(), names, remaining);
                    }
                    let outcome = match found {
                        UnlockOutcome::Kept { .. } => Outcome::Kept,
                        _ => Outcome::Unlocked,
                    };
                    self.world.outcome(self.number, outcome);
                }
                Err(error) => self.failed(&error),
            },
        }
    }

    async fn use_one(&self, rng: &mut ChaCha8Rng) {
        let length = rng.random_range(0..3_000);
        let asked = self.world.runtime.elapsed();
        let mut request = self.request(rng);
        if rng.random_bool(0.2) {
            request = request.max_hold(millis(rng.random_range(100..3_000)));
        }
        let panics = rng.random_bool(0.05);
        let used = request.using(|lease| async move {
            self.say(|| format!("runs a routine, valid for {:?}", lease.remaining()));
            let hold = self.won(lease, None, Won::ForRoutine { asked });
            let _running = Running { client: self, hold };
            self.sleep(length).await;
            if panics {
                // Without the hook, which would print it.
                resume_unwind(Box::new(RoutinePanic));
            }
        });
        match used.await {
            Ok(()) => self.world.outcome(self.number, Outcome::Used),
            Err(error) => self.failed(&error),
        }
    }

    async fn take_over(&self, rng: &mut ChaCha8Rng) {
        let Some(parts) = self.world.take_offer(rng.random_bool(0.5)) else { return };
        match self.redlock.from_parts(&parts).await {
            Ok(lock) => {
                self.say(|| "took a lock over".to_owned());
                if parts.min_hold.is_some() {
                    self.world.abandon(lock.token().as_str());
                }
                assert_eq!(lock.fence(), parts.fence, "a lock that is handed over has another fencing token");
                self.won(lock.lease(), None, Won::TakenOver);
                self.hold(rng, lock).await;
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Records a lock, and spawns a task that waits for its loss.
    fn won(&self, lease: Lease, token: Option<&Token>, how: Won) -> usize {
        self.world.outcome(self.number, Outcome::Won);
        let round = token.and_then(|token| self.world.network.ledger(|ledger| ledger.round(token.as_str())));
        let began = match (round, how) {
            (Some((began, _)), _) => Some(began),
            (None, Won::ForRoutine { asked }) => Some(asked),
            (None, Won::Alone | Won::TakenOver) => None,
        };
        if let (Some(fence), Some(began)) = (lease.fence(), began) {
            self.world.fenced(lease.resources(), fence, began, round.map(|(_, trips)| trips));
        }
        let routine = matches!(how, Won::ForRoutine { .. });
        let hold = self.world.checks().won(self.number, self.process.clone(), lease.clone(), routine);
        let world = self.world.clone();
        self.process.spawn(Box::pin(async move {
            lease.lost().await;
            world.checks().noticed(hold);
        }));
        hold
    }

    fn failed(&self, error: &Error) {
        self.say(|| format!("fails: {error}"));
        self.world.outcome(
            self.number,
            match error {
                Error::Contended(_) => Outcome::Contended,
                Error::NoQuorum(_) => Outcome::NoQuorum,
                Error::Lost(_) => Outcome::Lost,
                // No node rejects a request, and the requests are valid.
                error => panic!("client {}: {error}", self.number),
            },
        );
    }

    async fn sleep(&self, length: u64) {
        self.process.sleep(millis(length)).await;
    }

    fn say(&self, text: impl FnOnce() -> String) {
        self.world.timeline.client(self.process.elapsed(), self.number, text);
    }
}

/// How a lock was won.
#[derive(Clone, Copy)]
enum Won {
    Alone,
    /// When the routine's caller asked for it, as a routine does not know its round.
    ForRoutine {
        asked: Duration,
    },
    /// The hold has begun before.
    TakenOver,
}

/// The panic of a routine.
struct RoutinePanic;

/// A routine under a lock.
struct Running<'a> {
    client: &'a Client,
    hold: usize,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.client.world.checks().routine_over(self.hold);
    }
}

/// The output of the future, or its panic.
async fn caught<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = Box::pin(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// Drops the future after this many polls, at any await.
async fn drop_after<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = polls;
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

fn ttl(rng: &mut ChaCha8Rng) -> Duration {
    millis(rng.random_range(100..MAX_TTL_MILLIS))
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) const RESOURCES: [&str; 2] = ["a", "b"];
pub(super) const MAX_TTL_MILLIS: u64 = 5_000;
/// So that its TTL is no longer than any other.
const MAX_MIN_HOLD_MILLIS: u64 = 4_900;
pub(super) const MAX_TTL: Duration = Duration::from_millis(MAX_TTL_MILLIS);
