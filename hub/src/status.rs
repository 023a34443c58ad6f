//! Where every sink stands: positions from the stores, ends from the log, the rest from the workers' own words.

use std::collections::BTreeMap;

use primal_core::log::{EventLog, Limits};
use primal_core::sink::Build;
use primal_core::{Offset, Partition, Records, Timestamp, Topic};
use primal_runtime::status::{self, Counts, Heartbeat, State};
use serde::Serialize;

use crate::config::SinkConfig;
use crate::hub::{Hub, HubError};

/// A worker that has not said anything for this long is not running.
const SILENT_S: u64 = 30;

/// One collection in one sink.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The sink.
    pub sink: String,
    /// The collection.
    pub collection: String,
    /// `running`, `retrying`, `failed`, `stopped`, `starting`; `down` when no worker has spoken lately.
    pub state: String,
    /// The generation that readers see.
    pub generation: Option<u64>,
    /// Next offsets of all partitions added up; absent when the store cannot be asked.
    pub position: Option<Offset>,
    /// Log ends of all partitions added up.
    pub log_end: Offset,
    /// Events not yet applied.
    pub lag_events: Option<Offset>,
    /// How long the oldest of them has been waiting, in seconds.
    pub lag_seconds: Option<f64>,
    /// Records written since the worker started.
    pub applied: u64,
    /// Events that the store had already.
    pub stale: u64,
    /// Dead letters that the store refused or that were no events.
    pub rejected: u64,
    /// Keys that are parked.
    pub parked: u64,
    /// Next offsets of all partitions, added up, before which background verification found all as the log says.
    pub verified: Option<Offset>,
    /// When it last looked.
    pub verified_at: Option<Timestamp>,
    /// Records that differed then.
    pub differences: Option<u64>,
    /// What is wrong, if anything is.
    pub error: Option<String>,
}

/// The last word of a worker that stopped by itself.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// Why the worker of a sink stopped, if that is the last that was heard of one.
///
/// # Errors
/// The log's.
pub async fn stopped(hub: &Hub, sink: &str) -> Result<Option<Stopped>, HubError> {
    let heartbeats = status::heartbeats(&*hub.log).await?;
    let last = latest(&heartbeats, sink).filter(|last| matches!(last.state, State::Failed | State::Stopped));
    Ok(last.and_then(|last| Some(Stopped { at: Timestamp(last.at), reason: last.error.clone()? })))
}

fn latest<'a>(heartbeats: &'a BTreeMap<String, Vec<Heartbeat>>, sink: &str) -> Option<&'a Heartbeat> {
    heartbeats.get(sink).and_then(|all| all.iter().max_by_key(|heartbeat| heartbeat.at))
}

/// The status of all sinks.
///
/// # Errors
/// The log's. A store that cannot be reached is an error in its own rows.
pub async fn rows(hub: &Hub) -> Result<Vec<Row>, HubError> {
    let heartbeats = status::heartbeats(&*hub.log).await?;
    let verified = hub.verified().await?;
    let mut rows = Vec::new();
    for sink in &hub.config.sinks {
        let latest = latest(&heartbeats, &sink.name);
        for feed in hub.feeds(sink, None)? {
            let mut row = row(hub, sink, &feed, latest).await?;
            if let Some(verified) = verified.get(&format!("{}/{}", row.sink, row.collection)) {
                row.verified = Some(verified.total());
                row.verified_at = Some(Timestamp(verified.at));
                row.differences = Some(verified.differences);
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

async fn row(
    hub: &Hub,
    sink: &SinkConfig,
    feed: &primal_runtime::Feed,
    heartbeat: Option<&Heartbeat>,
) -> Result<Row, HubError> {
    let counts: Counts =
        heartbeat.and_then(|h| h.collections.get(feed.collection.as_str())).copied().unwrap_or_default();
    let topic = feed.collection.topic();
    let extents = hub.log.recent(&topic).await?.unwrap_or_default();
    let mut row = Row {
        sink: sink.name.clone(),
        collection: feed.collection.to_string(),
        state: state(hub.env.now(), heartbeat).to_owned(),
        generation: None,
        position: None,
        log_end: extents.iter().map(|extent| extent.end).sum(),
        lag_events: None,
        lag_seconds: None,
        applied: counts.applied,
        stale: counts.stale,
        rejected: counts.rejected,
        parked: counts.parked_keys,
        verified: None,
        verified_at: None,
        differences: None,
        error: heartbeat.and_then(|h| h.error.clone()),
    };
    let asked = async {
        let builds = sink.sink.builds(&sink.name, &feed.collection).await?;
        let target = feed.target(&sink.name, Build::Live(builds.live));
        Ok::<_, primal_core::SinkError>((builds.live, sink.sink.positions(&target).await?))
    };
    match asked.await {
        Ok((generation, positions)) => {
            let at = |partition: &Partition| feed.epochs.resume(positions.get(partition).copied());
            let behind: Vec<(Partition, Offset)> =
                (0..).zip(&extents).map(|(p, extent)| (p, (extent.end - at(&p)).max(0))).collect();
            row.generation = Some(generation);
            row.position = Some((0..).zip(&extents).map(|(p, _)| at(&p)).sum());
            row.lag_events = Some(behind.iter().map(|(_, lag)| lag).sum());
            let mut oldest: Option<Timestamp> = None;
            for (partition, _) in behind.iter().filter(|(_, lag)| *lag > 0) {
                let start = extents.get(*partition as usize).map_or(0, |extent| extent.start);
                let recorded = match recorded_at(&*hub.log, &topic, *partition, at(partition)).await {
                    // It has left the log, and is in no archive either.
                    Err(_) if at(partition) < start => recorded_at(&*hub.log, &topic, *partition, start).await?,
                    found => found?,
                };
                oldest = oldest.into_iter().chain(recorded).min();
            }
            row.lag_seconds = Some(oldest.map_or(0.0, |at| hub.env.now().since(at).as_secs_f64()));
        }
        Err(error) => row.error = row.error.or(Some(error.to_string())),
    }
    Ok(row)
}

/// When the log took the event at an offset.
pub(crate) async fn recorded_at(
    log: &dyn EventLog,
    topic: &Topic,
    partition: Partition,
    offset: Offset,
) -> Result<Option<Timestamp>, HubError> {
    let mut reader = log.read(topic, partition, offset..offset + 1).await?;
    let mut records = Records::new();
    reader.fetch(&mut records, Limits { records: 1, bytes: 1 }).await?;
    Ok(records.get(0).map(|record| record.recorded))
}

fn state(now: Timestamp, heartbeat: Option<&Heartbeat>) -> &'static str {
    match heartbeat {
        None => "down",
        Some(heartbeat) => match heartbeat.state {
            State::Failed | State::Stopped => heartbeat.state.as_str(),
            _ if now.since(Timestamp(heartbeat.at)).as_secs() > SILENT_S => "down",
            state => state.as_str(),
        },
    }
}
