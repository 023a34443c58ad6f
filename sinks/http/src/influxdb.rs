//! InfluxDB: each point is a line, told by its measurement, tags and moment, so that writing it again changes nothing. The
//! store compares no versions: the last write of a point is the point. A position is a point too, at a moment that no
//! retention reaches, written once its data are.
//!
//! A point that is written again keeps the fields that the new line leaves out. So where a correction has fewer fields than
//! the point before, that point is deleted first.

mod line;
mod query;

use std::sync::Arc;

use async_trait::async_trait;
use hashbrown::HashMap;
use primal_core::batch::Batch;
use primal_core::columns::{Layout, Value, rows};
use primal_core::settings::Secret;
use primal_core::sink::{
    Builds, Capability, Class, Health, OptionSpec, Outcome, Page, Positions, Projection, Reader, Sink, SinkSpec,
    Stored, SwapKind, Target,
};
use primal_core::{Collection, Fault, Position, Rejected, Settings, SettingsError, SinkError, Timestamp, Version};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::client::{Answer, Body, Http, percent};
use line::{Lines, Point, nanoseconds};
use query::{Results, literal, quote};

/// InfluxDB.
pub static INFLUXDB: SinkSpec = SinkSpec {
    name: "influxdb",
    family: "http",
    summary: "InfluxDB 1 and 2, and 3 by the API of 2",
    capability: Capability {
        class: Class::Overwrite,
        projections: &[Projection::Series],
        swap: SwapKind::None,
        reads: true,
        // "The optimal batch size is 5000 lines of line protocol"
        // (https://docs.influxdata.com/influxdb/v2/write-data/best-practices/optimize-writes/).
        max_batch: 5_000,
        // A field's text has at most 64 KiB, a request 25 MB (max-body-size).
        max_payload: 1 << 20,
    },
    options: &[
        OptionSpec { name: "url", default: None, help: "`http://user:password@host:8086`" },
        OptionSpec {
            name: "database",
            default: None,
            help: "the database, or the bucket; a database is made if missing",
        },
        OptionSpec { name: "token", default: Some("none"), help: "a token, which is how versions 2 and 3 log in" },
        OptionSpec {
            name: "org",
            default: Some("none"),
            help: "the organisation that the bucket belongs to; needs `token`",
        },
        OptionSpec { name: "gzip", default: Some("false"), help: "whether requests are compressed" },
    ],
    build: |settings| Ok(Arc::new(InfluxDb::new(settings)?) as Arc<dyn Sink>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Secret,
    database: String,
    token: Option<Secret>,
    org: Option<String>,
    #[serde(default)]
    gzip: bool,
}

/// Points in a page of a scan.
const PAGE: usize = 10_000;

/// The measurement of all positions.
const POSITIONS: &str = "_primal_positions";

/// The moment of all positions, 2200-01-01: a retention drops what is older than it, and never this.
const FOREVER: i64 = 7_258_118_400_000_000_000;

/// Names that mean something else to the store or to Flux.
const RESERVED: &[&str] = &["time", "_time", "_measurement", "_field", "_value", "_start", "_stop"];

struct InfluxDb {
    http: Http,
    database: String,
    /// The organisation, where the API is that of version 2.
    org: Option<String>,
}

impl InfluxDb {
    fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let Config { url, database, token, org, gzip } = settings.read()?;
        if database.is_empty() {
            return Err(settings.error("`database` is empty; expected the name of a database or bucket"));
        }
        if org.is_some() && token.is_none() {
            return Err(settings.error("`org` needs a `token` beside it"));
        }
        let authorization = token.as_ref().map(|token| format!("Token {}", token.expose()));
        let http = Http::new(settings, &url, authorization, gzip)?;
        Ok(InfluxDb { http, database, org: token.map(|_| org.unwrap_or_default()) })
    }

    fn failed(&self, doing: &str, status: u16, said: &str) -> SinkError {
        SinkError::new(fault(status, said), format!("{doing} {}", self.http.address)).because(said.to_owned())
    }

    /// The rows that InfluxQL answers.
    async fn query(&self, doing: &str, text: &str) -> Result<Vec<Vec<Json>>, SinkError> {
        let path = format!("/query?db={}&epoch=ns", percent(&self.database));
        let form = format!("q={}", percent(text));
        let answer = self.http.ask(doing, Method::POST, &path, Body::Form(&form)).await?;
        if !answer.is_good() {
            return Err(self.failed(doing, answer.status, &answer.said()));
        }
        let results: Results = answer.json(doing, &self.http.address)?;
        match results.error() {
            Some(said) => Err(self.failed(doing, answer.status, said)),
            None => Ok(results.rows()),
        }
    }

    async fn write_lines(&self, lines: &Lines) -> Result<(), SinkError> {
        let database = percent(&self.database);
        let path = match &self.org {
            None => format!("/write?db={database}"),
            Some(org) => format!("/api/v2/write?org={}&bucket={database}&precision=ns", percent(org)),
        };
        let answer = self.http.ask("writing to", Method::POST, &path, Body::Text(&lines.text)).await?;
        if answer.is_good() {
            return Ok(());
        }
        Err(self.failed("writing to", answer.status, &answer.said()))
    }

    /// Which points of a batch hold a field that their new line leaves out.
    async fn leaving_fields(&self, target: &Target, points: &[Point<'_, '_>]) -> Result<Vec<usize>, SinkError> {
        let layout = Layout::of(target);
        let absent = |index: usize| points.iter().any(|p| p.fields.get(index).is_some_and(|f| *f.1 == Value::Null));
        let count = points.first().map_or(0, |point| point.fields.len());
        let absent: Vec<usize> = (0..count).filter(|index| absent(*index)).collect();
        let Some((from, to)) = span(points).filter(|_| !absent.is_empty()) else { return Ok(Vec::new()) };
        let names = absent.iter().filter_map(|index| Some(quote(points.first()?.fields.get(*index)?.0)));
        let tags = query::tags(&layout).into_iter().map(quote);
        let text = format!(
            "SELECT {} FROM {} WHERE time >= {from} AND time <= {to}",
            names.chain(tags).collect::<Vec<_>>().join(", "),
            quote(&target.place()),
        );
        let mut held: HashMap<String, Vec<usize>> = HashMap::new();
        for row in self.query("comparing with", &text).await? {
            let Some(((at, fields), tags)) =
                row.split_at_checked(absent.len() + 1).and_then(|(head, tags)| Some((head.split_first()?, tags)))
            else {
                continue;
            };
            let there = absent.iter().zip(fields).filter(|(_, value)| !value.is_null()).map(|(index, _)| *index);
            held.extend(query::identity(at, tags).map(|identity| (identity, there.collect())));
        }
        let leaves = |point: &Point<'_, '_>| {
            let held = held.get(point.identity).map(Vec::as_slice).unwrap_or_default();
            held.iter().any(|index| point.fields.get(*index).is_some_and(|field| *field.1 == Value::Null))
        };
        Ok(points.iter().enumerate().filter(|(_, point)| leaves(point)).map(|(index, _)| index).collect())
    }

    async fn delete(&self, target: &Target, point: &Point<'_, '_>, offset: i64) -> Result<(), SinkError> {
        let (place, layout) = (target.place(), Layout::of(target));
        let Some(org) = &self.org else {
            let tags = query::tags(&layout).into_iter().map(|name| {
                let value = point.tags.iter().find(|(tag, _)| *tag == name).map_or("", |(_, value)| value);
                format!(" AND {} = {}", quote(name), literal(value))
            });
            let text = format!("DELETE FROM {} WHERE time = {}{}", quote(&place), point.at, tags.collect::<String>());
            return self.query("correcting a point in", &text).await.map(drop);
        };
        // Version 2 deletes by tags that are there, not by such as are not; version 3 not at all.
        let refused = |why: &str| {
            let reason = format!("the point has fields that this correction leaves out, and {why}");
            Err(SinkError::rejected(offset, reason))
        };
        if point.tags.iter().any(|(_, value)| value.is_empty()) {
            return refused("a point without one of its tags cannot be deleted by itself");
        }
        let moment = |nanoseconds: i64| Timestamp(nanoseconds / 1_000).to_string();
        let tags = point.tags.iter().map(|(name, value)| format!(" AND {}={}", quote(name), quote(value)));
        let predicate = format!("_measurement={}{}", quote(&place), tags.collect::<String>());
        let body = serde_json::json!({
            "start": moment(point.at), "stop": moment(point.at + 1_000), "predicate": predicate,
        });
        let path = format!("/api/v2/delete?org={}&bucket={}", percent(org), percent(&self.database));
        let doing = "correcting a point in";
        let answer = self.http.ask(doing, Method::POST, &path, Body::Json(&body.to_string())).await?;
        match answer.status {
            _ if answer.is_good() => Ok(()),
            400 | 404 | 405 | 501 => refused(&format!("the store does not delete it: {}", answer.said())),
            _ => Err(self.failed(doing, answer.status, &answer.said())),
        }
    }

    /// The versions of the points that are there in the time of a batch.
    async fn versions(&self, target: &Target, points: &[Point<'_, '_>]) -> Result<HashMap<String, Version>, SinkError> {
        let Some((from, to)) = span(points) else { return Ok(HashMap::new()) };
        let layout = Layout::of(target);
        let mut columns = vec![quote("_version")];
        columns.extend(query::tags(&layout).into_iter().map(quote));
        let text = format!(
            "SELECT {} FROM {} WHERE time >= {from} AND time <= {to}",
            columns.join(", "),
            quote(&target.place())
        );
        let version = |row: Vec<Json>| match row.as_slice() {
            [at, version, tags @ ..] => Some((query::identity(at, tags)?, Version(version.as_u64()?))),
            _ => None,
        };
        Ok(self.query("comparing with", &text).await?.into_iter().filter_map(version).collect())
    }

    async fn position(&self, target: &Target, partition: i32) -> Result<Option<Position>, SinkError> {
        Ok(self.positions(target).await?.get(&partition).copied())
    }

    async fn select(&self, target: &Target, rest: &str) -> Result<Vec<Stored>, SinkError> {
        let layout = Layout::of(target);
        let place = quote(&target.place());
        let text = format!("SELECT {} FROM {place} {rest}", query::columns(&layout));
        let rows = self.query("reading from", &text).await?;
        rows.iter().map(|row| query::stored(&layout, row)).collect::<Option<_>>().ok_or_else(|| {
            let message = format!("measurement {place} of {} holds other points than these", self.http.address);
            SinkError::new(Fault::Incompatible, message)
        })
    }
}

