//! Verification by the sums of blocks: the store adds up its records, the log is read once and adds up what they should
//! be, and only the records of blocks that differ are read and compared one by one.
//!
//! Sums and positions are of one moment, and in a store that can compute sums data and position commit together, so the sums
//! are those of the events that the positions cover. Where that is not so (a dead letter that was redriven, a repair, a
//! payload that is spelled otherwise than thought) a block differs although nothing is wrong, and its records are judged
//! by the rules of [`crate::verify`]: whatever is there must be what the log says, whatever the positions cover must be there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use hashbrown::{HashMap, HashSet};
use primal_core::blocks::{Block, Blocks, Digester, Left, Sum};
use primal_core::error::LogError;
use primal_core::event::{EventRef, Op};
use primal_core::log::{EventLog, Extent, Limits};
use primal_core::sink::Positions;
use primal_core::{Digest, Epochs, Offset, Partition, Projection, Reader, Records, Sink, Target, Topic, Version};
use primal_runtime::dead_letter;

use crate::verify::{Entry, Report, VerifyError, judge};

/// So many blocks that differ are looked into; where there are more, everything is read.
const MOST: usize = 64;
/// Records that are asked for at once, one by one.
const ASKED: usize = 8;
const CHUNK: Limits = Limits { records: 10_000, bytes: 4 << 20 };

/// What a comparison is of.
pub(crate) struct Comparison<'a> {
    pub sink: &'a dyn Sink,
    pub reader: &'a dyn Reader,
    pub blocks: &'a dyn Blocks,
    pub log: &'a dyn EventLog,
    pub target: &'a Target,
    pub epochs: &'a Epochs,
}

/// The last event of an identity that the positions cover.
struct Settled {
    version: Version,
    digest: u128,
    leaves: bool,
}

/// What the log says, by the hash of the identity.
type Expected = HashMap<u128, Settled>;

/// One run of records, hashed.
#[derive(Default)]
struct Chunk {
    events: u64,
    dead_letters: u64,
    settled: Vec<(u128, Settled)>,
}

/// What hashing needs, away from the task that reads.
struct Hashing {
    target: Target,
    epochs: Epochs,
    digester: Digester,
    letters: HashSet<(Partition, Version)>,
}

fn hash(identity: &str) -> u128 {
    Digest::of_bytes(b'k', identity.as_bytes()).0
}

fn identity<'a>(target: &Target, event: &EventRef<'a>) -> Option<&'a str> {
    match target.projection {
        Projection::Events => Some(event.id),
        Projection::Series => None,
        _ => Some(event.key),
    }
}

fn text<'a>(event: &EventRef<'a>) -> Option<&'a str> {
    event.data.and_then(|data| std::str::from_utf8(data).ok())
}

