//! Reading documents back. What was sent as the source of a document comes back byte for byte, so digests are exact.

use async_trait::async_trait;
use primal_core::sink::{Content, Page, Projection, Reader, Stored, Target};
use primal_core::{Fault, Primal, SinkError, Timestamp, Version};
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::client::Body;
use crate::search::Search;

/// Records in a page of a scan.
const PAGE: usize = 2_000;

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    docs: Vec<Hit>,
    #[serde(default)]
    hits: Hits,
}

#[derive(Default, Deserialize)]
struct Hits {
    #[serde(default)]
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    _source: Option<Source>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Source {
    _key: String,
    _primal_version: u64,
    _event_id: String,
    _time: String,
    _alpha: f64,
    _lambda: f64,
    _k: f64,
    data: Option<Box<RawValue>>,
    _text: Option<String>,
}

impl Source {
    fn stored(self, target: &Target) -> Result<Stored, String> {
        let data = self.data.map(|data| data.get().to_owned()).or(self._text);
        let content = match (data, target.columns()) {
            (None, _) => Content::Deleted,
            (Some(data), None) => Content::Document(data),
            (Some(data), Some(table)) => Content::Row(table.cells(&data)?),
        };
        let identity = if target.projection == Projection::Events { &self._event_id } else { &self._key };
        Ok(Stored {
            identity: identity.clone(),
            version: Version(self._primal_version),
            time: Timestamp::parse_rfc3339(&self._time).ok_or_else(|| format!("_time is no moment: {}", self._time))?,
            primal: Primal { alpha: self._alpha, lambda: self._lambda, k: self._k },
            event_id: self._event_id,
            content,
        })
    }
}

impl Search {
    async fn found(&self, path: &str, body: &Value) -> Result<Vec<Hit>, SinkError> {
        let answer = self.http.ask("reading from", Method::POST, path, Body::Json(&body.to_string())).await?;
        if !answer.is_good() {
            return Err(self.failed("reading from", &answer));
        }
        let Found { docs, hits } = answer.json("reading from", &self.http.address)?;
        Ok(if docs.is_empty() { hits.hits } else { docs })
    }

    fn stored(&self, hit: Hit, target: &Target) -> Result<Option<Stored>, SinkError> {
        let strange = |why: String| {
            let message = format!("reading {:?} of {}", self.index(target), self.http.address);
            SinkError::new(Fault::Incompatible, message).because(why)
        };
        match hit {
            Hit { error: Some(error), .. } => {
                Err(SinkError::new(Fault::Internal, format!("reading from {}", self.http.address))
                    .because(error.to_string()))
            }
            Hit { _source: None, .. } => Ok(None),
            Hit { _source: Some(source), .. } => source.stored(target).map(Some).map_err(strange),
        }
    }
}

#[async_trait]
impl Reader for Search {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        let path = format!("/{}/_mget", self.index(target));
        let found = self.found(&path, &json!({ "docs": [{ "_id": identity }] })).await?;
        found.into_iter().next().map_or(Ok(None), |hit| self.stored(hit, target))
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let index = self.index(target);
        if cursor.is_none() {
            // What was written is found by a search once the index was refreshed.
            let path = format!("/{index}/_refresh");
            let refreshed = self.http.ask("refreshing", Method::POST, &path, Body::None).await?;
            match refreshed.status {
                404 => return Ok(Page::default()),
                _ if !refreshed.is_good() => return Err(self.failed("refreshing", &refreshed)),
                _ => {}
            }
        }
        let by = if target.projection == Projection::Events { "_event_id" } else { "_key" };
        let mut query = json!({
            "size": PAGE,
            "sort": [{ by: "asc" }],
            "track_total_hits": false,
            "query": { "bool": { "must_not": { "exists": { "field": "_position" } } } },
        });
        if let (Some(cursor), Some(query)) = (cursor, query.as_object_mut()) {
            query.insert("search_after".to_owned(), json!([cursor]));
        }
        // No filter_path: it would have the sources read and written anew.
        let path = format!("/{index}/_search");
        let hits = self.found(&path, &query).await?;
        let full = hits.len() == PAGE;
        let mut records = Vec::with_capacity(hits.len());
        for hit in hits {
            records.extend(self.stored(hit, target)?);
        }
        let next = records.last().filter(|_| full).map(|last| last.identity.clone());
        Ok(Page { records, next })
    }
}
