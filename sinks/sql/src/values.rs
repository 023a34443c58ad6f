//! The values of an event in its target's columns, and of a stored row back into a record.

use primal_core::batch::{Batch, BatchEvent};
use primal_core::error::Rejected;
use primal_core::sink::{Content, Projection, Target};
use primal_core::table::Cell;
use primal_core::{Fault, SinkError, Timestamp};

/// One value of a row, borrowed from the event where it can be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Text(&'a str),
    Owned(String),
    Integer(i64),
    Double(f64),
    Boolean(bool),
    Timestamp(Timestamp),
    Json(&'a str),
    OwnedJson(String),
}

/// All rows of a batch, in the order of the layout's columns; checked before anything is written.
///
/// # Errors
/// All events that a column cannot hold.
pub(crate) fn rows<'a>(target: &Target, batch: &Batch<'a>) -> Result<Vec<Vec<Value<'a>>>, SinkError> {
    let mut rows = Vec::with_capacity(batch.events.len());
    let mut refused: Vec<Rejected> = Vec::new();
    for event in &batch.events {
        match row(target, event) {
            Ok(row) => rows.push(row),
            Err(SinkError { fault: Fault::Rejected(rejected), .. }) => refused.extend(rejected),
            Err(other) => return Err(other),
        }
    }
    match refused.first().map(|rejected| rejected.reason.clone()) {
        Some(reason) => Err(SinkError::new(Fault::Rejected(refused), reason)),
        None => Ok(rows),
    }
}

fn row<'a>(target: &Target, event: &BatchEvent<'a>) -> Result<Vec<Value<'a>>, SinkError> {
    let primal = event.primal();
    let mut row = vec![
        Value::Text(event.key),
        Value::Integer(event.version.as_i64()),
        Value::Boolean(event.data.is_none()),
        Value::Text(event.id),
        Value::Timestamp(event.time()),
        Value::Double(primal.alpha),
        Value::Double(primal.lambda),
        Value::Double(primal.k),
    ];
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
pub(crate) fn content(target: &Target, deleted: bool, mut cells: Vec<Cell>) -> Content {
    match (deleted, target.projection) {
        (true, _) => Content::Deleted,
        (false, Projection::Table) => Content::Row(cells),
        (false, _) => match cells.pop() {
            Some(Cell::Json(text)) => Content::Document(text),
            _ => Content::Deleted,
        },
    }
}
