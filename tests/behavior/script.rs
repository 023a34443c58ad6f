//! A partition of the log written by hand, and batches cut from it.

use std::collections::BTreeMap;
use std::ops::Range;

use primal_core::batch::Batch;
use primal_core::event::EventRef;
use primal_core::sink::{Content, Projection, Stored, Target};
use primal_core::{Epochs, Position, Records, Sink, Timestamp, header};

/// Records of partition 0, offsets from 0.
#[derive(Default)]
pub struct Script {
    records: Records,
}

impl Script {
    pub fn of(events: &[(&str, Option<&str>)]) -> Self {
        let mut script = Script::default();
        for (key, data) in events {
            script.push(key, *data, &[]);
        }
        script
    }

    /// Adds an event: data make a put, none a delete. Its id is `e<offset>`.
    pub fn push(&mut self, key: &str, data: Option<&str>, headers: &[(&str, &str)]) {
        let offset = self.records.next_offset().unwrap_or(0);
        self.records.push(offset, Timestamp(offset), Some(key.as_bytes()), data.map(str::as_bytes), |block| {
            header::push(block, header::SPEC_VERSION, Some(b"1.0"));
            header::push(block, header::ID, Some(format!("e{offset}").as_bytes()));
            header::push(block, header::TIME, Some(b"2013-01-01T10:15:00.000001Z"));
            for (name, value) in headers {
                header::push(block, name, Some(value.as_bytes()));
            }
        });
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// A batch of a range that does not move the position.
    pub fn batch(&self, projection: Projection, range: Range<usize>) -> Batch<'_> {
        let events = range.map(|offset| EventRef::decode(self.records.get(offset).unwrap()).unwrap());
        Batch::fold(0, &Epochs::first(1), projection, events).unwrap()
    }

    /// A batch of a range that moves the position from its start to its end.
    pub fn advancing(&self, projection: Projection, range: Range<usize>) -> Batch<'_> {
        let at = |offset: usize| Position::new(0, offset as i64);
        let expected = (range.start > 0).then(|| at(range.start));
        let end = at(range.end);
        self.batch(projection, range).advancing(expected, end)
    }

    /// What a store has to hold after everything: per key the version and the digest of its last event.
    pub fn folded(&self, target: &Target) -> BTreeMap<String, (u64, Option<primal_core::Digest>)> {
        let batch = self.batch(target.projection, 0..self.len());
        let one = |event: &primal_core::BatchEvent<'_>| {
            let digest = event.data.map(|data| target.digest(data).unwrap());
            let identity = target.identity(event.key, event.id, event.data, event.time()).unwrap();
            (identity.into_owned(), (event.version.0, digest))
        };
        // Of several with one identity the last counts.
        batch.events.iter().map(one).collect()
    }
}

/// Everything that a target holds, by scanning.
pub async fn all(sink: &dyn Sink, target: &Target) -> BTreeMap<String, Stored> {
    let reader = sink.reader().expect("a store that claims to be readable has a reader");
    let (mut records, mut cursor) = (BTreeMap::new(), None::<String>);
    loop {
        let page = reader.scan(target, cursor.as_deref()).await.unwrap();
        for stored in page.records {
            let twice = records.insert(stored.identity.clone(), stored);
            assert_eq!(twice, None, "a scan of a store at rest gives a record once");
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return records,
        }
    }
}

/// Checks that a target holds exactly what the script says, by scan and by get.
pub async fn assert_holds(sink: &dyn Sink, target: &Target, script: &Script) {
    let (found, expected) = (all(sink, target).await, script.folded(target));
    let compared: BTreeMap<_, _> = found.iter().map(|(k, s)| (k.clone(), (s.version.0, s.digest()))).collect();
    assert_eq!(compared, expected, "{:?} {}", target.projection, target.place());
    for (identity, stored) in found {
        assert_eq!(sink.reader().unwrap().get(target, &identity).await.unwrap(), Some(stored));
    }
}

/// Whether a stored record is a tombstone.
pub fn is_deleted(stored: &Stored) -> bool {
    stored.content == Content::Deleted
}

/// The header that makes a put an append.
pub const APPEND: (&str, &str) = (header::OP, "append");
