//! Every store beside a program that reads the same topic, folds it and makes the same bulk calls, and does nothing else: no
//! position, no generation, no dead letters. Written without any of this project's code.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use primal_tests::{Server, http};

use crate::bare::{self, PARTITIONS};
use crate::writers::{self, Writer};
use crate::{Pairs, ours, say};

/// A store, what it gets, and who writes it by hand.
struct Case {
    store: &'static str,
    server: &'static str,
    /// `flights`, `points` or `vectors`.
    collection: &'static str,
    projection: &'static str,
    /// Events of a bulk call, as many as the sink sends.
    most: usize,
    /// Events in all.
    count: usize,
    settings: fn(&str, usize) -> String,
    writer: fn(&str, usize) -> Result<Arc<dyn Writer>>,
}

const CASES: &[Case] = &[
    Case {
        store: "clickhouse",
        server: "clickhouse_engine",
        collection: "flights",
        projection: "document",
        most: 100_000,
        count: 200_000,
        settings: |url, round| format!("url: \"{url}\", database: ours{round}"),
        writer: |url, round| Ok(Arc::new(writers::ClickHouse::new(http(), url, round))),
    },
    Case {
        store: "elasticsearch",
        server: "elasticsearch",
        collection: "flights",
        projection: "document",
        most: 5_000,
        count: 100_000,
        settings: |url, round| format!("url: \"{url}\", prefix: ours{round}-, replicas: 0"),
        writer: |url, round| Ok(Arc::new(writers::Search::new(http(), url, round))),
    },
    Case {
        store: "influxdb",
        server: "influxdb",
        collection: "points",
        projection: "series",
        most: 5_000,
        count: 200_000,
        settings: |url, round| format!("url: \"{url}\", database: ours{round}"),
        writer: |url, round| Ok(Arc::new(writers::Influx::new(http(), url, round))),
    },
    Case {
        store: "mongodb",
        server: "ferretdb",
        collection: "flights",
        projection: "document",
        most: 40,
        count: 1_000,
        settings: |url, round| format!("url: \"{url}\", database: ours{round}, delivery: {{ batch_events: 40 }}"),
        writer: |url, round| Ok(Arc::new(writers::Mongo::new(url, round))),
    },
    Case {
        store: "neo4j",
        server: "neo4j",
        collection: "flights",
        projection: "graph",
        most: 1_000,
        count: 20_000,
        settings: |url, round| format!("url: \"{url}\", prefix: Ours{round}"),
        writer: |url, round| Ok(Arc::new(writers::Neo4j::new(http(), url, round))),
    },
    Case {
        store: "opensearch",
        server: "opensearch",
        collection: "flights",
        projection: "document",
        most: 5_000,
        count: 100_000,
        settings: |url, round| format!("url: \"{url}\", prefix: ours{round}-, replicas: 0"),
        writer: |url, round| Ok(Arc::new(writers::Search::new(http(), url, round))),
    },
    Case {
        store: "prometheus",
        server: "prometheus",
        collection: "points",
        projection: "series",
        most: 2_000,
        count: 200_000,
        settings: |url, round| format!("url: \"{url}\", prefix: ours{round}_"),
        writer: |url, round| Ok(Arc::new(writers::Prometheus::new(http(), url, round))),
    },
    Case {
        store: "qdrant",
        server: "qdrant",
        collection: "vectors",
        projection: "vector",
        most: 2_000,
        count: 20_000,
        settings: |url, round| format!("url: \"{url}\", api_key: primalcore, prefix: ours{round}-"),
        writer: |url, round| Ok(Arc::new(writers::Qdrant::new(http(), url, round))),
    },
    Case {
        store: "redis",
        server: "redis",
        collection: "flights",
        projection: "document",
        most: 500,
        count: 200_000,
        settings: |url, round| format!("url: \"{url}\", prefix: \"ours{round}:\""),
        writer: |url, round| Ok(Arc::new(writers::Redis::new(url, round)?)),
    },
    Case {
        store: "sqlite",
        server: "",
        collection: "flights",
        projection: "document",
        most: 20_000,
        count: 200_000,
        settings: |folder, round| format!("path: \"{folder}/ours{round}.sqlite\""),
        writer: |folder, round| Ok(Arc::new(writers::Sqlite::new(folder, round))),
    },
    Case {
        store: "timescaledb",
        server: "postgres",
        collection: "points",
        projection: "series",
        most: 50_000,
        count: 200_000,
        settings: |url, round| format!("url: \"{url}\", schema: ours{round}"),
        writer: |url, round| Ok(Arc::new(writers::Postgres::new(url, round))),
    },
];

/// Runs the pairs of the stores that are named, or of all.
pub fn run(runtime: &tokio::runtime::Runtime, kafka: &str, lines: &[u8], rounds: usize, only: &[String]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("points.json"), POINTS)?;
    for case in CASES.iter().filter(|case| only.is_empty() || only.iter().any(|name| name == case.store)) {
        pair(runtime, kafka, lines, rounds, folder.path(), case).with_context(|| case.store.to_owned())?;
    }
    Ok(())
}

const POINTS: &str = r#"{"type":"object","properties":{"at":{"type":"string","format":"date-time"},
    "host":{"type":"string"},"cpu":{"type":"number"},"ok":{"type":"boolean"}}}"#;

