//! Questions about the past: how long the state of an entity and a grouped statement take at moments chosen at random, with
//! snapshots, over the log of the first publishing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;
use primal_audit::{AsOf, Entity, Memory, Part, Remembered, StateError};
use primal_core::log::{Extent, Limits};
use primal_core::{Moment, Records, Timestamp};
use primal_query::{History, Source};

use crate::{median, say};

/// How many of each are asked.
const STATES: usize = 200;
const QUERIES: usize = 20;
/// Events of a partition between two snapshots, as it is configured by default.
const EVERY: u64 = 25_000;

const GROUPED: &str = "SELECT carrier, count(*) AS flights, avg(dep_delay) AS delay FROM flights \
                       WHERE departed IS NOT NULL GROUP BY carrier ORDER BY flights DESC";

/// Snapshots as the program uses them for single states.
struct Shelf(History, Source);

#[async_trait]
impl Memory for Shelf {
    async fn last(&self, part: &Part, key: &str) -> Option<Remembered> {
        let extent = Extent { start: part.from, end: part.to };
        let found = self.0.recall(&self.1, part.partition, extent, key).await.ok().flatten();
        found.map(|(until, version)| Remembered { until, version })
    }
}

/// An event that was taken: its key and when.
struct Taken {
    key: String,
    at: Timestamp,
}

/// Asks the log of a hub, whose collection `flights` has a schema.
pub async fn run(hub: primal_hub::Hub) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let found = hub.source("flights")?;
    let table = hub.config.collections.get(&found.collection).and_then(|config| config.table.clone());
    let source = Source { collection: found.collection.clone(), epochs: found.epochs.clone(), table };
    let history = History { log: hub.log.clone(), snapshots: folder.path().to_owned() };

    let taken = all(&hub, &source).await?;
    let without = states(&hub, &found, &taken, None, STATES / 10).await?;
    let started = Instant::now();
    let mut count = 0;
    history.snapshot(&source, EVERY, |_| count += 1).await?;
    let megabytes = size(folder.path())? as f64 / 1e6;
    say(&format!("{count} snapshots made in {:.1} s, {megabytes:.0} MB", started.elapsed().as_secs_f64()));

    let shelf: Arc<dyn Memory> = Arc::new(Shelf(history.clone(), source.clone()));
    let with = states(&hub, &found, &taken, Some(shelf), STATES).await?;
    tell("state as of a random moment", with, Some("50"));
    tell("the same without snapshots", without, None);

    let mut times = Vec::new();
    for number in 0..QUERIES {
        let at = any(&taken, number)?.at;
        let started = Instant::now();
        history.query(std::slice::from_ref(&source), Some(at), GROUPED).await?;
        times.push(started.elapsed());
    }
    tell("grouped query as of a random moment", times, Some("1,000"));
    Ok(())
}

/// Every event of the collection.
async fn all(hub: &primal_hub::Hub, source: &Source) -> Result<Vec<Taken>> {
    let topic = source.collection.topic();
    let extents = hub.log.extents(&topic).await?.context("no topic")?;
    let mut taken = Vec::new();
    for (partition, extent) in (0..).zip(extents) {
        let mut reader = hub.log.read(&topic, partition, extent.start..extent.end).await?;
        let mut records = Records::new();
        while reader.fetch(&mut records, Limits { records: 10_000, bytes: 4 << 20 }).await? {
            for record in records.iter() {
                let key = record.key.map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default();
                taken.push(Taken { key, at: record.recorded });
            }
            records.clear();
        }
    }
    Ok(taken)
}

/// One of them, spread evenly and without order, the same in every run.
fn any(taken: &[Taken], number: usize) -> Result<&Taken> {
    // Fibonacci hashing: multiples of the golden ratio fill an interval evenly.
    let place = (number as f64 * 0.618_033_988_749_895).fract() * taken.len() as f64;
    taken.get(place as usize).context("no events")
}

/// Asks for the states of random keys at random moments when they were there.
async fn states(
    hub: &primal_hub::Hub,
    source: &primal_audit::Source,
    taken: &[Taken],
    memory: Option<Arc<dyn Memory>>,
    count: usize,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut number = 0;
    while times.len() < count {
        let (first, second) = (any(taken, number)?, any(taken, number * 7 + 3)?);
        number += 1;
        // A key is asked for at a later event's moment.
        let (key, at) = if first.at < second.at { (&first.key, second.at) } else { (&second.key, first.at) };
        let mut entity = Entity::new(hub.log.clone(), source.clone(), key);
        if let Some(memory) = &memory {
            entity = entity.with(memory.clone());
        }
        let started = Instant::now();
        match entity.state(AsOf::Moment(Moment::Time(at))).await {
            Ok(_) => times.push(started.elapsed()),
            Err(StateError::NotYet { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(times)
}

fn size(folder: &std::path::Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

fn tell(what: &str, times: Vec<Duration>, wanted: Option<&str>) {
    let mut millis: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let middle = median(&mut millis);
    let place = (millis.len() * 95).div_ceil(100).saturating_sub(1);
    let (p95, most) = (millis.get(place).copied().unwrap_or(f64::NAN), millis.last().copied().unwrap_or(f64::NAN));
    let wanted = wanted.map(|millis| format!(" (wanted: {millis} ms)")).unwrap_or_default();
    say(&format!(
        "{what}, {} times: median {middle:.0} ms, 95 % within {p95:.0} ms, longest {most:.0} ms{wanted}",
        times.len()
    ));
}
