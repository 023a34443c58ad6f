//! What Elasticsearch and OpenSearch have in common, which is all that a sink needs: a generation is an index, the
//! collection's name an alias with a filter that shows what is neither deleted nor the hub's own, and a record a document
//! with an external version. Positions are documents of the generation's index, so that they go where it goes.
//!
//! A deleted record is a document that says so: the version of one that is really deleted is forgotten after
//! `index.gc_deletes` and at a restart, and a late put would bring it back.

mod bulk;
mod index;
mod read;
mod swap;

use async_trait::async_trait;
use primal_core::batch::{Batch, Mode};
use primal_core::settings::Secret;
use primal_core::sink::{
    BUFFER, Builds, Capability, Class, Health, OptionSpec, Outcome, Positions, Projection, Reader, Sink, Swap,
    SwapKind, Target,
};
use primal_core::{Collection, Fault, Position, Rejected, Settings, SettingsError, SinkError};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Answer, Body, Http};
use bulk::{Bulk, Done};
use index::Layout;

pub(crate) const CAPABILITY: Capability = Capability {
    class: Class::Versioned,
    projections: &[Projection::Document, Projection::Table, Projection::Events],
    swap: SwapKind::Atomic,
    reads: true,
    // "Start with 1,000 to 5,000 documents" (Elasticsearch's guide, "Tune for indexing speed").
    max_batch: 5_000,
    // http.max_content_length is 100 MB for a whole request; a document is held several times while it is indexed.
    max_payload: 8 << 20,
    // Requests of 5 to 15 MB do well (Elasticsearch: The Definitive Guide, "How Big Is Too Big?"); with four partitions
    // they have 4.
    buffer_bytes: 4 * BUFFER,
};

pub(crate) const OPTIONS: &[OptionSpec] = &[
    OptionSpec { name: "url", default: None, help: "`https://user:password@host:9200`" },
    OptionSpec { name: "api_key", default: Some("none"), help: "an API key, instead of user and password" },
    OptionSpec { name: "prefix", default: Some("\"\""), help: "put before the name of every index; lower case" },
    OptionSpec { name: "shards", default: Some("1"), help: "primary shards of a new index" },
    OptionSpec { name: "replicas", default: Some("1"), help: "copies of each shard of a new index" },
    OptionSpec {
        name: "gzip",
        default: Some("false"),
        help: "whether requests are compressed: worth it over a slow network",
    },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Secret,
    api_key: Option<Secret>,
    #[serde(default)]
    prefix: String,
    #[serde(default = "one")]
    shards: u32,
    #[serde(default = "one")]
    replicas: u32,
    #[serde(default)]
    gzip: bool,
}

fn one() -> u32 {
    1
}

/// Which of the two is expected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    Elasticsearch,
    Opensearch,
}

pub(crate) struct Search {
    http: Http,
    product: Product,
    prefix: String,
    shards: u32,
    replicas: u32,
}

/// A position as it stands in the store, and what its change is compared by.
struct Place {
    position: Position,
    sequence: i64,
    term: i64,
}

impl Search {
    pub(crate) fn new(settings: &Settings, product: Product) -> Result<Self, SettingsError> {
        let Config { url, api_key, prefix, shards, replicas, gzip } = settings.read()?;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        if !prefix.chars().all(fits) || prefix.starts_with(['-', '_', '.']) {
            return Err(settings.error(format!(
                "`prefix` {prefix:?}; expected lower-case letters, digits, `-`, `_` and `.`, and a letter or digit first"
            )));
        }
        let authorization = api_key.map(|key| format!("ApiKey {}", key.expose()));
        let http = Http::new(settings, &url, authorization, gzip)?;
        Ok(Search { http, product, prefix, shards: shards.max(1), replicas })
    }

