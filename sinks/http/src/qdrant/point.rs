//! A record as a point: its id, its payload, and what of a payload would not come back as it went.

use primal_core::sink::{Content, Stored};
use primal_core::{BatchEvent, Digest, Fault, Primal, SinkError, Timestamp, Version};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_json::value::RawValue;
use uuid::Uuid;

/// What ids are made in; every hub makes the same ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x7b1f_53c6_0a1e_4d57_9a3c_5d1e_8c2b_6f40);

/// Deeper objects are kept as text only: the server reads JSON to a depth of 128, its own levels among them.
const DEEPEST: usize = 100;

/// The id of the point of a key: points have numbers or UUIDs, so it is a UUID made of the key (version 5).
pub(super) fn id(key: &str) -> String {
    Uuid::new_v5(&NAMESPACE, key.as_bytes()).to_string()
}

/// A point as it is written.
#[derive(Serialize)]
pub(super) struct Point<'a> {
    id: String,
    vector: &'a [f32],
    payload: Payload<'a>,
}

#[derive(Serialize)]
struct Payload<'a> {
    #[serde(rename = "_key")]
    key: &'a str,
    #[serde(rename = "_version")]
    version: u64,
    #[serde(rename = "_deleted")]
    deleted: bool,
    #[serde(rename = "_event_id")]
    event_id: &'a str,
    #[serde(rename = "_time")]
    time: String,
    #[serde(rename = "_alpha")]
    alpha: f64,
    #[serde(rename = "_lambda")]
    lambda: f64,
    #[serde(rename = "_k")]
    k: f64,
    /// The parameters as text, where the numbers may be read inexactly.
    #[serde(rename = "_primal", skip_serializing_if = "Option::is_none")]
    primal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Json>,
    /// The exact text, where `data` may be read inexactly.
    #[serde(rename = "_json", skip_serializing_if = "Option::is_none")]
    json: Option<&'a str>,
}

impl<'a> Point<'a> {
    /// The point of an event. A delete, which has no document, leaves one too: its version has to be remembered.
    pub(super) fn of(event: &BatchEvent<'a>, vector: &'a [f32], document: Option<&'a str>) -> Self {
        let (data, json) = document.map_or((None, None), kept);
        let primal = event.primal();
        let exact = [primal.alpha, primal.lambda, primal.k].into_iter().all(is_read_exactly);
        let payload = Payload {
            key: event.key,
            version: event.version.0,
            deleted: document.is_none(),
            event_id: event.id,
            time: event.time().to_string(),
            alpha: primal.alpha,
            lambda: primal.lambda,
            k: primal.k,
            primal: (!exact).then(|| primal.to_string()),
            data,
            json,
        };
        Point { id: id(event.key), vector, payload }
    }

    pub(super) fn to_json(&self) -> Result<String, SinkError> {
        serde_json::to_string(self).map_err(|e| SinkError::new(Fault::Internal, "writing a point as JSON").because(e))
    }
}

/// The vector of a tombstone. Not of zeros: those have no direction, which is what cosine compares.
pub(super) fn no_vector(size: usize) -> Vec<f32> {
    let mut vector = vec![0.0; size];
    vector.iter_mut().take(1).for_each(|first| *first = 1.0);
    vector
}

/// What is kept of a document: the object, which filters see, and its text where the object alone would not come back so.
fn kept(document: &str) -> (Option<Json>, Option<&str>) {
    let object = serde_json::from_str::<Json>(document).ok().filter(|object| depth(object) <= DEEPEST);
    let Some(object) = object else { return (None, Some(document)) };
    let comes_back = numbers_come_back(&object) && Digest::of_json(&object.to_string()) == Digest::of_json(document);
    (Some(object), (!comes_back).then_some(document))
}

fn depth(value: &Json) -> usize {
    match value {
        Json::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Json::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn numbers_come_back(value: &Json) -> bool {
    match value {
        Json::Number(number) => number.is_i64() || number.as_f64().is_some_and(is_read_exactly),
        Json::Array(items) => items.iter().all(numbers_come_back),
        Json::Object(members) => members.values().all(numbers_come_back),
        _ => true,
    }
}

/// Whether every reader of JSON gets this number right. The server's own (serde_json without `float_roundtrip`) may be off
/// by the last bit where neither 15 digits nor a power of ten below 10^22 is enough.
fn is_read_exactly(number: f64) -> bool {
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let count = digits.bytes().filter(u8::is_ascii_digit).count();
    count <= 15 && exponent.parse::<i32>().is_ok_and(|exponent| (-7..15).contains(&exponent))
}

/// The payload of a point as it is read.
#[derive(Deserialize)]
pub(super) struct Held {
    #[serde(rename = "_key")]
    key: String,
    #[serde(rename = "_version")]
    version: u64,
    #[serde(rename = "_deleted")]
    deleted: bool,
    #[serde(rename = "_event_id")]
    event_id: String,
    #[serde(rename = "_time")]
    time: String,
    #[serde(rename = "_alpha")]
    alpha: f64,
    #[serde(rename = "_lambda")]
    lambda: f64,
    #[serde(rename = "_k")]
    k: f64,
    #[serde(rename = "_primal")]
    primal: Option<String>,
    data: Option<Box<RawValue>>,
    #[serde(rename = "_json")]
    json: Option<String>,
}

impl Held {
    /// The record; `None` if the point is of something else.
    pub(super) fn stored(self) -> Option<Stored> {
        let content = match (self.deleted, self.json, self.data) {
            (true, ..) => Content::Deleted,
            (false, Some(text), _) => Content::Document(text),
            (false, None, Some(data)) => Content::Document(data.get().to_owned()),
            (false, None, None) => return None,
        };
        let numbers = Primal { alpha: self.alpha, lambda: self.lambda, k: self.k };
        Some(Stored {
            identity: self.key,
            version: Version(self.version),
            event_id: self.event_id,
            time: Timestamp::parse_rfc3339(&self.time)?,
            primal: self.primal.map_or(Some(numbers), |text| text.parse().ok())?,
            content,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_the_same_for_ever() {
        assert_eq!(id("EWR"), id("EWR"));
        assert_ne!(id("EWR"), id("ewr"));
        assert_eq!(id("flight 1"), "7f503625-ae4b-57b4-8a14-c2eb6207f67e");
    }

    #[test]
    fn text_is_kept_beside_an_object_that_would_not_come_back() {
        for exact in [r#"{"a":1,"b":[10.25,-3,null,"x"],"c":1e2}"#, r#"{"n":1,"n":2}"#, "{}", r#"{"a":-0.0}"#] {
            assert!(matches!(kept(exact), (Some(_), None)), "{exact}");
        }
        for inexact in [
            r#"{"a":0.30000000000000004}"#,
            r#"{"a":123456789012345678901234567890}"#,
            r#"{"a":1e300}"#,
            r#"{"a":18446744073709551615}"#,
            r#"{"a":[{"b":0.10000000000000001}]}"#,
        ] {
            assert!(matches!(kept(inexact), (Some(_), Some(_))), "{inexact}");
        }
        let deep = format!("{}1{}", "{\"a\":[".repeat(60), "]}".repeat(60));
        assert!(matches!(kept(&deep), (None, Some(_))));
    }

    proptest! {
        #[test]
        fn what_is_said_to_be_read_exactly_is(digits in 0i64..1_000_000_000_000_000, shift in 0i32..22) {
            let number: f64 = format!("{digits}e-{shift}").parse().unwrap();
            if is_read_exactly(number) {
                let text = serde_json::to_string(&number).unwrap();
                let read: f64 = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(read.to_bits(), number.to_bits());
            }
        }
    }
}
