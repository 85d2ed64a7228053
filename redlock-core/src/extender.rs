//! The task that extends all locks that are kept alive together.

// Tests: below; extensions.rs for the order; tests/tests/it/sim/keep_alive.rs, runtimes/tokio.rs.

use std::{
    fmt,
    future::{poll_fn, ready},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{Abortable, Aborted},
    stream::FuturesUnordered,
};

use crate::{
    extensions::{End, Extensions, Need, Next, Removed, Step},
    renewal::Renewal,
    runtime::BoxFuture,
    settings::Settings,
};

/// A lock that can be kept alive.
pub(crate) trait Extendable: fmt::Debug + Send + Sync {
    /// Extends the lock once.
    fn extend_once(self: Arc<Self>, renewal: Renewal) -> BoxFuture<End>;
}

/// The locks of one manager that are kept alive on one runtime. One task with one timer extends them, while
/// there are any.
#[derive(Debug)]
pub(crate) struct Extender {
    settings: Arc<Settings>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    extensions: Extensions<Kept>,
    /// Of the driver that waits.
    waker: Option<Waker>,
}

#[derive(Clone, Debug)]
struct Kept {
    lock: Arc<dyn Extendable>,
    renewal: Renewal,
}

impl Extender {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, state: Mutex::default() }
    }

    /// Keeps a lock alive until the entry is dropped.
    pub(crate) fn keep(
        self: &Arc<Self>,
        lock: Arc<dyn Extendable>,
        renewal: Renewal,
        first: Next,
    ) -> ExtenderEntry {
        let now = self.settings.now();
        let (id, need, waker) = {
            let mut state = self.state();
            let (id, need) = state.extensions.add(Kept { lock, renewal }, first, now);
            let waker = if need == Need::Nothing { None } else { state.waker.take() };
            (id, need, waker)
        };
        let entry = ExtenderEntry { extender: self.clone(), id };
        match need {
            Need::Start(shift) => {
                self.settings.runtime.spawn(Box::pin(drive(Shift { extender: self.clone(), number: shift })));
                self.yield_thread();
            }
            Need::Wake => self.wake(waker),
            Need::Nothing => {}
        }
        entry
    }

    fn wake(&self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            waker.wake();
            self.yield_thread();
        }
    }

    /// A runtime may hold a new task, or one that was woken, for the thread of the caller. The caller may
    /// block that thread, and all locks would wait. Another task takes that place.
    fn yield_thread(&self) {
        self.settings.runtime.spawn(Box::pin(ready(())));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock that is kept alive, until this is dropped.
#[derive(Debug)]
pub(crate) struct ExtenderEntry {
    extender: Arc<Extender>,
    id: u64,
}

impl Drop for ExtenderEntry {
    fn drop(&mut self) {
        let (Removed { lock, under_way }, waker) = {
            let mut state = self.extender.state();
            let Some(removed) = state.extensions.remove(self.id) else { return };
            let ends = state.extensions.is_empty() || removed.under_way.is_some();
            let waker = if ends { state.waker.take() } else { None };
            (removed, waker)
        };
        drop(lock);
        if let Some(under_way) = under_way {
            under_way.abort();
        }
        self.extender.wake(waker);
    }
}

/// A driver's turn. Its locks are left to the next one when the task is dropped.
struct Shift {
    extender: Arc<Extender>,
    number: u64,
}

impl Shift {
    fn step(&self, cx: &Context<'_>) -> Step<Kept> {
        let settings = &self.extender.settings;
        let now = settings.now();
        let (step, old) = {
            let mut state = self.extender.state();
            let step = state.extensions.step(self.number, now, settings.max_timeout());
            let old = match step {
                Step::Wait(_) => state.waker.replace(cx.waker().clone()),
                Step::Leave if state.extensions.is_empty() => state.waker.take(),
                Step::Leave | Step::Extend(..) => None,
            };
            (step, old)
        };
        // Outside of the lock, because wakers are foreign code, and may own a driver.
        drop(old);
        step
    }

    fn finish(&self, id: u64, end: End) {
        let now = self.extender.settings.now();
        let over = self.extender.state().extensions.finish(self.number, id, now, end);
        drop(over);
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        self.extender.state().extensions.leave(self.number);
    }
}

async fn drive(shift: Shift) {
    let mut under_way = FuturesUnordered::new();
    let mut timer = Timer::default();
    poll_fn(|cx| {
        for _ in 0..STEPS_AT_ONCE {
            while let Poll::Ready(Some((id, end))) = under_way.poll_next_unpin(cx) {
                // A lock that was taken out is not known any more.
                if let Ok(end) = end {
                    shift.finish(id, end);
                }
            }
            match shift.step(cx) {
                Step::Extend(id, Kept { lock, renewal }, stopped) => {
                    // One that panics ends its own lock's keep-alive, and no other's.
                    let extension = AssertUnwindSafe(lock.extend_once(renewal)).catch_unwind();
                    let extension = extension.map(|end| end.unwrap_or_default());
                    let extension = Abortable::new(extension, stopped);
                    under_way.push(extension.map(move |end: Result<End, Aborted>| (id, end)));
                }
                Step::Wait(until) => {
                    if timer.poll(until, &shift.extender.settings, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Step::Leave => return Poll::Ready(()),
            }
        }
        // Others have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The driver's timer, while it waits for a moment.
#[derive(Default)]
struct Timer(Option<(Instant, BoxFuture<()>)>);

impl Timer {
    fn poll(&mut self, until: Option<Instant>, settings: &Settings, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.as_ref().map(|(set, _)| *set) != until {
            let sleep = |until: Instant| {
                (until, settings.runtime.sleep(until.saturating_duration_since(settings.now())))
            };
            self.0 = until.map(sleep);
        }
        let Some((_, sleep)) = &mut self.0 else { return Poll::Pending };
        let poll = sleep.as_mut().poll(cx);
        if poll.is_ready() {
            self.0 = None;
        }
        poll
    }
}

/// How many extensions a driver begins before other tasks have their turn.
const STEPS_AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use tokio::{
        runtime::Handle,
        time::{Instant as TokioInstant, sleep},
    };

    use super::*;
    use crate::{
        admission::Admission,
        fencing::Fencing,
        runtime::TokioRuntime,
        validity::{Drift, Ttl},
    };

    const TTL: Duration = Duration::from_secs(30);

    #[derive(Debug)]
    enum Kind {
        Healthy,
        Failing,
        Panicking,
        /// Its extension takes forever.
        Hanging,
    }

    #[derive(Debug)]
    struct TestLock {
        kind: Kind,
        begun: AtomicUsize,
        ended: AtomicUsize,
    }

    impl Extendable for TestLock {
        fn extend_once(self: Arc<Self>, renewal: Renewal) -> BoxFuture<End> {
            self.begun.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let _ended = Ended(&self.ended);
                match self.kind {
                    Kind::Healthy | Kind::Failing => sleep(Duration::from_millis(1)).await,
                    Kind::Panicking => panic!("in an extension"),
                    Kind::Hanging => std::future::pending().await,
                }
                let now = TokioInstant::now().into_std();
                let failed = matches!(self.kind, Kind::Failing);
                let due = if failed { renewal.retry(now) } else { renewal.next(now, |_| 0) };
                End {
                    next: Some(Next { due, deadline: now + TTL }),
                    replied: Some((Duration::from_secs(1), !failed)),
                }
            })
        }
    }

    struct Ended<'a>(&'a AtomicUsize);

    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl TestLock {
        fn kept(extender: &Arc<Extender>, kind: Kind) -> (Arc<Self>, ExtenderEntry) {
            let lock = Arc::new(Self { kind, begun: AtomicUsize::new(0), ended: AtomicUsize::new(0) });
            let now = extender.settings.now();
            let renewal = Renewal::new(Ttl::new(TTL, extender.settings.drift).unwrap(), None);
            let first = Next { due: now + TTL / 3, deadline: now + TTL };
            let entry = extender.keep(lock.clone(), renewal, first);
            (lock, entry)
        }

        fn count(&self) -> (usize, usize) {
            (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
        }
    }

    fn extender() -> Arc<Extender> {
        let (runtime, drift) = (Arc::new(TokioRuntime::current()), Drift::new(0.01).unwrap());
        let (admission, fencing) = (Admission::default(), Fencing::default());
        let settings = Settings { runtime, drift, node_timeout: None, admission, fencing };
        Arc::new(Extender::new(Arc::new(settings)))
    }

    fn tasks() -> usize {
        Handle::current().metrics().num_alive_tasks()
    }

    #[tokio::test(start_paused = true)]
    async fn an_extension_that_fails_or_panics_or_hangs_harms_no_other_lock() {
        let extender = extender();
        let kinds = [Kind::Healthy, Kind::Failing, Kind::Panicking, Kind::Hanging];
        let (locks, entries): (Vec<_>, Vec<_>) =
            kinds.into_iter().map(|kind| TestLock::kept(&extender, kind)).unzip();
        sleep(TTL * 10).await;
        let [healthy, failing, panicking, hanging] = [0, 1, 2, 3].map(|lock| locks[lock].count());
        assert_eq!((healthy, panicking, hanging), ((29, 29), (1, 1), (1, 0)));
        // Every tenth of the TTL after the first third.
        assert!((96..=97).contains(&failing.0), "{failing:?}");
        assert_eq!(tasks(), 1);
        drop(entries);
        sleep(Duration::from_millis(1)).await;
        assert_eq!((tasks(), locks[3].count()), (0, (1, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_is_taken_out_is_not_extended_and_what_is_under_way_is_dropped() {
        let extender = extender();
        let (kept, _entry) = TestLock::kept(&extender, Kind::Healthy);
        let (gone, entry) = TestLock::kept(&extender, Kind::Healthy);
        let (hanging, hanging_entry) = TestLock::kept(&extender, Kind::Hanging);
        drop(entry);
        sleep(TTL / 2).await;
        assert_eq!((gone.count(), hanging.count()), ((0, 0), (1, 0)));
        drop(hanging_entry);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(hanging.count(), (1, 1));
        sleep(TTL).await;
        assert_eq!((kept.count(), hanging.count(), tasks()), ((4, 4), (1, 1), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_locks_of_a_driver_that_is_dropped_are_taken_over_by_the_next() {
        let extender = extender();
        let (first, _first) = TestLock::kept(&extender, Kind::Healthy);
        sleep(TTL / 2).await;
        assert_eq!(first.count(), (1, 1));
        // As the end of a runtime does, of which the task is.
        extender.state().extensions.leave(1);
        sleep(TTL).await;
        assert_eq!(first.count(), (1, 1), "nobody extends it");
        let (_, _second) = TestLock::kept(&extender, Kind::Healthy);
        sleep(TTL).await;
        assert_eq!((first.count(), tasks()), ((4, 4), 1), "at once, and three times a TTL");
    }
}
