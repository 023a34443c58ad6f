//! States as columns: the hub's own, then those of the schema, or the payload as text where there is none. A payload that
//! does not fit the schema has nulls there; the text is in `data` in either case.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder,
    TimestampMicrosecondBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;
use primal_core::table::{Cell, EXTRA, Kind, Table};

use crate::fold::Row;

/// The key's column.
pub const KEY: &str = "_key";
/// The column that says when the log took the last event.
pub const RECORDED: &str = "_recorded";
/// The column of tombstones; snapshots have it, queries do not see it.
pub const DELETED: &str = "_deleted";
/// The column of the payload.
pub const DATA: &str = "data";

/// The columns of a collection; its schema's columns do not hide the hub's.
pub fn schema(table: Option<&Table>) -> SchemaRef {
    let moment = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![
        Field::new(KEY, DataType::Utf8, false),
        Field::new("_version", DataType::Int64, false),
        Field::new(DELETED, DataType::Boolean, false),
        Field::new("_event_id", DataType::Utf8, false),
        Field::new("_type", DataType::Utf8, false),
        Field::new("_time", moment(), false),
        Field::new(RECORDED, moment(), false),
        Field::new("_alpha", DataType::Float64, false),
        Field::new("_lambda", DataType::Float64, false),
        Field::new("_k", DataType::Float64, false),
        Field::new(DATA, DataType::Utf8, true),
    ];
    for column in typed(table) {
        let kind = match column.kind {
            Kind::Integer => DataType::Int64,
            Kind::Number => DataType::Float64,
            Kind::Boolean => DataType::Boolean,
            Kind::Text | Kind::Json => DataType::Utf8,
            Kind::Timestamp => moment(),
        };
        fields.push(Field::new(&column.name, kind, true));
    }
    Arc::new(Schema::new(fields))
}

/// The columns that come from the schema; a name of the hub's is left to the hub.
fn typed(table: Option<&Table>) -> impl Iterator<Item = &primal_core::table::Column> {
    let columns = table.map(Table::columns).unwrap_or_default();
    columns.iter().filter(|column| column.name != EXTRA && !column.name.starts_with('_') && column.name != DATA)
}

enum Builder {
    Text(StringBuilder),
    Integer(Int64Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Moment(TimestampMicrosecondBuilder),
}

impl Builder {
    fn of(kind: &DataType) -> Self {
        match kind {
            DataType::Int64 => Builder::Integer(Int64Builder::new()),
            DataType::Float64 => Builder::Double(Float64Builder::new()),
            DataType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            DataType::Timestamp(..) => Builder::Moment(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            _ => Builder::Text(StringBuilder::new()),
        }
    }

    fn push(&mut self, cell: Option<&Cell>) {
        match (self, cell.unwrap_or(&Cell::Null)) {
            (Builder::Text(b), Cell::Text(text) | Cell::Json(text)) => b.append_value(text),
            (Builder::Text(b), _) => b.append_null(),
            (Builder::Integer(b), cell) => b.append_option(if let Cell::Integer(n) = cell { Some(*n) } else { None }),
            (Builder::Double(b), cell) => b.append_option(if let Cell::Number(n) = cell { Some(*n) } else { None }),
            (Builder::Boolean(b), cell) => b.append_option(if let Cell::Boolean(t) = cell { Some(*t) } else { None }),
            (Builder::Moment(b), cell) => b.append_option(if let Cell::Timestamp(t) = cell { Some(t.0) } else { None }),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Builder::Text(mut b) => Arc::new(b.finish()),
            Builder::Integer(mut b) => Arc::new(b.finish()),
            Builder::Double(mut b) => Arc::new(b.finish()),
            Builder::Boolean(mut b) => Arc::new(b.finish()),
            Builder::Moment(mut b) => Arc::new(b.finish()),
        }
    }
}

/// Rows as a batch of the given columns, which are some of [`schema`]'s.
///
/// # Errors
/// Arrow's; none is known.
pub fn batch<'r>(
    table: Option<&Table>,
    columns: &SchemaRef,
    rows: impl IntoIterator<Item = (&'r str, &'r Row)>,
) -> Result<RecordBatch, ArrowError> {
    let mut builders: Vec<_> = columns.fields().iter().map(|field| Builder::of(field.data_type())).collect();
    let place = |name: &str| table.and_then(|table| table.columns().iter().position(|column| column.name == name));
    let is_ours = |name: &str| name.starts_with('_') || name == DATA;
    let places: Vec<_> =
        columns.fields().iter().map(|f| if is_ours(f.name()) { None } else { place(f.name()) }).collect();
    let needs_cells = places.iter().any(Option::is_some);
    let mut count = 0;
    for (key, row) in rows {
        count += 1;
        let cells = match (&row.data, table) {
            (Some(data), Some(table)) if needs_cells => table.cells(data).unwrap_or_default(),
            _ => Vec::new(),
        };
        for ((field, builder), place) in columns.fields().iter().zip(&mut builders).zip(&places) {
            match place {
                Some(place) => builder.push(cells.get(*place)),
                None => own(builder, field.name(), key, row),
            }
        }
    }
    let arrays = builders.into_iter().map(Builder::finish).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    RecordBatch::try_new_with_options(columns.clone(), arrays, &options)
}

fn own(builder: &mut Builder, name: &str, key: &str, row: &Row) {
    match (builder, name) {
        (Builder::Text(b), KEY) => b.append_value(key),
        (Builder::Text(b), "_event_id") => b.append_value(&row.id),
        (Builder::Text(b), "_type") => b.append_value(&row.kind),
        (Builder::Text(b), DATA) => b.append_option(row.data.as_deref()),
        (Builder::Integer(b), "_version") => b.append_value(row.version.as_i64()),
        (Builder::Boolean(b), DELETED) => b.append_value(row.data.is_none()),
        (Builder::Moment(b), RECORDED) => b.append_value(row.recorded.0),
        (Builder::Moment(b), "_time") => b.append_value(row.time.0),
        (Builder::Double(b), "_alpha") => b.append_value(row.primal.alpha),
        (Builder::Double(b), "_lambda") => b.append_value(row.primal.lambda),
        (Builder::Double(b), "_k") => b.append_value(row.primal.k),
        (builder, _) => builder.push(None),
    }
}
