//! Comparing the log with its seals: reads every record again, rebuilds the trees, and holds them against every checkpoint.
//! Where they differ, the leaf hashes in the block say which records it is; the sealed ones are gone on with, so that one
//! altered record does not hide the next.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use primal_core::error::LogError;
use primal_core::keyed::Keyed;
use primal_core::log::{EventLog, Extent, PartitionReader};
use primal_core::{Collection, Epochs, Offset, Partition, Records, Topic};
use serde::Serialize;

use crate::block::Block;
use crate::checkpoint::{Checkpoint, base64};
use crate::leaf::Leaf;
use crate::note::Verifier;
use crate::sealer::SealError;
use crate::tree::{self, Compact, Hash};
use crate::trees::{Blocks, FETCH, State, Tree};

/// How many findings a report lists; all are counted.
const LISTED: usize = 100;

/// Something that is not as it was sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The record, where it is one.
    pub offset: Option<Offset>,
    /// The offsets of the block, `[from, to)`.
    pub block: Option<[Offset; 2]>,
    /// What is wrong.
    pub what: String,
}

/// What was found of one tree.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The tree's name in checkpoints.
    pub origin: String,
    /// The partition.
    pub partition: Partition,
    /// Which life of the topic.
    pub life: u64,
    /// Sealed records.
    pub sealed: u64,
    /// Checkpoints that the log was compared with.
    pub checkpoints: u64,
    /// The offset of the first sealed record.
    pub first: Option<Offset>,
    /// Records, or offsets where records would be, behind the last checkpoint.
    pub unsealed: u64,
    /// Sealed records that have left the log (retention).
    pub gone: u64,
    /// Kept checkpoints that are still true.
    pub kept: u64,
    /// How many differences there are.
    pub differences: u64,
    /// The first hundred.
    pub findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, offset: Option<Offset>, block: Option<Range<Offset>>, what: impl Into<String>) {
        self.differences += 1;
        if self.findings.len() < LISTED {
            let block = block.map(|block| [block.start, block.end]);
            self.findings.push(Finding { offset, block, what: what.into() });
        }
    }
}

/// Compares a collection with its seals. `kept` are checkpoints that somebody has kept elsewhere: they show what the seals
/// in the log cannot, that these were not all taken away or cut off and made anew. `progress` is told how many records
/// were read.
///
/// # Errors
/// The log's; or a kept checkpoint is of no tree of this collection.
pub async fn consistency(
    log: &dyn EventLog,
    prefix: &str,
    collection: &Collection,
    epochs: &Epochs,
    keys: &[Verifier],
    kept: &[Checkpoint],
    mut progress: impl FnMut(u64),
) -> Result<Vec<Report>, SealError> {
    let mut walk = Walk::start(log, prefix, collection, epochs, kept).await?;
    walk.through(keys, &mut progress).await?;
    let late: Vec<_> = walk.walkers.values_mut().flat_map(|walker| std::mem::take(&mut walker.late)).collect();
    let mut reports = walk.finish(keys);
    if !late.is_empty() {
        // Two sealed at a time, and the blocks of one came after longer ones of the other: now their sizes are known.
        let mut again = Walk::start(log, prefix, collection, epochs, &late).await?;
        again.through(keys, &mut |_| {}).await?;
        for (report, walker) in reports.iter_mut().zip(again.walkers.into_values()) {
            report.checkpoints += walker.report.kept;
            for finding in walker.wrong_kept {
                report.add(None, None, finding);
            }
        }
    }
    reports.sort_by_key(|report| (report.partition, report.life));
    Ok(reports)
}

struct Walk<'a> {
    log: &'a dyn EventLog,
    states: BTreeMap<String, Vec<u8>>,
    blocks: Blocks<'a>,
    walkers: BTreeMap<String, Walker>,
}

/// One tree while its blocks come.
struct Walker {
    tree: Tree,
    extent: Extent,
    reader: Option<Box<dyn PartitionReader>>,
    records: Records,
    /// The record in the buffer that comes next.
    at: usize,
    /// The offset that comes next.
    next: Offset,
    /// The tree up to the last checkpoint, which is this one.
    compact: Compact,
    last: Option<Checkpoint>,
    /// Nothing more can be said of this tree.
    is_broken: bool,
    kept: BTreeMap<u64, BTreeSet<Hash>>,
    wrong_kept: Vec<String>,
    late: Vec<Checkpoint>,
    report: Report,
}

