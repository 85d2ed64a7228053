//! Several resources in one lock: all of them or none, so the order of their names does not matter.
//!
//! ```text
//! cargo run --example several_resources
//! cargo run --example several_resources -- redis://127.0.0.1:7001 redis://127.0.0.1:7002 ...
//! ```

use std::{env, error::Error as StdError, time::Duration};

use redlock_redis_rs::{Error, Redlock};

const TTL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let redlock = redlock_examples::connect(env::args().skip(1))?;
    let transfer = redlock.lock(["account:1", "account:2"], TTL).await?;
    println!("locked: {:?}", transfer.resources().as_slice());
    for account in ["account:1", "account:2", "account:3"] {
        println!("{account} is {}", if is_free(&redlock, account).await? { "free" } else { "held" });
    }
    transfer.unlock().await?;
    Ok(())
}

/// Locks the account for a moment. An answer of this kind is old as soon as it is there.
async fn is_free(redlock: &Redlock, account: &str) -> Result<bool, Error> {
    match redlock.try_lock(account, TTL).await {
        Ok(lock) => lock.unlock().await.map(|_| true),
        Err(Error::Contended(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[tokio::test(start_paused = true)]
async fn a_lock_holds_all_of_its_resources_or_none() {
    let redlock = redlock_examples::connect([]).unwrap();
    let transfer = redlock.lock(["account:1", "account:2"], TTL).await.unwrap();
    let overlapping = redlock.try_lock(["account:3", "account:2"], TTL).await;
    assert!(matches!(overlapping, Err(Error::Contended(_))), "{overlapping:?}");
    assert!(!is_free(&redlock, "account:1").await.unwrap());
    assert!(is_free(&redlock, "account:3").await.unwrap(), "the lock that was refused left nothing behind");
    transfer.unlock().await.unwrap();
    assert!(is_free(&redlock, "account:2").await.unwrap());
}
