//! InfluxQL: its names and texts, and what it answers. The server says 200 to a statement that failed.

use primal_core::columns::{Layout, Type};
use primal_core::sink::{Content, Stored};
use primal_core::table::Cell;
use primal_core::{Primal, Timestamp, Version};
use serde::Deserialize;
use serde_json::Value as Json;

use super::line::{decode, encode, field_name, tags_end};

/// A name (<https://docs.influxdata.com/influxdb/v1/query_language/spec/#identifiers>).
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", encode(name).replace('\\', "\\\\").replace('"', "\\\""))
}

/// A tag's value, as a text.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", encode(text).replace('\\', "\\\\").replace('\'', "\\'"))
}

#[derive(Deserialize)]
pub(super) struct Results {
    #[serde(default)]
    results: Vec<OneResult>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct OneResult {
    #[serde(default)]
    series: Vec<Rows>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Rows {
    #[serde(default)]
    values: Vec<Vec<Json>>,
}

impl Results {
    /// What the server says went wrong.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref().or_else(|| self.results.iter().find_map(|result| result.error.as_deref()))
    }

    /// The rows of all statements.
    pub(super) fn rows(self) -> Vec<Vec<Json>> {
        self.results.into_iter().flat_map(|result| result.series).flat_map(|rows| rows.values).collect()
    }
}

/// The names of a target's tags, in the order of the config.
pub(super) fn tags(layout: &Layout) -> Vec<&str> {
    let end = tags_end(layout);
    layout.columns.get(2..end).unwrap_or_default().iter().map(|column| column.name.as_str()).collect()
}

/// What tells the point of a row apart, whose moment and tags are given.
pub(super) fn identity(nanoseconds: &Json, tags: &[Json]) -> Option<String> {
    let at = Timestamp(nanoseconds.as_i64()? / 1_000);
    let tag = |tag: &Json| decode(tag.as_str().unwrap_or_default());
    let point = primal_core::mapping::Point { at, tags: tags.iter().map(tag).collect(), fields: Vec::new() };
    Some(point.identity())
}

/// The columns that [`stored`] reads behind the moment, quoted and with commas.
pub(super) fn columns(layout: &Layout) -> String {
    let names = layout.columns.iter().skip(2).map(|column| quote(field_name(&column.name)));
    names.collect::<Vec<_>>().join(", ")
}

/// A record from a row of the moment and [`columns`]; `None` if it is no such row.
pub(super) fn stored(layout: &Layout, row: &[Json]) -> Option<Stored> {
    let tags_end = tags_end(layout);
    let (at, rest) = row.split_first()?;
    let (tags, rest) = rest.split_at_checked(tags_end - 2)?;
    let (ours, data) = rest.split_at_checked(layout.data_from - tags_end)?;
    let [_key, version, event_id, time, alpha, lambda, k] = ours else { return None };
    let cells = layout.columns.iter().skip(layout.data_from).zip(data);
    Some(Stored {
        identity: identity(at, tags)?,
        version: Version(version.as_u64()?),
        event_id: event_id.as_str()?.to_owned(),
        time: Timestamp::parse_rfc3339(time.as_str()?)?,
        primal: Primal { alpha: alpha.as_f64()?, lambda: lambda.as_f64()?, k: k.as_f64()? },
        content: Content::Row(cells.map(|(column, value)| cell(column.kind, value)).collect::<Option<_>>()?),
    })
}

fn cell(kind: Type, value: &Json) -> Option<Cell> {
    if value.is_null() {
        return Some(Cell::Null);
    }
    Some(match kind {
        Type::Text => Cell::Text(value.as_str()?.to_owned()),
        Type::Json => Cell::Json(value.as_str()?.to_owned()),
        Type::Integer => Cell::Integer(value.as_i64()?),
        Type::Double => Cell::Number(value.as_f64()?),
        Type::Boolean => Cell::Boolean(value.as_bool()?),
        Type::Timestamp => Cell::Timestamp(Timestamp::parse_rfc3339(value.as_str()?)?),
    })
}

/// What the store calls the type of a field.
pub(super) fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Integer => "integer",
        Type::Double => "float",
        Type::Boolean => "boolean",
        Type::Text | Type::Json | Type::Timestamp => "string",
    }
}
