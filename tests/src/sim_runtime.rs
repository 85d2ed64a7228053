//! A deterministic runtime: one thread, a clock that jumps from timer to timer, and an order drawn from a
//! seed.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};
use redlock_core::{BoxFuture, Runtime};

use self::{clock::Clock, timer::TaskWaker};

mod clock;
mod timer;

/// A run of the simulation. Two runs with the same seed and the same program take the same steps.
///
/// Time stands still while a task can run, and jumps to the next timer when none can. When several tasks can
/// run, the seed decides which is next.
///
/// Tasks belong to processes. Each process has a clock of its own, and can be stopped and killed.
pub struct Sim {
    runtime: SimRuntime,
    seed: u64,
}

/// The runtime of one process of a [`Sim`]. Cheap to clone.
#[derive(Clone)]
pub struct SimRuntime {
    shared: Arc<Shared>,
    process: usize,
}

struct Shared {
    origin: Instant,
    state: Mutex<State>,
}

struct State {
    elapsed: Duration,
    rng: ChaCha20Rng,
    next_id: u64,
    /// Tasks that wait for something.
    tasks: BTreeMap<u64, Task>,
    processes: Vec<Process>,
    ready: VecDeque<u64>,
    /// By time, then in the order in which they were set.
    timers: BTreeMap<(Duration, u64), Waker>,
    polls: u64,
}

struct Task {
    process: usize,
    future: BoxFuture<()>,
}

#[derive(Default)]
struct Process {
    stopped: bool,
    killed: bool,
    /// Tasks that could run if the process were not stopped.
    parked: Vec<u64>,
    clock: Clock,
    /// How many milliseconds its wall clock is ahead.
    wall_clock_skew: i64,
    /// New tasks start late, by up to this time.
    spawn_delay: Duration,
}

impl Sim {
    /// A run that draws all choices from `seed`.
    #[must_use]
    #[allow(clippy::disallowed_methods)]
    pub fn new(seed: u64) -> Self {
        let state = State {
            elapsed: Duration::ZERO,
            rng: ChaCha20Rng::seed_from_u64(seed),
            next_id: 1,
            tasks: BTreeMap::new(),
            processes: vec![Process::default()],
            ready: VecDeque::new(),
            timers: BTreeMap::new(),
            polls: 0,
        };
        // The start of the clock does not matter: only differences are used.
        let shared = Shared { origin: Instant::now(), state: Mutex::new(state) };
        Self { runtime: SimRuntime { shared: Arc::new(shared), process: MAIN_PROCESS }, seed }
    }

    /// The runtime of the main process, which `run` runs in. Its clock shows the true time.
    #[must_use]
    pub fn runtime(&self) -> SimRuntime {
        self.runtime.clone()
    }

    /// The runtime of a new process, whose clock runs `faster` millionths faster than the true time.
    #[must_use]
    pub fn process(&self, faster: i32) -> SimRuntime {
        let mut state = self.runtime.state();
        let clock = Clock { faster, ahead: Duration::ZERO };
        state.processes.push(Process { clock, ..Process::default() });
        SimRuntime { shared: self.runtime.shared.clone(), process: state.processes.len() - 1 }
    }

    /// A source for one lock manager's tokens and jitter, from the seed; each call returns another one.
    pub fn entropy(&self) -> impl FnMut(&mut [u8]) + Send + 'static {
        let mut rng = ChaCha20Rng::from_rng(&mut self.runtime.state().rng);
        move |bytes| rng.fill(bytes)
    }

    /// Runs `main`, and every task that it spawns, until `main` is done. The remaining tasks continue in the
    /// next run.
    ///
    /// # Panics
    ///
    /// When nothing can ever run again (a hang), or when there are more steps than any test needs (a busy
    /// loop).
    pub fn run<T>(&self, main: impl Future<Output = T>) -> T {
        self.run_watched(main, || ())
    }

    /// As [`Sim::run`], and calls `watch` after every step.
    ///
    /// # Panics
    ///
    /// As [`Sim::run`].
    pub fn run_watched<T>(&self, main: impl Future<Output = T>, mut watch: impl FnMut()) -> T {
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
            watch();
        }
    }
}

