//! What the hub itself keeps: positions and begun rebuilds, as points of a collection of its own, and generations, which
//! are aliases. A filter decides whether a point of it is written over, so each is moved by compare-and-set.

use std::collections::BTreeMap;

use primal_core::sink::{Builds, Rebuild, Target};
use primal_core::{Collection, Partition, Position, SinkError};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Found, Qdrant, Scrolled, point, points_path};

/// The collection's name, after the prefix.
const STATE: &str = "_primal_state";

/// Its vectors, which a collection has to have.
const NOTHING: [f32; 1] = [1.0];

/// Positions in an answer.
const PAGE: usize = 1_000;

/// A position as it stands in the store, and the mark of the write that it is of.
pub(super) struct Place {
    pub position: Position,
    mark: String,
}

#[derive(Deserialize)]
struct PlacePayload {
    #[serde(rename = "_partition")]
    partition: Partition,
    #[serde(rename = "_position")]
    position: u64,
    #[serde(rename = "_mark")]
    mark: String,
}

#[derive(Deserialize)]
struct RebuildPayload {
    #[serde(rename = "_rebuild")]
    generation: u64,
    #[serde(rename = "_plan")]
    plan: String,
}

/// Which generations aliases name.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Generations {
    pub shown: Option<u64>,
    pub previous: Option<u64>,
    /// A collection that the plain name leads to and that is not of this hub.
    pub foreign: Option<String>,
}

#[derive(Deserialize)]
struct Aliases {
    aliases: Vec<Alias>,
}

#[derive(Deserialize)]
struct Alias {
    alias_name: String,
    collection_name: String,
}

impl Generations {
    fn read(plain: &str, aliases: &[Alias]) -> Self {
        let mut found = Generations::default();
        let beginning = format!("{plain}__g");
        for alias in aliases {
            let generation = alias.collection_name.strip_prefix(&beginning).and_then(|number| number.parse().ok());
            if alias.alias_name == plain {
                found.shown = generation;
                found.foreign = generation.is_none().then(|| alias.collection_name.clone());
            } else if alias.alias_name == previous_alias(plain) {
                found.previous = generation;
            }
        }
        found
    }

    /// The one that readers see, or will.
    pub(super) fn live(&self) -> u64 {
        self.shown.unwrap_or(1)
    }

    pub(super) fn builds(&self, rebuild: Option<Rebuild>) -> Builds {
        let live = self.live();
        let previous = self.previous.filter(|previous| *previous != live);
        let is_open = |rebuild: &Rebuild| rebuild.generation != live && Some(rebuild.generation) != previous;
        Builds { live, previous, rebuild: rebuild.filter(is_open) }
    }
}

/// The alias of the generation before the last swap. No collection has `__` in its name.
pub(super) fn previous_alias(plain: &str) -> String {
    format!("{plain}__previous")
}

fn rebuild_id(collection: &Collection) -> String {
    point::id(&format!("rebuild/{collection}"))
}

fn position_id(target: &Target, partition: Partition) -> String {
    point::id(&format!("position/{}/{}/{partition}", target.sink, target.position_name()))
}

fn matches(key: &str, value: &str) -> Json {
    json!({ "key": key, "match": { "value": value } })
}

impl Qdrant {
    fn state(&self) -> String {
        format!("{}{STATE}", self.prefix)
    }

    /// The collection's name for readers.
    pub(super) fn plain(&self, collection: &Collection) -> String {
        format!("{}{collection}", self.prefix)
    }

    pub(super) async fn prepare_state(&self) -> Result<(), SinkError> {
        let state = self.state();
        self.make_collection(&state, NOTHING.len(), "Dot").await?;
        let fields = ["_sink", "_place", "_mark"].map(|field| (field, "keyword"));
        self.make_indexes(&state, &fields).await
    }

    pub(super) async fn generations(&self, collection: &Collection) -> Result<Generations, SinkError> {
        let found: Option<Aliases> = self.ask("reading generations of", Method::GET, "/aliases", None).await?;
        let aliases = found.map(|found| found.aliases).unwrap_or_default();
        Ok(Generations::read(&self.plain(collection), &aliases))
    }

    /// The rebuild that was begun last.
    pub(super) async fn rebuild(&self, collection: &Collection) -> Result<Option<Rebuild>, SinkError> {
        let (doing, ids) = ("reading generations of", [rebuild_id(collection)]);
        let found = self.retrieve::<RebuildPayload>(doing, &self.state(), &ids, &Json::Bool(true)).await?;
        let found = found.unwrap_or_default().into_iter().next();
        Ok(found.map(|Found { payload }| Rebuild { generation: payload.generation, plan: payload.plan }))
    }

