//! Reading one partition: row by row, each checked by its checksum, waiting at the end for the bell.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt;
use primal_core::error::LogError;
use primal_core::log::{Limits, PartitionReader};
use primal_core::{Offset, Partition, Records, Timestamp, Topic};
use sqlx::{Row, SqlitePool};
use tokio::sync::watch;

use crate::body::Cursor;
use crate::file::failed;
use crate::{Known, Shared};

pub(crate) struct Reader {
    pool: SqlitePool,
    shared: Arc<Shared>,
    topic: Topic,
    known: Known,
    partition: Partition,
    next: Offset,
    end: Offset,
    bell: watch::Receiver<u64>,
    /// The rest of a row that did not fit into the last fetch.
    rest: Option<Cursor>,
}

impl Reader {
    pub(crate) fn new(
        pool: SqlitePool,
        shared: Arc<Shared>,
        topic: Topic,
        known: Known,
        partition: Partition,
        range: Range<Offset>,
    ) -> Self {
        let bell = shared.listen();
        Reader { pool, shared, topic, known, partition, next: range.start, end: range.end, bell, rest: None }
    }

    /// Takes what is left of the row at hand. Nothing in here waits, so nothing can be half taken.
    fn drain(&mut self, into: &mut Records, limits: Limits) -> Result<(), LogError> {
        while let Some(row) = self.rest.as_mut() {
            while !row.is_done() && row.next < self.end {
                if limits.reached(into) {
                    return Ok(());
                }
                let wanted = if row.next >= self.next { Some(&mut *into) } else { None };
                let offset = row.next;
                row.take(wanted).ok_or_else(|| damaged(&self.topic, self.partition, offset))?;
                self.next = self.next.max(row.next);
            }
            self.rest = None;
        }
        Ok(())
    }

    async fn query(&mut self, into: &mut Records, limits: Limits) -> Result<(), LogError> {
        let pool = self.pool.clone();
        let mut rows = sqlx::query(
            "SELECT base, recorded, checksum, body, \
             (SELECT min(base) FROM batches WHERE topic = ?1 AND partition = ?2) FROM batches WHERE topic = ?1 AND partition = ?2 AND base < ?4 \
             AND base >= ifnull((SELECT max(base) FROM batches WHERE topic = ?1 AND partition = ?2 AND base <= ?3), 0) \
             ORDER BY base LIMIT 256",
        )
        .bind(self.known.id)
        .bind(self.partition)
        .bind(self.next)
        .bind(self.end)
        .fetch(&pool);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let (base, body): (Offset, Vec<u8>) = (row.get(0), row.get(3));
            if i64::from(crc32fast::hash(&body)) != row.get::<i64, _>(2) {
                return Err(damaged(&self.topic, self.partition, base));
            }
            if base > self.next {
                self.check_start(row.get(4))?;
            }
            self.rest = Some(Cursor::new(body, base, Timestamp(row.get(1))));
            self.drain(into, limits)?;
            if self.rest.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Whether the log, whose first batch is this one, still has the offset that comes next. What is dropped is dropped
    /// from the beginning; what is missing behind that was compacted away.
    fn check_start(&self, first: Option<Offset>) -> Result<(), LogError> {
        let end = self.shared.end(self.known.id, self.partition);
        let start = first.unwrap_or(end);
        if self.known.compacted || start <= self.next {
            return Ok(());
        }
        let (topic, partition, wanted) = (self.topic.clone(), self.partition, self.next);
        Err(LogError::OutOfRange { topic, partition, wanted, start, end })
    }

    async fn first(&self) -> Result<Option<Offset>, LogError> {
        let first = sqlx::query("SELECT min(base) FROM batches WHERE topic = ? AND partition = ?");
        let row = first.bind(self.known.id).bind(self.partition).fetch_one(&self.pool).await.map_err(failed)?;
        Ok(row.get(0))
    }
}

#[async_trait]
impl PartitionReader for Reader {
    async fn fetch(&mut self, into: &mut Records, limits: Limits) -> Result<bool, LogError> {
        let had = into.len();
        loop {
            self.drain(into, limits)?;
            if into.len() > had {
                return Ok(true);
            }
            if self.next >= self.end {
                return Ok(false);
            }
            self.bell.borrow_and_update();
            // Read before the query, so that what is found missing was missing for good: compacted away.
            let known = self.shared.end(self.known.id, self.partition).min(self.end);
            if self.next < known {
                self.query(into, limits).await?;
                if into.len() > had {
                    return Ok(true);
                }
                if self.next < known {
                    self.check_start(self.first().await?)?;
                }
                self.next = self.next.max(known);
                into.advance_to(self.next);
                continue;
            }
            if self.bell.changed().await.is_err() {
                return Err(LogError::Unavailable("the log was closed".to_owned()));
            }
        }
    }
}

fn damaged(topic: &Topic, partition: Partition, offset: Offset) -> LogError {
    LogError::Damaged(format!("the batch at offset {offset} of {topic}/{partition} does not match its checksum"))
}
