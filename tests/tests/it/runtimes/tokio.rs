//! Lock managers, locks and guards that outlive the tokio runtime on which they were made, or are used while
//! it stalls.

use std::{
    future::IntoFuture,
    panic::resume_unwind,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use redlock_core::{Error, Lock, MemoryBackend, Redlock, TokioRuntime, UnlockOutcome};
use redlock_tests::{adapter::Adapter, server::Server, sim_runtime::poll_once};
use rstest::rstest;
use tokio::runtime::{Builder, Runtime};

const TTL: Duration = Duration::from_secs(60);
/// How long a request waits when its connection stalls.
const NODE_TIMEOUT: Duration = Duration::from_millis(300);
/// The tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(1);
/// So short that a keep-alive extends during a test.
const SHORT: Duration = Duration::from_millis(450);
/// Longer than that.
const LONGER: Duration = Duration::from_millis(520);
/// More than anything takes here on a busy machine, unless it waits forever.
const BOUND: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum Nodes {
    Memory,
    Servers(Adapter),
}

/// A lock manager that was made, and warmed up, on one runtime.
struct Harness {
    redlock: Redlock,
    memory: Vec<MemoryBackend>,
    servers: Vec<Server>,
}

impl Harness {
    fn on(runtime: &Runtime, nodes: Nodes) -> Self {
        let _inside = runtime.enter();
        let here = TokioRuntime::current();
        let (memory, servers, builder) = match nodes {
            Nodes::Memory => {
                let memory = [(); 3].map(|()| MemoryBackend::new(here.clone()));
                (memory.to_vec(), Vec::new(), Redlock::builder(here).nodes(memory))
            }
            Nodes::Servers(adapter) => {
                let servers = Server::start_some(3);
                let builder = adapter.manager(&servers);
                (Vec::new(), servers, builder)
            }
        };
        let redlock = builder.node_timeout(NODE_TIMEOUT).build().unwrap();
        let harness = Self { redlock, memory, servers };
        // Makes the connections, if the adapter has any.
        runtime.block_on(harness.locked("warm up"));
        harness
    }

    fn is_free(&self, key: &str) -> bool {
        self.memory.iter().all(|node| node.get(key).is_none())
            && self.servers.iter().all(|server| server.get(key).is_none())
    }

    fn becomes_free(&self, key: &str) -> bool {
        let start = Instant::now();
        while start.elapsed() < BOUND / 2 {
            if self.is_free(key) {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    async fn locked(&self, key: &str) {
        let lock = self.redlock.lock(key, TTL).await.unwrap();
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    }

    /// Every operation of a lock manager.
    async fn serves(&self) {
        let redlock = &self.redlock;
        let mut lock = redlock.lock("a", TTL).await.unwrap();
        let contended = redlock.lock("a", TTL).retry_count(1).retry_delay(Duration::from_millis(1)).await;
        assert!(matches!(contended, Err(Error::Contended(_))), "{contended:?}");
        lock.extend(2 * TTL).await.unwrap();
        assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);

        let parts = redlock.lock("handed over", TTL).await.unwrap().into_parts();
        let taken = redlock.from_parts(&parts).await.unwrap();
        assert_eq!(taken.unlock().await.unwrap(), UnlockOutcome::Released);

        let used = redlock.using("used", SHORT, |lease| async move {
            tokio::time::sleep(LONGER).await;
            lease.is_valid()
        });
        let lapsed = async {
            let lapsing = redlock.lock("lapsing", SHORT).await.unwrap();
            lapsing.lease().lost().await;
            !lapsing.is_valid()
        };
        let (used, lapsed) = tokio::join!(used, lapsed);
        assert!(used.unwrap(), "it was not extended");
        assert!(lapsed);

        drop(redlock.lock("dropped", TTL).await.unwrap());
        drop(redlock.lock("kept alive", TTL).await.unwrap().keep_alive());
        let free =
            || ["a", "used", "handed over", "dropped", "kept alive"].iter().all(|key| self.is_free(key));
        let start = Instant::now();
        while !free() {
            assert!(start.elapsed() < BOUND / 2, "keys are left");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// On a thread of its own, so that a test that waits in vain ends, too.
fn bounded(test: impl FnOnce() + Send + 'static) {
    let (done, waiting) = channel();
    let tested = thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    match waiting.recv_timeout(BOUND) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(RecvTimeoutError::Disconnected) => resume_unwind(tested.join().unwrap_err()),
    }
}

#[rstest]
fn a_manager_of_an_idle_runtime_serves_on_another(
    #[values(Nodes::Memory, Nodes::Servers(Adapter::RedisRs), Nodes::Servers(Adapter::Fred))] nodes: Nodes,
    #[values(current_thread, multi_thread)] other: fn() -> Runtime,
) {
    bounded(move || {
        let idle = current_thread();
        let harness = Harness::on(&idle, nodes);
        other().block_on(harness.serves());
        // The pending work of the first runtime does no harm when it runs again.
        idle.block_on(harness.locked("a"));
    });
}

#[rstest]
fn a_manager_outlives_its_runtime(
    #[values(Nodes::Memory, Nodes::Servers(Adapter::RedisRs), Nodes::Servers(Adapter::Fred))] nodes: Nodes,
    #[values(current_thread, multi_thread)] runtime: fn() -> Runtime,
) {
    bounded(move || {
        let first = runtime();
        let harness = Harness::on(&first, nodes);
        drop(first);
        for _ in 0..2 {
            runtime().block_on(harness.locked("a"));
        }
        runtime().block_on(harness.serves());
    });
}

#[rstest]
fn a_lock_outlives_its_runtime(
    #[values(Nodes::Memory, Nodes::Servers(Adapter::RedisRs), Nodes::Servers(Adapter::Fred))] nodes: Nodes,
    #[values(current_thread, multi_thread)] runtime: fn() -> Runtime,
) {
    bounded(move || {
        let first = runtime();
        let harness = Harness::on(&first, nodes);
        let (mut extended, dropped, guards) = first.block_on(async {
            let lock = async |key, ttl| harness.redlock.lock(key, ttl).await.unwrap();
            let guards = [lock("kept alive", SHORT).await, lock("guard", SHORT).await].map(Lock::keep_alive);
            (lock("extended", TTL).await, lock("dropped", TTL).await, guards)
        });
        drop(first);
        let [guard, dropped_guard] = guards;
        runtime().block_on(async {
            extended.extend(2 * TTL).await.unwrap();
            assert_eq!(extended.unlock().await.unwrap(), UnlockOutcome::Released);
            tokio::time::sleep(LONGER).await;
            assert!(guard.is_valid(), "nobody extends it");
            let lease = guard.lease();
            assert_eq!(guard.unlock().await.unwrap(), UnlockOutcome::Released);
            lease.lost().await;
        });
        // Outside of every runtime.
        assert!(dropped.is_valid() && dropped_guard.is_valid());
        drop((dropped, dropped_guard));
        assert!(harness.becomes_free("dropped") && harness.becomes_free("guard"));
    });
}

/// A runtime that does not run its tasks: nobody drives it, or its only thread is blocked.
#[rstest]
fn locks_kept_alive_on_a_runtime_that_stands_still_do_not_concern_those_of_another(
    #[values(current_thread, multi_thread)] first: fn() -> Runtime,
    #[values(current_thread, multi_thread)] other: fn() -> Runtime,
) {
    bounded(move || {
        let home = current_thread();
        let harness = Harness::on(&home, Nodes::Memory);
        let (first, other) = (first(), other());
        let kept = async |key| harness.redlock.lock(key, SHORT).await.unwrap().keep_alive();
        let stalled = first.block_on(async {
            let stalled = kept("stalled").await;
            // Blocks the thread of a multi-thread runtime, and is never run by a current-thread one.
            tokio::spawn(async { thread::sleep(3 * LONGER) });
            stalled
        });
        other.block_on(async {
            let guard = kept("other").await;
            tokio::time::sleep(2 * LONGER).await;
            assert!(guard.is_valid(), "it waits for the runtime that stands still");
            assert!(!stalled.is_valid());
        });
    });
}

#[rstest]
fn a_lock_is_extended_while_its_routine_blocks_a_thread(#[values(false, true)] others: bool) {
    bounded(move || {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let harness = Harness::on(&runtime, Nodes::Memory);
        let redlock = harness.redlock.clone();
        let used = async move {
            let other = others.then(|| redlock.lock("other", TTL));
            let other = match other {
                Some(request) => Some(request.await.unwrap().keep_alive()),
                None => None,
            };
            tokio::time::sleep(Duration::from_millis(20)).await;
            let used = redlock.using("used", SHORT, |lease| async move {
                thread::sleep(LONGER);
                lease.is_valid()
            });
            let used = used.await;
            drop(other);
            used
        };
        assert!(runtime.block_on(async { tokio::spawn(used).await }).unwrap().unwrap());
    });
}

#[rstest]
fn a_call_started_on_a_stalled_runtime_continues_on_another(
    #[values(Nodes::Memory, Nodes::Servers(Adapter::RedisRs), Nodes::Servers(Adapter::Fred))] nodes: Nodes,
) {
    bounded(move || {
        let idle = current_thread();
        let harness = Harness::on(&idle, nodes);
        let mut calls = ["a", "b"].map(|key| harness.redlock.lock(key, TTL).into_future());
        harness.memory.iter().for_each(MemoryBackend::stop);
        idle.block_on(async {
            for call in &mut calls {
                assert!(poll_once(call).await.is_pending());
            }
        });
        harness.memory.iter().for_each(MemoryBackend::resume);
        let [moved, dropped] = calls;
        current_thread().block_on(async {
            let lock = moved.await.unwrap();
            assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
            drop(dropped);
        });
        idle.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
        assert!(harness.becomes_free("a") && harness.becomes_free("b"));
    });
}

#[rstest]
fn silent_nodes_are_given_up_in_every_state_of_the_first_runtime(
    #[values(Nodes::Memory, Nodes::Servers(Adapter::RedisRs), Nodes::Servers(Adapter::Fred))] nodes: Nodes,
    #[values(false, true)] ended: bool,
) {
    bounded(move || {
        let first = current_thread();
        let harness = Harness::on(&first, nodes);
        let first = (!ended).then_some(first);
        harness.memory.iter().for_each(MemoryBackend::stop);
        harness.servers.iter().for_each(Server::pause);
        let start = Instant::now();
        let (attempts, delay) = (2, Duration::from_millis(10));
        let call =
            harness.redlock.lock("a", TTL).retry_count(attempts - 1).retry_delay(delay).retry_jitter(delay);
        let error = current_thread().block_on(call.into_future()).unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        let took = start.elapsed();
        assert!(took < attempts * (2 * delay + NODE_TIMEOUT) + SLACK, "{took:?}");
        drop(first);
    });
}

#[rstest]
fn locks_dropped_right_before_their_runtime_ends_are_released(
    #[values(Nodes::Memory, Nodes::Servers(Adapter::RedisRs), Nodes::Servers(Adapter::Fred))] nodes: Nodes,
    #[values(current_thread, multi_thread)] runtime: fn() -> Runtime,
) {
    bounded(move || {
        let first = runtime();
        let harness = Harness::on(&first, nodes);
        first.block_on(async {
            let held = harness.redlock.lock("held by a task", TTL).await.unwrap();
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
            drop(harness.redlock.lock("dropped", TTL).await.unwrap());
        });
        drop(first);
        for key in ["dropped", "held by a task"] {
            assert!(harness.becomes_free(key), "{key}");
        }
    });
}

#[rstest]
fn locks_dropped_on_a_plain_thread_while_their_runtime_is_idle_are_released(
    #[values(Nodes::Memory, Nodes::Servers(Adapter::RedisRs), Nodes::Servers(Adapter::Fred))] nodes: Nodes,
) {
    bounded(move || {
        let idle = current_thread();
        let harness = Harness::on(&idle, nodes);
        let lock = idle.block_on(harness.redlock.lock("a", TTL).into_future()).unwrap();
        drop(lock);
        assert!(harness.becomes_free("a"));
    });
}

/// The next in line is a call on a runtime that nobody drives: it has its turn, and does nothing.
#[rstest]
fn a_waiter_on_an_idle_runtime_does_not_keep_others_from_the_lock(
    #[values(Nodes::Memory, Nodes::Servers(Adapter::RedisRs), Nodes::Servers(Adapter::Fred))] nodes: Nodes,
    #[values(false, true)] ended: bool,
) {
    bounded(move || {
        let (idle, driven) = (current_thread(), current_thread());
        let harness = Harness::on(&driven, nodes);
        let held = driven.block_on(harness.redlock.lock("a", TTL).into_future()).unwrap();
        let mut stuck = harness.redlock.lock("a", TTL).retry_forever().into_future();
        idle.block_on(async { assert!(poll_once(&mut stuck).await.is_pending()) });
        let idle = (!ended).then_some(idle);
        let waiter = harness.redlock.lock("a", TTL).retry_forever().into_future();
        let lock = driven.block_on(async {
            let waiter = tokio::spawn(waiter);
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(held.unlock().await.unwrap(), UnlockOutcome::Released);
            waiter.await.unwrap().unwrap()
        });
        driven.block_on(lock.unlock()).unwrap();
        // It goes on where it is polled again.
        let lock = current_thread().block_on(stuck).unwrap();
        driven.block_on(lock.unlock()).unwrap();
        drop(idle);
    });
}
