//! A payload as the store's own kind of document, for queries. It may say less than the text, which is kept beside it: of a
//! member that stands twice the last counts, numbers beyond 64 bits are doubles.

use std::fmt;

use mongodb::bson::{Bson, Document};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Below this depth text is kept. A document may be 100 levels deep
/// (<https://www.mongodb.com/docs/manual/reference/limits/>), and stands inside a record.
const DEPTH: usize = 80;

/// The payload, or `None` where it cannot be said: a number beyond all doubles, text that is no object.
pub(crate) fn native(data: &str) -> Option<Document> {
    let mut reader = serde_json::Deserializer::from_str(data);
    match (Member { depth: 0 }).deserialize(&mut reader).ok()? {
        Bson::Document(document) => Some(document),
        _ => None,
    }
}

/// A member's name as it may stand in a document: a point and a leading dollar mean something in queries, and no name can
/// hold a zero byte. The full-width forms are those that MongoDB's own manual used to recommend.
fn name(name: String) -> String {
    if !name.contains(['.', '\0']) && !name.starts_with('$') {
        return name;
    }
    let name = name.replace('.', "\u{ff0e}").replace('\0', "\u{2400}");
    name.strip_prefix('$').map(|rest| format!("\u{ff04}{rest}")).unwrap_or(name)
}

#[derive(Clone, Copy)]
struct Member {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Member {
    type Value = Bson;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Bson, D::Error> {
        if self.depth < DEPTH {
            return reader.deserialize_any(self);
        }
        let text = <&RawValue as serde::Deserialize>::deserialize(reader)?.get();
        if text.starts_with(['{', '[']) {
            return Ok(Bson::String(text.to_owned()));
        }
        (Member { depth: 0 }).deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(D::Error::custom)
    }
}

impl<'de> Visitor<'de> for Member {
    type Value = Bson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Bson, E> {
        Ok(Bson::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Bson, E> {
        Ok(Bson::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Bson, E> {
        Ok(Bson::Int64(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Bson, E> {
        Ok(i64::try_from(value).map_or(Bson::Double(value as f64), Bson::Int64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Bson, E> {
        // Some servers refuse a negative zero; it is the same number.
        Ok(Bson::Double(if value == 0.0 { 0.0 } else { value }))
    }

    fn visit_str<E>(self, value: &str) -> Result<Bson, E> {
        Ok(Bson::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bson, A::Error> {
        let (mut values, member) = (Vec::new(), Member { depth: self.depth + 1 });
        while let Some(value) = list.next_element_seed(member)? {
            values.push(value);
        }
        Ok(Bson::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bson, A::Error> {
        let (mut document, member) = (Document::new(), Member { depth: self.depth + 1 });
        while let Some(key) = map.next_key::<String>()? {
            document.insert(name(key), map.next_value_seed(member)?);
        }
        Ok(Bson::Document(document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{RawDocumentBuf, doc};
    use proptest::prelude::*;

    #[test]
    fn a_payload_is_a_document_of_plain_values() {
        let data = r#"{"n":9007199254740993,"x":0.1,"big":18446744073709551615,"z":-0.0,"l":[true,null,{"a.b":1,"$c":2}],"n":3}"#;
        let inner = doc! { "a\u{ff0e}b": 1_i64, "\u{ff04}c": 2_i64 };
        let expected =
            doc! { "n": 3_i64, "x": 0.1, "big": 18446744073709551615_f64, "z": 0.0, "l": [true, Bson::Null, inner] };
        assert_eq!(native(data).unwrap(), expected);
    }

    #[test]
    fn what_is_too_deep_or_too_large_stays_text() {
        let deep = format!("{}1{}", "{\"a\":[".repeat(500), "]}".repeat(500));
        let text = native(&deep).unwrap().to_string();
        assert!(text.contains("{\\\"a\\\":[{\\\"a\\\":[") || text.contains("{\"a\":[{\"a\":["), "{text}");
        assert_eq!(native(r#"{"n":1e999}"#), None);
        assert_eq!(native("[1]"), None);
    }

    proptest! {
        #[test]
        fn any_object_can_be_written(names in proptest::collection::vec("[a.$\\x00\"é]{0,6}", 0..6), text in "\\PC{0,20}") {
            let members: Vec<_> =
                names.iter().map(|name| format!("{}:{}", serde_json::json!(name), serde_json::json!(text))).collect();
            let document = native(&format!("{{{}}}", members.join(","))).unwrap();
            prop_assert!(RawDocumentBuf::try_from(&document).is_ok());
            for name in document.keys() {
                prop_assert!(!name.starts_with('$') && !name.contains(['.', '\0']));
            }
        }
    }
}
