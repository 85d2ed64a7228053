//! Extending a lock in the background.

// Tests: renewal.rs, extensions.rs, extender.rs; tests/tests/it/sim/keep_alive.rs, sim/using.rs.

use std::{num::NonZeroU64, sync::Arc};

use rand::RngExt;

use crate::{
    error::Error,
    extender::{Extendable, ExtenderEntry},
    extensions::{End, Next},
    lease::{Lease, LeaseState},
    lock::{Lock, UnlockOutcome},
    renewal::Renewal,
    runtime::BoxFuture,
};

/// A lock that is extended in the background, a third to a half of its TTL after the last extension. While an
/// extension fails, it is retried every tenth of the TTL, until one succeeds or the validity has ended.
///
/// The moment is random each time, so that locks taken together are not extended together. When a process
/// holds so many locks that extensions fall behind, the nearest deadlines go first.
///
/// One background task extends all the locks that a lock manager keeps alive on a runtime. It starts with
/// the first guard and ends with the last one. Dropping the guard drops the lock, which releases it in the
/// background.
///
/// A lock with a [`min_hold`](crate::LockRequest::min_hold) that is longer than its TTL is first extended
/// when as much is left of its validity as is usual for its TTL: its keys should not outlive the minimum
/// for nothing.
#[derive(Debug)]
#[must_use = "a guard that is dropped releases its lock"]
pub struct KeepAlive {
    /// Dropped first: a lock that is being released is not extended.
    _entry: ExtenderEntry,
    lock: Lock,
}

impl KeepAlive {
    fn new(lock: Lock) -> Self {
        let state = lock.state();
        let nodes = &state.nodes;
        let renewal = Renewal::new(lock.ttl(), lock.hold_until(|until| until.max));
        let (deadline, validity) = (state.valid_until(), nodes.drift().validity(lock.ttl()));
        let won = deadline - validity;
        let kept_from = lock.hold_until(|until| until.min).and_then(|min| min.checked_sub(validity));
        let now = nodes.now();
        let due =
            nodes.with_entropy(|rng| renewal.first(now, won, kept_from, |max| rng.random_range(0..=max)));
        let entry = nodes.extenders.get().keep(state.clone(), renewal, Next { due, deadline });
        Self { _entry: entry, lock }
    }

    /// A view of the lock, for the code that it guards.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.lock.lease()
    }

    /// The lock's fencing token, see [`Lock::fence`].
    #[must_use]
    pub fn fence(&self) -> Option<NonZeroU64> {
        self.lock.fence()
    }

    /// Whether the lock is valid now, see [`Lock::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.lock.is_valid()
    }

    /// Completes when the lock is lost, see [`Lease::lost`].
    pub async fn lost(&self) {
        self.lock.state().ended().await;
    }

    /// Stops extending and returns the lock.
    pub fn stop(self) -> Lock {
        self.lock
    }

    /// Stops extending and releases the lock.
    ///
    /// # Errors
    ///
    /// As [`Lock::unlock`].
    pub async fn unlock(self) -> Result<UnlockOutcome, Error> {
        self.stop().unlock().await
    }
}

impl Lock {
    /// Extends the lock in the background until the guard is dropped: see [`KeepAlive`].
    pub fn keep_alive(self) -> KeepAlive {
        KeepAlive::new(self)
    }
}

impl Extendable for LeaseState {
    fn extend_once(self: Arc<Self>, renewal: Renewal) -> BoxFuture<End> {
        Box::pin(async move {
            let nodes = &self.nodes;
            let start = nodes.now();
            let Some(ttl) = renewal.ttl(start).and_then(|ttl| nodes.ttl(ttl).ok()) else {
                return End::default();
            };
            let left = self.valid_until().saturating_duration_since(start);
            let extended = self.extend_within(ttl, renewal.timeout(left), renewal.until()).await;
            let due = match extended {
                Ok(()) => {
                    Some(nodes.with_entropy(|rng| renewal.next(start, |max| rng.random_range(0..=max))))
                }
                Err(Error::Lost(_)) => None,
                Err(_) => Some(renewal.retry(nodes.now())),
            };
            let replied = (nodes.timeout(ttl), !matches!(extended, Err(Error::NoQuorum(_))));
            End {
                next: due.map(|due| Next { due, deadline: self.valid_until() }),
                replied: (!left.is_zero()).then_some(replied),
            }
        })
    }
}