impl Hashing {
    /// Of the events of an identity in a run only the one that counts is hashed.
    fn chunk(&self, partition: Partition, records: &Records) -> Chunk {
        let mut chunk = Chunk { events: records.len() as u64, ..Chunk::default() };
        let first = self.target.projection == Projection::Events;
        let mut last: HashMap<&str, (Version, EventRef<'_>)> = HashMap::with_capacity(records.len());
        for record in records.iter() {
            let version = self.epochs.version(partition, record.offset);
            if !self.letters.is_empty() && self.letters.contains(&(partition, version)) {
                chunk.dead_letters += 1;
                continue;
            }
            let Ok(event) = EventRef::decode(record) else { continue };
            let Some(identity) = identity(&self.target, &event) else { continue };
            if first {
                last.entry(identity).or_insert((version, event));
            } else {
                last.insert(identity, (version, event));
            }
        }
        chunk.settled.extend(last.into_iter().map(|(identity, (version, event))| {
            let leaves = first || event.op != Op::Delete;
            let left = Left { identity, version, event_id: event.id, data: text(&event) };
            let digest = (self.digester)(&left).unwrap_or_default();
            (hash(identity), Settled { version, digest, leaves })
        }));
        chunk
    }
}

impl Comparison<'_> {
    /// The report; `None` where so many blocks differ that everything has to be read.
    pub(crate) async fn run(&self, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Option<Report>, VerifyError> {
        let mut report = Report {
            sink: self.target.sink.to_string(),
            collection: self.target.collection.to_string(),
            place: self.target.place(),
            ..Report::default()
        };
        let mut expected = Expected::new();
        // The log up to the positions of now is read while the store adds up; what was applied meanwhile follows.
        let before = self.sink.positions(self.target).await?;
        let nothing = Positions::new();
        let (sums, ()) = futures::try_join!(
            async { self.blocks.sums(self.target).await.map_err(VerifyError::from) },
            self.take_in(&nothing, &before, &mut expected, &mut report, progress),
        )?;
        let mut after = Report::default();
        self.take_in(&before, &sums.positions, &mut expected, &mut after, progress).await?;
        report.events += after.events;
        report.dead_letters += after.dead_letters;
        report.verified_to = self.reached(&sums.positions);
        let differing = differing(&expected, &sums.blocks);
        report.blocks = sums.blocks.len() as u64;
        report.blocks_read = differing.len() as u64;
        if differing.len() > MOST {
            return Ok(None);
        }
        let same = sums.blocks.iter().filter(|(block, _)| !differing.contains(block));
        let same: u64 = same.map(|(_, sum)| u64::try_from(sum.count).unwrap_or(0)).sum();
        if !differing.is_empty() {
            self.look_into(&differing, &expected, &mut report).await?;
        }
        report.records += same;
        report.verified += same;
        Ok(Some(report))
    }

    fn reached(&self, positions: &Positions) -> BTreeMap<Partition, Offset> {
        positions.iter().map(|(partition, position)| (*partition, self.epochs.resume(Some(*position)))).collect()
    }

    fn topic(&self) -> Topic {
        self.target.collection.topic()
    }

    async fn extents(&self) -> Result<Vec<Extent>, LogError> {
        self.log.extents(&self.topic()).await?.ok_or_else(|| LogError::NoTopic(self.topic()))
    }

    /// What the log has between two positions of each partition.
    async fn take_in(
        &self,
        from: &Positions,
        to: &Positions,
        expected: &mut Expected,
        report: &mut Report,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), VerifyError> {
        let mut ranges = Vec::new();
        for (partition, extent) in (0..).zip(self.extents().await?) {
            let at = |positions: &Positions| self.epochs.resume(positions.get(&partition).copied());
            let range = at(from).max(extent.start)..at(to).min(extent.end);
            if !range.is_empty() {
                ranges.push((partition, range));
            }
        }
        if ranges.is_empty() {
            return Ok(());
        }
        // After the positions: a dead letter is in the log before the position moves over its event.
        let letters = dead_letter::read_all(self.log, &self.target.sink).await?.into_values();
        let ours = letters.filter(|letter| letter.origin.topic == self.target.collection.as_str());
        let hashing = Arc::new(Hashing {
            target: self.target.clone(),
            epochs: self.epochs.clone(),
            digester: self.blocks.digester(self.target),
            letters: ours.map(|letter| (letter.origin.partition, letter.version)).collect(),
        });
        let first = self.target.projection == Projection::Events;
        let at_once = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let chunks: Vec<_> = ranges
            .into_iter()
            .map(|(partition, range)| self.chunks(partition, range, hashing.clone()).boxed())
            .collect();
        let mut chunks = pin!(stream::iter(chunks).flatten_unordered(at_once));
        while let Some(chunk) = chunks.try_next().await? {
            report.events += chunk.events;
            report.dead_letters += chunk.dead_letters;
            for (identity, settled) in chunk.settled {
                match expected.entry(identity) {
                    hashbrown::hash_map::Entry::Vacant(place) => drop(place.insert(settled)),
                    // A repeated id is the same event, and the first counts; of a key's states the newest does.
                    hashbrown::hash_map::Entry::Occupied(mut place) => {
                        if (settled.version < place.get().version) == first {
                            place.insert(settled);
                        }
                    }
                }
            }
            progress(chunk.events);
        }
        Ok(())
    }

    /// A range of a partition as hashed runs; hashing is done beside the reading of the next.
    fn chunks(
        &self,
        partition: Partition,
        range: Range<Offset>,
        hashing: Arc<Hashing>,
    ) -> impl Stream<Item = Result<Chunk, LogError>> + Send {
        let reading = stream::once(async move { self.log.read(&self.topic(), partition, range).await });
        let runs = reading.map_ok(|reader| {
            stream::try_unfold(reader, |mut reader| async move {
                let mut records = Records::new();
                Ok::<_, LogError>(reader.fetch(&mut records, CHUNK).await?.then_some((records, reader)))
            })
        });
        let hashed = runs.try_flatten().map_ok(move |records| {
            let hashing = hashing.clone();
            let hashed = tokio::task::spawn_blocking(move || hashing.chunk(partition, &records));
            async move { hashed.await.map_err(|error| LogError::Internal(error.to_string())) }
        });
        hashed.try_buffered(2)
    }

    /// Reads the records of some blocks, and the events that they are or should be, and judges them one by one.
    async fn look_into(
        &self,
        differing: &BTreeSet<Block>,
        expected: &Expected,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        let mut entries: HashMap<String, Entry> = HashMap::new();
        let extents = self.extents().await?;
        self.events_of(differing, &extents, |event, version| {
            let Some(identity) = identity(self.target, event) else { return };
            let settled = expected.get(&hash(identity)).filter(|settled| settled.version == version);
            if let Some(settled) = settled {
                entries.insert(identity.to_owned(), Entry::settled(version, settled.leaves));
            }
        })
        .await?;
        let mut cursor: Option<String> = None;
        loop {
            let page = self.blocks.records(self.target, differing, cursor.as_deref()).await?;
            report.read += page.records.len() as u64;
            for stored in page.records {
                let entry = entries.entry_ref(stored.identity.as_str()).or_insert_with(|| {
                    let settled = expected.get(&hash(&stored.identity));
                    settled.map_or_else(Entry::unknown, |settled| Entry::settled(settled.version, settled.leaves))
                });
                entry.found(stored);
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        // What is not in its block is missing, or has moved on since the sums were made.
        let elsewhere: Vec<String> =
            entries.iter().filter(|(_, entry)| !entry.is_stored()).map(|(identity, _)| identity.clone()).collect();
        let asked: Vec<_> = elsewhere.iter().map(|identity| self.reader.get(self.target, identity)).collect();
        let mut answers = pin!(stream::iter(asked).buffer_unordered(ASKED));
        while let Some(found) = answers.try_next().await? {
            report.read += u64::from(found.is_some());
            if let Some(stored) = found
                && let Some(entry) = entries.get_mut(stored.identity.as_str())
            {
                entry.found(stored);
            }
        }
        // The log's ends after the store was read: whatever is there has its event before them.
        let extents = self.extents().await?;
        let versions = entries.values().filter_map(Entry::version);
        let of_stored: BTreeSet<Block> = versions.map(Block::of).collect();
        self.events_of(&of_stored, &extents, |event, version| {
            let Some(identity) = identity(self.target, event) else { return };
            if let Some(entry) = entries.get_mut(identity) {
                entry.meet(self.target, event, version);
            }
        })
        .await?;
        let oldest = (0..).zip(&extents).map(|(partition, extent)| (partition, extent.start)).collect();
        judge(entries, self.target.projection, self.epochs, &oldest, report);
        Ok(())
    }

    /// Reads the events of some blocks, in all partitions.
    async fn events_of(
        &self,
        blocks: &BTreeSet<Block>,
        extents: &[Extent],
        mut each: impl FnMut(&EventRef<'_>, Version),
    ) -> Result<(), LogError> {
        let topic = self.topic();
        for (partition, extent) in (0..).zip(extents) {
            for range in self.ranges(blocks, partition, *extent) {
                let mut reader = self.log.read(&topic, partition, range).await?;
                let mut records = Records::new();
                while reader.fetch(&mut records, CHUNK).await? {
                    for event in records.iter().filter_map(|record| EventRef::decode(record).ok()) {
                        each(&event, self.epochs.version(partition, event.record.offset));
                    }
                    records.clear();
                }
            }
        }
        Ok(())
    }

    /// Where the events of some blocks lie in a partition; neighbours in one.
    fn ranges(&self, blocks: &BTreeSet<Block>, partition: Partition, extent: Extent) -> Vec<Range<Offset>> {
        let mut ranges: Vec<Range<Offset>> = Vec::new();
        for (epoch, span) in self.epochs.spans(partition) {
            for offsets in blocks.iter().filter(|block| block.epoch() == epoch).map(|block| block.offsets()) {
                let start = offsets.start.max(span.start).max(extent.start);
                let end = offsets.end.min(span.end).min(extent.end);
                match ranges.last_mut().filter(|last| last.end == start) {
                    _ if start >= end => {}
                    Some(last) => last.end = end,
                    None => ranges.push(start..end),
                }
            }
        }
        ranges
    }
}

/// The blocks in which log and store do not add up to the same.
fn differing(expected: &Expected, stored: &BTreeMap<Block, Sum>) -> BTreeSet<Block> {
    let mut sums: HashMap<Block, Sum> = HashMap::new();
    expected.values().for_each(|settled| sums.entry(Block::of(settled.version)).or_default().add(settled.digest));
    let missing = sums.keys().filter(|block| !stored.contains_key(*block)).copied();
    let others = stored.iter().filter(|(block, sum)| sums.get(*block) != Some(*sum)).map(|(block, _)| *block);
    missing.chain(others).collect()
}
