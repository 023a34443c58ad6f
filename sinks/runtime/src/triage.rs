//! Sorting the records of a range into events to apply and dead letters, with the order inside each key kept: behind a
//! rejected event of a key nothing of that key is applied.

use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashSet;
use primal_core::error::Rejected;
use primal_core::event::EventRef;
use primal_core::record::RecordRef;
use primal_core::{Collection, Epochs, Offset, Partition, Records, Version};

use crate::dead_letter::Kind;
use crate::options::OnReject;
use crate::parked::Parked;
use crate::receipts::digest;

/// A record that will not be applied, and why.
pub(crate) struct Letter<'a> {
    pub record: RecordRef<'a>,
    pub version: Version,
    pub kind: Kind,
    pub reason: String,
}

/// What decides where a record goes.
pub(crate) struct Rules<'a> {
    pub collection: &'a Collection,
    pub partition: Partition,
    pub epochs: &'a Epochs,
    pub parked: &'a Parked,
    pub on_reject: OnReject,
    /// Whether a rejected event parks its key.
    pub parks: bool,
    pub max_payload: usize,
    /// Whether the digest of receipts is made.
    pub with_digest: bool,
}

/// A range of records, sorted.
pub(crate) struct Triage<'a> {
    rules: &'a Rules<'a>,
    pub events: Vec<EventRef<'a>>,
    /// Of the events, for the receipt; made while they are read, since going over them again costs more.
    pub digest: u64,
    /// Letters not yet in the log.
    pub letters: Vec<Letter<'a>>,
    /// Keys to be parked with them.
    pub park: BTreeMap<String, Option<Version>>,
}

impl<'a> Triage<'a> {
    /// Sorts a range. `written` are the offsets that have their letter in the log already.
    pub(crate) fn new(
        rules: &'a Rules<'a>,
        records: &'a Records,
        range: Range<usize>,
        written: &HashSet<Offset>,
    ) -> Self {
        let mut triage = Triage {
            rules,
            events: Vec::with_capacity(range.len()),
            digest: 0,
            letters: Vec::new(),
            park: BTreeMap::new(),
        };
        for record in range.filter_map(|index| records.get(index)) {
            if !written.is_empty() && written.contains(&record.offset) {
                continue;
            }
            match EventRef::decode(record) {
                Err(reason) => triage.push(record, Kind::Undecodable, reason),
                Ok(event) => match rules.parked.since(rules.collection, event.key) {
                    Some(since) if triage.version(record.offset) > since && rules.on_reject == OnReject::Park => {
                        triage.push(record, Kind::Parked, format!("waits behind the event of version {since}"));
                    }
                    _ => triage.take(event),
                },
            }
        }
        triage.reject_oversized();
        triage
    }

    /// Takes rejected events out, and what follows them in their keys. `false` when none of them is among the events.
    pub(crate) fn reject(&mut self, rejected: Vec<Rejected>) -> bool {
        let mut reasons: BTreeMap<Offset, String> = rejected.into_iter().map(|r| (r.offset, r.reason)).collect();
        let mut closed: BTreeMap<&str, Version> = BTreeMap::new();
        let before = self.events.len();
        self.digest = 0;
        for event in std::mem::take(&mut self.events) {
            let version = self.version(event.record.offset);
            if let Some(since) = closed.get(event.key) {
                self.push(event.record, Kind::Parked, format!("waits behind the event of version {since}"));
            } else if let Some(reason) = reasons.remove(&event.record.offset) {
                self.push(event.record, Kind::Rejected, reason);
                if self.rules.parks && self.rules.on_reject == OnReject::Park {
                    closed.insert(event.key, version);
                }
            } else {
                self.take(event);
            }
        }
        for (key, version) in closed {
            // The lowest version counts: a key may already have been closed further on.
            let known = self.park.get(key).copied().flatten();
            self.park.insert(key.to_owned(), Some(known.map_or(version, |known| known.min(version))));
        }
        self.events.len() < before
    }

    fn take(&mut self, event: EventRef<'a>) {
        if self.rules.with_digest {
            self.digest = self.digest.wrapping_add(digest(event.id, event.record.offset));
        }
        self.events.push(event);
    }

    fn reject_oversized(&mut self) {
        let limit = self.rules.max_payload;
        let large = |event: &EventRef<'_>| event.data.map_or(0, <[u8]>::len) > limit;
        let reason = |event: &EventRef<'_>| Rejected {
            offset: event.record.offset,
            reason: format!("the payload has {} bytes, the store takes {limit}", event.data.map_or(0, <[u8]>::len)),
        };
        let rejected: Vec<_> = self.events.iter().filter(|e| large(e)).map(reason).collect();
        if !rejected.is_empty() {
            self.reject(rejected);
        }
    }

    fn push(&mut self, record: RecordRef<'a>, kind: Kind, reason: String) {
        self.letters.push(Letter { record, version: self.version(record.offset), kind, reason });
    }

    fn version(&self, offset: Offset) -> Version {
        self.rules.epochs.version(self.rules.partition, offset)
    }
}