/// The first and the last moment of points.
fn span(points: &[Point<'_, '_>]) -> Option<(i64, i64)> {
    Some((points.iter().map(|point| point.at).min()?, points.iter().map(|point| point.at).max()?))
}

/// What an answer means.
fn fault(status: u16, said: &str) -> Fault {
    match status {
        _ if said.contains("no space left") => Fault::Full,
        401 | 403 => Fault::Unauthorized,
        _ if said.contains("authorization failed") || said.contains("not authorized") => Fault::Unauthorized,
        _ if said.contains("field type conflict") => Fault::Incompatible,
        // The server is there and not yet at work, or has more to do than it can.
        429 | 502..=504 => Fault::Unavailable,
        _ if said.contains("timeout") || said.contains("engine is closed") => Fault::Unavailable,
        // Which line it was is not always said: less at a time tells.
        400 | 413 | 422 => Fault::Rejected(Vec::new()),
        _ => Fault::Internal,
    }
}

fn version_of(answer: &Answer) -> String {
    match answer.header("X-Influxdb-Version") {
        "" => "InfluxDB of an unknown version".to_owned(),
        version => format!("InfluxDB {}", version.trim_start_matches('v')),
    }
}

#[async_trait]
impl Sink for InfluxDb {
    async fn check(&self) -> Result<Health, SinkError> {
        let answer = self.http.ask("connecting to", Method::GET, "/ping", Body::None).await?;
        if !answer.is_good() {
            return Err(self.failed("connecting to", answer.status, &answer.said()));
        }
        let found = self.query("looking for databases of", "SHOW DATABASES").await?;
        let is_there = found.iter().any(|row| row.first().and_then(Json::as_str) == Some(&self.database));
        let mut notes = Vec::new();
        match (&self.org, is_there) {
            (_, true) => {}
            (None, false) => notes.push(format!("database {:?} is not there yet; it will be made", self.database)),
            (Some(_), false) => notes.push(format!(
                "no bucket {:?} with a mapping for InfluxQL, by which it is read back; make one with `influx bucket \
                 create` and `influx v1 dbrp create`",
                self.database
            )),
        }
        Ok(Health { version: version_of(&answer), notes })
    }

