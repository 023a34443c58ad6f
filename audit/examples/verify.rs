//! What verification takes: events from a file into Kafka and from there into PostgreSQL, then verified by the sums of
//! blocks, and record by record. What is there already is not loaded again.
//! `cargo run --release -p primal-audit --example verify -- 127.0.0.1:9092 postgres://… year.ndjson`

#![expect(clippy::print_stdout, reason = "it is a program that prints figures")]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::time::{Duration, Instant};

use primal_audit::{Scope, verify};
use primal_core::event::{Event, Op};
use primal_core::log::{EventLog, TopicSpec};
use primal_core::settings::{Node, Settings, Value};
use primal_core::sink::Build;
use primal_core::{Collection, Env, Epochs, Primal, Projection, Sink};
use primal_log_kafka::{Config, KafkaLog};
use primal_runtime::{Feed, Options, Worker};
use primal_sink_sql::POSTGRES;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 4;
const ROUNDS: usize = 3;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    key: std::borrow::Cow<'a, str>,
    #[serde(rename = "type")]
    kind: String,
    time: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "expected the address of a Kafka broker, the URL of a PostgreSQL database, and a file of events";
    let (bootstrap, url) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let file = arguments.next().ok_or(usage)?;
    let prefix = "verify-".to_owned();
    let config = Config { bootstrap, topic_prefix: prefix, session_timeout_ms: 6_000, properties: BTreeMap::default() };
    let log: Arc<dyn EventLog> = Arc::new(KafkaLog::new(config)?);
    let feed = Feed {
        collection: Collection::new("flights")?,
        epochs: Arc::new(Epochs::first(PARTITIONS as usize)),
        projection: Projection::Document,
        table: None,
        mapping: Arc::default(),
    };
    let members = [("url", url), ("schema", "verify".to_owned())];
    let members = members.map(|(name, value)| (name.to_owned(), 1, Node { line: 1, value: Value::Text(value) }));
    let place = Settings::new("verify", "sinks.pg", Node { line: 1, value: Value::Map(members.into()) });
    let sink = (POSTGRES.build)(&place)?;
    publish(&log, &feed, &file).await?;
    fill(&log, &feed, (POSTGRES.build)(&place)?).await?;
    let target = feed.target("pg", Build::Live(1));
    // A scope that leaves nothing out, but is not the whole: everything is read, as in stores that cannot add up.
    let each = Scope { from: BTreeMap::from([(0, 0), (i32::MAX, 1)]), ..Scope::default() };
    for (what, scope, rounds) in [("by blocks", Scope::default(), ROUNDS), ("record by record", each, 1)] {
        for _ in 0..rounds {
            let started = Instant::now();
            let report = verify(&*sink, &*log, &target, &feed.epochs, &scope, None, |_| {}).await?;
            println!(
                "{what}: {:.1} s for {} events and {} records, {} of them as the log says, {} read, {} MB at most",
                started.elapsed().as_secs_f64(),
                report.events,
                report.records,
                report.verified,
                report.read,
                peak_mb().unwrap_or_default(),
            );
        }
    }
    Ok(())
}

/// The peak of this process's memory.
fn peak_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}

async fn publish(log: &Arc<dyn EventLog>, feed: &Feed, file: &str) -> Result<(), Box<dyn Error>> {
    let topic = feed.collection.topic();
    log.create(&topic, TopicSpec { partitions: PARTITIONS, compacted: false }).await?;
    if log.extents(&topic).await?.is_some_and(|extents| extents.iter().any(|extent| extent.end > 0)) {
        return Ok(());
    }
    let mut records = Vec::new();
    for (number, line) in BufReader::new(std::fs::File::open(file)?).lines().enumerate() {
        let line = line?;
        let Line { key, kind, time, data } = serde_json::from_str(&line)?;
        let event = Event {
            collection: feed.collection.clone(),
            key: key.into_owned(),
            op: Op::Put,
            id: format!("0198c0de-0000-7000-8000-{number:012}"),
            source: "/primalcore".to_owned(),
            kind,
            time,
            data: Some(data.get().to_owned()),
            data_schema: None,
            primal: Primal::STANDARD,
            extensions: Vec::new(),
        };
        records.push(event.into_record());
        if records.len() == 10_000 {
            log.append(std::mem::take(&mut records)).await?;
        }
    }
    log.append(records).await?;
    Ok(())
}

async fn fill(log: &Arc<dyn EventLog>, feed: &Feed, sink: Arc<dyn Sink>) -> Result<(), Box<dyn Error>> {
    let target = feed.target("pg", Build::Live(1));
    let extents = log.extents(&feed.collection.topic()).await?.unwrap_or_default();
    let wanted: i64 = extents.iter().map(|extent| extent.end).sum();
    let (log, feeds, env) = (log.clone(), vec![feed.clone()], Env::system());
    let worker = Worker::new("pg", "one", &POSTGRES, sink.clone(), log, feeds, Options::default(), env).await?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    loop {
        let positions = sink.positions(&target).await.unwrap_or_default();
        if positions.values().map(|position| position.offset()).sum::<i64>() >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    shutdown.cancel();
    Ok(running.await??)
}
