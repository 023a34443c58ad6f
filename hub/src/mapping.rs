//! How a config says that payloads are points, nodes or vectors, and the checks of that against the collection's schema.

use std::sync::Arc;

use primal_core::mapping::{Distance, Edge, Graph, Series, Vector, VectorSource, label};
use primal_core::nearest::hint;
use primal_core::table::{Column, Kind, Table};
use primal_core::{Collection, Mapping, Settings, SettingsError};
use serde::Deserialize;

/// `series: { time: at, tags: [origin], fields: [temp] }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeriesSettings {
    time: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    fields: Option<Vec<String>>,
}

/// `graph: { label: Flight, edges: [{ field: origin, to: airports, type: DEPARTS_FROM }] }`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GraphSettings {
    label: Option<String>,
    #[serde(default)]
    edges: Vec<EdgeSettings>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgeSettings {
    field: String,
    to: String,
    #[serde(rename = "type")]
    kind: String,
}

/// `vector: { field: embedding, size: 384, distance: cosine }`, or `text: [title, body]` instead of `field`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VectorSettings {
    field: Option<String>,
    text: Option<Vec<String>>,
    size: usize,
    #[serde(default)]
    distance: Distance,
}

/// The largest vector that any of the stores takes (Qdrant, <https://qdrant.tech/documentation/concepts/vectors/>).
const MOST_DIMENSIONS: usize = 65_536;

impl SeriesSettings {
    /// `place` is where it stands, `table` what the collection's schema gives.
    pub(crate) fn check(self, place: &Settings, table: Option<&Table>) -> Result<Arc<Mapping>, SettingsError> {
        let table = table.ok_or_else(|| {
            place.error("a series needs a schema that says what its fields are; set `schema` of the collection")
        })?;
        let column = |name: &str| {
            let names = || table.columns().iter().map(|column| column.name.as_str()).filter(|n| !n.starts_with('_'));
            let found = table.columns().iter().find(|column| column.name == name && !name.starts_with('_'));
            found.ok_or_else(|| place.error(format!("the schema has no property `{name}`{}", hint(name, names()))))
        };
        if let Some(time) = &self.time
            && column(time)?.kind != Kind::Timestamp
        {
            return Err(place.error(format!("`{time}` is no moment: its schema has no `format: date-time`")));
        }
        for tag in &self.tags {
            if column(tag)?.kind == Kind::Json {
                return Err(place.error(format!("`{tag}` cannot be a tag: it is no plain value")));
            }
        }
        let fields = self.fields.unwrap_or_else(|| Series::measured(table, self.time.as_deref(), &self.tags));
        let fields: Vec<Column> = fields.iter().map(|name| column(name).cloned()).collect::<Result<_, _>>()?;
        if fields.is_empty() {
            return Err(place.error("a series needs at least one field; name `fields`, or give the schema a number"));
        }
        if let Some(both) = fields.iter().find(|field| self.tags.contains(&field.name)) {
            return Err(place.error(format!("`{}` cannot be a tag and a field", both.name)));
        }
        Ok(Arc::new(Mapping::Series(Series { time: self.time, tags: self.tags, fields: Arc::new(Table::of(fields)) })))
    }
}

impl GraphSettings {
    /// The label of a collection's nodes.
    pub(crate) fn label(&self, collection: &Collection) -> String {
        self.label.clone().unwrap_or_else(|| label(collection))
    }

    /// `labels` are the labels of all collections.
    pub(crate) fn check(
        self,
        place: &Settings,
        collection: &Collection,
        labels: &[(Collection, String)],
    ) -> Result<Arc<Mapping>, SettingsError> {
        let edge = |edge: &EdgeSettings| {
            let names = labels.iter().map(|(name, _)| name.as_str());
            let found = labels.iter().find(|(name, _)| name.as_str() == edge.to);
            let unknown = || place.error(format!("unknown collection {:?}{}", edge.to, hint(&edge.to, names)));
            let (to, to_label) = found.cloned().ok_or_else(unknown)?;
            Ok(Edge { field: edge.field.clone(), to, to_label, kind: edge.kind.clone() })
        };
        let edges = self.edges.iter().map(edge).collect::<Result<_, _>>()?;
        Ok(Arc::new(Mapping::Graph(Graph { label: self.label(collection), edges })))
    }
}

impl VectorSettings {
    pub(crate) fn check(self, place: &Settings) -> Result<Arc<Mapping>, SettingsError> {
        let source = match (self.field, self.text) {
            (Some(field), None) => VectorSource::Field(field),
            (None, Some(text)) if !text.is_empty() => VectorSource::Text(text),
            _ => {
                return Err(
                    place.error("a vector needs either `field`, a list of numbers, or `text`, members to embed")
                );
            }
        };
        if !(1..=MOST_DIMENSIONS).contains(&self.size) {
            return Err(place.error(format!("`size` {}; expected 1 to {MOST_DIMENSIONS} dimensions", self.size)));
        }
        Ok(Arc::new(Mapping::Vector(Vector { source, size: self.size, distance: self.distance })))
    }
}
