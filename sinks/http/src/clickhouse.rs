//! ClickHouse: a batch is one insert in RowBinary into a ReplacingMergeTree, which keeps the highest version of a key in
//! whatever order rows came (of events with one id the lowest, which is the first). A generation is a table, and under the
//! collection's name a view shows what is current; replacing the view is the swap, and its comment says which is live.
//!
//! There is no compare-and-set. Its place takes the deduplication of inserts: a position is inserted under a token made of
//! the row that it follows, so that of two followers one is dropped, and a mark of the writer tells which one stayed. Data
//! are inserted without a token: two batches of one range may differ by what was parked meanwhile.

mod names;
mod row_binary;
mod swap;

use std::sync::Arc;

use async_trait::async_trait;
use hashbrown::HashMap;
use primal_core::batch::Batch;
use primal_core::columns::{Layout, rows};
use primal_core::settings::Secret;
use primal_core::sink::{
    BUFFER, Builds, Capability, Class, Health, OptionSpec, Outcome, Page, Positions, Projection, Reader, Sink,
    SinkSpec, Stored, Swap, SwapKind, Target,
};
use primal_core::{Collection, Fault, Position, Settings, SettingsError, SinkError, Version};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::client::{Answer, Body, Http, percent};
use names::{Generations, literal, quote};