    /// Asks and reads a good answer; of a bad one, what it means.
    async fn ask(&self, doing: &str, method: Method, path: &str, body: Body<'_>) -> Result<Value, SinkError> {
        let answer = self.http.ask(doing, method, path, body).await?;
        if !answer.is_good() {
            return Err(self.failed(doing, &answer));
        }
        answer.json(doing, &self.http.address)
    }

    fn failed(&self, doing: &str, answer: &Answer) -> SinkError {
        SinkError::new(fault(answer.status, answer.text()), format!("{doing} {}", self.http.address)).because(format!(
            "status {}: {}",
            answer.status,
            answer.said()
        ))
    }

    /// The indices of a collection: its generations, and whatever stands under its plain name.
    async fn layout(&self, collection: &Collection) -> Result<Layout, SinkError> {
        let base = self.base(collection);
        let path = format!(
            "/{base},{base}__g*?ignore_unavailable=true&allow_no_indices=true&expand_wildcards=all\
             &filter_path=*.aliases,*.mappings._meta"
        );
        let found = self.ask("reading generations of", Method::GET, &path, Body::None).await?;
        Ok(Layout::read(&base, &found))
    }

    /// The index that a target is in.
    fn index(&self, target: &Target) -> String {
        format!("{}{}", self.prefix, target.position_name()).to_ascii_lowercase()
    }

    /// The alias that readers use.
    fn base(&self, collection: &Collection) -> String {
        format!("{}{collection}", self.prefix).to_ascii_lowercase()
    }

    /// The position of a partition, as it is now (not as a search would see it).
    async fn place(&self, target: &Target, partition: i32) -> Result<Option<Place>, SinkError> {
        let id = index::position_id(&target.sink, partition);
        let body = json!({ "docs": [{ "_id": id, "_source": ["_position"] }] }).to_string();
        let path = format!("/{}/_mget", self.index(target));
        let found = self.ask("asking for a position in", Method::POST, &path, Body::Json(&body)).await?;
        let found = found.pointer("/docs/0").cloned().unwrap_or_default();
        if let Some(error) = found.get("error") {
            return Err(SinkError::new(Fault::Internal, format!("asking for a position in {}", self.http.address))
                .because(error.to_string()));
        }
        let number = |pointer: &str| found.pointer(pointer).and_then(Value::as_i64);
        let position = found.pointer("/_source/_position").and_then(Value::as_u64).map(Position);
        Ok(position.zip(number("/_seq_no")).zip(number("/_primary_term")).map(|((position, sequence), term)| Place {
            position,
            sequence,
            term,
        }))
    }

    /// Sends a bulk and tells what became of each item.
    async fn bulk(&self, target: &Target, lines: &str) -> Result<Vec<Done>, SinkError> {
        let path = format!(
            "/{}/_bulk?filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason,\
             items.*.error.caused_by.reason",
            self.index(target)
        );
        let answer = self.http.ask("writing to", Method::POST, &path, Body::Lines(lines)).await?;
        match answer.status {
            // Too long for one request: less of it at a time may do.
            413 => Err(SinkError::new(
                Fault::Rejected(Vec::new()),
                format!("{} takes no request of that length", self.http.address),
            )),
            _ if !answer.is_good() => Err(self.failed("writing to", &answer)),
            _ => Ok(bulk::read(&answer.json("writing to", &self.http.address)?)),
        }
    }

    /// Moves the position of a batch, from `place`.
    async fn advance(
        &self,
        target: &Target,
        batch: &Batch<'_>,
        next: Position,
        place: Option<Place>,
    ) -> Result<(), SinkError> {
        let at = place.map(|place| (place.sequence, place.term));
        let lines = bulk::position(&target.sink, batch.partition, next, at);
        match self.bulk(target, &lines).await?.first() {
            Some(Done::Written) => Ok(()),
            Some(Done::Stale) => Err(SinkError::new(Fault::Fenced, target.moved_meanwhile(batch))),
            Some(Done::Failed(fault, said)) => {
                let message = format!("moving a position in {}", self.http.address);
                Err(SinkError::new(fault.clone(), message).because(said.clone()))
            }
            other => {
                let message = format!("moving a position in {}: {other:?}", self.http.address);
                Err(SinkError::new(Fault::Internal, message))
            }
        }
    }

