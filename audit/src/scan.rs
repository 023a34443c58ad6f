//! Reading through the log: the wanted events of any collections in the order of recorded time, with bounded memory.
//! State, the audit log, traces and the search for one event are all made of this.

use std::collections::VecDeque;
use std::sync::Arc;

use primal_core::error::LogError;
use primal_core::event::{EventRef, Op};
use primal_core::log::{EventLog, Limits};
use primal_core::{Collection, Epochs, Moment, Offset, Partition, RecordRef, Records, Timestamp, Version, header};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::diff::raw;

/// What all partitions together may hold back until their turn comes; in tests little, so that it is reached.
const HELD_BYTES: usize = if cfg!(test) { 1 << 20 } else { 32 << 20 };
/// What each partition may hold back at least.
const LEAST_BYTES: usize = 64 << 10;
/// How much one fetch brings.
const FETCH: Limits = Limits { records: 5_000, bytes: 1 << 20 };

/// The log could not be read as was asked.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A collection that is looked at.
#[derive(Clone, Debug)]
pub struct Source {
    /// The collection.
    pub collection: Collection,
    /// Its lives.
    pub epochs: Arc<Epochs>,
}

/// A range of one partition: offsets `[from, to)`.
#[derive(Clone, Debug)]
pub struct Part {
    /// The collection.
    pub source: Source,
    /// The partition.
    pub partition: Partition,
    /// The first offset.
    pub from: Offset,
    /// The offset after the last.
    pub to: Offset,
}

/// An event of the log with its place; also a record that is no event.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// When the log took it.
    pub recorded: Timestamp,
    /// When it happened, as its producer wrote it.
    pub time: Option<String>,
    /// The collection.
    pub collection: String,
    /// The partition.
    pub partition: Partition,
    /// Its place there.
    pub offset: Offset,
    /// Orders the events of a key.
    pub version: Version,
    /// The entity; lossy where it is not UTF-8.
    pub key: String,
    /// What it does; absent where the record is no event.
    pub op: Option<Op>,
    /// CloudEvents `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who produced it.
    pub source: String,
    /// Its id.
    pub id: String,
    /// Who did it.
    pub actor: Option<String>,
    /// What belongs together.
    pub correlation: Option<String>,
    /// The id of the event that led to it.
    pub causation: Option<String>,
    /// Why the record is no event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// All headers in their order, lossy; null where the header has no value.
    #[serde(skip)]
    pub headers: Vec<(String, Option<String>)>,
    /// The payload, lossy where it is not UTF-8.
    #[serde(skip)]
    pub data: Option<String>,
}

impl Entry {
    fn new(source: &Source, partition: Partition, record: RecordRef<'_>) -> Self {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let header = |name: &str| record.headers.get(name).map(lossy);
        let event = EventRef::decode(record);
        Entry {
            recorded: record.recorded,
            time: header(header::TIME),
            collection: source.collection.to_string(),
            partition,
            offset: record.offset,
            version: source.epochs.version(partition, record.offset),
            key: record.key.map(lossy).unwrap_or_default(),
            op: event.as_ref().ok().map(|event| event.op),
            kind: header(header::TYPE).unwrap_or_default(),
            source: header(header::SOURCE).unwrap_or_default(),
            id: header(header::ID).unwrap_or_default(),
            actor: header(header::ACTOR),
            correlation: header(header::CORRELATION),
            causation: header(header::CAUSATION),
            problem: event.err(),
            headers: record.headers.map(|(name, value)| (name.to_owned(), value.map(lossy))).collect(),
            data: record.value.map(lossy),
        }
    }

    /// Whether it is an entity's state: a put or a delete.
    pub fn is_state(&self) -> bool {
        matches!(self.op, Some(Op::Put | Op::Delete))
    }

    /// Whether it ends its entity.
    pub fn is_delete(&self) -> bool {
        self.op == Some(Op::Delete)
    }

    /// The payload as JSON; a text where it is none.
    pub fn payload(&self) -> Option<Box<RawValue>> {
        self.data.as_deref().map(raw)
    }

    fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len));
        size_of::<Self>() + 2 * headers.sum::<usize>() + self.key.len() + self.data.as_ref().map_or(0, String::len)
    }
}

/// Which part of the log is looked at: `[from, to)` by recorded time, and only a key's partitions where one is given.
#[derive(Clone, Debug)]
pub struct Span {
    /// Events taken at or after this.
    pub from: Moment,
    /// Events taken before this.
    pub to: Moment,
    /// Only the partitions where this key may be.
    pub key: Option<String>,
}