impl<'a> Walk<'a> {
    async fn start(
        log: &'a dyn EventLog,
        prefix: &str,
        collection: &Collection,
        epochs: &Epochs,
        kept: &[Checkpoint],
    ) -> Result<Self, SealError> {
        // A hub seals meanwhile: first its records, then their blocks, then the state. What is read the other way round fits.
        let states = Keyed::rows(log, Topic::seals()).await?;
        let blocks = Blocks::now(log).await?;
        let topic = collection.topic();
        let extents = log.extents(&topic).await?.ok_or(LogError::NoTopic(topic))?;
        let mut walkers = BTreeMap::new();
        let mut placed = 0;
        for tree in Tree::all(collection, epochs, extents.len()) {
            let Some(extent) = usize::try_from(tree.partition).ok().and_then(|index| extents.get(index)) else {
                continue;
            };
            let origin = tree.origin(prefix);
            let mut due: BTreeMap<u64, BTreeSet<Hash>> = BTreeMap::new();
            for checkpoint in kept.iter().filter(|checkpoint| checkpoint.origin == origin) {
                due.entry(checkpoint.size).or_default().insert(checkpoint.root);
                placed += 1;
            }
            walkers.insert(tree.row(), Walker::new(tree, origin, *extent, due));
        }
        if placed < kept.len() {
            let known: Vec<_> = walkers.values().map(|walker| walker.report.origin.as_str()).collect();
            let strange = kept.iter().find(|checkpoint| !known.contains(&checkpoint.origin.as_str()));
            let strange = strange.map(|checkpoint| checkpoint.origin.clone()).unwrap_or_default();
            let known = known.join(", ");
            return Err(SealError::Usage(format!("a kept checkpoint is of {strange:?}; {collection} has {known}")));
        }
        Ok(Walk { log, states, blocks, walkers })
    }

    async fn through(&mut self, keys: &[Verifier], progress: &mut impl FnMut(u64)) -> Result<(), LogError> {
        let (log, walkers) = (self.log, &mut self.walkers);
        let each = async |row: &str, bytes: &[u8]| {
            if let Some(walker) = walkers.get_mut(row).filter(|walker| !walker.is_broken) {
                let before = walker.compact.size();
                walker.take(log, bytes, keys).await?;
                progress(walker.compact.size() - before);
            }
            Ok(true)
        };
        self.blocks.each(each).await
    }

    fn finish(self, keys: &[Verifier]) -> Vec<Report> {
        let finish = |(row, walker): (String, Walker)| {
            let state = self.states.get(&row).map(|state| serde_json::from_slice::<State>(state));
            walker.finish(state, keys)
        };
        self.walkers.into_iter().map(finish).collect()
    }
}

impl Walker {
    fn new(tree: Tree, origin: String, extent: Extent, kept: BTreeMap<u64, BTreeSet<Hash>>) -> Self {
        let report = Report {
            origin,
            partition: tree.partition,
            life: tree.life,
            sealed: 0,
            checkpoints: 0,
            first: None,
            unsealed: 0,
            gone: 0,
            kept: 0,
            differences: 0,
            findings: Vec::new(),
        };
        let next = tree.span.start.max(extent.start);
        Walker {
            tree,
            extent,
            reader: None,
            records: Records::new(),
            at: 0,
            next,
            compact: Compact::default(),
            last: None,
            is_broken: false,
            kept,
            wrong_kept: Vec::new(),
            late: Vec::new(),
            report,
        }
    }

    /// Ends the comparison of this tree: what comes cannot be placed.
    fn broken(&mut self, block: Option<Range<Offset>>, what: String) {
        self.report.add(None, block, what);
        self.is_broken = true;
    }

