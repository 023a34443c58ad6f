//! Verification of one collection in one store: every record is compared with the log by identity, version, event id and
//! digest. It may run while the store is being written to. Where the store can add up its records by blocks, only those of
//! blocks that differ are read ([`crate::by_blocks`]); otherwise, or where only a part is looked at, all are, as follows.
//!
//! The store's positions are looked at before it is scanned, the log's ends after that. What the positions cover must be
//! there; what lies between them and the ends may be there or not yet (a store that moves its position after the data may
//! be ahead of it); but whatever is there must be exactly what the log has at that version.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use primal_core::error::LogError;
use primal_core::event::{EventRef, Op};
use primal_core::log::{EventLog, Limits};
use primal_core::sink::Stored;
use primal_core::{Digest, Epochs, Offset, Partition, Projection, Reader, Records, Sink, SinkError, Target, Version};
use primal_runtime::dead_letter::{self, Origin};
use serde::Serialize;

use crate::by_blocks::Comparison;
use crate::selection::Within;
use crate::tally::Tally;

/// How many differences of each sort a report lists; all are counted.
const LISTED: usize = 100;

/// Verification could not be done.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store failed.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store cannot be read back.
    #[error("{0} cannot be read back, so it cannot be verified")]
    Unreadable(String),
}

/// Which events a build was made of, where not of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The first offset per partition; 0 where none is given.
    pub from: BTreeMap<Partition, Offset>,
    /// Only these keys; all when empty.
    pub keys: BTreeSet<String>,
    /// Only the records of these events are looked at, of a build that holds others too.
    pub within: Option<Within>,
}

impl Scope {
    /// Whether the build is made of all events, and all of it is looked at.
    fn is_whole(&self) -> bool {
        self.keys.is_empty() && self.within.is_none() && self.from.values().all(|from| *from == 0)
    }
}

/// One record that is not as the log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The key; the event's id where every event is a record; moment and tags of a point.
    pub key: String,
    /// The version that the log says.
    pub expected: Option<u64>,
    /// The version that the store has.
    pub found: Option<u64>,
}

/// What verification of one collection found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The sink.
    pub sink: String,
    /// The collection.
    pub collection: String,
    /// Table, hash or index.
    pub place: String,
    /// Events of the log that were looked at.
    pub events: u64,
    /// Records of the store that were compared, tombstones included.
    pub records: u64,
    /// Records that are exactly as the log says.
    pub verified: u64,
    /// Events left out because they are dead letters.
    pub dead_letters: u64,
    /// Records whose event is no longer in the log (retention), so that nothing can be said of them.
    pub unverifiable: u64,
    /// Blocks of records that the store added up; 0 where it cannot, or only a part was looked at.
    pub blocks: u64,
    /// Those of them that differed.
    pub blocks_read: u64,
    /// Records that were read one by one.
    pub read: u64,
    /// Per partition the offset before which every event was looked at.
    pub verified_to: BTreeMap<Partition, Offset>,
    /// In the log, not in the store.
    pub missing: Found,
    /// In the store, not in the log.
    pub extra: Found,
    /// In the store with an older version than the log's last.
    pub stale: Found,
    /// In the store with other contents than the log's event of that version.
    pub differing: Found,
}

/// Differences of one sort.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    /// All of them.
    pub count: u64,
    /// The first hundred, by key.
    pub first: Vec<Difference>,
}

impl Found {
    fn add(&mut self, key: &str, expected: Option<Version>, found: Option<Version>) {
        self.count += 1;
        if self.first.len() < LISTED {
            let difference =
                Difference { key: key.to_owned(), expected: expected.map(|v| v.0), found: found.map(|v| v.0) };
            self.first.push(difference);
        }
    }
}

impl Report {
    /// Whether nothing differs.
    pub fn is_clean(&self) -> bool {
        self.differences() == 0
    }

    /// How many records differ.
    pub fn differences(&self) -> u64 {
        [&self.missing, &self.extra, &self.stale, &self.differing].iter().map(|found| found.count).sum()
    }
}

