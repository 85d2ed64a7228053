//! What each defect does to counters.

// Tests: conformance/tests.rs.

use std::{num::NonZeroU64, time::Duration};

use super::{super::defects::Defect, Defective};
use crate::{
    Acquire, AcquireFenced, BackendError, BackendErrorKind, FencedReply, MAX_TTL, Raise, Release, Resources,
    Token, backend::LockBackend, fence::MAX_FENCE,
};

impl Defective {
    pub(super) async fn counted(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        let AcquireFenced { resources: names, token, ttl, proposal, counter_ttl, timeout, .. } = request;
        let taken = names.iter().any(|name| self.foreign(name, token));
        let repeated = names.iter().all(|name| self.holds(name, token));
        let before = self.highest(names);
        let mut request = request;
        match self.defect {
            Defect::FencedTakesHeldKeys => {
                names.iter().filter(|name| self.foreign(name, token)).for_each(|name| self.node.remove(name));
            }
            Defect::FencedTakesTheFreeOnes if taken => {
                let free: Vec<_> = names.iter().filter(|name| self.node.get(name).is_none()).collect();
                free.into_iter().for_each(|name| self.node.set(name, token.as_str(), ttl));
            }
            Defect::RefusedFencedCounts if taken => self.count_on(names),
            Defect::RepeatedFencedCounts if repeated => self.count_on(names),
            Defect::RepeatedFencedIsRefused if repeated => return Ok(FencedReply::Refused),
            Defect::ProposalIsIgnored => request.proposal = 0,
            Defect::CounterLivesAsLongAsItsKey => request.counter_ttl = Some(ttl),
            Defect::CounterNeverExpires => request.counter_ttl = None,
            Defect::CounterExpiresEarly => request.counter_ttl = counter_ttl.map(|ttl| ttl / 4),
            Defect::FencedSentTwice => drop(self.node.acquire_fenced(request).await),
            Defect::SeveralCountEachAlone if !taken => {
                for name in names.iter() {
                    let one = Resources::from(name);
                    let acquire = Acquire::new(&one, token, ttl, timeout);
                    self.node.acquire_fenced(AcquireFenced::new(acquire, proposal, counter_ttl)).await?;
                }
                return Ok(granted(self.highest(names)));
            }
            Defect::LastNumberIsGrantedAgain if before == MAX_FENCE && !taken => {
                self.node.acquire(Acquire::new(names, token, ttl, timeout)).await?;
                return Ok(granted(MAX_FENCE));
            }
            Defect::LastNumberIsTransient if before == MAX_FENCE => {
                return Err(BackendError::new(BackendErrorKind::Transient, "no number"));
            }
            Defect::LastNumberTakesTheKey if before == MAX_FENCE => {
                self.node.acquire(Acquire::new(names, token, ttl, timeout)).await?;
            }
            _ => {}
        }
        let others: Vec<_> = names.iter().skip(1).map(|name| (name, self.node.counter(name))).collect();
        let reply = self.node.acquire_fenced(request).await?;
        let FencedReply::Granted { counter } = reply else { return Ok(reply) };
        match self.defect {
            Defect::FencedStoresNothing => {
                self.node.release(Release::new(names, token, timeout)).await?;
            }
            Defect::GrantDoesNotCount if before > 0 && counter.get() == before + 1 => {
                return Ok(self.set_all(names, before));
            }
            Defect::ProposalLowers if proposal > 0 && !repeated && proposal < MAX_FENCE => {
                return Ok(self.set_all(names, proposal));
            }
            Defect::ProposalWithoutLimit if proposal > MAX_FENCE => {
                return Ok(self.set_all(names, MAX_FENCE - 100));
            }
            Defect::SeveralCountTheFirstOnly => {
                others.into_iter().for_each(|(name, counter)| match counter {
                    Some(counter) => self.node.set_counter(name, counter),
                    None => self.node.remove_counter(name),
                })
            }
            Defect::NumbersLoseDigits => return Ok(self.set_all(names, rounded(counter.get()))),
            _ => {}
        }
        Ok(reply)
    }

