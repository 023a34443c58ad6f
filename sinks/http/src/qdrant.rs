//! Qdrant: a key is a point, a generation a collection, and the collection's name an alias that a swap moves. A batch is one
//! upsert with a filter: points that are there are written over only where their version is not above the batch's highest.
//! As a batch leaves nothing of its range out, that is as good as comparing each. What is no range of the log (repair,
//! redrive) is compared point by point.
//!
//! A position is a point too, in a collection of the hub's own, where nobody who searches finds it. It is moved by an upsert
//! whose filter names the mark of the point that it follows, and read back: of two followers one finds its own mark.

mod embedding;
mod point;
mod state;
mod swap;

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use hashbrown::HashMap;
use primal_core::batch::{Batch, Mode};
use primal_core::mapping::{Embedded, Embedding, Vector};
use primal_core::settings::Secret;
use primal_core::sink::{
    BUFFER, Builds, Capability, Class, Health, OptionSpec, Outcome, Page, Positions, Projection, Reader, Sink,
    SinkSpec, Stored, Swap, SwapKind, Target,
};
use primal_core::{
    BatchEvent, Collection, Fault, Mapping, Rejected, Retry, Settings, SettingsError, SinkError, Version,
};
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use crate::client::{Answer, Body, Http, percent};
use embedding::{Embedder, EmbeddingSettings};
use point::{Held, Point};

