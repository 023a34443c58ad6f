//! Dead letters: events that a sink rejected for good, and those that wait behind them, kept in the log in the topic
//! `dlq.<sink>`, byte for byte as they were, with Kafka Connect's `__connect.errors.*` headers
//! (org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter), so that existing tools show why.

use std::collections::BTreeMap;

use hashbrown::HashSet;
use primal_core::error::LogError;
use primal_core::header::{self, Headers};
use primal_core::log::{EventLog, Limits};
use primal_core::record::{NewRecord, RecordRef};
use primal_core::{Offset, Partition, Records, Target, Topic, Version};
use serde::Serialize;

const TOPIC: &str = "__connect.errors.topic";
const PARTITION: &str = "__connect.errors.partition";
const OFFSET: &str = "__connect.errors.offset";
const CONNECTOR: &str = "__connect.errors.connector.name";
const STAGE: &str = "__connect.errors.stage";
const CLASS: &str = "__connect.errors.exception.class.name";
const MESSAGE: &str = "__connect.errors.exception.message";
const VERSION: &str = "__primal.version";

/// Why a letter was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The record is no event.
    Undecodable,
    /// The store can never hold it.
    Rejected,
    /// It waits behind a rejected event of its key.
    Parked,
    /// It was a dead letter, and a redrive has applied it since.
    Redriven,
}

impl Kind {
    fn class(self) -> &'static str {
        match self {
            Kind::Undecodable => "primalcore.Undecodable",
            Kind::Rejected => "primalcore.Rejected",
            Kind::Parked => "primalcore.Parked",
            Kind::Redriven => "primalcore.Redriven",
        }
    }

    /// The names of Kafka Connect's `Stage` that fit.
    fn stage(self) -> &'static str {
        if self == Kind::Undecodable { "VALUE_CONVERTER" } else { "TASK_PUT" }
    }
}

/// A letter about a record of `topic`/`partition`, to be appended.
pub(crate) fn letter(
    sink: &str,
    topic: &Topic,
    partition: Partition,
    record: RecordRef<'_>,
    version: Version,
    kind: Kind,
    reason: &str,
) -> NewRecord {
    let mut letter = record.to_new(Topic::dead_letters(sink));
    letter.partition = Some(0);
    let mut push = |name: &str, value: &str| header::push(&mut letter.headers, name, Some(value.as_bytes()));
    push(TOPIC, topic.as_str());
    push(PARTITION, &partition.to_string());
    push(OFFSET, &record.offset.to_string());
    push(CONNECTOR, sink);
    push(STAGE, kind.stage());
    push(CLASS, kind.class());
    push(MESSAGE, reason);
    push(VERSION, &version.to_string());
    letter
}

/// Where a dead letter's event stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Origin {
    /// The collection's name.
    pub topic: String,
    /// Its partition.
    pub partition: Partition,
    /// The life of the topic that it belongs to.
    pub epoch: u64,
    /// Its offset.
    pub offset: Offset,
}

impl Origin {
    /// The place of the event of a version.
    pub fn of(topic: &str, partition: Partition, version: Version) -> Self {
        Origin { topic: topic.to_owned(), partition, epoch: version.epoch(), offset: version.offset() }
    }
}

/// A dead letter, read back.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// The event's place in the log.
    #[serde(flatten)]
    pub origin: Origin,
    /// The entity; lossy where it was not UTF-8.
    pub key: String,
    /// The event's id; empty where the record is no event.
    #[serde(skip)]
    pub id: String,
    /// The version that it would have been stored with.
    pub version: Version,
    /// Why it is here.
    pub kind: Kind,
    /// What the store said.
    pub reason: String,
    /// When it was written.
    #[serde(skip)]
    pub at: primal_core::Timestamp,
}