    /// Of events of one id the first is the record: which of a batch are to be written over what is there.
    async fn earlier<'a>(&self, target: &Target, batch: &Batch<'a>) -> Result<Bulk<'a>, SinkError> {
        let ids: Vec<_> = batch.events.iter().map(|event| json!({ "_id": event.id })).collect();
        let body = json!({ "docs": ids }).to_string();
        let path = format!("/{}/_mget?_source_includes=_primal_version", self.index(target));
        let found = self.ask("comparing with", Method::POST, &path, Body::Json(&body)).await?;
        let found = found.get("docs").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut bulk = Bulk::new(target, batch.mode);
        for (event, found) in batch.events.iter().zip(&found) {
            let number = |pointer: &str| found.pointer(pointer).and_then(Value::as_i64);
            match number("/_source/_primal_version").zip(number("/_seq_no")).zip(number("/_primary_term")) {
                None => bulk.push(*event, None),
                Some(((stored, sequence), term)) => {
                    let stored = primal_core::Version(u64::try_from(stored).unwrap_or(0));
                    if target.replaces(batch.mode, event.version, stored) {
                        bulk.push(*event, Some((sequence, term)));
                    }
                }
            }
        }
        Ok(bulk)
    }

    /// Writes the events of a batch; how many were applied.
    async fn write_events(&self, target: &Target, batch: &Batch<'_>) -> Result<u64, SinkError> {
        let mut bulk = match (batch.mode, target.projection) {
            (Mode::Repair, Projection::Events) => self.earlier(target, batch).await?,
            _ => {
                let mut bulk = Bulk::new(target, batch.mode);
                batch.events.iter().for_each(|event| bulk.push(*event, None));
                bulk
            }
        };
        let (mut applied, mut as_text) = (0, false);
        while !bulk.is_empty() {
            let done = self.bulk(target, &bulk.lines(as_text)).await?;
            if done.len() != bulk.len() {
                let message = format!("{} answered for {} of {} documents", self.http.address, done.len(), bulk.len());
                return Err(SinkError::new(Fault::Internal, message));
            }
            let mut refused = Vec::new();
            for (event, done) in bulk.events().zip(&done) {
                match done {
                    Done::Written => applied += 1,
                    Done::Stale => {}
                    Done::Refused(said) => {
                        refused.push(Rejected { offset: event.record().offset, reason: said.clone() });
                    }
                    Done::Failed(fault, said) => {
                        let message = format!("writing to {}", self.http.address);
                        return Err(SinkError::new(fault.clone(), message).because(said.clone()));
                    }
                }
            }
            if as_text && !refused.is_empty() {
                let message = format!("{} took {} documents not even as text", self.http.address, refused.len());
                return Err(SinkError::new(Fault::Rejected(refused), message));
            }
            // A field of another type than in the documents before, names that no field may have, too many fields: the
            // record is kept whole, as text, and says that it cannot be found by its fields.
            bulk.keep(|index| matches!(done.get(index), Some(Done::Refused(_))));
            as_text = true;
        }
        Ok(applied)
    }
}

/// What a status and the error of an answer mean.
fn fault(status: u16, said: &str) -> Fault {
    match status {
        _ if said.contains("cluster_block_exception") && said.contains("flood") => Fault::Full,
        401 | 403 if !said.contains("cluster_block_exception") => Fault::Unauthorized,
        403 | 408 | 429 | 502..=504 => Fault::Unavailable,
        _ => Fault::Internal,
    }
}