impl Span {
    /// Everything that the log has.
    pub fn whole() -> Self {
        Span { from: Moment::Earliest, to: Moment::Latest, key: None }
    }

    /// The partitions of these collections, cut to the span.
    ///
    /// # Errors
    /// It ends before it begins; or the log's.
    pub async fn parts(&self, log: &dyn EventLog, sources: &[Source]) -> Result<Vec<Part>, ScanError> {
        if self.from > self.to {
            return Err(ScanError::Usage(format!("--from {} is after --to {}", self.from, self.to)));
        }
        let mut parts = Vec::new();
        for source in sources {
            let topic = source.collection.topic();
            let extents = log.extents(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
            let starts = match self.from {
                Moment::Earliest => extents.iter().map(|extent| extent.start).collect(),
                Moment::Latest => extents.iter().map(|extent| extent.end).collect(),
                Moment::Time(at) => log.offsets_at(&topic, at).await?,
            };
            let ends = match self.to {
                Moment::Earliest => extents.iter().map(|extent| extent.start).collect(),
                Moment::Latest => extents.iter().map(|extent| extent.end).collect(),
                Moment::Time(at) => log.offsets_at(&topic, at).await?,
            };
            let holds = self.key.as_deref().map(|key| source.epochs.partitions_of(key));
            for (partition, ((extent, from), to)) in (0..).zip(extents.iter().zip(starts).zip(ends)) {
                if holds.as_ref().is_none_or(|holds| holds.contains(&partition)) {
                    let from = from.clamp(extent.start, extent.end);
                    parts.push(Part { source: source.clone(), partition, from, to: to.clamp(from, extent.end) });
                }
            }
        }
        Ok(parts)
    }
}

type Wanted = Box<dyn Fn(RecordRef<'_>) -> bool + Send>;

/// A reading of parts of the log, ordered by recorded time. Each partition is read only as far as its turn demands, one
/// at a time.
pub struct Scan {
    log: Arc<dyn EventLog>,
    heads: Vec<Head>,
    wanted: Wanted,
}

struct Head {
    part: Part,
    found: VecDeque<Entry>,
}

impl Scan {
    /// Over some parts; `wanted` says which records are of interest.
    pub fn new(
        log: Arc<dyn EventLog>,
        parts: Vec<Part>,
        wanted: impl Fn(RecordRef<'_>) -> bool + Send + 'static,
    ) -> Self {
        let heads = parts.into_iter().map(|part| Head { part, found: VecDeque::new() }).collect();
        Scan { log, heads, wanted: Box::new(wanted) }
    }

    /// The next entry; `None` at the end. Safe to cancel.
    ///
    /// # Errors
    /// The log's.
    pub async fn next(&mut self) -> Result<Option<Entry>, LogError> {
        let room = (HELD_BYTES / self.heads.len().max(1)).max(LEAST_BYTES);
        for head in self.heads.iter_mut().filter(|head| head.found.is_empty()) {
            head.fill(&*self.log, &self.wanted, room).await?;
        }
        let recorded = |head: &&mut Head| head.found.front().map(|entry| entry.recorded);
        let with_some = self.heads.iter_mut().filter(|head| !head.found.is_empty());
        Ok(with_some.min_by_key(recorded).and_then(|head| head.found.pop_front()))
    }

    /// Takes in what the log got since; says whether there is any. For following the log.
    ///
    /// # Errors
    /// The log's; or a topic has other partitions than before.
    pub async fn grow(&mut self) -> Result<bool, ScanError> {
        let mut grown = false;
        let mut asked: Option<(Collection, Vec<Offset>)> = None;
        for Head { part, .. } in &mut self.heads {
            let collection = &part.source.collection;
            let ends = match asked.take() {
                Some((known, ends)) if known == *collection => ends,
                _ => ends(&*self.log, &part.source).await?,
            };
            if let Some(end) = ends.get(part.partition as usize) {
                grown |= *end > part.to;
                part.to = part.to.max(*end);
            }
            asked = Some((collection.clone(), ends));
        }
        Ok(grown)
    }
}

async fn ends(log: &dyn EventLog, source: &Source) -> Result<Vec<Offset>, ScanError> {
    let topic = source.collection.topic();
    let extents = log.extents(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
    let (found, known) = (extents.len(), source.epochs.partitions());
    if found != known {
        return Err(ScanError::Usage(format!(
            "{topic} had {known} partitions and has {found} now; `primalcore topics --renew {topic}` begins a new epoch"
        )));
    }
    Ok(extents.into_iter().map(|extent| extent.end).collect())
}

impl Head {
    /// Reads on until something is found, and no further than the room for it.
    async fn fill(&mut self, log: &dyn EventLog, wanted: &Wanted, room: usize) -> Result<(), LogError> {
        let Part { source, partition, from, to } = &mut self.part;
        if *from >= *to {
            return Ok(());
        }
        let mut reader = log.read(&source.collection.topic(), *partition, *from..*to).await?;
        let mut records = Records::new();
        let mut held = 0;
        while held < room {
            records.clear();
            if !reader.fetch(&mut records, FETCH).await? {
                *from = *to;
                break;
            }
            for record in records.iter().filter(|record| wanted(*record)) {
                let entry = Entry::new(source, *partition, record);
                held += entry.bytes();
                self.found.push_back(entry);
            }
            *from = records.next_offset().unwrap_or(*to);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    async fn ids(scan: &mut Scan) -> Vec<String> {
        let mut ids = Vec::new();
        while let Some(entry) = scan.next().await.unwrap() {
            ids.push(entry.id);
        }
        ids
    }

    #[tokio::test]
    async fn events_of_all_partitions_come_in_order_of_recorded_time() {
        let world = World::new().await;
        let (a, b) = (world.source("a", 3).await, world.source("b", 2).await);
        let mut expected = Vec::new();
        for at in 1..=60 {
            let key = format!("k{}", at * 7 % 10);
            world.put(if at % 3 == 0 { &b } else { &a }, at, &key, Some("{}")).await;
            expected.push(format!("{key}@{at}"));
        }
        let sources = [a, b];
        let parts = Span::whole().parts(&*world.log, &sources).await.unwrap();
        assert_eq!(parts.len(), 5);
        let mut scan = Scan::new(world.log.clone(), parts, |_| true);
        assert_eq!(ids(&mut scan).await, expected);

        // What comes later is there after the scan was told to look again.
        world.put(&sources[0], 61, "late", Some("{}")).await;
        assert!(scan.next().await.unwrap().is_none());
        assert!(scan.grow().await.unwrap());
        assert_eq!(ids(&mut scan).await, ["late@61"]);
        assert!(!scan.grow().await.unwrap());

        // From is included, to is not.
        let at = |micros| Moment::Time(Timestamp(micros));
        let span = Span { from: at(10), to: at(13), key: None };
        let parts = span.parts(&*world.log, &sources).await.unwrap();
        assert_eq!(ids(&mut Scan::new(world.log.clone(), parts, |_| true)).await, expected[9..12]);
        let span = Span { from: at(13), to: at(10), key: None };
        assert!(span.parts(&*world.log, &sources).await.unwrap_err().to_string().contains("is after"));
    }

    #[tokio::test]
    async fn a_partition_that_holds_more_than_its_room_is_read_in_several_goes() {
        let world = World::new().await;
        let source = world.source("a", 2).await;
        for at in 1..=100 {
            world.put(&source, at, &format!("k{at}"), Some(&format!("{{\"x\":\"{}\"}}", "x".repeat(100_000)))).await;
        }
        let parts = Span::whole().parts(&*world.log, &[source]).await.unwrap();
        let mut scan = Scan::new(world.log.clone(), parts, |_| true);
        let mut read = 0;
        while let Some(entry) = scan.next().await.unwrap() {
            read += 1;
            assert_eq!(entry.recorded, Timestamp(read));
            let held: usize = scan.heads.iter().flat_map(|head| &head.found).map(Entry::bytes).sum();
            assert!(held <= HELD_BYTES + 3 * FETCH.bytes, "{held}");
        }
        assert_eq!(read, 100);
    }

    #[tokio::test]
    async fn only_the_partitions_of_a_key_are_read() {
        let world = World::new().await;
        let source = world.source("a", 8).await;
        let span = Span { key: Some("k".to_owned()), ..Span::whole() };
        let parts = span.parts(&*world.log, std::slice::from_ref(&source)).await.unwrap();
        let read: Vec<_> = parts.iter().map(|part| part.partition).collect();
        assert_eq!(read, source.epochs.partitions_of("k").into_iter().collect::<Vec<_>>());
        assert_eq!(read.len(), 1);
    }
}
