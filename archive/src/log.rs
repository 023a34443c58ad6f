//! The log with its archive: what was moved is read from there, and everybody above sees one log. Where both have a range the
//! log is read, and while it has what is asked for the archive is not touched at all.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use primal_core::error::{AppendError, LogError};
use primal_core::log::{
    Appended, Change, EventLog, Extent, Member, PartitionReader, Retention, Subscription, TopicPartition, TopicSpec,
};
use primal_core::record::NewRecord;
use primal_core::{Epochs, Offset, Partition, Timestamp, Topic};

use crate::archive::{Archive, Life};
use crate::reader::Reader;

/// A log and its archive as one. Clones share both.
#[derive(Clone)]
pub struct ArchivedLog {
    log: Arc<dyn EventLog>,
    archive: Archive,
    topics: Arc<HashMap<Topic, Arc<Epochs>>>,
}

impl ArchivedLog {
    /// Over a log; only these topics, with their lives, are looked for in the archive.
    pub fn new(
        log: Arc<dyn EventLog>,
        archive: Archive,
        topics: impl IntoIterator<Item = (Topic, Arc<Epochs>)>,
    ) -> Self {
        ArchivedLog { log, archive, topics: Arc::new(topics.into_iter().collect()) }
    }

    pub(crate) fn inner(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    pub(crate) fn archive(&self) -> &Archive {
        &self.archive
    }

    fn lives(&self, topic: &Topic, partition: Partition) -> Vec<Life> {
        self.topics.get(topic).map_or_else(Vec::new, |epochs| Life::all(topic, epochs, partition))
    }

    /// The life that an offset belongs to.
    pub(crate) fn life(&self, topic: &Topic, partition: Partition, offset: Offset) -> Option<Life> {
        self.lives(topic, partition).into_iter().find(|life| (life.start..life.end).contains(&offset))
    }

    /// Where the record of a partition begins, whose log begins at `start`.
    async fn begin(&self, topic: &Topic, partition: Partition, start: Offset) -> Result<Offset, LogError> {
        for life in self.lives(topic, partition).iter().filter(|life| life.start < start) {
            if let Some(begin) = self.archive.inner.index.begin(&self.archive, life).await? {
                return Ok(begin.min(start));
            }
        }
        Ok(start)
    }

    /// The first archived offset below `start` that was taken at or after a moment.
    async fn archived_at(
        &self,
        topic: &Topic,
        partition: Partition,
        start: Offset,
        at: Timestamp,
    ) -> Result<Option<Offset>, LogError> {
        let index = &self.archive.inner.index;
        for life in self.lives(topic, partition).iter().filter(|life| life.start < start) {
            if index.end(&self.archive, life).await?.0 < start.min(life.end) {
                index.refresh(&self.archive, life).await?;
            }
            let Some(manifest) = index.since(&self.archive, life, at).await? else { continue };
            let Some(group) = manifest.groups.iter().position(|group| group.recorded_until >= at) else { continue };
            let opened = self.archive.open_file(life, manifest).await?;
            let records = opened.group(&self.archive.inner.store, group).await?;
            let found = records.iter().find(|record| record.recorded >= at).map(|record| record.offset);
            return Ok(found.filter(|found| *found < start));
        }
        Ok(None)
    }
}

#[async_trait]
impl EventLog for ArchivedLog {
    async fn create(&self, topic: &Topic, spec: TopicSpec) -> Result<(), LogError> {
        self.log.create(topic, spec).await
    }

    async fn extents(&self, topic: &Topic) -> Result<Option<Vec<Extent>>, LogError> {
        let Some(mut extents) = self.log.extents(topic).await? else { return Ok(None) };
        if self.topics.contains_key(topic) {
            for (partition, extent) in (0..).zip(&mut extents) {
                extent.start = self.begin(topic, partition, extent.start).await?;
            }
        }
        Ok(Some(extents))
    }

    async fn recent(&self, topic: &Topic) -> Result<Option<Vec<Extent>>, LogError> {
        self.log.recent(topic).await
    }

    async fn retention(&self, topic: &Topic) -> Result<Retention, LogError> {
        self.log.retention(topic).await
    }

    async fn truncate(&self, topic: &Topic, partition: Partition, before: Offset) -> Result<Offset, LogError> {
        self.log.truncate(topic, partition, before).await
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
        self.log.append(records).await
    }

    async fn offsets_at(&self, topic: &Topic, at: Timestamp) -> Result<Vec<Offset>, LogError> {
        let mut offsets = self.log.offsets_at(topic, at).await?;
        if self.topics.contains_key(topic) {
            let extents = self.log.extents(topic).await?.unwrap_or_default();
            for (partition, (offset, extent)) in (0..).zip(offsets.iter_mut().zip(extents)) {
                // Where the log has an earlier record, everything that was archived is earlier still.
                if *offset <= extent.start {
                    *offset = self.archived_at(topic, partition, extent.start, at).await?.unwrap_or(*offset);
                }
            }
        }
        Ok(offsets)
    }

    async fn subscribe(&self, member: &Member, topics: &[Topic]) -> Result<Box<dyn Subscription>, LogError> {
        let subscription = self.log.subscribe(member, topics).await?;
        Ok(Box::new(Subscribed { subscription, log: self.clone() }))
    }

    async fn read(
        &self,
        topic: &Topic,
        partition: Partition,
        range: Range<Offset>,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        match self.log.read(topic, partition, range.clone()).await {
            Err(LogError::OutOfRange { wanted, start, .. })
                if wanted < start && self.life(topic, partition, wanted).is_some() =>
            {
                Reader::open(self.clone(), topic.clone(), partition, range, start, None).await
            }
            other => other,
        }
    }
}

/// A member's place whose partitions may begin in the archive.
struct Subscribed {
    subscription: Box<dyn Subscription>,
    log: ArchivedLog,
}

#[async_trait]
impl Subscription for Subscribed {
    async fn next(&mut self) -> Result<Change, LogError> {
        self.subscription.next().await
    }

    async fn start(&mut self, at: &[(TopicPartition, Offset)]) -> Result<Vec<Box<dyn PartitionReader>>, LogError> {
        let mut starts = Vec::with_capacity(at.len());
        for (place, offset) in at {
            let extents = match self.log.topics.contains_key(&place.topic) {
                true => self.log.log.recent(&place.topic).await?.unwrap_or_default(),
                false => Vec::new(),
            };
            let start = usize::try_from(place.partition).ok().and_then(|index| extents.get(index));
            starts.push((place.clone(), start.map_or(*offset, |extent| extent.start.max(*offset))));
        }
        let mut readers = Vec::with_capacity(at.len());
        for (reader, ((place, offset), (_, start))) in
            self.subscription.start(&starts).await?.into_iter().zip(at.iter().zip(&starts))
        {
            // What comes after the archive waits at the log's start. Should retention go past it meanwhile, that reader
            // says so, and whoever reads begins anew where it is, in the archive.
            let archived = *offset < *start && self.log.life(&place.topic, place.partition, *offset).is_some();
            readers.push(match archived {
                true => {
                    let (topic, range) = (place.topic.clone(), *offset..Offset::MAX);
                    Reader::open(self.log.clone(), topic, place.partition, range, *start, Some(reader)).await?
                }
                false => reader,
            });
        }
        Ok(readers)
    }

    async fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.subscription.release(partitions).await
    }

    async fn commit(&mut self, at: &[(TopicPartition, Offset)]) -> Result<(), LogError> {
        self.subscription.commit(at).await
    }

    async fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError> {
        self.subscription.committed(partitions).await
    }

    async fn close(self: Box<Self>) {
        self.subscription.close().await;
    }
}
