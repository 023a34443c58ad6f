//! An event as a node: the payload's plain members as properties, the whole payload as text in `_data`, and what its
//! references lead to.

use std::collections::BTreeMap;

use primal_core::batch::{Batch, BatchEvent};
use primal_core::error::Rejected;
use primal_core::mapping::Graph;
use primal_core::sink::{Content, Stored, Target};
use primal_core::{Fault, Primal, SinkError, Timestamp, Version};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::client::Row;

/// What is written of an event.
pub(crate) struct Node {
    /// `{k, v, s, ns, p}`: key, version, seconds and nanoseconds of its time, and all properties.
    pub(crate) row: Value,
    pub(crate) key: String,
    pub(crate) version: i64,
    /// Per edge of the mapping the keys that it leads to.
    pub(crate) ends: Vec<Vec<String>>,
}

/// The nodes of a batch by key, so that two transactions take locks in one order; checked before anything is written.
///
/// # Errors
/// All events that cannot be nodes.
pub(crate) fn nodes(target: &Target, graph: &Graph, batch: &Batch<'_>) -> Result<Vec<Node>, SinkError> {
    let mut nodes = Vec::with_capacity(batch.events.len());
    let mut refused: Vec<Rejected> = Vec::new();
    for event in &batch.events {
        match node(target, graph, event) {
            Ok(node) => nodes.push(node),
            Err(SinkError { fault: Fault::Rejected(rejected), .. }) => refused.extend(rejected),
            Err(other) => return Err(other),
        }
    }
    nodes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    match refused.first().map(|rejected| rejected.reason.clone()) {
        Some(reason) => Err(SinkError::new(Fault::Rejected(refused), reason)),
        None => Ok(nodes),
    }
}

fn node(target: &Target, graph: &Graph, event: &BatchEvent<'_>) -> Result<Node, SinkError> {
    // Refuses what a column cannot hold.
    target.cells(event)?;
    let rejected = |reason| SinkError::rejected(event.record().offset, reason);
    let members: BTreeMap<String, &RawValue> = match event.data {
        Some(data) => serde_json::from_str(data).map_err(|e| rejected(format!("the payload is no object: {e}")))?,
        None => BTreeMap::new(),
    };
    let ends = graph.edges.iter().map(|edge| ends(&edge.field, members.get(&edge.field).copied()));
    let ends = ends.collect::<Result<Vec<_>, _>>().map_err(rejected)?;
    let mut properties: Map<String, Value> = members
        .iter()
        // A name cannot be empty or have a zero byte; those that begin so are the hub's own. The text has them all.
        .filter(|(name, _)| !name.is_empty() && !name.contains('\0') && !name.starts_with('_'))
        .filter_map(|(name, raw)| Some((name.clone(), property(raw.get())?)))
        .collect();
    let (primal, version) = (event.primal(), event.version.as_i64());
    let own = [
        ("_key", json!(event.key)),
        ("_version", json!(version)),
        ("_event_id", json!(event.id)),
        ("_alpha", json!(primal.alpha)),
        ("_lambda", json!(primal.lambda)),
        ("_k", json!(primal.k)),
        match event.data {
            Some(data) => ("_data", json!(data)),
            None => ("_deleted", json!(true)),
        },
    ];
    properties.extend(own.map(|(name, value)| (name.to_owned(), value)));
    let time = event.time().0;
    let row = json!({
        "k": event.key,
        "v": version,
        "s": time.div_euclid(1_000_000),
        "ns": time.rem_euclid(1_000_000) * 1_000,
        "p": properties,
    });
    Ok(Node { row, key: event.key.to_owned(), version, ends })
}

