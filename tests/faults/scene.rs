//! One test's world: topics, tables and files of its own over the servers of this process, and one test at a time.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use primal_core::Env;
use primal_hub::Config;
use primal_tests::checks::{self, Books, Tally};
use primal_tests::load::{self, Ledger, Way};
use primal_tests::{Hub, Servers};
use tokio::sync::{Mutex, MutexGuard};

/// How long anything may take to be well again.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Scene<T = ()> {
    /// Unique; valid as a schema of PostgreSQL.
    pub id: String,
    config: String,
    /// What was made in the folder first, and goes before it.
    pub held: T,
    _folder: tempfile::TempDir,
    /// The same config in this process.
    pub inside: primal_hub::Hub,
    pub ledger: Arc<Ledger>,
    pub direct: Way,
    _turn: MutexGuard<'static, ()>,
}

/// The servers of this process.
pub fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(Servers::start)
}

/// A line of a config: the sink of that name, with `{id}`, `{pg}`, `{redis}` and `{folder}` filled in.
pub const PG: &str =
    "  pg: { type: postgres, url: \"{pg}\", schema: {id}, projection: table, collections: [orders] }\n";
pub const PG_EVENTS: &str = "  pg-events: { type: postgres, url: \"{pg}\", schema: {id}e, projection: events }\n";
pub const CACHE: &str = "  cache: { type: redis, url: \"{redis}\", prefix: \"{id}:\", collections: [orders] }\n";
pub const FILE: &str = "  file: { type: sqlite, path: \"{folder}/file.sqlite\", collections: [orders] }\n";
pub const FILE_EVENTS: &str = "  file-events: { type: sqlite, path: \"{folder}/events.sqlite\", projection: events }\n";
/// The other lines.
pub const KAFKA: &str =
    "log: { kafka: { bootstrap: \"{kafka}\", topic_prefix: \"{id}.\", session_timeout_ms: 6000 } }\n";
pub const EMBEDDED: &str = "log: { embedded: { path: \"{folder}/log.db\" } }\n";

impl Scene {
    /// With a log and sinks, from the lines above; when it is this test's turn.
    pub async fn set(log: &str, partitions: u32, sinks: &[&str]) -> Self {
        Scene::set_with(log, partitions, sinks, |_| ()).await
    }
}

impl<T> Scene<T> {
    /// The same, with something made in its folder before anything is opened.
    pub async fn set_with(log: &str, partitions: u32, sinks: &[&str], make: impl FnOnce(&Path) -> T) -> Self {
        static TURN: Mutex<()> = Mutex::const_new(());
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let turn = TURN.lock().await;
        let servers = tokio::task::spawn_blocking(servers).await.unwrap();
        let id = format!("f{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().unwrap();
        let held = make(folder.path());
        let lines = format!("{log}{}sinks:\n{}", load::collections(folder.path(), partitions), sinks.concat());
        let config = lines
            .replace("{id}", &id)
            .replace("{kafka}", &servers.kafka.url())
            .replace("{pg}", &servers.postgres.url())
            .replace("{redis}", &servers.redis.url())
            .replace("{folder}", &folder.path().display().to_string());
        let inside = primal_hub::Hub::open(parsed(&config), Env::system()).await.unwrap();
        let direct = Way::Direct(Arc::new(inside.producer()));
        Scene { id, config, held, _folder: folder, inside, ledger: Arc::default(), direct, _turn: turn }
    }

    /// The config opened once more, as a process that starts now would find everything.
    pub async fn again(&self) -> primal_hub::Hub {
        primal_hub::Hub::open(self.parsed(), Env::system()).await.unwrap()
    }

    /// Its config.
    pub fn parsed(&self) -> Config {
        parsed(&self.config)
    }

    /// A hub as a process, with that name in its groups.
    pub fn hub(&self, instance: &str) -> Hub {
        self.hub_by(instance, str::to_owned)
    }

    /// The same with a config of its own, made from this one's.
    pub fn hub_by(&self, instance: &str, change: impl FnOnce(&str) -> String) -> Hub {
        Hub::new(&format!("{}instance: {instance}\n", change(&self.config)))
    }

    /// A hub with a gateway, and the way through it.
    pub fn gateway(&self) -> (Hub, Way) {
        let port = primal_tests::free_port();
        let hub = Hub::new(&format!("{}gateway: {{ listen: \"127.0.0.1:{port}\" }}\n", self.config));
        (hub, Way::Gateway(primal_tests::http(), port))
    }

    /// Everything is acknowledged, applied, and as the log says, and each event is in the log once.
    pub async fn is_well(&self, hubs: &[&Hub]) {
        let logs = || hubs.iter().map(|hub| hub.log()).collect::<Vec<_>>().join("\n--- the next hub\n");
        checks::caught_up(&self.inside, PATIENCE).await.with_context(logs).unwrap();
        let events = self.ledger.events();
        assert_eq!(events, self.ledger.acknowledged());
        assert_eq!(Books::default().tally(&self.inside, events).await.unwrap(), Tally::default());
        assert_eq!(checks::differences(&self.inside).await.unwrap(), Vec::<String>::new());
    }
}

fn parsed(config: &str) -> Config {
    Config::parse("primalcore.yaml", config, &|_| None).unwrap()
}
