//! The log in one SQLite file, for one machine: write-ahead log, `synchronous=FULL`, group commit. Several processes may
//! append and read; one of them runs the workers, and a lock file says which.
//!
//! A row holds a batch of records of one partition, as Kafka's segments do, so that neither appending nor reading pays
//! per record. Rows of compacted topics hold one record each and go when a newer one of their key comes.

mod body;
mod file;
mod group;
mod reader;
mod writer;

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use primal_core::error::{AppendError, LogError};
use primal_core::log::{Appended, EventLog, Extent, Member, PartitionReader, Subscription, TopicSpec};
use primal_core::record::NewRecord;
use primal_core::{Env, Offset, Partition, Timestamp, Topic};
use serde::Deserialize;
use sqlx::{Row, SqlitePool};
use tokio::sync::{mpsc, oneshot, watch};

use crate::file::failed;
use crate::reader::Reader;
use crate::writer::{Append, Writer};

/// Batches that are dropped in one transaction: appends wait that long, at most.
const DROPPED_AT_ONCE: u32 = 256;

/// Where the log is.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The SQLite file; its folder is made if it is missing.
    pub path: PathBuf,
}

/// The embedded log. Clones share one open file.
#[derive(Clone)]
pub struct EmbeddedLog {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    path: PathBuf,
    pool: SqlitePool,
    appends: mpsc::Sender<Append>,
    shared: Arc<Shared>,
    groups: Mutex<group::Groups>,
}

/// What writer and readers of this process share: how far each partition is, and a bell.
pub(crate) struct Shared {
    ends: Mutex<HashMap<(i64, Partition), Offset>>,
    bell: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn ends(&self) -> MutexGuard<'_, HashMap<(i64, Partition), Offset>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn end(&self, topic: i64, partition: Partition) -> Offset {
        self.ends().get(&(topic, partition)).copied().unwrap_or(0)
    }

    pub(crate) fn ring(&self) {
        self.bell.send_modify(|count| *count += 1);
    }

    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }
}

/// A topic as the file has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub id: i64,
    pub partitions: u32,
    pub compacted: bool,
}

impl EmbeddedLog {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// The file cannot be opened, or is no log of this kind.
    pub async fn open(config: Config, env: Env) -> Result<Self, LogError> {
        let pool = file::open(&config.path).await?;
        let shared = Arc::new(Shared { ends: Mutex::default(), bell: watch::Sender::new(0) });
        file::refresh(&pool, &shared).await?;
        let (appends, waiting) = mpsc::channel(1024);
        let connection = file::connect(&config.path).await?;
        tokio::spawn(Writer::new(config.path.clone(), connection, shared.clone(), env).run(waiting));
        let inner = Arc::new(Inner { path: config.path, pool, appends, shared, groups: Mutex::default() });
        tokio::spawn(file::watch(Arc::downgrade(&inner)));
        Ok(EmbeddedLog { inner })
    }
}