/// Qdrant.
pub static QDRANT: SinkSpec = SinkSpec {
    name: "qdrant",
    family: "http",
    summary: "Qdrant 1.16 and later, one node",
    capability: Capability {
        class: Class::Versioned,
        projections: &[Projection::Vector],
        swap: SwapKind::Atomic,
        reads: true,
        // "Batch size … typically 1,000 to 10,000 points" counts vectors of a few hundred dimensions
        // (https://qdrant.tech/documentation/database-tutorials/bulk-upload/); requests are cut by size besides.
        max_batch: 2_000,
        // A request has at most 32 MB (service.max_request_size_mb), and holds some payloads twice.
        max_payload: 4 << 20,
        buffer_bytes: BUFFER,
    },
    options: &[
        OptionSpec {
            name: "url",
            default: None,
            help: "`http://host:6333`, or `https://`; of the REST API, not of gRPC",
        },
        OptionSpec { name: "api_key", default: Some("none"), help: "an API key that may write" },
        OptionSpec { name: "prefix", default: Some("\"\""), help: "put before the name of every collection" },
        OptionSpec {
            name: "embedding.url",
            default: Some("none"),
            help: "a service with OpenAI's `/embeddings`, such as `https://api.openai.com/v1`; needed where `vector` has `text`",
        },
        OptionSpec { name: "embedding.model", default: Some("none"), help: "the model that it is asked for" },
        OptionSpec { name: "embedding.key", default: Some("none"), help: "its key, sent as a bearer token" },
    ],
    build: |settings| Ok(Arc::new(Qdrant::new(settings)?) as Arc<dyn Sink>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Secret,
    api_key: Option<Secret>,
    #[serde(default)]
    prefix: String,
    embedding: Option<EmbeddingSettings>,
}

/// Records in a page of a scan.
const PAGE: usize = 500;

/// The first version that documents `update_filter`. One that does not know it writes over whatever is there, in silence.
const NEEDED: (u32, u32) = (1, 16);

/// Bytes of points in a request, about: half of what the server takes.
const MOST_BYTES: usize = 16 << 20;

/// Operations in a request of several.
const MOST_OPERATIONS: usize = 250;

struct Qdrant {
    http: Http,
    prefix: String,
    has_key: bool,
    embedder: Option<Embedder>,
}

/// Every answer.
#[derive(Deserialize)]
struct Envelope<T> {
    result: T,
}

#[derive(Deserialize)]
struct Updated {
    status: String,
}

#[derive(Deserialize)]
struct Found<T> {
    payload: T,
}

#[derive(Deserialize)]
struct Scrolled<T> {
    points: Vec<Found<T>>,
    next_page_offset: Option<Box<RawValue>>,
}

/// An event that is to be written, its vector, and what stands beside it.
struct Chosen<'a, 'b> {
    event: &'b BatchEvent<'a>,
    vector: Vec<f32>,
    document: Option<Cow<'a, str>>,
}

/// Where a collection's points are asked for.
fn points_path(place: &str, rest: &str) -> String {
    format!("/collections/{}/points{rest}", percent(place))
}

impl Qdrant {
    fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let Config { url, api_key, prefix, embedding } = settings.read()?;
        // https://github.com/qdrant/qdrant/blob/master/lib/collection/src/operations/validation.rs
        if let Some(bad) = prefix.chars().find(|c| c.is_control() || r#"<>:"/\|?*"#.contains(*c)) {
            return Err(settings.error(format!("`prefix` has the character {bad:?}, which no collection's name takes")));
        }
        let http = Http::new(settings, &url, None, false)?.with_key(settings, "api-key", api_key.as_ref())?;
        let place = settings.member("embedding")?;
        let embedder = embedding.zip(place).map(|(settings, place)| Embedder::new(&place, &settings)).transpose()?;
        Ok(Qdrant { http, prefix, has_key: api_key.is_some(), embedder })
    }

    fn place(&self, target: &Target) -> String {
        format!("{}{}", self.prefix, target.position_name())
    }

    /// Asks, and reads the result; `None` if what the path names is not there.
    async fn ask<T: DeserializeOwned>(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: Option<&str>,
    ) -> Result<Option<T>, SinkError> {
        let body = body.map_or(Body::None, Body::Json);
        let answer = self.http.ask(doing, method, path, body).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        let answer = self.good(doing, answer)?;
        let envelope: Envelope<T> = answer.json(doing, &self.http.address)?;
        Ok(Some(envelope.result))
    }

    fn good(&self, doing: &str, answer: Answer) -> Result<Answer, SinkError> {
        if answer.is_good() {
            return Ok(answer);
        }
        let said = answer.said();
        Err(SinkError::new(fault(answer.status, &said), format!("{doing} {}", self.http.address)).because(said))
    }

    /// Changes points, and waits until that is done.
    async fn update(&self, doing: &str, method: Method, path: &str, body: &str) -> Result<(), SinkError> {
        if self.try_update(doing, method, path, body).await? {
            return Ok(());
        }
        Err(SinkError::new(Fault::Internal, format!("{doing} {}: {path} is not there", self.http.address)))
    }

    /// The same; `false` if the collection is not there.
    async fn try_update(&self, doing: &str, method: Method, path: &str, body: &str) -> Result<bool, SinkError> {
        let answer = self.http.ask(doing, method, path, Body::Json(body)).await?;
        if answer.status == 404 {
            return Ok(false);
        }
        let answer = self.good(doing, answer)?;
        // Of one operation, or one of each of several.
        let result: Envelope<Json> = answer.json(doing, &self.http.address)?;
        let results = match result.result {
            Json::Array(several) => several,
            one => vec![one],
        };
        for result in results {
            let status = serde_json::from_value::<Updated>(result).map(|updated| updated.status).unwrap_or_default();
            if status != "completed" {
                let message = format!("{doing} {}: not done after the wait, but {status:?}", self.http.address);
                return Err(SinkError::new(Fault::Unavailable, message));
            }
        }
        Ok(true)
    }

    /// The payloads of points by their ids; `None` if the collection is not there.
    async fn retrieve<T: DeserializeOwned>(
        &self,
        doing: &str,
        place: &str,
        ids: &[String],
        payload: &Json,
    ) -> Result<Option<Vec<Found<T>>>, SinkError> {
        let body = json!({ "ids": ids, "with_payload": payload, "with_vector": false }).to_string();
        self.ask(doing, Method::POST, &points_path(place, ""), Some(&body)).await
    }

    /// The version of the server, refused if it is too old.
    async fn version(&self) -> Result<String, SinkError> {
        #[derive(Deserialize)]
        struct Info {
            version: String,
        }
        let doing = "connecting to";
        let answer = self.good(doing, self.http.ask(doing, Method::GET, "/", Body::None).await?)?;
        let Info { version } = answer.json(doing, &self.http.address)?;
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < NEEDED {
            let message = format!(
                "{} is Qdrant {version}; expected {}.{} or later, where an upsert can compare versions",
                self.http.address, NEEDED.0, NEEDED.1
            );
            return Err(SinkError::new(Fault::Misconfigured, message));
        }
        Ok(version)
    }

    /// Which of a batch's events are to be written over what is there.
    async fn newer(&self, target: &Target, batch: &Batch<'_>) -> Result<Vec<bool>, SinkError> {
        #[derive(Deserialize)]
        struct Compared {
            #[serde(rename = "_key")]
            key: String,
            #[serde(rename = "_version")]
            version: u64,
        }
        let ids: Vec<_> = batch.events.iter().map(|event| point::id(event.key)).collect();
        let doing = "comparing with";
        let found = self.retrieve::<Compared>(doing, &self.place(target), &ids, &json!(["_key", "_version"])).await?;
        let found = found.unwrap_or_default().into_iter().map(|Found { payload }| (payload.key, payload.version));
        let found: HashMap<String, u64> = found.collect();
        let newer = |event: &BatchEvent<'_>| {
            let stored = found.get(event.key).copied().map(Version);
            stored.is_none_or(|stored| target.replaces(batch.mode, event.version, stored))
        };
        Ok(batch.events.iter().map(newer).collect())
    }

    /// What events leave, with texts embedded.
    async fn chosen<'a: 'b, 'b>(
        &self,
        target: &Target,
        events: impl Iterator<Item = (&'b BatchEvent<'a>, Option<Embedded<'a>>)>,
    ) -> Result<Vec<Chosen<'a, 'b>>, SinkError> {
        let size = vector(target)?.size;
        let (mut chosen, mut texts, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (event, read) in events {
            let (vector, document) = match read {
                None => (point::no_vector(size), None),
                Some(Embedded { vector: Embedding::Vector(vector), document }) => (vector, Some(document)),
                Some(Embedded { vector: Embedding::Text(text), document }) => {
                    texts.push(text);
                    places.push(chosen.len());
                    (Vec::new(), Some(document))
                }
            };
            chosen.push(Chosen { event, vector, document });
        }
        if !texts.is_empty() {
            let vectors = self.embedder(target)?.embed(&texts, size).await?;
            for (place, vector) in places.into_iter().zip(vectors) {
                if let Some(chosen) = chosen.get_mut(place) {
                    chosen.vector = vector;
                }
            }
        }
        Ok(chosen)
    }

    fn embedder(&self, target: &Target) -> Result<&Embedder, SinkError> {
        self.embedder.as_ref().ok_or_else(|| {
            let message = format!(
                "the vectors of {} are of texts; set `embedding` for sink {}, or `vector.field` of the collection",
                target.collection, target.sink
            );
            SinkError::new(Fault::Misconfigured, message)
        })
    }

    /// Writes what an advancing batch leaves: all in one request, or as few as its size allows.
    async fn upsert(&self, target: &Target, batch: &Batch<'_>, points: &[String]) -> Result<(), SinkError> {
        let highest = batch.events.iter().map(|event| event.version.0).max().unwrap_or(0);
        let path = points_path(&self.place(target), "?wait=true");
        for points in chunks(points, usize::MAX) {
            let body = upsert(&points.join(","), "lte", highest);
            self.update("writing to", Method::PUT, &path, &body).await.map_err(refused)?;
        }
        Ok(())
    }

    /// Writes points that are no range of the log, each compared by itself.
    async fn upsert_each(
        &self,
        target: &Target,
        mode: Mode,
        chosen: &[Chosen<'_, '_>],
        points: &[String],
    ) -> Result<(), SinkError> {
        let path = points_path(&self.place(target), "/batch?wait=true");
        let bound = if mode == Mode::Repair { "lte" } else { "lt" };
        let operation = |(chosen, point): (&Chosen<'_, '_>, &String)| {
            format!(r#"{{"upsert":{}}}"#, upsert(point, bound, chosen.event.version.0))
        };
        let operations: Vec<_> = chosen.iter().zip(points).map(operation).collect();
        for operations in chunks(&operations, MOST_OPERATIONS) {
            let body = format!(r#"{{"operations":[{}]}}"#, operations.join(","));
            self.update("writing to", Method::POST, &path, &body).await.map_err(refused)?;
        }
        Ok(())
    }
}

/// An upsert of points that are not there, or whose version is below a bound (`lt`, `lte`).
fn upsert(points: &str, bound: &str, version: u64) -> String {
    let filter = json!({ "must": [{ "key": "_version", "range": { bound: version } }] });
    format!(r#"{{"points":[{points}],"update_filter":{filter}}}"#)
}

/// Parts of a list that fit a request.
fn chunks(items: &[String], most: usize) -> Vec<&[String]> {
    let (mut parts, mut rest) = (Vec::new(), items);
    while !rest.is_empty() {
        let (mut count, mut bytes) = (0, 0);
        for item in rest.iter().take(most) {
            bytes += item.len();
            if count > 0 && bytes > MOST_BYTES {
                break;
            }
            count += 1;
        }
        let (part, left) = rest.split_at(count);
        parts.push(part);
        rest = left;
    }
    parts
}

/// How a target's payloads are vectors.
fn vector(target: &Target) -> Result<&Vector, SinkError> {
    match &*target.mapping {
        Mapping::Vector(vector) => Ok(vector),
        _ => {
            let message = format!("collection {} has no `vector`, which this store is for", target.collection);
            Err(SinkError::new(Fault::Misconfigured, message))
        }
    }
}

/// What an answer means.
fn fault(status: u16, said: &str) -> Fault {
    match status {
        401 | 403 => Fault::Unauthorized,
        507 => Fault::Full,
        _ if said.contains("No space left") || said.contains("disk space") => Fault::Full,
        408 | 429 | 502..=504 => Fault::Unavailable,
        _ => Fault::Internal,
    }
}

/// What was wrong with points is not said by which: less at a time tells.
fn refused(error: SinkError) -> SinkError {
    let said = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
    let is_of_points = ["Vector dimension error", "Validation error", "Format error", "too large", "larger than"];
    match error.fault {
        Fault::Internal if is_of_points.iter().any(|part| said.contains(part)) => {
            SinkError { fault: Fault::Rejected(Vec::new()), retry: Retry::No, ..error }
        }
        _ => error,
    }
}

/// What the events of a batch are; none for a delete. Those that can never be stored are named.
fn read<'a>(target: &Target, batch: &Batch<'a>) -> Result<Vec<Option<Embedded<'a>>>, SinkError> {
    let (mut read, mut rejected) = (Vec::with_capacity(batch.events.len()), Vec::<Rejected>::new());
    for event in &batch.events {
        // The server compares versions as doubles.
        if event.version.0 >= 1 << 53 {
            let message = format!("version {} of {:?} is not below 2^53", event.version, event.key);
            return Err(SinkError::new(Fault::Incompatible, message));
        }
        match event.data.map(|_| target.embedded(event)).transpose() {
            Ok(embedded) => read.push(embedded),
            Err(SinkError { fault: Fault::Rejected(list), .. }) => rejected.extend(list),
            Err(other) => return Err(other),
        }
    }
    match rejected.first().map(|first| first.reason.clone()) {
        Some(reason) => Err(SinkError::new(Fault::Rejected(rejected), reason)),
        None => Ok(read),
    }
}

#[async_trait]
impl Sink for Qdrant {
    async fn check(&self) -> Result<Health, SinkError> {
        let version = self.version().await?;
        // Who asks for the version needs no key.
        self.ask::<Json>("connecting to", Method::GET, "/collections", None).await?;
        let mut notes = Vec::new();
        if !self.has_key {
            notes.push("no `api_key` is set, and the server asks for none".to_owned());
        }
        notes.extend(self.embedder.as_ref().map(|embedder| format!("texts are embedded by {}", embedder.name())));
        Ok(Health { version: format!("Qdrant {version}"), notes })
    }

    async fn builds(&self, _sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        let (generations, rebuild) = tokio::try_join!(self.generations(collection), self.rebuild(collection))?;
        Ok(generations.builds(rebuild))
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        self.prepare_build(target).await
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        let places = self.places(target).await?;
        Ok(places.into_iter().map(|(partition, place)| (partition, place.position)).collect())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let read = read(target, batch)?;
        let place = async {
            match batch.advance {
                Some(_) => self.position(target, batch.partition).await,
                None => Ok(None),
            }
        };
        let (generations, place) = tokio::try_join!(self.generations(&target.collection), place)?;
        if let Some(reason) = target.wrong_generation(generations.live()) {
            return Err(SinkError::new(Fault::Fenced, reason));
        }
        let fenced = || SinkError::new(Fault::Fenced, target.moved_meanwhile(batch));
        if batch.advance.is_some_and(|advance| advance.expected != place.as_ref().map(|place| place.position)) {
            return Err(fenced());
        }
        let newer = match batch.advance {
            // Behind the position everything is new; what an attempt before this one left there has the same versions.
            Some(_) => vec![true; batch.events.len()],
            None if batch.events.is_empty() => Vec::new(),
            None => self.newer(target, batch).await?,
        };
        let chosen = batch.events.iter().zip(read).zip(&newer).filter(|(_, newer)| **newer).map(|(chosen, _)| chosen);
        let chosen = self.chosen(target, chosen).await?;
        let point =
            |chosen: &Chosen<'_, '_>| Point::of(chosen.event, &chosen.vector, chosen.document.as_deref()).to_json();
        let points: Vec<_> = chosen.iter().map(point).collect::<Result<_, _>>()?;
        match batch.advance {
            Some(_) => self.upsert(target, batch, &points).await?,
            None => self.upsert_each(target, batch.mode, &chosen, &points).await?,
        }
        if let Some(advance) = batch.advance
            && !self.advance(target, batch.partition, advance.next, place.as_ref()).await?
        {
            return Err(fenced());
        }
        let applied = chosen.len() as u64;
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

impl Qdrant {
    fn stored(&self, target: &Target, found: Vec<Found<Held>>) -> Result<Vec<Stored>, SinkError> {
        found.into_iter().map(|Found { payload }| payload.stored()).collect::<Option<_>>().ok_or_else(|| {
            let place = self.place(target);
            let message = format!("collection {place:?} of {} holds other points than these", self.http.address);
            SinkError::new(Fault::Incompatible, message)
        })
    }
}

#[async_trait]
impl Reader for Qdrant {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        let ids = [point::id(identity)];
        let found = self.retrieve("reading from", &self.place(target), &ids, &Json::Bool(true)).await?;
        Ok(self.stored(target, found.unwrap_or_default())?.into_iter().next())
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let offset: Json = cursor.and_then(|cursor| serde_json::from_str(cursor).ok()).unwrap_or(Json::Null);
        let body = json!({ "offset": offset, "limit": PAGE, "with_payload": true, "with_vector": false }).to_string();
        let path = points_path(&self.place(target), "/scroll");
        let found: Option<Scrolled<Held>> = self.ask("reading from", Method::POST, &path, Some(&body)).await?;
        let Some(Scrolled { points, next_page_offset }) = found else { return Ok(Page::default()) };
        let next = next_page_offset.map(|next| next.get().to_owned()).filter(|next| next != "null");
        Ok(Page { records: self.stored(target, points)?, next })
    }
}
