//! What each defect does to requests.

// Tests: conformance/tests.rs.

use std::{sync::atomic::Ordering, time::Duration};

use super::{super::defects::Defect, Defective};
use crate::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Extend, Inspect, KeyState, MAX_TTL, Release,
    ReleaseReply, Replace, Resources, Runtime, backend::LockBackend,
};

impl Defective {
    pub(super) async fn take(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.troubled(request.timeout).await?;
        let (names, token) = (self.names(request.resources), self.token(request.token));
        let (ttl, timeout) = (self.ttl(request.ttl), self.timeout(request.timeout)?);
        let plain = Acquire::new(&names, &token, ttl, timeout);
        let own = names.iter().filter(|name| self.holds(name, &token)).count();
        self.acquires.lock().unwrap().extend(names.iter().map(str::to_owned));
        let taken = names.iter().any(|name| self.foreign(name, &token));
        match self.defect {
            Defect::NeverGrants => return Ok(AcquireReply::Refused),
            Defect::AcquireOverwrites => {
                names
                    .iter()
                    .filter(|name| self.foreign(name, &token))
                    .for_each(|name| self.node.remove(name));
            }
            Defect::RefusedAcquireExtends if taken => names.iter().for_each(|name| self.lengthen(name, ttl)),
            Defect::SecondAcquireIsRefused if own == names.iter().len() => return Ok(AcquireReply::Refused),
            Defect::OwnKeysAreInTheWay if own > 0 && own < names.iter().len() => {
                return Ok(AcquireReply::Refused);
            }
            Defect::SecondAcquireExtends | Defect::SecondAcquireShortens if !taken => {
                let longer = self.defect == Defect::SecondAcquireExtends;
                for name in
                    names.iter().filter(|name| self.node.ttl(name).is_some_and(|left| (left < ttl) == longer))
                {
                    self.lengthen(name, ttl);
                }
            }
            Defect::AcquireTakesTheFreeOnes if taken => {
                let free: Vec<_> = names.iter().filter(|name| self.node.get(name).is_none()).collect();
                free.into_iter().for_each(|name| self.node.set(name, token.as_str(), ttl));
            }
            Defect::AcquireStopsAtAForeignKey => {
                for name in names.iter() {
                    let name = Resources::from(name);
                    let request = Acquire::new(&name, &token, ttl, timeout);
                    if self.node.acquire(request).await? == AcquireReply::Refused {
                        return Ok(AcquireReply::Refused);
                    }
                }
                return Ok(AcquireReply::Granted);
            }
            Defect::AcquireTakesTheFirstOnly | Defect::AcquireTakesTenAtMost => {
                let most = if self.defect == Defect::AcquireTakesTenAtMost { 10 } else { 1 };
                let some = names.iter().take(most).collect();
                return self.node.acquire(Acquire::new(&some, &token, ttl, timeout)).await;
            }
            Defect::AcquireChecksAndThenSets => {
                tokio::task::yield_now().await;
                if !taken {
                    names.iter().for_each(|name| self.node.set(name, token.as_str(), ttl));
                }
                return Ok(if taken { AcquireReply::Refused } else { AcquireReply::Granted });
            }
            Defect::AcquireTakesOneByOne | Defect::OneCommandForEachKey => {
                for (position, name) in names.iter().enumerate() {
                    let one = Resources::from(name);
                    if self.node.acquire(Acquire::new(&one, &token, ttl, timeout)).await?
                        == AcquireReply::Refused
                    {
                        let back = names.iter().take(position).collect();
                        self.node.release(Release::new(&back, &token, timeout)).await?;
                        return Ok(AcquireReply::Refused);
                    }
                    if self.defect == Defect::AcquireTakesOneByOne {
                        tokio::task::yield_now().await;
                    }
                }
                return Ok(AcquireReply::Granted);
            }
            Defect::AcquireForgetsAKeyUsedOften => {
                let acquires = self.acquires.lock().unwrap();
                if names.iter().any(|name| acquires.iter().filter(|other| *other == name).count() > 60) {
                    return Ok(AcquireReply::Refused);
                }
            }
            Defect::ReleaseOvertakes => self.runtime.sleep(Duration::from_millis(5)).await,
            Defect::ReleaseOvertakesInABusyTask => tokio::task::consume_budget().await,
            Defect::DroppedAcquireIsSentLate => return self.late_when_dropped(plain).await,
            Defect::AnswersOutOfStep => {
                let answer = self.node.acquire(plain).await;
                self.answers.lock().unwrap().push_back(answer);
                tokio::task::yield_now().await;
                return self.answers.lock().unwrap().pop_front().unwrap();
            }
            Defect::SentTwice => drop(self.node.acquire(plain).await),
            Defect::ResentAfterATimeout => {
                let answer = self.node.acquire(plain).await;
                return if answer.is_err() { self.node.acquire(plain).await } else { answer };
            }
            Defect::SentWhenUpAgain if self.down.load(Ordering::Relaxed) => {
                let (defective, names, token) = (self.clone(), names.clone(), token.clone());
                self.runtime.spawn(Box::pin(async move {
                    while defective.down.load(Ordering::Relaxed) {
                        defective.runtime.sleep(Duration::from_millis(20)).await;
                    }
                    let _ = defective.node.acquire(Acquire::new(&names, &token, ttl, timeout)).await;
                }));
                return Err(BackendError::timed_out(timeout));
            }
            Defect::DownIsRefused if self.down.load(Ordering::Relaxed) => return Ok(AcquireReply::Refused),
            _ => {}
        }
        let answer = self.bent(self.node.acquire(plain).await);
        if answer.as_ref().is_ok_and(|reply| *reply == AcquireReply::Granted) {
            self.granted.lock().unwrap().insert(token.as_str().to_owned());
        }
        answer
    }

