//! Sealing: reads what the log got since the last time, in blocks and away from whoever publishes, and appends a signed
//! checkpoint for each block.
//!
//! Block first, state second: after a crash in between the same records are sealed once more, which is as good as once,
//! since a tree over the same records is the same tree. For the same reason several processes may seal at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::counter;
use primal_core::error::LogError;
use primal_core::keyed::Keyed;
use primal_core::log::{EventLog, Extent, TopicSpec};
use primal_core::record::NewRecord;
use primal_core::{Collection, Epochs, Offset, Partition, Records, Topic};
use serde::Serialize;

use crate::block::{BLOCK_LEAVES, Block};
use crate::checkpoint::{Checkpoint, base64};
use crate::leaf::Leaf;
use crate::note::{Signer, Verifier};
use crate::tree::Compact;
use crate::trees::{FETCH, State, Tree};

/// Blocks that are appended at once.
const BLOCKS: usize = 16;

/// Sealing or proving could not be done.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The log's own error.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The request makes no sense, or comes too early.
    #[error("{0}")]
    Usage(String),
    /// What is stored is not what was signed.
    #[error("{0}")]
    Different(String),
}

/// What one round sealed of one tree.
#[derive(Clone, Debug, Serialize)]
pub struct Sealed {
    /// The tree's name in checkpoints.
    pub origin: String,
    /// The collection.
    pub collection: String,
    /// The partition.
    pub partition: Partition,
    /// Records that were added.
    pub added: u64,
    /// Records that it has now.
    pub size: u64,
    /// The offset of its first record.
    pub first: Offset,
    /// The offset from which the next round reads on.
    pub next: Offset,
    /// The signed note.
    pub checkpoint: String,
}

/// Seals the partitions of collections with one key.
pub struct Sealer {
    log: Arc<dyn EventLog>,
    prefix: String,
    signer: Signer,
    trusted: Vec<Verifier>,
    table: Keyed,
    states: BTreeMap<String, Result<State, String>>,
}

impl Sealer {
    /// `prefix` is that of the log's topics; trees that a `former` key has signed are gone on with.
    ///
    /// # Errors
    /// The log's.
    pub async fn open(
        log: Arc<dyn EventLog>,
        prefix: &str,
        signer: Signer,
        former: Vec<Verifier>,
    ) -> Result<Self, SealError> {
        let table = Keyed::open(&*log, Topic::seals()).await?;
        log.create(&Topic::checkpoints(), TopicSpec { partitions: 1, compacted: false }).await?;
        let trusted = [vec![signer.verifier().clone()], former].concat();
        Ok(Sealer { log, prefix: prefix.to_owned(), signer, trusted, table, states: BTreeMap::new() })
    }

