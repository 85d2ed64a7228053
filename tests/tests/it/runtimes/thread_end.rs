//! Locks that are dropped at the very end of a thread, when the thread-locals of tokio and of the subscriber
//! are gone.
//!
//! Each case is a process of its own: a failure there aborts the process, and the subscriber is global.

use std::{
    any::Any,
    cell::RefCell,
    env,
    future::IntoFuture,
    io,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::PrometheusBuilder;
use redlock_core::{MemoryBackend, Redlock, Runtime, SmolRuntime, TokioRuntime};
use redlock_tests::sim_runtime::poll_once;
use rstest::rstest;
use tracing::Level;

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
/// Runs in the process of the case.
const INSIDE: &str = "REDLOCK_TEST_THREAD_END";

thread_local! {
    static HELD: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

#[derive(Clone, Copy, Debug)]
enum Held {
    Lock,
    KeepAlive,
    Expired,
    Request,
}

#[rstest]
fn a_lock_in_a_thread_local_is_released_at_the_end_of_its_thread(
    #[values(Held::Lock, Held::KeepAlive, Held::Expired, Held::Request)] held: Held,
    #[values("current-thread", "multi-thread", "ended", "smol")] runtime: &str,
) {
    if env::var_os(INSIDE).is_some() {
        return end_a_thread(held, runtime);
    }
    let name = thread::current().name().unwrap().to_owned();
    let mut child = Command::new(env::current_exe().unwrap());
    let child = child.args(["--exact", &name, "--nocapture"]).env(INSIDE, "1").stdin(Stdio::null());
    let output = child.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.contains("1 passed"), "{}: {printed}", output.status);
}

fn end_a_thread(held: Held, runtime: &str) {
    tracing_subscriber::fmt().with_max_level(Level::TRACE).with_writer(io::sink).init();
    PrometheusBuilder::new().install_recorder().unwrap();
    let tokio = match runtime {
        "current-thread" => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build(),
    }
    .unwrap();
    let nodes = match runtime {
        "smol" => begin(held, SmolRuntime::new(), None),
        "ended" => begin(held, TokioRuntime::new(tokio.handle().clone()), Some(tokio)),
        _ => begin(held, TokioRuntime::new(tokio.handle().clone()), None),
    };
    let start = Instant::now();
    while nodes.iter().any(|node| node.get("a").is_some()) {
        assert!(start.elapsed() < SOON, "it is not released");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A thread that ends with something in a thread-local; `ending` is dropped right before.
fn begin<R: Runtime + Clone>(
    held: Held,
    runtime: R,
    ending: Option<tokio::runtime::Runtime>,
) -> [MemoryBackend; 3] {
    let nodes = [(); 3].map(|()| MemoryBackend::new(runtime.clone()));
    let servers = nodes.clone();
    let thread = thread::spawn(move || {
        // The first thread-local used is the last one destroyed: those that are used from now on are gone by
        // then.
        HELD.with(|_| ());
        let redlock = Redlock::builder(runtime).nodes(servers.clone()).build().unwrap();
        let held: Box<dyn Any> = smol::block_on(async {
            let lock = async |ttl| redlock.lock("a", ttl).await.unwrap();
            match held {
                Held::Lock => Box::new(lock(TTL).await) as Box<dyn Any>,
                Held::KeepAlive => Box::new(lock(TTL).await.keep_alive()),
                Held::Expired => {
                    let lock = lock(Duration::from_millis(20)).await;
                    thread::sleep(Duration::from_millis(30));
                    Box::new(lock)
                }
                Held::Request => {
                    servers.iter().for_each(MemoryBackend::stop);
                    let mut request = redlock.lock("a", TTL).into_future();
                    drop(poll_once(&mut request).await);
                    servers.iter().for_each(MemoryBackend::resume);
                    assert!(servers[0].get("a").is_some());
                    Box::new(request)
                }
            }
        });
        drop(redlock);
        drop(ending);
        HELD.with(|place| *place.borrow_mut() = Some(held));
    });
    thread.join().unwrap();
    nodes
}
