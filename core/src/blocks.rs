//! Blocks of versions, and the sums over the records in them that a store computes itself: what verification compares
//! before it reads any record.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use crate::sink::{Page, Positions, Target};
use crate::{Offset, SinkError, Version};

/// Offsets in a block.
pub const BLOCK: Offset = 10_000;
/// Where the epoch begins in a block's number: 2^40 offsets are fewer than 2^27 blocks.
const EPOCH_BITS: u32 = 27;

/// The versions of one epoch whose offsets lie in one run of [`BLOCK`]; of all partitions, since a version does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block(pub u64);

impl Block {
    /// The block of a version. A store computes the same:
    /// `(version >> 40) << 27 | ((version & (2^40 - 1)) - 1) / 10000`.
    pub fn of(version: Version) -> Self {
        Block(version.epoch() << EPOCH_BITS | (version.offset().max(0) / BLOCK) as u64)
    }

    /// Which life of the topic it belongs to.
    pub fn epoch(self) -> u64 {
        self.0 >> EPOCH_BITS
    }

    /// Its offsets, in every partition.
    pub fn offsets(self) -> Range<Offset> {
        let start = (self.0 & ((1 << EPOCH_BITS) - 1)) as Offset * BLOCK;
        start..start + BLOCK
    }
}

/// What the records of a block add up to, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many there are.
    pub count: i64,
    /// The upper halves of their digests, as signed numbers.
    pub high: i128,
    /// The lower halves.
    pub low: i128,
}

impl Sum {
    /// Takes in a record.
    pub fn add(&mut self, digest: u128) {
        self.count += 1;
        self.high += halves(digest).0;
        self.low += halves(digest).1;
    }

    /// Takes a record out again.
    pub fn remove(&mut self, digest: u128) {
        self.count -= 1;
        self.high -= halves(digest).0;
        self.low -= halves(digest).1;
    }
}

fn halves(digest: u128) -> (i128, i128) {
    (i128::from((digest >> 64) as i64), i128::from(digest as i64))
}

/// A record as an event leaves it.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    /// The key; the event's id where every event is a record.
    pub identity: &'a str,
    /// The event's version.
    pub version: Version,
    /// The event's id.
    pub event_id: &'a str,
    /// Its payload; `None` for a delete.
    pub data: Option<&'a str>,
}

/// The digest that a store computes of a record, computed here; `None` where the payload cannot be stored there.
pub type Digester = Arc<dyn Fn(&Left<'_>) -> Option<u128> + Send + Sync>;

/// The sums of a build at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// How far it was at that moment.
    pub positions: Positions,
    /// Of every block that has records, tombstones included.
    pub blocks: BTreeMap<Block, Sum>,
}

/// Sums by block, where the store can compute them. The digest of a record is over identity, version, event id, whether it
/// is a tombstone, and contents in the store's own spelling.
///
/// Where [`Blocks::digester`] spells a payload otherwise than the store does, a block differs that should not: its records
/// are then read and compared one by one, which costs time and is right all the same.
#[async_trait]
pub trait Blocks: Send + Sync {
    /// What computes a record's digest as the store does.
    fn digester(&self, target: &Target) -> Digester;

    /// The sums and the positions of a build, both at the same moment.
    async fn sums(&self, target: &Target) -> Result<Sums, SinkError>;

    /// The next page of the records whose versions lie in some blocks, after a cursor of the page before.
    async fn records(&self, target: &Target, of: &BTreeSet<Block>, cursor: Option<&str>) -> Result<Page, SinkError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_the_offsets_of_its_versions_and_no_others() {
        for epoch in [0, 1, 8191] {
            for offset in [0, 9_999, 10_000, 123_456, (1 << 40) - 2] {
                let version = Version::new(epoch, offset);
                let block = Block::of(version);
                assert_eq!(block.epoch(), epoch);
                assert!(block.offsets().contains(&offset), "{offset} in {:?}", block.offsets());
                let told = ((version.0 >> 40) << 27) | (((version.0 & ((1 << 40) - 1)) - 1) / 10_000);
                assert_eq!(block.0, told);
            }
        }
    }

    #[test]
    fn a_sum_does_not_know_the_order_and_forgets_what_is_taken_out() {
        let (mut a, mut b) = (Sum::default(), Sum::default());
        for digest in [u128::MAX, 7, 1 << 127] {
            a.add(digest);
        }
        for digest in [1 << 127, 5, u128::MAX, 7] {
            b.add(digest);
        }
        assert_ne!(a, b);
        b.remove(5);
        assert_eq!(a, b);
    }
}
