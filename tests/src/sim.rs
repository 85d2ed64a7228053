//! A deterministic runtime: one thread, a clock that jumps from timer to timer, and an order that a seed decides.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};
use redlock_core::{BoxFuture, Runtime};

/// A run of the simulation. Two runs with the same seed and the same program do the same, step by step.
///
/// Time stands still while anything can run, and jumps to the next timer when nothing can. Which of several tasks
/// that can run is next is drawn from the seed.
pub struct Sim {
    runtime: SimRuntime,
    seed: u64,
}

/// The runtime of a [`Sim`]. Cheap to clone.
#[derive(Clone)]
pub struct SimRuntime(Arc<Shared>);

struct Shared {
    origin: Instant,
    state: Mutex<State>,
}

struct State {
    elapsed: Duration,
    rng: ChaCha20Rng,
    next_id: u64,
    /// Tasks that wait for something.
    tasks: BTreeMap<u64, BoxFuture<()>>,
    ready: VecDeque<u64>,
    /// By time, then in the order in which they were set.
    timers: BTreeMap<(Duration, u64), Waker>,
    polls: u64,
}

impl Sim {
    /// A run whose every choice comes from `seed`.
    #[must_use]
    #[allow(clippy::disallowed_methods)]
    pub fn new(seed: u64) -> Self {
        let state = State {
            elapsed: Duration::ZERO,
            rng: ChaCha20Rng::seed_from_u64(seed),
            next_id: 1,
            tasks: BTreeMap::new(),
            ready: VecDeque::new(),
            timers: BTreeMap::new(),
            polls: 0,
        };
        // Where the clock starts is of no account: only differences are ever looked at.
        let shared = Shared { origin: Instant::now(), state: Mutex::new(state) };
        Self { runtime: SimRuntime(Arc::new(shared)), seed }
    }

    /// The runtime to give to what is tested.
    #[must_use]
    pub fn runtime(&self) -> SimRuntime {
        self.runtime.clone()
    }

    /// A generator for one lock manager's tokens and jitter, from the seed; each call gives another one.
    #[must_use]
    pub fn rng(&self) -> ChaCha20Rng {
        ChaCha20Rng::from_rng(&mut self.runtime.state().rng)
    }

    /// Runs `main`, and every task that it spawns, until `main` is done. Tasks that are left stay as they are and go
    /// on in the next run.
    ///
    /// # Panics
    ///
    /// When nothing can ever run again, or when it takes more steps than any test needs: both are bugs of what is
    /// tested, a hang and a spin.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let waker = self.runtime.waker(MAIN);
        self.runtime.state().ready.push_back(MAIN);
        loop {
            let Some(id) = self.runtime.next_ready() else {
                assert!(
                    self.runtime.advance(),
                    "nothing can run any more, but the test waits: seed {}",
                    self.seed
                );
                continue;
            };
            if id == MAIN {
                if let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return output;
                }
            } else {
                self.runtime.poll_task(id);
            }
        }
    }
}

impl Drop for Sim {
    /// Tasks hold the runtime, and the runtime holds the tasks. Dropped without the lock, and again while what is
    /// dropped leaves tasks behind.
    fn drop(&mut self) {
        loop {
            let tasks = std::mem::take(&mut self.runtime.state().tasks);
            if tasks.is_empty() {
                return;
            }
        }
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("seed", &self.seed).field("runtime", &self.runtime).finish()
    }
}

