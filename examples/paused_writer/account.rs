//! The account that the lock guards, in a store that compares fencing tokens and in one that does not.

use std::{
    error::Error,
    fmt,
    num::NonZeroU64,
    sync::{Mutex, PoisonError},
};

use redlock_redis_rs::{FencedRegister, StaleFence, async_trait};

/// A client's access to the account. With each request it shows the fencing token of its lock, if it has one.
#[async_trait]
pub(crate) trait Account: Send + Sync {
    async fn read(&self, fence: Option<NonZeroU64>) -> Result<i64, Refused>;

    async fn write(&self, balance: i64, fence: Option<NonZeroU64>) -> Result<(), Refused>;
}

/// Why the account was not read or written.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The store has seen a higher token.
    Stale {
        highest: NonZeroU64,
    },
    Failed(Box<dyn Error + Send + Sync>),
}

impl Refused {
    pub(crate) fn no_token() -> Self {
        Self::Failed("the request shows no fencing token".into())
    }
}

impl From<StaleFence> for Refused {
    fn from(stale: StaleFence) -> Self {
        Self::Stale { highest: stale.highest }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { highest } => write!(f, "the store has seen the token {highest}"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl Error for Refused {}

/// An account in memory that does not look at tokens, as most stores.
pub(crate) struct Plain(pub(crate) Mutex<i64>);

#[async_trait]
impl Account for Plain {
    async fn read(&self, _: Option<NonZeroU64>) -> Result<i64, Refused> {
        Ok(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn write(&self, balance: i64, _: Option<NonZeroU64>) -> Result<(), Refused> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = balance;
        Ok(())
    }
}

/// An account in memory that refuses tokens that are lower than one it has seen.
pub(crate) struct Fenced(pub(crate) FencedRegister<i64>);

#[async_trait]
impl Account for Fenced {
    async fn read(&self, fence: Option<NonZeroU64>) -> Result<i64, Refused> {
        Ok(self.0.read(fence.ok_or_else(Refused::no_token)?)?)
    }

    async fn write(&self, balance: i64, fence: Option<NonZeroU64>) -> Result<(), Refused> {
        Ok(self.0.write(fence.ok_or_else(Refused::no_token)?, balance)?)
    }
}
