//! The log as a process sees it: every call passes a fault point before and after its effect.

use std::ops::Range;

use async_trait::async_trait;
use primal_core::error::{AppendError, LogError};
use primal_core::log::{Appended, EventLog, Extent, Member, PartitionReader, Subscription, TopicSpec};
use primal_core::record::NewRecord;
use primal_core::{Offset, Partition, Timestamp, Topic};

use crate::chance::{hash, mix};
use crate::group::{self, unavailable};
use crate::process::{Failed, Process};
use crate::reader::Reader;

/// The simulated log, seen from one process.
pub struct SimLog {
    process: Process,
}

impl SimLog {
    /// The log of a process's world.
    pub fn new(process: &Process) -> Self {
        SimLog { process: process.clone() }
    }

    fn put(&self, record: NewRecord, drawn: u64) -> Result<Appended, LogError> {
        let topic = record.topic.clone();
        let world = &self.process.world;
        let appended = world.log().append(record, world.now(), drawn);
        let appended = appended.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        world.note(mix(hash(topic.as_str()), appended.offset as u64));
        Ok(appended)
    }
}

#[async_trait]
impl EventLog for SimLog {
    async fn create(&self, topic: &Topic, spec: TopicSpec) -> Result<(), LogError> {
        self.process.step("log.create").await.map_err(unavailable)?;
        self.process.world.log().create(topic, spec);
        Ok(())
    }

    async fn extents(&self, topic: &Topic) -> Result<Option<Vec<Extent>>, LogError> {
        self.process.step("log.extents").await.map_err(unavailable)?;
        Ok(self.process.world.log().extents(topic))
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
        let count = records.len();
        let drawn = self.process.draw();
        let failed = |appended: Vec<Option<Appended>>, at: Failed| AppendError { appended, error: unavailable(at) };
        let refused = self.process.step("log.append").await.err();
        // Of an append that fails, the log may have taken the first part, and said so.
        let taken = if refused.is_some() && drawn.is_multiple_of(2) { (drawn >> 8) as usize % (count + 1) } else { 0 };
        let taken = if refused.is_none() { count } else { taken };
        let mut appended = vec![None; count];
        for (index, (record, slot)) in records.into_iter().zip(&mut appended).take(taken).enumerate() {
            match self.put(record, mix(drawn, index as u64)) {
                Ok(place) => *slot = Some(place),
                Err(error) => return Err(AppendError { appended, error }),
            }
        }
        self.process.world.appended.notify_waiters();
        if let Some(at) = refused {
            return Err(failed(appended, at));
        }
        self.process.step("log.append.answer").await.map_err(|at| failed(vec![None; count], at))?;
        Ok(appended.into_iter().flatten().collect())
    }

    async fn offsets_at(&self, topic: &Topic, at: Timestamp) -> Result<Vec<Offset>, LogError> {
        self.process.step("log.offsets_at").await.map_err(unavailable)?;
        let log = self.process.world.log();
        let topic = log.get(topic).ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        let first = |log: &crate::topic::PartitionLog| {
            log.records.iter().find(|kept| kept.recorded >= at).map_or(log.next, |kept| kept.offset)
        };
        Ok(topic.partitions.iter().map(first).collect())
    }

    async fn subscribe(&self, member: &Member, topics: &[Topic]) -> Result<Box<dyn Subscription>, LogError> {
        self.process.step("group.join").await.map_err(unavailable)?;
        group::join(&self.process, member, topics)
    }

    async fn read(
        &self,
        topic: &Topic,
        partition: Partition,
        range: Range<Offset>,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        self.process.step("log.read").await.map_err(unavailable)?;
        let extents = self.process.world.log().extents(topic).ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        match usize::try_from(partition).ok().and_then(|index| extents.get(index)) {
            None => Err(LogError::Internal(format!("{topic} has no partition {partition}"))),
            Some(Extent { start, end }) if range.start < *start || range.start > *end => Err(LogError::OutOfRange {
                topic: topic.clone(),
                partition,
                wanted: range.start,
                start: *start,
                end: *end,
            }),
            Some(_) => Ok(Box::new(Reader::new(&self.process, topic, partition, range))),
        }
    }
}
