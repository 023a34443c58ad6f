//! What a sink is given to write: the events of a contiguous range of one partition, folded.
//!
//! The batch rule: a batch stands for a contiguous range of offsets of one partition, with nothing left out but what the
//! sink does not want. Of several puts and deletes of one key only the last is in it; every append is. Then "apply where
//! the stored version is below the event's" is right under any redelivery, any re-cutting of batches, and any late writer.

use hashbrown::HashMap;

use crate::epoch::{Epochs, Position, Version};
use crate::error::Rejected;
use crate::event::{EventRef, Op};
use crate::record::RecordRef;
use crate::sink::Projection;
use crate::{Partition, Primal, Timestamp};

/// How a stored record of the same version is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only a higher version is written.
    Apply,
    /// An equal version is written again, a higher stored one stays: repair of a damaged store.
    Repair,
}

/// A move of the position, by compare-and-set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// What the store must hold now; `None` when it must hold nothing for this partition yet.
    pub expected: Option<Position>,
    /// What it holds afterwards.
    pub next: Position,
}

/// One event of a batch. Its payload is one JSON object (checked) or absent for a delete.
#[derive(Clone, Copy, Debug)]
pub struct BatchEvent<'a> {
    /// The entity.
    pub key: &'a str,
    /// What it does.
    pub op: Op,
    /// Unique id.
    pub id: &'a str,
    /// Its place in the key's order.
    pub version: Version,
    /// JSON text of the payload; `None` for a delete.
    pub data: Option<&'a str>,
    /// Whether the build holds nothing of this identity, as far as whoever writes it knows. A store may insert such an event
    /// without comparing, and has to compare after all when it finds a record there.
    pub fresh: bool,
    event: EventRef<'a>,
}

impl<'a> BatchEvent<'a> {
    /// When it happened.
    pub fn time(&self) -> Timestamp {
        self.event.time()
    }

    /// The Primal Logic parameters.
    pub fn primal(&self) -> Primal {
        self.event.primal()
    }

    /// CloudEvents `type`.
    pub fn kind(&self) -> &'a str {
        self.event.kind()
    }

    /// The record as it stands in the log.
    pub fn record(&self) -> RecordRef<'a> {
        self.event.record
    }

    /// What tells events of a batch apart: the key, or the event's id where every event counts.
    pub fn identity(&self, projection: Projection) -> &'a str {
        if projection.keeps_every_event() { self.id } else { self.key }
    }
}

/// Folded events of one range of one partition. May be empty: then only the position moves.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Where they come from.
    pub partition: Partition,
    /// The move of the position; `None` for repair and redrive, which do not move it.
    pub advance: Option<Advance>,
    /// How equal versions are treated.
    pub mode: Mode,
    /// In offset order; no identity twice.
    pub events: Vec<BatchEvent<'a>>,
}

impl<'a> Batch<'a> {
    /// Folds events, given in offset order, and checks what is left of them. Payloads that were superseded inside the
    /// range are never looked at.
    ///
    /// # Errors
    /// The events whose payload is not one JSON object, or that the projection has no meaning for.
    pub fn fold(
        partition: Partition,
        epochs: &Epochs,
        projection: Projection,
        events: impl IntoIterator<Item = EventRef<'a>>,
    ) -> Result<Self, Vec<Rejected>> {
        let events = events.into_iter();
        let (most, _) = events.size_hint();
        let mut kept: Vec<EventRef<'a>> = Vec::with_capacity(most);
        let mut places: HashMap<&str, usize> = HashMap::with_capacity(most);
        let every = projection.keeps_every_event();
        let mut dropped = 0;
        for event in events {
            // A series has no state of a key that could end.
            if projection == Projection::Series && event.op == Op::Delete {
                continue;
            }
            let identity = if every { event.id } else { event.key };
            match places.entry(identity) {
                // A repeated event id is the same event, so the first stays; of a key's states the last counts.
                hashbrown::hash_map::Entry::Occupied(_) if every => continue,
                hashbrown::hash_map::Entry::Occupied(mut place) => {
                    if let Some(old) = kept.get_mut(*place.get()) {
                        old.id = "";
                        dropped += 1;
                    }
                    place.insert(kept.len());
                }
                hashbrown::hash_map::Entry::Vacant(place) => {
                    place.insert(kept.len());
                }
            }
            kept.push(event);
        }
        let mut folded = Vec::with_capacity(kept.len() - dropped);
        let mut rejected = Vec::new();
        for event in kept.into_iter().filter(|event| !event.id.is_empty()) {
            match checked(event, projection) {
                Ok(data) => folded.push(BatchEvent {
                    key: event.key,
                    op: event.op,
                    id: event.id,
                    version: epochs.version(partition, event.record.offset),
                    data,
                    fresh: false,
                    event,
                }),
                Err(reason) => rejected.push(Rejected { offset: event.record.offset, reason }),
            }
        }
        if !rejected.is_empty() {
            return Err(rejected);
        }
        Ok(Batch { partition, advance: None, mode: Mode::Apply, events: folded })
    }

    /// The same batch, moving the position.
    #[must_use]
    pub fn advancing(mut self, expected: Option<Position>, next: Position) -> Self {
        self.advance = Some(Advance { expected, next });
        self
    }

    /// The same batch, writing equal versions again.
    #[must_use]
    pub fn repairing(mut self) -> Self {
        self.mode = Mode::Repair;
        self
    }
}

fn checked<'a>(event: EventRef<'a>, projection: Projection) -> Result<Option<&'a str>, String> {
    if event.op == Op::Append && !projection.keeps_every_event() {
        return Err(format!(
            "an append has no state to keep in a `{}` projection; use `projection: events`",
            projection.as_str()
        ));
    }
    event.object()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Records, header};

    fn records(events: &[(&str, &str, Option<&str>)]) -> Records {
        let mut records = Records::new();
        for (offset, (key, id, data)) in events.iter().enumerate() {
            let (key, data) = (Some(key.as_bytes()), data.map(str::as_bytes));
            records.push(offset as i64, Timestamp(0), key, data, |block| {
                header::push(block, header::SPEC_VERSION, Some(b"1.0"));
                header::push(block, header::ID, Some(id.as_bytes()));
            });
        }
        records
    }

    fn fold(records: &Records, projection: Projection) -> Result<Batch<'_>, Vec<Rejected>> {
        let events = records.iter().map(|r| EventRef::decode(r).unwrap());
        Batch::fold(0, &Epochs::first(1), projection, events)
    }

    #[test]
    fn the_last_state_of_a_key_stays_and_keeps_its_version() {
        let records =
            records(&[("a", "1", Some("not json")), ("b", "2", Some("{}")), ("a", "3", Some("{}")), ("b", "4", None)]);
        let batch = fold(&records, Projection::Document).unwrap();
        let left: Vec<_> = batch.events.iter().map(|e| (e.key, e.op, e.version)).collect();
        assert_eq!(left, [("a", Op::Put, Version(3)), ("b", Op::Delete, Version(4))]);
    }

    #[test]
    fn every_event_stays_once_where_each_is_a_record() {
        let records = records(&[("a", "1", Some("{}")), ("a", "2", Some("{}")), ("a", "1", Some("{}"))]);
        let batch = fold(&records, Projection::Events).unwrap();
        assert_eq!(batch.events.iter().map(|e| e.version.0).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_payload_that_is_no_object_is_rejected_by_offset() {
        let records = records(&[("a", "1", Some("{}")), ("b", "2", Some("[1]"))]);
        assert_eq!(fold(&records, Projection::Document).unwrap_err()[0].offset, 1);
    }
}
