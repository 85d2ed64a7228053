//! What must never be logged, how much is logged at most, and that telemetry changes nothing.

use std::{
    future::Future,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, Extend, Lease, LockBackend, MemoryBackend, Redlock, Release,
    ReleaseReply, Runtime, async_trait,
};
use redlock_tests::{
    harness::{Harness, ms, s},
    sim_runtime::poll_once,
};
use tracing::Level;
use tracing_subscriber::{
    fmt::format::FmtSpan,
    layer::{Context, Layer, SubscriberExt},
    registry::Registry,
};

use crate::telemetry::capture::{Capture, lose_and_fail, metered, with_subscriber};

/// A node that is down every other second.
fn flap(harness: &Harness, node: usize, seconds: u64) {
    let (node, runtime) = (harness.nodes[node].clone(), harness.runtime.clone());
    harness.runtime.spawn(Box::pin(async move {
        for _ in 0..seconds / 2 {
            runtime.sleep(s(1)).await;
            node.shut_down();
            runtime.sleep(s(1)).await;
            node.start();
        }
    }));
}

#[test]
fn ten_minutes_of_a_flapping_node_are_twenty_lines() {
    let harness = Harness::new(3);
    let (locks, capture) = Capture::of(&harness, async {
        let redlock = harness.redlock();
        flap(&harness, 2, 600);
        let mut locks = 0;
        while harness.runtime.elapsed() < s(600) {
            redlock.lock("x", s(10)).await.unwrap().unlock().await.unwrap();
            harness.sleep(100).await;
            locks += 1;
        }
        locks
    });
    assert!(locks > 5_000, "{locks}");
    assert!(capture.named("failed request").len() > 2_500, "at debug they are all there");
    let loud = capture.loud();
    assert_eq!(loud.len(), 20, "{loud:?}");
    assert!(loud.chunks(2).all(|pair| pair == ["WARN node unhealthy", "INFO node recovered"]), "{loud:?}");
    let suppressed: u64 = capture
        .named("node unhealthy")
        .iter()
        .map(|entry| entry.get("suppressed").parse::<u64>().unwrap())
        .sum();
    assert!((500..600).contains(&suppressed), "{suppressed} changes between the lines are accounted for");
}

#[test]
fn ten_minutes_without_a_quorum_are_a_line_for_each_node() {
    let harness = Harness::new(3);
    let (_, capture) = Capture::of(&harness, async {
        let redlock = harness.redlock();
        harness.nodes[1..].iter().for_each(|node| node.stop());
        while harness.runtime.elapsed() < s(600) {
            assert!(redlock.lock("x", s(10)).await.is_err());
        }
        harness.nodes[1..].iter().for_each(|node| node.resume());
        redlock.lock("x", s(10)).await.unwrap().unlock().await.unwrap();
    });
    let loud = capture.loud();
    assert_eq!(loud[..2], ["WARN node unhealthy"; 2]);
    assert_eq!(loud[2..], ["INFO node recovered"; 2]);
    assert!(capture.named("node recovered")[0].get("failed_for_ms").parse::<u64>().unwrap() > 599_000);
}

#[test]
fn a_timeout_that_was_cut_short_says_nothing_about_a_node() {
    let harness = Harness::new(3);
    let (_, capture) = Capture::of(&harness, async {
        harness.nodes.iter().for_each(|node| node.delay_replies(ms(40)));
        // A lock of 20 ms leaves the nodes 17 ms.
        assert!(harness.redlock().try_lock("x", ms(20)).await.is_err());
        harness.sleep(1_000).await;
    });
    assert!(!capture.named("failed request").is_empty());
    assert_eq!(capture.loud(), [""; 0]);
}

#[test]
fn at_the_level_info_no_resource_is_named() {
    let harness = Harness::new(3);
    let capture = Capture::default();
    capture.during(Level::INFO, || harness.run(lose_and_fail(&harness, &harness.redlock())));
    assert!(capture.loud().len() > 2, "{:?}", capture.loud());
    assert_eq!(capture.entries().len(), capture.loud().len());
    let all = format!("{:?} {:?}", capture.entries(), capture.spans());
    assert!(!all.contains("secret"), "{all}");
}

/// A node behind a proxy that repeats each request in its errors, and records every token.
#[derive(Debug)]
struct Echoing {
    node: MemoryBackend,
    tokens: Arc<Mutex<Vec<String>>>,
}

impl Echoing {
    fn repeat<T>(&self, token: &str, reply: Result<T, BackendError>) -> Result<T, BackendError> {
        self.tokens.lock().unwrap().push(token.to_owned());
        reply.map_err(|error| {
            let source = io::Error::other(format!("the rest of EVAL 1 secret {token}"));
            BackendError::new(error.kind(), format!("cannot run EVAL 1 secret {token}")).with_source(source)
        })
    }
}

