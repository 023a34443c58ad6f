//! Topics: records with gaps between their offsets, as transaction markers leave them, and compaction of old rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use primal_core::log::{Appended, Extent, Limits, TopicSpec, partition_of};
use primal_core::record::NewRecord;
use primal_core::{Offset, Partition, Records, Timestamp, Topic};

use crate::chance::mix;

/// A record that the log holds.
#[derive(Clone)]
pub struct Kept {
    /// Its place.
    pub offset: Offset,
    /// When it was taken.
    pub recorded: Timestamp,
    /// What it is.
    pub record: Arc<NewRecord>,
}

#[derive(Default)]
pub(crate) struct PartitionLog {
    pub records: Vec<Kept>,
    pub next: Offset,
}

pub(crate) struct TopicLog {
    pub compacted: bool,
    pub partitions: Vec<PartitionLog>,
}

#[derive(Default)]
pub(crate) struct Topics {
    topics: BTreeMap<Topic, TopicLog>,
    turn: u32,
}

impl Topics {
    pub(crate) fn create(&mut self, topic: &Topic, spec: TopicSpec) {
        self.topics.entry(topic.clone()).or_insert_with(|| TopicLog {
            compacted: spec.compacted,
            partitions: (0..spec.partitions.max(1)).map(|_| PartitionLog::default()).collect(),
        });
    }

    pub(crate) fn get(&self, topic: &Topic) -> Option<&TopicLog> {
        self.topics.get(topic)
    }

    pub(crate) fn partition(&self, topic: &Topic, partition: Partition) -> Option<&PartitionLog> {
        self.get(topic)?.partitions.get(usize::try_from(partition).ok()?)
    }

    pub(crate) fn extents(&self, topic: &Topic) -> Option<Vec<Extent>> {
        let extent = |log: &PartitionLog| Extent { start: 0, end: log.next };
        Some(self.get(topic)?.partitions.iter().map(extent).collect())
    }

    /// Appends one record; `None` when its topic or partition does not exist. `drawn` decides about gaps.
    pub(crate) fn append(&mut self, record: NewRecord, now: Timestamp, drawn: u64) -> Option<Appended> {
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn;
        let topic = self.topics.get_mut(&record.topic)?;
        let count = topic.partitions.len() as u32;
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of(key, count),
            (None, None) => (turn % count) as Partition,
        };
        let log = topic.partitions.get_mut(usize::try_from(partition).ok()?)?;
        if topic.compacted && drawn.is_multiple_of(3) {
            log.records.retain(|kept| kept.record.key != record.key);
        }
        let offset = log.next;
        log.records.push(Kept { offset, recorded: now, record: Arc::new(record) });
        log.next = offset + 1 + if mix(drawn, 7).is_multiple_of(5) { 1 + (drawn % 2) as Offset } else { 0 };
        Some(Appended { partition, offset })
    }
}

impl PartitionLog {
    /// The index of the first record at or after an offset.
    pub(crate) fn index(&self, offset: Offset) -> usize {
        self.records.partition_point(|kept| kept.offset < offset)
    }

    /// Whether there is a record in a range.
    pub(crate) fn has(&self, from: Offset, to: Offset) -> bool {
        self.records.get(self.index(from)).is_some_and(|kept| kept.offset < to)
    }

    /// Adds records of a range to a buffer; where to go on.
    pub(crate) fn take(&self, from: Offset, to: Offset, into: &mut Records, limits: Limits, most: usize) -> Offset {
        let (mut next, mut taken) = (from, 0);
        for kept in self.records.get(self.index(from)..).unwrap_or_default() {
            if kept.offset >= to || taken >= most || limits.reached(into) {
                return next;
            }
            let record = &kept.record;
            into.push(kept.offset, kept.recorded, record.key.as_deref(), record.value.as_deref(), |block| {
                block.extend_from_slice(&record.headers);
            });
            next = kept.offset + 1;
            taken += 1;
        }
        next
    }
}
