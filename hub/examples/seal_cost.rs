//! What sealing costs those who publish: events into the embedded log with and without a sealer beside it, in turns.
//! `cargo run --release -p primal-hub --example seal_cost`

#![expect(clippy::print_stdout, reason = "it is a program that prints figures")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use primal_core::event::{Event, Op};
use primal_core::log::{EventLog, TopicSpec};
use primal_core::record::NewRecord;
use primal_core::{Collection, Env, Epochs, Primal};
use primal_hub::Background;
use primal_log_embedded::{Config, EmbeddedLog};
use primal_seal::{SealError, Sealer, Signer, consistency};
use tokio_util::sync::CancellationToken;

const EVENTS: usize = 1_000_000;
const AT_ONCE: usize = 500;
const PUBLISHERS: usize = 4;
const PARTITIONS: u32 = 4;
const ROUNDS: usize = 5;
/// Between two looks at what there is to seal.
const PAUSE: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let collection = Collection::new("flights")?;
    let background = Background::start()?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..2 * ROUNDS {
        let folder = tempfile::tempdir()?;
        let config = Config { path: folder.path().join("log.db") };
        let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(config.clone(), Env::system()).await?);
        log.create(&collection.topic(), TopicSpec { partitions: PARTITIONS, compacted: false }).await?;
        let epochs = Epochs::first(PARTITIONS as usize);
        let signer = Signer::generate("cost")?;
        let keys = [signer.verifier().clone()];
        let mut sealer = Sealer::open(log.clone(), "", signer, Vec::new()).await?;
        let is_sealed = round % 2 == 1;
        let stop = CancellationToken::new();
        let (ended, sealed_of, life) = (stop.clone(), collection.clone(), epochs.clone());
        let sealing = background.spawn(async move {
            while is_sealed && ended.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
                sealer.seal(&sealed_of, &life).await?;
            }
            Ok::<_, SealError>(sealer)
        });
        let rate = EVENTS as f64 / publish(log.clone(), collection.clone()).await?.as_secs_f64();
        stop.cancel();
        let mut sealer = sealing.await??;
        if !is_sealed {
            without.push(rate);
            continue;
        }
        with.push(rate);
        sealer.seal(&collection, &epochs).await?;
        let started = Instant::now();
        let reports = consistency(&*log, "", &collection, &epochs, &keys, &[], |_| {}).await?;
        let sealed: u64 = reports.iter().map(|report| report.sealed).sum();
        let checkpoints: u64 = reports.iter().map(|report| report.checkpoints).sum();
        let compared = EVENTS as f64 / started.elapsed().as_secs_f64();
        println!("{sealed} records in {checkpoints} checkpoints; compared again: {compared:.0} records/s");
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or_default()
    };
    let (without, with) = (median(&mut without), median(&mut with));
    println!(
        "published without sealing {without:.0} events/s, with {with:.0} events/s, {:.1} %",
        100.0 * with / without
    );
    Ok(())
}

/// Publishes all events; how long it took.
async fn publish(log: Arc<dyn EventLog>, collection: Collection) -> Result<Duration, String> {
    let events: Vec<Vec<NewRecord>> = (0..EVENTS)
        .collect::<Vec<_>>()
        .chunks(AT_ONCE)
        .map(|numbers| numbers.iter().map(|number| event(&collection, *number).into_record()).collect())
        .collect();
    let started = Instant::now();
    let events = Arc::new(std::sync::Mutex::new(events));
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..PUBLISHERS {
        let (log, events) = (log.clone(), events.clone());
        publishers.spawn(async move {
            loop {
                let next = events.lock().map_err(|e| e.to_string())?.pop();
                let Some(batch) = next else { return Ok::<_, String>(()) };
                log.append(batch).await.map_err(|e| e.to_string())?;
            }
        });
    }
    while let Some(ended) = publishers.join_next().await {
        ended.map_err(|e| e.to_string())??;
    }
    Ok(started.elapsed())
}

fn event(collection: &Collection, number: usize) -> Event {
    Event {
        collection: collection.clone(),
        key: format!("UA{}-EWR-2013-01-01T10", number % 20_000),
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
