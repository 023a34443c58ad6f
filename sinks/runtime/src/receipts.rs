//! Receipts: what was done with which offsets, and when, kept in the log (the compacted topic `primal.receipts`).
//!
//! A row is one block of 10,000 offsets of one build, and holds up to [`SPANS`] *spans*: deliveries, one or many that
//! followed each other, with what became of their events. A batch belongs to the block that it begins in. Whoever delivers
//! only adds to the open block in memory; a task of its own writes what changed, once a second. What cannot be written is
//! tried again; beyond [`WAITING`] rows the oldest are dropped and counted. A crash loses the last second of receipts. A
//! worker that goes on in the middle of a block takes up the row that the log has of it. A range that is delivered again
//! has another span, so that a row says what was done and not only what came of it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use primal_core::blocks::BLOCK;
use primal_core::error::LogError;
use primal_core::keyed::Keyed;
use primal_core::log::{EventLog, Limits};
use primal_core::sink::{Build, Outcome, Target};
use primal_core::{Env, Offset, Partition, RecordRef, Records, Timestamp, Topic};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Deliveries that a row tells apart.
const SPANS: usize = 16;
/// Rows that wait for the log, at most.
const WAITING: usize = 1_000;
/// How long changes are gathered before they are written.
const GATHERED: Duration = Duration::from_secs(1);
/// How long the last rows of one that ends may take.
const CLOSING: Duration = Duration::from_secs(2);

/// One delivery, or several that followed each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first offset.
    pub from: Offset,
    /// The offset behind the last.
    pub to: Offset,
    /// When the first was done.
    #[serde(deserialize_with = "moment")]
    pub first: Timestamp,
    /// When the last was.
    #[serde(deserialize_with = "moment")]
    pub last: Timestamp,
    /// How many batches.
    pub batches: u64,
    /// Records written.
    pub applied: u64,
    /// Events that the store had already, or something newer.
    pub stale: u64,
    /// Events superseded inside their batch.
    pub folded: u64,
    /// Events that the store was not given: dead letters, those that wait behind one, and in a build of some keys all
    /// others.
    pub left_out: u64,
    /// The sum, modulo 2^128, of XXH3 over the ids of the events given to the store, each seeded with its version; in
    /// hexadecimal digits.
    #[serde(with = "hexadecimal")]
    pub digest: u128,
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    Timestamp::parse_rfc3339(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no moment")))
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(digest: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{digest:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

impl Span {
    /// Takes in a delivery that followed.
    fn follow(&mut self, other: &Span) {
        self.from = self.from.min(other.from);
        self.to = self.to.max(other.to);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.batches += other.batches;
        self.applied += other.applied;
        self.stale += other.stale;
        self.folded += other.folded;
        self.left_out += other.left_out;
        self.digest = self.digest.wrapping_add(other.digest);
    }

    /// Whether an offset is in it.
    pub fn covers(&self, offset: Offset) -> bool {
        (self.from..self.to).contains(&offset)
    }
}

/// The sum that a span's digest is, of ids and versions: order and cuts of batches make no difference.
pub fn digest<'a>(events: impl Iterator<Item = (&'a str, u64)>) -> u128 {
    events.fold(0, |sum, (id, version)| sum.wrapping_add(xxh3_128_with_seed(id.as_bytes(), version)))
}

/// What was done with a block of offsets in one build of a sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The sink.
    pub sink: String,
    /// The collection.
    pub collection: String,
    /// The generation, or the name of a copy.
    pub generation: String,
    /// The partition.
    pub partition: Partition,
    /// The life of the topic.
    pub epoch: u64,
    /// The first offset of the block; batches that began in it are here.
    pub block: Offset,
    /// The process that was last at it.
    pub instance: String,
    /// Deliveries in the order in which they were done.
    pub spans: Vec<Span>,
}

impl Receipt {
    fn row(&self) -> String {
        format!("{}/{}", self.build(), self.block)
    }

    fn build(&self) -> String {
        let Receipt { sink, collection, generation, partition, epoch, .. } = self;
        format!("{sink}/{collection}/{generation}/{partition}/{epoch}")
    }

    fn push(&mut self, span: Span) {
        match self.spans.last_mut() {
            // At a steady flow a row says when by the second.
            Some(last) if last.to == span.from && span.first.since(last.first) < GATHERED => {
                last.follow(&span);
            }
            _ => self.spans.push(span),
        }
        while self.spans.len() > SPANS {
            self.shorten();
        }
    }

