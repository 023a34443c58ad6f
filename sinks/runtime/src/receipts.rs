//! Receipts: what was done with which offsets, and when, kept in the log (the compacted topic `primal.receipts`).
//!
//! A row is one block of 10,000 offsets of one build, and holds up to [`SPANS`] *spans*: deliveries, one or many that
//! followed each other, with what became of their events. A batch belongs to the block that it begins in. A range that is
//! delivered again has another span, so that a row says what was done and not only what came of it.

use std::time::Duration;

use primal_core::error::LogError;
use primal_core::keyed::Keyed;
use primal_core::log::EventLog;
use primal_core::sink::{Build, Target};
use primal_core::{Offset, Partition, Timestamp, Topic};
use serde::{Deserialize, Deserializer, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Deliveries that a row tells apart.
const SPANS: usize = 16;
/// How long changes are gathered before they are written, and what a span may last.
pub(crate) const GATHERED: Duration = Duration::from_secs(1);

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
    /// The sum, modulo 2^64, of XXH3 over the ids of the events given to the store, each seeded with its offset; in
    /// hexadecimal digits.
    #[serde(with = "hexadecimal")]
    pub digest: u64,
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(deserializer)?;
    Timestamp::parse_rfc3339(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no moment")))
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(digest: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{digest:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
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

/// What an event adds to a span's digest; order and cuts of batches make no difference.
pub fn digest(id: &str, offset: Offset) -> u64 {
    xxh3_64_with_seed(id.as_bytes(), offset as u64)
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
    pub(crate) fn row(&self) -> String {
        format!("{}/{}", self.build(), self.block)
    }

    pub(crate) fn build(&self) -> String {
        let Receipt { sink, collection, generation, partition, epoch, .. } = self;
        format!("{sink}/{collection}/{generation}/{partition}/{epoch}")
    }

    pub(crate) fn push(&mut self, span: Span) {
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

#[cfg(test)]
mod tests {
    use std::ops::Range;

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
            digest: 1 << 63,
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
        assert_eq!((receipt.total().applied, receipt.total().digest), (20, 1 << 63));
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
    fn an_event_adds_by_its_id_and_its_offset() {
        assert_ne!(digest("a", 1), digest("a", 2));
        assert_ne!(digest("a", 1), digest("b", 1));
    }
}