    async fn late_when_dropped(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        struct Late(Option<Box<dyn FnOnce() + Send>>);
        impl Drop for Late {
            fn drop(&mut self) {
                self.0.take().into_iter().for_each(|send| send());
            }
        }
        let (defective, names, token) = (self.clone(), request.resources.clone(), request.token.clone());
        let (ttl, timeout) = (request.ttl, request.timeout);
        let mut late = Late(Some(Box::new(move || {
            let runtime = defective.runtime.clone();
            runtime.spawn(Box::pin(async move {
                defective.runtime.sleep(Duration::from_millis(10)).await;
                let _ = defective.node.acquire(Acquire::new(&names, &token, ttl, timeout)).await;
            }));
        })));
        tokio::task::yield_now().await;
        late.0 = None;
        self.node.acquire(request).await
    }

    pub(super) async fn lengthened(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.troubled(request.timeout).await?;
        let (names, token) = (self.names(request.resources), self.token(request.token));
        let (ttl, timeout) = (self.ttl(request.ttl), self.timeout(request.timeout)?);
        let own: Vec<_> = names.iter().filter(|name| self.holds(name, &token)).collect();
        let all = own.len() == names.iter().len();
        let longer = |name: &str, ttl: Duration| {
            if self.node.ttl(name).is_some_and(|left| left < ttl) {
                self.lengthen(name, ttl);
            }
        };
        match self.defect {
            Defect::ExtendRevives => {
                let free: Vec<_> = names.iter().filter(|name| self.node.get(name).is_none()).collect();
                free.into_iter().for_each(|name| self.node.set(name, token.as_str(), ttl));
            }
            Defect::ExtendIgnoresTheToken => {
                names.iter().for_each(|name| longer(name, ttl));
                let there = names.iter().all(|name| self.node.get(name).is_some());
                return Ok(if there { AcquireReply::Granted } else { AcquireReply::Refused });
            }
            Defect::RefusedExtendExtends if !all => names.iter().for_each(|name| longer(name, ttl)),
            Defect::ExtendExtendsTheOwnOnes => own.iter().for_each(|name| longer(name, ttl)),
            Defect::ExtendExtendsTheFirstOnly if all => {
                let first = names.iter().take(1).collect();
                return self.node.extend(Extend::new(&first, &token, ttl, timeout)).await;
            }
            Defect::ExtendDoesNothing if all => return Ok(AcquireReply::Granted),
            Defect::ExtendShortens if all => {
                names.iter().for_each(|name| self.lengthen(name, ttl));
                return Ok(AcquireReply::Granted);
            }
            Defect::ExtendAdds if all => {
                for name in names.iter() {
                    self.lengthen(name, ttl + self.node.ttl(name).unwrap_or_default());
                }
                return Ok(AcquireReply::Granted);
            }
            Defect::ExtendTrustsItsMemory if own.is_empty() => {
                let granted = self.granted.lock().unwrap().contains(token.as_str());
                return Ok(if granted { AcquireReply::Granted } else { AcquireReply::Refused });
            }
            _ => {}
        }
        self.bent(self.node.extend(Extend::new(&names, &token, ttl, timeout)).await)
    }

