//! A routine under a lock: the lock is extended while the routine runs, and released afterwards. When the
//! lock is lost, the routine is dropped at its next await.
//!
//! ```text
//! cargo run --example using
//! cargo run --example using -- redis://127.0.0.1:7001 redis://127.0.0.1:7002 redis://127.0.0.1:7003
//! ```

use std::{env, error::Error, time::Duration};

use redlock_redis_rs::Lease;
use tokio::time::sleep;

/// Shorter than the report takes.
const TTL: Duration = Duration::from_secs(1);
const ROWS: u32 = 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redlock = redlock_examples::connect(env::args().skip(1))?;
    println!("{} rows", redlock.using("nightly-report", TTL, report).await?);
    Ok(())
}

async fn report(lease: Lease) -> u32 {
    let mut rows = 0;
    while rows < ROWS {
        sleep(Duration::from_millis(100)).await;
        rows += 1;
        println!("row {rows}; the lease has another {:?}", lease.remaining());
    }
    rows
}

#[cfg(test)]
mod tests {
    use redlock_redis_rs::{Error, MemoryBackend, Redlock, TokioRuntime};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_report_may_take_longer_than_the_ttl() {
        let redlock = redlock_examples::connect([]).unwrap();
        assert_eq!(redlock.using("nightly-report", TTL, report).await.unwrap(), ROWS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_ends_with_its_lock() {
        let runtime = TokioRuntime::current();
        let nodes = [(); 3].map(|()| MemoryBackend::new(runtime.clone()));
        let redlock = Redlock::builder(runtime).nodes(nodes.clone()).build().unwrap();
        let lose = async {
            sleep(TTL / 2).await;
            nodes.iter().for_each(MemoryBackend::shut_down);
        };
        let (report, ()) = tokio::join!(redlock.using("nightly-report", TTL, report), lose);
        assert!(matches!(report, Err(Error::Lost(_))), "{report:?}");
    }
}
