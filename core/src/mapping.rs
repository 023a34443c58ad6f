//! How payloads of a collection are read where they are more than a document: as points of a series, as nodes and edges
//! of a graph, as vectors. It belongs to the collection, so that all stores of a kind show it the same way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
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

/// A payload as a vector store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded<'a> {
    /// What becomes the vector.
    pub vector: Embedding,
    /// What stands beside it: the payload, without the member that holds the vector.
    pub document: Cow<'a, str>,
}

/// What becomes a vector.
#[derive(Clone, Debug, PartialEq)]
pub enum Embedding {
    /// The vector itself.
    Vector(Vec<f32>),
    /// Text that somebody has to embed.
    Text(String),
}

impl Vector {
    /// Reads a payload.
    ///
    /// # Errors
    /// Which member does not fit, for the dead letter.
    pub fn read<'a>(&self, data: &'a str) -> Result<Embedded<'a>, String> {
        let members: Members<'_> =
            serde_json::from_str(data).map_err(|e| format!("the payload is not a JSON object: {e}"))?;
        match &self.source {
            VectorSource::Field(name) => {
                let vector = Embedding::Vector(self.numbers(name, members.get(name))?);
                Ok(Embedded { vector, document: members.without(name).into() })
            }
            VectorSource::Text(names) => {
                let texts: Vec<String> =
                    names.iter().map(|name| text(name, members.get(name))).collect::<Result<_, _>>()?;
                let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
                if texts.is_empty() {
                    return Err(format!("none of the members {names:?} has a text to embed"));
                }
                Ok(Embedded { vector: Embedding::Text(texts.join("\n")), document: data.into() })
            }
        }
    }

    fn numbers(&self, name: &str, raw: Option<&str>) -> Result<Vec<f32>, String> {
        let raw = raw.ok_or_else(|| format!("the member {name:?}, the vector, is missing"))?;
        let numbers: Vec<f64> = serde_json::from_str(raw)
            .map_err(|e| format!("the member {name:?}, the vector, is no list of numbers: {e}"))?;
        if numbers.len() != self.size {
            return Err(format!("the vector {name:?} has {} dimensions, expected {}", numbers.len(), self.size));
        }
        let single: Vec<f32> = numbers.iter().map(|number| *number as f32).collect();
        match numbers.iter().zip(&single).find(|(_, single)| !single.is_finite()) {
            Some((number, _)) => Err(format!("the vector {name:?} holds {number:e}, too large for 32 bits")),
            None => Ok(single),
        }
    }
}

/// A member as text to embed: a text as it is, another plain value as it is written; null and absent are nothing.
fn text(name: &str, raw: Option<&str>) -> Result<String, String> {
    match raw.unwrap_or("null") {
        "null" => Ok(String::new()),
        raw if raw.starts_with(['{', '[']) => Err(format!("the member {name:?}, a text to embed, is no plain value")),
        raw if raw.starts_with('"') => serde_json::from_str(raw).map_err(|e| format!("{name:?}: {e}")),
        raw => Ok(raw.to_owned()),
    }
}

/// The members of an object in their order, values as they are written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl Members<'_> {
    /// The last of that name, as every reader of JSON takes it.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, raw)| raw.get())
    }

    /// The object without a member.
    fn without(&self, name: &str) -> String {
        let rest = self.0.iter().filter(|(known, _)| known != name);
        let members: Vec<_> =
            rest.map(|(name, raw)| format!("{}:{}", serde_json::Value::from(&**name), raw.get())).collect();
        format!("{{{}}}", members.join(","))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object).map(Members)
    }
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

    fn vector(source: VectorSource) -> Vector {
        Vector { source, size: 2, distance: Distance::Cosine }
    }

    #[test]
    fn a_vector_is_a_member_and_what_is_left_is_as_it_was_written() {
        let of = vector(VectorSource::Field("v".into()));
        let read = of.read(r#" { "a" : 1.50, "v":[9], "v" : [1, -2.5e0], "\u0062":{"v":[ 1E5 ]} } "#).unwrap();
        assert_eq!(read.vector, Embedding::Vector(vec![1.0, -2.5]));
        assert_eq!(read.document, r#"{"a":1.50,"b":{"v":[ 1E5 ]}}"#);
        assert_eq!(of.read(r#"{"v":[0,0]}"#).unwrap().document, "{}");
    }

    #[test]
    fn what_is_no_vector_is_said() {
        for (data, part) in [
            (r#"{"a":1}"#, "\"v\", the vector, is missing"),
            (r#"{"v":null}"#, "is no list of numbers"),
            (r#"{"v":[1,"2"]}"#, "is no list of numbers"),
            (r#"{"v":[1]}"#, "has 1 dimensions, expected 2"),
            (r#"{"v":[1,2,3]}"#, "has 3 dimensions, expected 2"),
            (r#"{"v":[1,1e39]}"#, "holds 1e39"),
            (r#"{"v":[1,1e999]}"#, "is no list of numbers"),
            ("[]", "is not a JSON object"),
        ] {
            let error = vector(VectorSource::Field("v".into())).read(data).unwrap_err();
            assert!(error.contains(part), "{data}: {error}");
        }
    }

    #[test]
    fn a_text_to_embed_is_its_members_in_lines() {
        let of = vector(VectorSource::Text(vec!["title".into(), "n".into(), "body".into()]));
        let data = r#"{"body":"b\nc","title":"é","n":7}"#;
        let read = of.read(data).unwrap();
        assert_eq!((read.vector, &*read.document), (Embedding::Text("é\n7\nb\nc".into()), data));
        assert_eq!(of.read(r#"{"body":"b","n":null}"#).unwrap().vector, Embedding::Text("b".into()));
        assert!(of.read(r#"{"title":""}"#).unwrap_err().contains("has a text to embed"));
        assert!(of.read(r#"{"title":["t"]}"#).unwrap_err().contains("\"title\", a text to embed, is no plain value"));
    }

    #[test]
    fn labels_are_collections_in_capitals() {
        assert_eq!(label(&Collection::new("flight_plans-old").unwrap()), "FlightPlansOld");
    }
}