impl SimRuntime {
    /// Virtual time since the start of the run.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.state().elapsed
    }

    /// How many background tasks there are.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.state().tasks.len()
    }

    /// How many timers are set.
    #[must_use]
    pub fn timers(&self) -> usize {
        self.state().timers.len()
    }

    /// Moves the clock without letting anything run, as when the whole process was stopped.
    pub fn stall(&self, duration: Duration) {
        self.state().elapsed += duration;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waker(&self, id: u64) -> Waker {
        Waker::from(Arc::new(TaskWaker { runtime: self.clone(), id }))
    }

    fn next_ready(&self) -> Option<u64> {
        let mut state = self.state();
        state.polls += 1;
        assert!(state.polls < MOST_POLLS, "{MOST_POLLS} steps: something spins at {:?}", state.elapsed);
        if state.ready.is_empty() {
            return None;
        }
        let choices = state.ready.len();
        let choice = state.rng.random_range(0..choices);
        state.ready.remove(choice)
    }

    /// Polled without the lock: the task uses the runtime.
    fn poll_task(&self, id: u64) {
        let Some(mut task) = self.state().tasks.remove(&id) else { return };
        let waker = self.waker(id);
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.state().tasks.insert(id, task);
        }
    }

    /// Jumps to the next timer. Whether there was one.
    fn advance(&self) -> bool {
        let waker = {
            let mut state = self.state();
            let Some(((due, _), waker)) = state.timers.pop_first() else { return false };
            state.elapsed = state.elapsed.max(due);
            waker
        };
        waker.wake();
        true
    }
}

impl Runtime for SimRuntime {
    fn now(&self) -> Instant {
        self.0.origin + self.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        let due = self.elapsed().checked_add(duration).unwrap_or(Duration::MAX);
        let timer = Timer { runtime: self.clone(), due, key: None };
        Box::pin(async move {
            let mut timer = timer;
            poll_fn(|cx| timer.poll(cx)).await;
        })
    }

    fn spawn(&self, task: BoxFuture<()>) {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.tasks.insert(id, task);
        state.ready.push_back(id);
    }
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimRuntime").field(&self.elapsed()).finish()
    }
}

struct TaskWaker {
    runtime: SimRuntime,
    id: u64,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut state = self.runtime.state();
        if !state.ready.contains(&self.id) {
            state.ready.push_back(self.id);
        }
    }
}

struct Timer {
    runtime: SimRuntime,
    due: Duration,
    key: Option<(Duration, u64)>,
}

impl Timer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.runtime.state();
        if state.elapsed >= self.due {
            return Poll::Ready(());
        }
        let key = *self.key.get_or_insert_with(|| {
            state.next_id += 1;
            (self.due, state.next_id)
        });
        state.timers.insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.runtime.state().timers.remove(&key);
        }
    }
}

/// Polls a future exactly once, and says what came of it. For tests that drop a future after so many polls.
pub async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(pin!(&mut *future).poll(cx))).await
}

const MAIN: u64 = 0;
const MOST_POLLS: u64 = 20_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Three tasks that sleep and write down when they woke up.
    fn diary(seed: u64) -> Vec<(u64, Duration)> {
        let sim = Sim::new(seed);
        let runtime = sim.runtime();
        let diary = Arc::new(Mutex::new(Vec::new()));
        sim.run(async {
            for task in 0..3 {
                let (sleeper, diary) = (runtime.clone(), diary.clone());
                runtime.spawn(Box::pin(async move {
                    for _ in 0..5 {
                        sleeper.sleep(Duration::from_secs(1)).await;
                        diary.lock().unwrap().push((task, sleeper.elapsed()));
                    }
                }));
            }
            runtime.sleep(Duration::from_secs(60)).await;
        });
        assert_eq!((runtime.tasks(), runtime.timers()), (0, 0));
        std::mem::take(&mut *diary.lock().unwrap())
    }

    #[test]
    fn a_seed_replays_a_run_and_another_seed_does_not() {
        assert_eq!(diary(7), diary(7));
        let other_orders = (0..20).filter(|seed| diary(*seed) != diary(7)).count();
        assert!(other_orders > 10, "{other_orders}");
        assert!(diary(7).iter().all(|(_, at)| at.subsec_nanos() == 0));
    }

    #[test]
    #[should_panic(expected = "nothing can run any more")]
    fn a_hang_is_found() {
        Sim::new(1).run(std::future::pending::<()>());
    }

    #[test]
    fn a_dropped_timer_is_gone() {
        let sim = Sim::new(1);
        let runtime = sim.runtime();
        sim.run(async {
            let mut sleep = runtime.sleep(Duration::from_secs(1));
            assert!(poll_once(&mut sleep).await.is_pending());
            assert_eq!(runtime.timers(), 1);
        });
        assert_eq!(runtime.timers(), 0);
    }
}
