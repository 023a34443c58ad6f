//! How payloads of a collection are read where they are more than a document: as points of a series, as nodes and edges
//! of a graph, as vectors. It belongs to the collection, so that all stores of a kind show it the same way.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::table::{Cell, Kind, Table};
use crate::{Collection, Timestamp};

/// What a collection's config says beyond its schema.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mapping {
    /// Nothing.
    #[default]
    Plain,
    /// See [`Series`].
    Series(Series),
    /// See [`Graph`].
    Graph(Graph),
    /// See [`Vector`].
    Vector(Vector),
}

/// Each put or append is a point. A point is identified by its moment and its tags; of several events with one identity the
/// last is the point. A delete leaves what was measured as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The member with the point's moment (RFC 3339); the event's time when none is named.
    pub time: Option<String>,
    /// Members that tell series apart, in this order. Numbers, booleans and moments count by their text.
    pub tags: Vec<String>,
    /// What is measured: only these members are kept.
    pub fields: Arc<Table>,
}

/// One point of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its moment, to the microsecond.
    pub at: Timestamp,
    /// The values of the tags; one that is null or absent is empty.
    pub tags: Vec<String>,
    /// The values of the fields; at least one is not null.
    pub fields: Vec<Cell>,
}

impl Point {
    /// Moment and tags as one text: a JSON array of strings.
    pub fn identity(&self) -> String {
        let mut parts = vec![serde_json::Value::from(self.at.to_string())];
        parts.extend(self.tags.iter().map(|tag| tag.as_str().into()));
        serde_json::Value::Array(parts).to_string()
    }
}

impl Series {
    /// Reads a payload; `happened` is the event's time.
    ///
    /// # Errors
    /// Which member does not fit, for the dead letter.
    pub fn point(&self, data: &str, happened: Timestamp) -> Result<Point, String> {
        let members: BTreeMap<String, &RawValue> =
            serde_json::from_str(data).map_err(|e| format!("the payload is not a JSON object: {e}"))?;
        let member = |name: &str| members.get(name).map(|raw| raw.get()).filter(|raw| *raw != "null");
        let at = match &self.time {
            None => happened,
            Some(name) => {
                let raw = member(name).ok_or_else(|| format!("the member {name:?}, a point's moment, is missing"))?;
                let text: Option<String> = serde_json::from_str(raw).ok();
                text.and_then(|text| Timestamp::parse_rfc3339(&text))
                    .ok_or_else(|| format!("the member {name:?} is no moment: {raw}"))?
            }
        };
        let tag = |name: &String| match member(name) {
            None => Ok(String::new()),
            Some(raw) if raw.starts_with(['{', '[']) => Err(format!("the member {name:?}, a tag, is no plain value")),
            Some(raw) if raw.starts_with('"') => serde_json::from_str(raw).map_err(|e| format!("{name:?}: {e}")),
            Some(raw) => Ok(raw.to_owned()),
        };
        let tags = self.tags.iter().map(tag).collect::<Result<_, _>>()?;
        let fields = self.fields.cells(data)?;
        if fields.iter().all(|cell| *cell == Cell::Null) {
            return Err("none of the fields of the series has a value".to_owned());
        }
        Ok(Point { at, tags, fields })
    }

    /// The columns that are measured where the config names none: the numbers and booleans that are neither tag nor time.
    pub fn measured(table: &Table, time: Option<&str>, tags: &[String]) -> Vec<String> {
        let number = |kind| matches!(kind, Kind::Integer | Kind::Number | Kind::Boolean);
        let free = |name: &str| time != Some(name) && !tags.iter().any(|tag| tag == name);
        let columns = table.columns().iter().filter(|column| number(column.kind) && free(&column.name));
        columns.map(|column| column.name.clone()).collect()
    }
}

/// Each key is a node; members that hold keys of other collections are its edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// The label of the nodes.
    pub label: String,
    /// What leads from a node to others.
    pub edges: Vec<Edge>,
}

/// An edge that every node with a certain member has. It moves when the member changes, and goes with its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The member: a key of `to`, or a list of such. Null or absent: no edge.
    pub field: String,
    /// The collection that it leads to. A node that is not there yet is made, empty, until its own event comes.
    pub to: Collection,
    /// The label of the nodes there.
    pub to_label: String,
    /// The type of the relation, such as `DEPARTS_FROM`.
    pub kind: String,
}

/// Each key is a vector with the payload beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Where the vector comes from.
    pub source: VectorSource,
    /// How many dimensions.
    pub size: usize,
    /// How nearness is measured.
    pub distance: Distance,
}

/// Where a vector comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VectorSource {
    /// A member that holds it, as a list of numbers.
    Field(String),
    /// Members whose text the sink has embedded, joined by line ends.
    Text(Vec<String>),
}

/// How nearness of vectors is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// The angle.
    #[default]
    Cosine,
    /// The dot product.
    Dot,
    /// The straight line.
    Euclid,
}

/// A label from a collection's name: `flight_plans` becomes `FlightPlans`.
pub fn label(collection: &Collection) -> String {
    let words = collection.as_str().split(['_', '-']);
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>())
    };
    words.filter_map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Column;

    fn series() -> Series {
        let column = |name: &str, kind| Column { name: name.into(), kind };
        let fields = Table::of(vec![column("temp", Kind::Number), column("n", Kind::Integer)]);
        Series { time: Some("at".into()), tags: vec!["origin".into(), "gate".into()], fields: Arc::new(fields) }
    }

    #[test]
    fn a_point_is_its_moment_its_tags_and_what_was_measured() {
        let data = r#"{"at":"2013-01-01T01:00:00+01:00","origin":"E\"WR","gate":7,"temp":1.5,"more":"not kept"}"#;
        let point = series().point(data, Timestamp(0)).unwrap();
        assert_eq!(point.identity(), r#"["2013-01-01T00:00:00Z","E\"WR","7"]"#);
        assert_eq!(point.fields, [Cell::Number(1.5), Cell::Null]);
        let untimed = Series { time: None, tags: vec!["origin".into()], ..series() };
        assert_eq!(untimed.point(r#"{"n":1}"#, Timestamp(0)).unwrap().identity(), r#"["1970-01-01T00:00:00Z",""]"#);
    }

    #[test]
    fn what_is_no_point_is_said() {
        for (data, part) in [
            (r#"{"temp":1}"#, "\"at\", a point's moment, is missing"),
            (r#"{"at":"noon","temp":1}"#, "is no moment: \"noon\""),
            (r#"{"at":"2013-01-01T00:00:00Z","origin":[1],"temp":1}"#, "\"origin\", a tag, is no plain value"),
            (r#"{"at":"2013-01-01T00:00:00Z","temp":"hot"}"#, "column \"temp\""),
            (r#"{"at":"2013-01-01T00:00:00Z","temp":null}"#, "none of the fields"),
            ("[]", "is not a JSON object"),
        ] {
            let error = series().point(data, Timestamp(0)).unwrap_err();
            assert!(error.contains(part), "{data}: {error}");
        }
    }

    #[test]
    fn labels_are_collections_in_capitals() {
        assert_eq!(label(&Collection::new("flight_plans-old").unwrap()), "FlightPlansOld");
    }
}
