use std::{
    collections::BTreeSet,
    future::{pending, ready},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{TokioRuntime, resources::Resources, runtime::tests::IdleRuntime};

/// A server with keys that are held. It reports the next change of each key that was read.
#[derive(Default)]
struct Server {
    held: Mutex<BTreeSet<String>>,
    tracked: Mutex<BTreeSet<String>>,
    connects: AtomicUsize,
    reads: AtomicUsize,
    closed: AtomicUsize,
    refuses: Mutex<Option<BackendErrorKind>>,
    hangs: Mutex<bool>,
    reports: Mutex<Vec<Reports>>,
}

struct Connection(Arc<Server>);

impl TrackedConnection for Connection {
    fn is_free(&self, name: Arc<str>) -> BoxFuture<Result<bool, BackendError>> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        if *self.0.hangs.lock().unwrap() {
            return Box::pin(pending());
        }
        let answer = match &*name {
            "forbidden" => Err(BackendError::new(BackendErrorKind::Rejected, "NOPERM")),
            "loading" => Err(BackendError::new(BackendErrorKind::Transient, "LOADING")),
            name => Ok(!self.0.held.lock().unwrap().contains(name)),
        };
        self.0.tracked.lock().unwrap().insert(name.to_string());
        Box::pin(ready(answer))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Server {
    fn holding(names: &[&str]) -> Arc<Self> {
        let server = Self::default();
        server.held.lock().unwrap().extend(names.iter().map(ToString::to_string));
        Arc::new(server)
    }

    fn watcher(self: &Arc<Self>, reread: Option<Duration>) -> Arc<Watcher> {
        let server = self.clone();
        let connect = move |reports| -> Connecting {
            server.connects.fetch_add(1, Ordering::Relaxed);
            server.reports.lock().unwrap().push(reports);
            let refused = server.refuses.lock().unwrap().map(|kind| BackendError::new(kind, "refused"));
            let connection: Arc<dyn TrackedConnection> = Arc::new(Connection(server.clone()));
            Box::pin(ready(refused.map_or(Ok(connection), Err)))
        };
        Arc::new(match reread {
            Some(every) => Watcher::rereading(every, connect),
            None => Watcher::new(connect),
        })
    }

    fn change(&self, name: &str) {
        if self.tracked.lock().unwrap().remove(name) {
            self.reports().changed(name.as_bytes());
        }
    }

    fn release(&self, name: &str) {
        self.held.lock().unwrap().remove(name);
        self.change(name);
    }

    fn reports(&self) -> Reports {
        self.reports.lock().unwrap().last().unwrap().clone()
    }

    fn connects(&self) -> usize {
        self.connects.load(Ordering::Relaxed)
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

fn tokio() -> Arc<dyn Runtime> {
    Arc::new(TokioRuntime::current())
}

async fn watch(watcher: &Arc<Watcher>, name: &str) -> Result<(), BackendErrorKind> {
    let names: Resources = name.split(' ').collect();
    let watched = watcher.watch(&tokio(), Watch::new(&names, Duration::from_secs(60))).await;
    watched.map_err(|error| error.kind())
}

async fn sleep(millis: u64) {
    tokio().sleep(Duration::from_millis(millis)).await;
}

#[tokio::test(start_paused = true)]
async fn many_watches_share_a_connection_and_the_reading_of_a_key() {
    let server = Server::holding(&["a", "b"]);
    let watcher = server.watcher(None);
    let later = async {
        sleep(1_000).await;
        assert_eq!(server.reads(), 2);
        server.change("a");
        sleep(1_000).await;
        assert_eq!(server.reads(), 3, "an extension: it is read again, and waited for again");
        server.release("a");
        sleep(1_000).await;
        server.release("b");
    };
    let (one, two, both, ()) =
        tokio::join!(watch(&watcher, "a"), watch(&watcher, "a"), watch(&watcher, "a b"), later);
    assert_eq!([one, two, both], [Ok(()); 3]);
    assert_eq!(watch(&watcher, "free").await, Ok(()));
    assert_eq!((server.connects(), server.reads()), (1, 6));
    assert!(watcher.state().keys.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_watch_is_forgotten_and_an_idle_connection_is_closed() {
    let server = Server::holding(&["a"]);
    let watcher = server.watcher(None);
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_secs(5), watch(&watcher, "a")).await.is_err());
        assert!(watcher.state().keys.is_empty());
        sleep(9_000).await;
    }
    assert_eq!((server.connects(), server.closed.load(Ordering::Relaxed)), (1, 0));
    sleep(2_000).await;
    assert_eq!(server.closed.load(Ordering::Relaxed), 1);
    server.release("a");
    assert_eq!(watch(&watcher, "a").await, Ok(()));
    assert_eq!(server.connects(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_at_its_timeout() {
    let watcher = Server::holding(&["a"]).watcher(None);
    let start = tokio::time::Instant::now();
    assert_eq!(watch(&watcher, "a").await, Err(BackendErrorKind::Indeterminate));
    assert_eq!(start.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_asked_again_after_half_a_minute() {
    let server = Server::holding(&[]);
    *server.refuses.lock().unwrap() = Some(BackendErrorKind::Rejected);
    let watcher = server.watcher(None);
    for _ in 0..29 {
        assert_eq!(watch(&watcher, "a").await, Err(BackendErrorKind::Rejected));
        sleep(1_000).await;
    }
    assert_eq!(server.connects(), 1);
    *server.refuses.lock().unwrap() = None;
    sleep(1_000).await;
    assert_eq!(watch(&watcher, "a").await, Ok(()));
    assert_eq!(server.connects(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_reached_is_asked_at_a_bounded_rate() {
    let server = Server::holding(&[]);
    *server.refuses.lock().unwrap() = Some(BackendErrorKind::Indeterminate);
    let watcher = server.watcher(None);
    let start = tokio::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(watch(&watcher, "a").await, Err(BackendErrorKind::Indeterminate));
    }
    assert!(start.elapsed() > Duration::from_secs(7), "{:?}", start.elapsed());
    assert_eq!(server.connects(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_ends_its_watches_and_the_next_watch_makes_another() {
    let server = Server::holding(&["a"]);
    let watcher = server.watcher(None);
    let later = async {
        sleep(1_000).await;
        server.reports().lost();
    };
    let (one, two, ()) = tokio::join!(watch(&watcher, "a"), watch(&watcher, "a"), later);
    assert_eq!([one, two], [Err(BackendErrorKind::Indeterminate); 2]);
    let later = async {
        sleep(1_000).await;
        server.reports.lock().unwrap()[0].lost();
        sleep(1_000).await;
        server.release("a");
    };
    let (again, ()) = tokio::join!(watch(&watcher, "a"), later);
    assert_eq!((again, server.connects()), (Ok(()), 2));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_or_cannot_answer_ends_the_connection() {
    let server = Server::holding(&["a"]);
    let watcher = server.watcher(None);
    assert_eq!(watch(&watcher, "loading").await, Err(BackendErrorKind::Transient));
    *server.hangs.lock().unwrap() = true;
    assert_eq!(watch(&watcher, "a").await, Err(BackendErrorKind::Indeterminate));
    assert_eq!((server.connects(), server.closed.load(Ordering::Relaxed)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_may_not_be_read_ends_its_own_watches_only() {
    let server = Server::holding(&["a"]);
    let watcher = server.watcher(None);
    let later = async {
        assert_eq!(watch(&watcher, "forbidden").await, Err(BackendErrorKind::Rejected));
        assert_eq!(watch(&watcher, "forbidden").await, Err(BackendErrorKind::Rejected));
        server.release("a");
    };
    let (watched, ()) = tokio::join!(watch(&watcher, "a"), later);
    assert_eq!((watched, server.connects()), (Ok(()), 1));
}

#[tokio::test(start_paused = true)]
async fn a_flush_wakes_all_and_a_report_that_is_not_passed_on_is_made_up_for() {
    for reread in [None, Some(Duration::from_secs(3))] {
        let server = Server::holding(&["a", "b", "c"]);
        let watcher = server.watcher(reread);
        let later = async {
            sleep(1_000).await;
            server.held.lock().unwrap().retain(|name| name == "c");
            if reread.is_none() {
                server.reports().all_changed();
            }
            sleep(5_000).await;
            server.reports().changed(b"\xff");
            server.release("c");
        };
        let watches = async {
            let start = tokio::time::Instant::now();
            let (one, two) = tokio::join!(watch(&watcher, "a"), watch(&watcher, "b"));
            (one, two, start.elapsed().as_secs())
        };
        let (watches, other, ()) = tokio::join!(watches, watch(&watcher, "c"), later);
        assert_eq!(watches, (Ok(()), Ok(()), if reread.is_none() { 1 } else { 3 }));
        assert_eq!(other, Ok(()));
    }
}

/// A task that is dropped with its runtime takes its watches with it, and the next watch begins anew.
#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_the_runtime_of_the_connection() {
    let server = Server::holding(&["a"]);
    let watcher = server.watcher(None);
    let ended = Arc::new(IdleRuntime::default());
    let names = Resources::from("a");
    let request = Watch::new(&names, Duration::from_secs(60));
    let on_it: Arc<dyn Runtime> = Arc::new(NoTimers(ended.clone()));
    let mut first = pin!(watcher.watch(&on_it, request));
    let begun = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await;
    assert!(begun);
    let later = async {
        sleep(1_000).await;
        ended.tasks.lock().unwrap().clear();
    };
    let first = tokio::time::timeout(Duration::from_secs(100), first);
    let (first, other, ()) = tokio::join!(first, watch(&watcher, "a"), later);
    assert_eq!(first.expect("an end").unwrap_err().kind(), BackendErrorKind::Indeterminate);
    assert_eq!(other, Err(BackendErrorKind::Indeterminate));
    server.release("a");
    assert_eq!(watch(&watcher, "a").await, Ok(()));
}

/// Keeps its tasks, and its timers never fire.
#[derive(Debug)]
struct NoTimers(Arc<IdleRuntime>);

impl Runtime for NoTimers {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn unix_time(&self) -> Duration {
        self.0.unix_time()
    }

    fn sleep(&self, _: Duration) -> BoxFuture<()> {
        Box::pin(pending())
    }

    fn spawn(&self, task: BoxFuture<()>) {
        self.0.spawn(task);
    }
}
