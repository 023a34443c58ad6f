//! What has to be so after any fault: the log holds every acknowledged event once, every store is what the log says, and
//! how far a sink is.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use primal_core::log::Limits;
use primal_core::sink::Build;
use primal_core::{Collection, Offset, Partition, Position, Records, header};
use primal_hub::{Hub, HubError, SinkConfig};

use crate::load;

/// Offsets of partitions.
pub type Places = BTreeMap<(Collection, Partition), Offset>;

/// How far each partition is in a sink.
///
/// # Errors
/// The store does not answer.
pub async fn places(hub: &Hub, sink: &SinkConfig) -> Result<Places> {
    let mut places = Places::new();
    for feed in hub.feeds(sink, None)? {
        let builds = sink.sink.builds(&sink.name, &feed.collection).await?;
        let positions = sink.sink.positions(&feed.target(&sink.name, Build::Live(builds.live))).await?;
        let place =
            |(partition, position): (Partition, Position)| ((feed.collection.clone(), partition), position.offset());
        places.extend(positions.into_iter().map(place));
    }
    Ok(places)
}

/// Where each partition that a sink takes ends in the log; empty ones are left out.
///
/// # Errors
/// The log's.
pub async fn ends(hub: &Hub, sink: &SinkConfig) -> Result<Places> {
    let mut places = Places::new();
    for collection in &sink.collections {
        let extents = hub.log.extents(&collection.topic()).await?.context("no topic")?;
        let filled = (0..).zip(extents).filter(|(_, extent)| extent.end > 0);
        places.extend(filled.map(|(partition, extent)| ((collection.clone(), partition), extent.end)));
    }
    Ok(places)
}

/// All partitions' offsets added up.
pub fn sum(places: &Places) -> Offset {
    places.values().sum()
}

/// Waits until a sink is past some places.
///
/// # Errors
/// It does not come to that; with how far it is.
pub async fn reached(hub: &Hub, sink: &SinkConfig, wanted: &Places, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    loop {
        let found = places(hub, sink).await;
        let passed =
            |found: &Places| wanted.iter().all(|(place, wanted)| found.get(place).is_some_and(|at| at >= wanted));
        if found.as_ref().is_ok_and(passed) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{} did not catch up: it is at {found:?}, wanted {wanted:?}", sink.name);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until every sink has all that is in the log now.
///
/// # Errors
/// It does not come to that; with how far each is.
pub async fn caught_up(hub: &Hub, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    for sink in &hub.config.sinks {
        let wanted = loop {
            match ends(hub, sink).await {
                Ok(ends) => break ends,
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        reached(hub, sink, &wanted, until.saturating_duration_since(Instant::now())).await?;
    }
    Ok(())
}

/// What is wrong with the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Acknowledged, and not there.
    pub lost: u64,
    /// There more than once.
    pub doubled: u64,
}

/// The ids in the log, read once and then only what is new.
#[derive(Default)]
pub struct Books {
    next: BTreeMap<(Collection, Partition), Offset>,
    ids: HashMap<String, u32>,
}

impl Books {
    /// Reads what is new in the log, and compares it with the events of the numbers below `events`.
    ///
    /// # Errors
    /// The log's.
    pub async fn tally(&mut self, hub: &Hub, events: u64) -> Result<Tally> {
        for collection in hub.config.collections.keys() {
            let topic = collection.topic();
            let extents = hub.log.extents(&topic).await?.context("no topic")?;
            for (partition, extent) in (0..).zip(extents) {
                let next = self.next.entry((collection.clone(), partition)).or_insert(0);
                if *next >= extent.end {
                    continue;
                }
                let mut reader = hub.log.read(&topic, partition, *next..extent.end).await?;
                let mut records = Records::new();
                while reader.fetch(&mut records, Limits { records: 10_000, bytes: 4 << 20 }).await? {
                    for record in records.iter() {
                        let id = record.headers.text(header::ID).unwrap_or_default();
                        *self.ids.entry(id.to_owned()).or_insert(0) += 1;
                    }
                    records.clear();
                }
                *next = extent.end;
            }
        }
        let lost = (0..events).filter(|number| !self.ids.contains_key(&load::id(*number))).count() as u64;
        let doubled = self.ids.values().map(|count| u64::from(*count) - 1).sum();
        Ok(Tally { lost, doubled })
    }
}

/// Compares every sink with the log, as `primalcore audit verify` does; what differs, a line each.
///
/// # Errors
/// A store's or the log's.
pub async fn differences(hub: &Hub) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for sink in &hub.config.sinks {
        for feed in hub.feeds(sink, None)? {
            all.push(async move {
                let report = hub.verify(sink, &feed, |_| {}).await?;
                let clean = report.is_clean() && report.verified == report.records;
                Ok::<_, HubError>((!clean).then(|| format!("{} {}: {report:?}", sink.name, feed.collection)))
            });
        }
    }
    Ok(futures::future::try_join_all(all).await?.into_iter().flatten().collect())
}
