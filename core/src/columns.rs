//! How a target lies in columns: the hub's own, then the data's, and the values of an event in them. Shared by all stores
//! that have columns; each names the types its way.

use hashbrown::HashMap;

use crate::batch::{Batch, BatchEvent};
use crate::error::Rejected;
use crate::mapping::{Mapping, Series};
use crate::sink::{Content, Projection, Target};
use crate::table::{self, Cell, Kind};
use crate::{Fault, SinkError, Timestamp};

/// What a column holds, whatever the store calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// UTF-8.
    Text,
    /// A signed 64-bit number.
    Integer,
    /// A double.
    Double,
    /// True or false.
    Boolean,
    /// A moment, to the microsecond.
    Timestamp,
    /// JSON text.
    Json,
}

impl From<Kind> for Type {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Integer => Type::Integer,
            Kind::Number => Type::Double,
            Kind::Boolean => Type::Boolean,
            Kind::Text => Type::Text,
            Kind::Timestamp => Type::Timestamp,
            Kind::Json => Type::Json,
        }
    }
}

/// A column. One that is not `ours` comes from the schema and may be added to an existing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Type,
    /// Whether it is the hub's own.
    pub ours: bool,
}

/// The columns of one target.
#[derive(Clone, Debug)]
pub struct Layout {
    /// All of them, in order.
    pub columns: Vec<Column>,
    /// The primary key: what identifies a record.
    pub identity: &'static str,
    /// Where the data begin.
    pub data_from: usize,
    /// How the collection appears.
    pub projection: Projection,
}

/// The column that identifies a point.
const POINT: &str = "_point";
/// The column of a point's moment.
pub const AT: &str = "_at";
const DELETED: &str = "_deleted";

const STATE: &[(&str, Type)] = &[
    ("_key", Type::Text),
    ("_version", Type::Integer),
    (DELETED, Type::Boolean),
    ("_event_id", Type::Text),
    ("_time", Type::Timestamp),
    ("_alpha", Type::Double),
    ("_lambda", Type::Double),
    ("_k", Type::Double),
];
const EVENT: &[(&str, Type)] = &[("_op", Type::Text), ("_type", Type::Text)];

impl Layout {
    /// The columns of a target.
    pub fn of(target: &Target) -> Self {
        let ours = |(name, kind): &(&str, Type)| Column { name: (*name).to_owned(), kind: *kind, ours: true };
        if let (Projection::Series, Mapping::Series(series)) = (target.projection, &*target.mapping) {
            return Layout::of_series(series);
        }
        let mut columns: Vec<Column> = STATE.iter().map(ours).collect();
        if target.projection == Projection::Events {
            columns.extend(EVENT.iter().map(ours));
        }
        let data_from = columns.len();
        match (target.columns(), target.projection) {
            (Some(table), Projection::Table) => columns.extend(table.columns().iter().map(|column| Column {
                name: column.name.clone(),
                kind: column.kind.into(),
                ours: column.name.starts_with('_'),
            })),
            _ => columns.push(ours(&("data", Type::Json))),
        }
        let identity = if target.projection.keeps_every_event() { "_event_id" } else { "_key" };
        Layout { columns, identity, data_from, projection: target.projection }
    }

    /// A point is told by its moment and tags as one text, and has each in a column of its own beside. It has no tombstone.
    fn of_series(series: &Series) -> Self {
        let ours = |name: &str, kind| Column { name: name.to_owned(), kind, ours: true };
        let mut columns = vec![ours(POINT, Type::Text), ours(AT, Type::Timestamp)];
        columns.extend(series.tags.iter().map(|tag| ours(tag, Type::Text)));
        columns.extend(STATE.iter().filter(|(name, _)| *name != DELETED).map(|(name, kind)| ours(name, *kind)));
        let data_from = columns.len();
        let field =
            |column: &table::Column| Column { name: column.name.clone(), kind: column.kind.into(), ours: false };
        columns.extend(series.fields.columns().iter().map(field));
        Layout { columns, identity: POINT, data_from, projection: Projection::Series }
    }

    /// What is unique. Of a point the moment too, which stores that are partitioned by time ask for.
    pub fn key(&self) -> &'static [&'static str] {
        match self.projection {
            Projection::Series => &[POINT, AT],
            Projection::Events => &["_event_id"],
            _ => &["_key"],
        }
    }

    /// Whether a record of it can be a tombstone.
    pub fn has_tombstones(&self) -> bool {
        self.projection != Projection::Series
    }

    /// Compares with the columns that a table has (name and type); the ones to be added.
    ///
    /// # Errors
    /// A column of another type, or a table of another projection or another program.
    pub fn missing(
        &self,
        target: &Target,
        found: &[(String, String)],
        type_name: fn(Type) -> &'static str,
    ) -> Result<Vec<&Column>, SinkError> {
        let place = target.place();
        let incompatible = |what: String| {
            Err(SinkError::new(
                Fault::Incompatible,
                format!(
                    "table {place:?} {what}; `replay --sink {} --collection {} --from earliest --mode shadow --execute` \
                     builds it anew beside the old one, or move that table out of the way",
                    target.sink, target.collection
                ),
            ))
        };
        let mut missing = Vec::new();
        for column in &self.columns {
            let wanted = type_name(column.kind);
            match found.iter().find(|(name, _)| *name == column.name) {
                Some((_, kind)) if kind.eq_ignore_ascii_case(wanted) => {}
                Some((_, kind)) => {
                    return incompatible(format!("has column {:?} of type {kind}, expected {wanted}", column.name));
                }
                None if column.ours => {
                    let projection = self.projection.as_str();
                    return incompatible(format!(
                        "has no column {:?}: it is not a `{projection}` projection of this hub",
                        column.name
                    ));
                }
                None => missing.push(column),
            }
        }
        Ok(missing)
    }
}

