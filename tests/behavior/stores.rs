//! How each store of the registry is reached in tests: its real server, and a namespace that nobody else uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use primal_core::mapping::{Distance, Series, Vector, VectorSource};
use primal_core::settings::{Node, Settings, Value};
use primal_core::sink::{Build, Projection, SinkSpec, Target};
use primal_core::table::{Column, Kind, Table};
use primal_core::{Collection, Mapping, Sink};
use primal_tests::shared;

use crate::case::Lacks;

/// One store under test.
pub struct Store {
    pub spec: &'static SinkSpec,
    pub sink: Arc<dyn Sink>,
    /// To open a second handle on the same namespace.
    pub settings: Settings,
    /// How long a worker may take to catch up.
    pub patience: Duration,
    _folder: tempfile::TempDir,
}

impl Store {
    /// An empty namespace of a store.
    pub async fn new(spec: &'static SinkSpec) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("t{}_{number}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let pairs = match spec.name {
            "memory" => vec![("name", namespace)],
            "mongodb" => vec![("url", server("ferretdb").await), ("database", namespace)],
            "neo4j" => vec![("url", server("neo4j").await), ("prefix", namespace)],
            "sqlite" => vec![("path", folder.path().join("hub.sqlite").display().to_string())],
            "influxdb" => vec![("url", server("influxdb").await), ("database", namespace)],
            "prometheus" => vec![("url", server("prometheus").await), ("prefix", format!("{namespace}_"))],
            "qdrant" => vec![
                ("url", server("qdrant").await),
                ("api_key", "primalcore".to_owned()),
                ("prefix", format!("{namespace}-")),
            ],
            "clickhouse" => vec![("url", server("clickhouse_engine").await), ("database", namespace)],
            name @ ("elasticsearch" | "opensearch") => {
                vec![("url", server(name).await), ("prefix", format!("{namespace}-")), ("replicas", "0".to_owned())]
            }
            "postgres" | "timescaledb" => vec![("url", server("postgres").await), ("schema", namespace)],
            "redis" => vec![("url", server("redis").await), ("prefix", format!("{namespace}:"))],
            other => panic!("no test server is named for {other}; name one here"),
        };
        Store { _folder: folder, ..Store::at(spec, settings(&pairs)) }
    }

    /// A store with settings of a test's own.
    pub fn at(spec: &'static SinkSpec, settings: Settings) -> Self {
        let sink = (spec.build)(&settings).unwrap();
        Store { spec, sink, settings, patience: Duration::from_secs(30), _folder: tempfile::tempdir().unwrap() }
    }

    /// Another empty namespace of the same store.
    pub async fn fresh(&self) -> Self {
        Store { patience: self.patience, ..Store::new(self.spec).await }
    }

    /// Another handle on the same namespace, as another process would have.
    pub fn again(&self) -> Arc<dyn Sink> {
        (self.spec.build)(&self.settings).unwrap()
    }

    pub fn target(&self, projection: Projection) -> Target {
        Target {
            sink: "sink".into(),
            collection: Collection::new("my-flights").unwrap(),
            build: Build::Live(1),
            projection,
            table: (projection == Projection::Table).then(|| Arc::new(table())),
            mapping: self.mapping(projection),
        }
    }

    /// How payloads are read for a projection.
    pub fn mapping(&self, projection: Projection) -> Arc<Mapping> {
        match projection {
            Projection::Series => self.series(),
            Projection::Vector => vector(),
            _ => Arc::default(),
        }
    }

    /// How it reads points: a store of numbers only has no texts.
    pub fn series(&self) -> Arc<Mapping> {
        series(!self.is_of_numbers())
    }

    /// Whether it keeps numbers only, to the millisecond, and changes none.
    pub fn is_of_numbers(&self) -> bool {
        self.spec.name == "prometheus"
    }

    /// The target of a case about documents.
    pub fn document(&self) -> Result<Target, Lacks> {
        if self.offers(Projection::Document) {
            return Ok(self.target(Projection::Document));
        }
        Err(Lacks("the projection `document`"))
    }

    pub fn offers(&self, projection: Projection) -> bool {
        self.spec.capability.projections.contains(&projection)
    }

    /// The projections whose records are told by key or event id and take any payload: all but series and vectors, which
    /// have cases of their own.
    pub fn keyed(&self) -> Result<Vec<Projection>, Lacks> {
        let keyed = |p: &Projection| !matches!(p, Projection::Series | Projection::Vector);
        let found: Vec<_> = self.spec.capability.projections.iter().copied().filter(keyed).collect();
        if found.is_empty() { Err(Lacks("records with keys")) } else { Ok(found) }
    }

    /// The projections that keep one record per key.
    pub fn states(&self) -> Result<Vec<Projection>, Lacks> {
        Ok(self.keyed()?.into_iter().filter(|p| !p.keeps_every_event()).collect())
    }
}

/// The columns that table projections have in these tests.
pub fn table() -> Table {
    let column = |name: &str, kind| Column { name: name.into(), kind };
    Table::new(vec![
        column("n", Kind::Integer),
        column("x", Kind::Number),
        column("b", Kind::Boolean),
        column("s", Kind::Text),
        column("at", Kind::Timestamp),
        column("j", Kind::Json),
        column("order", Kind::Text),
        column("Ключ 鍵", Kind::Text),
        column("\"'`;--%$1\\{}", Kind::Integer),
    ])
}

/// How series read payloads in these tests.
pub fn series(with_text: bool) -> Arc<Mapping> {
    let column = |name: &str, kind| Column { name: name.into(), kind };
    let mut fields = vec![column("temp", Kind::Number), column("n", Kind::Integer), column("ok", Kind::Boolean)];
    if with_text {
        fields.push(column("Ключ \"'", Kind::Text));
    }
    Arc::new(Mapping::Series(Series {
        time: Some("at".into()),
        tags: vec!["origin".into(), "gate, \"'=".into()],
        fields: Arc::new(Table::of(fields)),
    }))
}

/// How vectors are read in these tests.
pub fn vector() -> Arc<Mapping> {
    Arc::new(Mapping::Vector(Vector { source: VectorSource::Field("v".into()), size: 3, distance: Distance::Cosine }))
}

pub fn settings(pairs: &[(&str, String)]) -> Settings {
    let value = |value: &String| value.parse().map_or_else(|_| Value::Text(value.clone()), Value::Int);
    let text = |text: &String| Node { line: 1, value: value(text) };
    let members = pairs.iter().map(|(name, value)| ((*name).to_owned(), 1, text(value))).collect();
    Settings::new("test", "sinks.sink", Node { line: 1, value: Value::Map(members) })
}

/// Starting a server blocks; tests share a few threads.
pub async fn server(name: &'static str) -> String {
    tokio::task::spawn_blocking(move || shared(name)).await.unwrap()
}
