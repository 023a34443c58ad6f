//! One world: a hub over its own topics, tables and files, with load and books. Several rounds happen in it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use primal_core::Env;
use primal_hub::Config;
use primal_tests::checks::{self, Books};
use primal_tests::load::{self, Ledger, Way};
use primal_tests::{Hub, Servers, free_port};
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row};

use crate::plan::Log;

pub struct World {
    pub log: Log,
    pub process: Hub,
    /// The same config in this process: publishes, watches and verifies.
    pub inside: primal_hub::Hub,
    pub ledger: Arc<Ledger>,
    pub ways: Vec<Way>,
    pub books: Books,
    /// Tables that hold every event as a row: address and table.
    events: Vec<(String, String)>,
}

impl World {
    pub async fn open(servers: &Servers, log: Log, number: u64) -> Result<Self> {
        let id = format!("c{}w{number}", std::process::id());
        let port = free_port();
        let mut process = Hub::new("");
        let folder = process.folder.path().to_path_buf();
        let at = |name: &str| folder.join(name).display().to_string();
        let (postgres, redis) = (servers.postgres.url(), servers.redis.url());
        let (own, stores) = match log {
            Log::Kafka => (
                format!("kafka: {{ bootstrap: \"{}\", topic_prefix: \"{id}.\" }}", servers.kafka.url()),
                format!(
                    "  pg: {{ type: postgres, url: \"{postgres}\", schema: {id}, projection: table, collections: [orders] }}\n  \
                     pg-events: {{ type: postgres, url: \"{postgres}\", schema: {id}e, projection: events }}\n  \
                     cache: {{ type: redis, url: \"{redis}\", prefix: \"{id}:\", collections: [orders] }}\n"
                ),
            ),
            Log::Embedded => (
                format!("embedded: {{ path: \"{}\" }}", at("log.db")),
                format!(
                    "  table: {{ type: sqlite, path: \"{}\", projection: table, collections: [orders] }}\n",
                    at("table.sqlite")
                ),
            ),
        };
        let config = format!(
            "log: {{ {own} }}\ngateway: {{ listen: \"127.0.0.1:{port}\" }}\n{}sinks:\n{stores}  \
             file: {{ type: sqlite, path: \"{}\", collections: [orders] }}\n  \
             file-events: {{ type: sqlite, path: \"{}\", projection: events }}\n",
            load::collections(&folder, 2),
            at("file.sqlite"),
            at("events.sqlite"),
        );
        let file = folder.join("primalcore.yaml");
        std::fs::write(&file, config)?;
        let mut events = vec![(format!("sqlite://{}", at("events.sqlite")), String::new())];
        if log == Log::Kafka {
            events.push((postgres, format!("\"{id}e\".")));
        }
        let inside = primal_hub::Hub::open(Config::load(&file)?, Env::system()).await?;
        let (client, producer) = (primal_tests::http(), Arc::new(inside.producer()));
        let ways = vec![
            Way::Gateway(client.clone(), port),
            Way::Direct(producer.clone()),
            Way::Gateway(client, port),
            Way::Direct(producer),
        ];
        process.start();
        let world = World { log, process, inside, ledger: Arc::default(), ways, books: Books::default(), events };
        load::publish(&world.ledger, world.direct(), 100).await;
        checks::caught_up(&world.inside, Duration::from_secs(60)).await.with_context(|| world.process.log())?;
        Ok(world)
    }

    /// The way that does not die with the hub.
    pub fn direct(&self) -> &Way {
        self.ways.iter().find(|way| matches!(way, Way::Direct(_))).expect("there is one")
    }

    /// How many events the tables of events hold too often, and how many they lack.
    pub async fn rows(&self) -> Result<(u64, u64)> {
        let (mut lost, mut doubled) = (0, 0);
        for (address, schema) in &self.events {
            let mut connection = AnyConnection::connect(address).await?;
            let (mut rows, mut distinct) = (0, 0);
            for collection in [load::ORDERS, load::MARKS] {
                let ask = format!("SELECT count(*), count(DISTINCT \"_event_id\") FROM {schema}\"{collection}\"");
                let row = sqlx::query(AssertSqlSafe(ask)).fetch_one(&mut connection).await?;
                rows += row.get::<i64, _>(0) as u64;
                distinct += row.get::<i64, _>(1) as u64;
            }
            connection.close().await?;
            lost += self.ledger.events().saturating_sub(distinct);
            doubled += rows - distinct;
        }
        Ok((lost, doubled))
    }

    /// The last look, with the program as a user would have it; then the hub ends.
    pub async fn close(mut self) -> Result<()> {
        let names: Vec<String> = self.inside.config.sinks.iter().map(|sink| sink.name.clone()).collect();
        tokio::task::spawn_blocking(move || {
            self.process.verified(&names.iter().map(String::as_str).collect::<Vec<_>>());
            self.process.kill();
        })
        .await?;
        Ok(())
    }
}
