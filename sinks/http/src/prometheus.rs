//! Prometheus, by remote write: each field of a point is a sample. Of two samples of one moment the first stays, whatever
//! the second says, so a point is never changed: a correction is refused, which makes it a dead letter. The version is a
//! sample too, and tells what is there already. Positions are samples in the request of the data, which is taken whole or
//! not at all.
//!
//! The moment of a position is that of the newest of its data, not the clock's: a server with samples of now takes no older
//! ones, and drops after its retention what is old beside the newest.

mod points;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use primal_core::batch::{Batch, Mode};
use primal_core::settings::Secret;
use primal_core::sink::{
    Builds, Capability, Class, Health, OptionSpec, Outcome, Page, Positions, Projection, Reader, Sink, SinkSpec,
    Stored, SwapKind, Target,
};
use primal_core::{Collection, Fault, Position, Rejected, Settings, SettingsError, SinkError, Timestamp, Version};
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::client::{Answer, Body, Http, percent};
use points::{Found, MOMENTS, Metrics, Pair, Ready};
use wire::{Sample, TimeSeries, WriteRequest, literal, sanitized, seconds};

/// Prometheus.
pub static PROMETHEUS: SinkSpec = SinkSpec {
    name: "prometheus",
    family: "http",
    summary: "Prometheus by remote write; it keeps the first value of a moment",
    capability: Capability {
        class: Class::Append,
        projections: &[Projection::Series],
        swap: SwapKind::None,
        reads: true,
        // Prometheus itself sends 2,000 samples at a time (`max_samples_per_send`), each of its own series; a batch of ours
        // has many samples of few series.
        max_batch: 2_000,
        max_payload: 1 << 20,
    },
    options: &[
        OptionSpec { name: "url", default: None, help: "`http://user:password@host:9090`" },
        OptionSpec { name: "prefix", default: Some("\"\""), help: "put before the name of every metric" },
    ],
    build: |settings| Ok(Arc::new(Prometheus::new(settings)?) as Arc<dyn Sink>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Secret,
    #[serde(default)]
    prefix: String,
}

/// Points that are read in one request.
const PAGE: u64 = 100_000;

struct Prometheus {
    http: Http,
    prefix: String,
    /// The moments of the last positions that were seen here, by build and partition: no newer one is before them.
    moments: Mutex<HashMap<(String, i32), i64>>,
}

/// Where a partition is, and the moment of the sample that says so.
struct Place {
    position: Position,
    moment: i64,
}

impl Prometheus {
    fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let Config { url, prefix } = settings.read()?;
        if sanitized(&prefix) != prefix {
            return Err(
                settings.error(format!("`prefix` {prefix:?}; expected letters, digits and `_`, no digit first"))
            );
        }
        Ok(Prometheus { http: Http::new(settings, &url, None, false)?, prefix, moments: Mutex::default() })
    }

    fn failed(&self, doing: &str, answer: &Answer) -> SinkError {
        let said = format!("status {}: {}", answer.status, answer.said().trim_end());
        SinkError::new(fault(answer.status, answer.text()), format!("{doing} {}", self.http.address)).because(said)
    }

    /// Asks the API, and gives the `data` of its answer.
    async fn ask<T: DeserializeOwned>(&self, doing: &str, path: &str, form: &str) -> Result<T, SinkError> {
        #[derive(Deserialize)]
        struct Data<T> {
            data: T,
        }
        let (method, body) = if form.is_empty() { (Method::GET, Body::None) } else { (Method::POST, Body::Form(form)) };
        let answer = self.http.ask(doing, method, path, body).await?;
        if !answer.is_good() {
            return Err(self.failed(doing, &answer));
        }
        Ok(answer.json::<Data<T>>(doing, &self.http.address)?.data)
    }

    /// What a query answers as of a moment.
    async fn query(&self, doing: &str, query: &str, at: i64) -> Result<Vec<Found>, SinkError> {
        #[derive(Deserialize)]
        struct Data {
            result: Vec<Found>,
        }
        let form = format!("query={}&time={}", percent(query), seconds(at));
        Ok(self.ask::<Data>(doing, "/api/v1/query", &form).await?.result)
    }

    fn moments(&self) -> std::sync::MutexGuard<'_, HashMap<(String, i32), i64>> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn position_metric(&self) -> String {
        format!("{}primal_position", self.prefix)
    }

    /// The places of a target, of one partition where it is named, from samples since a moment.
    async fn places(
        &self,
        target: &Target,
        partition: Option<i32>,
        since: i64,
    ) -> Result<BTreeMap<i32, Place>, SinkError> {
        let one = partition.map_or(String::new(), |partition| format!(",partition=\"{partition}\""));
        let (sink, build) = (literal(&target.sink), literal(&target.position_name()));
        let last = MOMENTS.end;
        // Positions and their moments only grow, so that the highest is the last.
        let query = format!(
            "max_over_time({}{{sink={sink},build={build}{one}}}[{}ms])",
            self.position_metric(),
            last - since + 1
        );
        let mut found: BTreeMap<i32, (Option<u64>, Option<i64>)> = BTreeMap::new();
        for series in self.query("reading positions of", &query, last).await? {
            let label = |name: &str| series.metric.get(name).map_or("", String::as_str);
            let (Ok(partition), Some((_, value))) = (label("partition").parse(), &series.value) else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let place = found.entry(partition).or_default();
            match label("value") {
                "position" => place.0 = Some(value as u64),
                _ => place.1 = Some(value as i64),
            }
        }
        let place = |(partition, (position, moment)): (i32, (Option<u64>, Option<i64>))| {
            Some((partition, Place { position: Position(position?), moment: moment? }))
        };
        Ok(found.into_iter().filter_map(place).collect())
    }

    async fn place(&self, target: &Target, partition: i32) -> Result<Option<Place>, SinkError> {
        let key = (target.position_name(), partition);
        let since = self.moments().get(&key).copied().unwrap_or(MOMENTS.start);
        let place = self.places(target, Some(partition), since).await?.remove(&partition);
        if let Some(place) = &place {
            self.moments().insert(key, place.moment);
        }
        Ok(place)
    }

    /// The samples that say that a partition is at a position.
    fn position(&self, target: &Target, partition: i32, next: Position, moment: i64) -> [TimeSeries; 2] {
        let (partition, build) = (partition.to_string(), target.position_name());
        let series = |value: &str, number: f64| {
            let labels = [("sink", &*target.sink), ("build", &*build), ("partition", &*partition), ("value", value)];
            let mut series = TimeSeries::new(&self.position_metric(), labels);
            series.samples.push(Sample { value: number, timestamp: moment });
            series
        };
        [series("position", next.0 as f64), series("moment", moment as f64)]
    }

    async fn send(&self, timeseries: Vec<TimeSeries>) -> Result<(), SinkError> {
        let request = WriteRequest { timeseries };
        let body =
            request.compressed().map_err(|e| SinkError::new(Fault::Internal, "compressing a request").because(e))?;
        let path = "/api/v1/write";
        let answer = self.http.ask("writing to", Method::POST, path, Body::Snappy(&body)).await?;
        match answer.is_good() {
            true => Ok(()),
            false => Err(self.failed("writing to", &answer)),
        }
    }

    /// The newest moment that the server has anything of: it refuses what is much older.
    async fn newest(&self) -> Result<i64, SinkError> {
        let status: Json = self.ask("asking for the newest sample of", "/api/v1/status/tsdb?limit=1", "").await?;
        Ok(status.pointer("/headStats/maxTime").and_then(Json::as_i64).filter(|at| MOMENTS.contains(at)).unwrap_or(0))
    }

    /// The points of a batch that are to be written. Whatever is there is what counts.
    async fn sort<'b, 'a>(
        &self,
        metrics: &Metrics,
        target: &Target,
        batch: &'b Batch<'a>,
    ) -> Result<Vec<Pair<'b, 'a>>, SinkError> {
        let (mut points, mut rejected) = (Vec::with_capacity(batch.events.len()), Vec::new());
        for event in &batch.events {
            let refused = |reason| Rejected { offset: event.record().offset, reason };
            match target.point(event).map(Ready::of) {
                Ok(Ok(ready)) => points.push((ready, event)),
                Ok(Err(reason)) => rejected.push(refused(reason)),
                Err(SinkError { fault: Fault::Rejected(list), .. }) => rejected.extend(list),
                Err(other) => return Err(other),
            }
        }
        let moments = || points.iter().map(|(ready, _)| ready.at);
        let mut there: HashMap<String, Version> = HashMap::new();
        if let (Some(first), Some(last)) = (moments().min(), moments().max()) {
            let query = format!("{}[{}ms]", metrics.versions(), last - first + 1);
            there.extend(metrics.versions_of(&self.query("comparing with", &query, last).await?));
        }
        let mut fresh = Vec::with_capacity(points.len());
        for (ready, event) in points {
            match there.get(&ready.identity) {
                None => {
                    there.insert(ready.identity.clone(), event.version);
                    fresh.push((ready, event));
                }
                Some(version) if *version == event.version => {
                    if batch.mode == Mode::Repair {
                        fresh.push((ready, event));
                    }
                }
                Some(version) if *version > event.version => {}
                Some(version) => rejected.push(Rejected {
                    offset: event.record().offset,
                    reason: format!("Prometheus has this point already, of version {version}, and changes none"),
                }),
            }
        }
        if let Some(first) = rejected.first().map(|rejected| rejected.reason.clone()) {
            rejected.sort_by_key(|rejected| rejected.offset);
            return Err(SinkError::new(Fault::Rejected(rejected), first));
        }
        Ok(fresh)
    }
}

