//! A record as a document: `{_id, _version, _event_id, _time, _time_us, _alpha, _lambda, _k, data, _data}`, with the payload
//! as a document in `data` and as the exact text in `_data`, or `_deleted: true`.

use mongodb::bson::{Bson, DateTime, Document, doc};
use primal_core::batch::{BatchEvent, Mode};
use primal_core::sink::{Content, Projection, Stored};
use primal_core::{Offset, Primal, Timestamp, Version};

use crate::native::native;

/// What a record may weigh with the payload in both forms: a document holds at most 16 MiB
/// (<https://www.mongodb.com/docs/manual/reference/limits/>). What would be heavier is kept as text only.
const HEAVY: usize = 15 << 20;

/// The record of an event.
pub(crate) fn encode(event: &BatchEvent<'_>, projection: Projection) -> Document {
    let (time, primal) = (event.time(), event.primal());
    let mut record = doc! {
        "_id": event.identity(projection),
        "_version": event.version.as_i64(),
        "_event_id": event.id,
        // A date of the store has milliseconds.
        "_time": DateTime::from_millis(time.0.div_euclid(1_000)),
        "_time_us": time.0,
        "_alpha": primal.alpha,
        "_lambda": primal.lambda,
        "_k": primal.k,
    };
    if projection.keeps_every_event() {
        record.extend(doc! { "_key": event.key, "_op": event.op.as_str(), "_type": event.kind() });
    }
    match event.data {
        None => drop(record.insert("_deleted", true)),
        Some(data) => {
            if let Some(native) = native(data).filter(|native| weight(native) + data.len() < HEAVY) {
                record.insert("data", native);
            }
            record.insert("_data", data);
        }
    }
    record
}

/// What a document weighs on the wire.
fn weight(document: &Document) -> usize {
    mongodb::bson::RawDocumentBuf::try_from(document).map_or(usize::MAX / 2, |raw| raw.as_bytes().len())
}

/// Reads what [`encode`] writes. `None` for anything else.
pub(crate) fn decode(record: &Document) -> Option<Stored> {
    let content = match record.get("_data") {
        Some(Bson::String(text)) => Content::Document(text.clone()),
        _ if record.get_bool("_deleted").ok()? => Content::Deleted,
        _ => return None,
    };
    Some(Stored {
        identity: record.get_str("_id").ok()?.to_owned(),
        version: Version::from_i64(record.get_i64("_version").ok()?),
        event_id: record.get_str("_event_id").ok()?.to_owned(),
        time: Timestamp(record.get_i64("_time_us").ok()?),
        primal: Primal {
            alpha: record.get_f64("_alpha").ok()?,
            lambda: record.get_f64("_lambda").ok()?,
            k: record.get_f64("_k").ok()?,
        },
        content,
    })
}

/// The statements of one `update` command that apply an event, and the offset that each is about.
///
/// The form is free of errors, so that it is the same inside a transaction, where a duplicate key would end everything:
/// first a place is made for a key that is not there, with a version below all; then what is older is replaced. Some
/// servers stop at a duplicate key even where they are told to go on. Of events with one id the first is the record, so
/// there is nothing to replace but in repair.
pub(crate) fn statements(event: &BatchEvent<'_>, projection: Projection, mode: Mode) -> Vec<(Offset, Document)> {
    let (identity, version) = (event.identity(projection), event.version.as_i64());
    let record = encode(event, projection);
    let insert = |place: Document| doc! { "q": { "_id": identity }, "u": { "$setOnInsert": place }, "upsert": true };
    let replace = |older: Document| doc! { "q": { "_id": identity, "_version": older }, "u": record.clone() };
    let statements = match (projection.keeps_every_event(), mode) {
        (false, _) => {
            let older = if mode == Mode::Repair {
                doc! { "$lte": version }
            } else {
                doc! { "$lt": version }
            };
            vec![insert(doc! { "_version": NONE, "_deleted": true }), replace(older)]
        }
        (true, Mode::Apply) => vec![insert(without_id(record))],
        (true, Mode::Repair) => vec![insert(without_id(record.clone())), replace(doc! { "$gte": version })],
    };
    statements.into_iter().map(|statement| (event.record().offset, statement)).collect()
}

/// The version of a place that was made and not yet filled: below all.
pub(crate) const NONE: i64 = -1;

/// An upsert takes the id from its query.
fn without_id(mut record: Document) -> Document {
    record.remove("_id");
    record
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
            text in "\\PC{0,20}",
            deleted in any::<bool>(),
        ) {
            let data = serde_json::json!({ "s": text, "_version": 1, "$a.b": 18446744073709551615_u64 }).to_string();
            let data = (!deleted).then_some(data);
            let mut records = Records::new();
            records.push(3, Timestamp(0), Some(key.as_bytes()), data.as_deref().map(str::as_bytes), |block| {
                header::push(block, header::SPEC_VERSION, Some(b"1.0"));
                header::push(block, header::ID, Some(id.as_bytes()));
                header::push(block, header::TIME, Some(b"2013-01-01T10:15:00.000001Z"));
            });
            for projection in [Projection::Document, Projection::Events] {
                let events = records.iter().map(|record| EventRef::decode(record).unwrap());
                let batch = Batch::fold(0, &Epochs::first(1), projection, events).unwrap();
                let stored = decode(&encode(&batch.events[0], projection)).unwrap();
                prop_assert_eq!(&stored.identity, batch.events[0].identity(projection));
                prop_assert_eq!((stored.version, &stored.event_id), (batch.events[0].version, &id));
                prop_assert_eq!(stored.time, batch.events[0].time());
                let expected = data.clone().map_or(Content::Deleted, Content::Document);
                prop_assert_eq!(stored.content, expected);
            }
        }
    }
}
