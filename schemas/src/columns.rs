//! From a schema's properties to columns.

use std::fmt;

use primal_core::Table;
use primal_core::table::{Column, Kind};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The longest column name: PostgreSQL cuts identifiers at 63 bytes
/// (https://www.postgresql.org/docs/current/sql-syntax-lexical.html).
const MAX_NAME: usize = 63;

/// The columns of a schema; `text` gives their order, which `value` has lost.
pub(crate) fn columns(text: &str, value: &Value) -> Result<Table, String> {
    let order: Order = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let properties = value.get("properties").and_then(Value::as_object);
    let properties = properties.ok_or("has no `properties`, so a table would have no columns")?;
    let mut columns: Vec<Column> = Vec::with_capacity(properties.len());
    for name in order.properties.0 {
        let Some(property) = properties.get(&name) else { continue };
        if name.starts_with('_') {
            return Err(format!("property {name:?}: names that begin with `_` are the hub's own columns"));
        }
        if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
            return Err(format!("property {name:?}: a column's name has 1 to {MAX_NAME} bytes and no NUL"));
        }
        if let Some(twin) = columns.iter().find(|column| column.name.eq_ignore_ascii_case(&name)) {
            return Err(format!(
                "properties {:?} and {name:?} differ only in case, which not all stores tell apart",
                twin.name
            ));
        }
        columns.push(Column { kind: kind(resolve(value, property)), name });
    }
    Ok(Table::new(columns))
}

/// Follows one local reference.
fn resolve<'a>(root: &'a Value, property: &'a Value) -> &'a Value {
    let reference = property.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
    reference.and_then(|pointer| root.pointer(pointer)).unwrap_or(property)
}

/// What a property's type means as a column; what has no one type is kept as JSON.
fn kind(property: &Value) -> Kind {
    let named: Vec<&str> = match property.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let types: Vec<&str> = named.into_iter().filter(|name| *name != "null").collect();
    match (types.as_slice(), property.get("format").and_then(Value::as_str)) {
        (["integer"], _) => Kind::Integer,
        (["number"] | ["integer", "number"] | ["number", "integer"], _) => Kind::Number,
        (["boolean"], _) => Kind::Boolean,
        (["string"], Some("date-time")) => Kind::Timestamp,
        (["string"], _) => Kind::Text,
        _ => Kind::Json,
    }
}

#[derive(Deserialize)]
struct Order {
    #[serde(default)]
    properties: Names,
}

#[derive(Default)]
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the properties of a schema")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