/// What the store has and what the log says of one identity.
#[derive(Default)]
pub(crate) struct Entry {
    stored: Option<(Version, Option<Digest>, String)>,
    /// The last event that must have been applied, and whether it leaves a record.
    settled: Option<(Version, bool)>,
    /// Whether the stored version's event says the same; `None` until that event is met.
    same: Option<bool>,
    /// Whether the log has any event of it, applied or not.
    known: bool,
    /// Whether it is one of those that are looked at.
    chosen: bool,
}

impl Entry {
    /// One that the log says nothing of so far.
    pub(crate) fn unknown() -> Self {
        Entry { chosen: true, ..Entry::default() }
    }

    /// One whose last event is known.
    pub(crate) fn settled(version: Version, leaves: bool) -> Self {
        Entry { settled: Some((version, leaves)), known: true, ..Entry::unknown() }
    }

    /// The store has a record of it.
    pub(crate) fn found(&mut self, stored: Stored) {
        let digest = stored.digest();
        self.stored = Some((stored.version, digest, stored.event_id));
    }

    pub(crate) fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// The version that the store has.
    pub(crate) fn version(&self) -> Option<Version> {
        self.stored.as_ref().map(|(version, _, _)| *version)
    }

    /// The log has an event of it: if it is that of the stored version, they have to say the same.
    pub(crate) fn meet(&mut self, target: &Target, event: &EventRef<'_>, version: Version) {
        self.known = true;
        if let Some((stored, digest, event_id)) = &self.stored
            && *stored == version
        {
            let data = event.data.and_then(|data| std::str::from_utf8(data).ok());
            let expected = data.and_then(|data| target.digest(data).ok());
            // A store that has no room for the id gives none.
            self.same = Some(expected == *digest && (event_id.is_empty() || event_id == event.id));
        }
    }
}

/// Compares a build with the log. `progress` is told how many events have been read. What is in `tally` is not read again,
/// where all of the build is looked at and its store adds up records.
///
/// # Errors
/// The store or the log failed.
pub async fn verify(
    sink: &dyn Sink,
    log: &dyn EventLog,
    target: &Target,
    epochs: &Epochs,
    scope: &Scope,
    tally: Option<&Tally>,
    mut progress: impl FnMut(u64) + Send,
) -> Result<Report, VerifyError> {
    let reader = sink.reader().ok_or_else(|| VerifyError::Unreadable(target.sink.to_string()))?;
    if let Some(blocks) = reader.blocks(target).filter(|_| scope.is_whole()) {
        let comparison = Comparison { sink, reader, blocks, log, target, epochs };
        if let Some(report) = comparison.run(tally, &mut progress).await? {
            return Ok(report);
        }
        tracing::info!(sink = &*target.sink, collection = %target.collection, "many blocks differ; reading all");
    }
    let before = sink.positions(target).await?;
    let mut entries = stored(reader, target, scope).await?;
    let read = entries.len() as u64;
    let letters: BTreeSet<Origin> = dead_letter::read_all(log, &target.sink).await?.into_keys().collect();
    let mut report = Report {
        sink: target.sink.to_string(),
        collection: target.collection.to_string(),
        place: target.place(),
        read,
        ..Report::default()
    };
    let topic = target.collection.topic();
    let extents = log.extents(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
    let mut oldest = BTreeMap::new();
    let of_keys = || scope.keys.iter().flat_map(|key| epochs.partitions_of(key)).collect::<BTreeSet<_>>();
    let asked = (scope.within.is_some() && !scope.keys.is_empty()).then(of_keys);
    for (partition, extent) in (0..).zip(extents) {
        let (start, end) = (scope.from.get(&partition).copied().unwrap_or(0).max(extent.start), extent.end);
        oldest.insert(partition, extent.start);
        let settled = epochs.resume(before.get(&partition).copied());
        report.verified_to.insert(partition, settled);
        let elsewhere = asked.as_ref().is_some_and(|asked| !asked.contains(&partition));
        if start >= end || elsewhere {
            continue;
        }
        let mut reader = log.read(&topic, partition, start..end).await?;
        let mut records = Records::new();
        while reader.fetch(&mut records, Limits { records: 10_000, bytes: 4 << 20 }).await? {
            for record in records.iter() {
                let version = epochs.version(partition, record.offset);
                let is_letter = letters.contains(&Origin::of(topic.as_str(), partition, version));
                report.events += 1;
                report.dead_letters += u64::from(is_letter);
                let Ok(event) = EventRef::decode(record) else { continue };
                if scope.keys.is_empty() || scope.keys.contains(event.key) {
                    let must = !is_letter && record.offset < settled;
                    let chosen = scope.within.as_ref().is_none_or(|within| within.takes(partition, &record));
                    compare(&mut entries, target, &event, version, Seen { must, chosen });
                }
            }
            progress(records.len() as u64);
            records.clear();
        }
    }
    judge(entries, target.projection, epochs, &oldest, &mut report);
    Ok(report)
}

/// What the store has. Of keys that are named each is asked for, of everything else all is read.
async fn stored(reader: &dyn Reader, target: &Target, scope: &Scope) -> Result<HashMap<String, Entry>, SinkError> {
    let mut entries: HashMap<String, Entry> = HashMap::new();
    let mut take = |stored: Stored, chosen: bool| {
        let entry = entries.entry_ref(stored.identity.as_str()).or_default();
        entry.found(stored);
        entry.chosen = chosen;
    };
    if let Some(within) = &scope.within
        && !scope.keys.is_empty()
        && !target.projection.keeps_every_event()
    {
        for key in &scope.keys {
            if let Some(found) = reader.get(target, key).await? {
                // Where nothing but keys says what is meant, one without any event is meant too.
                take(found, within.selection.has_only_keys());
            }
        }
        return Ok(entries);
    }
    let mut cursor: Option<String> = None;
    loop {
        let page = reader.scan(target, cursor.as_deref()).await?;
        page.records.into_iter().for_each(|found| take(found, scope.within.is_none()));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(entries);
        }
    }
}

