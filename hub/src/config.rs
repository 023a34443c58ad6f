//! The config file, typed. Each error names the file, the line and the field, and the nearest known name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use primal_core::name::check_name;
use primal_core::nearest::hint;
use primal_core::{Collection, Mapping, Primal, Projection, Settings, SettingsError, Sink, SinkSpec, Table};
use primal_runtime::Options;
use primal_schemas::Schema;
use serde::Deserialize;

use crate::archiving::{self, ArchiveConfig};
use crate::auditing::AuditConfig;
use crate::mapping::{GraphSettings, SeriesSettings, VectorSettings};
use crate::snapshots::SnapshotConfig;
use crate::yaml;

/// What surrounds a store's own settings.
const COMMON: &[&str] = &["type", "projection", "collections", "delivery"];

/// Everything that a config file says.
pub struct Config {
    /// Which log.
    pub log: LogConfig,
    /// The gateway, if there is to be one.
    pub gateway: Option<GatewayConfig>,
    /// The collections, by name.
    pub collections: BTreeMap<Collection, CollectionConfig>,
    /// The sinks, by name.
    pub sinks: Vec<SinkConfig>,
    /// The Primal Logic parameters of events that name none.
    pub primal: Primal,
    /// The name of this process in consumer groups.
    pub instance: Option<String>,
    /// States that are kept along the log, for questions about the past.
    pub snapshots: SnapshotConfig,
    /// Sealing and verification, if they are configured.
    pub audit: Option<AuditConfig>,
    /// Where old ranges of the log go, if anywhere.
    pub archive: Option<ArchiveConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    log: LogConfig,
    gateway: Option<GatewayConfig>,
    #[serde(default)]
    collections: BTreeMap<String, CollectionSettings>,
    primal: Option<PrimalSettings>,
    instance: Option<String>,
    snapshots: Option<SnapshotConfig>,
    audit: Option<AuditConfig>,
    #[serde(default)]
    #[serde(rename = "archive")]
    _archive: serde::de::IgnoredAny,
    #[serde(default)]
    #[serde(rename = "sinks")]
    _sinks: serde::de::IgnoredAny,
}

/// Which log to use.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogConfig {
    /// Apache Kafka.
    #[cfg(feature = "kafka")]
    Kafka(primal_log_kafka::Config),
    /// A file on this machine.
    Embedded(primal_log_embedded::Config),
}

impl LogConfig {
    /// What stands before the name of every topic.
    pub fn prefix(&self) -> &str {
        match self {
            #[cfg(feature = "kafka")]
            LogConfig::Kafka(config) => &config.topic_prefix,
            LogConfig::Embedded(_) => "",
        }
    }
}

/// The HTTP gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The longest payload, in bytes.
    #[serde(default = "max_event_bytes")]
    pub max_event_bytes: usize,
    /// Open connections, at most.
    #[serde(default = "max_connections")]
    pub max_connections: usize,
}

fn max_event_bytes() -> usize {
    1 << 20
}

