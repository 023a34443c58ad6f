//! Proofs that one event is in the record, as a file that says all that is needed: whoever has it and the hub's public key
//! can check it, without the hub, its config, or this program.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use primal_core::keyed::Keyed;
use primal_core::log::{EventLog, Limits};
use primal_core::{Offset, Records, Topic, header};
use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::checkpoint::{self, Checkpoint};
use crate::leaf::Leaf;
use crate::note::Verifier;
use crate::sealer::SealError;
use crate::tree::{self, Gather, Hash};
use crate::trees::{Blocks, State, Tree};

const FORMAT: &str = "primalcore-proof/1";

/// A proof. Nothing in it is to be believed before [`Proof::check`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Tells this from other files.
    pub format: String,
    /// The record.
    pub record: Record,
    /// Which leaf of the tree it is.
    pub leaf_index: u64,
    /// The hashes from the leaf up, base64.
    pub path: Vec<String>,
    /// The signed note: origin, size and root of the tree.
    pub checkpoint: String,
}

/// What of a record is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its place in the partition.
    pub offset: Offset,
    /// The key.
    pub key: Option<Bytes>,
    /// The event's attributes, ordered by name.
    pub headers: Vec<Header>,
    /// The payload.
    pub value: Option<Bytes>,
}

/// One attribute of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Option<Bytes>,
}

/// Bytes: text where a person may want to read it, base64 elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Any.
    Base64(String),
}

impl Bytes {
    fn readable(bytes: &[u8]) -> Self {
        std::str::from_utf8(bytes).map_or_else(|_| Bytes::exact(bytes), |text| Bytes::Text(text.to_owned()))
    }

    fn exact(bytes: &[u8]) -> Self {
        Bytes::Base64(BASE64.encode(bytes))
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        match self {
            Bytes::Text(text) => Ok(text.as_bytes().to_vec()),
            Bytes::Base64(text) => BASE64.decode(text).map_err(|e| format!("{text:?} is no base64: {e}")),
        }
    }
}

impl Record {
    fn of(leaf: &Leaf<'_>) -> Self {
        let header = |(name, value): &(&str, Option<&[u8]>)| Header {
            name: (*name).to_owned(),
            value: value.map(Bytes::readable),
        };
        Record {
            offset: leaf.offset,
            key: leaf.key.map(Bytes::readable),
            headers: leaf.headers.iter().map(header).collect(),
            value: leaf.value.map(Bytes::exact),
        }
    }

    fn hash(&self) -> Result<Hash, String> {
        let bytes = |value: &Option<Bytes>| value.as_ref().map(Bytes::bytes).transpose();
        let (key, value) = (bytes(&self.key)?, bytes(&self.value)?);
        let values = self.headers.iter().map(|header| bytes(&header.value)).collect::<Result<Vec<_>, _>>()?;
        let headers = self.headers.iter().zip(&values).map(|(header, value)| (header.name.as_str(), value.as_deref()));
        let leaf = Leaf::new(self.offset, key.as_deref(), headers.collect(), value.as_deref());
        Ok(leaf.hash(&mut Vec::new()))
    }

    /// The event's id, if it is an event.
    pub fn id(&self) -> Option<&str> {
        let id = self.headers.iter().rev().find(|header| header.name == header::ID);
        id.and_then(|header| match &header.value {
            Some(Bytes::Text(text)) => Some(text.as_str()),
            _ => None,
        })
    }
}

/// What a good proof shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The tree.
    pub checkpoint: Checkpoint,
    /// The key that signed it, `<name>+<id>`.
    pub key: String,
}

impl Proof {
    /// Reads a file.
    ///
    /// # Errors
    /// It is none.
    pub fn read(text: &str) -> Result<Self, String> {
        let proof: Proof = serde_json::from_str(text).map_err(|e| format!("this is no proof: {e}"))?;
        match proof.format == FORMAT {
            true => Ok(proof),
            false => Err(format!("the format is {:?}, expected {FORMAT:?}", proof.format)),
        }
    }

    /// Checks everything: the signature, and that record, place and path lead to the signed root.
    ///
    /// # Errors
    /// What does not match.
    pub fn check(&self, keys: &[Verifier]) -> Result<Shown, String> {
        let (checkpoint, key) =
            Checkpoint::open(&self.checkpoint, keys).map_err(|error| format!("the checkpoint is {error}"))?;
        self.lead_to(&checkpoint)?;
        Ok(Shown { key: key.label(), checkpoint })
    }

