//! The log's contract: Kafka, the embedded log, and the simulated log of the tests. It moves records and knows nothing of
//! events; everything that waits is safe to cancel.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{AppendError, LogError};
use crate::record::{NewRecord, Records};
use crate::{Offset, Partition, Timestamp, Topic};

/// How a topic is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// How many partitions.
    pub partitions: u32,
    /// Whether only the newest record per key has to be kept. Otherwise all records are kept for ever.
    pub compacted: bool,
}

/// What one partition holds: offsets `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first offset that can be read.
    pub start: Offset,
    /// The offset that the next record will have.
    pub end: Offset,
}

/// How long a topic keeps its records by its own settings; `None`: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Since they were taken.
    pub time: Option<Duration>,
    /// Until a partition is this large.
    pub bytes: Option<u64>,
}

/// Where a record was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
}

/// One member of a consumer group: the group is named after the sink, the instance after the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The group's name.
    pub group: String,
    /// Stays the same when the process restarts, so that it gets its partitions back at once.
    pub instance: String,
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// The partition.
    pub partition: Partition,
}

/// How much one fetch may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records in the buffer, at most.
    pub records: usize,
    /// Bytes in the buffer; one record may go beyond.
    pub bytes: usize,
}

impl Limits {
    /// Whether a buffer has reached them.
    pub fn reached(&self, records: &Records) -> bool {
        records.len() >= self.records || records.bytes() >= self.bytes
    }
}

/// A log of topics, each with partitions, each an ordered sequence of records.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Makes a topic if it does not exist. An existing one is left as it is.
    async fn create(&self, topic: &Topic, spec: TopicSpec) -> Result<(), LogError>;

    /// What each partition holds, in their order; `None` when there is no such topic. Only committed records count.
    async fn extents(&self, topic: &Topic) -> Result<Option<Vec<Extent>>, LogError>;

    /// What the log itself holds of each partition, where [`EventLog::extents`] also counts what was moved to an archive:
    /// for whoever only goes on from where it is, and must not depend on the archive.
    async fn recent(&self, topic: &Topic) -> Result<Option<Vec<Extent>>, LogError> {
        self.extents(topic).await
    }

    /// How long a topic keeps its records.
    async fn retention(&self, _topic: &Topic) -> Result<Retention, LogError> {
        Ok(Retention::default())
    }

    /// Drops records before an offset, at most all of them and perhaps not the last few; the first offset that is left.
    /// They are gone for good.
    async fn truncate(&self, topic: &Topic, partition: Partition, _before: Offset) -> Result<Offset, LogError> {
        Err(LogError::Internal(format!("this log cannot drop records of {topic}/{partition}")))
    }

    /// Appends records and returns, in the same order, where they stand, once all of them are durable.
    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError>;

    /// For each partition the offset of the first record that was taken at or after `at`; the end if there is none.
    async fn offsets_at(&self, topic: &Topic, at: Timestamp) -> Result<Vec<Offset>, LogError>;

    /// Joins a group that shares the partitions of these topics.
    async fn subscribe(&self, member: &Member, topics: &[Topic]) -> Result<Box<dyn Subscription>, LogError>;

    /// Reads a range of one partition, without any group. It ends at `range.end`, even if that is not there yet.
    async fn read(
        &self,
        topic: &Topic,
        partition: Partition,
        range: Range<Offset>,
    ) -> Result<Box<dyn PartitionReader>, LogError>;
}

/// What happened to the partitions of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These are now its own, in addition to what it had. They are not read before [`Subscription::start`].
    Assigned(Vec<TopicPartition>),
    /// These are to be given up: finish what is under way, then [`Subscription::release`].
    Revoked(Vec<TopicPartition>),
    /// These have been given to others already; [`Subscription::release`] is still due.
    Lost(Vec<TopicPartition>),
}

/// A member's place in its group.
#[async_trait]
pub trait Subscription: Send {
    /// Waits for the next change of what this member owns.
    async fn next(&mut self) -> Result<Change, LogError>;

    /// Begins reading assigned partitions at the given offsets; one reader each, in the same order. For a partition that
    /// was started before, and whose reader has been dropped, reading begins anew at the given offset.
    async fn start(&mut self, at: &[(TopicPartition, Offset)]) -> Result<Vec<Box<dyn PartitionReader>>, LogError>;

    /// Gives up partitions; their readers have been dropped.
    async fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// Tells the group how far its member is, for tools that watch the group. The store's own position is what counts.
    async fn commit(&mut self, at: &[(TopicPartition, Offset)]) -> Result<(), LogError>;

    /// How far the group was when it last committed, where the log keeps that.
    async fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<Offset>>, LogError>;

    /// Leaves in good order.
    async fn close(self: Box<Self>);
}

/// Reads one partition in order.
#[async_trait]
pub trait PartitionReader: Send {
    /// Adds what is there to `into`, up to the limits; waits until there is at least one record. `false` at the end of
    /// a bounded range, when nothing was added. Safe to cancel: a dropped call has taken nothing.
    async fn fetch(&mut self, into: &mut Records, limits: Limits) -> Result<bool, LogError>;
}

/// The partition of a key among `count`: murmur2 as Kafka's Java clients compute it
/// (org.apache.kafka.common.utils.Utils#murmur2, BuiltInPartitioner), so that foreign producers put a key where we do.
pub fn partition_of(key: &[u8], count: u32) -> Partition {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = word.iter().rev().fold(0, |k, byte| k << 8 | u32::from(*byte)).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |k, byte| k << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    ((hash & 0x7fff_ffff) % count.max(1)) as Partition
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected hashes are those of Kafka's own test, org.apache.kafka.common.utils.UtilsTest#testMurmur2.
    #[test]
    fn murmur2_agrees_with_kafka() {
        let cases: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in cases {
            let count = 1_000_003;
            assert_eq!(partition_of(key.as_bytes(), count), ((hash & 0x7fff_ffff) as u32 % count) as i32, "{key}");
        }
    }
}
