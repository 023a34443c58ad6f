//! The write API. [`Producer`] checks an event, stamps it, appends it and answers once it is durable; [`lines`] does that
//! for NDJSON; [`gateway`] for HTTP.

mod draft;
pub mod gateway;
mod line_reader;
pub mod lines;
mod room;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{counter, histogram};
use primal_core::error::LogError;
use primal_core::log::{Appended, EventLog};
use primal_core::nearest::hint;
use primal_core::record::NewRecord;
use primal_core::{Collection, Env, Epochs, Offset, Partition, Primal, Version};
use primal_schemas::Schema;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use draft::{Draft, Reason, Refused};
use window::{Claim, Window};

/// A collection that can be published to.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its name.
    pub collection: Collection,
    /// Its lives, for receipts' versions; or why nothing may be published now.
    pub epochs: Result<Arc<Epochs>, String>,
    /// What payloads have to fit.
    pub schema: Option<Arc<Schema>>,
}

/// Limits and defaults of a producer.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest payload, in bytes.
    pub max_event_bytes: usize,
    /// CloudEvents `source` of events that name none.
    pub source: String,
    /// The Primal Logic parameters of events that name none.
    pub primal: Primal,
    /// How many recent event ids are remembered, so that a repeated request is one event.
    pub window: usize,
    /// Bytes that may wait for the log at once; beyond that callers wait.
    pub max_pending_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            max_event_bytes: 1 << 20,
            source: "/primalcore".to_owned(),
            primal: Primal::STANDARD,
            window: 65_536,
            max_pending_bytes: 64 << 20,
        }
    }
}

/// Where an event stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The collection.
    pub collection: String,
    /// The event's id.
    pub id: String,
    /// Its partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// Its place in the order of its key; what stores keep as `_version`.
    pub version: Version,
    /// Whether an earlier request with this id had already published it.
    pub repeated: bool,
}

/// Why events were not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// An event is wrong. Nothing of the call was appended.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// The log failed. Some events of the call may be durable all the same; the same ids can be sent again.
    #[error("{0}")]
    Log(#[from] LogError),
}

/// Publishes events.
pub struct Producer {
    log: Arc<dyn EventLog>,
    collections: BTreeMap<String, Published>,
    options: Options,
    env: Env,
    window: Window,
    room: Arc<Semaphore>,
}

impl Producer {
    /// For the given collections. The log is not touched yet.
    pub fn new(log: Arc<dyn EventLog>, collections: Vec<Published>, options: Options, env: Env) -> Self {
        let collections = collections.into_iter().map(|c| (c.collection.to_string(), c)).collect();
        let room = Arc::new(Semaphore::new(options.max_pending_bytes));
        let window = Window::new(options.window);
        Producer { log, collections, options, env, window, room }
    }

    /// The limits and defaults in force.
    pub fn options(&self) -> &Options {
        &self.options
    }

    fn published(&self, name: &str) -> Result<&Published, Refused> {
        let unknown = || {
            let hint = hint(name, self.collections.keys().map(String::as_str));
            Refused::unknown(format!("unknown collection {name:?}{hint}"))
        };
        self.collections.get(name).ok_or_else(unknown)
    }

    /// Checks drafts and publishes them; the receipts come in the same order, once all are durable.
    ///
    /// # Errors
    /// The first event that is wrong, and then nothing was appended; or the log's.
    pub async fn publish(&self, drafts: Vec<Draft<'_>>) -> Result<Vec<Receipt>, PublishError> {
        let mut checked = Vec::with_capacity(drafts.len());
        for draft in drafts {
            checked.push(self.check(draft)?);
        }
        self.append(checked).await
    }