    /// Seals what a collection got since the last time; what that was, by tree.
    ///
    /// # Errors
    /// The log's, or what is on record of a tree is not signed by a known key; then all other trees are sealed.
    pub async fn seal(&mut self, collection: &Collection, epochs: &Epochs) -> Result<Vec<Sealed>, SealError> {
        let topic = collection.topic();
        let extents = self.log.extents(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        if extents.len() != epochs.partitions() {
            return Err(SealError::Usage(format!(
                "{topic} had {} partitions and has {} now; `primalcore topics --renew {topic}` begins a new epoch",
                epochs.partitions(),
                extents.len()
            )));
        }
        for (row, value) in self.table.changes(&*self.log).await? {
            match value {
                Some(value) => drop(self.states.insert(row, serde_json::from_slice(&value).map_err(|e| e.to_string()))),
                None => drop(self.states.remove(&row)),
            }
        }
        // A tree that is not to be trusted does not leave the others without seals.
        let (mut sealed, mut different) = (Vec::new(), None);
        for tree in Tree::all(collection, epochs, extents.len()) {
            let Some(extent) = usize::try_from(tree.partition).ok().and_then(|index| extents.get(index)) else {
                continue;
            };
            match self.tree(&tree, *extent).await {
                Err(error @ SealError::Different(_)) => different = different.or(Some(error)),
                other => sealed.extend(other?),
            }
        }
        different.map_or(Ok(sealed), Err)
    }

    async fn tree(&self, tree: &Tree, extent: Extent) -> Result<Option<Sealed>, SealError> {
        let (row, origin) = (tree.row(), tree.origin(&self.prefix));
        let distrusted = |reason: String| {
            let what = "is not sealed any further, its last checkpoint is not to be trusted";
            SealError::Different(format!("{origin} {what}: {reason}"))
        };
        let state = self.states.get(&row).cloned().transpose().map_err(distrusted)?;
        let start = extent.start.max(tree.span.start);
        let (first, next) = state.as_ref().map_or((start, start), |state| (state.first, state.next));
        let end = extent.end.min(tree.span.end);
        if next >= end {
            return Ok(None);
        }
        let compact = match state {
            None => Compact::default(),
            Some(state) => state.tree(&origin, &self.trusted).map_err(distrusted)?,
        };
        if next < start {
            tracing::warn!(
                origin,
                "the records at offsets {next} to {} left the log before they were sealed",
                start - 1
            );
        }
        let mut round = Round { sealer: self, row, origin, first, compact, blocks: Vec::new(), added: 0, last: None };
        let (mut reader, mut records, mut room) = (
            self.log.read(&tree.collection.topic(), tree.partition, next.max(start)..end).await?,
            Records::new(),
            Vec::new(),
        );
        let mut block = Block::at(round.compact.size());
        while reader.fetch(&mut records, FETCH).await? {
            for record in records.iter() {
                block.push(record.offset, Leaf::of(record).hash(&mut room));
                if block.leaves.len() == BLOCK_LEAVES {
                    let next = Block::at(block.size());
                    round.add(std::mem::replace(&mut block, next)).await?;
                }
            }
            records.clear();
        }
        if !block.leaves.is_empty() {
            block.head.next = end;
            round.add(block).await?;
        }
        round.write().await?;
        counter!("primalcore_sealed_records_total", "collection" => tree.collection.to_string()).increment(round.added);
        let Round { origin, added, last, .. } = round;
        Ok(last.map(|(state, size)| Sealed {
            origin,
            collection: tree.collection.to_string(),
            partition: tree.partition,
            added,
            size,
            first: state.first,
            next: state.next,
            checkpoint: state.checkpoint,
        }))
    }
}

/// The sealing of one tree in one round.
struct Round<'a> {
    sealer: &'a Sealer,
    row: String,
    origin: String,
    first: Offset,
    compact: Compact,
    blocks: Vec<NewRecord>,
    added: u64,
    last: Option<(State, u64)>,
}

