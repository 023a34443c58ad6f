//! What a caller hands in, and the checks that make an event of it. Every refusal names the field and what was expected.

use std::borrow::Cow;

use primal_core::event::{Event, MAX_ID_BYTES, Op, check_depth, check_object};
use primal_core::name::check_key;
use primal_core::nearest::hint;
use primal_core::{Env, Primal, Timestamp};
use serde::Serialize;

use crate::{Options, Published};

/// The longest `source`, `type` and extension value, in bytes.
const MAX_TEXT: usize = 1024;

/// An event as a caller describes it; what is absent is filled in.
#[derive(Clone, Debug, Default)]
pub struct Draft<'a> {
    /// The collection's name.
    pub collection: Cow<'a, str>,
    /// The entity.
    pub key: Cow<'a, str>,
    /// `put` when absent.
    pub op: Option<Cow<'a, str>>,
    /// Chosen by the caller so that a repeated request is one event; a new UUIDv7 when absent.
    pub id: Option<Cow<'a, str>>,
    /// CloudEvents `type`; `<collection>.<op>` when absent.
    pub kind: Option<Cow<'a, str>>,
    /// CloudEvents `source`; the hub's when absent.
    pub source: Option<Cow<'a, str>>,
    /// RFC 3339; now when absent.
    pub time: Option<Cow<'a, str>>,
    /// JSON text.
    pub data: Option<Cow<'a, str>>,
    /// Whether `data` is known to be JSON, so that it need not be parsed again.
    pub is_json: bool,
    /// CloudEvents `dataschema`; the schema's `$id` when absent.
    pub data_schema: Option<Cow<'a, str>>,
    /// `"alpha,lambda,k"`; the hub's when absent.
    pub primal: Option<Cow<'a, str>>,
    /// Further CloudEvents attributes.
    pub extensions: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// What kind of mistake a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// A field is wrong.
    Invalid,
    /// There is no such collection.
    Unknown,
    /// Too large.
    TooLarge,
    /// The payload does not fit the schema.
    Schema,
    /// The collection takes no events now.
    Stopped,
}

/// An event is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Refused {
    /// What kind of mistake.
    pub reason: Reason,
    /// The field.
    pub field: String,
    /// The value that was wrong, and what was expected.
    pub message: String,
}

impl Refused {
    pub(crate) fn new(reason: Reason, field: &str, message: impl Into<String>) -> Self {
        Refused { reason, field: field.to_owned(), message: message.into() }
    }

    pub(crate) fn field(field: &str, message: impl Into<String>) -> Self {
        Refused::new(Reason::Invalid, field, message)
    }

    pub(crate) fn unknown(message: String) -> Self {
        Refused::new(Reason::Unknown, "collection", message)
    }

    pub(crate) fn stopped(message: String) -> Self {
        Refused::new(Reason::Stopped, "collection", message)
    }
}