    pub(super) async fn raised(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        let Raise { resources: names, token, fence, ttl, counter_ttl, timeout, .. } = request;
        let all = names.iter().all(|name| self.holds(name, token));
        let free = names.iter().all(|name| self.node.get(name).is_none());
        let mut request = request;
        match self.defect {
            Defect::RaiseDoesNothing if all => return Ok(FencedReply::Granted { counter: fence }),
            Defect::RaiseLowers if all => return Ok(self.set_all(names, fence.get())),
            Defect::RaiseAcknowledgesWhatIsHigher if all => {
                self.node.raise(request).await?;
                return Ok(FencedReply::Granted { counter: fence });
            }
            Defect::RaiseOfAFreeKey if free => return Ok(self.set_all(names, fence.get())),
            Defect::RaiseIgnoresTheToken if !all && !free => return Ok(self.set_all(names, fence.get())),
            Defect::RefusedRaiseRaises if !all => drop(self.set_all(names, fence.get())),
            Defect::RaiseOfTheOwnOnes if !all => {
                let own = names.iter().filter(|name| self.holds(name, token)).collect();
                self.node.raise(Raise { resources: &own, ..request }).await?;
                return Ok(FencedReply::Refused);
            }
            Defect::RaiseOfTheFirstOnly if all => {
                let first = names.iter().take(1).collect();
                return self.node.raise(Raise { resources: &first, ..request }).await;
            }
            Defect::RaiseDoesNotExtend => request.ttl = None,
            Defect::RaiseAlwaysExtends => request.ttl = Some(ttl.unwrap_or(MAX_TTL)),
            Defect::RaiseShortens if all => {
                ttl.into_iter().for_each(|ttl| names.iter().for_each(|name| self.lengthen(name, ttl)));
            }
            Defect::RaiseLeavesTheCountersTtl if all && self.highest(names) >= fence.get() => {
                return Ok(granted(self.highest(names)));
            }
            Defect::CounterNeverExpires => request.counter_ttl = None,
            Defect::CounterExpiresEarly => request.counter_ttl = counter_ttl.map(|ttl| ttl / 4),
            Defect::RaiseBeyondTheHighest if all && fence.get() > MAX_FENCE => {
                return Ok(FencedReply::Granted { counter: fence });
            }
            _ => {}
        }
        let reply = self.node.raise(Raise { timeout: timeout.max(Duration::ZERO), ..request }).await?;
        match reply {
            FencedReply::Granted { counter } if self.defect == Defect::NumbersLoseDigits => {
                Ok(self.set_all(names, rounded(counter.get())))
            }
            _ => Ok(reply),
        }
    }

    /// After a request that has removed or replaced keys.
    pub(super) fn forget_counters(&self, names: &Resources, token: &Token) {
        names.iter().filter(|name| !self.holds(name, token)).for_each(|name| self.node.remove_counter(name));
    }

    fn highest(&self, names: &Resources) -> u64 {
        names.iter().filter_map(|name| self.node.counter(name)).map(NonZeroU64::get).max().unwrap_or(0)
    }

    fn count_on(&self, names: &Resources) {
        for name in names.iter() {
            let next = self.node.counter(name).map_or(NonZeroU64::MIN, |counter| counter.saturating_add(1));
            self.node.set_counter(name, next);
        }
    }

    fn set_all(&self, names: &Resources, counter: u64) -> FencedReply {
        let number = NonZeroU64::new(counter).unwrap();
        names.iter().for_each(|name| self.node.set_counter(name, number));
        granted(counter)
    }
}

fn granted(counter: u64) -> FencedReply {
    FencedReply::Granted { counter: NonZeroU64::new(counter).unwrap() }
}

/// To the 14 digits that Lua prints of a number.
fn rounded(counter: u64) -> u64 {
    if counter > 1_000_000_000_000_000 { counter / 100 * 100 } else { counter }
}
