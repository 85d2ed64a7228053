//! A lock that one process takes and another one releases: a request handler locks an account, and a worker
//! does the work. The worker puts a token of its own in the place of the old one, so only one worker can have
//! the lock, however often the message is delivered.
//!
//! ```text
//! cargo run --example hand_over
//! cargo run --example hand_over -- redis://127.0.0.1:7001 redis://127.0.0.1:7002 redis://127.0.0.1:7003
//! ```

use std::{env, error::Error as StdError, time::Duration};

use redlock_redis_rs::{Error, LockParts, Redlock};

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let redlock = redlock_examples::connect(env::args().skip(1))?;
    let message = handle_request(&redlock).await?;
    // Here both are in one process. With the feature `serde`, the parts travel as JSON or the like. They
    // contain the token, so send them only to those who may release the lock.
    println!("worker 1: {}", work(&redlock, &message).await?);
    // A queue may deliver a message twice.
    match work(&redlock, &message).await {
        Err(Error::Lost(_)) => println!("worker 2: another worker has taken the lock"),
        other => println!("worker 2: {other:?}"),
    }
    Ok(())
}

async fn handle_request(redlock: &Redlock) -> Result<LockParts, Error> {
    let lock = redlock.lock("account:7", Duration::from_secs(30)).await?;
    Ok(lock.into_parts())
}

async fn work(redlock: &Redlock, message: &LockParts) -> Result<String, Error> {
    let lock = redlock.from_parts(message).await?;
    let done = format!("done, valid for another {:?}", lock.remaining());
    lock.unlock().await?;
    Ok(done)
}

#[cfg(test)]
#[tokio::test(start_paused = true)]
async fn one_worker_gets_the_lock() {
    let redlock = redlock_examples::connect([]).unwrap();
    let message = handle_request(&redlock).await.unwrap();
    let between = redlock.try_lock("account:7", Duration::from_secs(30)).await;
    assert!(matches!(between, Err(Error::Contended(_))), "the account stays locked: {between:?}");
    assert!(work(&redlock, &message).await.is_ok());
    assert!(matches!(work(&redlock, &message).await, Err(Error::Lost(_))));
}
