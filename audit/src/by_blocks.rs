//! Verification by the sums of blocks: the store adds up its records, the log is read once and adds up what they should
//! be ([`crate::tally`]), and only the records of blocks that differ are read and compared one by one.
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
use hashbrown::HashMap;
use primal_core::blocks::{Block, Blocks, Sum};
use primal_core::error::LogError;
use primal_core::event::EventRef;
use primal_core::log::{EventLog, Extent, Limits};
use primal_core::sink::Positions;
use primal_core::{Epochs, Offset, Partition, Reader, Records, Sink, Target, Topic, Version};
use primal_runtime::dead_letter::{self, Letters};

use crate::tally::{Chunk, Hashing, Settled, Tally, hash, identity};
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

/// What the log says, by the hash of the identity.
type Expected = HashMap<u128, Settled>;

impl Comparison<'_> {
    /// The report; `None` where so many blocks differ that everything has to be read. What is in `tally` was read from the
    /// log before.
    pub(crate) async fn run(
        &self,
        tally: Option<&Tally>,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Option<Report>, VerifyError> {
        // The log up to the positions of now is read while the store adds up; what was applied meanwhile follows.
        let before = self.sink.positions(self.target).await?;
        let own = Tally::of(self.hashing(Letters::new()));
        let tally = match tally {
            Some(tally) if tally.left_out(&dead_letter::of_target(self.log, self.target).await?) => tally,
            _ => &own,
        };
        progress(tally.read().events);
        let (sums, ()) = futures::try_join!(
            async { self.blocks.sums(self.target).await.map_err(VerifyError::from) },
            self.take_in(&before, tally, progress),
        )?;
        self.take_in(&sums.positions, tally, progress).await?;
        // Used up: whoever verifies once more reads the log.
        let read = std::mem::take(&mut *tally.read());
        let mut report = Report {
            sink: self.target.sink.to_string(),
            collection: self.target.collection.to_string(),
            place: self.target.place(),
            events: read.events,
            dead_letters: read.dead_letters,
            verified_to: self.reached(&sums.positions),
            ..Report::default()
        };
        let differing = differing(&read.expected, &sums.blocks);
        report.blocks = sums.blocks.len() as u64;
        report.blocks_read = differing.len() as u64;
        if differing.len() > MOST {
            return Ok(None);
        }
        let same = sums.blocks.iter().filter(|(block, _)| !differing.contains(block));
        let same: u64 = same.map(|(_, sum)| u64::try_from(sum.count).unwrap_or(0)).sum();
        if !differing.is_empty() {
            self.look_into(&differing, &read.expected, &mut report).await?;
        }
        report.records += same;
        report.verified += same;
        Ok(Some(report))
    }

    fn hashing(&self, letters: Letters) -> Arc<Hashing> {
        Arc::new(Hashing::new(self.blocks, self.target, self.epochs, letters))
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

    /// What the log has between what was read and the given positions.
    async fn take_in(
        &self,
        to: &Positions,
        tally: &Tally,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), VerifyError> {
        let from = tally.read().to.clone();
        let mut ranges = Vec::new();
        for (partition, extent) in (0..).zip(self.extents().await?) {
            let at = |positions: &Positions| self.epochs.resume(positions.get(&partition).copied());
            let range = at(&from).max(extent.start)..at(to).min(extent.end);
            if !range.is_empty() {
                ranges.push((partition, range));
            }
        }
        if ranges.is_empty() {
            return Ok(());
        }
        // After the positions: a dead letter is in the log before the position moves over its event.
        let hashing = self.hashing(dead_letter::of_target(self.log, self.target).await?);
        let at_once = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let chunks: Vec<_> = ranges
            .into_iter()
            .map(|(partition, range)| self.chunks(partition, range, hashing.clone()).boxed())
            .collect();
        let mut chunks = pin!(stream::iter(chunks).flatten_unordered(at_once));
        while let Some(chunk) = chunks.try_next().await? {
            let events = chunk.events;
            tally.merge(chunk);
            progress(events);
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
            let hashed = tokio::task::spawn_blocking(move || hashing.chunk(partition, &records, 0));
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
