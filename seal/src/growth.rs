//! Proofs that a tree has only grown: that what somebody kept is the beginning of what is signed now, as a file that can be
//! checked without the log.

use primal_core::keyed::Keyed;
use primal_core::log::EventLog;
use primal_core::{Collection, Epochs, Topic};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Checkpoint};
use crate::note::Verifier;
use crate::proof::gather;
use crate::sealer::SealError;
use crate::tree;
use crate::trees::{State, Tree};

const FORMAT: &str = "primalcore-growth/1";

/// A proof of growth. Nothing in it is to be believed before [`Growth::check`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// Tells this from other files.
    pub format: String,
    /// The older signed note.
    pub old: String,
    /// The newer one.
    pub new: String,
    /// The consistency proof between them, as in RFC 6962, base64.
    pub path: Vec<String>,
}

impl Growth {
    /// Reads a file.
    ///
    /// # Errors
    /// It is none.
    pub fn read(text: &str) -> Result<Self, String> {
        let growth: Growth = serde_json::from_str(text).map_err(|e| format!("this is no proof of growth: {e}"))?;
        match growth.format == FORMAT {
            true => Ok(growth),
            false => Err(format!("the format is {:?}, expected {FORMAT:?}", growth.format)),
        }
    }

    /// Checks both signatures, and that the older tree is the beginning of the newer one, which are given back.
    ///
    /// # Errors
    /// What does not match.
    pub fn check(&self, keys: &[Verifier]) -> Result<(Checkpoint, Checkpoint), String> {
        let open = |which: &str, note: &str| {
            Checkpoint::open(note, keys).map_err(|error| format!("the {which} checkpoint is {error}"))
        };
        let ((old, _), (new, _)) = (open("older", &self.old)?, open("newer", &self.new)?);
        if old.origin != new.origin {
            return Err(format!("the older checkpoint is of {}, the newer one of {}", old.origin, new.origin));
        }
        let hash = |node: &String| checkpoint::hash(node).ok_or_else(|| format!("{node:?} in the path is no hash"));
        let path = self.path.iter().map(hash).collect::<Result<Vec<_>, _>>()?;
        if !tree::is_consistent((old.size, old.root), (new.size, new.root), &path) {
            return Err(format!("the tree of size {} is not the beginning of that of size {}", old.size, new.size));
        }
        Ok((old, new))
    }
}

/// Proves that a checkpoint, given as its note, is the beginning of the newest one of its tree.
///
/// # Errors
/// The log's; it is of no tree of this collection; or the tree did not only grow.
pub async fn growth(
    log: &dyn EventLog,
    prefix: &str,
    collection: &Collection,
    epochs: &Epochs,
    note: &str,
) -> Result<Growth, SealError> {
    let old = Checkpoint::unverified(note).ok_or_else(|| SealError::Usage("this is no checkpoint".to_owned()))?;
    let trees = Tree::all(collection, epochs, epochs.partitions());
    let row = trees.iter().find(|tree| tree.origin(prefix) == old.origin).map(Tree::row);
    let row = row.ok_or_else(|| SealError::Usage(format!("{:?} is no tree of {collection}", old.origin)))?;
    let state = Keyed::rows(log, Topic::seals()).await?.remove(&row);
    let state: Option<State> = state.and_then(|state| serde_json::from_slice(&state).ok());
    let shrunk = || SealError::Different(format!("{} had {} records when that was signed", old.origin, old.size));
    let state = state.ok_or_else(shrunk)?;
    let new = Checkpoint::unverified(&state.checkpoint).filter(|new| new.size >= old.size).ok_or_else(shrunk)?;
    let path = gather(log, &row, tree::consistency(old.size, new.size), new.size).await?.unwrap_or_default();
    if !tree::is_consistent((old.size, old.root), (new.size, new.root), &path) {
        let (old, new) = (old.size, new.size);
        return Err(SealError::Different(format!("the tree of size {old} is not the beginning of that of size {new}")));
    }
    let path = path.iter().map(|hash| checkpoint::base64(hash)).collect();
    Ok(Growth { format: FORMAT.to_owned(), old: note.to_owned(), new: state.checkpoint, path })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[tokio::test]
    async fn growth_is_proved_and_nothing_else_is() {
        let mut world = World::new(1).await;
        let mut sealer = world.sealer().await;
        let mut notes = Vec::new();
        for count in [1, 6, 1_500, 3] {
            world.publish(count).await;
            notes.push(sealer.seal(&world.collection, &world.epochs).await.unwrap().remove(0).checkpoint);
        }
        let keys = world.keys();
        let prove = async |note: &str| growth(&*world.log, "p-", &world.collection, &world.epochs, note).await;
        for note in &notes {
            let proof = prove(note).await.unwrap();
            let read = Growth::read(&serde_json::to_string(&proof).unwrap()).unwrap();
            assert_eq!(read.check(&keys).unwrap().1.size, 1_510);
            let other = Growth { path: Vec::new(), ..read.clone() };
            assert_eq!(other.check(&keys).is_ok(), note == &notes[3]);
            let other = Growth { old: read.new.clone(), new: read.old.clone(), ..read };
            assert_eq!(other.check(&keys).is_ok(), note == &notes[3]);
        }
        let error = prove(&notes[0].replace("p-things", "p-others")).await.unwrap_err().to_string();
        assert!(error.contains("is no tree of things"), "{error}");
        // Signed by the same key, and yet another tree.
        let signer = world.signer();
        for (size, says) in [(9, "is not the beginning of"), (2_000, "had 2000 records")] {
            let fork = Checkpoint { origin: "primalcore/p-things/0/0".to_owned(), size, root: [1; 32] }.sign(&signer);
            assert!(prove(&fork).await.unwrap_err().to_string().contains(says));
            let forged = Growth { format: FORMAT.to_owned(), old: fork, new: notes[3].clone(), path: Vec::new() };
            assert!(forged.check(&keys).is_err());
        }
    }
}