    pub(super) async fn replaced(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        self.troubled(request.timeout).await?;
        let names = self.names(request.resources);
        let (old, new) = (self.token(request.old), self.token(request.new));
        let (ttl, timeout) = (self.ttl(request.ttl), self.timeout(request.timeout)?);
        let move_to_new = |name: &str, ttl: Duration| self.node.set(name, new.as_str(), ttl);
        let left = |name: &str| self.node.ttl(name).unwrap_or_default();
        let old_ones: Vec<_> = names.iter().filter(|name| self.holds(name, &old)).collect();
        let all = old_ones.len() == names.iter().len();
        match self.defect {
            Defect::ReplaceDoesNothing if all => return Ok(AcquireReply::Granted),
            Defect::ReplaceIgnoresTheOldToken if names.iter().all(|name| self.node.get(name).is_some()) => {
                names.iter().for_each(|name| move_to_new(name, ttl.max(left(name))));
                return Ok(AcquireReply::Granted);
            }
            Defect::ReplaceRevives if names.iter().all(|name| self.node.get(name).is_none()) => {
                names.iter().for_each(|name| move_to_new(name, ttl));
            }
            Defect::ReplaceTakesTheOwnOnes if !all => {
                old_ones.iter().for_each(|name| move_to_new(name, ttl.max(left(name))));
                return Ok(AcquireReply::Refused);
            }
            Defect::SecondReplaceIsRefused if !all => return Ok(AcquireReply::Refused),
            Defect::ReplaceShortens if all => {
                names.iter().for_each(|name| move_to_new(name, ttl));
                return Ok(AcquireReply::Granted);
            }
            Defect::ReplaceDoesNotExtend if all => {
                names.iter().for_each(|name| move_to_new(name, left(name)));
                return Ok(AcquireReply::Granted);
            }
            Defect::ReplaceIsTransient => {
                return Err(BackendError::new(BackendErrorKind::Transient, "cannot"));
            }
            _ => {}
        }
        let replaced = self.node.replace(Replace::new(&names, &old, &new, ttl, timeout)).await;
        if self.defect == Defect::CounterDiesAtReplace {
            self.forget_counters(&names, &old);
        }
        self.bent(replaced)
    }

    pub(super) async fn removed(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.released_by_second.store(self.is_second, Ordering::Relaxed);
        self.troubled(request.timeout).await?;
        let (names, token) = (self.names(request.resources), self.token(request.token));
        let timeout = self.timeout(request.timeout)?;
        let plain = Release::new(&names, &token, timeout);
        let own: Vec<_> = names.iter().filter(|name| self.holds(name, &token)).collect();
        match self.defect {
            Defect::ReleaseIgnoresTheToken => {
                names
                    .iter()
                    .filter(|name| self.foreign(name, &token))
                    .for_each(|name| self.node.remove(name));
            }
            Defect::ReleaseAlwaysSaysRemoved => {
                self.node.release(plain).await?;
                return Ok(ReleaseReply::Removed);
            }
            Defect::ReleaseDoesNothing => return Ok(ReleaseReply::Removed),
            Defect::ReleaseStopsAtAForeignKey => {
                for name in names.iter() {
                    let name = Resources::from(name);
                    let request = Release::new(&name, &token, timeout);
                    if self.node.release(request).await? == ReleaseReply::NotHeld {
                        return Ok(ReleaseReply::NotHeld);
                    }
                }
                return Ok(ReleaseReply::Removed);
            }
            Defect::ReleaseIsAllOrNothing if own.len() < names.iter().len() => {
                return Ok(ReleaseReply::NotHeld);
            }
            Defect::ReleaseOfSomeSaysRemoved if !own.is_empty() => {
                self.node.release(plain).await?;
                return Ok(ReleaseReply::Removed);
            }
            Defect::ReleaseByPrefix | Defect::ReleaseByPattern => {
                let mine: Vec<_> = names.iter().map(|name| name.trim_end_matches('*').to_owned()).collect();
                let acquires = self.acquires.lock().unwrap().clone();
                for (pattern, prefix) in names.iter().zip(&mine) {
                    if self.defect == Defect::ReleaseByPrefix || pattern.ends_with('*') {
                        let same = acquires
                            .iter()
                            .filter(|name| name.starts_with(prefix) && self.holds(name, &token));
                        same.filter(|name| *name != pattern).for_each(|name| self.node.remove(name));
                    }
                }
            }
            Defect::LooksFirst => drop(self.node.inspect(Inspect::new(&names, timeout)).await),
            Defect::ReleaseNotSentToAStoppedNode if self.stopped.load(Ordering::Relaxed) => {
                self.runtime.sleep(timeout).await;
                return Err(BackendError::timed_out(timeout));
            }
            _ => {}
        }
        let released = self.node.release(plain).await;
        if self.defect == Defect::CounterDiesAtRelease {
            self.forget_counters(&names, &token);
        }
        self.bent(released)
    }

    pub(super) async fn looked(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        self.troubled(request.timeout).await?;
        let names = self.names(request.resources);
        let plain = Inspect { notes: request.notes, ..Inspect::new(&names, self.timeout(request.timeout)?) };
        let states = self.bent(self.node.inspect(plain).await);
        let states = states.map(|states| self.with_wrong_notes(&names, states));
        match self.defect {
            Defect::InspectSaysFree => states.map(|states| states.iter().map(|_| KeyState::Free).collect()),
            Defect::InspectReverses => states.map(|states| states.into_iter().rev().collect()),
            Defect::InspectHasTheWrongTtl => {
                let wrong = |state| match state {
                    KeyState::Held { holder, .. } => KeyState::held(holder.as_bytes(), Some(MAX_TTL)),
                    KeyState::Free => KeyState::Free,
                };
                states.map(|states| states.into_iter().map(wrong).collect())
            }
            Defect::InspectIsTransient => Err(BackendError::new(BackendErrorKind::Transient, "cannot")),
            _ => states,
        }
    }
}