#[async_trait]
impl Sink for Search {
    async fn check(&self) -> Result<Health, SinkError> {
        let found = self.ask("connecting to", Method::GET, "/", Body::None).await?;
        let text = |pointer: &str| found.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (number, distribution) = (text("/version/number"), text("/version/distribution"));
        if number.is_empty() {
            let message = format!("{} is no search engine: {found}", self.http.address);
            return Err(SinkError::new(Fault::Misconfigured, message));
        }
        let (product, name) = match distribution {
            "opensearch" => (Product::Opensearch, "OpenSearch"),
            _ => (Product::Elasticsearch, "Elasticsearch"),
        };
        let mut notes = Vec::new();
        if product != self.product {
            let other = if product == Product::Opensearch { "opensearch" } else { "elasticsearch" };
            notes.push(format!("this is {name}: `type: {other}` is its name"));
        }
        let health = self.ask("asking for the health of", Method::GET, "/_cluster/health", Body::None).await?;
        if health.get("status").and_then(Value::as_str) == Some("red") {
            notes.push("the cluster's status is red: some shards cannot be written to".to_owned());
        }
        let nodes = health.get("number_of_data_nodes").and_then(Value::as_u64).unwrap_or(0);
        if nodes <= u64::from(self.replicas) {
            let wanted = self.replicas;
            notes.push(format!("{nodes} data nodes cannot hold {wanted} replicas beside each shard; set `replicas`"));
        }
        Ok(Health { version: format!("{name} {number}"), notes })
    }

    async fn builds(&self, _sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        Ok(self.layout(collection).await?.builds())
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        self.prepare_with(target, None).await
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        let index = self.index(target);
        let refresh = self.http.ask("refreshing", Method::POST, &format!("/{index}/_refresh"), Body::None).await?;
        match refresh.status {
            404 => return Ok(Positions::new()),
            _ if !refresh.is_good() => return Err(self.failed("refreshing", &refresh)),
            _ => {}
        }
        let query = json!({
            "size": 10_000,
            "query": { "bool": { "filter": [
                { "exists": { "field": "_position" } },
                { "term": { "_sink": &*target.sink } },
            ] } },
        });
        let path = format!("/{index}/_search?filter_path=hits.hits._source");
        let found = self.ask("reading positions of", Method::POST, &path, Body::Json(&query.to_string())).await?;
        let hits = found.pointer("/hits/hits").and_then(Value::as_array);
        let one = |hit: &Value| {
            let number = |pointer: &str| hit.pointer(pointer).and_then(Value::as_u64);
            Some((i32::try_from(number("/_source/_partition")?).ok()?, Position(number("/_source/_position")?)))
        };
        Ok(hits.into_iter().flatten().filter_map(one).collect())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let mut rejected = Vec::new();
        for event in &batch.events {
            match target.cells(event) {
                Err(SinkError { fault: Fault::Rejected(list), .. }) => rejected.extend(list),
                Err(error) => return Err(error),
                Ok(_) => rejected.extend(index::unfit(event, target.projection)),
            }
        }
        if let Some(first) = rejected.first() {
            let message = first.reason.clone();
            return Err(SinkError::new(Fault::Rejected(rejected), message));
        }
        let place = async {
            match batch.advance {
                Some(_) => self.place(target, batch.partition).await,
                None => Ok(None),
            }
        };
        let (layout, place) = tokio::try_join!(self.layout(&target.collection), place)?;
        if let Some(reason) = target.wrong_generation(layout.builds().live) {
            return Err(SinkError::new(Fault::Fenced, reason));
        }
        if batch.advance.is_some_and(|advance| advance.expected != place.as_ref().map(|place| place.position)) {
            return Err(SinkError::new(Fault::Fenced, target.moved_meanwhile(batch)));
        }
        let applied = self.write_events(target, batch).await?;
        if let Some(advance) = batch.advance {
            self.advance(target, batch, advance.next, place).await?;
        }
        Ok(Outcome { applied, stale: batch.events.len() as u64 - applied })
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {}
}
