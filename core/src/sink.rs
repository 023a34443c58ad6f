//! The sink's contract. A store's file exports one [`SinkSpec`]; what the store can do is data in it, and the behaviour
//! suite picks its cases from that data. A sink holds no retry loop, decides no batch and commits no offset of the log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;

use crate::batch::{Batch, BatchEvent, Mode};
use crate::blocks::Blocks;
use crate::epoch::{Position, Version};
use crate::error::SinkError;
use crate::mapping::{Embedded, Mapping, Point};
use crate::settings::{Settings, SettingsError};
use crate::table::{self, Cell, Table};
use crate::{Collection, Digest, Partition, Primal, Timestamp};

/// How exactly a store can be kept in step with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Data and position commit together: exactly once.
    Transactional,
    /// The store compares versions per record; the position is saved afterwards, by compare-and-set: effectively once.
    Versioned,
    /// Last write wins, of records as of positions: effectively once while one writer holds the partition. After a crash
    /// records are written once more from the position on. A write that lands after its worker lost the partition, or after
    /// the write timeout, may undo a newer one.
    Overwrite,
    /// The store drops repeated appends by their identity.
    Append,
}

impl Class {
    /// As printed in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Transactional => "transactional",
            Class::Versioned => "versioned",
            Class::Overwrite => "overwrite",
            Class::Append => "append",
        }
    }
}

/// How a collection appears in a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// One JSON document per key.
    #[default]
    Document,
    /// One row of typed columns per key.
    Table,
    /// One record per event, none ever changed.
    Events,
    /// One point per moment and tags; see [`Series`](crate::mapping::Series).
    Series,
    /// One node per key, with edges to others; see [`Graph`](crate::mapping::Graph).
    Graph,
    /// One vector per key, with its payload; see [`Vector`](crate::mapping::Vector).
    Vector,
}

impl Projection {
    /// As written in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Projection::Document => "document",
            Projection::Table => "table",
            Projection::Events => "events",
            Projection::Series => "series",
            Projection::Graph => "graph",
            Projection::Vector => "vector",
        }
    }

    /// Whether every event counts, rather than the last one of its key.
    pub fn keeps_every_event(self) -> bool {
        matches!(self, Projection::Events | Projection::Series)
    }
}

/// How a rebuilt generation takes the place of the live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapKind {
    /// In one transaction or atomic command of the store.
    Atomic,
    /// Not at all.
    None,
}

/// What a sink can do, as data.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Its guarantee.
    pub class: Class,
    /// The projections that it offers; the first is its default.
    pub projections: &'static [Projection],
    /// Whether rebuilt generations can be swapped in.
    pub swap: SwapKind,
    /// Whether records can be read back.
    pub reads: bool,
    /// Records in a batch that the store likes, at most.
    pub max_batch: usize,
    /// The longest payload that the store takes, in bytes.
    pub max_payload: usize,
    /// Bytes that are held in memory for all partitions, unless the config says otherwise: [`BUFFER`], or more where a
    /// batch costs the store so much that it has to be larger.
    pub buffer_bytes: usize,
}

/// What is held in memory for a store that has no wishes, in bytes.
pub const BUFFER: usize = 8 << 20;

/// One setting of a sink, for the generated reference.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Its name in the config; `group.name` for one of a group.
    pub name: &'static str,
    /// Its default as written there; `None` when it must be given.
    pub default: Option<&'static str>,
    /// What it does, with units and limits.
    pub help: &'static str,
}

/// The only thing that a store's file exports.
#[derive(Clone, Copy)]
pub struct SinkSpec {
    /// The `type` in the config.
    pub name: &'static str,
    /// The wire protocol family, which is also the cargo feature that compiles it in.
    pub family: &'static str,
    /// One line for a person choosing.
    pub summary: &'static str,
    /// What it can do.
    pub capability: Capability,
    /// Its settings.
    pub options: &'static [OptionSpec],
    /// Reads the settings. Touches no network and no file: connecting is lazy.
    pub build: fn(&Settings) -> Result<Arc<dyn Sink>, SettingsError>,
}

/// One build of a projection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Build {
    /// The generation that readers see, under the collection's plain name.
    Live(u64),
    /// A generation beside it: one that is being rebuilt, or the one before the last swap.
    Beside(u64),
    /// A copy under a name of its own, which is never swapped in.
    Named(String),
}

/// What a batch is written to: one collection in one sink, in one build.
#[derive(Clone, Debug)]
pub struct Target {
    /// The sink's name in the config; two sinks in one database keep their positions apart by it.
    pub sink: Arc<str>,
    /// The collection.
    pub collection: Collection,
    /// Which build of it.
    pub build: Build,
    /// How it appears.
    pub projection: Projection,
    /// The columns of the collection's schema, if that gives any. What the record consists of is [`Target::columns`].
    pub table: Option<Arc<Table>>,
    /// How payloads are read, for the projections that need to know.
    pub mapping: Arc<Mapping>,
}

