//! Collections as they were at a moment, asked in SQL. A table is the state of a collection: per key its last event at or
//! before that moment, as the log took it. It is folded from the log, from the nearest snapshot before. This crate is the
//! only one that names DataFusion.

mod fold;
mod output;
mod rows;
mod snapshot;
mod table;

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::prelude::{SessionConfig, SessionContext};
use primal_core::log::{EventLog, Extent};
use primal_core::{Collection, Epochs, LogError, Offset, Partition, Records, Table, Timestamp, Version};

pub use fold::{Row, State, fold};
pub use output::{Answer, Format};
pub use snapshot::{Shelf, Snapshot};
use table::CollectionTable;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A file could not be read or written.
    #[error("{0}")]
    Files(String),
    /// The statement is wrong, or asks for what is not there.
    #[error("{0}")]
    Sql(String),
}

/// A collection that can be asked.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name, which is the table's.
    pub collection: Collection,
    /// Its lives.
    pub epochs: Arc<Epochs>,
    /// The columns of its schema, if it has one.
    pub table: Option<Arc<Table>>,
}

/// The log, and where snapshots of it are.
#[derive(Clone)]
pub struct History {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The folder of the snapshots.
    pub snapshots: PathBuf,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("snapshots", &self.snapshots).finish_non_exhaustive()
    }
}

impl History {
    /// Runs a statement over collections as they were at a moment, that moment included; as they are where none is given.
    ///
    /// # Errors
    /// The statement is wrong; or the log or a file failed.
    pub async fn query(&self, sources: &[Source], as_of: Option<Timestamp>, sql: &str) -> Result<Answer, QueryError> {
        let config = SessionConfig::new().with_information_schema(true).with_target_partitions(2);
        let context = SessionContext::new_with_config(config);
        context.register_udf(table::json_get());
        for source in sources {
            let table = CollectionTable::new(self.clone(), source.clone(), as_of);
            context.register_table(source.collection.as_str(), Arc::new(table)).map_err(|e| sql_error(&e))?;
        }
        let frame = context.sql_with_options(sql, reading_only()).await.map_err(|e| sql_error(&e))?;
        let schema = Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await.map_err(log_or_sql)?;
        Ok(Answer { schema, batches })
    }

    /// What each partition held at a moment, that moment included, of what it still has.
    pub(crate) async fn extents(&self, source: &Source, as_of: Option<Timestamp>) -> Result<Vec<Extent>, QueryError> {
        let topic = source.collection.topic();
        let mut extents = self.log.extents(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        if let Some(at) = as_of {
            let ends = self.log.offsets_at(&topic, Timestamp(at.0.saturating_add(1))).await?;
            for (extent, end) in extents.iter_mut().zip(ends) {
                extent.end = end.max(extent.start);
            }
        }
        Ok(extents)
    }

    /// The id of the event before an offset, if the log has it.
    pub(crate) async fn last_before(
        &self,
        source: &Source,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<String>, QueryError> {
        let topic = source.collection.topic();
        let mut reader = match self.log.read(&topic, partition, offset - 1..offset).await {
            Err(LogError::OutOfRange { .. }) => return Ok(None),
            other => other?,
        };
        let mut records = Records::new();
        let limits = primal_core::log::Limits { records: 1, bytes: 1 };
        reader.fetch(&mut records, limits).await?;
        let id = records.get(0).and_then(|record| record.headers.text(primal_core::header::ID).map(str::to_owned));
        Ok(Some(id.unwrap_or_default()))
    }

    /// The newest usable snapshot in the extent of a partition. One from before it is none: between the two there were
    /// events that retention has dropped.
    pub(crate) async fn nearest(
        &self,
        source: &Source,
        partition: Partition,
        extent: Extent,
    ) -> Result<Option<Snapshot>, QueryError> {
        let shelf = Shelf::new(&self.snapshots, &source.collection, partition);
        for snapshot in shelf.list()?.into_iter().rev() {
            let offset = snapshot.offset();
            let is_inside = offset > 0 && (extent.start..=extent.end).contains(&offset);
            if !is_inside || snapshot.at != source.epochs.position(partition, offset) {
                continue;
            }
            let opened = snapshot.open(source.table.as_deref())?;
            // Another log's, or a log that lost its end: what it says is not what is there. An event that retention has
            // dropped says nothing.
            match self.last_before(source, partition, offset).await? {
                Some(last) if last != opened.last => {}
                _ => return Ok(Some(snapshot)),
            }
        }
        Ok(None)
    }

    /// Where the last event of a key is, of what a snapshot inside an extent holds: the snapshot's offset, and the version.
    ///
    /// # Errors
    /// The log failed, or the snapshot is damaged.
    pub async fn recall(
        &self,
        source: &Source,
        partition: Partition,
        extent: Extent,
        key: &str,
    ) -> Result<Option<(Offset, Option<Version>)>, QueryError> {
        let Some(snapshot) = self.nearest(source, partition, extent).await? else { return Ok(None) };
        Ok(Some((snapshot.offset(), snapshot.version(key)?)))
    }

    /// Makes the snapshots of a collection that are missing, one each `every` events of a partition; tells each.
    ///
    /// # Errors
    /// The log failed, or a file could not be written.
    pub async fn snapshot(
        &self,
        source: &Source,
        every: u64,
        mut made: impl FnMut(&Snapshot),
    ) -> Result<(), QueryError> {
        let (topic, every) = (source.collection.topic(), i64::try_from(every.max(1)).unwrap_or(i64::MAX));
        for (partition, extent) in (0..).zip(self.extents(source, None).await?) {
            let newest = self.nearest(source, partition, extent).await?;
            let mut at = newest.as_ref().map_or(extent.start, Snapshot::offset);
            if extent.end - at < every {
                continue;
            }
            let mut state = match &newest {
                Some(snapshot) => snapshot.state(snapshot.open(source.table.as_deref())?, None)?,
                None => State::new(),
            };
            let shelf = Shelf::new(&self.snapshots, &source.collection, partition);
            while at + every <= extent.end {
                let next = at + every;
                fold(&*self.log, &topic, partition, &source.epochs, at..next, |_| true, &mut state).await?;
                let last = self.last_before(source, partition, next).await?.unwrap_or_default();
                let position = source.epochs.position(partition, next);
                made(&shelf.write(position, &last, source.table.as_deref(), &state)?);
                at = next;
            }
        }
        Ok(())
    }
}

fn reading_only() -> datafusion::execution::context::SQLOptions {
    datafusion::execution::context::SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
}

/// A statement that failed because the log did says so as the log does.
fn log_or_sql(error: datafusion::error::DataFusionError) -> QueryError {
    use datafusion::error::DataFusionError;
    match error {
        DataFusionError::External(source) => match source.downcast::<QueryError>() {
            Ok(ours) => *ours,
            Err(other) => sql_error(&DataFusionError::External(other)),
        },
        DataFusionError::Context(_, inner) => log_or_sql(*inner),
        other => sql_error(&other),
    }
}

fn sql_error(error: &datafusion::error::DataFusionError) -> QueryError {
    QueryError::Sql(error.strip_backtrace())
}
