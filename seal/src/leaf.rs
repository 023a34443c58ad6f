//! What of a record is hashed, byte for byte. Whatever is not in here may change without anybody noticing; whatever is
//! changed here makes every proof worthless that was given before.

use primal_core::{Offset, RecordRef, header};

use crate::tree::{Hash, leaf_hash};

/// The layout, as the first byte of every leaf.
const LAYOUT: u8 = 1;

/// A record's part of the tree: what an event says, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The event's attributes, ordered by name.
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
    /// The payload.
    pub value: Option<&'a [u8]>,
}

/// Whether a header is part of the event: a CloudEvents attribute in Kafka's binary mode, where `content-type` stands for
/// `datacontenttype`.
fn is_attribute(name: &str) -> bool {
    name.starts_with("ce_") || name == header::CONTENT_TYPE
}

impl<'a> Leaf<'a> {
    /// Of a record as the log has it.
    pub fn of(record: RecordRef<'a>) -> Self {
        let headers = record.headers.filter(|(name, _)| is_attribute(name)).collect();
        Leaf::new(record.offset, record.key, headers, record.value)
    }

    /// Of its parts; headers of one name stay in their order, since the last one counts.
    pub fn new(
        offset: Offset,
        key: Option<&'a [u8]>,
        mut headers: Vec<(&'a str, Option<&'a [u8]>)>,
        value: Option<&'a [u8]>,
    ) -> Self {
        headers.sort_by_key(|(name, _)| *name);
        Leaf { offset, key, headers, value }
    }

    /// The bytes that are hashed; numbers are big-endian, `bytes` is a length (u32) and as many bytes, `optional` a byte 1
    /// and then `bytes`, or a byte 0: layout (u8, 1), offset (u64), key (optional), how many headers (u32), each name (bytes)
    /// and value (optional), value (optional).
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT);
        out.extend_from_slice(&self.offset.to_be_bytes());
        optional(out, self.key);
        out.extend_from_slice(&(self.headers.len() as u32).to_be_bytes());
        for (name, value) in &self.headers {
            bytes(out, name.as_bytes());
            optional(out, *value);
        }
        optional(out, self.value);
    }

    /// Its hash in the tree; `room` is reused.
    pub fn hash(&self, room: &mut Vec<u8>) -> Hash {
        room.clear();
        self.write(room);
        leaf_hash(room)
    }
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn optional(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        bytes(out, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use primal_core::{Records, Timestamp};
    use proptest::prelude::*;

    type Header = (String, Option<Vec<u8>>);
    type Parts = (i64, Option<Vec<u8>>, Vec<Header>, Option<Vec<u8>>);

    fn record(records: &mut Records, (offset, key, headers, value): &Parts) {
        records.push(*offset, Timestamp(9), key.as_deref(), value.as_deref(), |block| {
            headers.iter().for_each(|(name, value)| header::push(block, name, value.as_deref()));
        });
    }

    fn written(parts: &Parts) -> Vec<u8> {
        let (mut records, mut out) = (Records::new(), Vec::new());
        record(&mut records, parts);
        Leaf::of(records.get(0).unwrap()).write(&mut out);
        out
    }

    /// If this has to be changed, the layout's number has to be another one, and old trees a verifier of their own.
    #[test]
    fn the_bytes_are_as_documented() {
        let headers = vec![
            ("x-trace".to_owned(), Some(b"not hashed".to_vec())),
            ("ce_type".to_owned(), Some(b"t".to_vec())),
            ("ce_id".to_owned(), Some(b"1".to_vec())),
            ("content-type".to_owned(), None),
        ];
        let expected = [
            &b"\x01\0\0\0\0\0\0\x02\x05\x01\0\0\0\x02k1"[..],
            b"\0\0\0\x03",
            b"\0\0\0\x05ce_id\x01\0\0\0\x011",
            b"\0\0\0\x07ce_type\x01\0\0\0\x01t",
            b"\0\0\0\x0ccontent-type\0",
            b"\x01\0\0\0\x02{}",
        ];
        assert_eq!(written(&(517, Some(b"k1".to_vec()), headers, Some(b"{}".to_vec()))), expected.concat());
        assert_eq!(written(&(0, None, Vec::new(), None)), b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }

    fn parts() -> impl Strategy<Value = Parts> {
        let bytes = || prop::option::of(prop::collection::vec(0u8..3, 0..3));
        let headers = prop::collection::vec(("ce_[ab]{0,1}|content-type", bytes()), 0..3);
        (0i64..3, bytes(), headers, bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Nothing can be moved from one field to another: equal bytes are equal events.
        #[test]
        fn different_events_have_different_bytes(a in parts(), b in parts()) {
            let sorted = |parts: &Parts| {
                let mut parts = parts.clone();
                parts.2.sort_by(|a, b| a.0.cmp(&b.0));
                parts
            };
            prop_assert_eq!(written(&a) == written(&b), sorted(&a) == sorted(&b));
        }
    }
}
