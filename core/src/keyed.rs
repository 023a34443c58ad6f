//! Compacted topics of the hub's own: small tables kept in the log, the newest record of a key being its row.

use std::collections::BTreeMap;

use crate::error::{AppendError, LogError};
use crate::log::{EventLog, Limits, TopicSpec};
use crate::record::{NewRecord, Records};
use crate::{Offset, Topic};

/// One table in the log.
#[derive(Clone, Debug)]
pub struct Keyed {
    topic: Topic,
    next: Offset,
}

impl Keyed {
    /// Over a topic, which is made (compacted, one partition) if it does not exist.
    ///
    /// # Errors
    /// The log's.
    pub async fn open(log: &dyn EventLog, topic: Topic) -> Result<Self, LogError> {
        log.create(&topic, TopicSpec { partitions: 1, compacted: true }).await?;
        Ok(Keyed { topic, next: 0 })
    }

    /// The rows that changed since the last call (all of them at the first), newest state only; `None` is a removed row.
    ///
    /// # Errors
    /// The log's.
    pub async fn changes(&mut self, log: &dyn EventLog) -> Result<BTreeMap<String, Option<Vec<u8>>>, LogError> {
        let mut rows = BTreeMap::new();
        let extents = log.extents(&self.topic).await?.ok_or_else(|| LogError::NoTopic(self.topic.clone()))?;
        let Some(extent) = extents.first() else { return Ok(rows) };
        let start = self.next.max(extent.start);
        if start >= extent.end {
            return Ok(rows);
        }
        let mut reader = log.read(&self.topic, 0, start..extent.end).await?;
        let mut records = Records::new();
        while reader.fetch(&mut records, Limits { records: 10_000, bytes: 4 << 20 }).await? {
            for record in records.iter() {
                let key = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
                rows.insert(key, record.value.map(<[u8]>::to_vec));
            }
            records.clear();
        }
        self.next = extent.end;
        Ok(rows)
    }

    /// All rows as they are now.
    ///
    /// # Errors
    /// The log's.
    pub async fn rows(log: &dyn EventLog, topic: Topic) -> Result<BTreeMap<String, Vec<u8>>, LogError> {
        let mut table = Keyed { topic, next: 0 };
        match table.changes(log).await {
            Ok(rows) => Ok(rows.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()),
            Err(LogError::NoTopic(_)) => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    /// Sets rows; `None` removes one.
    ///
    /// # Errors
    /// The log's.
    pub async fn put(
        &self,
        log: &dyn EventLog,
        rows: impl IntoIterator<Item = (String, Option<Vec<u8>>)>,
    ) -> Result<(), AppendError> {
        let record = |(key, value): (String, Option<Vec<u8>>)| NewRecord {
            topic: self.topic.clone(),
            partition: Some(0),
            key: Some(key.into_bytes()),
            value,
            headers: Vec::new(),
        };
        log.append(rows.into_iter().map(record).collect()).await.map(|_| ())
    }
}
