//! The record of each collection's lives (epochs), kept in the log itself, and the check of it against the topic as it is.
//! Producers, workers and replay all take their epochs from here, so that they agree on versions.

use std::collections::BTreeMap;

use crate::error::LogError;
use crate::keyed::Keyed;
use crate::log::{EventLog, Extent, TopicSpec};
use crate::{Collection, Epochs, Topic};

/// Why a collection cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum LivesError {
    /// The log's own error.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Keys may now live in other partitions, where their offsets are lower.
    #[error(
        "collection {collection} was recorded with {recorded} partitions, its topic now has {found}: the order of a key's \
         events would be lost; `primalcore topics --renew {collection}` begins a new epoch from here on"
    )]
    PartitionsChanged {
        /// The collection.
        collection: Collection,
        /// The count on record.
        recorded: usize,
        /// The count that the topic has.
        found: usize,
    },
    /// What is on record cannot be read.
    #[error("the record of {collection}'s epochs is damaged: {reason}")]
    Damaged {
        /// The collection.
        collection: Collection,
        /// What is wrong with it.
        reason: String,
    },
}

/// The lives of all recorded collections, by name.
///
/// # Errors
/// The log's, or a damaged record.
pub async fn recorded(log: &dyn EventLog) -> Result<BTreeMap<Collection, Epochs>, LivesError> {
    let mut all = BTreeMap::new();
    for (name, value) in Keyed::rows(log, Topic::epochs()).await? {
        let Ok(collection) = Collection::new(&name) else { continue };
        let epochs = serde_json::from_slice(&value)
            .map_err(|e| LivesError::Damaged { collection: collection.clone(), reason: e.to_string() })?;
        all.insert(collection, epochs);
    }
    Ok(all)
}

/// Makes the collections' topics where they are missing and gives the lives of each, or why it cannot be used.
///
/// # Errors
/// The log's.
pub async fn open(
    log: &dyn EventLog,
    collections: &[(Collection, u32)],
) -> Result<BTreeMap<Collection, Result<Epochs, LivesError>>, LivesError> {
    let table = Keyed::open(log, Topic::epochs()).await?;
    let recorded = recorded(log).await?;
    let mut all = BTreeMap::new();
    for (collection, partitions) in collections {
        log.create(&collection.topic(), TopicSpec { partitions: *partitions, compacted: false }).await?;
        let found = extents(log, collection).await?.len();
        let lives = match recorded.get(collection) {
            Some(epochs) if epochs.partitions() == found => Ok(epochs.clone()),
            Some(epochs) => Err(LivesError::PartitionsChanged {
                collection: collection.clone(),
                recorded: epochs.partitions(),
                found,
            }),
            None => {
                let first = Epochs::first(found);
                write(log, &table, collection, &first).await?;
                Ok(first)
            }
        };
        all.insert(collection.clone(), lives);
    }
    Ok(all)
}

/// Begins a new epoch: from the present ends on where the partition count changed, with all that is there where the
/// topic was re-created.
///
/// # Errors
/// The log's, or there is no record of the collection.
pub async fn renew(log: &dyn EventLog, collection: &Collection) -> Result<Epochs, LivesError> {
    let table = Keyed::open(log, Topic::epochs()).await?;
    let found = extents(log, collection).await?;
    let ends: Vec<_> = found.iter().map(|extent| extent.end).collect();
    let next = match recorded(log).await?.get(collection) {
        Some(old) if old.partitions() != found.len() => old.extended(&ends),
        Some(old) => old.renewed(found.len()),
        None => Epochs::first(found.len()),
    };
    write(log, &table, collection, &next).await?;
    Ok(next)
}

async fn extents(log: &dyn EventLog, collection: &Collection) -> Result<Vec<Extent>, LogError> {
    let topic = collection.topic();
    log.extents(&topic).await?.ok_or(LogError::NoTopic(topic))
}

async fn write(log: &dyn EventLog, table: &Keyed, collection: &Collection, epochs: &Epochs) -> Result<(), LivesError> {
    let value = serde_json::to_vec(epochs)
        .map_err(|e| LivesError::Damaged { collection: collection.clone(), reason: e.to_string() })?;
    let row = [(collection.to_string(), Some(value))];
    table.put(log, row).await.map_err(|failed| LivesError::Log(failed.error))
}
