//! What a server reports and answers to a connection over which keys are watched.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arbitrary::{Arbitrary, Unstructured};
use redlock_core::{
    BackendError, BackendErrorKind, BoxFuture, Resources, Runtime, Watch,
    redis::{Reports, TrackedConnection, Watcher},
};
use redlock_tests::harness::{Harness, ms, s};

/// Whatever a server did before: when all keys are free and it answers again, every watch has ended.
pub fn check(data: &[u8]) {
    let Ok(scene) = Scene::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let harness = Harness::new(0);
    harness.sim.run(scene.play(&harness));
    harness.assert_at_rest();
}

#[derive(Arbitrary, Debug)]
struct Scene {
    rereads: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// The names, as bits; the timeout in s; after how many ms it is dropped.
    Watch {
        names: u8,
        eager: bool,
        timeout: u8,
        dropped: Option<u16>,
    },
    Take(u8),
    Free(u8),
    /// A report of a key that may be none of ours, over this connection or one before.
    Report {
        name: Vec<u8>,
        over: u8,
    },
    AllChanged {
        over: u8,
    },
    Lost {
        over: u8,
    },
    Connects(Way),
    Answers(Way),
    Sleep(u16),
}

/// How the server does it.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Way {
    AtOnce,
    /// In ms.
    Late(u8),
    Never,
    Rejected,
    Transient,
}

struct Server {
    runtime: Arc<dyn Runtime>,
    state: Mutex<State>,
}

struct State {
    /// When each key was free last, and whether it still is.
    free: [(Option<Instant>, bool); NAMES.len()],
    /// The keys that the last connection has read since their last change.
    tracked: BTreeSet<usize>,
    connections: Vec<Reports>,
    connects: Way,
    answers: Way,
    /// The watches that have not ended.
    live: u32,
}

struct Connection {
    server: Arc<Server>,
    number: usize,
}

impl Scene {
    async fn play(self, harness: &Harness) {
        let runtime: Arc<dyn Runtime> = Arc::new(harness.runtime.clone());
        let state = State {
            free: [(None, false); NAMES.len()],
            tracked: BTreeSet::new(),
            connections: Vec::new(),
            connects: Way::AtOnce,
            answers: Way::AtOnce,
            live: 0,
        };
        let server = Arc::new(Server { runtime: runtime.clone(), state: Mutex::new(state) });
        let connect = {
            let server = server.clone();
            move |reports| -> BoxFuture<_> { Box::pin(server.clone().connect(reports)) }
        };
        let watcher = Arc::new(match self.rereads {
            true => Watcher::rereading(s(1), connect),
            false => Watcher::new(connect),
        });
        for step in self.steps {
            step.play(harness, &server, &watcher).await;
        }

        {
            let mut state = server.state();
            (state.connects, state.answers) = (Way::AtOnce, Way::AtOnce);
        }
        (0..NAMES.len()).for_each(|key| server.change(key, true));
        harness.runtime.sleep(SETTLED).await;
        assert_eq!(server.state().live, 0, "a watch of keys that are free goes on");
        // It may have been refused.
        harness.runtime.sleep(s(30)).await;
        let all: Resources = NAMES.into();
        let watched = watcher.watch(&runtime, Watch::new(&all, s(60))).await;
        watched.expect("the keys are free");
        // An idle connection is closed.
        harness.runtime.sleep(s(60)).await;
    }
}

impl Step {
    async fn play(self, harness: &Harness, server: &Arc<Server>, watcher: &Arc<Watcher>) {
        match self {
            Self::Watch { names, eager, timeout, dropped } => {
                let keys: Vec<usize> = (0..NAMES.len()).filter(|key| names >> key & 1 == 1).collect();
                if !keys.is_empty() && server.state().live < 50 {
                    server.state().live += 1;
                    let watching =
                        Watching { server: server.clone(), keys, eager, timeout: s(timeout.into()) };
                    let watched = watching.run(watcher.clone());
                    let dropped = dropped.map(|after| harness.runtime.sleep(ms(after.into())));
                    harness.runtime.spawn(Box::pin(async move {
                        match dropped {
                            Some(dropped) => {
                                tokio::select! { biased; () = dropped => {}, () = watched => {} }
                            }
                            None => watched.await,
                        }
                    }));
                }
            }
            Self::Take(key) => server.change(usize::from(key) % NAMES.len(), false),
            Self::Free(key) => server.change(usize::from(key) % NAMES.len(), true),
            Self::Report { name, over } => server.over(over, |reports| reports.changed(&name)),
            Self::AllChanged { over } => server.over(over, Reports::all_changed),
            Self::Lost { over } => server.over(over, Reports::lost),
            Self::Connects(way) => server.state().connects = way,
            Self::Answers(way) => server.state().answers = way,
            Self::Sleep(millis) => harness.runtime.sleep(ms(millis.into())).await,
        }
    }
}

