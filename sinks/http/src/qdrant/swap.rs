//! Generations: one is begun as a collection beside the live one, and becomes live when the alias moves, in one act of the
//! server. What was written to the old generation meanwhile is in the old collection.

use async_trait::async_trait;
use primal_core::mapping::{Distance, VectorSource};
use primal_core::sink::{Build, Rebuild, Swap, Target};
use primal_core::{Fault, SinkError};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::state::{Generations, previous_alias};
use super::{Qdrant, vector};
use crate::client::{Body, percent};

#[derive(Deserialize)]
struct Info {
    config: Config,
    #[serde(default)]
    payload_schema: serde_json::Map<String, Json>,
}

#[derive(Deserialize)]
struct Config {
    params: Params,
}

#[derive(Deserialize)]
struct Params {
    vectors: Option<Json>,
}

#[derive(Deserialize)]
struct Existence {
    exists: bool,
}

/// What filters ask by: the hub's, and people's.
const INDEXES: &[(&str, &str)] = &[("_version", "integer"), ("_deleted", "bool"), ("_key", "keyword")];

fn path(collection: &str, rest: &str) -> String {
    format!("/collections/{}{rest}", percent(collection))
}

fn distance(distance: Distance) -> &'static str {
    match distance {
        Distance::Cosine => "Cosine",
        Distance::Dot => "Dot",
        Distance::Euclid => "Euclid",
    }
}

impl Qdrant {
    async fn info(&self, collection: &str) -> Result<Option<Info>, SinkError> {
        self.ask("reading a collection of", Method::GET, &path(collection, ""), None).await
    }

    /// Makes a collection; nothing is wrong if somebody made it meanwhile.
    pub(super) async fn make_collection(&self, name: &str, size: usize, distance: &str) -> Result<(), SinkError> {
        if self.info(name).await?.is_some() {
            return Ok(());
        }
        let (doing, body) = ("preparing", json!({ "vectors": { "size": size, "distance": distance } }).to_string());
        let answer = self.http.ask(doing, Method::PUT, &path(name, ""), Body::Json(&body)).await?;
        if answer.status == 409 || answer.said().contains("already exists") {
            return Ok(());
        }
        self.good(doing, answer).map(drop)
    }

    pub(super) async fn make_indexes(&self, name: &str, fields: &[(&str, &str)]) -> Result<(), SinkError> {
        let there = self.info(name).await?.map(|info| info.payload_schema).unwrap_or_default();
        for (field, kind) in fields.iter().filter(|(field, _)| !there.contains_key(*field)) {
            let body = json!({ "field_name": field, "field_schema": kind }).to_string();
            self.update("preparing", Method::PUT, &path(name, "/index?wait=true"), &body).await?;
        }
        Ok(())
    }

    pub(super) async fn prepare_build(&self, target: &Target) -> Result<(), SinkError> {
        let vector = vector(target)?;
        if matches!(vector.source, VectorSource::Text(_)) {
            self.embedder(target)?;
        }
        self.version().await?;
        let generations = self.generations(&target.collection).await?;
        let plain = self.plain(&target.collection);
        if let Some(reason) = target.wrong_generation(generations.live()).filter(|_| generations.shown.is_some()) {
            return Err(SinkError::new(Fault::Fenced, reason));
        }
        self.refuse_foreign(target, &generations, &plain).await?;
        let place = self.place(target);
        match self.info(&place).await? {
            Some(info) => self.fits(target, &place, info.config.params.vectors.as_ref())?,
            None => {
                // Positions of a collection that is gone would be believed.
                self.prepare_state().await?;
                self.forget_positions(target).await?;
                self.make_collection(&place, vector.size, distance(vector.distance)).await?;
            }
        }
        self.prepare_state().await?;
        self.make_indexes(&place, INDEXES).await?;
        if matches!(target.build, Build::Live(_)) && generations.shown.is_none() {
            self.change_aliases("preparing", &[shows(&place, &plain)]).await?;
        }
        Ok(())
    }

    async fn refuse_foreign(&self, target: &Target, generations: &Generations, plain: &str) -> Result<(), SinkError> {
        let found = match (&generations.foreign, generations.shown) {
            (Some(collection), _) => Some(format!("alias {plain:?} of collection {collection:?}")),
            (None, Some(_)) => None,
            (None, None) => {
                let doing = "reading a collection of";
                let found: Option<Existence> = self.ask(doing, Method::GET, &path(plain, "/exists"), None).await?;
                found.filter(|found| found.exists).map(|_| format!("collection {plain:?}"))
            }
        };
        let Some(found) = found else { return Ok(()) };
        let message = format!(
            "{found} at {} was not made by this hub; rename it, or set `prefix` for sink {}",
            self.http.address, target.sink
        );
        Err(SinkError::new(Fault::Incompatible, message))
    }

