//! A record as a Redis value: JSON text whose first member is the version, so that a script compares versions without
//! parsing the rest: `{"_version":7,"_event_id":"…","_time":"…","_alpha":…,"_lambda":…,"_k":…,"data":{…}}`.

use std::fmt::Write;

use primal_core::batch::BatchEvent;
use primal_core::sink::{Content, Projection, Stored};
use primal_core::{Primal, Timestamp, Version};
use serde::Deserialize;
use serde_json::value::RawValue;

/// How every value begins; the version's digits follow.
pub(crate) const HEAD: &str = "{\"_version\":";

/// The value of an event.
pub(crate) fn encode(event: &BatchEvent<'_>, projection: Projection) -> String {
    let primal = event.primal();
    let mut text = String::with_capacity(event.data.map_or(0, str::len) + 192);
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    // Writing to a String cannot fail.
    let _ = write!(text, "{HEAD}{},\"_event_id\":{}", event.version, quoted(event.id));
    let _ = write!(text, ",\"_time\":\"{}\"", event.time());
    let _ = write!(text, ",\"_alpha\":{},\"_lambda\":{},\"_k\":{}", primal.alpha, primal.lambda, primal.k);
    if projection.keeps_every_event() {
        let (key, op, kind) = (quoted(event.key), event.op.as_str(), quoted(event.kind()));
        let _ = write!(text, ",\"_key\":{key},\"_op\":\"{op}\",\"_type\":{kind}");
    }
    match event.data {
        Some(data) => drop(write!(text, ",\"data\":{data}}}")),
        None => text.push_str(",\"_deleted\":true}"),
    }
    text
}

#[derive(Deserialize)]
struct Envelope<'a> {
    _version: u64,
    _event_id: String,
    _time: String,
    _alpha: f64,
    _lambda: f64,
    _k: f64,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Reads what [`encode`] writes. `None` for anything else.
pub(crate) fn decode(identity: &str, text: &str) -> Option<Stored> {
    let envelope: Envelope<'_> = serde_json::from_str(text).ok()?;
    Some(Stored {
        identity: identity.to_owned(),
        version: Version(envelope._version),
        event_id: envelope._event_id,
        time: Timestamp::parse_rfc3339(&envelope._time)?,
        primal: Primal { alpha: envelope._alpha, lambda: envelope._lambda, k: envelope._k },
        content: envelope.data.map_or(Content::Deleted, |data| Content::Document(data.get().to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use primal_core::event::EventRef;
    use primal_core::{Batch, Epochs, Records, header};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_an_event_says_comes_back(
            key in "\\PC{1,20}",
            id in "\\PC{1,20}",
            kind in "\\PC{0,20}",
            text in "\\PC{0,20}",
        ) {
            let data = serde_json::json!({ "s": text, "_version": 1 }).to_string();
            let mut records = Records::new();
            records.push(3, Timestamp(0), Some(key.as_bytes()), Some(data.as_bytes()), |block| {
                header::push(block, header::SPEC_VERSION, Some(b"1.0"));
                header::push(block, header::ID, Some(id.as_bytes()));
                header::push(block, header::TYPE, Some(kind.as_bytes()));
            });
            let events = records.iter().map(|record| EventRef::decode(record).unwrap());
            let batch = Batch::fold(0, &Epochs::first(1), Projection::Events, events).unwrap();
            let stored = decode(&id, &encode(&batch.events[0], Projection::Events)).unwrap();
            prop_assert_eq!((stored.version, stored.event_id), (batch.events[0].version, id));
            prop_assert_eq!(stored.content, Content::Document(data));
        }

        #[test]
        fn any_text_is_a_record_or_none(text in "\\PC{0,60}", tail in "[{}\":,0-9a-z_]{0,60}") {
            let _ = (decode("k", &text), decode("k", &format!("{HEAD}{tail}")));
        }
    }
}
