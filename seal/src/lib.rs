//! Evidence of tampering that a stranger can check: a Merkle tree over every partition, checkpoints signed with the hub's
//! key, proofs that one event is in the record, and the comparison of the log with its seals.

mod block;
mod checkpoint;
mod consistency;
mod growth;
mod leaf;
mod note;
mod proof;
mod sealer;
#[cfg(test)]
mod testing;
mod tree;
mod trees;

pub use checkpoint::Checkpoint;
pub use consistency::{Finding, Report, consistency};
pub use growth::{Growth, growth};
pub use leaf::Leaf;
pub use note::{NoteError, Signer, Verifier};
pub use proof::{Bytes, Header, Proof, Record, Shown, prove};
pub use sealer::{SealError, Sealed, Sealer};
pub use tree::{Compact, Hash, is_consistent, leaf_hash, root_by_path};
pub use trees::{State, Tree};