struct Watching {
    server: Arc<Server>,
    keys: Vec<usize>,
    eager: bool,
    timeout: Duration,
}

impl Watching {
    async fn run(self, watcher: Arc<Watcher>) {
        let runtime = self.server.runtime.clone();
        let names: Resources = self.keys.iter().map(|key| NAMES[*key]).collect();
        let watch = Watch::new(&names, self.timeout);
        let start = runtime.now();
        let ended = watcher.watch(&runtime, if self.eager { watch.eager() } else { watch }).await;
        let now = runtime.now();
        assert!(now - start <= self.timeout, "it takes {:?} of {:?}", now - start, self.timeout);
        match ended {
            // A late answer is of an earlier instant, when another watch had asked.
            Ok(()) if !self.eager => {
                for key in &self.keys {
                    let (last, is_free) = self.server.state().free[*key];
                    let was_free = is_free || last.is_some_and(|last| last + LATEST >= start);
                    assert!(was_free, "{:?} was not free since the watch began", NAMES[*key]);
                }
            }
            Ok(()) => {}
            Err(error) => assert!(!error.message().is_empty()),
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.server.state().live -= 1;
    }
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(self: Arc<Self>, reports: Reports) -> Result<Arc<dyn TrackedConnection>, BackendError> {
        let number = {
            let mut state = self.state();
            state.tracked.clear();
            state.connections.push(reports);
            state.connections.len()
        };
        let way = self.state().connects;
        self.after(way).await?;
        Ok(Arc::new(Connection { server: self.clone(), number }))
    }

    async fn after(&self, way: Way) -> Result<(), BackendError> {
        match way {
            Way::AtOnce => Ok(()),
            Way::Late(millis) => {
                self.runtime.sleep(ms(millis.into())).await;
                Ok(())
            }
            Way::Never => std::future::pending().await,
            Way::Rejected => Err(BackendError::new(BackendErrorKind::Rejected, "NOPERM")),
            Way::Transient => Err(BackendError::new(BackendErrorKind::Transient, "LOADING")),
        }
    }

    /// A key is taken, extended, or removed, which the server reports.
    fn change(&self, key: usize, is_free: bool) {
        let reports = {
            let mut state = self.state();
            if state.free[key].1 || is_free {
                state.free[key].0 = Some(self.runtime.now());
            }
            state.free[key].1 = is_free;
            if state.tracked.remove(&key) { state.connections.last().cloned() } else { None }
        };
        reports.iter().for_each(|reports| reports.changed(NAMES[key].as_bytes()));
    }

    /// Over the last connection, or one before.
    fn over(&self, back: u8, report: impl FnOnce(&Reports)) {
        let connections = self.state().connections.clone();
        if let Some(reports) = connections.iter().rev().nth(usize::from(back)) {
            report(reports);
        }
    }
}

impl TrackedConnection for Connection {
    fn is_free(&self, name: Arc<str>) -> BoxFuture<Result<bool, BackendError>> {
        let (server, number) = (self.server.clone(), self.number);
        Box::pin(async move {
            let (is_free, way) = {
                let mut state = server.state();
                let key = NAMES.iter().position(|known| *known == &*name).expect("only these are watched");
                if number == state.connections.len() {
                    state.tracked.insert(key);
                }
                (state.free[key].1, state.answers)
            };
            server.after(way).await.map(|()| is_free)
        })
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];
/// The latest answer.
const LATEST: Duration = Duration::from_millis(256);
/// By then a connection that is silent counts as lost, and the next one is made.
const SETTLED: Duration = Duration::from_secs(10);
