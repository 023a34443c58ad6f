//! The event: what a service publishes, and its form on the log, which is CloudEvents 1.0 in Kafka's binary content mode
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>).

use serde::Serialize;

use crate::header::{self, Headers};
use crate::name::check_key;
use crate::record::{NewRecord, RecordRef};
use crate::{Collection, Primal, Timestamp};

/// The longest event id, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// What an event does to its entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// The entity's whole new state.
    Put,
    /// The entity is no more.
    Delete,
    /// A fact that stands for itself; never folded with others of its key.
    Append,
}

impl Op {
    /// As written in the attribute `op`.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Delete => "delete",
            Op::Append => "append",
        }
    }

    /// Reads what [`Op::as_str`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        [Op::Put, Op::Delete, Op::Append].into_iter().find(|op| op.as_str() == text)
    }
}

/// One immutable write, complete and checked, ready to be appended.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where it belongs.
    pub collection: Collection,
    /// The entity, 1 to 512 bytes.
    pub key: String,
    /// What it does.
    pub op: Op,
    /// Unique; a repeated id is the same event. 1 to 256 bytes.
    pub id: String,
    /// Who produced it (a URI reference).
    pub source: String,
    /// CloudEvents `type`, such as `flight.landed`.
    pub kind: String,
    /// When it happened, as RFC 3339 text.
    pub time: String,
    /// JSON text; `None` for a delete.
    pub data: Option<String>,
    /// CloudEvents `dataschema`.
    pub data_schema: Option<String>,
    /// The Primal Logic parameters.
    pub primal: Primal,
    /// Further CloudEvents attributes (`correlationid`, `causationid`, `traceparent`, `actor`, …), lower case.
    pub extensions: Vec<(String, String)>,
}

impl Event {
    /// Its form on the log. Headers that would say nothing are left out: they cost more than the payload does.
    pub fn into_record(self) -> NewRecord {
        let mut headers = Vec::with_capacity(160);
        let mut push = |name: &str, value: &str| header::push(&mut headers, name, Some(value.as_bytes()));
        push(header::SPEC_VERSION, "1.0");
        push(header::ID, &self.id);
        push(header::SOURCE, &self.source);
        push(header::TYPE, &self.kind);
        push(header::TIME, &self.time);
        if let Some(schema) = &self.data_schema {
            push(header::DATA_SCHEMA, schema);
        }
        if self.op == Op::Append {
            push(header::OP, self.op.as_str());
        }
        if self.primal != Primal::STANDARD {
            push(header::PRIMAL, &self.primal.to_string());
        }
        for (name, value) in &self.extensions {
            push(&format!("ce_{name}"), value);
        }
        NewRecord {
            topic: self.collection.topic(),
            partition: None,
            key: Some(self.key.into_bytes()),
            value: self.data.map(String::into_bytes),
            headers,
        }
    }
}

/// An event on the log, borrowed. The payload is not parsed.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    /// The entity.
    pub key: &'a str,
    /// What it does.
    pub op: Op,
    /// Unique id.
    pub id: &'a str,
    /// The payload's bytes; `None` for a delete.
    pub data: Option<&'a [u8]>,
    /// The record that it was read from.
    pub record: RecordRef<'a>,
}

