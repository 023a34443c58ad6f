//! What the log says, read without being a process: the events of the collection and the sink's dead letters.

use std::collections::BTreeMap;
use std::sync::Arc;

use primal_core::event::{EventRef, Op};
use primal_core::sink::Projection;
use primal_core::{Offset, Partition, Records, Timestamp, Topic, Version};
use primal_log_sim::{Kept, World};

use crate::setup::{SINK, Setup};

/// An event of the collection, or a record that is none.
#[derive(Clone, Debug)]
pub struct Fact {
    /// Its place.
    pub offset: Offset,
    /// The entity; empty where the record is no event.
    pub key: String,
    /// The event's id; empty where the record is no event.
    pub id: String,
    /// What it does; `None` where the record is no event.
    pub op: Option<Op>,
    /// The payload.
    pub data: Option<String>,
}

impl Fact {
    /// What identifies its record in a store.
    pub fn identity(&self, projection: Projection) -> &str {
        if projection.keeps_every_event() { &self.id } else { &self.key }
    }

    /// Its version; the simulated topic has one life.
    pub fn version(&self) -> Version {
        Version::new(0, self.offset)
    }
}

/// Why an event has a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The record is no event.
    Undecodable,
    /// The store refused it.
    Rejected,
    /// It waits behind another.
    Parked,
}

/// The log so far.
pub struct Facts {
    world: Arc<World>,
    topic: Topic,
    letters_topic: Topic,
    partitions: Vec<Vec<Fact>>,
    letters: BTreeMap<(Partition, Offset), Why>,
    letters_read: usize,
}

impl Facts {
    /// Of a world.
    pub fn new(world: Arc<World>, setup: &Setup) -> Self {
        Facts {
            world,
            topic: Setup::collection().topic(),
            letters_topic: Topic::dead_letters(SINK),
            partitions: vec![Vec::new(); setup.partitions as usize],
            letters: BTreeMap::new(),
            letters_read: 0,
        }
    }

    /// Takes in what was appended since.
    pub fn refresh(&mut self) {
        for (partition, facts) in (0..).zip(&mut self.partitions) {
            facts.extend(self.world.records(&self.topic, partition, facts.len()).iter().map(fact));
        }
        for kept in self.world.records(&self.letters_topic, 0, self.letters_read) {
            self.letters_read += 1;
            if let Some((place, why)) = letter(&kept) {
                self.letters.insert(place, why);
            }
        }
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, &[Fact])> {
        (0..).zip(self.partitions.iter().map(Vec::as_slice))
    }

    /// The events of one partition.
    pub fn of(&self, partition: Partition) -> &[Fact] {
        usize::try_from(partition).ok().and_then(|index| self.partitions.get(index)).map_or(&[], Vec::as_slice)
    }

    /// The event at a place.
    pub fn at(&self, partition: Partition, offset: Offset) -> Option<&Fact> {
        let facts = self.of(partition);
        facts.binary_search_by_key(&offset, |fact| fact.offset).ok().and_then(|index| facts.get(index))
    }

    /// The partition that has an event at an offset.
    pub fn partition_of(&self, offset: Offset, id: &str) -> Option<Partition> {
        let here = |(_, all): &(Partition, &[Fact])| all.iter().any(|fact| fact.offset == offset && fact.id == id);
        self.partitions().find(here).map(|(partition, _)| partition)
    }

    /// Why the event at a place has a dead letter, if it has one.
    pub fn letter(&self, partition: Partition, offset: Offset) -> Option<Why> {
        self.letters.get(&(partition, offset)).copied()
    }

    /// How many dead letters there are.
    pub fn letters(&self) -> usize {
        self.letters.len()
    }

    /// The version behind which a key waits, if it was parked before a moment and still is.
    pub fn parked_since(&self, key: &str, before: Timestamp) -> Option<Version> {
        let row = format!("{SINK}/{}/{key}", Setup::collection());
        let rows = self.world.records(&Topic::parked(), 0, 0);
        let last = rows.iter().rfind(|kept| kept.record.key.as_deref() == Some(row.as_bytes()))?;
        if last.recorded >= before {
            return None;
        }
        String::from_utf8(last.record.value.clone()?).ok()?.parse().ok().map(Version)
    }

    /// The first event of a key that the store refused.
    pub fn first_rejected(&self, partition: Partition, key: &str) -> Option<Offset> {
        let ours = self.letters.range((partition, 0)..(partition + 1, 0));
        let mut rejected = ours.filter(|(_, why)| **why == Why::Rejected).map(|((_, offset), _)| *offset);
        rejected.find(|offset| self.at(partition, *offset).is_some_and(|fact| fact.key == key))
    }
}

fn fact(kept: &Kept) -> Fact {
    let mut records = Records::new();
    let record = &kept.record;
    records.push(kept.offset, kept.recorded, record.key.as_deref(), record.value.as_deref(), |block| {
        block.extend_from_slice(&record.headers);
    });
    let event = records.get(0).and_then(|record| EventRef::decode(record).ok());
    Fact {
        offset: kept.offset,
        key: event.map_or_else(String::new, |event| event.key.to_owned()),
        id: event.map_or_else(String::new, |event| event.id.to_owned()),
        op: event.map(|event| event.op),
        data: event.and_then(|event| Some(String::from_utf8_lossy(event.data?).into_owned())),
    }
}

fn letter(kept: &Kept) -> Option<((Partition, Offset), Why)> {
    let headers = primal_core::header::Headers::new(&kept.record.headers);
    let number = |name: &str| headers.text(name)?.parse().ok();
    let place = (number("__connect.errors.partition")? as Partition, number("__connect.errors.offset")?);
    let why = match headers.text("__connect.errors.exception.class.name")? {
        "primalcore.Undecodable" => Why::Undecodable,
        "primalcore.Rejected" => Why::Rejected,
        "primalcore.Parked" => Why::Parked,
        _ => return None,
    };
    Some((place, why))
}
