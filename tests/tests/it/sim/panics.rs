//! Panics in a node's backend, and in a routine that runs under a lock.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BoxFuture, Error, Extend, LockBackend, MemoryBackend, Redlock,
    Release, ReleaseReply, Runtime, UnlockOutcome,
};
use redlock_tests::{
    harness::{Harness, answers, s},
    sim_runtime::SimRuntime,
};

#[test]
fn a_panic_in_one_request_is_one_failed_node() {
    for when in EVERY_PANIC {
        let harness = Panicking::new(when, 1, &[1]);
        harness.run(async {
            let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
            if when.verb == Verb::Acquire {
                let vote = lock.replies()[1].to_string();
                assert_eq!(vote, "node 1: indeterminate: the request panicked: out of order", "{when:?}");
            }
            lock.extend(s(10)).await.unwrap();
            assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released, "{when:?}");
        });
        harness.assert_over(when, 1);
    }
}

#[test]
fn a_lock_that_is_dropped_leaves_no_panic_behind() {
    for when in EVERY_PANIC {
        let harness = Panicking::new(when, 1, &[1]);
        harness.run(async {
            let guard = harness.redlock().lock("x", s(3)).await.unwrap().keep_alive();
            harness.harness.sleep(1_500).await;
            assert!(guard.is_valid(), "{when:?}");
        });
        harness.assert_over(when, 1);
    }
}

#[test]
fn panics_on_too_many_nodes_are_reported_by_node_and_the_keys_on_the_others_are_removed() {
    for when in EVERY_PANIC {
        let harness = Panicking::new(when, 1, &[0, 1]);
        harness.run(async {
            let failed = |result: Result<(), Error>| {
                let error = result.unwrap_err();
                assert!(matches!(error, Error::NoQuorum(_)), "{when:?}: {error}");
                answers(&error)
            };
            let request = harness.redlock().try_lock("x", s(10));
            if when.verb == Verb::Acquire {
                assert_eq!(failed(request.await.map(drop)), "xxg", "{when:?}");
                return;
            }
            let mut lock = request.await.unwrap();
            if when.verb == Verb::Extend {
                assert_eq!(failed(lock.extend(s(10)).await), "xxg", "{when:?}");
                assert!(lock.is_valid(), "{when:?}: one failure is no loss");
                lock.unlock().await.unwrap();
            } else {
                assert_eq!(failed(lock.unlock().await.map(drop)), "xxm", "{when:?}");
            }
        });
        harness.assert_over(when, 2);
    }
}

#[test]
fn a_node_that_panics_at_every_release_is_retried_at_a_bounded_rate_while_one_is_pending() {
    for moment in [Moment::Call, Moment::Poll] {
        let when = When { verb: Verb::Release, moment };
        let harness = Panicking::new(when, usize::MAX, &[1]);
        harness.run(async {
            harness.redlock().lock("x", s(10)).await.unwrap().unlock().await.unwrap();
            harness.harness.sleep(20_000).await;
        });
        // At once, after half a second, and once a second until the key has expired.
        let panics = harness.panicked();
        assert!((8..=13).contains(&panics), "{when:?}: {panics}");
        harness.assert_over(when, panics);
    }
}

#[test]
fn a_panic_while_lost_keys_are_rewritten_is_a_failed_node() {
    for moment in [Moment::Call, Moment::Poll] {
        let when = When { verb: Verb::Acquire, moment };
        let harness = Panicking::new(when, 0, &[1]);
        harness.run(async {
            let mut lock = harness.redlock().lock("x", s(10)).await.unwrap();
            harness.harness.nodes[1].clear();
            harness.left.store(1, Ordering::Relaxed);
            lock.extend(s(10)).await.unwrap();
            assert_eq!(harness.harness.values("x").iter().flatten().count(), 2, "{when:?}");
            lock.unlock().await.unwrap();
        });
        harness.assert_over(when, 1);
    }
}

#[test]
fn a_panic_in_a_routine_reaches_the_caller_and_the_lock_is_released() {
    let harness = Harness::new(3);
    harness.run(async {
        let redlock = harness.redlock();
        let using = redlock.using("x", s(10), |lease| async move {
            assert!(!lease.is_valid(), "the routine is wrong");
        });
        let panic = caught(using.into_future()).await.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the routine is wrong"));
        harness.sleep(1).await;
        harness.assert_free("x");
        redlock.try_lock("x", s(10)).await.unwrap().unlock().await.unwrap();
        harness.sleep(1).await;
    });
    harness.assert_at_rest();
}

/// Three nodes, some of which panic, on a runtime that survives the panics of its tasks.
struct Panicking {
    harness: Harness,
    when: When,
    nodes: &'static [usize],
    /// How many panics are left, for all of them together.
    left: Arc<AtomicUsize>,
    panicked: Arc<AtomicUsize>,
    /// Panics that left a task or a future of the library.
    escaped: Arc<AtomicUsize>,
}

impl Panicking {
    fn new(when: When, times: usize, nodes: &'static [usize]) -> Self {
        let left = Arc::new(AtomicUsize::new(times * nodes.len()));
        let (panicked, escaped) = Default::default();
        Self { harness: Harness::new(3), when, nodes, left, panicked, escaped }
    }