    /// Makes one of two neighbours: first such as follow each other without a gap, and of them those closest in time.
    fn shorten(&mut self) {
        let pairs = self.spans.windows(2).enumerate().filter_map(|(index, pair)| match pair {
            [a, b] => Some((a.to != b.from, b.last.since(a.first), index)),
            _ => None,
        });
        let Some((_, _, index)) = pairs.min() else { return };
        let second = self.spans.remove(index + 1);
        if let Some(first) = self.spans.get_mut(index) {
            first.follow(&second);
        }
    }

    /// All spans as one.
    pub fn total(&self) -> Span {
        let mut spans = self.spans.iter();
        let first = spans.next().cloned().unwrap_or_default();
        spans.fold(first, |mut total, span| {
            total.follow(span);
            total
        })
    }
}

/// All receipts, by row.
///
/// # Errors
/// The log's.
pub async fn read_all(log: &dyn EventLog) -> Result<Vec<Receipt>, LogError> {
    let rows = Keyed::rows(log, Topic::receipts()).await?;
    let mut receipts: Vec<Receipt> = rows.values().filter_map(|row| serde_json::from_slice(row).ok()).collect();
    receipts.sort_by(|a, b| {
        let key = |r: &Receipt| (r.sink.clone(), r.collection.clone(), r.partition, r.epoch, r.block);
        key(a).cmp(&key(b)).then_with(|| generation(a).cmp(&generation(b)))
    });
    Ok(receipts)
}

fn generation(receipt: &Receipt) -> (u64, &str) {
    (receipt.generation.parse().unwrap_or(u64::MAX), &receipt.generation)
}

/// The part of a row's key that tells builds of a collection apart.
pub fn generation_of(target: &Target) -> String {
    match &target.build {
        Build::Live(generation) | Build::Beside(generation) => generation.to_string(),
        Build::Named(name) => name.clone(),
    }
}

/// One delivery, as the one who delivered tells it.
pub(crate) struct Done<'a> {
    pub target: &'a Target,
    pub partition: Partition,
    pub epoch: u64,
    pub offsets: Range<Offset>,
    pub outcome: Outcome,
    pub folded: u64,
    pub left_out: u64,
    pub digest: u128,
}

/// The receipts of one worker or job.
pub(crate) struct Receipts {
    inner: Option<Arc<Inner>>,
    env: Env,
    ended: CancellationToken,
}

impl Drop for Receipts {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

struct Inner {
    sink: String,
    instance: String,
    log: Arc<dyn EventLog>,
    gathered: Mutex<Gathered>,
    changed: Notify,
    /// One writes at a time: the task of its own, or whoever closes.
    writing: tokio::sync::Mutex<Written>,
}

#[derive(Default)]
struct Gathered {
    /// The block that is open, per place name and partition.
    open: HashMap<(String, Partition), Open>,
    /// Blocks that are full and not written yet.
    full: VecDeque<Open>,
    dropped: u64,
}

struct Open {
    receipt: Receipt,
    is_changed: bool,
    /// Whether the log may have a row of it that was not looked at.
    is_continued: bool,
}

/// What the writing half knows of the log's rows.
#[derive(Default)]
struct Written {
    table: Option<Keyed>,
    /// Where to read on.
    next: Offset,
    /// Of this sink's rows the newest of each build, partition and epoch: all that can be gone on with.
    newest: HashMap<String, Receipt>,
}

impl Written {
    async fn read_on(&mut self, log: &dyn EventLog, sink: &str) -> Result<(), LogError> {
        let topic = Topic::receipts();
        let extents = log.extents(&topic).await?.unwrap_or_default();
        let Some(extent) = extents.first().filter(|extent| extent.end > self.next) else { return Ok(()) };
        let mut reader = log.read(&topic, 0, self.next.max(extent.start)..extent.end).await?;
        let mut records = Records::new();
        while reader.fetch(&mut records, Limits { records: 1_000, bytes: 1 << 20 }).await? {
            let ours = |record: &RecordRef<'_>| {
                let key = record.key.and_then(|key| std::str::from_utf8(key).ok());
                key.and_then(|key| key.strip_prefix(sink)).is_some_and(|rest| rest.starts_with('/'))
            };
            for value in records.iter().filter(ours).filter_map(|record| record.value) {
                let Ok(receipt) = serde_json::from_slice::<Receipt>(value) else { continue };
                let build = receipt.build();
                if self.newest.get(&build).is_none_or(|newest| newest.block <= receipt.block) {
                    self.newest.insert(build, receipt);
                }
            }
            records.clear();
        }
        self.next = extent.end;
        Ok(())
    }
}

