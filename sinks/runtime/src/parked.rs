//! Which keys of a sink are parked: state of the log (the compacted topic `primal.parked`), held in memory by each worker.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use primal_core::error::{AppendError, LogError};
use primal_core::keyed::Keyed;
use primal_core::log::EventLog;
use primal_core::{Collection, Topic, Version};

/// The parked keys of one sink, each with the version of the event that parked it: what is above waits.
pub struct Parked {
    sink: String,
    table: tokio::sync::Mutex<Keyed>,
    keys: Mutex<BTreeMap<(Collection, String), Version>>,
}

impl Parked {
    /// Reads them from the log.
    ///
    /// # Errors
    /// The log's.
    pub async fn load(log: &dyn EventLog, sink: &str) -> Result<Self, LogError> {
        let table = Keyed::open(log, Topic::parked()).await?;
        let parked = Parked { sink: sink.to_owned(), table: table.into(), keys: Mutex::default() };
        parked.refresh(log).await?;
        Ok(parked)
    }

    /// Takes in what others parked or released since.
    ///
    /// # Errors
    /// The log's.
    pub async fn refresh(&self, log: &dyn EventLog) -> Result<(), LogError> {
        let changes = self.table.lock().await.changes(log).await?;
        let mut keys = self.keys();
        for (row, value) in changes {
            let Some(place) = self.place(&row) else { continue };
            match value.and_then(|v| String::from_utf8(v).ok()?.parse().ok()) {
                Some(version) => keys.insert(place, Version(version)),
                None => keys.remove(&place),
            };
        }
        Ok(())
    }

    /// Parks keys, or releases those without a version: in the log first, then here.
    ///
    /// # Errors
    /// The log's; nothing has changed here then.
    pub async fn set(
        &self,
        log: &dyn EventLog,
        collection: &Collection,
        changes: &BTreeMap<String, Option<Version>>,
    ) -> Result<(), AppendError> {
        let row = |(key, version): (&String, &Option<Version>)| {
            (format!("{}/{collection}/{key}", self.sink), version.map(|v| v.to_string().into_bytes()))
        };
        self.table.lock().await.put(log, changes.iter().map(row)).await?;
        let mut keys = self.keys();
        for (key, version) in changes {
            let place = (collection.clone(), key.clone());
            match version {
                Some(version) => keys.insert(place, *version),
                None => keys.remove(&place),
            };
        }
        Ok(())
    }

    /// The version behind which a key waits, if it is parked.
    pub fn since(&self, collection: &Collection, key: &str) -> Option<Version> {
        let keys = self.keys();
        if keys.is_empty() { None } else { keys.get(&(collection.clone(), key.to_owned())).copied() }
    }

    /// How many keys of a collection are parked.
    pub fn count(&self, collection: &Collection) -> usize {
        self.keys().keys().filter(|(c, _)| c == collection).count()
    }

    /// The parked keys of a collection.
    pub fn keys_of(&self, collection: &Collection) -> Vec<String> {
        self.keys().keys().filter(|(c, _)| c == collection).map(|(_, key)| key.clone()).collect()
    }

    fn place(&self, row: &str) -> Option<(Collection, String)> {
        let (collection, key) = row.strip_prefix(&self.sink)?.strip_prefix('/')?.split_once('/')?;
        Some((Collection::new(collection).ok()?, key.to_owned()))
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<(Collection, String), Version>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
