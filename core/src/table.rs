//! Typed columns: how a collection with a schema appears in a store that has columns, and the reading of a payload into
//! cells. Columns come from a schema file; what creates them in a store is the store's own file.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::{Digest, Timestamp};

/// The column that keeps the members of a payload for which the schema has no property.
pub const EXTRA: &str = "_extra";

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A signed 64-bit number.
    Integer,
    /// A double.
    Number,
    /// True or false.
    Boolean,
    /// Text.
    Text,
    /// A moment, to the microsecond (JSON Schema `format: date-time`).
    Timestamp,
    /// A JSON value: objects, arrays, and properties of several types.
    Json,
}

/// One column. All may be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The property's name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
}

/// The columns of a collection in the schema's order, then [`EXTRA`] where what has no column is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    columns: Vec<Column>,
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing, or JSON's null.
    Null,
    /// See [`Kind::Integer`].
    Integer(i64),
    /// See [`Kind::Number`]; finite.
    Number(f64),
    /// See [`Kind::Boolean`].
    Boolean(bool),
    /// See [`Kind::Text`].
    Text(String),
    /// See [`Kind::Timestamp`].
    Timestamp(Timestamp),
    /// See [`Kind::Json`]: JSON text.
    Json(String),
}

impl Table {
    /// From a schema's properties, in their order.
    pub fn new(mut columns: Vec<Column>) -> Self {
        columns.push(Column { name: EXTRA.to_owned(), kind: Kind::Json });
        Table { columns }
    }

    /// Only these columns; what a payload holds beside them is left out.
    pub fn of(columns: Vec<Column>) -> Self {
        Table { columns }
    }

    /// All columns, [`EXTRA`] last.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Reads a payload into one cell per column.
    ///
    /// # Errors
    /// Which column cannot hold what, for the dead letter.
    pub fn cells(&self, data: &str) -> Result<Vec<Cell>, String> {
        let mut members: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(data).map_err(|e| format!("the payload is not a JSON object: {e}"))?;
        let mut cells = Vec::with_capacity(self.columns.len());
        for column in self.columns.iter().filter(|column| column.name != EXTRA) {
            let cell = match members.remove(column.name.as_str()) {
                Some(value) => read(column.kind, value.get()).ok_or_else(|| {
                    format!("column {:?} ({:?}) cannot hold {}", column.name, column.kind, short(value.get()))
                })?,
                None => Cell::Null,
            };
            cells.push(cell);
        }
        if self.columns.last().is_some_and(|column| column.name == EXTRA) {
            let extra = serde_json::to_string(&members).map_err(|e| format!("the payload cannot be split: {e}"))?;
            cells.push(if members.is_empty() { Cell::Null } else { Cell::Json(extra) });
        }
        Ok(cells)
    }

    /// The row as a JSON object, nulls left out.
    pub fn to_json(&self, cells: &[Cell]) -> String {
        let mut object = serde_json::Map::new();
        for (column, cell) in self.columns.iter().zip(cells) {
            let value = match cell {
                Cell::Null => continue,
                Cell::Integer(n) => (*n).into(),
                Cell::Number(n) => (*n).into(),
                Cell::Boolean(b) => (*b).into(),
                Cell::Text(text) => text.as_str().into(),
                Cell::Timestamp(at) => at.to_string().into(),
                Cell::Json(text) => serde_json::from_str(text).unwrap_or_default(),
            };
            object.insert(column.name.clone(), value);
        }
        serde_json::Value::Object(object).to_string()
    }
}

/// The digest of a row.
pub fn digest(cells: &[Cell]) -> Digest {
    Digest::of_parts(cells.iter().map(|cell| match cell {
        Cell::Null => Digest::of_bytes(b'0', b""),
        Cell::Integer(n) => Digest::of_bytes(b'i', &n.to_le_bytes()),
        // Adding zero turns -0 into 0: not every store keeps that sign.
        Cell::Number(n) => Digest::of_bytes(b'f', &(n + 0.0).to_bits().to_le_bytes()),
        Cell::Boolean(b) => Digest::of_bytes(b'b', &[u8::from(*b)]),
        Cell::Text(text) => Digest::of_bytes(b't', text.as_bytes()),
        Cell::Timestamp(at) => Digest::of_bytes(b'm', &at.0.to_le_bytes()),
        Cell::Json(text) => Digest::of_json(text),
    }))
}

fn read(kind: Kind, raw: &str) -> Option<Cell> {
    if raw == "null" {
        return Some(Cell::Null);
    }
    match kind {
        Kind::Integer => integer(raw).map(Cell::Integer),
        Kind::Number => raw.parse().ok().filter(|n: &f64| n.is_finite()).map(Cell::Number),
        Kind::Boolean => raw.parse().ok().map(Cell::Boolean),
        Kind::Text => serde_json::from_str(raw).ok().map(Cell::Text),
        Kind::Timestamp => {
            let text: Cow<'_, str> = serde_json::from_str(raw).ok()?;
            Timestamp::parse_rfc3339(&text).map(Cell::Timestamp)
        }
        Kind::Json => Some(Cell::Json(raw.to_owned())),
    }
}

/// JSON Schema counts `1.0` and `1e3` among the integers (2020-12, §6.1.1).
fn integer(raw: &str) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Ok(n) = raw.parse() {
        return Some(n);
    }
    let n: f64 = raw.parse().ok()?;
    (n.fract() == 0.0 && n.abs() < EXACT && raw.contains(['.', 'e', 'E'])).then_some(n as i64)
}

fn short(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        format!("{}…", text.chars().take(60).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let column = |name: &str, kind| Column { name: name.into(), kind };
        Table::new(vec![
            column("n", Kind::Integer),
            column("x", Kind::Number),
            column("at", Kind::Timestamp),
            column("s", Kind::Text),
            column("j", Kind::Json),
        ])
    }

    #[test]
    fn a_payload_becomes_cells_and_nothing_of_it_is_lost() {
        let cells = table()
            .cells(r#"{"n":1.0,"x":2,"at":"2013-01-01T00:00:00+01:00","s":"\u0041","j":[1, 2],"more":{"deep":1}}"#)
            .unwrap();
        let expected = [
            Cell::Integer(1),
            Cell::Number(2.0),
            Cell::Timestamp(Timestamp::parse_rfc3339("2012-12-31T23:00:00Z").unwrap()),
            Cell::Text("A".into()),
            Cell::Json("[1, 2]".into()),
            Cell::Json(r#"{"more":{"deep":1}}"#.into()),
        ];
        assert_eq!(cells, expected);
        assert_eq!(table().cells("{}").unwrap(), vec![Cell::Null; 6]);
        assert!(table().to_json(&cells).contains(r#""at":"2012-12-31T23:00:00Z""#));
        assert_ne!(digest(&cells), digest(&expected[..5]));
    }

    #[test]
    fn what_a_column_cannot_hold_is_named() {
        for (data, column) in [
            (r#"{"n":9223372036854775808}"#, "\"n\""),
            (r#"{"n":1.5}"#, "\"n\""),
            (r#"{"x":1e999}"#, "\"x\""),
            (r#"{"at":"noon"}"#, "\"at\""),
            (r#"{"s":1}"#, "\"s\""),
        ] {
            assert!(table().cells(data).unwrap_err().contains(column), "{data}");
        }
    }
}
