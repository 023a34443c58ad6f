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