impl Draft<'_> {
    pub(crate) fn into_event(self, to: &Published, options: &Options, env: &Env) -> Result<Event, Refused> {
        check_key(&self.key).map_err(|message| Refused::field("key", message))?;
        let op = match self.op.as_deref() {
            None => Op::Put,
            Some(name) => Op::parse(name).ok_or_else(|| {
                Refused::field("op", format!("{name:?} is unknown{}", hint(name, ["put", "delete", "append"])))
            })?,
        };
        let data = self.payload(op, to, options)?;
        let id = match self.id {
            Some(id) => {
                text("id", &id, MAX_ID_BYTES)?;
                id.into_owned()
            }
            None => env.uuid_v7().to_string(),
        };
        let time = match self.time {
            Some(time) if Timestamp::parse_rfc3339(&time).is_some() => time.into_owned(),
            Some(time) => {
                return Err(Refused::field("time", format!("{time:?} is not RFC 3339, such as 2013-01-01T10:15:00Z")));
            }
            None => env.now().to_string(),
        };
        let kind = match self.kind {
            Some(kind) => {
                text("type", &kind, MAX_TEXT)?;
                kind.into_owned()
            }
            None => format!("{}.{}", to.collection, op.as_str()),
        };
        let source = match self.source {
            Some(source) => {
                text("source", &source, MAX_TEXT)?;
                source.into_owned()
            }
            None => options.source.clone(),
        };
        let primal = match self.primal {
            Some(primal) => primal.parse().map_err(|message: String| Refused::field("primal", message))?,
            None => options.primal,
        };
        let named = || to.schema.as_ref().and_then(|schema| schema.id()).map(str::to_owned);
        let data_schema = self.data_schema.map(Cow::into_owned).or_else(named).filter(|_| op != Op::Delete);
        Ok(Event {
            collection: to.collection.clone(),
            key: self.key.into_owned(),
            op,
            id,
            source,
            kind,
            time,
            data,
            data_schema,
            primal: Primal { ..primal },
            extensions: extensions(self.extensions)?,
        })
    }

    fn payload(&self, op: Op, to: &Published, options: &Options) -> Result<Option<String>, Refused> {
        let data = match (&self.data, op) {
            (None, Op::Delete) => return Ok(None),
            (Some(_), Op::Delete) => return Err(Refused::field("data", "a delete has no data")),
            (None, _) => return Err(Refused::field("data", format!("missing; a {} needs a JSON object", op.as_str()))),
            (Some(data), _) => data,
        };
        if data.len() > options.max_event_bytes {
            let message = format!("{} bytes; at most {} are taken", data.len(), options.max_event_bytes);
            return Err(Refused::new(Reason::TooLarge, "data", message));
        }
        if self.is_json && data.starts_with('{') {
            // Syntax was checked when the text around it was read; nesting was not.
            check_depth(data).map_err(|message| Refused::field("data", message))?;
        } else {
            check_object(data).map_err(|message| Refused::field("data", message))?;
        }
        if memchr::memmem::find(data.as_bytes(), b"\\u0000").is_some()
            && let Some(place) = nul(data)
        {
            return Err(Refused::field(
                &format!("data{place}"),
                "contains a NUL character, which many stores cannot hold",
            ));
        }
        if let Some(schema) = &to.schema {
            schema.validate(data).map_err(|all| Refused::new(Reason::Schema, "data", all.join("; ")))?;
        }
        Ok(Some(data.to_string()))
    }
}

fn text(field: &str, value: &str, most: usize) -> Result<(), Refused> {
    if value.is_empty() || value.len() > most || value.contains('\0') {
        return Err(Refused::field(field, format!("{} bytes; expected 1 to {most} without NUL", value.len())));
    }
    Ok(())
}

/// Names as CloudEvents has them: lower-case letters and digits (spec 1.0.2, "Naming conventions").
fn extensions(all: Vec<(Cow<'_, str>, Cow<'_, str>)>) -> Result<Vec<(String, String)>, Refused> {
    const TAKEN: &[&str] = &[
        "id",
        "source",
        "specversion",
        "type",
        "time",
        "dataschema",
        "datacontenttype",
        "subject",
        "op",
        "primal",
        "data",
    ];
    let mut checked = Vec::with_capacity(all.len());
    for (name, value) in all {
        let conforms = name.len() <= 20 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if name.is_empty() || !conforms || TAKEN.contains(&&*name) {
            return Err(Refused::field(
                &name,
                "is no name for an extension: 1 to 20 of a-z and 0-9, not one of CloudEvents' own",
            ));
        }
        text(&name, &value, MAX_TEXT)?;
        checked.push((name.into_owned(), value.into_owned()));
    }
    Ok(checked)
}

/// Where a string with a NUL stands, as a JSON pointer.
fn nul(data: &str) -> Option<String> {
    fn walk(value: &serde_json::Value, place: &mut String) -> bool {
        let mut step = |name: &str, value: &serde_json::Value| {
            let length = place.len();
            place.push('/');
            place.push_str(&name.replace('~', "~0").replace('/', "~1"));
            let found = name.contains('\0') || walk(value, place);
            if !found {
                place.truncate(length);
            }
            found
        };
        match value {
            serde_json::Value::String(text) => text.contains('\0'),
            serde_json::Value::Array(items) => items.iter().enumerate().any(|(i, item)| step(&i.to_string(), item)),
            serde_json::Value::Object(members) => members.iter().any(|(name, member)| step(name, member)),
            _ => false,
        }
    }
    let (value, mut place) = (serde_json::from_str(data).ok()?, String::new());
    walk(&value, &mut place).then_some(place)
}
