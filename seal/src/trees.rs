//! Which trees a collection has, and where they are kept in the log: the newest state of each in the compacted topic
//! `primal.seals`, all blocks in `primal.checkpoints`.

use std::ops::Range;

use primal_core::error::LogError;
use primal_core::log::{EventLog, Limits};
use primal_core::{Collection, Epochs, Offset, Partition, Records, Topic};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint};
use crate::note::Verifier;
use crate::tree::Compact;

/// How much one fetch brings.
pub(crate) const FETCH: Limits = Limits { records: 2_000, bytes: 1 << 20 };

/// The tree of one life of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The collection.
    pub collection: Collection,
    /// The partition.
    pub partition: Partition,
    /// Which life of the topic.
    pub life: u64,
    /// The offsets that belong to that life.
    pub span: Range<Offset>,
}

impl Tree {
    /// All trees of a collection.
    pub fn all(collection: &Collection, epochs: &Epochs, partitions: usize) -> Vec<Self> {
        let of = |partition: Partition| {
            let spans = epochs.spans(partition).into_iter();
            spans.map(move |(life, span)| Tree { collection: collection.clone(), partition, life, span })
        };
        (0..partitions as Partition).flat_map(of).collect()
    }

    /// The tree that the record at an offset belongs to.
    pub fn at(collection: &Collection, epochs: &Epochs, partition: Partition, offset: Offset) -> Self {
        let life = epochs.at(partition, offset);
        let span = epochs.spans(partition).into_iter().find(|(known, _)| *known == life);
        let span = span.map_or(0..Offset::MAX, |(_, span)| span);
        Tree { collection: collection.clone(), partition, life, span }
    }

    /// Its key in the topics: `<collection>/<partition>/<life>`.
    pub fn row(&self) -> String {
        format!("{}/{}/{}", self.collection, self.partition, self.life)
    }

    /// Its name in checkpoints.
    pub fn origin(&self, prefix: &str) -> String {
        format!("primalcore/{prefix}{}", self.row())
    }
}

/// Where the sealing of a tree stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The offset of its first record.
    pub first: Offset,
    /// The offset to read on from.
    pub next: Offset,
    /// The roots of the tree's perfect subtrees.
    pub nodes: Vec<String>,
    /// The newest checkpoint, a signed note.
    pub checkpoint: String,
}

impl State {
    /// The tree that it says, if one of the keys has signed that.
    ///
    /// # Errors
    /// Why it cannot be believed.
    pub fn tree(&self, origin: &str, keys: &[Verifier]) -> Result<Compact, String> {
        let (signed, _) = Checkpoint::open(&self.checkpoint, keys).map_err(|e| e.to_string())?;
        let nodes = self.nodes.iter().map(|node| checkpoint::hash(node)).collect::<Option<Vec<_>>>();
        let tree = nodes.and_then(|nodes| Compact::restore(signed.size, nodes));
        tree.filter(|tree| tree.root() == signed.root && signed.origin == origin)
            .ok_or_else(|| "its hashes are not those that its checkpoint was signed over".to_owned())
    }
}

/// The blocks of all trees that were there at a moment, in the order in which they were appended.
pub(crate) struct Blocks<'a> {
    log: &'a dyn EventLog,
    range: Range<Offset>,
}

impl<'a> Blocks<'a> {
    /// Those that are there now. A [`State`] that was read before is of one of them or of an earlier one.
    pub(crate) async fn now(log: &'a dyn EventLog) -> Result<Self, LogError> {
        let extents = log.extents(&Topic::checkpoints()).await?.unwrap_or_default();
        let range = extents.first().map_or(0..0, |extent| extent.start..extent.end);
        Ok(Blocks { log, range })
    }

    /// `with` is told each block's tree, by its row, and bytes, and says whether to go on.
    pub(crate) async fn each(
        &self,
        mut with: impl AsyncFnMut(&str, &[u8]) -> Result<bool, LogError>,
    ) -> Result<(), LogError> {
        if self.range.is_empty() {
            return Ok(());
        }
        let mut reader = self.log.read(&Topic::checkpoints(), 0, self.range.clone()).await?;
        let mut records = Records::new();
        while reader.fetch(&mut records, FETCH).await? {
            for record in records.iter() {
                let row = std::str::from_utf8(record.key.unwrap_or_default()).unwrap_or_default();
                if !with(row, record.value.unwrap_or_default()).await? {
                    return Ok(());
                }
            }
            records.clear();
        }
        Ok(())
    }
}