    async fn builds(&self, _sink: &str, _collection: &Collection) -> Result<Builds, SinkError> {
        Ok(Builds { live: 1, ..Builds::default() })
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        let (layout, place) = (Layout::of(target), target.place());
        if let Some(column) = layout.columns.iter().filter(|c| !c.ours).find(|c| RESERVED.contains(&&*c.name)) {
            let message = format!(
                "field {:?} of {}: InfluxDB keeps that name for itself; leave it out of `series.fields`",
                column.name, target.collection
            );
            return Err(SinkError::new(Fault::Incompatible, message));
        }
        if let Some(tag) = query::tags(&layout).into_iter().find(|tag| RESERVED.contains(tag)) {
            let message = format!(
                "tag {tag:?} of {}: InfluxDB keeps that name for itself; leave it out of `series.tags`",
                target.collection
            );
            return Err(SinkError::new(Fault::Incompatible, message));
        }
        if self.org.is_none() {
            let found = self.query("looking for databases of", "SHOW DATABASES").await?;
            if !found.iter().any(|row| row.first().and_then(Json::as_str) == Some(&self.database)) {
                self.query("preparing", &format!("CREATE DATABASE {}", quote(&self.database))).await?;
            }
        }
        let found = self.query("reading fields of", &format!("SHOW FIELD KEYS FROM {}", quote(&place))).await?;
        for row in found {
            let text = |index: usize| row.get(index).and_then(Json::as_str).unwrap_or_default();
            let (name, kind) = (line::decode(text(0)), text(1));
            let column = layout.columns.iter().skip(2).find(|column| line::field_name(&column.name) == name);
            let wanted = column.map(|column| {
                if query::tags(&layout).contains(&&*column.name) { "tag" } else { query::type_name(column.kind) }
            });
            if let Some(wanted) = wanted.filter(|wanted| *wanted != kind) {
                let message = format!(
                    "measurement {place:?} has {name:?} as a field of type {kind}, expected {wanted}; move that \
                     measurement out of the way, or name another `database`"
                );
                return Err(SinkError::new(Fault::Incompatible, message));
            }
        }
        Ok(())
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        let text = format!(
            "SELECT \"position\", \"partition\" FROM {} WHERE \"sink\" = {} AND \"build\" = {}",
            quote(POSITIONS),
            literal(&target.sink),
            literal(&target.position_name()),
        );
        let found = match self.query("reading positions of", &text).await {
            Err(error) if error.source.as_ref().is_some_and(|said| said.to_string().contains("database not found")) => {
                return Ok(Positions::new());
            }
            other => other?,
        };
        let one = |row: Vec<Json>| match row.as_slice() {
            [_, position, partition] => Some((partition.as_str()?.parse().ok()?, Position(position.as_u64()?))),
            _ => None,
        };
        Ok(found.into_iter().filter_map(one).collect())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let layout = Layout::of(target);
        let rows = rows(target, batch)?;
        let (mut points, mut rejected) = (Vec::with_capacity(rows.len()), Vec::new());
        let offset_of = |version: Version| {
            let event = batch.events.iter().find(|event| event.version == version);
            event.map_or(0, |event| event.record().offset)
        };
        for row in &rows {
            match Point::of(&layout, row) {
                Ok(point) => points.push(point),
                Err((version, reason)) => rejected.push(Rejected { offset: offset_of(version), reason }),
            }
        }
        if let Some(first) = rejected.first().map(|rejected| rejected.reason.clone()) {
            return Err(SinkError::new(Fault::Rejected(rejected), first));
        }
        match batch.advance {
            Some(advance) if advance.expected != self.position(target, batch.partition).await? => {
                return Err(SinkError::new(Fault::Fenced, target.moved_meanwhile(batch)));
            }
            Some(_) => {}
            // A single event out of its order: only over what is older.
            None => {
                let stored = self.versions(target, &points).await?;
                let is_newer = |point: &Point<'_, '_>| {
                    stored.get(point.identity).is_none_or(|at| target.replaces(batch.mode, point.version, *at))
                };
                points.retain(is_newer);
            }
        }
        for index in self.leaving_fields(target, &points).await? {
            let Some(point) = points.get(index) else { continue };
            self.delete(target, point, offset_of(point.version)).await?;
        }
        let mut lines = Lines::default();
        let place = target.place();
        points.iter().for_each(|point| point.push(&mut lines, &place));
        if !points.is_empty() {
            self.write_lines(&lines).await?;
        }
        if let Some(advance) = batch.advance {
            let (partition, build) = (batch.partition.to_string(), target.position_name());
            let mut line = Lines::default();
            line.begin(POSITIONS, [("build", &*build), ("partition", &partition), ("sink", &*target.sink)]);
            line.field("position", &Value::Integer(i64::try_from(advance.next.0).unwrap_or(i64::MAX)));
            line.end(FOREVER);
            self.write_lines(&line).await?;
        }
        // Of several events that are one point, all but the last came too late.
        let applied = points.len() as u64;
        Ok(Outcome { applied, stale: batch.events.len() as u64 - applied })
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    async fn close(&self) {}
}

#[async_trait]
impl Reader for InfluxDb {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        let parts: Vec<String> = serde_json::from_str(identity).unwrap_or_default();
        let Some((moment, values)) = parts.split_first() else { return Ok(None) };
        let Some(at) = Timestamp::parse_rfc3339(moment).and_then(nanoseconds) else { return Ok(None) };
        let layout = Layout::of(target);
        let tags = query::tags(&layout).into_iter().zip(values);
        let tags = tags.map(|(name, value)| format!(" AND {} = {}", quote(name), literal(value)));
        let found = self.select(target, &format!("WHERE time = {at}{}", tags.collect::<String>())).await?;
        Ok(found.into_iter().next())
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        // The store has no order among the points of one moment, so a page ends between two moments.
        let from = cursor.and_then(|cursor| cursor.parse::<i64>().ok());
        let range = from.map_or(String::new(), |from| format!("WHERE time >= {from} "));
        let mut records = self.select(target, &format!("{range}LIMIT {PAGE}")).await?;
        if records.len() < PAGE {
            return Ok(Page { records, next: None });
        }
        let moments =
            |records: &[Stored]| Some((moment(&records.first()?.identity)?, moment(&records.last()?.identity)?));
        let Some((first, last)) = moments(&records) else { return Ok(Page::default()) };
        let next = if first == last {
            records = self.select(target, &format!("WHERE time = {last}")).await?;
            last + 1
        } else {
            records.retain(|record| moment(&record.identity) != Some(last));
            last
        };
        Ok(Page { records, next: Some(next.to_string()) })
    }
}

fn moment(identity: &str) -> Option<i64> {
    let parts: Vec<String> = serde_json::from_str(identity).ok()?;
    nanoseconds(Timestamp::parse_rfc3339(parts.first()?)?)
}