/// The keys that a member leads to: a key, or a list of such. Null, absent and empty text: none.
fn ends(field: &str, raw: Option<&RawValue>) -> Result<Vec<String>, String> {
    let value: Value = match raw {
        None => return Ok(Vec::new()),
        Some(raw) => {
            serde_json::from_str(raw.get()).map_err(|e| format!("the member {field:?} cannot be read: {e}"))?
        }
    };
    let one = |value: &Value| match value {
        Value::String(key) => Ok(Some(key.clone()).filter(|key| !key.is_empty())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Null => Ok(None),
        other => Err(format!("the member {field:?}, a reference, is neither a key nor a list of keys: {other}")),
    };
    let mut keys: Vec<String> = match &value {
        Value::Array(list) => list.iter().filter_map(|value| one(value).transpose()).collect::<Result<_, _>>()?,
        value => one(value)?.into_iter().collect(),
    };
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

/// A member as a property: a plain value, a list of values of one type, and anything else as its text. `None` for null,
/// which is no property.
fn property(raw: &str) -> Option<Value> {
    let text = || Some(Value::from(raw));
    match serde_json::from_str::<Value>(raw) {
        Ok(Value::Null) => None,
        Ok(Value::Number(number)) => Some(storable(&number)),
        Ok(value @ (Value::Bool(_) | Value::String(_))) => Some(value),
        Ok(Value::Array(list)) if list.iter().all(Value::is_string) || list.iter().all(Value::is_boolean) => {
            Some(Value::Array(list))
        }
        Ok(Value::Array(list)) if list.iter().all(Value::is_i64) => Some(Value::Array(list)),
        Ok(Value::Array(list)) if list.iter().all(Value::is_number) => {
            Some(list.iter().filter_map(Value::as_f64).map(Value::from).collect())
        }
        // Objects, mixed lists, what is too deep, and numbers beyond all doubles.
        _ => text(),
    }
}

/// Whole numbers of the store have 64 bits with a sign; larger ones are doubles.
fn storable(number: &serde_json::Number) -> Value {
    match (number.as_i64(), number.as_f64()) {
        (Some(n), _) => Value::from(n),
        (None, Some(n)) => Value::from(n),
        (None, None) => Value::from(number.to_string()),
    }
}

/// The properties that [`stored`] wants, in its order.
pub(crate) const COLUMNS: &str = "n._key, n._version, n._event_id, n._time.epochSeconds, n._time.nanosecond, n._alpha, \
                                  n._lambda, n._k, n._data";

/// A record from a row of [`COLUMNS`]; `None` if this hub did not write it.
pub(crate) fn stored(target: &Target, row: &Row) -> Option<Stored> {
    let text = |i: usize| row.get(i).and_then(Value::as_str);
    let whole = |i: usize| row.get(i).and_then(Value::as_i64);
    let double = |i: usize| row.get(i).and_then(Value::as_f64);
    let content = match (text(8), target.columns()) {
        (None, _) => Content::Deleted,
        (Some(data), Some(table)) => Content::Row(table.cells(data).ok()?),
        (Some(data), None) => Content::Document(data.to_owned()),
    };
    Some(Stored {
        identity: text(0)?.to_owned(),
        version: Version::from_i64(whole(1)?),
        event_id: text(2)?.to_owned(),
        time: Timestamp(whole(3)?.checked_mul(1_000_000)?.checked_add(whole(4)? / 1_000)?),
        primal: Primal { alpha: double(5)?, lambda: double(6)?, k: double(7)? },
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(field: &str, data: &str) -> Result<Vec<String>, String> {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(data).unwrap();
        ends(field, members.get(field).copied())
    }

    #[test]
    fn a_reference_is_a_key_or_a_list_of_keys() {
        assert_eq!(of("to", r#"{"to":"b"}"#).unwrap(), ["b"]);
        assert_eq!(of("to", r#"{"to":["b","a",7,"b",null]}"#).unwrap(), ["7", "a", "b"]);
        for none in [r#"{"to":null}"#, r#"{"to":""}"#, r#"{"to":[]}"#, "{}"] {
            assert!(of("to", none).unwrap().is_empty());
        }
        assert!(of("to", r#"{"to":{"key":"b"}}"#).unwrap_err().contains("\"to\", a reference"));
    }

    #[test]
    fn properties_are_plain_values_and_lists_of_one_type() {
        let cases = [
            ("18446744073709551615", json!(18446744073709551615_f64)),
            ("[1,2]", json!([1, 2])),
            ("[1,2.5]", json!([1.0, 2.5])),
            ("[1,\"a\"]", json!("[1,\"a\"]")),
            ("[null]", json!("[null]")),
            ("{\"a\":1}", json!("{\"a\":1}")),
            ("1e999", json!("1e999")),
        ];
        for (raw, expected) in cases {
            assert_eq!(property(raw), Some(expected), "{raw}");
        }
        assert_eq!(property("null"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_a_property_and_any_row_a_record_or_none(raw in "[\\[\\]{}\",:0-9a-z.-]{0,40}", n in any::<i64>()) {
            let _ = property(&raw);
            let row: Row = vec![json!("k"), json!(1), json!("e"), json!(n), json!(n), json!(0.5), json!(0.5), json!(0.5), json!(raw)];
            let target = Target {
                sink: "s".into(),
                collection: primal_core::Collection::new("c").unwrap(),
                build: primal_core::sink::Build::Live(1),
                projection: primal_core::Projection::Graph,
                table: None,
                mapping: std::sync::Arc::default(),
            };
            let _ = stored(&target, &row);
        }
    }
}
