//! How many locks a process can keep alive: takes that many as fast as it can, and reports how many of them
//! it still holds, and how many extensions the servers answer.
//!
//! ```text
//! cargo run --release --example many_locks -- 100000 60 redis://127.0.0.1:7001 redis://127.0.0.1:7002 ...
//! ```

use std::{
    env,
    error::Error,
    process::ExitCode,
    time::{Duration, Instant},
};

use redlock_redis_rs::{
    KeepAlive, RedisBackend, Redlock, TokioRuntime,
    redis::{self, AsyncConnectionConfig},
};
use tokio::{task::JoinSet, time::sleep};

const TTL: Duration = Duration::from_secs(10);
/// How often it reports.
const EVERY: Duration = Duration::from_secs(5);
/// Tasks that take locks, each one after the other.
const TAKERS: usize = 256;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}. Usage: many_locks LOCKS SECONDS URL...");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [locks, seconds, urls @ ..] = arguments else { return Err("arguments are missing".into()) };
    let (locks, seconds): (usize, u64) = (locks.parse()?, seconds.parse()?);
    let nodes = urls.iter().map(|url| RedisBackend::open(url.as_str())).collect::<Result<Vec<_>, _>>()?;
    let redlock = Redlock::builder(TokioRuntime::current()).nodes(nodes).build()?;

    let start = Instant::now();
    let held = take(&redlock, locks).await;
    let took = start.elapsed();
    println!("{} of {locks} locks taken in {took:.1?}", held.len());

    let mut before = scripts_run(urls).await?;
    for _ in 0..seconds.div_ceil(EVERY.as_secs()) {
        let start = Instant::now();
        sleep(EVERY).await;
        let (after, took) = (scripts_run(urls).await?, start.elapsed());
        let rate = (after - before) as f64 / urls.len() as f64 / took.as_secs_f64();
        let valid = held.iter().filter(|held| held.is_valid()).count();
        println!("{valid} held; {rate:.0} extensions a second on each node");
        before = after;
    }
    Ok(())
}

async fn take(redlock: &Redlock, locks: usize) -> Vec<KeepAlive> {
    let mut takers = JoinSet::new();
    for taker in 0..TAKERS {
        let redlock = redlock.clone();
        takers.spawn(async move {
            let mut held = Vec::new();
            for number in (taker..locks).step_by(TAKERS) {
                if let Ok(lock) = redlock.lock(format!("many:{number}"), TTL).await {
                    held.push(lock.keep_alive());
                }
            }
            held
        });
    }
    takers.join_all().await.into_iter().flatten().collect()
}

/// By all of the servers together.
async fn scripts_run(urls: &[String]) -> Result<u64, Box<dyn Error>> {
    let mut scripts = 0;
    for url in urls {
        let client = redis::Client::open(url.as_str())?;
        // Under so much load an answer takes its time.
        let patient = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await?;
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await?;
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
        let calls = calls.and_then(|line| line.split(',').next()).ok_or("the server counts no scripts")?;
        scripts += calls.parse::<u64>()?;
    }
    Ok(scripts)
}

#[cfg(test)]
#[tokio::test(start_paused = true)]
async fn all_locks_are_held_for_longer_than_their_ttl() {
    let redlock = redlock_examples::connect([]).unwrap();
    let held = take(&redlock, 2 * TAKERS + 1).await;
    assert_eq!(held.len(), 2 * TAKERS + 1);
    sleep(TTL * 3).await;
    assert!(held.iter().all(KeepAlive::is_valid));
}