/// One value of a row, borrowed from the event where it can be.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Nothing.
    Null,
    /// See [`Type::Text`].
    Text(&'a str),
    /// The same, of its own.
    Owned(String),
    /// See [`Type::Integer`].
    Integer(i64),
    /// See [`Type::Double`]; finite.
    Double(f64),
    /// See [`Type::Boolean`].
    Boolean(bool),
    /// See [`Type::Timestamp`].
    Timestamp(Timestamp),
    /// See [`Type::Json`].
    Json(&'a str),
    /// The same, of its own.
    OwnedJson(String),
}

impl Value<'_> {
    /// The text that it is, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Owned(text) => Some(text),
            _ => None,
        }
    }
}

/// The rows of a batch, in the order of the layout's columns; checked before anything is written. One an event, except
/// where several are one point of a series.
///
/// # Errors
/// All events that a column cannot hold.
pub fn rows<'a>(target: &Target, batch: &Batch<'a>) -> Result<Vec<Vec<Value<'a>>>, SinkError> {
    let mut rows = Vec::with_capacity(batch.events.len());
    let mut refused: Vec<Rejected> = Vec::new();
    for event in &batch.events {
        match row(target, event) {
            Ok(row) => rows.push(row),
            Err(SinkError { fault: Fault::Rejected(rejected), .. }) => refused.extend(rejected),
            Err(other) => return Err(other),
        }
    }
    if let Some(reason) = refused.first().map(|rejected| rejected.reason.clone()) {
        return Err(SinkError::new(Fault::Rejected(refused), reason));
    }
    if target.projection == Projection::Series {
        // Of several events that are one point the last is the point; no statement writes a record twice.
        let point = |row: &Vec<Value<'a>>| row.first().and_then(Value::text).unwrap_or_default().to_owned();
        let last: HashMap<String, usize> = rows.iter().enumerate().map(|(index, row)| (point(row), index)).collect();
        let mut index = 0;
        rows.retain(|row| {
            index += 1;
            last.get(&point(row)) == Some(&(index - 1))
        });
    }
    Ok(rows)
}

fn row<'a>(target: &Target, event: &BatchEvent<'a>) -> Result<Vec<Value<'a>>, SinkError> {
    let mut row = Vec::new();
    let mut fields = Vec::new();
    if target.projection == Projection::Series {
        let point = target.point(event)?;
        row.extend([Value::Owned(point.identity()), Value::Timestamp(point.at)]);
        row.extend(point.tags.into_iter().map(Value::Owned));
        fields = point.fields;
    }
    let primal = event.primal();
    row.extend([Value::Text(event.key), Value::Integer(event.version.as_i64())]);
    if target.projection != Projection::Series {
        row.push(Value::Boolean(event.data.is_none()));
    }
    row.extend([
        Value::Text(event.id),
        Value::Timestamp(event.time()),
        Value::Double(primal.alpha),
        Value::Double(primal.lambda),
        Value::Double(primal.k),
    ]);
    if target.projection == Projection::Events {
        row.extend([Value::Text(event.op.as_str()), Value::Text(event.kind())]);
    }
    match target.columns() {
        Some(table) if target.projection == Projection::Table => {
            let cells = target.cells(event)?;
            let missing = table.columns().len() - cells.len();
            row.extend(cells.into_iter().map(value));
            row.extend(std::iter::repeat_n(Value::Null, missing));
        }
        _ if target.projection == Projection::Series => row.extend(fields.into_iter().map(value)),
        _ => row.push(event.data.map_or(Value::Null, Value::Json)),
    }
    Ok(row)
}

fn value<'a>(cell: Cell) -> Value<'a> {
    match cell {
        Cell::Null => Value::Null,
        Cell::Integer(n) => Value::Integer(n),
        Cell::Number(n) => Value::Double(n),
        Cell::Boolean(b) => Value::Boolean(b),
        Cell::Text(text) => Value::Owned(text),
        Cell::Timestamp(at) => Value::Timestamp(at),
        Cell::Json(text) => Value::OwnedJson(text),
    }
}

/// The content of a stored row, from its data cells.
pub fn content(target: &Target, deleted: bool, mut cells: Vec<Cell>) -> Content {
    match (deleted, target.projection) {
        (true, _) => Content::Deleted,
        (false, Projection::Table | Projection::Series) => Content::Row(cells),
        (false, _) => match cells.pop() {
            Some(Cell::Json(text)) => Content::Document(text),
            _ => Content::Deleted,
        },
    }
}
