//! What a Prometheus exporter shows, from one scrape to the next, and whether the alerts in docs/alerts.yml
//! fire on it. `tests/alerts` tests their expressions with Prometheus itself.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_util::MetricKindMask;
use redlock_core::{Error, MemoryBackend, Redlock};
use redlock_tests::{
    adapter::Adapter,
    harness::{Harness, s},
    server::Server,
};
use rstest::rstest;

use crate::{
    sim::fencing::{AHEAD, counting, fenced},
    telemetry::capture::{Scrape, exported, lose_and_fail, scrape},
};

/// The sum of the samples whose names and labels begin and end like this.
fn sum(samples: &Scrape, name: &str, labels: &str) -> f64 {
    let of = |sample: &&str| sample.starts_with(name) && sample.contains(labels);
    samples.iter().filter(|(sample, _)| of(&sample.as_str())).map(|(_, value)| value).sum()
}

/// As in Prometheus: a series that was not there before has not increased.
fn increase(before: &Scrape, after: &Scrape, series: &str) -> f64 {
    before.get(series).map_or(0.0, |before| after[series] - before)
}

#[test]
fn the_first_loss_of_a_process_is_an_increase() {
    let harness = Harness::new(3);
    exported(|exporter| {
        harness.run(async {
            let redlock = harness.builder().label("reports").build().unwrap();
            let before = scrape(exporter);
            let mut lock = redlock.lock("x", s(10)).await.unwrap();
            harness.nodes.iter().for_each(MemoryBackend::clear);
            assert!(matches!(lock.extend(s(10)).await, Err(Error::Lost(_))));
            let after = scrape(exporter);
            let [gone, expired] = ["gone", "expired"]
                .map(|reason| format!(r#"redlock_lost_total{{manager="reports",reason="{reason}"}}"#));
            assert_eq!((before[&gone], after[&gone]), (0.0, 1.0));
            assert_eq!((before[&expired], after[&expired]), (0.0, 0.0));
            // increase(redlock_lost_total[10m]) > 0
            assert!(increase(&before, &after, &gone) > 0.0);
            assert_eq!(increase(&before, &after, &expired), 0.0);
            let lost = r#"redlock_extensions_total{manager="reports",outcome="lost"}"#;
            assert_eq!(increase(&before, &after, lost), 1.0);
        });
    });
}

#[rstest]
fn every_counter_is_there_at_zero_before_it_counts(#[values("", "reports")] label: &str) {
    let (harness, counting) = (Harness::new(3), counting(&[AHEAD + 10, AHEAD + 20, AHEAD + 15]));
    let (before, after) = exported(|exporter| {
        let redlock = harness.builder().label(label).build().unwrap();
        let others = fenced(&counting);
        let before = exporter.render();
        harness.run(lose_and_fail(&harness, &redlock));
        harness.run(async {
            let mut lock = redlock.lock("x", s(10)).await.unwrap();
            let lease = lock.lease();
            harness.cancel_after(s(0), lock.extend(s(10))).await;
            let parts = lock.into_parts();
            redlock.from_parts(&parts).await.unwrap().lease().lost().await;
            drop(lease);
            assert!(redlock.from_parts(&parts).await.is_err());
            assert!(redlock.lock("", s(10)).await.is_err());
            harness.nodes.iter().for_each(MemoryBackend::shut_down);
            harness.cancel_after(s(1), redlock.lock("x", s(10))).await;
        });
        counting.run(async { others.lock("x", s(10)).await.unwrap().unlock().await.unwrap() });
        drop((redlock, others));
        (before, exporter.render())
    });
    let names = |text: &str, kind: &str| -> BTreeSet<String> {
        let of_kind = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(kind));
        let of_kind: Vec<&str> = of_kind.map(str::trim).collect();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| line.rsplit_once(' ').map(|(sample, _)| sample));
        let is_one = |sample: &&str| of_kind.contains(&sample.split('{').next().unwrap());
        samples.filter(is_one).map(ToOwned::to_owned).collect()
    };
    for kind in ["counter", "gauge"] {
        assert_eq!(names(&before, kind), names(&after, kind));
    }
    let labelled =
        names(&after, "counter").iter().filter(|name| name.contains(r#"manager="reports""#)).count();
    let counters = names(&before, "counter").len();
    if label.is_empty() {
        assert_eq!((counters, labelled), (28 + 3 * 25, 0));
    } else {
        // The other manager has none, and no nodes with the same names.
        assert_eq!((counters - labelled, labelled), (28 + 3 * 25, 28 + 3 * 25));
    }
}

#[test]
fn a_recorder_that_is_installed_later_counts_from_then_on() {
    let harness = Harness::new(3);
    // The gauge of managers without a label is that of all tests that run.
    let redlock = harness.builder().label("later").build().unwrap();
    let lock = || harness.run(async { redlock.lock("x", s(10)).await.unwrap() });
    let before = lock();
    let samples = exported(|exporter| {
        drop(before);
        lock().forget();
        scrape(exporter)
    });
    assert_eq!(samples[r#"redlock_locks_total{manager="later",outcome="granted"}"#], 1.0);
    assert_eq!(samples[r#"redlock_locks_held{manager="later"}"#], 0.0);
}

#[test]
fn a_series_that_an_exporter_has_dropped_as_idle_comes_back() {
    let idle = Duration::from_millis(20);
    let builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::ALL, Some(idle));
    let recorder = builder.build_recorder();
    let (harness, exporter) = (Harness::new(3), recorder.handle());
    metrics::with_local_recorder(&recorder, || {
        let redlock = harness.redlock();
        let lock = || harness.run(async { redlock.lock("x", s(10)).await.unwrap() });
        let held = lock();
        assert_eq!(scrape(&exporter)["redlock_locks_held"], 1.0);
        thread::sleep(2 * idle);
        assert_eq!(scrape(&exporter), Scrape::new());
        drop(held);
        harness.run(harness.sleep(1_000));
        let other = lock();
        let samples = scrape(&exporter);
        assert_eq!(
            (samples["redlock_locks_held"], samples[r#"redlock_locks_total{outcome="granted"}"#]),
            (1.0, 1.0)
        );
        drop(other);
    });
}

#[rstest]
#[tokio::test]
async fn the_gauge_of_a_node_follows_a_server_that_is_killed_and_restarted(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let exporter = recorder.handle();
    // On the only thread of this runtime, until the end of the test.
    let _local = metrics::set_default_local_recorder(&recorder);
    let mut servers = Server::start_some(3);
    let redlock = adapter.manager(&servers).build().unwrap();
    let gauge = format!(r#"redlock_node_healthy{{node="{}"}}"#, servers[0].address());
    let shown = async |redlock: &Redlock| {
        redlock.lock("x", s(10)).await.unwrap().unlock().await.unwrap();
        // So that replies after the quorum have arrived.
        tokio::time::sleep(Duration::from_millis(50)).await;
        scrape(&exporter)[&gauge]
    };
    assert_eq!(scrape(&exporter)[&gauge], 1.0);
    assert_eq!(shown(&redlock).await, 1.0);
    servers[0].kill();
    assert!(until(async || shown(&redlock).await == 0.0).await);
    let failed = sum(&scrape(&exporter), "redlock_node_requests_total{", r#"outcome="indeterminate""#);
    assert!(failed >= 1.0);
    servers[0].restart();
    assert!(until(async || shown(&redlock).await == 1.0).await);
    assert_eq!(sum(&scrape(&exporter), "redlock_locks_held", ""), 0.0);
}

/// Whether it comes true within ten seconds.
async fn until(condition: impl AsyncFn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < s(10) {
        if condition().await {
            return true;
        }
    }
    false
}

fn docs(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file)).unwrap()
}

/// The expressions in docs/alerts.yml, each in one line.
fn expressions() -> Vec<String> {
    let text = docs("alerts.yml");
    let rules = text.split("\n      - alert: ").skip(1);
    let expression = |rule: &str| {
        let rest = rule.split("        expr: ").nth(1).unwrap();
        let lines =
            rest.split("\n        labels:").next().unwrap().split("\n        for:").next().unwrap().lines();
        lines.map(str::trim).filter(|line| *line != ">").collect::<Vec<_>>().join(" ")
    };
    rules.map(expression).collect()
}

#[test]
fn the_alerts_are_those_in_the_docs_and_of_metrics_that_exist() {
    let harness = Harness::new(3);
    let samples = exported(|exporter| {
        let _redlock = harness.redlock();
        scrape(exporter)
    });
    let exists = |name: &str| samples.keys().any(|sample| sample.split('{').next() == Some(name));
    let (docs, expressions) = (docs("observability.md").replace(r"\|", "|"), expressions());
    assert!(expressions.len() >= 7, "{expressions:?}");
    for expression in expressions {
        assert!(docs.contains(&format!("`{expression}`")), "docs/observability.md has no `{expression}`");
        let names = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let names: Vec<&str> = names.filter(|name| name.starts_with("redlock_")).collect();
        assert!(!names.is_empty() && names.iter().all(|name| exists(name)), "{expression}");
    }
}
