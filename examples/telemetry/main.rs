//! A service with logs and metrics: by `tracing-subscriber`, and by a Prometheus exporter.
//!
//! ```text
//! cargo run --example telemetry
//! RUST_LOG=redlock=debug cargo run --example telemetry -- redis://127.0.0.1:7001 ...
//! ```
//!
//! Workers contend for one lock for three seconds. Without URLs the nodes live in the process, and one of
//! them is down for the second of these seconds. At the end the example prints the metrics as Prometheus
//! would read them.
//!
//! In your own service, depend on an adapter with `features = ["tracing", "metrics"]`.

use std::{env, error::Error as StdError, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use redlock_redis_rs::{Error, MemoryBackend, RedisBackend, Redlock, TokioRuntime};
use tokio::{task::JoinSet, time::sleep};
use tracing_subscriber::EnvFilter;

const TTL: Duration = Duration::from_secs(2);
const RUN: Duration = Duration::from_secs(3);

type Failed = Box<dyn StdError + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    println!("{}", watched(&env::args().skip(1).collect::<Vec<_>>()).await?);
    Ok(())
}

async fn watched(urls: &[String]) -> Result<String, Failed> {
    let metrics = install()?;
    // After the recorder, because a new manager describes and shows its metrics to it.
    let (redlock, ours) = manager(urls)?;
    let mut workers = JoinSet::new();
    for _ in 0..4 {
        workers.spawn(work(redlock.clone()));
    }
    sleep(RUN / 3).await;
    ours.iter().take(1).for_each(MemoryBackend::shut_down);
    sleep(RUN / 3).await;
    ours.iter().take(1).for_each(MemoryBackend::start);
    sleep(RUN / 3).await;
    workers.shutdown().await;
    // The workers that were aborted release their locks in the background.
    sleep(Duration::from_millis(200)).await;
    Ok(metrics.render())
}

/// Call this once in the process, before anything else.
fn install() -> Result<PrometheusHandle, Failed> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init()?;
    // With buckets, histograms of several processes can be added up. A service would also open a port:
    // `.with_http_listener(...)`, with the exporter's feature `http-listener`.
    let buckets = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
    Ok(PrometheusBuilder::new().set_buckets(&buckets)?.install_recorder()?)
}

fn manager(urls: &[String]) -> Result<(Redlock, Vec<MemoryBackend>), Failed> {
    let runtime = TokioRuntime::current();
    // A service with several kinds of work has a manager for each, and alerts that tell them apart.
    let mut builder = Redlock::builder(runtime.clone()).label("workers");
    for url in urls {
        builder = builder.node(RedisBackend::open(url.as_str())?);
    }
    let ours = match urls {
        [] => ["a", "b", "c"].map(|name| MemoryBackend::new(runtime.clone()).with_name(name)).to_vec(),
        [..] => Vec::new(),
    };
    for node in &ours {
        node.delay_replies(Duration::from_millis(1));
    }
    Ok((builder.nodes(ours.clone()).build()?, ours))
}

/// Works until it is aborted. The library logs what it does, so this logs only the concerns of the service.
async fn work(redlock: Redlock) {
    loop {
        let request = redlock.lock("telemetry-example", TTL).retry_delay(Duration::from_millis(60));
        match request.using(|_lease| sleep(Duration::from_millis(40))).await {
            Ok(()) => {}
            Err(Error::Contended(_)) => tracing::debug!("another worker holds the lock"),
            Err(error) => tracing::error!(%error, "the work failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_exporter_shows_locks_and_the_node_that_failed() {
        let text = watched(&[]).await.unwrap();
        for line in [
            "# HELP redlock_locks_total ",
            "# TYPE redlock_lock_duration_seconds histogram",
            r#"redlock_locks_total{manager="workers",outcome="granted"} "#,
            r#"redlock_lost_total{manager="workers",reason="expired"} 0"#,
            r#"redlock_locks_held{manager="workers"} 0"#,
            r#"redlock_node_healthy{node="a",manager="workers"} 1"#,
            r#"redlock_lock_duration_seconds_bucket{manager="workers",outcome="granted",le="0.5"} "#,
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
        let failed = r#"{node="a",verb="acquire",manager="workers",outcome="indeterminate"} "#;
        assert!(text.contains(failed) && !text.contains(&format!("{failed}0\n")), "{text}");
    }
}