impl Target {
    /// The name of the table, hash or index: `flights`, `flights__g7` beside it, or a name of its own.
    pub fn place(&self) -> String {
        match &self.build {
            Build::Live(_) => self.collection.to_string(),
            Build::Beside(generation) => format!("{}__g{generation}", self.collection),
            Build::Named(name) => name.clone(),
        }
    }

    /// What its positions are kept under; stays the same when it becomes live or is replaced.
    pub fn position_name(&self) -> String {
        match &self.build {
            Build::Live(generation) | Build::Beside(generation) => format!("{}__g{generation}", self.collection),
            Build::Named(name) => name.clone(),
        }
    }

    /// The same collection in another build.
    #[must_use]
    pub fn with_build(&self, build: Build) -> Self {
        Target { build, ..self.clone() }
    }

    /// The columns that a record consists of, where it is not a document: those of a table, of a node whose collection has
    /// a schema, and the fields of a point.
    pub fn columns(&self) -> Option<&Table> {
        match (self.projection, &*self.mapping) {
            (Projection::Series, Mapping::Series(series)) => Some(&series.fields),
            (Projection::Table | Projection::Graph, _) => self.table.as_deref(),
            _ => None,
        }
    }

    /// The cells of an event's payload in this target's columns; none for a delete.
    ///
    /// # Errors
    /// The event is rejected: a column cannot hold its value.
    pub fn cells(&self, event: &BatchEvent<'_>) -> Result<Vec<Cell>, SinkError> {
        match (self.columns(), event.data) {
            (Some(table), Some(data)) => {
                table.cells(data).map_err(|reason| SinkError::rejected(event.record().offset, reason))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The digest that a payload has once it is stored here.
    ///
    /// # Errors
    /// The payload cannot be stored here at all.
    pub fn digest(&self, data: &str) -> Result<Digest, String> {
        match self.columns() {
            Some(table) => table.cells(data).map(|cells| table::digest(&cells)),
            None => self.document(data).map(|document| Digest::of_json(&document)),
        }
    }

    /// The document that is kept of a payload: all of it, but for the member that is kept as a vector.
    ///
    /// # Errors
    /// The payload cannot be stored here at all.
    pub fn document<'a>(&self, data: &'a str) -> Result<Cow<'a, str>, String> {
        match self.projection {
            Projection::Vector => self.read_vector(data).map(|embedded| embedded.document),
            _ => Ok(data.into()),
        }
    }

    /// The vector that an event is, and its document.
    ///
    /// # Errors
    /// The event is rejected: its payload gives no vector of this collection.
    pub fn embedded<'a>(&self, event: &BatchEvent<'a>) -> Result<Embedded<'a>, SinkError> {
        let read = event.data.ok_or_else(|| "a delete is no vector".to_owned()).and_then(|data| self.read_vector(data));
        read.map_err(|reason| SinkError::rejected(event.record().offset, reason))
    }

    fn read_vector<'a>(&self, data: &'a str) -> Result<Embedded<'a>, String> {
        match &*self.mapping {
            Mapping::Vector(vector) => vector.read(data),
            _ => Err("this collection has no `vector`".to_owned()),
        }
    }

    /// The point that an event is.
    ///
    /// # Errors
    /// The event is rejected: its payload is no point of this series.
    pub fn point(&self, event: &BatchEvent<'_>) -> Result<Point, SinkError> {
        let rejected = |reason| SinkError::rejected(event.record().offset, reason);
        match (&*self.mapping, event.data) {
            (Mapping::Series(series), Some(data)) => series.point(data, event.time()).map_err(rejected),
            _ => Err(rejected("this is no point of a series".to_owned())),
        }
    }

    /// What identifies the record of an event with that key, id, payload and time: the key; the id where each event is a
    /// record; moment and tags of a point. `None` where the event leaves no record.
    pub fn identity<'a>(&self, key: &'a str, id: &'a str, data: Option<&str>, time: Timestamp) -> Option<Cow<'a, str>> {
        match (self.projection, &*self.mapping) {
            (Projection::Events, _) => Some(id.into()),
            (Projection::Series, Mapping::Series(series)) => Some(series.point(data?, time).ok()?.identity().into()),
            _ => Some(key.into()),
        }
    }

    /// Whether an event of a version is written over a record of the same identity.
    pub fn replaces(&self, mode: Mode, version: Version, stored: Version) -> bool {
        match (mode, self.projection) {
            (Mode::Apply, Projection::Events) => false,
            // Of events with one id the first is the record.
            (Mode::Repair, Projection::Events) => version <= stored,
            (Mode::Apply, _) => version > stored,
            (Mode::Repair, _) => version >= stored,
        }
    }
}

