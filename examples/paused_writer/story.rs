//! The story: two clients pay into an account under a lock, and one of them is paused while it holds it.

use std::{
    error::Error,
    num::NonZeroU64,
    process,
    sync::Arc,
    time::{Duration, SystemTime},
};

use redlock_redis_rs::{Lock, Redlock};
use tokio::time::sleep;

use crate::{
    account::{Account, Refused},
    timeline::{
        Timeline,
        Who::{self, A, B},
    },
};

pub(crate) const TTL: Duration = Duration::from_secs(1);
pub(crate) const START: i64 = 100;
pub(crate) const FROM_A: i64 = 10;
pub(crate) const FROM_B: i64 = 50;

pub(crate) type Failed = Box<dyn Error + Send + Sync>;

/// One of the two processes: a lock manager of its own, and its own access to the account.
pub(crate) struct Client {
    pub(crate) redlock: Redlock,
    pub(crate) account: Arc<dyn Account>,
}

pub(crate) struct Story {
    pub(crate) a: Client,
    pub(crate) b: Client,
    pub(crate) resource: String,
    /// Whether the locks have fencing tokens.
    pub(crate) fenced: bool,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) balance: i64,
    /// What the store said to the late write.
    pub(crate) refused: Option<Refused>,
    /// The tokens of the locks, in the order in which the clients got them.
    pub(crate) fences: Vec<NonZeroU64>,
}

impl Story {
    pub(crate) async fn tell(&self, timeline: &Timeline) -> Result<Ending, Failed> {
        let (a, b) = (&self.a, &self.b);
        let lock_a = self.lock(a, A, timeline).await?;
        let seen_by_a = a.account.read(lock_a.fence()).await?;
        timeline.say_balance(A, &format!("reads {seen_by_a}"), seen_by_a);
        timeline.say(A, &format!("checks: its lock is {}", validity(&lock_a)));

        // From here on nothing of A runs: it is a garbage collection, a virtual machine that moves, a
        // laptop that is closed. A keep-alive would not help, as it would stand still, too.
        timeline.say(A, "is paused");
        sleep(TTL / 5).await;

        timeline.say(B, "asks for the lock, and waits");
        let lock_b = self.lock(b, B, timeline).await?;
        let seen_by_b = b.account.read(lock_b.fence()).await?;
        timeline.say(B, &format!("reads {seen_by_b}"));
        let sum = seen_by_b + FROM_B;
        b.account.write(sum, lock_b.fence()).await?;
        timeline.say_balance(B, &format!("adds {FROM_B}, and writes {sum}"), sum);
        let mut fences: Vec<NonZeroU64> = [lock_a.fence(), lock_b.fence()].into_iter().flatten().collect();
        lock_b.unlock().await?;
        timeline.say(B, "releases the lock");
        sleep(TTL / 5).await;

        // A continues right behind its check. It has no reason to check again.
        timeline.say(A, "continues");
        let sum = seen_by_a + FROM_A;
        let refused = match a.account.write(sum, lock_a.fence()).await {
            Ok(()) => {
                timeline.say_balance(A, &format!("adds {FROM_A}, and writes {sum}"), sum);
                None
            }
            Err(Refused::Failed(error)) => return Err(error),
            Err(refused) => {
                timeline.say(A, &format!("adds {FROM_A}, writes {sum}: REFUSED"));
                timeline.say(A, "knows that it is late: starts again");
                fences.extend(self.pay_in(timeline).await?);
                Some(refused)
            }
        };
        let balance = b.account.read(fences.last().copied()).await?;
        Ok(Ending { balance, refused, fences })
    }

    /// A pays in, without a pause this time.
    async fn pay_in(&self, timeline: &Timeline) -> Result<Option<NonZeroU64>, Failed> {
        let lock = self.lock(&self.a, A, timeline).await?;
        let fence = lock.fence();
        let seen = self.a.account.read(fence).await?;
        timeline.say(A, &format!("reads {seen}"));
        let sum = seen + FROM_A;
        self.a.account.write(sum, fence).await?;
        timeline.say_balance(A, &format!("adds {FROM_A}, and writes {sum}"), sum);
        lock.unlock().await?;
        Ok(fence)
    }

    async fn lock(&self, client: &Client, who: Who, timeline: &Timeline) -> Result<Lock, Failed> {
        let mut request =
            client.redlock.lock(self.resource.as_str(), TTL).retry_forever().acquire_timeout(PATIENCE);
        if self.fenced {
            request = request.fenced();
        }
        let lock = request.await?;
        timeline.say(who, &format!("has the lock for {} ms", TTL.as_millis()));
        if let Some(fence) = lock.fence() {
            timeline.say(who, &format!("its token: {fence}"));
        }
        Ok(lock)
    }
}

impl Ending {
    /// B's money is gone.
    pub(crate) fn is_accident(&self) -> bool {
        self.refused.is_none() && self.balance == START + FROM_A
    }

    /// All money is there, after a refusal, and the tokens have grown.
    pub(crate) fn is_prevented(&self) -> bool {
        let grow = self.fences.len() == 3 && self.fences.is_sorted_by(|earlier, later| earlier < later);
        self.refused.is_some() && self.balance == START + FROM_A + FROM_B && grow
    }

    pub(crate) fn without_tokens(&self) -> String {
        if !self.is_accident() {
            return format!("This should have gone wrong, and did not: {self:?}");
        }
        format!(
            "The {FROM_B} of B are gone: the balance is {}. A's lock was valid when A looked, and no lock can\n\
             stop a write of somebody who has stopped looking. Nobody has noticed anything.",
            self.balance
        )
    }

    pub(crate) fn with_tokens(&self) -> String {
        if !self.is_prevented() {
            return format!("The tokens should have prevented it, and have not: {self:?}");
        }
        format!(
            "Everything is there: the balance is {}. The store had seen the token of B, which is higher than\n\
             that of A. So it refused the late write, and A knew that it had to start again.",
            self.balance
        )
    }
}

/// A name that no other run uses at the same time.
pub(crate) fn unique(name: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{name}_{}_{}", process::id(), now.as_micros())
}

fn validity(lock: &Lock) -> &'static str {
    if lock.is_valid() { "valid" } else { "not valid any more" }
}

const PATIENCE: Duration = Duration::from_secs(20);