    fn lead_to(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        let hash = |node: &String| checkpoint::hash(node).ok_or_else(|| format!("{node:?} in the path is no hash"));
        let path = self.path.iter().map(hash).collect::<Result<Vec<_>, _>>()?;
        let Checkpoint { size, root, .. } = checkpoint;
        let index = self.leaf_index;
        let found = tree::root_by_path(self.record.hash()?, index, *size, &path)
            .ok_or_else(|| format!("a path of {} hashes is none from leaf {index} of {size}", path.len()))?;
        if found != *root {
            return Err(format!(
                "record, offset, leaf index and path lead to the root {}, the checkpoint has {}",
                checkpoint::base64(&found),
                checkpoint::base64(root)
            ));
        }
        Ok(())
    }
}

/// Proves that the record at an offset is in its tree, as the newest checkpoint has it. The hashes of the other records come
/// from the blocks, so the log is not read again, and records may have left it.
///
/// # Errors
/// The log's; it is not sealed yet; or the record or the blocks are not what was signed.
pub async fn prove(log: &dyn EventLog, tree: &Tree, offset: Offset) -> Result<Proof, SealError> {
    let (row, topic, partition) = (tree.row(), tree.collection.topic(), tree.partition);
    let different = |what: &str| {
        SealError::Different(format!(
            "{what}; `primalcore audit consistency --collection {}` says where the log is not as it was sealed",
            tree.collection
        ))
    };
    let state = Keyed::rows(log, Topic::seals()).await?.remove(&row);
    let state: Option<State> = state
        .map(|state| serde_json::from_slice(&state).map_err(|_| different("the state of the seal cannot be read")))
        .transpose()?;
    let state = state.filter(|state| offset < state.next).ok_or_else(|| {
        SealError::Usage(format!(
            "{topic}/{partition} is not sealed as far as offset {offset}; `primalcore audit seal` does that"
        ))
    })?;
    let signed = Checkpoint::unverified(&state.checkpoint).ok_or_else(|| different("the newest checkpoint is none"))?;
    let found = place(log, &row, offset).await?;
    let (index, sealed) = found.filter(|(index, _)| *index < signed.size).ok_or_else(|| {
        if offset < state.first {
            let first = state.first;
            return SealError::Usage(format!(
                "offset {offset} is older than the seals of {topic}/{partition}, which begin at offset {first}"
            ));
        }
        different(&format!("no block has the record at offset {offset} of {topic}/{partition}"))
    })?;
    let path = gather(log, &row, tree::inclusion(index, signed.size), signed.size).await?;
    let path = path.ok_or_else(|| different("blocks of the tree are missing"))?;
    let mut records = Records::new();
    log.read(&topic, partition, offset..offset + 1).await?.fetch(&mut records, Limits { records: 1, bytes: 1 }).await?;
    let record = records.get(0).filter(|record| record.offset == offset);
    let leaf = record.map(Leaf::of).filter(|leaf| leaf.hash(&mut Vec::new()) == sealed);
    let leaf = leaf.ok_or_else(|| {
        different(&format!("the record at offset {offset} of {topic}/{partition} is not the sealed one"))
    })?;
    let proof = Proof {
        format: FORMAT.to_owned(),
        record: Record::of(&leaf),
        leaf_index: index,
        path: path.iter().map(|hash| checkpoint::base64(hash)).collect(),
        checkpoint: state.checkpoint,
    };
    proof.lead_to(&signed).map_err(|_| different("the blocks of the tree are not those that were signed"))?;
    Ok(proof)
}

/// The leaf of a record: its index and its hash.
async fn place(log: &dyn EventLog, row: &str, offset: Offset) -> Result<Option<(u64, Hash)>, SealError> {
    let mut found = None;
    let blocks = Blocks::now(log).await?;
    blocks
        .each(async |tree, bytes| {
            // Damaged blocks are somebody else's or missed below.
            if let Some(block) = Some(bytes).filter(|_| tree == row).and_then(|bytes| Block::decode(bytes).ok())
                && block.offsets().contains(&offset)
            {
                let leaf = (block.head.index..).zip(block.records()).find(|(_, (at, _))| *at == offset);
                found = leaf.map(|(index, (_, hash))| (index, hash));
            }
            Ok(found.is_none())
        })
        .await?;
    Ok(found)
}