impl Receipts {
    /// Writes nothing where they are not wanted.
    pub(crate) fn new(sink: &str, instance: &str, log: &Arc<dyn EventLog>, env: &Env, is_wanted: bool) -> Self {
        let inner = is_wanted.then(|| {
            Arc::new(Inner {
                sink: sink.to_owned(),
                instance: instance.to_owned(),
                log: log.clone(),
                gathered: Mutex::default(),
                changed: Notify::new(),
                writing: tokio::sync::Mutex::default(),
            })
        });
        let ended = CancellationToken::new();
        if let Some(inner) = &inner {
            tokio::spawn(keep_written(inner.clone(), ended.clone()));
        }
        Receipts { inner, env: env.clone(), ended }
    }

    pub(crate) fn are_wanted(&self) -> bool {
        self.inner.is_some()
    }

    /// Adds a delivery. Touches nothing but memory.
    pub(crate) fn add(&self, done: Done<'_>) {
        let Some(inner) = &self.inner else { return };
        let now = self.env.now();
        let span = Span {
            from: done.offsets.start,
            to: done.offsets.end,
            first: now,
            last: now,
            batches: 1,
            applied: done.outcome.applied,
            stale: done.outcome.stale,
            folded: done.folded,
            left_out: done.left_out,
            digest: done.digest,
        };
        let block = span.from / BLOCK * BLOCK;
        let generation = generation_of(done.target);
        let mut gathered = inner.gathered();
        let place = (done.target.position_name(), done.partition);
        let is_other = |open: &Open| (open.receipt.epoch, open.receipt.block) != (done.epoch, block);
        let other = gathered.open.get(&place).is_some_and(is_other).then(|| gathered.open.remove(&place));
        if let Some(full) = other.flatten().filter(|full| full.is_changed) {
            gathered.full.push_back(full);
            if gathered.full.len() > WAITING {
                gathered.full.pop_front();
                gathered.dropped += 1;
            }
        }
        let open = gathered.open.entry(place).or_insert_with(|| Open {
            receipt: Receipt {
                sink: inner.sink.clone(),
                collection: done.target.collection.to_string(),
                generation,
                partition: done.partition,
                epoch: done.epoch,
                block,
                instance: inner.instance.clone(),
                spans: Vec::new(),
            },
            is_changed: true,
            is_continued: true,
        });
        open.receipt.push(span);
        open.is_changed = true;
        drop(gathered);
        inner.changed.notify_one();
    }

    /// Writes what is left; gives up after a moment.
    pub(crate) async fn close(&self) {
        if let Some(inner) = &self.inner {
            let _ = tokio::time::timeout(CLOSING, inner.write()).await;
        }
    }
}

/// Writes what changed, until nobody adds any more.
async fn keep_written(inner: Arc<Inner>, ended: CancellationToken) {
    while ended.run_until_cancelled(inner.changed.notified()).await.is_some() {
        ended.run_until_cancelled(tokio::time::sleep(GATHERED)).await;
        if let Err(error) = inner.write().await {
            tracing::debug!(sink = inner.sink, %error, "receipts could not be written; trying again");
            inner.changed.notify_one();
        }
    }
    let _ = tokio::time::timeout(CLOSING, inner.write()).await;
}

impl Inner {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all rows that changed. Those that could not be written have changed still.
    async fn write(&self) -> Result<(), LogError> {
        let mut written = self.writing.lock().await;
        let written = &mut *written;
        if written.table.is_none() {
            written.table = Some(Keyed::open(&*self.log, Topic::receipts()).await?);
        }
        self.take_up(written).await?;
        let Some(table) = &written.table else { return Ok(()) };
        let rows: BTreeMap<String, Receipt> = {
            let mut gathered = self.gathered();
            let dropped = std::mem::take(&mut gathered.dropped);
            counter!("primalcore_receipts_dropped_total", "sink" => self.sink.clone()).increment(dropped);
            let Gathered { open, full, .. } = &mut *gathered;
            let changed = full.iter().chain(open.values()).filter(|open| open.is_changed);
            let rows = changed.map(|open| (open.receipt.row(), open.receipt.clone())).collect();
            open.values_mut().for_each(|open| open.is_changed = false);
            rows
        };
        if rows.is_empty() {
            return Ok(());
        }
        let values = rows.iter().map(|(row, receipt)| (row.clone(), serde_json::to_vec(receipt).ok()));
        let result = table.put(&*self.log, values.collect::<Vec<_>>()).await;
        let mut gathered = self.gathered();
        match result {
            Ok(()) => {
                gathered.full.retain(|full| rows.get(&full.receipt.row()) != Some(&full.receipt));
                Ok(())
            }
            Err(failed) => {
                gathered.open.values_mut().for_each(|open| open.is_changed = true);
                Err(failed.error)
            }
        }
    }