impl Round<'_> {
    /// Signs the tree up to the end of a block.
    async fn add(&mut self, mut block: Block) -> Result<(), SealError> {
        block.leaves.iter().for_each(|leaf| self.compact.push(*leaf));
        self.added += block.leaves.len() as u64;
        let size = self.compact.size();
        let checkpoint = Checkpoint { origin: self.origin.clone(), size, root: self.compact.root() };
        block.head.checkpoint = checkpoint.sign(&self.sealer.signer);
        let value = block.encode().map_err(|e| LogError::Internal(e.to_string()))?;
        let key = Some(self.row.clone().into_bytes());
        let topic = Topic::checkpoints();
        self.blocks.push(NewRecord { topic, partition: Some(0), key, value: Some(value), headers: Vec::new() });
        let nodes = self.compact.nodes().iter().map(|node| base64(node)).collect();
        let state = State { first: self.first, next: block.head.next, nodes, checkpoint: block.head.checkpoint };
        self.last = Some((state, size));
        if self.blocks.len() >= BLOCKS { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> Result<(), SealError> {
        let (Some((state, _)), false) = (&self.last, self.blocks.is_empty()) else { return Ok(()) };
        let Sealer { log, table, .. } = self.sealer;
        log.append(std::mem::take(&mut self.blocks)).await.map_err(|failed| failed.error)?;
        let value = serde_json::to_vec(state).map_err(|e| LogError::Internal(e.to_string()))?;
        table.put(&**log, [(self.row.clone(), Some(value))]).await.map_err(|failed| failed.error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::proof::prove;
    use crate::testing::World;

    async fn seal(sealer: &mut Sealer, world: &World) -> Vec<Sealed> {
        sealer.seal(&world.collection, &world.epochs).await.unwrap()
    }

    #[tokio::test]
    async fn what_comes_is_sealed_once_and_every_event_is_proved() {
        let mut world = World::new(2).await;
        let mut sealer = world.sealer().await;
        assert!(seal(&mut sealer, &world).await.is_empty(), "nothing there");
        let mut size = 0;
        for count in [1, 2, 1_500, 5, 1_024] {
            world.publish(count).await;
            size += count as u64;
            let sealed = seal(&mut sealer, &world).await;
            let [sealed] = sealed.as_slice() else { panic!("{sealed:?}") };
            assert_eq!((sealed.added, sealed.size, sealed.next), (count as u64, size, size as Offset));
            assert_eq!(sealed.origin, "primalcore/p-things/0/0");
            assert!(seal(&mut sealer, &world).await.is_empty());
        }
        let keys = world.keys();
        for offset in (0..size as Offset).step_by(97).chain([0, 1, 2, 3, 1_023, 1_024, size as Offset - 1]) {
            let proof = prove(&*world.log, &world.tree(offset), offset).await.unwrap();
            let shown = proof.check(&keys).unwrap();
            assert_eq!((shown.checkpoint.size, proof.leaf_index, proof.record.offset), (size, offset as u64, offset));
            assert_eq!(proof.record.id(), Some(format!("e{offset}").as_str()));
        }
        let reports = world.compare(&[]).await;
        let of = |partition: usize| {
            let report = &reports[partition];
            (report.sealed, report.checkpoints, report.unsealed, report.differences)
        };
        assert_eq!((of(0), of(1)), ((size, 6, 0, 0), (0, 0, 0, 0)));
        // What is not sealed is not proved, and says what to do.
        world.publish(1).await;
        let error = prove(&*world.log, &world.tree(size as Offset), size as Offset).await.unwrap_err().to_string();
        assert!(error.contains("not sealed as far as offset") && error.contains("audit seal"), "{error}");
        assert_eq!(world.compare(&[]).await[0].unsealed, 1);
    }

    #[tokio::test]
    async fn a_sealer_goes_on_where_another_one_ended_or_works_beside_it() {
        let mut world = World::new(1).await;
        let (mut one, mut other) = (world.sealer().await, world.sealer().await);
        for round in 0..6 {
            world.publish(1_200).await;
            let sealer = if round % 2 == 0 { &mut one } else { &mut other };
            assert_eq!(seal(sealer, &world).await[0].added, 1_200);
        }
        // Both look at the same state, and one appends less than the other, before or after it.
        let lagging = one.states.clone();
        world.publish(10).await;
        seal(&mut one, &world).await;
        let short = one.states.clone();
        world.publish(10).await;
        other.states = lagging;
        let extent = Extent { start: 0, end: 7_220 };
        other.tree(&world.tree(0), extent).await.unwrap();
        one.states = short;
        one.tree(&world.tree(0), Extent { start: 0, end: 7_215 }).await.unwrap();
        let reports = world.compare(&[]).await;
        // The last state is of the shorter one; the next round seals up to the end again.
        assert_eq!((reports[0].sealed, reports[0].findings.as_slice()), (7_220, &[][..]));
        assert_eq!(seal(&mut one, &world).await[0].size, 7_220);
        let reports = world.compare(&[]).await;
        assert_eq!((reports[0].sealed, reports[0].findings.as_slice()), (7_220, &[][..]));
        let proof = prove(&*world.log, &world.tree(0), 7_219).await.unwrap();
        assert_eq!(proof.check(&world.keys()).unwrap().checkpoint.size, 7_220);
    }

    #[tokio::test]
    async fn a_comparison_finds_nothing_wrong_while_sealing_goes_on() {
        let mut world = World::new(1).await;
        world.publish(1).await;
        let mut sealer = world.sealer().await;
        seal(&mut sealer, &world).await;
        let (log, collection, epochs, keys) =
            (world.log.clone(), world.collection.clone(), world.epochs.clone(), world.keys());
        let over = Cell::new(false);
        let comparing = async {
            let (mut seen, mut runs) = (0, 0);
            while !over.get() {
                let reports = crate::consistency(&*log, "p-", &collection, &epochs, &keys, &[], |_| {}).await.unwrap();
                assert_eq!(reports[0].findings, [], "run {runs}");
                assert!(reports[0].sealed >= seen);
                (seen, runs) = (reports[0].sealed, runs + 1);
            }
            (seen, runs)
        };
        let sealing = async {
            for _ in 0..40 {
                world.publish(5).await;
                seal(&mut sealer, &world).await;
            }
            over.set(true);
        };
        let ((seen, runs), ()) = tokio::join!(comparing, sealing);
        assert!(seen > 20 && runs > 3, "{seen} records in {runs} runs");
    }

    #[tokio::test]
    async fn a_tree_that_another_key_signed_is_gone_on_with_only_when_that_key_is_known() {
        let mut world = World::new(1).await;
        world.publish(3).await;
        seal(&mut world.sealer().await, &world).await;
        world.publish(3).await;
        let signer = Signer::generate("next").unwrap();
        let (secret, next) = (signer.secret(), signer.verifier().clone());
        let mut stranger = Sealer::open(world.log.clone(), "p-", signer, Vec::new()).await.unwrap();
        let error = stranger.seal(&world.collection, &world.epochs).await.unwrap_err().to_string();
        assert!(error.contains("not sealed any further") && error.contains("not signed by next+"), "{error}");
        let signer = secret.parse().unwrap();
        let mut heir = Sealer::open(world.log.clone(), "p-", signer, world.keys()).await.unwrap();
        assert_eq!(seal(&mut heir, &world).await[0].size, 6);
        // The old key alone no longer says that all is well.
        assert!(world.compare(&[]).await[0].findings[0].what.contains("not signed by test+"));
        let keys = [world.keys(), vec![next]].concat();
        let reports =
            crate::consistency(&*world.log, "p-", &world.collection, &world.epochs, &keys, &[], |_| {}).await.unwrap();
        assert_eq!((reports[0].sealed, reports[0].differences), (6, 0));
    }

    #[tokio::test]
    async fn a_tree_whose_state_is_damaged_is_not_begun_anew() {
        let mut world = World::new(1).await;
        world.publish(3).await;
        let mut sealer = world.sealer().await;
        seal(&mut sealer, &world).await;
        let rows = Keyed::rows(&*world.log, Topic::seals()).await.unwrap();
        let mut state: State = serde_json::from_slice(&rows["things/0/0"]).unwrap();
        let other = if state.nodes[0].starts_with('A') { "B" } else { "A" };
        state.nodes[0].replace_range(..1, other);
        for damaged in [b"{}".to_vec(), serde_json::to_vec(&state).unwrap()] {
            let table = Keyed::open(&*world.log, Topic::seals()).await.unwrap();
            table.put(&*world.log, [("things/0/0".to_owned(), Some(damaged))]).await.unwrap();
            world.publish(1).await;
            for _ in 0..2 {
                let error = sealer.seal(&world.collection, &world.epochs).await.unwrap_err().to_string();
                assert!(error.starts_with("primalcore/p-things/0/0 is not sealed any further"), "{error}");
            }
            let what = &world.compare(&[]).await[0].findings[0].what;
            assert!(what.starts_with("the state of the seal is not to be trusted"), "{what}");
        }
    }

    #[tokio::test]
    async fn each_life_of_a_partition_has_a_tree_of_its_own() {
        let mut world = World::new(1).await;
        world.publish(20).await;
        seal(&mut world.sealer().await, &world).await;
        world.epochs = world.epochs.extended(&[20]);
        world.publish(10).await;
        let sealed = seal(&mut world.sealer().await, &world).await;
        assert_eq!((sealed[0].origin.as_str(), sealed[0].first, sealed[0].size), ("primalcore/p-things/0/1", 20, 10));
        let reports = world.compare(&[]).await;
        let told: Vec<_> = reports.iter().map(|r| (r.life, r.first, r.sealed, r.differences, r.unsealed)).collect();
        assert_eq!(told, [(0, Some(0), 20, 0, 0), (1, Some(20), 10, 0, 0)]);
        for (offset, origin, index) in [(19, "primalcore/p-things/0/0", 19), (20, "primalcore/p-things/0/1", 0)] {
            let proof = prove(&*world.log, &world.tree(offset), offset).await.unwrap();
            assert_eq!(proof.leaf_index, index);
            assert_eq!(proof.check(&world.keys()).unwrap().checkpoint.origin, origin);
        }
    }

    #[tokio::test]
    async fn a_kept_checkpoint_shows_that_the_seals_were_made_anew() {
        let mut world = World::new(1).await;
        world.publish(100).await;
        let mut kept = Vec::new();
        let mut sealer = world.sealer().await;
        let note = seal(&mut sealer, &world).await.remove(0).checkpoint;
        kept.push(Checkpoint::open(&note, &world.keys()).unwrap().0);
        world.publish(100).await;
        seal(&mut sealer, &world).await;
        let report = world.compare(&kept).await.remove(0);
        assert_eq!((report.kept, report.differences), (1, 0));
        // Also one of a size that no block ends with is compared.
        kept[0].size = 101;
        let report = world.compare(&kept).await.remove(0);
        assert!(report.findings[0].what.starts_with("a checkpoint of size 101 has the root"), "{report:?}");
        kept[0].size = 201;
        let report = world.compare(&kept).await.remove(0);
        assert_eq!(report.findings[0].what, "a checkpoint of size 201 was kept, 200 records are sealed here");
        kept[0].origin = "elsewhere".to_owned();
        let error =
            crate::consistency(&*world.log, "p-", &world.collection, &world.epochs, &world.keys(), &kept, |_| {}).await;
        assert!(error.unwrap_err().to_string().contains("\"elsewhere\""));
    }
}
