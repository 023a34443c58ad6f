//! Which identities a job has written to a build that it began with nothing in it: all others are new to the store.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashSet};
use primal_core::batch::Batch;
use primal_core::sink::Projection;

/// So many are remembered, about 40 MB; what comes after them is compared as ever.
const MOST: usize = 2 << 20;

/// Identities of one partition, by their hashes: two that have one hash count as seen.
#[derive(Debug, Default)]
pub struct Seen {
    hasher: DefaultHashBuilder,
    hashes: HashSet<u64>,
}

impl Seen {
    /// Marks the events of identities that did not come before.
    pub(crate) fn mark(&mut self, batch: &mut Batch<'_>, projection: Projection) {
        // A point is told by what is in its payload.
        if projection == Projection::Series {
            return;
        }
        for event in &mut batch.events {
            let hash = self.hasher.hash_one(event.identity(projection));
            event.fresh = self.hashes.len() < MOST && self.hashes.insert(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use primal_core::event::EventRef;
    use primal_core::{Epochs, Records, Timestamp, header};

    #[test]
    fn an_identity_is_new_once() {
        let mut records = Records::new();
        for (offset, key) in ["a", "b", "a"].iter().enumerate() {
            records.push(offset as i64, Timestamp(0), Some(key.as_bytes()), Some(b"{}"), |block| {
                header::push(block, header::SPEC_VERSION, Some(b"1.0"));
                header::push(block, header::ID, Some(&[b'0' + offset as u8]));
            });
        }
        let fresh = |projection, seen: &mut Seen| {
            let events = records.iter().map(|record| EventRef::decode(record).unwrap());
            let mut batch = Batch::fold(0, &Epochs::first(1), projection, events).unwrap();
            seen.mark(&mut batch, projection);
            batch.events.iter().map(|event| event.fresh).collect::<Vec<_>>()
        };
        let mut seen = Seen::default();
        assert_eq!(fresh(Projection::Document, &mut seen), [true, true]);
        assert_eq!(fresh(Projection::Document, &mut seen), [false, false]);
        assert_eq!(fresh(Projection::Events, &mut Seen::default()), [true, true, true]);
        assert_eq!(fresh(Projection::Series, &mut Seen::default()), [false, false, false]);
    }
}