/// ClickHouse.
pub static CLICKHOUSE: SinkSpec = SinkSpec {
    name: "clickhouse",
    family: "http",
    summary: "ClickHouse 21.12 and later, one node",
    capability: Capability {
        class: Class::Versioned,
        projections: &[Projection::Table, Projection::Document, Projection::Events],
        swap: SwapKind::Atomic,
        reads: true,
        // "We recommend inserting data in batches of at least 1,000 rows, and ideally between 10,000-100,000 rows"
        // (https://clickhouse.com/docs/optimize/bulk-inserts).
        max_batch: 100_000,
        // A string has no limit of its own; a row is held in memory several times while it is inserted.
        max_payload: 64 << 20,
        // Each insert is a part on the disk: four partitions have batches of 8 MB, tens of thousands of rows.
        buffer_bytes: 8 * BUFFER,
    },
    options: &[
        OptionSpec { name: "url", default: None, help: "`http://user:password@host:8123`" },
        OptionSpec { name: "database", default: Some("default"), help: "the database; made if it is missing" },
        OptionSpec { name: "gzip", default: Some("false"), help: "whether inserts are compressed" },
    ],
    build: |settings| Ok(Arc::new(ClickHouse::new(settings)?) as Arc<dyn Sink>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Secret,
    #[serde(default = "default_database")]
    database: String,
    #[serde(default)]
    gzip: bool,
}

fn default_database() -> String {
    "default".to_owned()
}

/// Records in a page of a scan.
const PAGE: usize = 5_000;

/// Settings of every request: an answer only once it is whole, an insert done when it is answered.
const ALWAYS: &str = "wait_end_of_query=1&async_insert=0";

struct ClickHouse {
    http: Http,
    database: String,
}

/// A position as it stands in the store, and the mark of the row that says so.
struct Place {
    position: Position,
    mark: String,
}

impl ClickHouse {
    fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let Config { url, database, gzip } = settings.read()?;
        if database.is_empty() {
            return Err(settings.error("`database` is empty; expected the name of a database"));
        }
        Ok(ClickHouse { http: Http::new(settings, &url, None, gzip)?, database })
    }

    /// Runs a statement that returns nothing, or whatever its FORMAT says.
    async fn run(&self, doing: &str, statement: &str) -> Result<Answer, SinkError> {
        // A statement may be as long as the keys in it make it.
        let path = format!("/?{ALWAYS}&max_query_size={}", statement.len() + 4_096);
        let answer = self.http.ask(doing, Method::POST, &path, Body::Text(statement)).await?;
        self.good(doing, answer)
    }

    fn good(&self, doing: &str, answer: Answer) -> Result<Answer, SinkError> {
        if answer.is_good() {
            return Ok(answer);
        }
        let said = answer.said();
        Err(SinkError::new(fault(answer.status, &said), format!("{doing} {}", self.http.address)).because(said))
    }

    /// The rows of a query whose columns are strings.
    async fn strings(&self, doing: &str, query: &str) -> Result<Vec<Vec<String>>, SinkError> {
        let answer = self.run(doing, &format!("{query} FORMAT JSONCompactEachRow")).await?;
        let row = |line: &str| {
            let cells: Vec<Json> = serde_json::from_str(line).ok()?;
            Some(cells.iter().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect())
        };
        Ok(answer.text().lines().filter_map(row).collect())
    }

    /// A name in this database, quoted.
    fn table(&self, name: &str) -> String {
        format!("{}.{}", quote(&self.database), quote(name))
    }

    /// What tables and views of a collection there are.
    async fn generations(&self, collection: &Collection) -> Result<Generations, SinkError> {
        let (database, name) = (literal(&self.database), literal(collection.as_str()));
        let query = format!(
            "SELECT name, engine, comment FROM system.tables WHERE database = {database} AND (name = {name} OR \
             match(name, concat('^', {name}, '__g[0-9]+$')))"
        );
        Ok(Generations::read(collection, &self.strings("reading generations of", &query).await?))
    }

    /// The position of a partition; of all where none is named.
    async fn places(&self, target: &Target, partition: Option<i32>) -> Result<Vec<(i32, Place)>, SinkError> {
        let (table, sink) = (self.table(&names::positions(target)), literal(&target.sink));
        let one = partition.map_or(String::new(), |partition| format!(" AND _partition = {partition}"));
        let query = format!(
            "SELECT toString(_partition), toString(_position), _mark FROM {table} FINAL WHERE _sink = {sink}{one}"
        );
        let rows = self.strings("reading positions of", &query).await?;
        let place = |row: Vec<String>| match <[String; 3]>::try_from(row) {
            Ok([partition, position, mark]) => {
                Some((partition.parse().ok()?, Place { position: Position(position.parse().ok()?), mark }))
            }
            Err(_) => None,
        };
        Ok(rows.into_iter().filter_map(place).collect())
    }

    /// Moves a position from `place`; `false` if another was faster.
    async fn advance(
        &self,
        target: &Target,
        partition: i32,
        next: Position,
        place: Option<&Place>,
    ) -> Result<bool, SinkError> {
        let (table, sink) = (self.table(&names::positions(target)), literal(&target.sink));
        let mark = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let from = place.map_or("none", |place| &place.mark);
        let token = percent(&format!("{}/{partition}/{from}", target.sink));
        let row = serde_json::json!([&*target.sink, partition, next.0, mark]);
        let insert =
            percent(&format!("INSERT INTO {table} (_sink, _partition, _position, _mark) FORMAT JSONCompactEachRow"));
        let path = format!("/?{ALWAYS}&insert_deduplicate=1&insert_deduplication_token={token}&query={insert}");
        let doing = "moving a position in";
        let answer = self.http.ask(doing, Method::POST, &path, Body::Text(&row.to_string())).await?;
        self.good(doing, answer)?;
        let query = format!("SELECT _mark FROM {table} FINAL WHERE _sink = {sink} AND _partition = {partition}");
        let found = self.strings(doing, &query).await?;
        Ok(found.first().and_then(|row| row.first()) == Some(&mark))
    }

    /// Which of a batch's events are to be written over what is there.
    async fn newer(&self, target: &Target, layout: &Layout, batch: &Batch<'_>) -> Result<Vec<bool>, SinkError> {
        let (table, identity) = (self.table(&target.position_name()), quote(layout.identity));
        let keys: Vec<_> = batch.events.iter().map(|event| literal(event.identity(target.projection))).collect();
        let query = format!(
            "SELECT {identity}, toString(_version) FROM {table} FINAL WHERE {identity} IN ({})",
            keys.join(", ")
        );
        let found: HashMap<String, Version> = self
            .strings("comparing with", &query)
            .await?
            .into_iter()
            .filter_map(|row| match <[String; 2]>::try_from(row) {
                Ok([identity, version]) => Some((identity, Version(version.parse().ok()?))),
                Err(_) => None,
            })
            .collect();
        let is_newer = |event: &primal_core::BatchEvent<'_>| {
            let stored = found.get(event.identity(target.projection));
            stored.is_none_or(|stored| target.replaces(batch.mode, event.version, *stored))
        };
        Ok(batch.events.iter().map(is_newer).collect())
    }

    async fn insert(&self, target: &Target, layout: &Layout, rows: &[u8]) -> Result<(), SinkError> {
        let (table, names) = (self.table(&target.position_name()), names::columns(layout));
        let insert = percent(&format!("INSERT INTO {table} ({names}) FORMAT RowBinary"));
        let path = format!("/?{ALWAYS}&insert_deduplicate=0&query={insert}");
        let answer = self.http.ask("writing to", Method::POST, &path, Body::Binary(rows)).await?;
        self.good("writing to", answer).map(drop)
    }

    /// Records of a target, by a condition and an order.
    async fn select(&self, target: &Target, rest: &str) -> Result<Vec<Stored>, SinkError> {
        let layout = Layout::of(target);
        let (names, table) = (names::columns(&layout), self.table(&target.position_name()));
        let query = format!("SELECT {names} FROM {table} FINAL {rest} FORMAT RowBinary");
        let answer = self.run("reading from", &query).await?;
        row_binary::decode(answer.bytes(), target, &layout).ok_or_else(|| {
            SinkError::new(Fault::Incompatible, format!("{table} of {} holds other rows than these", self.http.address))
        })
    }
}