impl<'a> EventRef<'a> {
    /// Reads the envelope of a record: key, op and id. The payload is not looked at.
    ///
    /// # Errors
    /// Why it is no event, for the dead letter.
    pub fn decode(record: RecordRef<'a>) -> Result<Self, String> {
        let key = record.key.ok_or("the record has no key")?;
        let key = std::str::from_utf8(key).map_err(|e| format!("the key is not UTF-8: {e}"))?;
        check_key(key)?;
        let (mut id, mut version, mut op, mut content_type) = (None, None, None, None);
        for (name, value) in record.headers {
            match name {
                header::ID => id = value,
                header::SPEC_VERSION => version = value,
                header::OP => op = value,
                header::CONTENT_TYPE => content_type = value,
                _ => {}
            }
        }
        if version != Some(b"1.0") {
            return Err("the header `ce_specversion` is not `1.0`: no CloudEvent in binary mode".to_owned());
        }
        let id = id.ok_or("the header `ce_id` is missing")?;
        let id = std::str::from_utf8(id).map_err(|_| "the header `ce_id` is not UTF-8")?;
        if id.is_empty() || id.len() > MAX_ID_BYTES {
            return Err(format!("the header `ce_id` has {} bytes; expected 1 to {MAX_ID_BYTES}", id.len()));
        }
        if let Some(other) = content_type.filter(|t| !is_json(t)) {
            return Err(format!("content type {:?} is not JSON", String::from_utf8_lossy(other)));
        }
        let op = match (op, record.value) {
            (None, Some(_)) => Op::Put,
            (None, None) => Op::Delete,
            (Some(name), value) => {
                let name = String::from_utf8_lossy(name);
                let op = Op::parse(&name).ok_or_else(|| format!("the header `ce_op` is {name:?}"))?;
                if (op == Op::Delete) != value.is_none() {
                    return Err(format!("a {name} with {} value", if value.is_none() { "a null" } else { "a" }));
                }
                op
            }
        };
        Ok(EventRef { key, op, id, data: record.value, record })
    }

    /// When it happened: `ce_time`, or when the log took it if that is absent or unreadable.
    pub fn time(&self) -> Timestamp {
        self.headers().text(header::TIME).and_then(Timestamp::parse_rfc3339).unwrap_or(self.record.recorded)
    }

    /// The Primal Logic parameters that it carries.
    pub fn primal(&self) -> Primal {
        self.headers().text(header::PRIMAL).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// CloudEvents `type`; empty when absent.
    pub fn kind(&self) -> &'a str {
        self.headers().text(header::TYPE).unwrap_or_default()
    }

    /// All headers.
    pub fn headers(&self) -> Headers<'a> {
        self.record.headers
    }

    /// Checks that the payload of a put or append is one JSON object, and gives it as text.
    ///
    /// # Errors
    /// What is wrong with it, for the dead letter.
    pub fn object(&self) -> Result<Option<&'a str>, String> {
        let Some(data) = self.data else { return Ok(None) };
        let text = std::str::from_utf8(data).map_err(|e| format!("the payload is not UTF-8: {e}"))?;
        check_object(text)?;
        Ok(Some(text))
    }
}

/// Checks that a text is exactly one JSON object, at most 127 levels deep (serde_json's limit).
///
/// # Errors
/// What is wrong, with line and column.
pub fn check_object(text: &str) -> Result<(), String> {
    if !text.trim_start_matches([' ', '\n', '\r', '\t']).starts_with('{') {
        let start: String = text.trim_start().chars().take(20).collect();
        return Err(format!("the payload must be a JSON object, not {start:?}"));
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|e| format!("the payload is not JSON: {e}"))?;
    check_depth(text)
}

/// The deepest nesting of a payload; serde_json reads no deeper into values, and some stores neither.
pub const MAX_DEPTH: usize = 127;