/// Whether an answer says that samples come too late.
fn is_late(said: &str) -> bool {
    ["out of order sample", "out of bounds", "duplicate sample for timestamp", "too old sample", "too far in the"]
        .iter()
        .any(|part| said.contains(part))
}

/// What an answer means.
fn fault(status: u16, said: &str) -> Fault {
    match status {
        // Which sample it was is not said: less at a time tells.
        _ if is_late(said) => Fault::Rejected(Vec::new()),
        413 => Fault::Rejected(Vec::new()),
        _ if said.contains("remote write receiver") => Fault::Misconfigured,
        _ if said.contains("no space left") => Fault::Full,
        401 | 403 => Fault::Unauthorized,
        429 | 502..=504 => Fault::Unavailable,
        _ => Fault::Internal,
    }
}

#[async_trait]
impl Sink for Prometheus {
    async fn check(&self) -> Result<Health, SinkError> {
        let doing = "connecting to";
        let build: Json = self.ask(doing, "/api/v1/status/buildinfo", "").await?;
        let version = build.get("version").and_then(Json::as_str).unwrap_or("of an unknown version").to_owned();
        let flags: Json = self.ask(doing, "/api/v1/status/flags", "").await?;
        if flags.get("web.enable-remote-write-receiver").and_then(Json::as_str) == Some("false") {
            let message = format!(
                "{} takes no remote write; start it with --web.enable-remote-write-receiver",
                self.http.address
            );
            return Err(SinkError::new(Fault::Misconfigured, message));
        }
        let runtime: Json = self.ask(doing, "/api/v1/status/runtimeinfo", "").await?;
        let config: Json = self.ask(doing, "/api/v1/status/config", "").await?;
        let mut notes = Vec::new();
        if let Some(kept) = runtime.get("storageRetention").and_then(Json::as_str) {
            notes.push(format!("keeps {kept}; older points are gone, and are missing in a verification"));
        }
        let yaml = config.get("yaml").and_then(Json::as_str).unwrap_or_default();
        let window = yaml.lines().find_map(|line| line.trim().strip_prefix("out_of_order_time_window:"));
        match window.map(str::trim).filter(|window| *window != "0s") {
            Some(window) => notes.push(format!("takes samples up to {window} late")),
            None => notes.push(
                "out_of_order_time_window is not set: what comes late, such as one partition behind another, is refused"
                    .to_owned(),
            ),
        }
        Ok(Health { version: format!("Prometheus {version}"), notes })
    }