    fn redlock(&self) -> Redlock {
        let runtime = Surviving { runtime: self.harness.runtime.clone(), panics: self.escaped.clone() };
        let node = |(number, node): (usize, &MemoryBackend)| Faulty {
            node: node.clone(),
            when: self.nodes.contains(&number).then_some(self.when),
            left: self.left.clone(),
            panicked: self.panicked.clone(),
        };
        let nodes = self.harness.nodes.iter().enumerate().map(node);
        Redlock::builder(runtime).nodes(nodes).entropy(self.harness.sim.entropy()).build().unwrap()
    }

    fn run(&self, test: impl Future<Output = ()>) {
        let outcome = self.harness.run(caught(test));
        // Everything in the background has time to finish before the checks.
        self.harness.run(self.harness.sleep(5_000));
        let escaped = self.escaped.load(Ordering::Relaxed);
        assert_eq!(escaped, 0, "{:?}: panics in the background, at most {MAX_PANICS}", self.when);
        assert!(outcome.is_ok(), "{:?}: {:?}", self.when, outcome.unwrap_err().downcast_ref::<String>());
    }

    fn panicked(&self) -> usize {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Exactly this many panics occurred, they left nothing behind, and the next lock is granted by all
    /// nodes.
    fn assert_over(&self, when: When, panics: usize) {
        assert_eq!(self.panicked(), panics, "{when:?}");
        self.harness.assert_free("x");
        self.harness.assert_at_rest();
        self.harness.run(async {
            let lock = self.harness.redlock().try_lock("x", s(10)).await.unwrap();
            assert_eq!(self.harness.values("x").iter().flatten().count(), 3, "{when:?}");
            lock.unlock().await.unwrap();
            self.harness.sleep(1).await;
        });
        self.harness.assert_at_rest();
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verb {
    Acquire,
    Extend,
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// The method itself panics, before there is a future.
    Call,
    /// The future panics when it is polled first.
    Poll,
}

#[derive(Clone, Copy, Debug)]
struct When {
    verb: Verb,
    moment: Moment,
}

const EVERY_PANIC: [When; 6] = [
    When { verb: Verb::Acquire, moment: Moment::Call },
    When { verb: Verb::Acquire, moment: Moment::Poll },
    When { verb: Verb::Extend, moment: Moment::Call },
    When { verb: Verb::Extend, moment: Moment::Poll },
    When { verb: Verb::Release, moment: Moment::Call },
    When { verb: Verb::Release, moment: Moment::Poll },
];

/// Written without `async_trait`, whose methods cannot panic in the call itself.
struct Faulty {
    node: MemoryBackend,
    when: Option<When>,
    left: Arc<AtomicUsize>,
    panicked: Arc<AtomicUsize>,
}

impl Faulty {
    fn asked<'a, T>(&self, verb: Verb, request: Request<'a, T>) -> Request<'a, T> {
        let Some(when) = self.when.filter(|when| when.verb == verb) else { return request };
        let less = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            return request;
        }
        let panicked = self.panicked.clone();
        match when.moment {
            Moment::Call => out_of_order(&panicked),
            Moment::Poll => Box::pin(poll_fn(move |_| out_of_order(&panicked))),
        }
    }
}

fn out_of_order(panicked: &AtomicUsize) -> ! {
    panicked.fetch_add(1, Ordering::Relaxed);
    panic!("out of\norder")
}

type Request<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send + 'a>>;

impl LockBackend for Faulty {
    fn acquire<'s, 'r, 'a>(&'s self, request: Acquire<'r>) -> Request<'a, AcquireReply>
    where
        's: 'a,
        'r: 'a,
        Self: 'a,
    {
        self.asked(Verb::Acquire, self.node.acquire(request))
    }

    fn extend<'s, 'r, 'a>(&'s self, request: Extend<'r>) -> Request<'a, AcquireReply>
    where
        's: 'a,
        'r: 'a,
        Self: 'a,
    {
        self.asked(Verb::Extend, self.node.extend(request))
    }

    fn release<'s, 'r, 'a>(&'s self, request: Release<'r>) -> Request<'a, ReleaseReply>
    where
        's: 'a,
        'r: 'a,
        Self: 'a,
    {
        self.asked(Verb::Release, self.node.release(request))
    }

    fn name(&self) -> Option<&str> {
        self.node.name()
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("node", &self.node).field("when", &self.when).finish_non_exhaustive()
    }
}

/// A runtime that survives a task's panic, as tokio does. After `MAX_PANICS` it runs no more tasks.
#[derive(Clone, Debug)]
struct Surviving {
    runtime: SimRuntime,
    panics: Arc<AtomicUsize>,
}

impl Runtime for Surviving {
    fn now(&self) -> Instant {
        self.runtime.now()
    }

    fn unix_time(&self) -> Duration {
        self.runtime.unix_time()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.runtime.sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<()>) {
        let panics = self.panics.clone();
        if panics.load(Ordering::Relaxed) >= MAX_PANICS {
            return;
        }
        self.runtime.spawn(Box::pin(async move {
            if caught(task).await.is_err() {
                panics.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
}

/// The output of `future`, or its panic.
async fn caught<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

const MAX_PANICS: usize = 100;