/// The next position per partition, as the store remembers it.
pub type Positions = BTreeMap<Partition, Position>;

/// What a write did. Applied and stale together are the events of the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records written.
    pub applied: u64,
    /// Events whose version was not above the stored one.
    pub stale: u64,
}

/// What `check` found.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// The server's product and version.
    pub version: String,
    /// Features that matter and how they are set, and anything worth a notice.
    pub notes: Vec<String>,
}

/// A rebuild that was begun and not yet swapped in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuild {
    /// Its generation.
    pub generation: u64,
    /// What it is built from, as its job wrote it; a job with another plan does not continue it.
    pub plan: String,
}

/// The generations of a collection in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Builds {
    /// The one that readers see; 1 before anything was ever written.
    pub live: u64,
    /// The one before the last swap, if it is still there.
    pub previous: Option<u64>,
    /// One that is being built.
    pub rebuild: Option<Rebuild>,
}

/// A target store.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Whether it can be reached and used, and what it is.
    async fn check(&self) -> Result<Health, SinkError>;

    /// Which generations of a collection the store holds. A store that never saw it answers live generation 1.
    async fn builds(&self, sink: &str, collection: &Collection) -> Result<Builds, SinkError>;

    /// Makes tables, columns, indexes; does nothing where they are there. Fails with `Fault::Incompatible`, before
    /// anything is changed, where what is there does not fit.
    async fn prepare(&self, target: &Target) -> Result<(), SinkError>;

    /// What the store remembers of how far this target is.
    async fn positions(&self, target: &Target) -> Result<Positions, SinkError>;

    /// Applies a batch: each event where its version is above the stored one (or equal, in repair); where every event is a
    /// record, each that is not there yet (in repair also where the stored version is equal or higher, because of events
    /// with one id the first is the record); and moves the position by compare-and-set, with the data where the class is transactional.
    ///
    /// # Errors
    /// After any error the position has not moved, unless it was the answer that got lost; the next attempt is then fenced,
    /// and whoever writes goes on from what the store says. `Fault::Fenced` when the stored position is not the expected
    /// one or the target is no longer the live generation; without transactions the store is asked before the first record
    /// is written, and whatever was written stays. `Fault::Rejected` when events can never be stored; then no event behind
    /// one of them in its key was written.
    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError>;

    /// Reading back, where the store can.
    fn reader(&self) -> Option<&dyn Reader> {
        None
    }

    /// Swapping generations, where the store can.
    fn swap(&self) -> Option<&dyn Swap> {
        None
    }

    /// Ends connections.
    async fn close(&self);
}

/// What a stored record says, for people and for comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A tombstone.
    Deleted,
    /// JSON text.
    Document(String),
    /// One cell per column.
    Row(Vec<Cell>),
}

/// A record read back from a store.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The key; the event's id where every event is a record; moment and tags of a point.
    pub identity: String,
    /// The version that it was written with.
    pub version: Version,
    /// The event that wrote it; empty where the store keeps only numbers.
    pub event_id: String,
    /// When that happened.
    pub time: Timestamp,
    /// The Primal Logic parameters beside it.
    pub primal: Primal,
    /// The data.
    pub content: Content,
}

impl Stored {
    /// What it compares by; `None` for a tombstone.
    pub fn digest(&self) -> Option<Digest> {
        match &self.content {
            Content::Deleted => None,
            Content::Document(text) => Some(Digest::of_json(text)),
            Content::Row(cells) => Some(table::digest(cells)),
        }
    }
}

/// A page of a scan.
#[derive(Debug, Default)]
pub struct Page {
    /// The records; one may appear on two pages when the store changes meanwhile.
    pub records: Vec<Stored>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// Reading back what was written, tombstones included.
#[async_trait]
pub trait Reader: Send + Sync {
    /// One record by its identity.
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError>;

    /// The next page of all records, after a cursor of the page before.
    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError>;

    /// Digests of blocks, where the store can compute them of this target.
    fn blocks(&self, _target: &Target) -> Option<&dyn Blocks> {
        None
    }
}

/// Generations beside the live one, and the atomic change to another.
#[async_trait]
pub trait Swap: Send + Sync {
    /// Records that `target`, a generation beside the live one, is being built after `plan`.
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError>;

    /// In one atomic act: makes `to` live under the plain name, keeps the one that was live as the previous one, and
    /// drops a previous one of before. Where `caught_up` is asked for, it does nothing and answers `false` unless every
    /// position of `to` is at or past that of the live generation, so that readers never see the store go back. Without
    /// transactions a write in flight has to land in the generation that it was meant for, not under the plain name.
    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError>;

    /// Removes a build that is not live, with its positions and its record. Nothing is wrong if it is not there.
    async fn discard(&self, target: &Target) -> Result<(), SinkError>;
}
