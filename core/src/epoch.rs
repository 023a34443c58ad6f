//! Versions and positions: one number that orders all events of a key, across the lives of a topic.
//!
//! An *epoch* is one life of a topic. It begins anew when the topic is re-created (everything then belongs to the new
//! epoch) and when its partition count changes (what comes after the change belongs to it), because in both cases plain
//! offsets of one key no longer grow.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::log::partition_of;
use crate::{Offset, Partition};

const OFFSET_BITS: u32 = 40;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;

/// Orders the events of one key: `epoch << 40 | (offset + 1)`. Below 2^53 for any epoch under 8192, because some stores
/// compare numbers as doubles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(pub u64);

impl Version {
    /// The version of the event at `offset` in `epoch`.
    pub fn new(epoch: u64, offset: Offset) -> Self {
        Version(epoch << OFFSET_BITS | ((offset.max(0) as u64 + 1) & OFFSET_MASK))
    }

    /// Which life of the topic it belongs to.
    pub fn epoch(self) -> u64 {
        self.0 >> OFFSET_BITS
    }

    /// The offset of its event.
    pub fn offset(self) -> Offset {
        (self.0 & OFFSET_MASK) as Offset - 1
    }

    /// As a signed number, for stores that have no unsigned ones; never negative.
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From a store's signed number.
    pub fn from_i64(number: i64) -> Self {
        Version(u64::try_from(number).unwrap_or(0))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The next offset to apply, with its epoch: `epoch << 40 | offset`. In a topic's first life it is the plain offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    /// The position before the event at `offset` in `epoch`.
    pub fn new(epoch: u64, offset: Offset) -> Self {
        Position(epoch << OFFSET_BITS | (offset.max(0) as u64 & OFFSET_MASK))
    }

    /// Which life of the topic it lies in.
    pub fn epoch(self) -> u64 {
        self.0 >> OFFSET_BITS
    }

    /// The next offset to apply.
    pub fn offset(self) -> Offset {
        (self.0 & OFFSET_MASK) as Offset
    }

    /// As a signed number, for stores that have no unsigned ones; never negative.
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From a store's signed number.
    pub fn from_i64(number: i64) -> Self {
        Position(u64::try_from(number).unwrap_or(0))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch() {
            0 => write!(f, "{}", self.offset()),
            epoch => write!(f, "{}@e{epoch}", self.offset()),
        }
    }
}

/// One life of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number, from 0.
    pub epoch: u64,
    /// For each partition the first offset that belongs to it. Its length is the partition count of that life.
    pub from: Vec<Offset>,
}

/// The lives of one topic, oldest first; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epochs(Vec<Epoch>);

impl Epochs {
    /// The first life of a topic with `partitions` partitions.
    pub fn first(partitions: usize) -> Self {
        Epochs(vec![Epoch { epoch: 0, from: vec![0; partitions] }])
    }

    /// The present life.
    pub fn current(&self) -> &Epoch {
        // The constructors and `renew`/`extend` keep at least one element; an emptied file would be read as a first life.
        static NONE: Epoch = Epoch { epoch: 0, from: Vec::new() };
        self.0.last().unwrap_or(&NONE)
    }

    /// How many partitions the present life has.
    pub fn partitions(&self) -> usize {
        self.current().from.len()
    }

    /// The topic was re-created: all that it holds belongs to a new life.
    #[must_use]
    pub fn renewed(&self, partitions: usize) -> Self {
        Epochs(vec![Epoch { epoch: self.current().epoch + 1, from: vec![0; partitions] }])
    }

    /// The partition count changed: what comes from the given ends on belongs to a new life.
    #[must_use]
    pub fn extended(&self, ends: &[Offset]) -> Self {
        let old = self.partitions();
        let from = ends.iter().enumerate().map(|(p, end)| if p < old { *end } else { 0 }).collect();
        let mut lives = self.0.clone();
        lives.push(Epoch { epoch: self.current().epoch + 1, from });
        Epochs(lives)
    }

    /// The partitions that may hold a key's events: one, and more where the partition count was changed.
    pub fn partitions_of(&self, key: &str) -> BTreeSet<Partition> {
        self.0.iter().map(|life| partition_of(key.as_bytes(), life.from.len() as u32)).collect()
    }

    /// The epoch that an offset of a partition belongs to.
    pub fn at(&self, partition: Partition, offset: Offset) -> u64 {
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        let holds = |life: &&Epoch| life.from.get(index).is_some_and(|from| *from <= offset);
        self.0.iter().rev().find(holds).or(self.0.first()).map_or(0, |life| life.epoch)
    }