/// The roots of these spans of a tree of a size, from its blocks; `None` where some are missing.
pub(crate) async fn gather(
    log: &dyn EventLog,
    row: &str,
    spans: Vec<Range<u64>>,
    size: u64,
) -> Result<Option<Vec<Hash>>, SealError> {
    let (mut gather, mut at) = (Gather::new(spans), 0);
    let blocks = Blocks::now(log).await?;
    blocks
        .each(async |tree, bytes| {
            // Two who sealed at a time have written the same leaves twice.
            if let Some(block) = Some(bytes).filter(|_| tree == row).and_then(|bytes| Block::decode(bytes).ok())
                && block.head.index <= at
            {
                let had = usize::try_from(at - block.head.index).unwrap_or(usize::MAX);
                for leaf in block.leaves.iter().skip(had) {
                    gather.push(*leaf);
                    at += 1;
                }
            }
            Ok(at < size)
        })
        .await?;
    Ok(gather.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::Signer;
    use crate::testing::World;
    use serde_json::Value;

    async fn proof() -> (Proof, Vec<Verifier>) {
        let mut world = World::new(1).await;
        world.publish(11).await;
        world.sealer().await.seal(&world.collection, &world.epochs).await.unwrap();
        (prove(&*world.log, &world.tree(4), 4).await.unwrap(), world.keys())
    }

    /// Changes every text and number of a document, one at a time.
    fn changed(value: &Value, all: &mut Vec<Value>, whole: &dyn Fn(Value) -> Value) {
        match value {
            Value::String(text) => {
                for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
                    let other = if text[at..].starts_with('A') { "B" } else { "A" };
                    let next = text[at..].chars().next().map_or(0, char::len_utf8);
                    all.push(whole(format!("{}{other}{}", &text[..at], &text[at + next..]).into()));
                    all.push(whole(format!("{}{}", &text[..at], &text[at + next..]).into()));
                }
            }
            Value::Number(number) => all.push(whole((number.as_i64().unwrap() + 1).into())),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    changed(item, all, &|part| {
                        let mut items = items.clone();
                        items[index] = part;
                        whole(items.into())
                    });
                    let mut fewer = items.clone();
                    fewer.remove(index);
                    all.push(whole(fewer.into()));
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    changed(member, all, &|part| {
                        let mut members = members.clone();
                        members.insert(name.clone(), part);
                        whole(members.into())
                    });
                }
            }
            _ => {}
        }
    }

    #[tokio::test]
    async fn a_proof_holds_and_no_changed_one_does() {
        let (proof, keys) = proof().await;
        let text = serde_json::to_string(&proof).unwrap();
        assert_eq!(Proof::read(&text).as_ref(), Ok(&proof));
        assert!(proof.check(&keys).is_ok());
        let mut all = Vec::new();
        changed(&serde_json::to_value(&proof).unwrap(), &mut all, &|value| value);
        assert!(all.len() > 500, "{}", all.len());
        for changed in all {
            let text = changed.to_string();
            let checked = Proof::read(&text).and_then(|proof| proof.check(&keys).map(drop));
            assert!(checked.is_err(), "{text}");
        }
        let mut more = serde_json::to_value(&proof).unwrap();
        more["comment"] = "not hashed".into();
        assert!(Proof::read(&more.to_string()).unwrap_err().contains("unknown field `comment`"));
    }

    #[tokio::test]
    async fn another_key_is_refused_and_headers_may_come_in_any_order() {
        let (mut proof, keys) = proof().await;
        let stranger = Signer::generate("test").unwrap();
        let error = proof.check(&[stranger.verifier().clone()]).unwrap_err();
        assert!(error.starts_with("the checkpoint is not signed by test+"), "{error}");
        proof.record.headers.reverse();
        assert!(proof.check(&keys).is_ok());
    }

    #[test]
    fn bytes_that_are_no_text_come_back() {
        let leaf = Leaf::new(3, Some(b"\xff\x00"), vec![("ce_id", Some(b"\xfe")), ("ce_x", None)], None);
        let record = Record::of(&leaf);
        let read: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(read.hash(), Ok(leaf.hash(&mut Vec::new())));
        assert!(matches!(record.key, Some(Bytes::Base64(_))) && record.id().is_none());
    }
}
