//! What a build has to hold as the log says: of each identity the event that counts, as a digest, and how far the log was
//! read for that. Verification makes one; whoever fills a build makes one on the way, so that the log is read once for both.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use primal_core::blocks::{Blocks, Digester, Left};
use primal_core::event::{EventRef, Op};
use primal_core::sink::Positions;
use primal_core::{Digest, Epochs, Offset, Partition, Position, Projection, Records, Sink, Target, Version};
use primal_runtime::dead_letter::Letters;

/// The last event of an identity that was read.
pub(crate) struct Settled {
    pub version: Version,
    pub digest: u128,
    pub leaves: bool,
}

/// What was read so far.
#[derive(Default)]
pub(crate) struct Read {
    /// By the hash of the identity.
    pub expected: HashMap<u128, Settled>,
    /// How far, per partition; from the beginning of the log.
    pub to: Positions,
    pub events: u64,
    pub dead_letters: u64,
}

/// One run of records of a partition, hashed.
#[derive(Default)]
pub(crate) struct Chunk {
    partition: Partition,
    next: Option<Position>,
    pub events: u64,
    dead_letters: u64,
    settled: Vec<(u128, Settled)>,
}

/// What hashing needs, away from the task that reads.
pub(crate) struct Hashing {
    target: Target,
    epochs: Epochs,
    digester: Digester,
    letters: Letters,
}

/// What the log says, for a store that adds up its records by blocks.
pub struct Tally {
    hashing: Arc<Hashing>,
    read: Mutex<Read>,
}

pub(crate) fn hash(identity: &str) -> u128 {
    Digest::of_bytes(b'k', identity.as_bytes()).0
}

pub(crate) fn identity<'a>(target: &Target, event: &EventRef<'a>) -> Option<&'a str> {
    match target.projection {
        Projection::Events => Some(event.id),
        Projection::Series => None,
        _ => Some(event.key),
    }
}

fn text<'a>(event: &EventRef<'a>) -> Option<&'a str> {
    event.data.and_then(|data| std::str::from_utf8(data).ok())
}

impl Hashing {
    /// As a store would hash; `letters` are left out.
    pub(crate) fn new(blocks: &dyn Blocks, target: &Target, epochs: &Epochs, letters: Letters) -> Self {
        Hashing { target: target.clone(), epochs: epochs.clone(), digester: blocks.digester(target), letters }
    }

    /// Of the events of an identity in a run only the one that counts is hashed. Those before an offset were counted before.
    pub(crate) fn chunk(&self, partition: Partition, records: &Records, counted: Offset) -> Chunk {
        let next = records.next_offset().map(|next| self.epochs.position(partition, next));
        let mut chunk = Chunk { partition, next, ..Chunk::default() };
        let first = self.is_first();
        let mut last: HashMap<&str, (Version, EventRef<'_>)> = HashMap::with_capacity(records.len());
        for record in records.iter() {
            let version = self.epochs.version(partition, record.offset);
            chunk.events += u64::from(record.offset >= counted);
            if !self.letters.is_empty() && self.letters.contains(&(partition, version)) {
                chunk.dead_letters += u64::from(record.offset >= counted);
                continue;
            }
            let Ok(event) = EventRef::decode(record) else { continue };
            let Some(identity) = identity(&self.target, &event) else { continue };
            if first {
                last.entry(identity).or_insert((version, event));
            } else {
                last.insert(identity, (version, event));
            }
        }
        chunk.settled.extend(last.into_iter().map(|(identity, (version, event))| {
            let leaves = first || event.op != Op::Delete;
            let left = Left { identity, version, event_id: event.id, data: text(&event) };
            let digest = (self.digester)(&left).unwrap_or_default();
            (hash(identity), Settled { version, digest, leaves })
        }));
        chunk
    }

    /// A repeated id is the same event, and the first counts; of a key's states the newest does.
    fn is_first(&self) -> bool {
        self.target.projection == Projection::Events
    }
}

impl Tally {
    /// Of nothing so far; `None` where the store does not add up records. `letters` are left out.
    pub fn new(sink: &dyn Sink, target: &Target, epochs: &Epochs, letters: Letters) -> Option<Self> {
        let blocks = sink.reader()?.blocks(target)?;
        Some(Tally::of(Arc::new(Hashing::new(blocks, target, epochs, letters))))
    }

    pub(crate) fn of(hashing: Arc<Hashing>) -> Self {
        Tally { hashing, read: Mutex::default() }
    }

    /// Takes in the next records of a partition, which follow on those that it has, or are some of them once more.
    pub fn take(&self, partition: Partition, records: &Records) {
        let counted = self.hashing.epochs.resume(self.read().to.get(&partition).copied());
        self.merge(self.hashing.chunk(partition, records, counted));
    }

    pub(crate) fn merge(&self, chunk: Chunk) {
        let first = self.hashing.is_first();
        let mut read = self.read();
        read.events += chunk.events;
        read.dead_letters += chunk.dead_letters;
        for (identity, settled) in chunk.settled {
            match read.expected.entry(identity) {
                hashbrown::hash_map::Entry::Vacant(place) => drop(place.insert(settled)),
                hashbrown::hash_map::Entry::Occupied(mut place) => {
                    if (settled.version < place.get().version) == first {
                        place.insert(settled);
                    }
                }
            }
        }
        if let Some(next) = chunk.next {
            let to = read.to.entry(chunk.partition).or_insert(next);
            *to = next.max(*to);
        }
    }

    pub(crate) fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether just these dead letters were left out of what was read.
    pub(crate) fn left_out(&self, letters: &Letters) -> bool {
        let read = self.read();
        let within = |(partition, version): &&(Partition, Version)| {
            let to = read.to.get(partition).map(|to| self.hashing.epochs.resume(Some(*to)));
            to.is_some_and(|to| *version < self.hashing.epochs.version(*partition, to))
        };
        let of = |letters: &Letters| letters.iter().filter(within).copied().collect::<Letters>();
        of(&self.hashing.letters) == of(letters)
    }
}
