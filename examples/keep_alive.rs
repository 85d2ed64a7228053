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
    let leader = become_leader(&redlock).await?;
    println!("leader");
    tokio::select! {
        () = sleep(TTL * 3) => println!("done after three times the TTL; still leader: {}", leader.is_valid()),
        () = leader.lost() => println!("another process may be leader now: stop at once"),
    }
    println!("{:?}", leader.unlock().await?);
    Ok(())
}

async fn become_leader(redlock: &Redlock) -> Result<KeepAlive, Error> {
    Ok(redlock.lock("leader", TTL).retry_forever().await?.keep_alive())
}

#[cfg(test)]
#[tokio::test(start_paused = true)]
async fn there_is_one_leader_until_its_guard_is_dropped() {
    let redlock = redlock_examples::connect([]).unwrap();
    let leader = become_leader(&redlock).await.unwrap();
    let next = become_leader(&redlock);
    tokio::pin!(next);
    let waited = tokio::time::timeout(TTL * 10, &mut next).await;
    assert!(waited.is_err() && leader.is_valid(), "it is extended");
    drop(leader);
    assert!(next.await.unwrap().is_valid());
}
