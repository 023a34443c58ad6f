//! CloudEvents in JSON (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md) as drafts. The
//! collection is the extension attribute `collection`; the key is `key`, or `subject` where that is absent.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::problem::Problem;
use crate::Draft;
use crate::draft::Refused;

type Members<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// One event.
pub(crate) fn one(text: &[u8]) -> Result<Draft<'_>, Problem> {
    let members: Members<'_> = serde_json::from_slice(text).map_err(|e| malformed(&e))?;
    draft(members)
}

/// A batch of events.
pub(crate) fn batch(text: &[u8]) -> Result<Vec<Draft<'_>>, Problem> {
    let all: Vec<Members<'_>> = serde_json::from_slice(text).map_err(|e| malformed(&e))?;
    let numbered = |(index, members)| draft(members).map_err(|problem| problem.with("index", index as u64));
    all.into_iter().enumerate().map(numbered).collect()
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::bad_request(format!("not CloudEvents JSON: {error}"))
        .with("line", error.line())
        .with("column", error.column())
}

fn draft(members: Members<'_>) -> Result<Draft<'_>, Problem> {
    let (mut draft, mut key, mut subject, mut specversion) =
        (Draft { is_json: true, ..Draft::default() }, None, None, None);
    let mut collection = None;
    for (name, raw) in members {
        if raw.get() == "null" {
            continue;
        }
        if name == "data" {
            draft.data = Some(Cow::Borrowed(raw.get()));
            continue;
        }
        let value = text(raw).ok_or_else(|| Refused::field(&name, "must be a string, a number or true/false"))?;
        match &*name {
            "specversion" => specversion = Some(value),
            "id" => draft.id = Some(value),
            "source" => draft.source = Some(value),
            "type" => draft.kind = Some(value),
            "time" => draft.time = Some(value),
            "dataschema" => draft.data_schema = Some(value),
            "datacontenttype" if value.starts_with("application/json") => {}
            "datacontenttype" => {
                return Err(Refused::field("datacontenttype", format!("{value:?}; expected application/json")).into());
            }
            "data_base64" => {
                return Err(Refused::field(
                    "data_base64",
                    "binary data are not taken; expected `data` with a JSON object",
                )
                .into());
            }
            "subject" => subject = Some(value),
            "key" => key = Some(value),
            "collection" => collection = Some(value),
            "op" => draft.op = Some(value),
            "primal" => draft.primal = Some(value),
            _ => draft.extensions.push((name, value)),
        }
    }
    if specversion.as_deref() != Some("1.0") {
        return Err(Refused::field("specversion", format!("{specversion:?}; expected \"1.0\"")).into());
    }
    for (name, missing) in
        [("id", draft.id.is_none()), ("source", draft.source.is_none()), ("type", draft.kind.is_none())]
    {
        if missing {
            return Err(Refused::field(name, "missing; CloudEvents require it").into());
        }
    }
    draft.collection = collection
        .ok_or_else(|| Refused::field("collection", "missing; expected the collection's name as an attribute"))?;
    draft.key =
        key.or(subject).ok_or_else(|| Refused::field("key", "missing; expected the attribute `key` or `subject`"))?;
    Ok(draft)
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    match raw.get().as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(raw.get()).ok().map(Cow::Owned),
        b'{' | b'[' => None,
        _ => Some(Cow::Borrowed(raw.get())),
    }
}