    async fn builds(&self, _sink: &str, _collection: &Collection) -> Result<Builds, SinkError> {
        Ok(Builds { live: 1, ..Builds::default() })
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        Metrics::of(&self.prefix, target).map(drop)
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        let places = self.places(target, None, MOMENTS.start).await?;
        Ok(places.into_iter().map(|(partition, place)| (partition, place.position)).collect())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let metrics = Metrics::of(&self.prefix, target)?;
        let place = async {
            match batch.advance {
                Some(_) => self.place(target, batch.partition).await,
                None => Ok(None),
            }
        };
        let (points, place) = tokio::join!(self.sort(&metrics, target, batch), place);
        let place = place?;
        if batch.advance.is_some_and(|advance| advance.expected != place.as_ref().map(|place| place.position)) {
            return Err(SinkError::new(Fault::Fenced, target.moved_meanwhile(batch)));
        }
        let points = points?;
        let applied = points.len() as u64;
        let outcome = Outcome { applied, stale: batch.events.len() as u64 - applied };
        let mut samples = metrics.samples(&points);
        let Some(advance) = batch.advance else {
            if !samples.is_empty() {
                self.send(samples).await?;
            }
            return Ok(outcome);
        };
        let newest = points.iter().map(|(ready, _)| ready.at).max();
        let after = place.as_ref().map(|place| place.moment + 1);
        let moment = match newest.max(after) {
            Some(moment) => moment,
            None => self.newest().await?,
        };
        let at = |moment| self.position(target, batch.partition, advance.next, moment);
        samples.extend(at(moment));
        match self.send(samples).await {
            // There were no data whose moment it could have: it has that of others.
            Err(SinkError { fault: Fault::Rejected(_), .. }) if points.is_empty() => {
                self.send(at(self.newest().await?.max(moment)).to_vec()).await?;
            }
            other => other?,
        }
        Ok(outcome)
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    async fn close(&self) {}
}

#[async_trait]
impl Reader for Prometheus {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        let parts: Vec<String> = serde_json::from_str(identity).unwrap_or_default();
        let Some((moment, tags)) = parts.split_first() else { return Ok(None) };
        let Some(at) = Timestamp::parse_rfc3339(moment).map(Timestamp::millis) else { return Ok(None) };
        let metrics = Metrics::of(&self.prefix, target)?;
        let found = self.query("reading from", &format!("{}[1ms]", metrics.all(Some(tags))), at).await?;
        Ok(metrics.stored(&found).into_iter().find(|stored| stored.identity == identity))
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let metrics = Metrics::of(&self.prefix, target)?;
        let (last, range) = (MOMENTS.end, MOMENTS.end - MOMENTS.start);
        let doing = "reading from";
        if cursor.is_none() {
            let query = format!("sum(count_over_time({}[{range}ms]))", metrics.versions());
            let counted = self.query(doing, &query, last).await?;
            let count = counted.first().and_then(|found| found.value.as_ref()?.1.parse::<f64>().ok());
            if count.is_none_or(|count| count <= PAGE as f64) {
                let found = self.query(doing, &format!("{}[{range}ms]", metrics.all(None)), last).await?;
                return Ok(Page { records: metrics.stored(&found), next: None });
            }
        }
        // One series a page, by its tags.
        let after: Option<Vec<String>> = cursor.and_then(|cursor| serde_json::from_str(cursor).ok());
        let form = format!(
            "match[]={}&start={}&end={}",
            percent(&metrics.versions()),
            seconds(MOMENTS.start),
            seconds(MOMENTS.end)
        );
        let all = metrics.tags_of(&self.ask::<Vec<_>>(doing, "/api/v1/series", &form).await?);
        let mut rest = all.iter().filter(|tags| after.as_ref().is_none_or(|after| *tags > after));
        let Some(tags) = rest.next() else { return Ok(Page::default()) };
        let found = self.query(doing, &format!("{}[{range}ms]", metrics.all(Some(tags))), last).await?;
        let next = rest.next().map(|_| serde_json::Value::from(tags.clone()).to_string());
        Ok(Page { records: metrics.stored(&found), next })
    }
}