fn max_connections() -> usize {
    10_000
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectionSettings {
    #[serde(default = "partitions")]
    partitions: u32,
    schema: Option<PathBuf>,
    series: Option<SeriesSettings>,
    graph: Option<GraphSettings>,
    vector: Option<VectorSettings>,
}

fn partitions() -> u32 {
    4
}

/// A collection.
#[derive(Clone, Debug)]
pub struct CollectionConfig {
    /// Partitions of its topic, when that is made.
    pub partitions: u32,
    /// What payloads have to fit.
    pub schema: Option<Arc<Schema>>,
    /// The columns that the schema gives, if it can be a table.
    pub table: Option<Arc<Table>>,
    series: Option<Arc<Mapping>>,
    graph: Arc<Mapping>,
    vector: Option<Arc<Mapping>>,
}

impl CollectionConfig {
    /// How payloads are read for a projection; `None` where the config would have to say it and does not.
    pub fn mapping(&self, projection: Projection) -> Option<Arc<Mapping>> {
        match projection {
            Projection::Document | Projection::Table | Projection::Events => Some(Arc::default()),
            Projection::Series => self.series.clone(),
            Projection::Graph => Some(self.graph.clone()),
            Projection::Vector => self.vector.clone(),
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct PrimalSettings {
    alpha: f64,
    lambda: f64,
    k: f64,
}

/// A sink.
pub struct SinkConfig {
    /// Its name.
    pub name: String,
    /// Which store.
    pub spec: &'static SinkSpec,
    /// The store, not connected yet.
    pub sink: Arc<dyn Sink>,
    /// How collections appear in it.
    pub projection: Projection,
    /// Which collections; those of the config when none are named.
    pub collections: Vec<Collection>,
    /// How events are delivered.
    pub delivery: Options,
}

#[derive(Deserialize)]
struct Common {
    #[serde(rename = "type")]
    kind: String,
    projection: Option<Projection>,
    collections: Option<Vec<String>>,
    #[serde(default)]
    delivery: Options,
}

impl Config {
    /// Reads a file, with the process's environment.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| SettingsError {
            file: file.clone(),
            message: format!("cannot be read: {e}"),
            ..SettingsError::default()
        })?;
        Config::parse(&file, &text, &|name| std::env::var(name).ok())
    }

    /// Reads a text; `file` is for messages, `variables` is the environment.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(file: &str, text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let settings = yaml::parse(file, text, variables)?;
        let root: Root = settings.read()?;
        let part = |name: &str| settings.member(name).map(|part| part.unwrap_or_else(|| settings.clone()));
        let collections = collections(root.collections, &part("collections")?)?;
        if let Some(PrimalSettings { alpha, lambda, k }) = root.primal
            && ![alpha, lambda, k].iter().all(|n| n.is_finite())
        {
            return Err(part("primal")?.error("expected three finite numbers"));
        }
        if let Some(audit) = &root.audit {
            audit.check(&part("audit")?)?;
        }
        let sinks = part("sinks")?;
        let sinks = if settings.member("sinks")?.is_some() { sinks.members()? } else { Vec::new() };
        let sinks = sinks.into_iter().map(|(name, settings)| sink(&name, &settings, &collections));
        let primal = root.primal.map_or(Primal::STANDARD, |p| Primal { alpha: p.alpha, lambda: p.lambda, k: p.k });
        Ok(Config {
            log: root.log,
            gateway: root.gateway,
            sinks: sinks.collect::<Result<_, _>>()?,
            collections,
            primal,
            instance: root.instance,
            snapshots: SnapshotConfig::check(root.snapshots, &part("snapshots")?)?,
            audit: root.audit,
            archive: settings.member("archive")?.map(|archive| archiving::check(&archive)).transpose()?,
        })
    }

    /// A sink by name.
    ///
    /// # Errors
    /// There is none; with the nearest name.
    pub fn sink(&self, name: &str) -> Result<&SinkConfig, String> {
        let names = self.sinks.iter().map(|sink| sink.name.as_str());
        let unknown = || format!("unknown sink {name:?}{}", hint(name, names.clone()));
        self.sinks.iter().find(|sink| sink.name == name).ok_or_else(unknown)
    }
}

/// All collections of a config; `part` is where they stand.
fn collections(
    wanted: BTreeMap<String, CollectionSettings>,
    part: &Settings,
) -> Result<BTreeMap<Collection, CollectionConfig>, SettingsError> {
    let place = |name: &str| part.member(name).map(|c| c.unwrap_or_else(|| part.clone()));
    let mut named = Vec::new();
    for (name, wanted) in wanted {
        match Collection::new(&name) {
            Ok(collection) => named.push((collection, wanted)),
            Err(message) => return Err(place(&name)?.error(message)),
        }
    }
    let graph = |wanted: &CollectionSettings| wanted.graph.clone().unwrap_or_default();
    let labels: Vec<_> = named.iter().map(|(name, wanted)| (name.clone(), graph(wanted).label(name))).collect();
    let mut collections = BTreeMap::new();
    for (collection, wanted) in named {
        let place = place(collection.as_str())?;
        let below = |name: &str| place.member(name).map(|part| part.unwrap_or_else(|| place.clone()));
        let schema = wanted.schema.as_deref().map(Schema::load).transpose();
        let schema = schema.map_err(|error| place.error(error.to_string()))?.map(Arc::new);
        if !(1..=10_000).contains(&wanted.partitions) {
            return Err(place.error(format!("{} partitions; expected 1 to 10000", wanted.partitions)));
        }
        let table = schema.as_ref().and_then(|schema| schema.table().ok()).map(Arc::new);
        let graph = graph(&wanted).check(&below("graph")?, &collection, &labels)?;
        let series = match wanted.series {
            Some(series) => Some(series.check(&below("series")?, table.as_deref())?),
            None => None,
        };
        let vector = match wanted.vector {
            Some(vector) => Some(vector.check(&below("vector")?)?),
            None => None,
        };
        let config = CollectionConfig { partitions: wanted.partitions, schema, table, series, graph, vector };
        collections.insert(collection, config);
    }
    Ok(collections)
}

