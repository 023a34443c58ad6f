//! Logs that break a promise: what is appended, what is read, and when a partition is given up.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use primal_core::error::{AppendError, LogError};
use primal_core::header::Headers;
use primal_core::log::{
    Appended, Change, EventLog, Extent, Limits, Member, PartitionReader, Subscription, TopicPartition, TopicSpec,
};
use primal_core::record::NewRecord;
use primal_core::{Offset, Partition, Records, Timestamp, Topic};

use super::Bug;
use crate::setup::{SINK, Setup};

struct WrongLog {
    bug: Bug,
    right: Arc<dyn EventLog>,
}

pub(super) fn wrong(bug: Bug, right: Arc<dyn EventLog>) -> Arc<dyn EventLog> {
    Arc::new(WrongLog { bug, right })
}

/// What a caller is told who is not told the truth.
const NOWHERE: Appended = Appended { partition: 0, offset: 0 };

fn is_parked(record: &NewRecord) -> bool {
    let class = Headers::new(&record.headers).text("__connect.errors.exception.class.name");
    class == Some("primalcore.Parked")
}

#[async_trait]
impl EventLog for WrongLog {
    async fn create(&self, topic: &Topic, spec: TopicSpec) -> Result<(), LogError> {
        self.right.create(topic, spec).await
    }

    async fn extents(&self, topic: &Topic) -> Result<Option<Vec<Extent>>, LogError> {
        let mut extents = self.right.extents(topic).await?;
        let hidden = match self.bug {
            Bug::ForgetsIds => *topic == Setup::collection().topic(),
            Bug::ForgetsParked => *topic == Topic::parked(),
            _ => false,
        };
        for extent in extents.iter_mut().flatten().filter(|_| hidden) {
            extent.start = extent.end;
        }
        Ok(extents)
    }

    async fn append(&self, mut records: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
        let count = records.len();
        let is_letters = records.iter().any(|record| record.topic == Topic::dead_letters(SINK));
        match self.bug {
            Bug::LosesParked if is_letters => {
                records.retain(|record| !is_parked(record));
                self.right.append(records).await.map(|_| vec![NOWHERE; count])
            }
            Bug::LettersLater if is_letters => {
                let right = self.right.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    let _ = right.append(records).await;
                });
                Ok(vec![NOWHERE; count])
            }
            Bug::AcknowledgesFailures => Ok(self.right.append(records).await.unwrap_or_else(|_| vec![NOWHERE; count])),
            Bug::RetryReorders => {
                let failed = match self.right.append(records.clone()).await {
                    Ok(appended) => return Ok(appended),
                    Err(failed) => failed,
                };
                let mut appended = failed.appended;
                for (record, slot) in records.into_iter().zip(&mut appended).rev() {
                    if slot.is_none() {
                        *slot = self.right.append(vec![record]).await?.pop();
                    }
                }
                Ok(appended.into_iter().flatten().collect())
            }
            _ => self.right.append(records).await,
        }
    }

    async fn offsets_at(&self, topic: &Topic, at: Timestamp) -> Result<Vec<Offset>, LogError> {
        self.right.offsets_at(topic, at).await
    }

    async fn subscribe(&self, member: &Member, topics: &[Topic]) -> Result<Box<dyn Subscription>, LogError> {
        let right = self.right.subscribe(member, topics).await?;
        Ok(Box::new(WrongSubscription { bug: self.bug, right }))
    }

    async fn read(
        &self,
        topic: &Topic,
        partition: Partition,
        range: Range<Offset>,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        self.right.read(topic, partition, range).await
    }
}

struct WrongSubscription {
    bug: Bug,
    right: Box<dyn Subscription>,
}

#[async_trait]
impl Subscription for WrongSubscription {
    async fn next(&mut self) -> Result<Change, LogError> {
        let change = self.right.next().await?;
        if let (Bug::NoDrain, Change::Revoked(places)) = (self.bug, &change) {
            self.right.release(places).await?;
        }
        Ok(change)
    }

    async fn start(&mut self, at: &[(TopicPartition, Offset)]) -> Result<Vec<Box<dyn PartitionReader>>, LogError> {
        let readers = self.right.start(at).await?;
        if self.bug != Bug::FetchLoses {
            return Ok(readers);
        }
        Ok(readers.into_iter().map(|right| Box::new(Hasty { right }) as Box<dyn PartitionReader>).collect())
    }

    async fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.right.release(partitions).await
    }

    async fn commit(&mut self, at: &[(TopicPartition, Offset)]) -> Result<(), LogError> {
        self.right.commit(at).await
    }

    async fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        self.right.committed(partitions).await
    }

    async fn close(self: Box<Self>) {
        self.right.close().await;
    }
}

/// Takes records before it hands them over, with a wait between.
struct Hasty {
    right: Box<dyn PartitionReader>,
}

#[async_trait]
impl PartitionReader for Hasty {
    async fn fetch(&mut self, into: &mut Records, limits: Limits) -> Result<bool, LogError> {
        let mut taken = Records::new();
        let more = self.right.fetch(&mut taken, limits).await?;
        tokio::time::sleep(Duration::from_millis(1)).await;
        for record in taken.iter() {
            into.push(record.offset, record.recorded, record.key, record.value, |block| {
                block.extend_from_slice(record.headers.block());
            });
        }
        Ok(more)
    }
}
