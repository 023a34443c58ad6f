//! What somebody may have meant by a value that no event has: the nearest one among the newest events.

use std::collections::HashSet;

use primal_core::log::{EventLog, Limits};
use primal_core::{Offset, RecordRef, Records, header};

use crate::scan::{Part, ScanError, Source, Span};

/// Of each partition so many of the newest events are looked at.
const NEWEST: Offset = 200_000;
/// Different values that are kept at most.
const VALUES: usize = 100_000;

/// What a value is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The key.
    Key,
    /// CloudEvents `type`.
    Type,
    /// The actor.
    Actor,
    /// What belongs together.
    Correlation,
}

impl Field {
    /// Its value in a record.
    pub fn of<'a>(self, record: &RecordRef<'a>) -> Option<&'a [u8]> {
        match self {
            Field::Key => record.key,
            Field::Type => record.headers.get(header::TYPE),
            Field::Actor => record.headers.get(header::ACTOR),
            Field::Correlation => record.headers.get(header::CORRELATION),
        }
    }

    /// As an operator knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Field::Key => "key",
            Field::Type => "type",
            Field::Actor => "actor",
            Field::Correlation => "correlation id",
        }
    }
}

/// The value that is most like `wanted`, if any is close; `wanted` itself where some event has it.
///
/// # Errors
/// The log's.
pub async fn nearest(
    log: &dyn EventLog,
    sources: &[Source],
    field: Field,
    wanted: &str,
) -> Result<Option<String>, ScanError> {
    let mut values: HashSet<String> = HashSet::new();
    for Part { source, partition, from, to } in Span::whole().parts(log, sources).await? {
        let from = from.max(to - NEWEST);
        if from >= to {
            continue;
        }
        let mut reader = log.read(&source.collection.topic(), partition, from..to).await?;
        let mut records = Records::new();
        while reader.fetch(&mut records, Limits { records: 10_000, bytes: 4 << 20 }).await? {
            for record in records.iter() {
                let value = field.of(&record).and_then(|value| std::str::from_utf8(value).ok());
                match value {
                    Some(value) if value == wanted => return Ok(Some(value.to_owned())),
                    Some(value) if values.len() < VALUES && !values.contains(value) => {
                        values.insert(value.to_owned());
                    }
                    _ => {}
                }
            }
            records.clear();
        }
    }
    // Ties go the same way in every run.
    let mut values: Vec<&str> = values.iter().map(String::as_str).collect();
    values.sort_unstable();
    Ok(primal_core::nearest::nearest(wanted, values).map(str::to_owned))
}