    /// Whether a collection that is there takes a target's vectors.
    fn fits(&self, target: &Target, place: &str, found: Option<&Json>) -> Result<(), SinkError> {
        let wanted = vector(target)?;
        let (size, kind) = (wanted.size as u64, distance(wanted.distance));
        let found_size = found.and_then(|found| found.get("size")).and_then(Json::as_u64);
        let found_kind = found.and_then(|found| found.get("distance")).and_then(Json::as_str);
        if (found_size, found_kind) == (Some(size), Some(kind)) {
            return Ok(());
        }
        let said = match (found_size, found_kind) {
            (Some(size), Some(kind)) => format!("vectors of {size} dimensions by {kind}"),
            _ => "no plain vectors".to_owned(),
        };
        let message = format!(
            "collection {place:?} of {} has {said}, and `vector` of {} says {size} by {kind}; \
             `replay --sink {} --collection {} --from earliest --mode shadow --execute` builds it beside and swaps it in",
            self.http.address, target.collection, target.sink, target.collection
        );
        Err(SinkError::new(Fault::Incompatible, message))
    }

    async fn change_aliases(&self, doing: &str, actions: &[Json]) -> Result<(), SinkError> {
        let body = json!({ "actions": actions }).to_string();
        let answer = self.http.ask(doing, Method::POST, "/collections/aliases", Body::Json(&body)).await?;
        self.good(doing, answer).map(drop)
    }

    /// Positions first: points without them are nobody's, positions without points would be believed.
    async fn drop_build(&self, target: &Target) -> Result<(), SinkError> {
        self.forget_positions(target).await?;
        let (doing, path) = ("dropping a build from", path(&self.place(target), ""));
        self.ask::<Json>(doing, Method::DELETE, &path, None).await.map(drop)
    }

    /// Whether every position of `to` is at or past that of the live generation. Each of the live ones is written once more,
    /// as it is: who was about to move it is fenced, and asks again which generation is live.
    async fn is_caught_up(&self, live: &Target, to: &Target) -> Result<bool, SinkError> {
        let (held, reached) = tokio::try_join!(self.places(live), self.places(to))?;
        for (partition, place) in &held {
            let position = place.position;
            if reached.get(partition).is_none_or(|reached| reached.position < position)
                || !self.advance(live, *partition, position, Some(place)).await?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn shows(collection: &str, alias: &str) -> Json {
    json!({ "create_alias": { "collection_name": collection, "alias_name": alias } })
}

fn hides(alias: &str) -> Json {
    json!({ "delete_alias": { "alias_name": alias } })
}

#[async_trait]
impl Swap for Qdrant {
    async fn begin(&self, target: &Target, plan: &str) -> Result<(), SinkError> {
        let generation = target.beside()?;
        self.prepare_build(target).await?;
        self.remember_rebuild(target, &Rebuild { generation, plan: plan.to_owned() }).await
    }

    async fn swap(&self, to: &Target, caught_up: bool) -> Result<bool, SinkError> {
        let generation = to.beside()?;
        let found = self.generations(&to.collection).await?;
        if found.live() == generation {
            return Ok(false);
        }
        let from = to.with_build(Build::Live(found.live()));
        if caught_up && found.shown.is_some() && !self.is_caught_up(&from, to).await? {
            return Ok(false);
        }
        let plain = self.plain(&to.collection);
        let previous = previous_alias(&plain);
        // An alias that is there is moved. The server keeps one after the other on its disk: after a crash in between the
        // live generation is live still.
        let mut actions = Vec::new();
        if found.shown.is_some() {
            actions.push(shows(&self.place(&from), &previous));
        }
        actions.push(shows(&self.place(to), &plain));
        self.change_aliases("swapping generations in", &actions).await?;
        self.forget_rebuild(to, generation).await?;
        if let Some(older) = found.previous.filter(|older| *older != generation) {
            self.drop_build(&to.with_build(Build::Beside(older))).await?;
        }
        Ok(true)
    }

    async fn discard(&self, target: &Target) -> Result<(), SinkError> {
        match target.build {
            Build::Live(_) => return Err(SinkError::new(Fault::Internal, format!("{:?} is live", target.build))),
            Build::Beside(generation) => {
                self.forget_rebuild(target, generation).await?;
                if self.generations(&target.collection).await?.previous == Some(generation) {
                    let previous = previous_alias(&self.plain(&target.collection));
                    self.change_aliases("dropping a build from", &[hides(&previous)]).await?;
                }
            }
            Build::Named(_) => {}
        }
        self.drop_build(target).await
    }
}
