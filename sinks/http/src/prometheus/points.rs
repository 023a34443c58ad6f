//! How points become samples: one metric for each field, one for the version and one for the event's time, all with the
//! tags as labels; and how they are put together again.

use std::collections::BTreeMap;

use primal_core::batch::BatchEvent;
use primal_core::mapping::{Mapping, Point, Series};
use primal_core::sink::{Content, Stored, Target};
use primal_core::table::{Cell, Kind};
use primal_core::{Fault, Primal, SinkError, Timestamp, Version};
use serde::Deserialize;

use super::wire::{Sample, TimeSeries, literal, sanitized};

/// Integers up to here are exact as doubles.
const EXACT: u64 = 1 << 53;

/// The moments that queries look at, in milliseconds: 1950 to 2200.
pub(super) const MOMENTS: std::ops::Range<i64> = -631_152_000_000..7_258_118_400_000;

const PRIMAL: [&str; 3] = ["_alpha", "_lambda", "_k"];
const COLLECTION: &str = "_collection";

/// The metrics and labels of a target.
pub(super) struct Metrics {
    /// The metrics of the fields.
    pub fields: Vec<(String, Kind)>,
    /// The metric of the version.
    pub version: String,
    time: String,
    tags: Vec<String>,
    collection: String,
}

impl Metrics {
    /// Names them.
    ///
    /// # Errors
    /// Two would have one name, or a field is no number.
    pub(super) fn of(prefix: &str, target: &Target) -> Result<Self, SinkError> {
        let Mapping::Series(Series { tags, fields, .. }) = &*target.mapping else {
            return Err(SinkError::new(Fault::Incompatible, format!("{} has no `series`", target.collection)));
        };
        let incompatible = |what: String| {
            Err(SinkError::new(Fault::Incompatible, format!("{} of {}: {what}", "the series", target.collection)))
        };
        let base = sanitized(&format!("{prefix}{}", target.place()));
        let mut metrics = Metrics {
            fields: Vec::new(),
            version: format!("{base}__version"),
            time: format!("{base}__time_seconds"),
            tags: tags.iter().map(|tag| sanitized(tag)).collect(),
            collection: target.place(),
        };
        for column in fields.columns() {
            if matches!(column.kind, Kind::Text | Kind::Json) {
                return incompatible(format!(
                    "{:?} is no number, and Prometheus keeps nothing else; leave it out of `series.fields`",
                    column.name
                ));
            }
            let name = format!("{base}_{}", sanitized(&column.name));
            if name == metrics.version || name == metrics.time || metrics.fields.iter().any(|(n, _)| *n == name) {
                return incompatible(format!("{:?} and another field would both be the metric {name}", column.name));
            }
            metrics.fields.push((name, column.kind));
        }
        let mut labels: Vec<&str> = PRIMAL.into_iter().chain([COLLECTION]).collect();
        for (label, tag) in metrics.tags.iter().zip(tags) {
            if label.starts_with("__") || labels.contains(&label.as_str()) {
                return incompatible(format!("the tag {tag:?} would be the label {label:?}, which is taken"));
            }
            labels.push(label);
        }
        Ok(metrics)
    }

    /// The selector of the version's metric.
    pub(super) fn versions(&self) -> String {
        format!("{}{{{COLLECTION}={}}}", self.version, literal(&self.collection))
    }

    /// The selector of all metrics, of one series where tags are given.
    pub(super) fn all(&self, tags: Option<&[String]>) -> String {
        let names = self.fields.iter().map(|(name, _)| name.as_str()).chain([&*self.version, &*self.time]);
        let names = names.collect::<Vec<_>>().join("|");
        let tags = self.tags.iter().zip(tags.unwrap_or_default());
        let tags = tags.map(|(name, value)| format!(",{name}={}", literal(value))).collect::<String>();
        format!("{{__name__=~\"{names}\",{COLLECTION}={}{tags}}}", literal(&self.collection))
    }

    /// The samples of points, by series and in order.
    pub(super) fn samples(&self, points: &[Pair<'_, '_>]) -> Vec<TimeSeries> {
        let mut groups: BTreeMap<(&[String], [String; 3]), Vec<&Pair<'_, '_>>> = BTreeMap::new();
        for point in points {
            let primal = point.1.primal();
            let primal = [primal.alpha, primal.lambda, primal.k].map(|number| number.to_string());
            groups.entry((&point.0.tags, primal)).or_default().push(point);
        }
        let mut all = Vec::new();
        for ((tags, primal), mut points) in groups {
            points.sort_unstable_by_key(|(ready, _)| ready.at);
            let labels = || {
                let tags = self.tags.iter().map(String::as_str).zip(tags.iter().map(String::as_str));
                let primal = PRIMAL.into_iter().zip(primal.iter().map(String::as_str));
                tags.chain(primal).chain([(COLLECTION, &*self.collection)])
            };
            let mut series = |name: &str, value: &dyn Fn(&Ready, &BatchEvent<'_>) -> Option<f64>| {
                let mut series = TimeSeries::new(name, labels());
                let sample =
                    |(ready, event): &&Pair<'_, '_>| Some(Sample { value: value(ready, event)?, timestamp: ready.at });
                series.samples = points.iter().filter_map(sample).collect();
                if !series.samples.is_empty() {
                    all.push(series);
                }
            };
            for (index, (name, _)) in self.fields.iter().enumerate() {
                series(name, &|ready, _| ready.values.get(index).copied().flatten());
            }
            series(&self.time, &|_, event| Some(event.time().0 as f64 / 1e6));
            series(&self.version, &|_, event| Some(event.version.0 as f64));
        }
        all
    }

