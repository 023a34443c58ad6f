//! Indices: which generation is which, what fields they have, and what makes an index that is there fit.

use std::collections::BTreeMap;

use primal_core::batch::BatchEvent;
use primal_core::sink::{Build, Builds, Projection, Rebuild, Target};
use primal_core::table::{EXTRA, Kind, Table};
use primal_core::{Fault, Rejected, SinkError};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::client::Body;
use crate::search::Search;

/// The longest id of a document, in bytes (Elasticsearch's guide, "_id field").
const MAX_ID: usize = 512;

/// The id of a position. No key begins so: keys have no NUL.
pub(super) fn position_id(sink: &str, partition: i32) -> String {
    format!("\0position/{sink}/{partition}")
}

/// Why an event has no place in any index.
pub(super) fn unfit(event: &BatchEvent<'_>, projection: Projection) -> Option<Rejected> {
    let id = event.identity(projection);
    (id.len() > MAX_ID).then(|| Rejected {
        offset: event.record().offset,
        reason: format!("its id has {} bytes; a document's id has at most {MAX_ID}", id.len()),
    })
}

/// The indices of a collection, as they are now.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// By generation.
    generations: BTreeMap<u64, Generation>,
    /// Something stands under the plain name that is no alias of a generation.
    pub foreign: bool,
}

#[derive(Debug)]
struct Generation {
    live: bool,
    previous: bool,
    plan: Option<String>,
}

/// The alias that marks the generation before the last swap.
pub(super) fn previous_alias(base: &str) -> String {
    format!("{base}__previous")
}

impl Layout {
    pub(super) fn read(base: &str, found: &Value) -> Self {
        let (mut layout, previous) = (Layout::default(), previous_alias(base));
        for (name, index) in found.as_object().into_iter().flatten() {
            let has = |alias: &str| index.get("aliases").is_some_and(|aliases| aliases.get(alias).is_some());
            let number = name.strip_prefix(base).and_then(|rest| rest.strip_prefix("__g")?.parse().ok());
            let Some(number) = number else {
                layout.foreign = true;
                continue;
            };
            let plan = index.pointer("/mappings/_meta/plan").and_then(Value::as_str).map(str::to_owned);
            let generation = Generation { live: has(base), previous: has(&previous), plan };
            layout.generations.insert(number, generation);
        }
        layout
    }

    pub(super) fn builds(&self) -> Builds {
        let find = |which: fn(&Generation) -> bool| {
            self.generations.iter().find(|(_, generation)| which(generation)).map(|(number, _)| *number)
        };
        let rebuild = self.generations.iter().rev().find(|(_, g)| !g.live && !g.previous && g.plan.is_some());
        Builds {
            live: find(|generation| generation.live).unwrap_or(1),
            previous: find(|generation| generation.previous),
            rebuild: rebuild.map(|(number, generation)| Rebuild {
                generation: *number,
                plan: generation.plan.clone().unwrap_or_default(),
            }),
        }
    }

    /// Whether readers see any generation.
    pub(super) fn has_live(&self) -> bool {
        self.generations.values().any(|generation| generation.live)
    }

    /// Whether a generation is there.
    pub(super) fn has(&self, number: u64) -> bool {
        self.generations.contains_key(&number)
    }
}

/// The alias of readers: what is neither deleted nor a position.
pub(super) fn reading() -> Value {
    json!({ "filter": { "bool": { "must_not": [
        { "exists": { "field": "_position" } },
        { "term": { "_deleted": true } },
    ] } } })
}

