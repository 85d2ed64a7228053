//! A server that comes and goes: how many connections and requests it gets, and what is logged about it.

use std::{
    thread,
    time::{Duration, Instant},
};

use redlock_tests::{adapter::Adapter, proxy::Proxy, server::Server};
use tokio::task::JoinSet;
use tracing::Level;

use crate::telemetry::capture::Capture;

/// What happened while one of three servers refused connections every other second.
#[derive(Debug)]
struct Flapping {
    seconds: u64,
    locks: u64,
    /// To the one that flaps, and to another.
    connections: [usize; 2],
    /// Commands that they executed.
    commands: [f64; 2],
    /// At the level info or above.
    lines: Vec<String>,
}

impl Flapping {
    /// Of one process with some tasks, of which none may notice it.
    fn during(adapter: Adapter, seconds: u64) -> Self {
        // Nothing is logged about durable ones.
        let servers = [(); 3].map(|()| Server::start_durable());
        let proxies: Vec<Proxy> = servers.iter().map(Proxy::forgetful).collect();
        let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
        let capture = Capture::default();
        let end = Instant::now() + Duration::from_secs(seconds);
        let work = async {
            let redlock = adapter.manager_of(urls).build().unwrap();
            let kept = redlock.lock("kept", TTL).await.unwrap().keep_alive();
            let mut tasks = JoinSet::new();
            for task in 0..TASKS {
                let redlock = redlock.clone();
                tasks.spawn(async move {
                    let mut locks = 0;
                    while Instant::now() < end {
                        let lock = redlock.lock(format!("resource {task}"), TTL).await.unwrap();
                        lock.unlock().await.unwrap();
                        locks += 1;
                        tokio::time::sleep(THINK).await;
                    }
                    locks
                });
            }
            let locks = tasks.join_all().await.into_iter().sum();
            kept.unlock().await.unwrap();
            locks
        };
        let locks = thread::scope(|scope| {
            scope.spawn(|| {
                while Instant::now() < end {
                    thread::sleep(Duration::from_secs(1));
                    proxies[0].refuse();
                    thread::sleep(Duration::from_secs(1));
                    proxies[0].accept();
                }
            });
            // One thread, as the subscriber is the thread's.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            capture.during(Level::INFO, || runtime.block_on(work))
        });
        Self {
            seconds,
            locks,
            connections: [0, 1].map(|node: usize| proxies[node].connections()),
            commands: [0, 1].map(|node: usize| servers[node].info("stats", "total_commands_processed")),
            lines: capture.loud(),
        }
    }

    fn check(&self) {
        let Self { seconds, locks, connections, commands, lines } = self;
        assert!(*locks > 20 * seconds, "{self:?}");
        assert!(connections[0] as u64 >= seconds / 4, "it did not flap: {self:?}");
        assert!(connections[0] as u64 <= 2 * seconds + 4, "more than two a second: {self:?}");
        // One for requests and one that watches. A busy machine can keep either waiting, so that another one
        // takes its place.
        assert!(connections[1] <= 4, "the others are not concerned: {self:?}");
        assert!(commands[0] < commands[1] * 1.05, "more requests than to a server that is there: {self:?}");
        assert!(lines.len() as u64 <= 2 * (seconds / 60 + 1), "{self:?}");
        assert!(lines.iter().any(|line| line == "WARN node unhealthy"), "{self:?}");
    }
}

fn flap_with_both(seconds: u64) -> Vec<Flapping> {
    let running = [Adapter::RedisRs, Adapter::Fred]
        .map(|adapter| thread::spawn(move || Flapping::during(adapter, seconds)));
    running.map(|thread| thread.join().unwrap()).into()
}

#[test]
fn a_server_that_flaps_gets_few_connections_and_a_line_or_two() {
    flap_with_both(6).iter().for_each(Flapping::check);
}

#[test]
#[ignore = "takes ten minutes"]
#[allow(clippy::print_stdout)]
fn ten_minutes_of_a_flapping_server() {
    for flapping in flap_with_both(600) {
        println!("{flapping:?}");
        flapping.check();
    }
}

const TASKS: usize = 20;
const TTL: Duration = Duration::from_secs(10);
const THINK: Duration = Duration::from_millis(20);