    /// Rows of blocks that somebody else, or this sink before it was restarted, began: their spans come first.
    async fn take_up(&self, written: &mut Written) -> Result<(), LogError> {
        let is_due = self.gathered().unread().any(|open| {
            // What begins where the block does was not begun before, unless the store had some of it already.
            let starts = open.receipt.spans.first().map_or(0, |span| span.from);
            open.is_continued = starts > open.receipt.block || open.receipt.total().stale > 0;
            open.is_continued
        });
        if !is_due {
            return Ok(());
        }
        written.read_on(&*self.log, &self.sink).await?;
        for open in self.gathered().unread() {
            open.is_continued = false;
            let row = written.newest.get(&open.receipt.build()).filter(|row| row.block == open.receipt.block);
            let Some(before) = row else { continue };
            let since = std::mem::replace(&mut open.receipt.spans, before.spans.clone());
            since.into_iter().for_each(|span| open.receipt.push(span));
        }
        Ok(())
    }
}

impl Gathered {
    /// Blocks of which the log may have a row that was not looked at.
    fn unread(&mut self) -> impl Iterator<Item = &mut Open> {
        let Gathered { open, full, .. } = self;
        open.values_mut().chain(full.iter_mut()).filter(|open| open.is_continued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(offsets: Range<Offset>, at: i64) -> Span {
        let (from, to) = (offsets.start, offsets.end);
        let applied = (to - from) as u64;
        Span {
            from,
            to,
            first: Timestamp(at),
            last: Timestamp(at),
            batches: 1,
            applied,
            digest: 1 << 127,
            ..Span::default()
        }
    }

    fn receipt() -> Receipt {
        Receipt {
            sink: "pg".into(),
            collection: "flights".into(),
            generation: "1".into(),
            partition: 3,
            epoch: 0,
            block: 10_000,
            instance: "one".into(),
            spans: Vec::new(),
        }
    }

    #[test]
    fn deliveries_that_follow_each_other_within_a_second_are_one_span() {
        let mut receipt = receipt();
        receipt.push(span(10_000..10_010, 0));
        receipt.push(span(10_010..10_011, 999_999));
        receipt.push(span(10_011..10_020, 1_000_000));
        let told: Vec<_> = receipt.spans.iter().map(|s| (s.from, s.to, s.first.0, s.last.0, s.batches)).collect();
        assert_eq!(told, [(10_000, 10_011, 0, 999_999, 2), (10_011, 10_020, 1_000_000, 1_000_000, 1)]);
        assert_eq!((receipt.total().applied, receipt.total().digest), (20, 1 << 127));
        assert_eq!(receipt.row(), "pg/flights/1/3/0/10000");
    }

    #[test]
    fn a_range_that_is_delivered_again_has_a_span_of_its_own() {
        let mut receipt = receipt();
        receipt.push(span(10_000..10_100, 0));
        receipt.push(Span { applied: 0, stale: 50, ..span(10_050..10_100, 10) });
        assert_eq!(receipt.spans.len(), 2);
        assert_eq!(receipt.spans.iter().filter(|span| span.covers(10_060)).count(), 2);
        assert!(!receipt.spans.iter().any(|span| span.covers(10_100)));
    }

    #[test]
    fn a_row_stays_short_and_loses_no_count() {
        let mut receipt = receipt();
        for number in 0..5_000 {
            receipt.push(span(10_000 + number..10_001 + number, number * 2_000_000));
        }
        let (total, text) = (receipt.total(), serde_json::to_string(&receipt).unwrap());
        assert_eq!((receipt.spans.len(), total.applied, total.batches), (SPANS, 5_000, 5_000));
        assert_eq!((total.from, total.to), (10_000, 15_000));
        assert!(text.len() < 5_000, "{}", text.len());
        assert_eq!(serde_json::from_str::<Receipt>(&text).unwrap(), receipt);
    }

    #[test]
    fn the_digest_is_the_same_however_the_batches_were_cut() {
        let ids: Vec<String> = (0..20).map(|n| format!("id-{n}")).collect();
        let of = |range: Range<usize>| digest(range.filter_map(|n| Some((ids.get(n)?.as_str(), n as u64 + 1))));
        assert_eq!(of(0..20), of(7..20).wrapping_add(of(0..7)));
        assert_ne!(of(0..20), of(0..19));
        assert_ne!(digest([("a", 1)].into_iter()), digest([("a", 2)].into_iter()));
    }
}
