//! What each defect does to watches.

// Tests: conformance/tests.rs.

use std::{future::pending, sync::atomic::Ordering, time::Duration};

use super::{super::defects::Defect, Defective};
use crate::{BackendError, BackendErrorKind, MAX_TTL, Resources, Runtime, Watch, backend::LockBackend};

impl Defective {
    pub(super) async fn watched(&self, request: Watch<'_>) -> Result<(), BackendError> {
        let (names, timeout) = (request.resources, request.timeout);
        match self.defect {
            Defect::WatchIsTransient => {
                return Err(BackendError::new(BackendErrorKind::Transient, "cannot"));
            }
            Defect::WatchCompletesAtOnce => return Ok(()),
            Defect::WatchIgnoresItsTimeout => {
                return self.node.watch(Watch::new(names, MAX_TTL)).await;
            }
            Defect::WatchDoesNotLook | Defect::WatchLooksAndThenListens => {
                let looks = self.defect == Defect::WatchLooksAndThenListens;
                if looks && self.is_free(names) {
                    return Ok(());
                }
                if looks {
                    self.runtime.sleep(Duration::from_micros(500)).await;
                }
                if self.is_free(names) {
                    self.never(timeout).await?;
                }
            }
            Defect::WatchHearsItsOwnInstanceOnly => {
                let heard = self.node.watch(request).await;
                if self.released_by_second.load(Ordering::Relaxed) {
                    self.never(timeout).await?;
                }
                return heard;
            }
            Defect::WatchWakesOneOnly => {
                // The others of now have to wait until this one has ended, and then for nothing.
                return match self.watch.try_lock() {
                    Ok(_only) => self.node.watch(request).await,
                    Err(_) => self.never(timeout).await,
                };
            }
            Defect::WatchMissesTheExpiry => {
                let left = names.iter().filter_map(|name| self.node.ttl(name)).max();
                let expiry = self.runtime.now() + left.unwrap_or_default();
                let heard = self.node.watch(request).await;
                if left.is_some() && self.runtime.now() >= expiry {
                    self.never(timeout).await?;
                }
                return heard;
            }
            Defect::WatchEndsAtTheFirstKey => {
                let first = names.iter().find(|name| self.node.get(name).is_none());
                let first = first.or_else(|| names.iter().next()).unwrap_or_default();
                return self.node.watch(Watch::new(&Resources::from(first), timeout)).await;
            }
            Defect::WatchEndsForGoodAtAnExtension => {
                let ttl = || names.iter().filter_map(|name| self.node.ttl(name)).max();
                let mut before = ttl();
                let extended = async {
                    while ttl() <= before {
                        before = ttl();
                        self.runtime.sleep(Duration::from_micros(100)).await;
                    }
                };
                tokio::select! {
                    biased;
                    () = extended => self.never(timeout).await?,
                    heard = self.node.watch(request) => return heard,
                }
            }
            _ => {}
        }
        self.node.watch(request).await
    }

    fn is_free(&self, names: &Resources) -> bool {
        names.iter().all(|name| self.node.get(name).is_none())
    }

    async fn never(&self, timeout: Duration) -> Result<(), BackendError> {
        tokio::select! {
            never = pending() => never,
            () = self.runtime.sleep(timeout) => Err(BackendError::timed_out(timeout)),
        }
    }
}