/// Points of twenty hosts, ten seconds apart.
fn points(count: usize) -> Vec<u8> {
    let mut lines = String::new();
    for i in 0..count {
        let (host, seconds) = (i % 20, 1_700_000_000 + i / 20 * 10);
        let at = primal_core::Timestamp(seconds as i64 * 1_000_000);
        let cpu = (i * 7_919 % 1_000) as f64 / 10.0;
        lines += &format!(
            "{{\"collection\":\"points\",\"key\":\"host-{host}\",\"type\":\"measured\",\"time\":\"{at}\",\
             \"data\":{{\"at\":\"{at}\",\"host\":\"host-{host}\",\"cpu\":{cpu},\"ok\":true}}}}\n"
        );
    }
    lines.into_bytes()
}

/// Vectors of 64 dimensions.
fn vectors(count: usize) -> Vec<u8> {
    let mut lines = String::new();
    for i in 0..count {
        let vector: Vec<f64> = (0..64).map(|d| ((i * 31 + d * 17) % 1_000) as f64 / 1_000.0 + 0.001).collect();
        lines += &format!(
            "{{\"collection\":\"vectors\",\"key\":\"v{i}\",\"type\":\"made\",\"time\":\"2013-01-01T05:00:00Z\",\
             \"data\":{{\"title\":\"number {i}\",\"v\":{vector:?}}}}}\n"
        );
    }
    lines.into_bytes()
}

fn pair(
    runtime: &tokio::runtime::Runtime,
    kafka: &str,
    lines: &[u8],
    rounds: usize,
    folder: &Path,
    case: &Case,
) -> Result<()> {
    let lines = match case.collection {
        "points" => points(case.count),
        "vectors" => vectors(case.count),
        _ => first(lines, case.count),
    };
    let count = lines.iter().filter(|byte| **byte == b'\n').count();
    let prefix = format!("{}.", case.store);
    let schema = format!("schema: \"{}/points.json\"", folder.display());
    let collections = format!(
        "airports: {{ partitions: 1 }}, flights: {{ partitions: {PARTITIONS}, graph: {{ edges: [\
         {{ field: origin, to: airports, type: DEPARTS_FROM }}, {{ field: dest, to: airports, type: ARRIVES_AT }}] }} }}, \
         points: {{ partitions: {PARTITIONS}, {schema}, series: {{ time: at, tags: [host], fields: [cpu, ok] }} }}, \
         vectors: {{ partitions: {PARTITIONS}, vector: {{ field: v, size: 64 }} }}"
    );
    runtime.block_on(ours::publish(kafka, &prefix, &collections, &lines))?;
    let server = (!case.server.is_empty()).then(|| Server::start(case.server));
    let address = server.as_ref().map_or_else(|| folder.display().to_string(), Server::url);
    let what = Box::leak(format!("{} {}", case.store, case.projection).into_boxed_str());
    let mut pairs = Pairs::new(what, "the same bulk calls by hand", count);
    let topic = format!("{prefix}{}", case.collection);
    // The first round is for the caches of servers and compilers.
    for round in 0..=rounds {
        let writer = (case.writer)(&address, round)?;
        let bare = runtime.block_on(by_hand(kafka, &topic, count, case.most, writer))?;
        let settings = (case.settings)(&address, round);
        let settings = format!("{settings}, projection: {}, collections: [{}]", case.projection, case.collection);
        let ours = runtime.block_on(ours::deliver(kafka, &prefix, &collections, case.store, &settings, round, bare))?;
        if round > 0 {
            pairs.bare(bare);
            pairs.ours(ours);
        }
    }
    pairs.tell(0.7);
    match case.store {
        "mongodb" => say("  (FerretDB, one command at a time)"),
        "qdrant" => say("  (its engine behind a front of the tests, one command at a time)"),
        _ => {}
    }
    Ok(())
}

fn first(lines: &[u8], count: usize) -> Vec<u8> {
    let end = lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(count - 1);
    lines.get(..end.map_or(lines.len(), |(at, _)| at + 1)).unwrap_or_default().to_vec()
}

/// Consumes, folds and writes; partitions side by side.
async fn by_hand(kafka: &str, topic: &str, count: usize, most: usize, writer: Arc<dyn Writer>) -> Result<Duration> {
    writer.prepare().await?;
    let started = Instant::now();
    let mut senders = Vec::new();
    let mut writing = tokio::task::JoinSet::new();
    for _ in 0..PARTITIONS {
        let (sender, mut batches) = tokio::sync::mpsc::channel::<(bare::Batch, i64)>(1);
        senders.push(sender);
        let writer = writer.clone();
        writing.spawn(async move {
            while let Some((batch, _)) = batches.recv().await {
                let rows: Vec<_> = batch.into_iter().map(|(key, (version, data))| (key, version, data)).collect();
                if !rows.is_empty() {
                    writer.write(rows).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    let (kafka, topic, each) = (kafka.to_owned(), topic.to_owned(), writer.keeps_every_event());
    let reading = tokio::task::spawn_blocking(move || bare::read(&kafka, &topic, count, most, each, &senders));
    reading.await??;
    while let Some(ended) = writing.join_next().await {
        ended??;
    }
    Ok(started.elapsed())
}
