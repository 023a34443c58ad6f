//! Headers of a record as one compact block of bytes, in memory and in the embedded log alike.
//!
//! A block is a sequence of `code: u8`, then for code 0 `name length: u16` and the name, then `value length: u32`
//! (`u32::MAX` for a null value) and the value; numbers are little-endian. Codes stand for the names in [`NAMES`]; since
//! the embedded log stores blocks, that list may only ever grow at its end.

/// CloudEvents context attributes as Kafka headers (CloudEvents Kafka binding 1.0.2, §3.2), and what comes with them.
pub const SPEC_VERSION: &str = "ce_specversion";
/// The event's id.
pub const ID: &str = "ce_id";
/// Where the event came from.
pub const SOURCE: &str = "ce_source";
/// What kind of event it is.
pub const TYPE: &str = "ce_type";
/// When it happened.
pub const TIME: &str = "ce_time";
/// Which schema its data follows.
pub const DATA_SCHEMA: &str = "ce_dataschema";
/// `put`, `delete` or `append`; absent where the value says it (null: delete, else put).
pub const OP: &str = "ce_op";
/// The Primal Logic parameters, where they differ from the standard ones.
pub const PRIMAL: &str = "ce_primal";
/// What belongs together: all that one request or process led to carries the same.
pub const CORRELATION: &str = "ce_correlationid";
/// The id of the event that led to this one.
pub const CAUSATION: &str = "ce_causationid";
/// Who did it.
pub const ACTOR: &str = "ce_actor";
/// The media type of the value; absent means JSON.
pub const CONTENT_TYPE: &str = "content-type";

/// Index + 1 is the code of a name.
const NAMES: &[&str] = &[
    SPEC_VERSION,
    ID,
    SOURCE,
    TYPE,
    TIME,
    DATA_SCHEMA,
    OP,
    PRIMAL,
    CORRELATION,
    CAUSATION,
    "ce_traceparent",
    ACTOR,
    CONTENT_TYPE,
];

const NULL: u32 = u32::MAX;

/// Appends one header to a block. A name longer than 65,535 bytes is cut off there; Kafka allows no longer ones.
pub fn push(block: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    match NAMES.iter().position(|known| *known == name) {
        Some(index) => block.push(index as u8 + 1),
        None => {
            let name = name.get(..name.floor_char_boundary(usize::from(u16::MAX))).unwrap_or_default();
            block.push(0);
            block.extend_from_slice(&(name.len() as u16).to_le_bytes());
            block.extend_from_slice(name.as_bytes());
        }
    }
    block.extend_from_slice(&value.map_or(NULL, |v| v.len() as u32).to_le_bytes());
    block.extend_from_slice(value.unwrap_or_default());
}

/// The headers of a block, in their order. Reading ends at the first byte that makes no sense.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// Over a block made by [`push`].
    pub fn new(block: &'a [u8]) -> Self {
        Headers(block)
    }

    /// The block itself.
    pub fn block(&self) -> &'a [u8] {
        self.0
    }

    /// The last value of a name (a later header of the same name wins, as in Kafka's `lastHeader`).
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.filter(|(n, _)| *n == name).last().and_then(|(_, value)| value)
    }

    /// The same as text; `None` when it is absent or not UTF-8.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn next_header<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, Option<&'a [u8]>)> {
    let (code, tail) = rest.split_first()?;
    *rest = tail;
    let name = match code.checked_sub(1) {
        Some(index) => *NAMES.get(usize::from(index))?,
        None => {
            let length = u16::from_le_bytes(take(rest, 2)?.try_into().ok()?);
            std::str::from_utf8(take(rest, usize::from(length))?).ok()?
        }
    };
    let value = match u32::from_le_bytes(take(rest, 4)?.try_into().ok()?) {
        NULL => None,
        length => Some(take(rest, length as usize)?),
    };
    Some((name, value))
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let header = next_header(&mut self.0);
        if header.is_none() {
            self.0 = &[];
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_unknown_null_and_repeated_headers_come_back() {
        let mut block = Vec::new();
        push(&mut block, ID, Some(b"1"));
        push(&mut block, "x-own", None);
        push(&mut block, ID, Some(b"2"));
        let headers = Headers::new(&block);
        let all: Vec<_> = headers.collect();
        assert_eq!(all, [(ID, Some(&b"1"[..])), ("x-own", None), (ID, Some(&b"2"[..]))]);
        assert_eq!(headers.text(ID), Some("2"));
        assert_eq!(headers.get("absent"), None);
    }

    #[test]
    fn a_name_that_is_too_long_does_not_hide_the_headers_behind_it() {
        let mut block = Vec::new();
        push(&mut block, &"é".repeat(40_000), Some(b"x"));
        push(&mut block, ID, Some(b"1"));
        assert_eq!(Headers::new(&block).text(ID), Some("1"));
        assert_eq!(Headers::new(&block).next().unwrap().0.len(), 65_534);
    }

    proptest! {
        #[test]
        fn headers_come_back_as_they_went(
            all in prop::collection::vec((".{0,12}", prop::option::of(prop::collection::vec(any::<u8>(), 0..12))), 0..8),
        ) {
            let mut block = Vec::new();
            all.iter().for_each(|(name, value)| push(&mut block, name, value.as_deref()));
            let read: Vec<_> = Headers::new(&block).map(|(n, v)| (n.to_owned(), v.map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(read, all);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Headers::new(&bytes).count() <= bytes.len());
        }
    }
}