fn sink(
    name: &str,
    settings: &Settings,
    collections: &BTreeMap<Collection, CollectionConfig>,
) -> Result<SinkConfig, SettingsError> {
    check_name("sink", name).map_err(|message| settings.error(message))?;
    let common: Common = settings.read()?;
    let spec = primal_registry::find(&common.kind).map_err(|message| settings.error(message))?;
    let options = spec.options.iter().filter_map(|option| option.name.split('.').next());
    let known: Vec<&str> = COMMON.iter().copied().chain(options).collect();
    for (field, value) in settings.members()? {
        if !known.contains(&field.as_str()) {
            return Err(value.error(format!("unknown field `{field}`{}", hint(&field, known.iter().copied()))));
        }
    }
    let offered = spec.capability.projections;
    let projection = common.projection.or(offered.first().copied()).unwrap_or_default();
    if !offered.contains(&projection) {
        let offered: Vec<_> = offered.iter().map(|projection| projection.as_str()).collect();
        let message =
            format!("{} has no projection `{}`; it has {}", spec.name, projection.as_str(), offered.join(", "));
        return Err(settings.error(message));
    }
    let wanted = match common.collections {
        // Those that can be shown so, where the config has to say how.
        None => {
            let fits = |(_, config): &(_, &CollectionConfig)| config.mapping(projection).is_some();
            collections.iter().filter(fits).map(|(name, _)| name.clone()).collect()
        }
        Some(names) => {
            let mut wanted = Vec::new();
            for name in names {
                let found = collections.keys().find(|collection| collection.as_str() == name);
                let known = collections.keys().map(Collection::as_str);
                wanted.push(
                    found
                        .cloned()
                        .ok_or_else(|| settings.error(format!("unknown collection {name:?}{}", hint(&name, known))))?,
                );
            }
            wanted
        }
    };
    for (collection, config) in wanted.iter().filter_map(|name| collections.get_key_value(name)) {
        if projection == Projection::Table {
            let schema = config.schema.as_ref().ok_or_else(|| {
                settings.error(format!(
                    "projection `table` needs a schema for its columns; set collections.{collection}.schema"
                ))
            })?;
            schema.table().map_err(|error| settings.error(error.to_string()))?;
        }
        if config.mapping(projection).is_none() {
            let shape = projection.as_str();
            return Err(settings.error(format!(
                "projection `{shape}` has to know how payloads are read; set collections.{collection}.{shape}"
            )));
        }
    }
    let sink = (spec.build)(&settings.without(COMMON))?;
    Ok(SinkConfig { name: name.to_owned(), spec, sink, projection, collections: wanted, delivery: common.delivery })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        match Config::parse("hub.yaml", text, &|_| None) {
            Ok(_) => panic!("was accepted: {text}"),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn the_documented_example_is_accepted() {
        let text = "\
log: { kafka: { bootstrap: \"127.0.0.1:9092\", topic_prefix: \"\" } }
gateway: { listen: \"127.0.0.1:8080\" }
collections:
  flights: { partitions: 4, schema: ../examples/schemas/flights.json }
sinks:
  pg:    { type: postgres, url: \"${PG_URL:-postgres://127.0.0.1/hub}\", projection: table, collections: [flights] }
  cache: { type: redis, url: \"redis://127.0.0.1:6379\" }                # all collections, projection document
  file:  { type: sqlite, path: data/hub.sqlite }
";
        let config = Config::parse("hub.yaml", text, &|_| None).unwrap();
        let sinks: Vec<_> = config.sinks.iter().map(|s| (s.name.as_str(), s.spec.name, s.projection)).collect();
        let expected = [
            ("pg", "postgres", Projection::Table),
            ("cache", "redis", Projection::Document),
            ("file", "sqlite", Projection::Document),
        ];
        assert_eq!(sinks, expected);
        assert_eq!(config.sinks[1].collections.len(), 1);
    }

    #[tokio::test]
    async fn the_documented_vectors_are_accepted() {
        let text = "\
log: { embedded: { path: a.db } }
collections:
  articles:
    vector: { text: [title, body], size: 1536, distance: cosine }
  faces:
    vector: { field: embedding, size: 512 }
sinks:
  search:
    type: qdrant
    url: \"http://127.0.0.1:6333\"
    api_key: \"${QDRANT_API_KEY}\"
    collections: [articles, faces]
    embedding: { url: \"https://api.openai.com/v1\", model: text-embedding-3-small, key: \"${OPENAI_API_KEY}\" }
";
        let read = |text: &str| Config::parse("hub.yaml", text, &|_| Some("key".to_owned()));
        let config = read(text).unwrap();
        assert_eq!((config.sinks[0].projection, config.sinks[0].collections.len()), (Projection::Vector, 2));
        let error = |text: &str| read(text).err().unwrap().to_string();
        let slip = error(&text.replace("model:", "modell:"));
        assert_eq!(slip, "hub.yaml:13: sinks.search.embedding: unknown field `modell`, did you mean `model`?");
        let bare = error(&text.replace("    vector: { field: embedding, size: 512 }\n", "    partitions: 1\n"));
        assert!(bare.ends_with("set collections.faces.vector"), "{bare}");
    }

    #[tokio::test]
    async fn every_mistake_names_line_field_and_the_way_out() {
        let log = "log: { embedded: { path: a.db } }\n";
        let cases = [
            ("log: { embeded: { path: a } }\n", "hub.yaml:1: log: unknown value `embeded`, did you mean `embedded`?"),
            ("collections: {}\n", "hub.yaml:1: the field `log` is missing"),
            (
                &*format!("{log}colections: {{}}\n"),
                "hub.yaml:2: unknown field `colections`, did you mean `collections`?",
            ),
            (
                &*format!("{log}gateway: {{ listen: nowhere }}\n"),
                "hub.yaml:2: gateway.listen: invalid socket address syntax",
            ),
            (
                &*format!("{log}collections:\n  a.b: {{}}\n"),
                "hub.yaml:3: collections.a.b: collection name \"a.b\" has the character '.'; letters, digits, `_` and `-` are allowed",
            ),
            (
                &*format!("{log}collections:\n  a: {{ schema: missing.json }}\n"),
                "hub.yaml:3: collections.a: schema missing.json: cannot be read: No such file or directory (os error 2)",
            ),
            (
                &*format!("{log}sinks:\n  s: {{ type: sqlight, path: a }}\n"),
                "hub.yaml:3: sinks.s: unknown type `sqlight`, did you mean `sqlite`?",
            ),
            (
                &*format!("{log}sinks:\n  s: {{ type: sqlite,\n       pth: a }}\n"),
                "hub.yaml:4: sinks.s.pth: unknown field `pth`, did you mean `path`?",
            ),
            (
                &*format!("{log}sinks:\n  s: {{ type: sqlite, path: a, projection: tabel }}\n"),
                "hub.yaml:3: sinks.s.projection: unknown value `tabel`, did you mean `table`?",
            ),
            (
                &*format!("{log}sinks:\n  s: {{ type: redis, url: \"redis://h\", projection: table }}\n"),
                "hub.yaml:3: sinks.s: redis has no projection `table`; it has document, events",
            ),
            (
                &*format!(
                    "{log}collections: {{ flights: {{}} }}\nsinks:\n  s: {{ type: sqlite, path: a, collections: [flight] }}\n"
                ),
                "hub.yaml:4: sinks.s: unknown collection \"flight\", did you mean `flights`?",
            ),
            (
                &*format!("{log}sinks:\n  s: {{ type: postgres, url: \"${{NO}}\" }}\n"),
                "hub.yaml:3: the environment variable NO is not set; set it, or write ${NO:-default}",
            ),
            (
                &*format!("{log}audit: {{ key: a, seal_every_s: 0 }}\n"),
                "hub.yaml:2: audit: `seal_every_s` is 0; expected 1 or more",
            ),
            (
                &*format!("{log}audit: {{ verify_every_s: 0 }}\n"),
                "hub.yaml:2: audit: `verify_every_s` is 0; expected 1 or more",
            ),
            (
                &*format!("{log}audit: {{ verify_every_s: 60, seal_every_s: 1 }}\n"),
                "hub.yaml:2: audit: missing field `key`: `seal_every_s` is about sealing, which needs it; `primalcore \
                 audit keygen --out hub.key` makes one. `verify_every_s` alone verifies without sealing",
            ),
            (
                &*format!("{log}audit: {{}}\n"),
                "hub.yaml:2: audit: missing field `key`: sealing needs it; `primalcore audit keygen --out hub.key` \
                 makes one. `verify_every_s` alone verifies without sealing",
            ),
            (
                &*format!("{log}sinks:\n  s: {{ type: sqlite, path: a, delivery: {{ batch_evnts: 3 }} }}\n"),
                "hub.yaml:3: sinks.s.delivery: unknown field `batch_evnts`, did you mean `batch_events`?",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(error(text), expected, "{text}");
        }
        let password = error(&format!("{log}sinks:\n  s: {{ type: redis, url: \"redjs://me:hunter2@h\" }}\n"));
        assert!(
            password.starts_with("hub.yaml:3: sinks.s: `url` is no Redis address") && !password.contains("hunter2"),
            "{password}"
        );
    }

    #[tokio::test]
    async fn a_mapping_that_does_not_fit_is_told_where_it_stands() {
        let log = "log: { embedded: { path: a.db } }\n";
        let cases = [
            (
                &*format!("{log}collections:\n  a: {{ series: {{ tags: [x] }} }}\n"),
                "hub.yaml:3: collections.a.series: a series needs a schema that says what its fields are; set `schema` of the collection",
            ),
            (
                &*format!(
                    "{log}collections:\n  a: {{ schema: ../examples/schemas/weather.json, series: {{ tags: [orign] }} }}\n"
                ),
                "hub.yaml:3: collections.a.series: the schema has no property `orign`, did you mean `origin`?",
            ),
            (
                &*format!("{log}collections:\n  a: {{ graph: {{ edges: [{{ field: x, to: b, type: T }}] }} }}\n"),
                "hub.yaml:3: collections.a.graph: unknown collection \"b\"; known: a",
            ),
            (
                &*format!("{log}collections:\n  a: {{ vector: {{ size: 3 }} }}\n"),
                "hub.yaml:3: collections.a.vector: a vector needs either `field`, a list of numbers, or `text`, members to embed",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(error(text), expected, "{text}");
        }
    }

    const GOOD: &str = "\
log: { kafka: { bootstrap: \"127.0.0.1:9092\", properties: { a: b } } }
gateway: { listen: \"127.0.0.1:8080\", max_connections: 10 }
collections:
  flights: { partitions: 4, schema: ../examples/schemas/flights.json }
primal: { alpha: 1, lambda: .inf, k: 0x1F }
sinks:
  pg:   { type: postgres, url: \"${PG_URL:-postgres://127.0.0.1/hub}\", projection: table, collections: [flights] }
  file: { type: sqlite, path: a.sqlite, delivery: { batch_events: 3 } }
";
    const ODD: &[&str] = &[
        "",
        "{",
        "}",
        "[",
        ": ",
        "- ",
        "&a ",
        "*a",
        "!!str ",
        "---\n",
        "\t",
        "\0",
        "${",
        "${X}",
        "\"",
        "'",
        "~",
        "null",
        "-1",
        "99999999999999999999",
        "1e400",
        "|\n",
        "é",
        "? ",
        "<<: ",
        "%YAML 9",
        "#",
    ];

    /// A config with pieces of it cut out and replaced.
    fn mutated() -> impl Strategy<Value = String> {
        let edit = (0..GOOD.len(), 0usize..12, prop::sample::select(ODD));
        prop::collection::vec(edit, 1..6).prop_map(|edits| {
            let mut text = GOOD.to_owned();
            for (at, length, odd) in edits {
                let start = text.floor_char_boundary(at);
                let end = text.floor_char_boundary(start + length);
                text.replace_range(start..end, odd);
            }
            text
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn any_text_is_a_config_or_a_mistake_with_its_line(
            text in prop_oneof![mutated(), "\\PC{0,80}", "[a-z:{}\\[\\], \n&*!|>'\"-]{0,60}"],
        ) {
            // Building a store looks for a runtime.
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _guard = runtime.enter();
            if let Err(error) = Config::parse("hub.yaml", &text, &|_| None) {
                let line = error.line.unwrap_or_default();
                prop_assert!(line >= 1 && line <= text.lines().count() + 1, "{error} in {text:?}");
                let told = error.to_string();
                prop_assert!(told.starts_with(&format!("hub.yaml:{line}: ")) && !error.message.is_empty(), "{told}");
            }
        }
    }
}
