//! A lock, from taking it to releasing it.
//!
//! ```text
//! cargo run --example lock
//! cargo run --example lock -- redis://127.0.0.1:7001 redis://127.0.0.1:7002 redis://127.0.0.1:7003
//! ```

use std::{env, error::Error as StdError, time::Duration};

use redlock_redis_rs::{Error, Redlock, UnlockOutcome};

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let redlock = redlock_examples::connect(env::args().skip(1))?;
    println!("unlocked: {:?}", work(&redlock).await?);
    Ok(())
}

async fn work(redlock: &Redlock) -> Result<UnlockOutcome, Error> {
    let ttl = Duration::from_secs(10);
    let mut lock = redlock.lock("report", ttl).await?;
    println!("locked after {} attempt(s), valid for another {:?}", lock.attempts(), lock.remaining());

    match redlock.try_lock("report", ttl).await {
        Ok(_) => unreachable!("two clients hold the lock"),
        Err(Error::Contended(_)) => println!("another client has to wait"),
        Err(error) => return Err(error),
    }

    lock.extend(ttl).await?;
    // A lock is a lease: check it right before each step that must not run twice.
    println!("still valid: {}", lock.is_valid());
    lock.unlock().await
}

#[cfg(test)]
#[tokio::test(start_paused = true)]
async fn the_lock_is_held_and_then_free() {
    let redlock = redlock_examples::connect([]).unwrap();
    assert_eq!(work(&redlock).await.unwrap(), UnlockOutcome::Released);
    assert!(redlock.try_lock("report", Duration::from_secs(10)).await.is_ok(), "it is free again");
}