#[async_trait]
impl LockBackend for Echoing {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.repeat(request.token.as_str(), self.node.acquire(request).await)
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.repeat(request.token.as_str(), self.node.extend(request).await)
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.repeat(request.token.as_str(), self.node.release(request).await)
    }
}

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_token_is_logged_whole_although_nodes_repeat_it_in_errors() {
    let (harness, output, tokens) = (Harness::new(3), Output::default(), Arc::new(Mutex::new(Vec::new())));
    let writer = output.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let ((), metrics) = metered(|| {
        let redlock = harness.redlock_over(|node| Echoing { node, tokens: tokens.clone() });
        with_subscriber(subscriber, || harness.run(lose_and_fail(&harness, &redlock)));
    });

    let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap() + &format!("{metrics:?}");
    let tokens = tokens.lock().unwrap();
    assert!(tokens.len() > 40, "{}", tokens.len());
    assert!(text.matches("cannot run EVAL 1 secret").count() > 10, "{text}");
    for token in &*tokens {
        // Nor so many of its digits that the rest could be guessed.
        assert!(!text.contains(&token[..9]), "{text}");
    }
    assert!(tokens.iter().any(|token| text.contains(&token[..8])), "the first digits distinguish holders");
}

#[test]
fn spans_are_entered_only_while_their_own_call_is_polled() {
    let harness = Harness::new(3);
    let (_, capture) = Capture::of(&harness, async {
        // One node is slow: its reply comes in the background, after the call is over.
        harness.nodes[0].delay_replies(ms(30));
        harness.nodes[1..].iter().for_each(|node| node.delay_replies(ms(5)));
        let redlock = harness.redlock();
        let one = async |resource: &str| {
            let lock = redlock.lock(resource, s(10)).await.unwrap();
            assert!(tracing::Span::current().is_none(), "nothing stays entered");
            harness.sleep(50).await;
            lock.unlock().await.unwrap();
        };
        tokio::join!(one("a"), one("b"), one("c"));
        harness.sleep(1_000).await;
    });
    for entry in capture.named("round").iter().chain(&capture.named("done")) {
        assert!(entry.within.is_some(), "{entry:?}");
    }
    for span in capture.spans() {
        assert_eq!(span.within, None, "a call is no child of another: {span:?}");
    }
    let rounds = capture.named("round");
    assert_eq!(rounds.len(), 6);
    for round in &rounds {
        let call = capture.around(round).expect("a span");
        assert_eq!(call.get("holder"), round.get("holder"), "within the span of the call that made it");
    }
    let late: Vec<_> =
        capture.named("reply").into_iter().filter(|entry| entry.get("node") == "node 0").collect();
    assert_eq!(late.len(), 6);
    assert!(late.iter().all(|entry| entry.within.is_none()), "{late:?}");
}

#[test]
fn telemetry_changes_nothing() {
    let run = |seed, observed: bool| {
        let harness = Harness::seeded(seed, 5);
        let work = || {
            harness.run(async {
                flap(&harness, 4, 20);
                harness.nodes[3].delay_replies(ms(40));
                let redlock = harness.redlock();
                let one = async || {
                    let mut holds = Vec::new();
                    for _ in 0..5 {
                        let lock = redlock.lock("x", s(2)).retry_forever().await.unwrap();
                        holds.push((harness.runtime.elapsed(), lock.token().as_str().to_owned()));
                        harness.sleep(30).await;
                        let _ = lock.unlock().await;
                    }
                    holds
                };
                let holds = tokio::join!(one(), one(), one());
                harness.sleep(30_000).await;
                (holds, harness.requests(), harness.runtime.tasks())
            })
        };
        if observed { metered(|| Capture::default().during(Level::TRACE, work)).0 } else { work() }
    };
    for seed in 0..20 {
        assert_eq!(run(seed, true), run(seed, false), "seed {seed}");
    }
}

/// A subscriber that uses, while it is called, the very locks that the events are about. Not endlessly,
/// because its own requests cause events, too.
#[derive(Clone, Default)]
struct Meddler(Arc<Mutex<Option<(Redlock, Lease)>>>, Arc<AtomicUsize>);

impl<S: tracing::Subscriber> Layer<S> for Meddler {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        let meddling = self.0.try_lock().ok().and_then(|held| held.clone());
        if let Some((redlock, lease)) = meddling
            && self.1.fetch_add(1, Ordering::Relaxed) < 500
        {
            let _ = lease.is_valid();
            let mut request = redlock.try_lock("y", s(10)).into_future();
            let poll = std::pin::pin!(poll_once(&mut request));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(poll.poll(&mut context).is_ready());
        }
    }
}

#[test]
fn a_subscriber_may_use_the_library_since_it_is_called_without_a_lock() {
    let harness = Harness::new(3);
    let redlock = harness.redlock();
    let meddler = Meddler::default();
    let subscriber = Registry::default().with(meddler.clone());
    with_subscriber(subscriber, || {
        harness.run(async {
            let lock = redlock.lock("x", s(10)).await.unwrap();
            *meddler.0.lock().unwrap() = Some((redlock.clone(), lock.lease()));
            lose_and_fail(&harness, &redlock).await;
            assert!(meddler.1.swap(0, Ordering::Relaxed) > 100);
            // From here on each of its own requests leaves a release pending, on the very nodes whose pending
            // releases are reported to it.
            harness.nodes[1..].iter().for_each(|node| node.shut_down());
            assert!(lock.unlock().await.is_err());
            assert!(redlock.try_lock("x", s(10)).await.is_err());
            harness.sleep(30_000).await;
        });
    });
    assert!(meddler.1.load(Ordering::Relaxed) > 100);
}