    /// The offsets of a partition that belong to each epoch, oldest first; none that has no offsets.
    pub fn spans(&self, partition: Partition) -> Vec<(u64, Range<Offset>)> {
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        let mut spans = Vec::new();
        let mut end = Offset::MAX;
        for life in self.0.iter().rev() {
            if let Some(from) = life.from.get(index).filter(|from| **from < end) {
                spans.push((life.epoch, *from..end));
                end = *from;
            }
        }
        spans.reverse();
        spans
    }

    /// The oldest epoch that this topic still has events of.
    pub fn oldest(&self) -> u64 {
        self.0.first().map_or(0, |life| life.epoch)
    }

    /// Where to read on from after a position: its offset, or the topic's start when there is none yet or it lies in a
    /// life that is gone.
    pub fn resume(&self, position: Option<Position>) -> Offset {
        position.filter(|position| position.epoch() >= self.oldest()).map_or(0, Position::offset)
    }

    /// The version of the event at an offset of a partition.
    pub fn version(&self, partition: Partition, offset: Offset) -> Version {
        Version::new(self.at(partition, offset), offset)
    }

    /// The position at an offset of a partition.
    pub fn position(&self, partition: Partition, offset: Offset) -> Position {
        Position::new(self.at(partition, offset), offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_over_every_kind_of_new_life() {
        let first = Epochs::first(2);
        assert_eq!(first.version(0, 0), Version(1));
        assert_eq!(first.position(1, 41), Position(41));
        let wider = first.extended(&[100, 50, 7, 3]);
        assert_eq!(wider.partitions(), 4);
        assert_eq!((wider.at(0, 99), wider.at(0, 100), wider.at(3, 0)), (0, 1, 1));
        assert!(wider.version(3, 0) > wider.version(0, 99));
        let renewed = wider.renewed(2);
        assert_eq!((renewed.at(0, 0), renewed.oldest()), (2, 2));
        assert!(renewed.version(0, 0) > wider.version(0, 1_000_000));
        assert_eq!([None, Some(Position::new(1, 9)), Some(Position::new(2, 9))].map(|p| renewed.resume(p)), [0, 0, 9]);
        assert_eq!(wider.resume(Some(Position::new(0, 9))), 9);
        assert_eq!((Version::new(3, 41).epoch(), Version::new(3, 41).offset()), (3, 41));
        assert!(Version::new(8191, (1 << 40) - 2).0 < 1 << 53);
        assert_eq!(Position::new(2, 9).to_string(), "9@e2");
    }

    #[test]
    fn every_offset_is_in_the_span_of_its_epoch() {
        let first = Epochs::first(2);
        assert_eq!(first.spans(0), [(0, 0..Offset::MAX)]);
        let wider = first.extended(&[100, 0, 0]);
        assert_eq!(wider.spans(0), [(0, 0..100), (1, 100..Offset::MAX)]);
        assert_eq!((wider.spans(1), wider.spans(2)), (vec![(1, 0..Offset::MAX)], vec![(1, 0..Offset::MAX)]));
        assert_eq!(wider.spans(3), []);
        for lives in [first.clone(), wider.clone(), wider.renewed(2), wider.extended(&[7, 9, 11])] {
            for (partition, offset) in [(0, 0), (0, 99), (0, 100), (1, 0), (2, 0), (2, 50)] {
                let span = lives.spans(partition).into_iter().find(|(_, span)| span.contains(&offset));
                let expected = (partition as usize) < lives.partitions();
                assert_eq!(span.map(|(epoch, _)| epoch), expected.then(|| lives.at(partition, offset)));
            }
        }
    }

    #[test]
    fn a_key_may_be_where_any_life_has_put_it() {
        // murmur2("21") & 0x7fffffff = 1173551340: 0 of 2, 0 of 4, 3 of 7.
        let first = Epochs::first(2);
        assert_eq!(first.partitions_of("21"), BTreeSet::from([0]));
        assert_eq!(first.extended(&[5, 5, 0, 0]).partitions_of("21"), BTreeSet::from([0]));
        let wider = first.extended(&[5, 5, 0, 0, 0, 0, 0]);
        assert_eq!(wider.partitions_of("21"), BTreeSet::from([0, 1173551340 % 7]));
        assert_eq!(wider.renewed(2).partitions_of("21"), BTreeSet::from([0]), "the old lives are gone");
    }
}