impl Inner {
    async fn known(&self, topic: &Topic) -> Result<Option<Known>, LogError> {
        file::topic(&self.pool, topic).await
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    async fn create(&self, topic: &Topic, spec: TopicSpec) -> Result<(), LogError> {
        if self.inner.known(topic).await?.is_some() {
            return Ok(());
        }
        sqlx::query("INSERT INTO topics (name, partitions, compacted) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(topic.as_str())
            .bind(spec.partitions.max(1))
            .bind(spec.compacted)
            .execute(&self.inner.pool)
            .await
            .map_err(failed)?;
        Ok(())
    }

    async fn extents(&self, topic: &Topic) -> Result<Option<Vec<Extent>>, LogError> {
        let Some(known) = self.inner.known(topic).await? else { return Ok(None) };
        let mut extents = vec![Extent { start: 0, end: 0 }; known.partitions as usize];
        // Where a topic is not compacted, its first batch says what was dropped before it.
        let start = "CASE WHEN ?2 THEN 0 ELSE ifnull((SELECT min(base) FROM batches b \
             WHERE b.topic = e.topic AND b.partition = e.partition), next) END";
        let query = format!("SELECT partition, next, {start} FROM ends e WHERE topic = ?1");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(known.id)
            .bind(known.compacted)
            .fetch_all(&self.inner.pool)
            .await
            .map_err(failed)?;
        for row in rows {
            if let Some(extent) = extents.get_mut(row.get::<i64, _>(0) as usize) {
                *extent = Extent { start: row.get(2), end: row.get(1) };
            }
        }
        Ok(Some(extents))
    }

    /// Whole batches go: the one that holds the record before `before` stays if it holds later ones too. The file does not
    /// become smaller; what comes next is written into the room.
    async fn truncate(&self, topic: &Topic, partition: Partition, before: Offset) -> Result<Offset, LogError> {
        let known = self.inner.known(topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        if known.compacted {
            return Err(LogError::Refused(format!("{topic} is compacted: its records go one by one")));
        }
        let first = "SELECT base FROM batches WHERE topic = ?1 AND partition = ?2 AND base < coalesce( \
             (SELECT max(base) FROM batches WHERE topic = ?1 AND partition = ?2 AND base <= ?3 AND \
              ?3 < (SELECT next FROM ends WHERE topic = ?1 AND partition = ?2)), ?3) ORDER BY base LIMIT ?4";
        let query = format!("DELETE FROM batches WHERE topic = ?1 AND partition = ?2 AND base IN ({first})");
        loop {
            let deleted = sqlx::query(sqlx::AssertSqlSafe(&*query))
                .bind(known.id)
                .bind(partition)
                .bind(before)
                .bind(DROPPED_AT_ONCE)
                .execute(&self.inner.pool)
                .await
                .map_err(failed)?;
            if deleted.rows_affected() < u64::from(DROPPED_AT_ONCE) {
                break;
            }
        }
        let extents = self.extents(topic).await?.unwrap_or_default();
        Ok(extents.get(partition as usize).map_or(before, |extent| extent.start))
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
        let count = records.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        let asked = self.inner.appends.send(Append { records, reply }).await;
        let result = match asked {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(LogError::Unavailable("the writer ended".to_owned()))),
            Err(_) => Err(LogError::Unavailable("the writer has ended".to_owned())),
        };
        result.map_err(|error| AppendError { appended: vec![None; count], error })
    }

    async fn offsets_at(&self, topic: &Topic, at: Timestamp) -> Result<Vec<Offset>, LogError> {
        let known = self.inner.known(topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        let mut offsets = Vec::new();
        for partition in 0..known.partitions {
            let first = "SELECT coalesce( \
                 (SELECT base FROM batches WHERE topic = ?1 AND partition = ?2 AND recorded >= ?3 ORDER BY base LIMIT 1), \
                 (SELECT next FROM ends WHERE topic = ?1 AND partition = ?2), 0)";
            let query = sqlx::query(first).bind(known.id).bind(partition).bind(at.0);
            offsets.push(query.fetch_one(&self.inner.pool).await.map_err(failed)?.get(0));
        }
        Ok(offsets)
    }

    async fn subscribe(&self, member: &Member, topics: &[Topic]) -> Result<Box<dyn Subscription>, LogError> {
        group::join(&self.inner, member, topics).await
    }

    async fn read(
        &self,
        topic: &Topic,
        partition: Partition,
        range: Range<Offset>,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        let known = self.inner.known(topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        let extent = self.extents(topic).await?.and_then(|extents| extents.get(partition as usize).copied());
        let Some(Extent { start, end }) = extent else {
            return Err(LogError::Internal(format!("{topic} has no partition {partition}")));
        };
        if !(start..=end).contains(&range.start) {
            let (topic, wanted) = (topic.clone(), range.start);
            return Err(LogError::OutOfRange { topic, partition, wanted, start, end });
        }
        Ok(Box::new(Reader::new(
            self.inner.pool.clone(),
            self.inner.shared.clone(),
            topic.clone(),
            known,
            partition,
            range,
        )))
    }
}
