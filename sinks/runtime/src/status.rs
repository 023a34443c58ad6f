//! What a worker says about itself: kept up to date in memory, and written to the log (the compacted topic
//! `primal.status`) so that `primalcore status` can show it from anywhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge};
use primal_core::error::LogError;
use primal_core::keyed::Keyed;
use primal_core::log::{EventLog, TopicPartition};
use primal_core::{Collection, Offset, Timestamp, Topic};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What a worker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not yet in its group.
    #[default]
    Starting,
    /// Delivering, or waiting for events.
    Running,
    /// The store or the log failed; it tries again.
    Retrying,
    /// Stopped by an error that somebody has to see to.
    Failed,
    /// Stopped in good order.
    Stopped,
}

impl State {
    /// As printed.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Retrying => "retrying",
            State::Failed => "failed",
            State::Stopped => "stopped",
        }
    }
}

/// What a worker did with the events of one collection since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records written.
    pub applied: u64,
    /// Events that the store had already, or something newer.
    pub stale: u64,
    /// Events superseded inside their batch, so that they never had to be written.
    pub folded: u64,
    /// Dead letters: undecodable or refused by the store.
    pub rejected: u64,
    /// Dead letters: waiting behind a rejected one.
    pub waiting: u64,
    /// Keys that are parked now.
    pub parked_keys: u64,
}

/// A worker's word about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The process.
    pub instance: String,
    /// When this was said, in microseconds since 1970.
    pub at: i64,
    /// What it is doing.
    pub state: State,
    /// The last error, while it matters.
    pub error: Option<String>,
    /// Per collection.
    pub collections: BTreeMap<String, Counts>,
}

/// The heartbeats of all workers, by sink and instance, newest of each.
///
/// # Errors
/// The log's.
pub async fn heartbeats(log: &dyn EventLog) -> Result<BTreeMap<String, Vec<Heartbeat>>, LogError> {
    let mut sinks: BTreeMap<String, Vec<Heartbeat>> = BTreeMap::new();
    for (row, value) in Keyed::rows(log, Topic::status()).await? {
        if let (Some((sink, _)), Ok(heartbeat)) = (row.split_once('/'), serde_json::from_slice(&value)) {
            sinks.entry(sink.to_owned()).or_default().push(heartbeat);
        }
    }
    Ok(sinks)
}

/// The status of one worker.
pub(crate) struct Status {
    sink: String,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    heartbeat: Heartbeat,
    offsets: BTreeMap<TopicPartition, Offset>,
    dirty: bool,
    /// Since when it has been trying again.
    retrying: Option<Instant>,
    /// How long it did so before that.
    retried: Duration,
}

impl Status {
    pub(crate) fn new(sink: &str, instance: &str) -> Self {
        let heartbeat = Heartbeat { instance: instance.to_owned(), ..Heartbeat::default() };
        Status { sink: sink.to_owned(), inner: Mutex::new(Inner { heartbeat, dirty: true, ..Inner::default() }) }
    }

    pub(crate) fn set(&self, state: State, error: Option<String>) {
        let mut inner = self.lock();
        if state == State::Retrying {
            inner.retrying.get_or_insert_with(Instant::now);
        } else if let Some(since) = inner.retrying.take() {
            inner.retried += since.elapsed();
        }
        if inner.heartbeat.state != state || inner.heartbeat.error != error {
            inner.heartbeat.state = state;
            inner.heartbeat.error = error;
            inner.dirty = true;
        }
    }

    /// What it waits for, while it tries again.
    pub(crate) fn trouble(&self) -> Option<String> {
        let inner = self.lock();
        inner.heartbeat.error.clone().filter(|_| inner.heartbeat.state == State::Retrying)
    }

    /// How long it has been trying again in all.
    pub(crate) fn retried(&self) -> Duration {
        let inner = self.lock();
        inner.retried + inner.retrying.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Adds to the counts of a collection, here and in the metrics.
    pub(crate) fn count(&self, collection: &Collection, more: Counts) {
        let labels = [("sink", self.sink.clone()), ("collection", collection.to_string())];
        counter!("primalcore_sink_applied_total", &labels).increment(more.applied);
        counter!("primalcore_sink_stale_total", &labels).increment(more.stale);
        counter!("primalcore_sink_rejected_total", &labels).increment(more.rejected);
        let mut inner = self.lock();
        let counts = inner.heartbeat.collections.entry(collection.to_string()).or_default();
        counts.applied += more.applied;
        counts.stale += more.stale;
        counts.folded += more.folded;
        counts.rejected += more.rejected;
        counts.waiting += more.waiting;
        inner.dirty = true;
    }

    pub(crate) fn parked(&self, collection: &Collection, keys: usize) {
        let labels = [("sink", self.sink.clone()), ("collection", collection.to_string())];
        gauge!("primalcore_sink_parked_keys", &labels).set(keys as f64);
        let mut inner = self.lock();
        let counts = inner.heartbeat.collections.entry(collection.to_string()).or_default();
        if counts.parked_keys != keys as u64 {
            counts.parked_keys = keys as u64;
            inner.dirty = true;
        }
    }

    /// Notes how far a partition is, for the group's own record.
    pub(crate) fn advanced(&self, place: &TopicPartition, next: Offset) {
        self.lock().offsets.insert(place.clone(), next);
    }

    /// What the group has not been told yet.
    pub(crate) fn take_offsets(&self) -> Vec<(TopicPartition, Offset)> {
        std::mem::take(&mut self.lock().offsets).into_iter().collect()
    }

    /// Writes the heartbeat to the log if it changed, or `anyway`.
    pub(crate) async fn publish(&self, log: &dyn EventLog, now: Timestamp, anyway: bool) {
        let heartbeat = {
            let mut inner = self.lock();
            if !inner.dirty && !anyway {
                return;
            }
            inner.dirty = false;
            inner.heartbeat.at = now.0;
            inner.heartbeat.clone()
        };
        let row = format!("{}/{}", self.sink, heartbeat.instance);
        let written = async {
            let value = serde_json::to_vec(&heartbeat).map_err(|e| e.to_string())?;
            let table = Keyed::open(log, Topic::status()).await.map_err(|e| e.to_string())?;
            table.put(log, [(row, Some(value))]).await.map_err(|e| e.to_string())
        };
        if let Err(error) = written.await {
            tracing::debug!(sink = self.sink, error, "the heartbeat could not be written");
            self.lock().dirty = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
