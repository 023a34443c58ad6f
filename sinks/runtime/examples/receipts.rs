//! What receipts cost: events from the embedded log into this process's memory, with and without receipts, in turns; in
//! time, and in time of the processor, which depends less on what else the machine does.
//! `cargo run --release -p primal-runtime --example receipts`

#![expect(clippy::print_stdout, reason = "it is a program that prints figures")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use primal_core::event::{Event, Op};
use primal_core::log::{EventLog, TopicSpec};
use primal_core::settings::{Node, Settings, Value};
use primal_core::sink::Build;
use primal_core::{Collection, Env, Epochs, Primal, Projection};
use primal_log_embedded::{Config, EmbeddedLog};
use primal_runtime::{Feed, Options, Worker, receipts};
use primal_sink_memory::MEMORY;
use tokio_util::sync::CancellationToken;

const EVENTS: usize = 1_000_000;
const PARTITIONS: u32 = 4;
const ROUNDS: usize = 9;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let collection = Collection::new("flights")?;
    let folder = tempfile::tempdir()?;
    let config = Config { path: folder.path().join("log.db") };
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(config, Env::system()).await?);
    log.create(&collection.topic(), TopicSpec { partitions: PARTITIONS, compacted: false }).await?;
    for numbers in (0..EVENTS).collect::<Vec<_>>().chunks(1_000) {
        log.append(numbers.iter().map(|number| event(&collection, *number).into_record()).collect()).await?;
    }
    for batch_events in [None, Some(1)] {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..2 * ROUNDS {
            let options = Options { batch_events, receipts: round % 2 == 1, ..Options::default() };
            let cost = deliver(&log, &collection, round, options).await?;
            if round % 2 == 1 { &mut with } else { &mut without }.push(cost);
        }
        let batches = batch_events.map_or("large batches".to_owned(), |n| format!("batches of {n}"));
        for (what, of) in [("µs an event", 0), ("µs of the processor an event", 1)] {
            let (without, with) = (median(&without, of), median(&with, of));
            println!(
                "{batches}: {without:.3} {what} without receipts, {with:.3} with: {:+.1} %",
                100.0 * (with / without - 1.0)
            );
        }
    }
    let rows = receipts::read_all(&*log).await?;
    let bytes: usize = rows.iter().filter_map(|row| serde_json::to_vec(row).ok()).map(|row| row.len()).sum();
    println!("{} rows, {} bytes a row", rows.len(), bytes / rows.len().max(1));
    Ok(())
}

fn median(costs: &[[f64; 2]], of: usize) -> f64 {
    let mut costs: Vec<f64> = costs.iter().filter_map(|cost| cost.get(of)).copied().collect();
    costs.sort_by(f64::total_cmp);
    costs.get(costs.len() / 2).copied().unwrap_or_default()
}

/// Time of the processor that this process has taken, in microseconds; in steps of 10 ms.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

/// Delivers the log into a store of its own; microseconds an event, once the worker is in its group, and those of the
/// processor.
async fn deliver(
    log: &Arc<dyn EventLog>,
    collection: &Collection,
    round: usize,
    options: Options,
) -> Result<[f64; 2], Box<dyn Error>> {
    let events = if options.batch_events.is_some() { EVENTS / 5 } else { EVENTS };
    let name = format!("s{round}b{}", options.batch_events.unwrap_or_default());
    let members = vec![("name".to_owned(), 1, Node { line: 1, value: Value::Text(name.clone()) })];
    let sink = (MEMORY.build)(&Settings::new("cost", "sinks.sink", Node { line: 1, value: Value::Map(members) }))?;
    let feed = Feed {
        collection: collection.clone(),
        epochs: Arc::new(Epochs::first(PARTITIONS as usize)),
        projection: Projection::Document,
        table: None,
        mapping: Arc::default(),
    };
    let target = feed.target(&name, Build::Live(1));
    let (log, env) = (log.clone(), Env::system());
    let worker = Worker::new(&name, "one", &MEMORY, sink.clone(), log, vec![feed], options, env).await?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    let applied = async || {
        let positions = sink.positions(&target).await.unwrap_or_default();
        positions.values().map(|position| position.offset() as usize).sum::<usize>()
    };
    while applied().await == 0 {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let (started, spent, before) = (Instant::now(), processor(), applied().await);
    while applied().await < events {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let events = (applied().await - before) as f64;
    let cost = [started.elapsed().as_secs_f64() * 1e6 / events, (processor() - spent) / events];
    shutdown.cancel();
    running.await??;
    sink.swap().ok_or("no swap")?.discard(&target).await?;
    Ok(cost)
}

fn event(collection: &Collection, number: usize) -> Event {
    Event {
        collection: collection.clone(),
        key: format!("UA{}-EWR-2013-01-01T10", number % 200_000),
        op: Op::Put,
        id: format!("0198c0de-0000-7000-8000-{number:012}"),
        source: "/primalcore".to_owned(),
        kind: "flight.landed".to_owned(),
        time: "2013-01-01T10:15:00Z".to_owned(),
        data: Some(format!(
            "{{\"carrier\":\"UA\",\"flight\":{number},\"tailnum\":\"N14228\",\"origin\":\"EWR\",\"dest\":\"IAH\",\
             \"air_time\":227,\"distance\":1400,\"dep_delay\":2,\"arr_delay\":11,\"status\":\"landed\"}}"
        )),
        data_schema: None,
        primal: Primal::STANDARD,
        extensions: Vec::new(),
    }
}
