//! A block: what is appended to the log for every checkpoint, so that a difference can be narrowed down to one record. It
//! has the signed note and the leaf hashes of the records that came since the checkpoint before, 32 bytes a record.

use std::ops::Range;

use primal_core::Offset;
use serde::{Deserialize, Serialize};

use crate::tree::Hash;

/// Leaves in a block, at most: 32 KiB of hashes.
pub const BLOCK_LEAVES: usize = 1_024;

/// One block. On the log it is a line of JSON and then the hashes, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// What the line says.
    pub head: Head,
    /// The hashes.
    pub leaves: Vec<Hash>,
}

/// All of a block but the hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The index of its first leaf.
    pub index: u64,
    /// The offset from which the next block reads on.
    pub next: Offset,
    /// The offsets of its records: first offset and count of each run without gaps.
    pub runs: Vec<(Offset, u64)>,
    /// The signed note over the tree up to its last leaf.
    pub checkpoint: String,
}

impl Block {
    /// An empty one that begins at a leaf.
    pub fn at(index: u64) -> Self {
        Block { head: Head { index, ..Head::default() }, leaves: Vec::new() }
    }

    /// Adds a record's leaf.
    pub fn push(&mut self, offset: Offset, leaf: Hash) {
        match self.head.runs.last_mut() {
            Some((first, count)) if offset == *first + *count as Offset => *count += 1,
            _ => self.head.runs.push((offset, 1)),
        }
        self.leaves.push(leaf);
        self.head.next = offset + 1;
    }

    /// The size of the tree up to its last leaf.
    pub fn size(&self) -> u64 {
        self.head.index + self.leaves.len() as u64
    }

    /// The offset and the hash of every leaf.
    pub fn records(&self) -> impl Iterator<Item = (Offset, Hash)> {
        let runs = self.head.runs.iter().map(|(first, count)| *first..*first + *count as Offset);
        runs.flatten().zip(self.leaves.iter().copied())
    }

    /// The offsets from its first record to its last.
    pub fn offsets(&self) -> Range<Offset> {
        let first = self.head.runs.first().map_or(0, |(first, _)| *first);
        first..self.head.runs.last().map_or(first, |(first, count)| *first + *count as Offset)
    }

    /// As it is stored.
    ///
    /// # Errors
    /// serde's.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(&self.head)?;
        bytes.push(b'\n');
        bytes.extend(self.leaves.iter().flatten());
        Ok(bytes)
    }

    /// Reads what [`Block::encode`] writes; the bytes may be anybody's.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let at = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no line of JSON")?;
        let (line, hashes) = bytes.split_at(at);
        let head: Head = serde_json::from_slice(line).map_err(|e| format!("its line of JSON cannot be read: {e}"))?;
        let (leaves, rest) = hashes.get(1..).unwrap_or_default().as_chunks::<32>();
        let mut end: Offset = 0;
        let mut count: u64 = 0;
        for (first, length) in &head.runs {
            let length = Offset::try_from(*length).ok().filter(|length| *length > 0 && *first >= end);
            end = length.and_then(|length| first.checked_add(length)).ok_or("its runs of offsets make no sense")?;
            count = count.saturating_add(length.unwrap_or(0) as u64);
        }
        let fits = rest.is_empty() && count == leaves.len() as u64 && leaves.len() <= BLOCK_LEAVES;
        if !fits || count == 0 || head.next < end || head.index.checked_add(count).is_none() {
            return Err(format!("it names {count} records and has {} hashes", leaves.len()));
        }
        Ok(Block { head, leaves: leaves.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_block_comes_back_with_gaps() {
        let mut block = Block::at(40);
        for offset in [7, 8, 9, 12, 20, 21] {
            block.push(offset, [offset as u8; 32]);
        }
        block.head.checkpoint = "note\n".to_owned();
        assert_eq!(block.head.runs, [(7, 3), (12, 1), (20, 2)]);
        assert_eq!((block.size(), block.head.next, block.offsets()), (46, 22, 7..22));
        let read = Block::decode(&block.encode().unwrap()).unwrap();
        assert_eq!(read, block);
        assert_eq!(read.records().map(|(offset, _)| offset).collect::<Vec<_>>(), [7, 8, 9, 12, 20, 21]);
        assert!(read.records().all(|(offset, leaf)| leaf == [offset as u8; 32]));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let with = |head: &str, hashes: usize| [head.as_bytes(), b"\n", &vec![0; hashes]].concat();
        let head = |runs: &str| format!("{{\"index\":0,\"next\":9,\"runs\":{runs},\"checkpoint\":\"\"}}");
        assert!(Block::decode(&with(&head("[[0,2]]"), 64)).is_ok());
        let max = i64::MAX;
        for runs in [
            "[]",
            "[[0,3]]",
            "[[8,2]]",
            "[[-1,2]]",
            "[[1,1],[1,1]]",
            "[[0,0],[0,2]]",
            &format!("[[{max},2]]"),
            "[[0,18446744073709551615]]",
        ] {
            assert!(Block::decode(&with(&head(runs), 64)).is_err(), "{runs}");
        }
        assert!(Block::decode(&with(&head("[[0,2]]"), 65)).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Block::decode(&bytes).is_err());
        }
    }
}