/// How an event counts.
#[derive(Clone, Copy)]
struct Seen {
    /// The store has to have applied it.
    must: bool,
    /// It is one of those whose records are looked at.
    chosen: bool,
}

/// Takes in one event of the log.
fn compare(entries: &mut HashMap<String, Entry>, target: &Target, event: &EventRef<'_>, version: Version, seen: Seen) {
    let Seen { must, chosen } = seen;
    let first = target.projection == Projection::Events;
    let data = event.data.and_then(|data| std::str::from_utf8(data).ok());
    let Some(identity) = target.identity(event.key, event.id, data, event.time()) else { return };
    let entry = entries.entry_ref(&*identity).or_default();
    entry.chosen |= chosen;
    // A repeated id is the same event, and the first counts; of a key's states the newest does, and a key may have events
    // in two partitions, where the partition count was changed.
    if must && entry.settled.is_none_or(|(settled, _)| !first && settled < version) {
        entry.settled = Some((version, first || event.op != Op::Delete));
    }
    entry.meet(target, event, version);
}

pub(crate) fn judge(
    entries: HashMap<String, Entry>,
    projection: Projection,
    epochs: &Epochs,
    oldest: &BTreeMap<Partition, Offset>,
    report: &mut Report,
) {
    let first = projection == Projection::Events;
    let mut sorted: Vec<_> = entries.into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    // Below this, an event may have been in the log once.
    let gone = oldest.iter().filter(|(_, start)| **start > 0).map(|(p, start)| epochs.version(*p, *start)).max();
    for (key, entry) in sorted.into_iter().filter(|(_, entry)| entry.chosen) {
        report.records += u64::from(entry.stored.is_some());
        let settled = entry.settled.map(|(version, _)| version);
        match (&entry.stored, entry.settled) {
            (None, Some((version, true))) => report.missing.add(&key, Some(version), None),
            (None, _) => {}
            // Where every event is a record, the id that was repeated is no older than its repetition.
            (Some((stored, _, _)), Some((version, _))) if *stored < version && !first => {
                report.stale.add(&key, Some(version), Some(*stored));
            }
            (Some((stored, _, _)), _) => match entry.same {
                Some(true) => report.verified += 1,
                Some(false) => report.differing.add(&key, settled, Some(*stored)),
                None if gone.is_some_and(|gone| *stored < gone) || stored.epoch() < epochs.oldest() => {
                    report.unverifiable += 1;
                }
                None if entry.known => report.differing.add(&key, settled, Some(*stored)),
                None => report.extra.add(&key, None, Some(*stored)),
            },
        }
    }
}