    /// Checks one draft and stamps it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, draft: Draft<'_>) -> Result<Checked, Refused> {
        let published = self.published(&draft.collection)?;
        if let Err(reason) = &published.epochs {
            return Err(Refused::stopped(reason.clone()));
        }
        let claimed = draft.id.is_some();
        let event = draft.into_event(published, &self.options, &self.env);
        if event.is_err() {
            counter!("primalcore_refused_total").increment(1);
        }
        let event = event?;
        let (collection, id) = (event.collection.clone(), event.id.clone());
        Ok(Checked { collection, id, claimed, record: event.into_record() })
    }

    /// Appends checked events. Those whose id was published before are not appended again.
    ///
    /// # Errors
    /// The log's.
    pub async fn append(&self, events: Vec<Checked>) -> Result<Vec<Receipt>, PublishError> {
        let started = self.env.now();
        let mut receipts: Vec<Option<Receipt>> = Vec::with_capacity(events.len());
        let mut records = Vec::with_capacity(events.len());
        let mut places = Vec::with_capacity(events.len());
        let mut bytes = 0;
        for event in events {
            let claim = match event.claimed {
                true => Some(self.window.claim(&*self.log, &event.collection, &event.id).await?),
                false => None,
            };
            if let Some(Claim::Published(appended)) = claim {
                receipts.push(Some(self.receipt(&event.collection, event.id, appended, true)));
                continue;
            }
            if let Some(Claim::Pending(mut other)) = claim {
                // The same id is on its way already, perhaps in this very call: append what came first, then look.
                if !records.is_empty() {
                    self.flush(&mut records, &mut places, &mut receipts, &mut bytes).await?;
                }
                let appended = other.wait().await?;
                receipts.push(Some(self.receipt(&event.collection, event.id, appended, true)));
                continue;
            }
            bytes += event.record.value.as_ref().map_or(0, Vec::len) + event.record.headers.len();
            places.push((receipts.len(), event.collection, event.id, claim));
            receipts.push(None);
            records.push(event.record);
        }
        self.flush(&mut records, &mut places, &mut receipts, &mut bytes).await?;
        histogram!("primalcore_publish_seconds").record(self.env.now().since(started).as_secs_f64());
        Ok(receipts.into_iter().flatten().collect())
    }

    async fn flush(
        &self,
        records: &mut Vec<NewRecord>,
        places: &mut Vec<(usize, Collection, String, Option<Claim>)>,
        receipts: &mut [Option<Receipt>],
        bytes: &mut usize,
    ) -> Result<(), PublishError> {
        if records.is_empty() {
            return Ok(());
        }
        let wanted = (*bytes).clamp(1, self.options.max_pending_bytes);
        *bytes = 0;
        let permits = u32::try_from(wanted).unwrap_or(u32::MAX);
        let closed = |_| LogError::Unavailable("the producer is closed".to_owned());
        let room = self.room.clone().acquire_many_owned(permits).await.map_err(closed)?;
        let (places, claims): (Vec<_>, _) =
            places.drain(..).map(|(place, collection, id, claim)| ((place, collection, id), claim)).unzip();
        // A task of its own: a caller that does not wait any more cannot take back what the log was given, and a repeat of
        // its request has to find these ids on their way, not free.
        let sent = tokio::spawn(send(self.log.clone(), std::mem::take(records), claims, room));
        let lost = |e| LogError::Unavailable(format!("the task that appends ended: {e}"));
        let appended = sent.await.map_err(lost)??;
        for ((place, collection, id), appended) in places.into_iter().zip(appended) {
            if let Some(slot) = receipts.get_mut(place) {
                *slot = Some(self.receipt(&collection, id, appended, false));
            }
        }
        Ok(())
    }

    fn receipt(&self, collection: &Collection, id: String, appended: Appended, repeated: bool) -> Receipt {
        let epochs = self.collections.get(collection.as_str()).and_then(|c| c.epochs.as_ref().ok());
        let (partition, offset) = (appended.partition, appended.offset);
        let version = epochs.map_or_else(|| Version::new(0, offset), |epochs| epochs.version(partition, offset));
        Receipt { collection: collection.to_string(), id, partition, offset, version, repeated }
    }
}

/// Appends records, and settles their claims when it is known what became of them.
async fn send(
    log: Arc<dyn EventLog>,
    records: Vec<NewRecord>,
    claims: Vec<Option<Claim>>,
    _room: OwnedSemaphorePermit,
) -> Result<Vec<Appended>, LogError> {
    let result = log.append(records).await;
    let known = match &result {
        Ok(appended) => {
            counter!("primalcore_published_total").increment(appended.len() as u64);
            appended.iter().copied().map(Some).collect()
        }
        // What is known to be durable answers the next request with its id; the rest may be sent again.
        Err(failed) => failed.appended.clone(),
    };
    for (claim, appended) in claims.into_iter().zip(known) {
        if let (Some(Claim::Ours(ours)), Some(appended)) = (claim, appended) {
            ours.published(appended);
        }
    }
    result.map_err(|failed| failed.error)
}

/// An event that may be appended.
pub struct Checked {
    collection: Collection,
    id: String,
    /// Whether the caller chose the id; one that we made cannot have been published before.
    claimed: bool,
    record: NewRecord,
}

impl Checked {
    /// The entity's key.
    pub fn key(&self) -> &[u8] {
        self.record.key.as_deref().unwrap_or_default()
    }

    /// About how much it weighs.
    pub fn bytes(&self) -> usize {
        self.record.value.as_ref().map_or(0, Vec::len) + self.record.headers.len()
    }
}
