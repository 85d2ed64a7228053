//! Leader election: one process at a time leads. When it dies, hangs or loses its servers, another takes
//! over.
//!
//! ```text
//! cargo run --example leader
//! cargo run --example leader -- redis://127.0.0.1:7001 redis://127.0.0.1:7002 redis://127.0.0.1:7003
//! ```
//!
//! The first command runs three candidates on nodes in memory, and stops two of the three nodes for a while.
//! The second is one candidate: start it in several terminals, and kill the one that leads.
//!
//! **Nobody leads by mistake.** The leader's lock is extended while it leads. If that fails, the leading
//! routine is dropped at an await before the lock ends, and only then can another candidate win.
//!
//! **How long there is no leader.** When a leader resigns, the next one leads after a round trip. When it
//! dies, its lock has to end first: that takes the TTL at most. A shorter TTL needs more extensions, and
//! gives up the lead in a shorter outage.
//!
//! **Its term** is the lock's fencing token, a number that grows from leader to leader. The leader sends it
//! with each order that it gives, and whoever receives orders refuses one of a lower term. So an order that
//! was delayed, or that comes from a leader that was paused and does not know yet, does no harm.

use std::{env, error::Error as StdError, future::Future, num::NonZeroU64, time::Duration};

use redlock_redis_rs::{Error, Lease, MemoryBackend, RedisBackend, Redlock, TokioRuntime};
use tokio::time::{sleep, timeout};

#[cfg(test)]
mod tests;

/// How long nobody leads after the leader died, at most.
const TTL: Duration = Duration::from_secs(3);
/// How long a process is a candidate.
const RUN: Duration = Duration::from_secs(60);

/// Runs `lead` with the term whenever this candidate is elected, and again after it resigned or lost the
/// lead. Returns only when no retry can help.
async fn campaign<F, Fut>(redlock: &Redlock, election: &str, lead: F) -> Error
where
    F: Fn(NonZeroU64, Lease) -> Fut + Send + Sync,
    Fut: Future<Output = ()> + Send,
{
    loop {
        let elected = async |lease: Lease| {
            // Each lock of this request has one.
            if let Some(term) = lease.fence() {
                lead(term, lease).await;
            }
        };
        match redlock.using(election, TTL, elected).fenced().retry_forever().await {
            // It resigned: the others first.
            Ok(()) => sleep(TTL).await,
            // It is a candidate again as soon as its servers are back.
            Err(Error::Lost(_)) => {}
            Err(error) => return error,
        }
    }
}

/// Reports when the lead ends, in whichever way.
struct Lead {
    candidate: String,
    term: NonZeroU64,
}

impl Lead {
    fn begin(candidate: String, term: NonZeroU64) -> Self {
        println!("{candidate} leads, term {term}");
        Self { candidate, term }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        println!("{} no longer leads, term {}", self.candidate, self.term);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let urls: Vec<String> = env::args().skip(1).collect();
    if urls.is_empty() { in_memory().await } else { candidate(&urls).await }
}

async fn candidate(urls: &[String]) -> Result<(), Box<dyn StdError>> {
    let nodes = urls.iter().map(|url| RedisBackend::open(url.as_str())).collect::<Result<Vec<_>, _>>()?;
    let redlock = Redlock::builder(TokioRuntime::current()).nodes(nodes).build()?;
    let process = format!("process {}", std::process::id());
    let lead = async |term, _| {
        let _lead = Lead::begin(process.clone(), term);
        sleep(RUN).await;
    };
    match timeout(RUN, campaign(&redlock, "leader", lead)).await {
        Ok(error) => Err(error.into()),
        Err(_) => Ok(()),
    }
}

async fn in_memory() -> Result<(), Box<dyn StdError>> {
    let runtime = TokioRuntime::current();
    let nodes = [(); 3].map(|()| MemoryBackend::new(runtime.clone()));
    // As in three processes, each has a lock manager of its own.
    let manager = || Redlock::builder(runtime.clone()).nodes(nodes.clone()).build();
    let managers = [manager()?, manager()?, manager()?];
    let candidate = async |number: usize| {
        let lead = async |term, _| {
            let _lead = Lead::begin(format!("candidate {number}"), term);
            sleep(Duration::from_secs(4)).await;
            println!("candidate {number} resigns");
        };
        campaign(&managers[number], "leader", lead).await
    };
    let faults = async {
        sleep(Duration::from_secs(6)).await;
        println!("two of three nodes stop");
        nodes[1..].iter().for_each(MemoryBackend::stop);
        sleep(Duration::from_secs(4)).await;
        println!("the nodes are back");
        nodes[1..].iter().for_each(MemoryBackend::resume);
        sleep(Duration::from_secs(5)).await;
    };
    tokio::select! {
        error = candidate(0) => Err(error.into()),
        error = candidate(1) => Err(error.into()),
        error = candidate(2) => Err(error.into()),
        () = faults => Ok(()),
    }
}