impl Drop for Sim {
    /// Tasks own the runtime, and the runtime owns the tasks, so they are dropped here: without the lock, and
    /// until none is left, because a task that is dropped may spawn others.
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
    /// True time since the start of the run.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.state().elapsed
    }

    /// Stops the process: its tasks no longer run. Its clock continues.
    pub fn stop(&self) {
        self.state().processes[self.process].stopped = true;
    }

    /// Resumes a stopped process.
    pub fn resume(&self) {
        let mut state = self.state();
        let process = &mut state.processes[self.process];
        process.stopped = false;
        let parked = std::mem::take(&mut process.parked);
        state.ready.extend(parked);
    }

    /// Kills the process: its tasks are dropped, and it never runs again.
    pub fn kill(&self) {
        let gone: Vec<Task> = {
            let mut state = self.state();
            state.processes[self.process].killed = true;
            let tasks = std::mem::take(&mut state.tasks);
            let (gone, left): (Vec<_>, Vec<_>) =
                tasks.into_iter().partition(|(_, task)| task.process == self.process);
            state.tasks = left.into_iter().collect();
            gone.into_iter().map(|(_, task)| task).collect()
        };
        // Without the lock: a task that is dropped may use the runtime. For it, the process is killed
        // already.
        drop(gone);
    }

    /// Whether the process has been killed.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.state().processes[self.process].killed
    }

    /// Whether the process is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state().processes[self.process].stopped
    }

    /// From now on, new tasks of the process start late, by up to `delay`.
    pub fn delay_spawned(&self, delay: Duration) {
        self.state().processes[self.process].spawn_delay = delay;
    }

    /// Sets the process' clock forward.
    pub fn jump(&self, by: Duration) {
        self.state().processes[self.process].clock.ahead += by;
    }

    /// Sets the process' wall clock so many milliseconds ahead of the true time, or behind it.
    pub fn skew_wall_clock(&self, millis: i64) {
        self.state().processes[self.process].wall_clock_skew = millis;
    }

    /// The true time that passes while the process' clock counts `duration`.
    #[must_use]
    pub fn in_true_time(&self, duration: Duration) -> Duration {
        let clock = self.state().processes[self.process].clock;
        Clock { ahead: Duration::ZERO, ..clock }.reaches(duration)
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

    /// Advances the clock without running anything, as if the whole process had been stopped.
    pub fn stall(&self, duration: Duration) {
        self.state().elapsed += duration;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waker(&self, id: u64) -> Waker {
        Waker::from(Arc::new(TaskWaker { runtime: self.clone(), id }))
    }

    fn next_ready(&self) -> Option<u64> {
        let mut state = self.state();
        state.polls += 1;
        assert!(state.polls < MAX_POLLS, "{MAX_POLLS} steps: something spins at {:?}", state.elapsed);
        while !state.ready.is_empty() {
            let choices = state.ready.len();
            let choice = state.rng.random_range(0..choices);
            let id = state.ready.remove(choice)?;
            match state.tasks.get(&id).map(|task| task.process) {
                Some(process) if state.processes[process].stopped => state.processes[process].parked.push(id),
                _ => return Some(id),
            }
        }
        None
    }

    /// Polls without the lock: the task uses the runtime.
    fn poll_task(&self, id: u64) {
        let Some(mut task) = self.state().tasks.remove(&id) else { return };
        let waker = self.waker(id);
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            // The task may have killed its own process.
            let mut state = self.state();
            if !state.processes[task.process].killed {
                state.tasks.insert(id, task);
            }
        }
    }

    /// Jumps to the next timer. Returns whether there was one.
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
        let state = self.state();
        self.shared.origin + state.processes[self.process].clock.read(state.elapsed)
    }

    fn unix_time(&self) -> Duration {
        let state = self.state();
        let Process { clock, wall_clock_skew, .. } = &state.processes[self.process];
        let true_time = WALL_CLOCK_START + clock.read(state.elapsed);
        let skew = Duration::from_millis(wall_clock_skew.unsigned_abs());
        if *wall_clock_skew < 0 { true_time.saturating_sub(skew) } else { true_time + skew }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        let due = {
            let state = self.state();
            let clock = state.processes[self.process].clock;
            clock
                .read(state.elapsed)
                .checked_add(duration)
                .map_or(Duration::MAX, |local| clock.reaches(local))
        };
        Box::pin(timer::reaches(self.clone(), due))
    }

    fn spawn(&self, task: BoxFuture<()>) {
        let mut state = self.state();
        let Process { killed, spawn_delay, .. } = state.processes[self.process];
        if killed {
            drop(state);
            drop(task);
            return;
        }
        let delay = if spawn_delay.is_zero() {
            Duration::ZERO
        } else {
            state.rng.random_range(Duration::ZERO..spawn_delay)
        };
        let future = if delay.is_zero() {
            task
        } else {
            let starts = timer::reaches(self.clone(), state.elapsed + delay);
            Box::pin(async move {
                starts.await;
                task.await;
            })
        };
        let id = state.next_id;
        state.next_id += 1;
        state.tasks.insert(id, Task { process: self.process, future });
        state.ready.push_back(id);
    }
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimRuntime").field(&self.process).field(&self.elapsed()).finish()
    }
}

/// Polls a future exactly once, and returns the result. For tests that drop a future after a number of polls.
pub async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(pin!(&mut *future).poll(cx))).await
}

const MAIN: u64 = 0;
/// What a true wall clock shows at the start.
const WALL_CLOCK_START: Duration = Duration::from_secs(1_700_000_000);
const MAIN_PROCESS: usize = 0;
const MAX_POLLS: u64 = 5_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Three tasks that sleep and record when they wake.
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