    pub(super) async fn remember_rebuild(&self, target: &Target, rebuild: &Rebuild) -> Result<(), SinkError> {
        let payload = json!({
            "_collection": target.collection.as_str(), "_rebuild": rebuild.generation, "_plan": rebuild.plan,
        });
        let point = json!({ "id": rebuild_id(&target.collection), "vector": NOTHING, "payload": payload });
        let body = json!({ "points": [point] }).to_string();
        let path = points_path(&self.state(), "?wait=true&ordering=strong");
        self.update("recording a rebuild in", Method::PUT, &path, &body).await
    }

    /// Forgets a rebuild of a generation, if that is the one that is remembered.
    pub(super) async fn forget_rebuild(&self, target: &Target, generation: u64) -> Result<(), SinkError> {
        let remembered = self.rebuild(&target.collection).await?;
        if remembered.is_none_or(|rebuild| rebuild.generation != generation) {
            return Ok(());
        }
        let body = json!({ "points": [rebuild_id(&target.collection)] }).to_string();
        let path = points_path(&self.state(), "/delete?wait=true&ordering=strong");
        self.update("forgetting a rebuild in", Method::POST, &path, &body).await
    }

    /// The position of a partition.
    pub(super) async fn position(&self, target: &Target, partition: Partition) -> Result<Option<Place>, SinkError> {
        let (doing, ids) = ("reading positions of", [position_id(target, partition)]);
        let found = self.retrieve::<PlacePayload>(doing, &self.state(), &ids, &Json::Bool(true)).await?;
        let place =
            |Found { payload }: Found<PlacePayload>| Place { position: Position(payload.position), mark: payload.mark };
        Ok(found.unwrap_or_default().into_iter().next().map(place))
    }

    /// The positions of all partitions.
    pub(super) async fn places(&self, target: &Target) -> Result<BTreeMap<Partition, Place>, SinkError> {
        let filter = [matches("_place", &target.position_name()), matches("_sink", &target.sink)];
        let (path, mut offset) = (points_path(&self.state(), "/scroll"), Json::Null);
        let mut places = BTreeMap::new();
        loop {
            let body = json!({
                "filter": { "must": filter }, "offset": offset, "limit": PAGE, "with_payload": true,
                "with_vector": false,
            });
            let doing = "reading positions of";
            let found: Option<Scrolled<PlacePayload>> =
                self.ask(doing, Method::POST, &path, Some(&body.to_string())).await?;
            let Some(Scrolled { points, next_page_offset }) = found else { return Ok(places) };
            places.extend(points.into_iter().map(|Found { payload }| {
                (payload.partition, Place { position: Position(payload.position), mark: payload.mark })
            }));
            let next = next_page_offset.and_then(|next| serde_json::from_str(next.get()).ok());
            match next {
                None | Some(Json::Null) => return Ok(places),
                Some(next) => offset = next,
            }
        }
    }

    /// Moves a position from `place`; `false` if another was faster.
    pub(super) async fn advance(
        &self,
        target: &Target,
        partition: Partition,
        next: Position,
        place: Option<&Place>,
    ) -> Result<bool, SinkError> {
        let mark = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let payload = json!({
            "_sink": &*target.sink, "_place": target.position_name(), "_partition": partition, "_position": next.0,
            "_mark": mark,
        });
        let point = json!({ "id": position_id(target, partition), "vector": NOTHING, "payload": payload });
        // No mark is empty: where there has to be no position, one that is there stays as it is.
        let follows = matches("_mark", place.map_or("", |place| &place.mark));
        let body = json!({ "points": [point], "update_filter": { "must": [follows] } }).to_string();
        let path = points_path(&self.state(), "?wait=true&ordering=strong");
        self.update("moving a position in", Method::PUT, &path, &body).await?;
        let found = self.position(target, partition).await?;
        Ok(found.is_some_and(|found| found.mark == mark))
    }

    /// Forgets the positions of all sinks in a build.
    pub(super) async fn forget_positions(&self, target: &Target) -> Result<(), SinkError> {
        let filter = json!({ "must": [matches("_place", &target.position_name())] });
        let body = json!({ "filter": filter }).to_string();
        let path = points_path(&self.state(), "/delete?wait=true&ordering=strong");
        self.try_update("dropping a build from", Method::POST, &path, &body).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_say_which_generations_there_are() {
        let alias = |alias: &str, collection: &str| Alias {
            alias_name: alias.to_owned(),
            collection_name: collection.to_owned(),
        };
        let found = Generations::read(
            "p-flights",
            &[
                alias("p-flights", "p-flights__g12"),
                alias("p-flights__previous", "p-flights__g3"),
                alias("flights", "flights__g1"),
            ],
        );
        assert_eq!(found, Generations { shown: Some(12), previous: Some(3), foreign: None });
        let rebuild = |generation| Some(Rebuild { generation, plan: String::new() });
        assert_eq!(found.builds(rebuild(12)).rebuild, None);
        assert_eq!(found.builds(rebuild(13)).rebuild, rebuild(13));
        assert_eq!(Generations::read("flights", &[alias("flights", "mine")]).foreign, Some("mine".to_owned()));
        assert_eq!(Generations::read("flights", &[]).live(), 1);
    }
}