    /// Compares the records of the next block.
    async fn take(&mut self, log: &dyn EventLog, bytes: &[u8], keys: &[Verifier]) -> Result<(), LogError> {
        let block = match Block::decode(bytes) {
            Ok(block) => block,
            Err(reason) => {
                self.broken(None, format!("the block behind leaf {} is damaged: {reason}", self.compact.size()));
                return Ok(());
            }
        };
        let offsets = block.offsets();
        let signed = match Checkpoint::open(&block.head.checkpoint, keys) {
            Ok((signed, _)) if signed.origin == self.report.origin && signed.size == block.size() => signed,
            Ok((signed, _)) => {
                let (origin, size, expected) = (signed.origin, signed.size, block.size());
                self.broken(
                    Some(offsets),
                    format!("the checkpoint is of {origin} and size {size}, not of size {expected}"),
                );
                return Ok(());
            }
            Err(error) => {
                self.broken(Some(offsets), format!("the checkpoint is {error}"));
                return Ok(());
            }
        };
        let size = self.compact.size();
        let Some(had) = size.checked_sub(block.head.index).and_then(|had| usize::try_from(had).ok()) else {
            let index = block.head.index;
            self.broken(
                Some(offsets),
                format!("the blocks of leaves {size} to {} are missing", index.saturating_sub(1)),
            );
            return Ok(());
        };
        if signed.size <= size {
            if self.last.as_ref() != Some(&signed) {
                self.late.push(signed);
            }
            return Ok(());
        }
        if self.last.is_none() {
            self.report.first = Some(offsets.start);
            self.next = offsets.start;
        }
        let sealed: Vec<_> = block.records().skip(had).collect();
        let (found, unreadable) = self.read(log, block.head.next).await?;
        self.compare(offsets, sealed, &found, unreadable, signed);
        Ok(())
    }

    fn compare(
        &mut self,
        offsets: Range<Offset>,
        sealed: Vec<(Offset, Hash)>,
        found: &[(Offset, Hash)],
        unreadable: Option<(Offset, String)>,
        signed: Checkpoint,
    ) {
        let hashes = |records: &[(Offset, Hash)]| records.iter().map(|(_, hash)| *hash).collect::<Vec<_>>();
        let mut leaves = hashes(&sealed);
        let mut grown = self.compact.with(&leaves);
        if grown.root() == signed.root {
            self.name(&offsets, &sealed, found, unreadable.as_ref());
        } else {
            leaves = hashes(found);
            grown = self.compact.with(&leaves);
            let size = signed.size;
            if grown.root() != signed.root {
                let what = format!(
                    "neither the records nor the hashes in the block lead to the root that was signed for size {size}; \
                     what comes after is not compared"
                );
                return self.broken(Some(offsets), what);
            }
            let what =
                format!("the records are as they were signed for size {size}, but the hashes in the block are not");
            self.report.add(None, Some(offsets.clone()), what);
        }
        if let Some(last) = &self.last {
            let proof = self.compact.proof_of_growth(&leaves).unwrap_or_default();
            if !tree::is_consistent((last.size, last.root), (signed.size, signed.root), &proof) {
                let what =
                    format!("the checkpoint of size {} is no continuation of that of size {}", signed.size, last.size);
                return self.broken(Some(offsets), what);
            }
        }
        self.compare_kept(&leaves);
        self.report.checkpoints += 1;
        self.compact = grown;
        self.last = Some(signed);
    }

    /// Names the records that differ from those that were sealed.
    fn name(
        &mut self,
        block: &Range<Offset>,
        sealed: &[(Offset, Hash)],
        found: &[(Offset, Hash)],
        unreadable: Option<&(Offset, String)>,
    ) {
        if sealed == found && unreadable.is_none() {
            return;
        }
        let report = &mut self.report;
        let (sealed, found): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (sealed.iter().copied().collect(), found.iter().copied().collect());
        for (offset, hash) in &sealed {
            match found.get(offset) {
                Some(same) if same == hash => {}
                Some(_) => report.add(Some(*offset), Some(block.clone()), "the record is not the one that was sealed"),
                None if *offset < self.extent.start => report.gone += 1,
                None if unreadable.is_some_and(|(from, _)| from <= offset) => {}
                None => report.add(Some(*offset), Some(block.clone()), "the record is missing"),
            }
        }
        for offset in found.keys().filter(|offset| !sealed.contains_key(*offset)) {
            report.add(Some(*offset), Some(block.clone()), "the record was put in after the sealing");
        }
        if let Some((from, reason)) = unreadable {
            report.add(None, Some(*from..block.end), format!("cannot be read: {reason}"));
        }
    }