    /// The points of an answer.
    pub(super) fn stored(&self, found: &[Found]) -> Vec<Stored> {
        let mut points: BTreeMap<(i64, Vec<String>), (Stored, bool)> = BTreeMap::new();
        for series in found {
            let label = |name: &str| series.metric.get(name).map_or("", String::as_str);
            let tags: Vec<String> = self.tags.iter().map(|tag| label(tag).to_owned()).collect();
            let number = |name: &str| label(name).parse().unwrap_or(f64::NAN);
            let [alpha, lambda, k] = PRIMAL.map(number);
            let name = label("__name__");
            let field = self.fields.iter().position(|(field, _)| field == name);
            for (at, value) in &series.values {
                let (at, Ok(value)) = (millis(*at), value.parse::<f64>()) else { continue };
                let (point, is_whole) = points.entry((at, tags.clone())).or_insert_with(|| {
                    let empty = Stored {
                        identity: identity(at, &tags),
                        version: Version(0),
                        event_id: String::new(),
                        time: Timestamp(0),
                        primal: Primal { alpha, lambda, k },
                        content: Content::Row(vec![Cell::Null; self.fields.len()]),
                    };
                    (empty, false)
                });
                if name == self.version {
                    (point.version, *is_whole) = (Version(value as u64), true);
                } else if name == self.time {
                    point.time = Timestamp((value * 1e6).round() as i64);
                } else if let (Content::Row(cells), Some(index)) = (&mut point.content, field)
                    && let (Some(cell), Some((_, kind))) = (cells.get_mut(index), self.fields.get(index))
                {
                    *cell = read(*kind, value);
                }
            }
        }
        points.into_values().filter(|(_, is_whole)| *is_whole).map(|(point, _)| point).collect()
    }

    /// The versions of an answer, by what tells points apart.
    pub(super) fn versions_of<'f>(&self, found: &'f [Found]) -> impl Iterator<Item = (String, Version)> + use<'f, '_> {
        found.iter().flat_map(|series| {
            let label = |name: &String| series.metric.get(name).cloned().unwrap_or_default();
            let tags: Vec<String> = self.tags.iter().map(label).collect();
            series.values.iter().filter_map(move |(at, value)| {
                Some((identity(millis(*at), &tags), Version(value.parse::<f64>().ok()? as u64)))
            })
        })
    }

    /// The tags of each series of an answer, in order and once.
    pub(super) fn tags_of(&self, found: &[BTreeMap<String, String>]) -> std::collections::BTreeSet<Vec<String>> {
        let tags = |labels: &BTreeMap<String, String>| {
            self.tags.iter().map(|tag| labels.get(tag).cloned().unwrap_or_default()).collect()
        };
        found.iter().map(tags).collect()
    }
}

/// A series of an answer: its labels, and its samples as seconds and text.
#[derive(Deserialize)]
pub(super) struct Found {
    pub metric: BTreeMap<String, String>,
    #[serde(default)]
    pub values: Vec<(f64, String)>,
    pub value: Option<(f64, String)>,
}

fn millis(seconds: f64) -> i64 {
    (seconds * 1e3).round() as i64
}

fn identity(millis: i64, tags: &[String]) -> String {
    Point { at: Timestamp::from_millis(millis), tags: tags.to_vec(), fields: Vec::new() }.identity()
}

fn read(kind: Kind, value: f64) -> Cell {
    match kind {
        Kind::Integer => Cell::Integer(value as i64),
        Kind::Boolean => Cell::Boolean(value != 0.0),
        Kind::Timestamp => Cell::Timestamp(Timestamp((value * 1e6).round() as i64)),
        Kind::Number | Kind::Text | Kind::Json => Cell::Number(value),
    }
}

/// A point and its event.
pub(super) type Pair<'b, 'a> = (Ready, &'b BatchEvent<'a>);

/// A point as Prometheus can hold it.
pub(super) struct Ready {
    /// Milliseconds since 1970.
    pub at: i64,
    pub tags: Vec<String>,
    /// What tells it apart.
    pub identity: String,
    values: Vec<Option<f64>>,
}

impl Ready {
    /// Reads a point.
    ///
    /// # Errors
    /// Why Prometheus cannot hold it.
    pub(super) fn of(point: Point) -> Result<Self, String> {
        let identity = point.identity();
        let at = point.at.millis();
        if Timestamp::from_millis(at) != point.at {
            return Err(format!("the moment {} has more than milliseconds, which Prometheus does not keep", point.at));
        }
        if !MOMENTS.contains(&at) {
            return Err(format!("the moment {} is not between 1950 and 2200", point.at));
        }
        let value = |cell: Cell| match cell {
            Cell::Null | Cell::Text(_) | Cell::Json(_) => Ok(None),
            Cell::Integer(n) if n.unsigned_abs() > EXACT => {
                Err(format!("{n} is not exact as a double, which is all that Prometheus keeps"))
            }
            Cell::Integer(n) => Ok(Some(n as f64)),
            Cell::Number(n) => Ok(Some(n)),
            Cell::Boolean(truth) => Ok(Some(f64::from(u8::from(truth)))),
            Cell::Timestamp(at) => Ok(Some(at.0 as f64 / 1e6)),
        };
        let values = point.fields.into_iter().map(value).collect::<Result<_, _>>()?;
        Ok(Ready { at, tags: point.tags, identity, values })
    }
}