/// The field of a column.
fn field(kind: Kind) -> Value {
    match kind {
        Kind::Integer => json!({ "type": "long" }),
        Kind::Number => json!({ "type": "double" }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Timestamp => json!({ "type": "date" }),
        Kind::Text => json!({ "type": "text", "fields": { "keyword": { "type": "keyword", "ignore_above": 1024 } } }),
        Kind::Json => json!({ "type": "object", "enabled": false }),
    }
}

/// The fields of the columns that a schema gives.
fn fields(table: Option<&Table>) -> Map<String, Value> {
    let columns = table.map(Table::columns).unwrap_or_default().iter().filter(|column| column.name != EXTRA);
    columns.map(|column| (column.name.clone(), field(column.kind))).collect()
}

/// The mappings of a target's index. What a table has no column for is kept, but cannot be searched; of documents any
/// field can, once one that has it was written.
fn mappings(target: &Target, plan: Option<&str>) -> Value {
    let dynamic = target.projection != Projection::Table;
    let mut meta = json!({ "projection": target.projection.as_str(), "collection": target.collection.as_str() });
    if let (Some(plan), Some(meta)) = (plan, meta.as_object_mut()) {
        meta.insert("plan".to_owned(), plan.into());
    }
    let keyword = || json!({ "type": "keyword" });
    let double = || json!({ "type": "double" });
    json!({
        "dynamic": false,
        "date_detection": false,
        "_meta": meta,
        "properties": {
            "_key": keyword(), "_event_id": keyword(), "_op": keyword(), "_event_type": keyword(), "_sink": keyword(),
            "_primal_version": { "type": "long" }, "_time": { "type": "date" },
            "_alpha": double(), "_lambda": double(), "_k": double(),
            "_deleted": { "type": "boolean" }, "_unindexed": { "type": "boolean" },
            "_position": { "type": "long" }, "_partition": { "type": "integer" },
            "data": { "type": "object", "dynamic": dynamic, "properties": fields(target.table.as_deref()) },
        },
    })
}

impl Search {
    /// Makes a target's index, or sees that the one that is there fits and gives it the fields that it lacks.
    pub(super) async fn prepare_with(&self, target: &Target, plan: Option<&str>) -> Result<(), SinkError> {
        let layout = self.layout(&target.collection).await?;
        let base = self.base(&target.collection);
        if layout.foreign {
            return Err(incompatible(target, format!("index {base:?} is not of this hub")));
        }
        if layout.has_live()
            && let Some(reason) = target.wrong_generation(layout.builds().live)
        {
            return Err(SinkError::new(Fault::Fenced, reason));
        }
        let index = self.index(target);
        let there = match &target.build {
            Build::Live(generation) | Build::Beside(generation) => layout.has(*generation),
            // Whether it is, making it tells.
            Build::Named(_) => false,
        };
        let unseen = matches!(target.build, Build::Live(_)) && !layout.has_live();
        if !there && self.create(target, &index, plan, unseen.then_some(&*base)).await? {
            return Ok(());
        }
        self.fit(target, &index, plan).await?;
        if there && unseen {
            let action = json!({ "actions": [{ "add": aliased(&index, &base) }] }).to_string();
            self.ask("naming an index of", Method::POST, "/_aliases", Body::Json(&action)).await?;
        }
        Ok(())
    }

    /// Makes an index, with the readers' alias where one is given, in one act; `false` if it is there.
    async fn create(
        &self,
        target: &Target,
        index: &str,
        plan: Option<&str>,
        alias: Option<&str>,
    ) -> Result<bool, SinkError> {
        let mut body = json!({
            "settings": {
                "number_of_shards": self.shards,
                "number_of_replicas": self.replicas,
                // A value that does not fit its field is kept and not indexed, rather than refused.
                "index.mapping.ignore_malformed": true,
            },
            "mappings": mappings(target, plan),
        });
        if let (Some(alias), Some(body)) = (alias, body.as_object_mut()) {
            body.insert("aliases".to_owned(), json!({ alias: reading() }));
        }
        let path = format!("/{index}");
        let answer = self.http.ask("making an index in", Method::PUT, &path, Body::Json(&body.to_string())).await?;
        match answer.status {
            _ if answer.is_good() => Ok(true),
            400 if answer.text().contains("resource_already_exists_exception") => Ok(false),
            400 => Err(incompatible(target, format!("index {index:?} cannot be made: {}", answer.said()))),
            _ => Err(self.failed("making an index in", &answer)),
        }
    }

    async fn fit(&self, target: &Target, index: &str, plan: Option<&str>) -> Result<(), SinkError> {
        let path = format!("/{index}/_mapping");
        let found = self.ask("reading the fields of", Method::GET, &path, Body::None).await?;
        let found = found.pointer(&format!("/{index}/mappings")).cloned().unwrap_or_default();
        let is = |pointer: &str, wanted: &str| found.pointer(pointer).and_then(Value::as_str) == Some(wanted);
        if !is("/_meta/collection", target.collection.as_str()) {
            return Err(incompatible(target, format!("index {index:?} is not of this hub, or of another collection")));
        }
        if !is("/_meta/projection", target.projection.as_str()) {
            let projection = target.projection.as_str();
            return Err(incompatible(target, format!("index {index:?} is not a `{projection}` projection")));
        }
        let there = found.pointer("/properties/data/properties").and_then(Value::as_object);
        let kind = |field: &Value| field.get("type").and_then(Value::as_str).unwrap_or("object").to_owned();
        let mut missing = Map::new();
        for (name, wanted) in fields(target.table.as_deref()) {
            match there.and_then(|there| there.get(&name)) {
                None => drop(missing.insert(name, wanted)),
                Some(found) if kind(found) == kind(&wanted) => {}
                Some(found) => {
                    let (found, wanted) = (kind(found), kind(&wanted));
                    let what = format!("index {index:?} has field {name:?} of type {found}, expected {wanted}");
                    return Err(incompatible(target, what));
                }
            }
        }
        let recorded = found.pointer("/_meta/plan").and_then(Value::as_str);
        if missing.is_empty() && (plan.is_none() || plan == recorded) {
            return Ok(());
        }
        let meta = mappings(target, plan.or(recorded)).get("_meta").cloned();
        let body = json!({ "_meta": meta, "properties": { "data": { "properties": missing } } }).to_string();
        self.ask("adding fields to", Method::PUT, &path, Body::Json(&body)).await.map(drop)
    }
}

/// An index under the readers' alias.
pub(super) fn aliased(index: &str, alias: &str) -> Value {
    let mut action = reading();
    if let Some(action) = action.as_object_mut() {
        action.insert("index".to_owned(), index.into());
        action.insert("alias".to_owned(), alias.into());
    }
    action
}

fn incompatible(target: &Target, what: String) -> SinkError {
    let (sink, collection) = (&target.sink, &target.collection);
    SinkError::new(
        Fault::Incompatible,
        format!(
            "{what}; `replay --sink {sink} --collection {collection} --from earliest --mode shadow --execute` builds it \
             anew beside the old one, or move that index out of the way"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_told_by_their_aliases() {
        let found = json!({
            "flights__g1": { "aliases": { "flights__previous": {} } },
            "flights__g2": { "aliases": { "flights": {}, "mine": {} }, "mappings": { "_meta": { "plan": "old" } } },
            "flights__g3": { "aliases": {}, "mappings": { "_meta": { "plan": "all" } } },
        });
        let layout = Layout::read("flights", &found);
        let rebuild = Some(Rebuild { generation: 3, plan: "all".into() });
        assert_eq!(layout.builds(), Builds { live: 2, previous: Some(1), rebuild });
        assert!(layout.has_live() && layout.has(3) && !layout.has(4) && !layout.foreign);
        assert!(Layout::read("flights", &json!({ "flights": { "aliases": {} } })).foreign);
        assert_eq!(Layout::read("flights", &json!({})).builds(), Builds { live: 1, ..Builds::default() });
    }
}
