//! The bytes of a batch: record after record as `key length, value length, headers length` (u32, little-endian,
//! `u32::MAX` for a null key or value) and then key, value and header block.

use primal_core::record::NewRecord;
use primal_core::{Offset, Records, Timestamp};

const NULL: u32 = u32::MAX;

/// Adds one record.
pub(crate) fn push(body: &mut Vec<u8>, record: &NewRecord) {
    let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(NULL, |b| b.len() as u32);
    body.extend_from_slice(&length(&record.key).to_le_bytes());
    body.extend_from_slice(&length(&record.value).to_le_bytes());
    body.extend_from_slice(&(record.headers.len() as u32).to_le_bytes());
    body.extend_from_slice(record.key.as_deref().unwrap_or_default());
    body.extend_from_slice(record.value.as_deref().unwrap_or_default());
    body.extend_from_slice(&record.headers);
}

/// Reads a batch from its first record on.
pub(crate) struct Cursor {
    body: Vec<u8>,
    at: usize,
    /// The offset of the record that comes next.
    pub next: Offset,
    recorded: Timestamp,
}

impl Cursor {
    pub(crate) fn new(body: Vec<u8>, base: Offset, recorded: Timestamp) -> Self {
        Cursor { body, at: 0, next: base, recorded }
    }

    /// Whether all records were read.
    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.body.len()
    }

    /// Moves the next record into `records`, or over it where there are none. `None` when the bytes make no sense.
    pub(crate) fn take(&mut self, records: Option<&mut Records>) -> Option<()> {
        let mut at = self.at;
        let mut bytes = |length: usize| {
            let slice = self.body.get(at..at.checked_add(length)?)?;
            at += length;
            Some(slice)
        };
        let mut number = || Some(u32::from_le_bytes(bytes(4)?.try_into().ok()?));
        let (key, value, headers) = (number()?, number()?, number()?);
        let mut part = |length: u32| if length == NULL { Some(None) } else { bytes(length as usize).map(Some) };
        let (key, value) = (part(key)?, part(value)?);
        let headers = bytes(headers as usize)?;
        if let Some(records) = records {
            records.push(self.next, self.recorded, key, value, |block| block.extend_from_slice(headers));
        }
        self.at = at;
        self.next += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use primal_core::Collection;
    use proptest::prelude::*;

    type Bytes = Option<Vec<u8>>;

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..30))
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_went(parts in prop::collection::vec((bytes(), bytes(), bytes()), 1..20)) {
            let topic = Collection::new("c").unwrap().topic();
            let mut body = Vec::new();
            for (key, value, headers) in &parts {
                let headers = headers.clone().unwrap_or_default();
                push(&mut body, &NewRecord { topic: topic.clone(), partition: None, key: key.clone(), value: value.clone(), headers });
            }
            let (mut cursor, mut records) = (Cursor::new(body, 7, Timestamp(3)), Records::new());
            while !cursor.is_done() {
                prop_assert!(cursor.take(Some(&mut records)).is_some());
            }
            prop_assert_eq!(records.len(), parts.len());
            for (record, (key, value, headers)) in records.iter().zip(&parts) {
                prop_assert_eq!((record.key, record.value), (key.as_deref(), value.as_deref()));
                prop_assert_eq!(record.headers.block(), headers.as_deref().unwrap_or_default());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut cursor, mut records) = (Cursor::new(body, 0, Timestamp(0)), Records::new());
            while !cursor.is_done() && cursor.take(Some(&mut records)).is_some() {}
        }
    }
}
