//! Many clients, random faults, one seed: no two clients ever hold the same lock, and no key is left.

use std::{
    cell::{Cell, RefCell},
    env,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng, seq::IndexedRandom};
use redlock_core::{BackendErrorKind, Error, Lease, Lock, LockRequest, Redlock};
use redlock_tests::harness::{Harness, ms};
use tokio::select;

/// The number of seeds. The environment variable `REDLOCK_SEEDS` sets another.
const SEEDS: u64 = 200;
const RESOURCES: [&str; 2] = ["a", "b"];

#[test]
fn no_two_clients_ever_hold_the_same_lock_and_nothing_is_left() {
    let seeds = env::var("REDLOCK_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let mut total = Seen::default();
    for seed in 0..seeds {
        let seen = World::new(seed, false).run();
        total = Seen {
            won: total.won + seen.won,
            lost: total.lost + seen.lost,
            refused: total.refused + seen.refused,
        };
    }
    // Faults without any effect would test nothing.
    assert!(total.won > 5 * seeds && total.lost > seeds && total.refused > seeds, "{total:?}");
}

/// The checker detects a violation.
#[test]
#[should_panic(expected = "is held with")]
fn two_holders_are_detected_when_held_keys_are_stolen() {
    for seed in 0..SEEDS {
        World::new(seed, true).run();
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    won: u64,
    lost: u64,
    refused: u64,
}

/// Prints the seed of the run when a check fails in the middle of it.
struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was seed {}", self.0);
        }
    }
}

struct World {
    harness: Harness,
    seed: u64,
    /// Whether others steal keys that are held, which breaks an assumption of the algorithm.
    thefts: bool,
    /// The leases of all locks that were ever granted in this run.
    leases: RefCell<Vec<Lease>>,
    seen: Cell<Seen>,
}

impl World {
    fn new(seed: u64, thefts: bool) -> Self {
        let harness = Harness::seeded(seed, if seed.is_multiple_of(2) { 3 } else { 5 });
        Self { harness, seed, thefts, leases: RefCell::default(), seen: Cell::default() }
    }

    fn run(self) -> Seen {
        let _printed = PrintSeed(self.seed);
        self.harness.run(async {
            select! {
                _ = async { tokio::join!(self.client(0), self.client(1), self.client(2), self.client(3)) } => {}
                () = self.faults() => unreachable!("they go on"),
                () = self.watch() => unreachable!("it goes on"),
            }
            for node in &self.harness.nodes {
                node.start();
                node.resume();
                node.delay_requests(ms(0));
                node.delay_replies(ms(0));
                node.fail_next(0, BackendErrorKind::Transient);
            }
            // Pending releases are retried at least once a second.
            self.harness.sleep(3_000).await;
            for resource in RESOURCES {
                self.harness.assert_free(resource);
            }
            self.harness.sleep(60_000).await;
        });
        self.harness.assert_at_rest();
        self.seen.get()
    }

    async fn client(&self, number: u64) {
        let rng = &mut ChaCha20Rng::seed_from_u64(self.seed * 100 + number);
        let redlock = self.harness.builder().node_timeout(ms(rng.random_range(20..200))).build().unwrap();
        for _ in 0..10 {
            let request = self.request(rng, &redlock);
            if rng.random_bool(0.2) {
                self.cancelled(rng, request).await;
            } else if rng.random_bool(0.3) {
                self.kept_alive(rng, request).await;
            } else {
                match request.await {
                    Ok(lock) => self.held(rng, lock).await,
                    Err(error) => self.failed(&error),
                }
            }
            self.harness.sleep(rng.random_range(0..50)).await;
        }
    }

    fn request(&self, rng: &mut ChaCha20Rng, redlock: &Redlock) -> LockRequest {
        let ttl = ms(rng.random_range(100..5_000));
        let request = match rng.random_range(0..3) {
            0 => redlock.lock(RESOURCES, ttl),
            _ => redlock.lock(*RESOURCES.choose(rng).unwrap(), ttl),
        };
        request
            .retry_count(rng.random_range(0..6))
            .retry_delay(ms(rng.random_range(1..100)))
            .retry_jitter(ms(20))
    }

    async fn cancelled(&self, rng: &mut ChaCha20Rng, request: LockRequest) {
        let after = ms(rng.random_range(0..100));
        drop(self.harness.cancel_after(after, request.into_future()).await);
    }

    async fn kept_alive(&self, rng: &mut ChaCha20Rng, request: LockRequest) {
        let length = rng.random_range(0..5_000);
        let used = request.using(async |lease| {
            self.won(lease);
            self.harness.sleep(length).await;
        });
        match used.await {
            Ok(()) => {}
            Err(error) => self.failed(&error),
        }
    }

    async fn held(&self, rng: &mut ChaCha20Rng, mut lock: Lock) {
        self.won(lock.lease());
        for _ in 0..rng.random_range(0..3) {
            self.harness.sleep(rng.random_range(0..1_500)).await;
            if let Err(error) = lock.extend(ms(rng.random_range(100..5_000))).await {
                self.failed(&error);
            }
        }
        match rng.random_range(0..3) {
            0 => drop(lock),
            // Its outcome does not matter, only that the request was made.
            _ => drop(lock.unlock().await),
        }
    }

    fn won(&self, lease: Lease) {
        let seen = self.seen.get();
        self.seen.set(Seen { won: seen.won + 1, ..seen });
        self.leases.borrow_mut().push(lease);
        self.check();
    }

    fn failed(&self, error: &Error) {
        let seen = self.seen.get();
        self.seen.set(match error {
            Error::Lost(_) => Seen { lost: seen.lost + 1, ..seen },
            Error::Contended(_) | Error::NoQuorum(_) | Error::Rejected(_) => {
                Seen { refused: seen.refused + 1, ..seen }
            }
            error => panic!("{error}"),
        });
    }

    fn check(&self) {
        self.leases.borrow_mut().retain(Lease::is_valid);
        for resource in RESOURCES {
            let leases = self.leases.borrow();
            let holders = leases.iter().filter(|lease| lease.resources().iter().any(|name| name == resource));
            let holders: Vec<Duration> = holders.map(Lease::remaining).collect();
            assert!(holders.len() < 2, "seed {}: {resource:?} is held with {holders:?} left", self.seed);
        }
    }

    async fn watch(&self) {
        loop {
            self.check();
            self.harness.sleep(5).await;
        }
    }

    /// Every fault but lost data: no lock survives a majority that loses the keys it has granted.
    async fn faults(&self) {
        let rng = &mut ChaCha20Rng::seed_from_u64(!self.seed);
        loop {
            self.harness.sleep(rng.random_range(1..300)).await;
            let node = self.harness.nodes.choose(rng).unwrap();
            match rng.random_range(0..16) {
                0 => node.stop(),
                1 => node.shut_down(),
                2 => node.delay_requests(ms(rng.random_range(0..400))),
                3 => node.delay_replies(ms(rng.random_range(0..400))),
                4 => node.lose_next_replies(rng.random_range(1..4)),
                5 => node.fail_next(rng.random_range(1..4), BackendErrorKind::Transient),
                6 => node.fail_next(rng.random_range(1..4), BackendErrorKind::Indeterminate),
                7 => {
                    let resource = *RESOURCES.choose(rng).unwrap();
                    if self.thefts || node.get(resource).is_none() {
                        node.set(resource, "other", ms(rng.random_range(1..500)));
                    }
                }
                _ => {
                    node.start();
                    node.resume();
                    node.delay_requests(ms(rng.random_range(0..5)));
                    node.delay_replies(ms(rng.random_range(0..5)));
                }
            }
        }
    }
}
