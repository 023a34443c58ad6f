//! The hub doing the same work.

use std::io::Cursor;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primal_core::Env;
use primal_core::sink::Build;
use primal_hub::{Config, Hub};
use primal_producer::lines::{self, How};
use tokio_util::sync::CancellationToken;

use crate::bare::PARTITIONS;

/// The collection of flights, as it stands in a config.
pub fn flights() -> String {
    format!("flights: {{ partitions: {PARTITIONS} }}")
}

fn config(bootstrap: &str, prefix: &str, collections: &str, sinks: &str) -> String {
    format!(
        "log: {{ kafka: {{ bootstrap: \"{bootstrap}\", topic_prefix: \"{prefix}\" }} }}\n\
         collections: {{ {collections} }}\nsinks: {{ {sinks} }}\n"
    )
}

async fn open(text: &str) -> Result<Hub> {
    let config = Config::parse("bench", text, &|_| None)?;
    Ok(Hub::open(config, Env::system()).await?)
}

/// A hub over what was published, with the schema of flights.
pub async fn past(bootstrap: &str, prefix: &str) -> Result<Hub> {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/schemas/flights.json");
    let collections = format!("flights: {{ partitions: {PARTITIONS}, schema: \"{schema}\" }}");
    open(&config(bootstrap, prefix, &collections, "")).await
}

/// Reads lines, checks, stamps and appends all of them.
pub async fn publish(bootstrap: &str, prefix: &str, collections: &str, lines: &[u8]) -> Result<Duration> {
    let hub = open(&config(bootstrap, prefix, collections, "")).await?;
    let producer = Arc::new(hub.producer());
    let started = Instant::now();
    let how = How { concurrency: 4, skip_bad: false };
    lines::publish(&producer, Cursor::new(lines), how, Arc::new(|_| {})).await?;
    Ok(started.elapsed())
}

/// A hub with one sink.
pub async fn with_sink(
    bootstrap: &str,
    prefix: &str,
    collections: &str,
    kind: &str,
    settings: &str,
    round: usize,
) -> Result<Hub> {
    let sinks = format!("{kind}{round}: {{ type: {kind}, {settings} }}");
    open(&config(bootstrap, prefix, collections, &sinks)).await
}

/// Delivers everything to one sink by its worker, which is not asked how far it is before `least` has passed.
pub async fn deliver(
    bootstrap: &str,
    prefix: &str,
    collections: &str,
    kind: &str,
    settings: &str,
    round: usize,
    least: Duration,
) -> Result<Duration> {
    let hub = with_sink(bootstrap, prefix, collections, kind, settings, round).await?;
    let sink = hub.config.sinks.first().context("no sink")?;
    let feed = hub.feeds(sink, None)?.pop().context("no collection")?;
    let target = feed.target(&sink.name, Build::Live(1));
    let extents = hub.log.extents(&feed.collection.topic()).await?.context("no topic")?;
    let worker = hub.worker(sink).await?;
    let shutdown = CancellationToken::new();
    let started = Instant::now();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    tokio::time::sleep(least).await;
    loop {
        let positions = sink.sink.positions(&target).await?;
        let level = |(p, end): (i32, i64)| positions.get(&p).map_or(0, |at| at.offset()) >= end;
        if (0..).zip(&extents).all(|(p, extent)| level((p, extent.end))) {
            break;
        }
        ensure!(!running.is_finished(), "the worker ended early");
        // Asking is work for the store too (a search engine refreshes): seldom, and within a twentieth of the time.
        tokio::time::sleep((started.elapsed() / 20).max(Duration::from_millis(5))).await;
    }
    let elapsed = started.elapsed();
    shutdown.cancel();
    running.await??;
    Ok(elapsed)
}

/// Events per second into the embedded log, from ten callers that append a thousand at a time.
pub async fn embedded(lines: &[u8]) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let text = format!(
        "log: {{ embedded: {{ path: \"{}\" }} }}\ncollections: {{ flights: {{ partitions: {PARTITIONS} }} }}\n",
        path.display()
    );
    let hub = open(&text).await?;
    let (log, topic) = (hub.log.clone(), primal_core::Collection::new("flights").map_err(anyhow::Error::msg)?.topic());
    let records: Vec<_> = crate::bare::parse(lines)?.iter().take(200_000).map(|e| e.record(&topic)).collect();
    let count = records.len();
    let started = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for part in records.chunks(count.div_ceil(10)) {
        let (log, part) = (log.clone(), part.to_vec());
        callers.spawn(async move {
            for batch in part.chunks(1_000) {
                log.append(batch.to_vec()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// The peak of resident memory of `primalcore run` with three sinks over all events, in megabytes.
pub fn memory(bootstrap: &str, prefix: &str, database: &str, redis: &str) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let sinks = format!(
        "pg: {{ type: postgres, url: \"{database}\", schema: rss }}, cache: {{ type: redis, url: \"{redis}\" }}, \
         file: {{ type: sqlite, path: hub.sqlite }}"
    );
    std::fs::write(folder.path().join("primalcore.yaml"), config(bootstrap, prefix, &flights(), &sinks))?;
    let program = std::env::current_exe()?.with_file_name("primalcore");
    ensure!(program.exists(), "build it first: cargo build --release -p primalcore");
    let mut hub = Command::new(&program).arg("run").current_dir(&folder).stderr(Stdio::null()).spawn()?;
    let done = || -> Result<bool> {
        let status = Command::new(&program).args(["status", "--json"]).current_dir(&folder).output()?;
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&status.stdout)?;
        Ok(rows.iter().all(|row| row.get("lag_events").and_then(serde_json::Value::as_i64) == Some(0)))
    };
    let until = Instant::now() + Duration::from_secs(300);
    while !done()? && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(500));
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", hub.id()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kilobytes: f64 = peak.trim().trim_end_matches(" kB").parse()?;
    hub.kill()?;
    hub.wait()?;
    Ok(kilobytes / 1024.0)
}
