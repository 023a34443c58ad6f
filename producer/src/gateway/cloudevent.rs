//! CloudEvents in JSON (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md) as drafts. The
//! collection is the extension attribute `collection`; the key is `key`, or `subject` where that is absent.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::Problem;
use crate::Draft;
use crate::draft::Refused;

/// Events in a batch, at most: each needs memory beyond its text.
const MOST_EVENTS: usize = 10_000;
/// Attributes of an event, at most.
const MOST_ATTRIBUTES: usize = 64;

/// The members of an object; a name that is there twice counts by its last.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// The items of an array, not looked at yet.
struct Items<'a>(Vec<&'a RawValue>);

struct Bounded<T>(PhantomData<T>);

impl<'de> Visitor<'de> for Bounded<Members<'de>> {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an event of at most {MOST_ATTRIBUTES} attributes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
        while let Some((Name(name), value)) = map.next_entry()? {
            members.retain(|(known, _)| *known != name);
            if members.len() == MOST_ATTRIBUTES {
                return Err(A::Error::invalid_length(MOST_ATTRIBUTES + 1, &self));
            }
            members.push((name, value));
        }
        Ok(Members(members))
    }
}

impl<'de> Visitor<'de> for Bounded<Items<'de>> {
    type Value = Items<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {MOST_EVENTS} events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() == MOST_EVENTS {
                return Err(A::Error::invalid_length(MOST_EVENTS + 1, &self));
            }
            items.push(item);
        }
        Ok(Items(items))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Bounded::<Self>(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Bounded::<Self>(PhantomData))
    }
}

/// A name, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// One event.
pub(crate) fn one(text: &[u8]) -> Result<Draft<'_>, Problem> {
    let members: Members<'_> = serde_json::from_slice(text).map_err(|e| malformed(&e))?;
    draft(members)
}

/// A batch of events.
pub(crate) fn batch(text: &[u8]) -> Result<Vec<Draft<'_>>, Problem> {
    let Items(all) = serde_json::from_slice(text).map_err(|e| malformed(&e))?;
    let numbered = |(index, item)| one_of_batch(item).map_err(|problem| problem.with("index", index as u64));
    all.into_iter().enumerate().map(numbered).collect()
}

fn one_of_batch(item: &RawValue) -> Result<Draft<'_>, Problem> {
    draft(serde_json::from_str(item.get()).map_err(|e| Problem::bad_request(format!("not a CloudEvent: {e}")))?)
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
    for (name, raw) in members.0 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_an_event_says_is_read(id in "\\PC{1,20}", key in "\\PC{1,20}", value in "\\PC{0,20}", n in any::<i64>()) {
            let event = serde_json::json!({
                "specversion": "1.0", "id": id, "source": "/s", "type": "t", "collection": "c", "subject": key,
                "extra": value, "n": n, "nothing": null, "data": { "value": value },
            });
            for text in [event.to_string(), serde_json::to_string_pretty(&event).unwrap()] {
                let read = one(text.as_bytes()).unwrap();
                prop_assert_eq!((read.id.as_deref(), &*read.key), (Some(&*id), &*key));
                let data: serde_json::Value = serde_json::from_str(&read.data.unwrap()).unwrap();
                prop_assert_eq!(&data["value"], &serde_json::json!(value));
                let extra: Vec<_> = read.extensions.iter().map(|(n, v)| (&**n, v.to_string())).collect();
                prop_assert_eq!(extra, [("extra", value.clone()), ("n", n.to_string())]);
                prop_assert_eq!(batch(format!("[{text},{text}]").as_bytes()).unwrap().len(), 2);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            text in "[\\[\\]{}:,\"a-z0-9.eE+\\\\ -]{0,60}",
        ) {
            let _ = (one(&bytes), batch(&bytes), one(text.as_bytes()), batch(text.as_bytes()));
        }
    }
}