/// What to append once a dead letter's event has been applied, so that it is none any more.
pub fn redriven(sink: &str, letter: &DeadLetter) -> NewRecord {
    let mut headers = Vec::new();
    let mut push = |name: &str, value: &str| header::push(&mut headers, name, Some(value.as_bytes()));
    push(TOPIC, &letter.origin.topic);
    push(PARTITION, &letter.origin.partition.to_string());
    push(OFFSET, &letter.origin.offset.to_string());
    push(CONNECTOR, sink);
    push(CLASS, Kind::Redriven.class());
    push(VERSION, &letter.version.to_string());
    let (topic, key) = (Topic::dead_letters(sink), Some(letter.key.clone().into_bytes()));
    NewRecord { topic, partition: Some(0), key, value: None, headers }
}

/// All dead letters of a sink that were not redriven since, oldest place first. A letter that was written twice (a crash
/// came between it and the position) counts once.
///
/// # Errors
/// The log's.
pub async fn read_all(log: &dyn EventLog, sink: &str) -> Result<BTreeMap<Origin, DeadLetter>, LogError> {
    let topic = Topic::dead_letters(sink);
    let mut letters = BTreeMap::new();
    let Some(extents) = log.extents(&topic).await? else { return Ok(letters) };
    for (partition, extent) in (0..).zip(extents) {
        if extent.start >= extent.end {
            continue;
        }
        let mut reader = log.read(&topic, partition, extent.start..extent.end).await?;
        let mut records = Records::new();
        while reader.fetch(&mut records, Limits { records: 1_000, bytes: 4 << 20 }).await? {
            for letter in records.iter().filter_map(read) {
                match letter.kind {
                    Kind::Redriven => letters.remove(&letter.origin),
                    _ => letters.insert(letter.origin.clone(), letter),
                };
            }
            records.clear();
        }
    }
    Ok(letters)
}

/// Where dead letters of one collection stand.
pub type Letters = HashSet<(Partition, Version)>;

/// Where those of a target's sink and collection stand.
///
/// # Errors
/// The log's.
pub async fn of_target(log: &dyn EventLog, target: &Target) -> Result<Letters, LogError> {
    let all = read_all(log, &target.sink).await?.into_values();
    let ours = all.filter(|letter| letter.origin.topic == target.collection.as_str());
    Ok(ours.map(|letter| (letter.origin.partition, letter.version)).collect())
}

fn read(record: RecordRef<'_>) -> Option<DeadLetter> {
    let headers: Headers<'_> = record.headers;
    let version = Version(headers.text(VERSION)?.parse().ok()?);
    let kinds = [Kind::Undecodable, Kind::Rejected, Kind::Parked, Kind::Redriven];
    let class = headers.text(CLASS)?;
    Some(DeadLetter {
        origin: Origin::of(headers.text(TOPIC)?, headers.text(PARTITION)?.parse().ok()?, version),
        key: String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned(),
        id: headers.text(header::ID).unwrap_or_default().to_owned(),
        version,
        kind: kinds.into_iter().find(|kind| kind.class() == class)?,
        reason: headers.text(MESSAGE).unwrap_or_default().to_owned(),
        at: record.recorded,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use primal_core::Timestamp;

    #[test]
    fn a_letter_keeps_the_record_and_tells_where_it_came_from() {
        let mut records = Records::new();
        records.push(41, Timestamp(5), Some(b"k"), Some(b"\xff"), |block| header::push(block, "x", Some(b"y")));
        let topic = primal_core::Collection::new("flights").unwrap().topic();
        let new = letter("pg", &topic, 3, records.get(0).unwrap(), Version(42), Kind::Rejected, "no room for \0");
        assert_eq!((new.value.as_deref(), new.partition), (Some(&b"\xff"[..]), Some(0)));
        let mut stored = Records::new();
        stored.push(0, Timestamp(6), new.key.as_deref(), new.value.as_deref(), |b| b.extend_from_slice(&new.headers));
        let back = read(stored.get(0).unwrap()).unwrap();
        assert_eq!(back.origin, Origin { topic: "flights".into(), partition: 3, epoch: 0, offset: 41 });
        assert_eq!((back.version, back.kind, back.reason.as_str()), (Version(42), Kind::Rejected, "no room for \0"));
        assert_eq!(stored.get(0).unwrap().headers.text("x"), Some("y"));
    }
}
