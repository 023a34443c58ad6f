//! Compacted topics of the hub's own: small tables kept in the log, the newest record of a key being its row.

use std::collections::BTreeMap;

use crate::error::{AppendError, LogError};
use crate::log::{EventLog, Limits, TopicSpec};
use crate::record::{NewRecord, RecordRef, Records};
use crate::{Offset, Topic};

/// Reads a table's records from an offset to its end; the offset behind it, or `None` where there is no such topic.
///
/// What is written meanwhile is read too, until nothing was: a row that is written again behind the end that was seen first
/// may be compacted away before that, and would seem not to be there.
///
/// # Errors
/// The log's.
pub async fn follow(
    log: &dyn EventLog,
    topic: &Topic,
    from: Offset,
    mut take: impl FnMut(RecordRef<'_>) + Send,
) -> Result<Option<Offset>, LogError> {
    let mut next = from;
    let mut records = Records::new();
    loop {
        let Some(extents) = log.extents(topic).await? else { return Ok(None) };
        let Some(extent) = extents.first().filter(|extent| extent.end > next) else { return Ok(Some(next)) };
        let mut reader = log.read(topic, 0, next.max(extent.start)..extent.end).await?;
        while reader.fetch(&mut records, Limits { records: 10_000, bytes: 4 << 20 }).await? {
            records.iter().for_each(&mut take);
            records.clear();
        }
        next = extent.end;
    }
}

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
        let take = |record: RecordRef<'_>| {
            let key = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
            rows.insert(key, record.value.map(<[u8]>::to_vec));
        };
        self.next =
            follow(log, &self.topic, self.next, take).await?.ok_or_else(|| LogError::NoTopic(self.topic.clone()))?;
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
