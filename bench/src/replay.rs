//! A rebuild beside live traffic: PostgreSQL is filled by the worker, then built anew from the same log while a thousand
//! events a second come, go through the worker, and are looked for in the store.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use primal_core::sink::Build;
use primal_core::{Sink, Target};
use primal_hub::Hub;
use primal_producer::{Draft, Producer, Receipt};
use primal_replay::{Progress, Request};
use primal_runtime::Pace;
use tokio_util::sync::CancellationToken;

use crate::{median, say};

/// Live events at once, and the pause between: a thousand a second.
const BATCH: usize = 25;
const PAUSE: Duration = Duration::from_millis(25);
/// How long live traffic is watched alone.
const ALONE: Duration = Duration::from_secs(15);
/// How often the store is asked for an event.
const LOOK: Duration = Duration::from_millis(5);

/// When each phase of the rebuild began.
#[derive(Default)]
struct Phases(Mutex<Vec<(String, Instant)>>);

impl Progress for Phases {
    fn begin(&self, phase: &str, _: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((phase.to_owned(), Instant::now()));
    }
    fn advance(&self, _: u64) {}
    fn skip(&self, _: u64) {}
}

/// Builds the sink's only collection anew; `live` is how long its worker took for the same events.
pub async fn run(hub: Hub, live: Duration, events: usize, pace: Pace) -> Result<()> {
    let hub = Arc::new(hub);
    let sink = hub.config.sinks.first().context("no sink")?;
    let feed = hub.feeds(sink, None)?.pop().context("no collection")?;
    let target = feed.target(&sink.name, Build::Live(1));
    let shutdown = CancellationToken::new();
    let working = tokio::spawn(hub.worker(sink).await?.run(shutdown.clone()));
    let producer = Arc::new(hub.producer());
    let stop = shutdown.clone();
    let latencies: Arc<Mutex<Vec<(Instant, Duration)>>> = Arc::default();
    let (seen, store) = (latencies.clone(), sink.sink.clone());
    let traffic = tokio::spawn(async move { traffic(&producer, &store, &target, &seen, &stop).await });
    tokio::time::sleep(ALONE).await;

    let cancel = CancellationToken::new();
    let replay = hub.replay(sink, pace, cancel).await?;
    let request = Request::whole(feed);
    let plan = replay.plan(&request).await?;
    let phases = Arc::new(Phases::default());
    let started = Instant::now();
    let done = replay.execute(&request, &plan, phases.clone()).await?;
    let took = started.elapsed();
    ensure!(!working.is_finished(), "the worker ended early");
    shutdown.cancel();
    traffic.await??;
    working.await??;

    let rate = |took: Duration, events: f64| events / took.as_secs_f64();
    let (live, built) = (rate(live, events as f64), rate(took, done.events as f64));
    let how = match pace.budget {
        Some(budget) => format!(" with a budget of {:.0} %", budget * 100.0),
        None => String::new(),
    };
    say(&format!(
        "rebuild of PostgreSQL{how} beside 1,000 events/s, verified and swapped: {} events in {:.1} s, {built:.0} events/s; live \
         ingestion: {live:.0} events/s; ratio {:.2} (wanted: 0.8)",
        done.events,
        took.as_secs_f64(),
        built / live
    ));
    let phases = phases.0.lock().map_err(|e| anyhow!("{e}"))?;
    let ends = phases.iter().skip(1).map(|(_, at)| *at).chain([started + took]);
    let spans = phases.iter().zip(ends).map(|((name, at), end)| format!("{name} {:.1} s", (end - *at).as_secs_f64()));
    say(&format!("  {}", spans.collect::<Vec<_>>().join(", ")));
    let latencies = latencies.lock().map_err(|e| anyhow!("{e}"))?;
    let of = |during: bool| latencies.iter().filter(move |(at, _)| (*at >= started) == during).map(|(_, took)| *took);
    let (alone, beside) = (Percentiles::of(of(false)), Percentiles::of(of(true)));
    say(&format!(
        "  published to visible: alone {alone}; beside the rebuild {beside}; ratio of the 99th percentiles {:.2} (wanted: 1.2)",
        beside.p99 / alone.p99
    ));
    Ok(())
}

/// Publishes a batch every so often, and looks for one after the other of its last events.
async fn traffic(
    producer: &Arc<Producer>,
    store: &Arc<dyn Sink>,
    target: &Target,
    seen: &Mutex<Vec<(Instant, Duration)>>,
    stop: &CancellationToken,
) -> Result<()> {
    let (send, mut receive) = tokio::sync::watch::channel(None);
    let publishing = async {
        let mut due = tokio::time::interval(PAUSE);
        let mut number = 0;
        while stop.run_until_cancelled(due.tick()).await.is_some() {
            let started = Instant::now();
            let mut drafts = Vec::new();
            for _ in 0..BATCH {
                number += 1;
                drafts.push(draft(number));
            }
            let key = format!("live-{number}");
            let receipts = producer.publish(drafts).await?;
            send.send_replace(receipts.into_iter().next_back().map(|last| (started, key, last)));
        }
        drop(send);
        anyhow::Ok(())
    };
    let looking = async {
        while receive.changed().await.is_ok() {
            let probe: Option<(Instant, String, Receipt)> = receive.borrow_and_update().clone();
            let Some((started, key, receipt)) = probe else { continue };
            if visible(store, target, &key, &receipt, stop).await? {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push((started, started.elapsed()));
            }
        }
        anyhow::Ok(())
    };
    tokio::try_join!(publishing, looking)?;
    Ok(())
}

/// Waits until the store has an event; `false` when all ends before.
async fn visible(
    store: &Arc<dyn Sink>,
    target: &Target,
    key: &str,
    receipt: &Receipt,
    stop: &CancellationToken,
) -> Result<bool> {
    let reader = store.reader().context("no reader")?;
    while !stop.is_cancelled() {
        if reader.get(target, key).await?.is_some_and(|stored| stored.version >= receipt.version) {
            return Ok(true);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(false)
}

fn draft(number: u64) -> Draft<'static> {
    let data =
        format!("{{\"carrier\":\"UA\",\"flight\":{number},\"origin\":\"EWR\",\"dest\":\"IAH\",\"status\":\"landed\"}}");
    Draft {
        collection: Cow::Borrowed("flights"),
        key: Cow::Owned(format!("live-{number}")),
        data: Some(Cow::Owned(data)),
        ..Draft::default()
    }
}

/// Of latencies, in milliseconds.
struct Percentiles {
    p50: f64,
    p99: f64,
    count: usize,
}

impl Percentiles {
    fn of(latencies: impl Iterator<Item = Duration>) -> Self {
        let mut millis: Vec<f64> = latencies.map(|took| took.as_secs_f64() * 1e3).collect();
        let p50 = median(&mut millis);
        let p99 = millis.get(millis.len() * 99 / 100).copied().unwrap_or(f64::NAN);
        Percentiles { p50, p99, count: millis.len() }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "median {:.0} ms, 99 % within {:.0} ms ({} looks)", self.p50, self.p99, self.count)
    }
}
