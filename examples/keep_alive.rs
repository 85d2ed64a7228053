//! A lock that is extended in the background for as long as its guard lives: where `using` does not fit,
//! because the lock is taken in one function and released in another.
//!
//! ```text
//! cargo run --example keep_alive
//! cargo run --example keep_alive -- redis://127.0.0.1:7001 redis://127.0.0.1:7002 redis://127.0.0.1:7003
//! ```

use std::{env, error::Error as StdError, time::Duration};

use redlock_redis_rs::{Error, KeepAlive, Redlock};
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let redlock = redlock_examples::connect(env::args().skip(1))?;
    let import = begin(&redlock).await?;
    println!("the import begins");
    tokio::select! {
        () = sleep(TTL * 3) => println!("done after three times the TTL; still locked: {}", import.is_valid()),
        () = import.lost() => println!("another process may begin an import now: stop at once"),
    }
    println!("{:?}", import.unlock().await?);
    Ok(())
}

async fn begin(redlock: &Redlock) -> Result<KeepAlive, Error> {
    Ok(redlock.lock("import", TTL).retry_forever().await?.keep_alive())
}

#[cfg(test)]
#[tokio::test(start_paused = true)]
async fn there_is_one_import_until_its_guard_is_dropped() {
    let redlock = redlock_examples::connect([]).unwrap();
    let import = begin(&redlock).await.unwrap();
    let next = begin(&redlock);
    tokio::pin!(next);
    let waited = tokio::time::timeout(TTL * 10, &mut next).await;
    assert!(waited.is_err() && import.is_valid(), "it is extended");
    drop(import);
    assert!(next.await.unwrap().is_valid());
}
