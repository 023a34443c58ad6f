//! Records as the log holds them: bytes with an offset. [`Records`] is a run of them in one buffer, which is what moves
//! through the hub; nothing in it is parsed until somebody asks.

use crate::header::Headers;
use crate::{Offset, Partition, Timestamp, Topic};

/// A record to be appended.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Where to.
    pub topic: Topic,
    /// `None`: the log chooses by the key (murmur2, as Kafka's Java clients do).
    pub partition: Option<Partition>,
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// A block as made by [`crate::header::push`].
    pub headers: Vec<u8>,
}

const ABSENT: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Slot {
    offset: Offset,
    recorded: Timestamp,
    start: u32,
    key: u32,
    value: u32,
    headers: u32,
}

/// Records of one partition in offset order, in one buffer of less than 4 GiB.
#[derive(Debug, Default)]
pub struct Records {
    buffer: Vec<u8>,
    slots: Vec<Slot>,
    next: Option<Offset>,
}

impl Records {
    /// None yet.
    pub fn new() -> Self {
        Records::default()
    }

    /// Adds a record. Its `headers` are written by the given function straight into the buffer.
    pub fn push(
        &mut self,
        offset: Offset,
        recorded: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(key.unwrap_or_default());
        self.buffer.extend_from_slice(value.unwrap_or_default());
        let body = self.buffer.len();
        headers(&mut self.buffer);
        self.slots.push(Slot {
            offset,
            recorded,
            start: start as u32,
            key: key.map_or(ABSENT, |k| k.len() as u32),
            value: value.map_or(ABSENT, |v| v.len() as u32),
            headers: (self.buffer.len() - body) as u32,
        });
        self.next = Some(offset + 1);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of keys, values and headers together.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The offset to read from next: after the last record, or further where the log has nothing readable there
    /// (transaction markers, compaction). `None` when nothing was read.
    pub fn next_offset(&self) -> Option<Offset> {
        self.next
    }

    /// Says that everything before `next` was read, though no record stands there.
    pub fn advance_to(&mut self, next: Offset) {
        self.next = self.next.max(Some(next));
    }

    /// Forgets all records and keeps the memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.slots.clear();
        self.next = None;
    }

    /// The record at an index.
    pub fn get(&self, index: usize) -> Option<RecordRef<'_>> {
        self.slots.get(index).map(|slot| self.at(slot))
    }

    /// All records in offset order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordRef<'_>> {
        self.slots.iter().map(|slot| self.at(slot))
    }

    fn at(&self, slot: &Slot) -> RecordRef<'_> {
        let length = |n: u32| if n == ABSENT { 0 } else { n as usize };
        let key_end = slot.start as usize + length(slot.key);
        let value_end = key_end + length(slot.value);
        let span = |from: usize, to: usize| self.buffer.get(from..to).unwrap_or_default();
        RecordRef {
            offset: slot.offset,
            recorded: slot.recorded,
            key: (slot.key != ABSENT).then(|| span(slot.start as usize, key_end)),
            value: (slot.value != ABSENT).then(|| span(key_end, value_end)),
            headers: Headers::new(span(value_end, value_end + slot.headers as usize)),
        }
    }
}

/// One record, borrowed from its [`Records`].
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// When the log took it.
    pub recorded: Timestamp,
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// All headers.
    pub headers: Headers<'a>,
}

impl RecordRef<'_> {
    /// An owned copy for another topic, partition chosen by the key.
    pub fn to_new(&self, topic: Topic) -> NewRecord {
        NewRecord {
            topic,
            partition: None,
            key: self.key.map(<[u8]>::to_vec),
            value: self.value.map(<[u8]>::to_vec),
            headers: self.headers.block().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header;

    #[test]
    fn records_come_back_with_nulls_and_gaps() {
        let mut records = Records::new();
        assert_eq!(records.next_offset(), None);
        records.push(5, Timestamp(1), Some(b"k"), None, |block| header::push(block, header::ID, Some(b"id")));
        records.push(9, Timestamp(2), None, Some(b""), |_| {});
        records.advance_to(12);
        let (first, second) = (records.get(0).unwrap(), records.get(1).unwrap());
        assert_eq!((first.offset, first.key, first.value), (5, Some(&b"k"[..]), None));
        assert_eq!(first.headers.text(header::ID), Some("id"));
        assert_eq!((second.key, second.value), (None, Some(&b""[..])));
        assert_eq!((records.len(), records.next_offset()), (2, Some(12)));
        records.clear();
        assert!(records.is_empty() && records.get(0).is_none());
    }
}