    /// Holds kept checkpoints against the tree, which grows by these leaves.
    fn compare_kept(&mut self, leaves: &[Hash]) {
        let (from, to) = (self.compact.size(), self.compact.size() + leaves.len() as u64);
        let due: Vec<_> = self.kept.extract_if(..=to, |_, _| true).collect();
        let (mut tree, mut leaves) = (self.compact.clone(), leaves.iter());
        for (size, roots) in due {
            let more = usize::try_from(size.saturating_sub(from.max(tree.size()))).unwrap_or(usize::MAX);
            leaves.by_ref().take(more).for_each(|leaf| tree.push(*leaf));
            for root in roots {
                if tree.root() == root {
                    self.report.kept += 1;
                } else {
                    let (root, now) = (base64(&root), base64(&tree.root()));
                    self.wrong_kept.push(format!("a checkpoint of size {size} has the root {root}, the log has {now}"));
                }
            }
        }
    }

    /// The leaves of the records before an offset; and from where on, and why, the log could not be read.
    async fn read(
        &mut self,
        log: &dyn EventLog,
        to: Offset,
    ) -> Result<(Vec<(Offset, Hash)>, Option<(Offset, String)>), LogError> {
        let (mut leaves, mut room) = (Vec::new(), Vec::new());
        let to = to.min(self.extent.end).min(self.tree.span.end);
        loop {
            while let Some(record) = self.records.get(self.at).filter(|record| record.offset < to) {
                self.next = record.offset + 1;
                self.at += 1;
                leaves.push((record.offset, Leaf::of(record).hash(&mut room)));
            }
            if self.at < self.records.len() || self.next >= to {
                self.next = self.next.max(to);
                return Ok((leaves, None));
            }
            let opened = match &mut self.reader {
                Some(reader) => reader,
                None => {
                    let from = self.next.max(self.extent.start);
                    if from >= to {
                        self.next = to;
                        return Ok((leaves, None));
                    }
                    let topic = self.tree.collection.topic();
                    self.reader.insert(log.read(&topic, self.tree.partition, from..self.extent.end).await?)
                }
            };
            self.at = 0;
            self.records.clear();
            match opened.fetch(&mut self.records, FETCH).await {
                Ok(true) if self.records.is_empty() => {
                    self.next = self.next.max(self.records.next_offset().unwrap_or(to))
                }
                Ok(true) => {}
                Ok(false) => self.next = self.extent.end,
                // What came before the damage is there; behind it the next block tries again.
                Err(LogError::Damaged(reason)) => {
                    let read = self.records.iter().map(|record| (record.offset, Leaf::of(record).hash(&mut room)));
                    leaves.extend(read.filter(|(offset, _)| *offset < to));
                    let damaged = leaves.last().map_or(self.next, |(last, _)| last + 1);
                    self.records.clear();
                    self.reader = None;
                    self.next = to;
                    return Ok((leaves, Some((damaged, reason))));
                }
                Err(other) => return Err(other),
            }
        }
    }

    fn finish(mut self, state: Option<Result<State, serde_json::Error>>, keys: &[Verifier]) -> Report {
        let (size, origin) = (self.compact.size(), self.report.origin.clone());
        self.report.sealed = size;
        let end = self.extent.end.min(self.tree.span.end);
        let from = if self.last.is_some() { self.next } else { self.tree.span.start.max(self.extent.start) };
        self.report.unsealed = u64::try_from(end - from).unwrap_or(0);
        for wrong in self.wrong_kept {
            self.report.add(None, None, wrong);
        }
        if self.is_broken {
            return self.report;
        }
        match state.map(|state| state.map_err(|e| e.to_string()).and_then(|state| state.tree(&origin, keys))) {
            Some(Ok(tree)) if tree.size() > size => {
                let signed = tree.size();
                self.report.add(None, None, format!("{signed} records were sealed, the blocks have {size} of them"));
            }
            Some(Ok(tree)) if tree.size() == size && tree != self.compact => {
                self.report.add(None, None, "the newest checkpoint is not that of the last block");
            }
            Some(Ok(_)) | None => {}
            Some(Err(reason)) => {
                self.report.add(None, None, format!("the state of the seal is not to be trusted: {reason}"))
            }
        }
        for kept in self.kept.into_keys() {
            self.report.add(
                None,
                None,
                format!("a checkpoint of size {kept} was kept, {size} records are sealed here"),
            );
        }
        self.report
    }
}
