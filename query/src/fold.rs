//! The state of one partition: the last event of each key, folded from the log. Appended events are no state.

use std::collections::HashMap;
use std::ops::Range;

use primal_core::event::{EventRef, Op};
use primal_core::log::{EventLog, Limits};
use primal_core::{Epochs, LogError, Offset, Partition, Primal, Records, Timestamp, Topic, Version};

/// What one fetch brings.
const FETCH: Limits = Limits { records: 10_000, bytes: 4 << 20 };

/// The last event of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its place in the key's order.
    pub version: Version,
    /// Its id.
    pub id: String,
    /// CloudEvents `type`.
    pub kind: String,
    /// When it happened.
    pub time: Timestamp,
    /// When the log took it.
    pub recorded: Timestamp,
    /// The Primal Logic parameters.
    pub primal: Primal,
    /// The payload; `None` where it was deleted.
    pub data: Option<String>,
}

/// Keys and their last events.
pub type State = HashMap<String, Row>;

/// Takes a range of a partition into a state. Records that are no events, or whose payload is no object, change nothing:
/// no store takes them either. `wanted` says which keys count.
///
/// # Errors
/// The log's.
pub async fn fold(
    log: &dyn EventLog,
    topic: &Topic,
    partition: Partition,
    epochs: &Epochs,
    range: Range<Offset>,
    wanted: impl Fn(&str) -> bool,
    state: &mut State,
) -> Result<(), LogError> {
    if range.start >= range.end {
        return Ok(());
    }
    let mut reader = log.read(topic, partition, range).await?;
    let mut records = Records::new();
    while reader.fetch(&mut records, FETCH).await? {
        for record in records.iter() {
            let Ok(event) = EventRef::decode(record) else { continue };
            if event.op == Op::Append || !wanted(event.key) {
                continue;
            }
            let Ok(data) = event.object() else { continue };
            let row = Row {
                version: epochs.version(partition, record.offset),
                id: event.id.to_owned(),
                kind: event.kind().to_owned(),
                time: event.time(),
                recorded: record.recorded,
                primal: event.primal(),
                data: data.map(str::to_owned),
            };
            match state.get_mut(event.key) {
                Some(held) => *held = row,
                None => drop(state.insert(event.key.to_owned(), row)),
            }
        }
        records.clear();
    }
    Ok(())
}
