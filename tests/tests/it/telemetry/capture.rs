//! What a test's own subscriber and recorder receive.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError},
    thread,
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use redlock_core::{BackendErrorKind, Redlock, UnlockOutcome};
use redlock_tests::harness::{Harness, s};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::Interest,
};
use tracing_subscriber::{
    filter::LevelFilter,
    layer::{Context, Layer, SubscriberExt},
    registry::{LookupSpan, Registry},
};

/// Everything that was recorded, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capture(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    entries: Vec<Entry>,
    spans: Vec<(u64, Entry)>,
}

/// An event, or a span with what was recorded on it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) level: Level,
    /// The message, or the name.
    pub(crate) text: String,
    pub(crate) fields: BTreeMap<&'static str, String>,
    /// The name of the span that it is in, and that span's number.
    pub(crate) within: Option<(&'static str, u64)>,
}

impl Capture {
    /// Runs `test` with a subscriber that takes everything up to `most`.
    pub(crate) fn during<T>(&self, most: Level, test: impl FnOnce() -> T) -> T {
        let subscriber = Registry::default().with(self.clone().with_filter(LevelFilter::from_level(most)));
        with_subscriber(subscriber, test)
    }

    /// Runs `test` in the simulation, and returns everything that was recorded.
    pub(crate) fn of<T>(harness: &Harness, test: impl Future<Output = T>) -> (T, Self) {
        let capture = Self::default();
        let output = capture.during(Level::TRACE, || harness.run(test));
        (output, capture)
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.recorded().entries.clone()
    }

    /// The events with this message.
    pub(crate) fn named(&self, text: &str) -> Vec<Entry> {
        self.entries().into_iter().filter(|entry| entry.text == text).collect()
    }

    /// Events at the level info or above: what a service writes by default.
    pub(crate) fn loud(&self) -> Vec<String> {
        let loud = self.entries().into_iter().filter(|entry| entry.level <= Level::INFO);
        loud.map(|entry| format!("{} {}", entry.level, entry.text)).collect()
    }

    pub(crate) fn spans(&self) -> Vec<Entry> {
        self.recorded().spans.iter().map(|(_, span)| span.clone()).collect()
    }

    /// The span that an event is in.
    pub(crate) fn around(&self, entry: &Entry) -> Option<Entry> {
        let (_, within) = entry.within?;
        self.recorded().spans.iter().rfind(|(span, _)| *span == within).map(|(_, span)| span.clone())
    }

    pub(crate) fn last_span(&self) -> Entry {
        self.spans().pop().expect("a span")
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(crate) fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }

    /// Yes, no, failed, rejected, pending.
    pub(crate) fn votes(&self) -> String {
        ["yes", "no", "failed", "rejected", "pending"].map(|field| self.get(field)).join("/")
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut entry = Entry::new(attributes.metadata(), &context);
        attributes.record(&mut entry);
        self.recorded().spans.push((id.into_u64(), entry));
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        // The latest: a span's number is used again once it is closed.
        let mut recorded = self.recorded();
        let (_, entry) =
            recorded.spans.iter_mut().rfind(|(span, _)| *span == id.into_u64()).expect("a known span");
        values.record(entry);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut entry = Entry::new(event.metadata(), &context);
        event.record(&mut entry);
        entry.text = entry.fields.remove("message").unwrap_or_default();
        self.recorded().entries.push(entry);
    }
}

impl Entry {
    fn new<S: Subscriber + for<'a> LookupSpan<'a>>(
        metadata: &Metadata<'_>,
        context: &Context<'_, S>,
    ) -> Self {
        assert_eq!(metadata.target(), "redlock");
        let within = context.lookup_current().map(|span| (span.name(), span.id().into_u64()));
        let (level, text) = (*metadata.level(), metadata.name().to_owned());
        Self { level, text, fields: BTreeMap::new(), within }
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// Runs `test` with a subscriber of its own.
pub(crate) fn with_subscriber<T>(
    subscriber: impl Subscriber + Send + Sync + 'static,
    test: impl FnOnce() -> T,
) -> T {
    static STANDING: Once = Once::new();
    STANDING.call_once(|| tracing::subscriber::set_global_default(Standing).expect("the only one"));
    tracing::subscriber::with_default(subscriber, test)
}

/// Records nothing, and makes every callsite ask its current subscriber each time. Otherwise all threads
/// share one cached answer: a callsite that a test reaches first without a subscriber would stay off in a
/// parallel test.
struct Standing;

impl Subscriber for Standing {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        unreachable!("none is enabled")
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The output of `test`, and the metrics that it recorded, as `name{label=value,...}`. The value of a
/// histogram is the sum of its samples, in milliseconds.
pub(crate) fn metered<T>(test: impl FnOnce() -> T) -> (T, BTreeMap<String, i64>) {
    let recorder = DebuggingRecorder::new();
    let output = metrics::with_local_recorder(&recorder, test);
    let metrics = recorder.snapshotter().snapshot().into_vec().into_iter();
    let value = |value| match value {
        DebugValue::Counter(count) => i64::try_from(count).expect("a small count"),
        DebugValue::Gauge(value) => value.round() as i64,
        DebugValue::Histogram(values) => {
            (values.iter().map(|value| **value).sum::<f64>() * 1e3).round() as i64
        }
    };
    let metrics = metrics.map(|(key, _, description, found)| {
        assert!(description.is_some(), "{key:?} is not described");
        let labels: Vec<_> =
            key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        (format!("{}{{{}}}", key.key().name(), labels.join(",")), value(found))
    });
    (output, metrics.collect())
}

/// The samples of one scrape, by their names and labels.
pub(crate) type Scrape = BTreeMap<String, f64>;

/// Runs `test` with a Prometheus exporter of its own.
pub(crate) fn exported<T>(test: impl FnOnce(&PrometheusHandle) -> T) -> T {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || test(&handle))
}

/// What Prometheus reads now.
pub(crate) fn scrape(exporter: &PrometheusHandle) -> Scrape {
    let text = exporter.render();
    let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn an_event_first_reached_without_a_subscriber_is_logged_in_a_parallel_test() {
    let place = || tracing::info!(target: "redlock", "reached");
    let capture = Capture::default();
    capture.during(Level::TRACE, || {
        thread::spawn(place).join().unwrap();
        place();
    });
    assert_eq!(capture.loud(), ["INFO reached"]);
}

/// One example of everything that can be reported, on the resource "secret".
pub(crate) async fn lose_and_fail(harness: &Harness, redlock: &Redlock) {
    let mut lock = redlock.lock("secret", s(10)).await.unwrap();
    assert!(redlock.lock("secret", s(10)).await.is_err());
    lock.extend(s(10)).await.unwrap();
    harness.nodes[0].clear();
    lock.extend(s(10)).await.unwrap();
    harness.nodes[2].shut_down();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
    harness.sleep(2_000).await;
    harness.nodes[2].start();
    harness.sleep(12_000).await;
    for kind in [BackendErrorKind::Indeterminate, BackendErrorKind::Transient, BackendErrorKind::Rejected] {
        harness.nodes.iter().for_each(|node| node.fail_next(1, kind));
        assert!(redlock.try_lock("secret", s(10)).await.is_err());
        harness.sleep(61_000).await;
    }
    let lock = redlock.lock("secret", s(10)).await.unwrap();
    harness.nodes.iter().for_each(|node| node.clear());
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::NotHeld);
    drop(redlock.lock("secret", s(10)).await.unwrap());
    harness.sleep(1_000).await;
}
