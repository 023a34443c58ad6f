//! Neo4j: each key is a node with a label, members that are keys of other collections are its relations. A batch is one
//! request that is one transaction: position first, which locks, then nodes, then relations.

use std::sync::Arc;

use async_trait::async_trait;
use primal_core::batch::Batch;
use primal_core::settings::Secret;
use primal_core::sink::{
    BUFFER, Build, Builds, Capability, Class, Health, OptionSpec, Outcome, Page, Positions, Projection, Reader,
    Rebuild, Sink, SinkSpec, Stored, Swap, SwapKind, Target,
};
use primal_core::{Collection, Fault, Position, Settings, SettingsError, SinkError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Client, Row, Statement};
use crate::cypher::{Names, constraint, generations, positions, quote, state, write};
use crate::node::{COLUMNS, nodes, stored};

/// Neo4j.
pub static NEO4J: SinkSpec = SinkSpec {
    name: "neo4j",
    family: "cypher",
    summary: "Neo4j 5.26 and later, over its HTTP API; a swap takes about 10 KB of its heap a node",
    capability: Capability {
        class: Class::Transactional,
        projections: &[Projection::Graph],
        swap: SwapKind::Atomic,
        reads: true,
        // A transaction is held in memory until it commits; a thousand nodes with their relations took half a second.
        max_batch: 1_000,
        // A text property has no limit of its own, but a batch is one request and one transaction in the server's heap.
        max_payload: 4 << 20,
        buffer_bytes: BUFFER,
    },
    options: &[
        OptionSpec {
            name: "url",
            default: None,
            help: "`http://user:password@host:7474`, or `https://`; of the HTTP connector, not of Bolt",
        },
        OptionSpec { name: "database", default: Some("neo4j"), help: "the database; the Community edition has one" },
        OptionSpec { name: "prefix", default: Some("\"\""), help: "put before every label" },
    ],
    build: |settings| Ok(Arc::new(Neo4j::new(settings)?) as Arc<dyn Sink>),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Secret,
    #[serde(default = "default_database")]
    database: String,
    #[serde(default)]
    prefix: String,
}

fn default_database() -> String {
    "neo4j".to_owned()
}

/// Records of a page of a scan.
const PAGE: usize = 1_000;

pub(crate) struct Neo4j {
    pub(crate) client: Client,
    pub(crate) prefix: String,
}

impl Neo4j {
    fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let config: Config = settings.read()?;
        if !config.prefix.chars().all(|c| c.is_alphanumeric() || c == '_') {
            let message = format!("`prefix` is {:?}; expected letters, digits and underscores", config.prefix);
            return Err(settings.error(message));
        }
        Ok(Neo4j { client: Client::new(settings, &config.url, &config.database)?, prefix: config.prefix })
    }

    pub(crate) fn names(&self, target: &Target) -> Names {
        Names::of(target, &self.prefix)
    }
}

#[async_trait]
impl Sink for Neo4j {
    async fn check(&self) -> Result<Health, SinkError> {
        let asked = "CALL dbms.components() YIELD name, versions, edition WHERE name = 'Neo4j Kernel' \
                     RETURN versions[0], edition";
        let rows = self.client.one("asking", Statement::new(asked, json!({}))).await?;
        let text = |i: usize| rows.first().and_then(|row| row.get(i)?.as_str()).unwrap_or_default().to_owned();
        let (version, edition) = (text(0), text(1));
        let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
        let mut notes = Vec::new();
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (5, 26) {
            notes.push("older than 5.26: a swap needs types of relations that a statement computes".to_owned());
        }
        Ok(Health { version: format!("Neo4j {version} {edition}"), notes })
    }

    async fn builds(&self, sink: &str, collection: &Collection) -> Result<Builds, SinkError> {
        let text =
            format!("MATCH (g:{} {{id: $id}}) RETURN g.live, g.previous, g.rebuild, g.plan", state(&self.prefix));
        let id = generations(sink, collection);
        let rows = self.client.one("reading generations of", Statement::new(text, json!({ "id": id }))).await?;
        let number = |i: usize| rows.first().and_then(|row| row.get(i)?.as_u64());
        let plan = rows.first().and_then(|row| row.get(3)?.as_str()).unwrap_or_default().to_owned();
        let rebuild = number(2).map(|generation| Rebuild { generation, plan });
        Ok(Builds { live: number(0).unwrap_or(1), previous: number(1), rebuild })
    }

    async fn prepare(&self, target: &Target) -> Result<(), SinkError> {
        let (names, doing) = (self.names(target), "preparing");
        let label = names.label(&target.build);
        self.refuse_strange(target, &label).await?;
        // What changes the schema cannot share a transaction with what changes data.
        let mut labels = names.ends(target);
        labels.push(label);
        labels.sort_unstable();
        labels.dedup();
        let mut schema: Vec<_> = labels.iter().map(|label| constraint(label, "_key")).collect();
        schema.push(constraint(&format!("{}PrimalState", self.prefix), "id"));
        self.client.run(doing, schema).await?;
        if matches!(target.build, Build::Named(_)) {
            return Ok(());
        }
        let state = names.state();
        let made = format!(
            "MERGE (g:{state} {{id: $id}}) ON CREATE SET g.live = 1 \
             MERGE (l:{state} {{id: $label}}) ON CREATE SET l.collection = $collection RETURN l.collection"
        );
        let (plain, collection) = (&names.graph.label, target.collection.as_str());
        let parameters = json!({
            "id": generations(&target.sink, &target.collection),
            "label": format!("label/{plain}"),
            "collection": collection,
        });
        let rows = self.client.one(doing, Statement::new(made, parameters)).await?;
        match rows.first().and_then(|row| row.first()?.as_str()) {
            Some(other) if other != collection => {
                let message = format!(
                    "label {plain:?} at {} is that of collection {other}; give collection {collection} another `label`",
                    self.client.address()
                );
                Err(SinkError::new(Fault::Incompatible, message))
            }
            _ => Ok(()),
        }
    }

