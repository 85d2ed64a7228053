//! Where the account is: in memory, or in a database.

use std::sync::{Arc, Mutex};

use redlock_redis_rs::FencedRegister;

#[cfg(feature = "postgres")]
use crate::postgres::Table;
use crate::{
    account::{Account, Fenced, Plain},
    story::{Failed, START},
};

pub(crate) enum Store {
    Memory,
    #[cfg(feature = "postgres")]
    Postgres(Table),
}

impl Store {
    pub(crate) async fn open(postgres: Option<&str>) -> Result<Self, Failed> {
        match postgres {
            None => Ok(Self::Memory),
            #[cfg(feature = "postgres")]
            Some(url) => Ok(Self::Postgres(Table::create(url).await?)),
            #[cfg(not(feature = "postgres"))]
            Some(_) => Err("--postgres needs a feature: cargo run --features postgres ...".into()),
        }
    }

    /// A new account, and the access of two clients to it.
    pub(crate) async fn account(&self, fenced: bool) -> Result<[Arc<dyn Account>; 2], Failed> {
        match self {
            Self::Memory if fenced => Ok(shared(Fenced(FencedRegister::new(START)))),
            Self::Memory => Ok(shared(Plain(Mutex::new(START)))),
            #[cfg(feature = "postgres")]
            Self::Postgres(table) => table.account(START, fenced).await,
        }
    }

    pub(crate) async fn close(self) -> Result<(), Failed> {
        match self {
            Self::Memory => Ok(()),
            #[cfg(feature = "postgres")]
            Self::Postgres(table) => table.drop().await,
        }
    }
}

fn shared(account: impl Account + 'static) -> [Arc<dyn Account>; 2] {
    let account: Arc<dyn Account> = Arc::new(account);
    [account.clone(), account]
}