/// What an error means. Codes: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
fn fault(status: u16, said: &str) -> Fault {
    let code = said.split_once("Code: ").and_then(|(_, rest)| rest.split(['.', ',', ' ']).next()?.parse::<u32>().ok());
    match (code, status) {
        (Some(192..=194 | 497 | 516), _) | (None, 401 | 403) => Fault::Unauthorized,
        (Some(243), _) => Fault::Full,
        // Timeouts, too many queries or parts, no memory, read-only for now.
        (Some(159 | 160 | 202 | 209 | 210 | 241 | 242 | 252 | 425), _) | (None, 408 | 429 | 502..=504) => {
            Fault::Unavailable
        }
        (Some(53 | 44 | 15), _) => Fault::Incompatible,
        _ => Fault::Internal,
    }
}

#[async_trait]
impl Sink for ClickHouse {
    async fn check(&self) -> Result<Health, SinkError> {
        let query = format!(
            "SELECT version(), (SELECT any(engine) FROM system.databases WHERE name = {})",
            literal(&self.database)
        );
        let found = self.strings("connecting to", &query).await?;
        let text = |index: usize| found.first().and_then(|row| row.get(index)).cloned().unwrap_or_default();
        let (version, engine) = (text(0), text(1));
        if engine == "Ordinary" {
            let message = format!(
                "database {} of {} has the engine Ordinary, which replaces no view in one act; expected Atomic",
                self.database, self.http.address
            );
            return Err(SinkError::new(Fault::Misconfigured, message));
        }
        let number = |index: usize| version.split('.').nth(index).and_then(|part| part.parse::<u32>().ok());
        let mut notes = Vec::new();
        if number(0).zip(number(1)).is_some_and(|version| version < (21, 12)) {
            notes.push("older than 21.12: comments of views and tokens of inserts are missing".to_owned());
        }
        Ok(Health { version: format!("ClickHouse {version}"), notes })
    }

    async fn builds(&self, _sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        Ok(self.generations(collection).await?.builds())
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        self.prepare_with(target, None).await
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        let query = format!(
            "SELECT name FROM system.tables WHERE database = {} AND name = {}",
            literal(&self.database),
            literal(&names::positions(target))
        );
        if self.strings("reading positions of", &query).await?.is_empty() {
            return Ok(Positions::new());
        }
        let places = self.places(target, None).await?;
        Ok(places.into_iter().map(|(partition, place)| (partition, place.position)).collect())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let layout = Layout::of(target);
        let rows = rows(target, batch)?;
        let (generations, places) = tokio::try_join!(
            self.generations(&target.collection),
            self.places(target, batch.advance.map(|_| batch.partition))
        )?;
        if let Some(reason) = target.wrong_generation(generations.builds().live) {
            return Err(SinkError::new(Fault::Fenced, reason));
        }
        let place = places.into_iter().find(|(partition, _)| *partition == batch.partition).map(|(_, place)| place);
        let fenced = || SinkError::new(Fault::Fenced, target.moved_meanwhile(batch));
        if batch.advance.is_some_and(|advance| advance.expected != place.as_ref().map(|place| place.position)) {
            return Err(fenced());
        }
        // Behind the position everything is new; what an attempt before this one left there has the same versions.
        let newer = match batch.advance {
            Some(_) => vec![true; rows.len()],
            None if rows.is_empty() => Vec::new(),
            None => self.newer(target, &layout, batch).await?,
        };
        let applied = newer.iter().filter(|newer| **newer).count() as u64;
        if applied > 0 {
            let chosen = rows.iter().zip(&newer).filter(|(_, newer)| **newer).map(|(row, _)| row);
            self.insert(target, &layout, &row_binary::encode(chosen, layout.data_from)).await?;
        }
        if let Some(advance) = batch.advance
            && !self.advance(target, batch.partition, advance.next, place.as_ref()).await?
        {
            return Err(fenced());
        }
        Ok(Outcome { applied, stale: rows.len() as u64 - applied })
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {}
}

#[async_trait]
impl Reader for ClickHouse {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        let by = quote(Layout::of(target).identity);
        let found = self.select(target, &format!("WHERE {by} = {}", literal(identity))).await?;
        Ok(found.into_iter().next())
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let by = quote(Layout::of(target).identity);
        let after = cursor.map_or(String::new(), |cursor| format!("WHERE {by} > {}", literal(cursor)));
        let records = match self.select(target, &format!("{after} ORDER BY {by} LIMIT {PAGE}")).await {
            Ok(records) => records,
            Err(error) if is_missing(&error) => return Ok(Page::default()),
            Err(error) => return Err(error),
        };
        let next = records.last().filter(|_| records.len() == PAGE).map(|last| last.identity.clone());
        Ok(Page { records, next })
    }
}

/// Whether a table or database is not there (codes 60 and 81).
fn is_missing(error: &SinkError) -> bool {
    let said = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
    said.contains("Code: 60") || said.contains("Code: 81")
}