    async fn positions(&self, target: &Target) -> Result<Positions, SinkError> {
        let text = format!(
            "MATCH (p:{}) WHERE p.id STARTS WITH $prefix AND p.at IS NOT NULL RETURN p.id, p.at",
            state(&self.prefix)
        );
        let prefix = positions(target);
        let rows = self.client.one("reading positions of", Statement::new(text, json!({ "prefix": prefix }))).await?;
        let one = |row: &Row| {
            let partition = row.first()?.as_str()?.strip_prefix(&prefix)?.parse().ok()?;
            Some((partition, Position::from_i64(row.get(1)?.as_i64()?)))
        };
        Ok(rows.iter().filter_map(one).collect())
    }

    async fn write(&self, target: &Target, batch: &Batch<'_>) -> Result<Outcome, SinkError> {
        let names = self.names(target);
        let nodes = nodes(target, &names.graph, batch)?;
        let statements = write(target, &names, batch, &nodes);
        // The fence's answer is that of the statement before the nodes.
        let fence = statements.iter().position(|s| s.statement.contains("RETURN open")).unwrap_or(0);
        let answers = self.client.run("writing to", statements).await?;
        let value = |statement: usize, i: usize| answers.get(statement).and_then(|rows| rows.first()?.get(i).cloned());
        if value(fence, 0) != Some(Value::Bool(true)) {
            let said = |i: usize| value(fence, i).filter(|v| !v.is_null()).map_or("none".to_owned(), |v| v.to_string());
            let expected = batch.advance.and_then(|advance| advance.expected);
            let message = format!(
                "{:?} of {} was to be written at {}; generation {} is live, the position of {}/{} is {}",
                target.build,
                target.collection,
                expected.map_or("none".to_owned(), |at| at.to_string()),
                said(2),
                target.position_name(),
                batch.partition,
                said(1)
            );
            return Err(SinkError::new(Fault::Fenced, message));
        }
        let applied = value(fence + 1, 0).and_then(|count| count.as_u64()).unwrap_or(0);
        Ok(Outcome { applied, stale: (batch.events.len() as u64).saturating_sub(applied) })
    }

    fn reader(&self) -> Option<&dyn Reader> {
        Some(self)
    }

    fn swap(&self) -> Option<&dyn Swap> {
        Some(self)
    }

    async fn close(&self) {}
}

impl Neo4j {
    /// Refuses a label whose nodes are somebody else's.
    async fn refuse_strange(&self, target: &Target, label: &str) -> Result<(), SinkError> {
        let text = format!("MATCH (n:{}) WITH n LIMIT 1 RETURN n._key IS NULL", quote(label));
        let rows = self.client.one("preparing", Statement::new(text, json!({}))).await?;
        if rows.first().and_then(|row| row.first()) != Some(&Value::Bool(true)) {
            return Ok(());
        }
        let message = format!(
            "nodes with the label {label:?} at {} were not written by this hub; set `label` of collection {}, or \
             `prefix` of sink {}",
            self.client.address(),
            target.collection,
            target.sink
        );
        Err(SinkError::new(Fault::Incompatible, message))
    }

    async fn read(&self, target: &Target, filter: &str, identity: &str) -> Result<Vec<Stored>, SinkError> {
        let label = quote(&self.names(target).label(&target.build));
        // A node that is only led to has no version yet.
        let text = format!(
            "MATCH (n:{label}) WHERE n._key {filter} $key AND n._version IS NOT NULL \
             RETURN {COLUMNS} ORDER BY n._key LIMIT {PAGE}"
        );
        let rows = self.client.one("reading", Statement::new(text, json!({ "key": identity }))).await?;
        let strange = |row: &Row| {
            let message = format!(
                "node {:?} with the label {label} at {} was not written by this hub",
                row.first().map(ToString::to_string).unwrap_or_default(),
                self.client.address()
            );
            SinkError::new(Fault::Incompatible, message)
        };
        rows.iter().map(|row| stored(target, row).ok_or_else(|| strange(row))).collect()
    }
}

#[async_trait]
impl Reader for Neo4j {
    async fn get(&self, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        Ok(self.read(target, "=", identity).await?.pop())
    }

    async fn scan(&self, target: &Target, cursor: Option<&str>) -> Result<Page, SinkError> {
        let records = self.read(target, ">", cursor.unwrap_or("")).await?;
        let next = records.last().filter(|_| records.len() == PAGE).map(|last| last.identity.clone());
        Ok(Page { records, next })
    }
}