/// Checks that a text, known to be JSON, is at most [`MAX_DEPTH`] levels deep.
///
/// # Errors
/// How deep is allowed.
pub fn check_depth(text: &str) -> Result<(), String> {
    // Counting runs at memory speed and settles nearly every payload.
    if memchr::memchr2_iter(b'{', b'[', text.as_bytes()).take(MAX_DEPTH + 1).count() <= MAX_DEPTH {
        return Ok(());
    }
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' if depth == MAX_DEPTH => {
                return Err(format!("the payload is nested deeper than {MAX_DEPTH} levels"));
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

fn is_json(content_type: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content_type);
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Records;
    use proptest::prelude::*;

    fn event() -> Event {
        Event {
            collection: Collection::new("flights").unwrap(),
            key: "UA1".into(),
            op: Op::Put,
            id: "e1".into(),
            source: "/test".into(),
            kind: "flight.landed".into(),
            time: "2013-01-01T10:15:00Z".into(),
            data: Some(r#"{"a":1}"#.into()),
            data_schema: None,
            primal: Primal::STANDARD,
            extensions: vec![("actor".into(), "me".into())],
        }
    }

    fn stored(record: &NewRecord) -> Records {
        let mut records = Records::new();
        let headers = record.headers.clone();
        records
            .push(3, Timestamp(9), record.key.as_deref(), record.value.as_deref(), |b| b.extend_from_slice(&headers));
        records
    }

    #[test]
    fn an_event_survives_the_log() {
        for op in [Op::Put, Op::Delete, Op::Append] {
            let data = (op != Op::Delete).then(|| r#"{"a":1}"#.to_owned());
            let primal = Primal { alpha: 0.6, ..Primal::STANDARD };
            let records = stored(&Event { op, data, primal, ..event() }.into_record());
            let read = EventRef::decode(records.get(0).unwrap()).unwrap();
            assert_eq!((read.key, read.op, read.id, read.kind()), ("UA1", op, "e1", "flight.landed"));
            assert_eq!(read.time().to_string(), "2013-01-01T10:15:00Z");
            assert_eq!(read.primal(), primal);
            assert_eq!(read.object().unwrap().is_some(), op != Op::Delete);
        }
    }

    #[test]
    fn what_is_no_event_says_why() {
        type Change = fn(&mut NewRecord);
        let broken: [(&str, Change); 5] = [
            ("no key", |r| r.key = None),
            ("not UTF-8", |r| r.key = Some(vec![0xff])),
            ("empty", |r| r.key = Some(vec![])),
            ("ce_specversion", |r| r.headers.clear()),
            ("content type", |r| header::push(&mut r.headers, header::CONTENT_TYPE, Some(b"text/plain"))),
        ];
        for (says, change) in broken {
            let mut record = event().into_record();
            change(&mut record);
            let error = EventRef::decode(stored(&record).get(0).unwrap()).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        for payload in ["", "[1]", "{\"a\":NaN}", "{\"a\":1} x", "nul"] {
            assert!(check_object(payload).is_err(), "{payload}");
        }
    }

    #[test]
    fn nesting_is_limited_and_brackets_in_strings_are_none() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert_eq!(check_object(&nested(MAX_DEPTH)), Ok(()));
        assert!(check_object(&nested(MAX_DEPTH + 1)).unwrap_err().contains("127 levels"));
        assert!(serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(check_object(&format!("{{\"a\":\"{}\\\"[\"}}", "[".repeat(300))), Ok(()));
    }

    proptest! {
        #[test]
        fn any_record_is_decoded_or_refused(
            key in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            block in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut records = Records::new();
            records.push(0, Timestamp(0), key.as_deref(), value.as_deref(), |b| b.extend_from_slice(&block));
            if let Ok(event) = EventRef::decode(records.get(0).unwrap()) {
                let _ = (event.time(), event.primal(), event.object());
            }
        }

        #[test]
        fn any_headers_make_an_event_or_a_reason(
            headers in prop::collection::vec((
                prop::sample::select(vec!["ce_specversion", "ce_id", "ce_op", "ce_time", "ce_primal", "content-type", "x"]),
                prop::option::of(prop_oneof![
                    prop::sample::select(vec!["1.0", "append", "delete", "0.5,1,2", "NaN,inf,-0", "application/json", ""])
                        .prop_map(|text| text.as_bytes().to_vec()),
                    prop::collection::vec(any::<u8>(), 0..20),
                ]),
            ), 0..8),
            value in prop::option::of("\\PC{0,20}"),
        ) {
            let mut records = Records::new();
            records.push(0, Timestamp(7), Some(b"k"), value.as_ref().map(String::as_bytes), |block| {
                header::push(block, header::SPEC_VERSION, Some(b"1.0"));
                header::push(block, header::ID, Some(b"e"));
                headers.iter().for_each(|(name, value)| header::push(block, name, value.as_deref()));
            });
            match EventRef::decode(records.get(0).unwrap()) {
                Ok(event) => {
                    prop_assert!(!event.id.is_empty() && (event.op == Op::Delete) == event.data.is_none());
                    let primal = event.primal();
                    prop_assert!(primal.alpha.is_finite() && primal.lambda.is_finite() && primal.k.is_finite());
                    let _ = event.time();
                }
                Err(reason) => prop_assert!(!reason.is_empty()),
            }
        }
    }
}
