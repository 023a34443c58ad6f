//! Verification by blocks in PostgreSQL: every sort of damage is found, by reading few records; and in the background, what
//! was found is told and moves no mark.

use std::time::{Duration, Instant};

use primal_tests::{Hub, free_port, shared};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::kafka::kafka;

const EVENTS: usize = 65_000;
/// Some keys have several events, some end with a delete.
const KEYS: usize = 40_000;

fn lines(from: usize, to: usize) -> Vec<String> {
    let event = |n: usize| {
        let (key, id) = (format!("order-{}", n % KEYS), format!("e{n}"));
        match n % 97 {
            0 => json!({ "collection": "orders", "key": key, "id": id, "op": "delete" }).to_string(),
            // Spelled otherwise than PostgreSQL prints it.
            1 => format!(
                "{{\"collection\":\"orders\",\"key\":\"{key}\",\"id\":\"{id}\",\"data\":{{\"zz\":1.50e2,\"a\":\"\\u00e9\\/\",\"n\":{n}}}}}"
            ),
            _ => json!({ "collection": "orders", "key": key, "id": id, "data": { "n": n, "name": "ü" } }).to_string(),
        }
    };
    (from..to).map(event).collect()
}

struct World {
    hub: Hub,
    database: PgConnection,
    table: String,
}

impl World {
    async fn new(log: &str, schema: &str, more: &str) -> Self {
        let postgres = tokio::task::spawn_blocking(|| shared("postgres")).await.unwrap();
        let schema = format!("{schema}_{}", std::process::id());
        let hub = Hub::new(&format!(
            "log: {{ {log} }}\ncollections:\n  orders: {{ partitions: 2 }}\n\
             sinks:\n  pg: {{ type: postgres, url: \"{postgres}\", schema: {schema} }}\n{more}"
        ));
        let database = PgConnection::connect(&postgres).await.unwrap();
        World { hub, database, table: format!("{schema}.orders") }
    }

    async fn damage(&mut self, statement: &str) {
        let statement = statement.replace("orders", &self.table);
        let done = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut self.database).await.unwrap();
        assert!(done.rows_affected() > 0, "{statement}");
    }

    fn report(&self, code: i32) -> Value {
        let output = self.hub.command("primalcore", &["audit", "verify", "--sink", "pg", "--json"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap().remove(0)
    }

    /// The sort of the only difference, and its key; few records were read for it.
    fn only(&self) -> (String, String) {
        let report = self.report(3);
        let sorts = ["missing", "extra", "stale", "differing"];
        let found: Vec<_> = sorts.iter().filter(|sort| report[**sort]["count"] != 0).collect();
        assert_eq!(found.len(), 1, "{report:#}");
        let sort = found[0];
        assert_eq!(report[*sort]["count"], 1, "{report:#}");
        // At most two blocks: where it is, and where it should be. Half a block's versions are those of another record.
        let (blocks, read) = (report["blocks_read"].as_u64().unwrap(), report["read"].as_u64().unwrap());
        assert!((1..=2).contains(&blocks) && read <= blocks * 20_000 && read < KEYS as u64 * 3 / 4, "{report:#}");
        assert_eq!(report["records"].as_u64(), report["verified"].as_u64().map(|n| n + u64::from(*sort != "missing")));
        ((*sort).to_owned(), report[*sort]["first"][0]["key"].as_str().unwrap().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sort_of_damage_is_found_by_blocks_embedded() {
    every_sort_of_damage_is_found_by_blocks(World::new("embedded: { path: log.db }", "blocks", "").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sort_of_damage_is_found_by_blocks_kafka() {
    let bootstrap = kafka().await.bootstrap;
    let prefix = format!("blocks-{}-", std::process::id());
    let log = format!("kafka: {{ bootstrap: \"{bootstrap}\", topic_prefix: \"{prefix}\", session_timeout_ms: 6000 }}");
    every_sort_of_damage_is_found_by_blocks(World::new(&log, "blocks_kafka", "").await).await;
}

async fn every_sort_of_damage_is_found_by_blocks(mut world: World) {
    assert_eq!(world.hub.publish(&lines(0, EVENTS))["sent"], EVENTS);
    world.hub.start();
    world.hub.caught_up();
    let clean = world.report(0);
    assert_eq!((&clean["records"], &clean["verified"]), (&json!(KEYS), &json!(KEYS)), "{clean:#}");
    assert_eq!((&clean["blocks_read"], &clean["read"], &clean["events"]), (&json!(0), &json!(0), &json!(EVENTS)));
    assert!(clean["blocks"].as_u64().unwrap() >= 3, "{clean:#}");
    world.hub.terminate();

    // order-500 has one event more later on; order-30000 has one only.
    world.damage("UPDATE orders SET data = jsonb_set(data, '{n}', '7') WHERE _key = 'order-30000'").await;
    assert_eq!(world.only(), ("differing".to_owned(), "order-30000".to_owned()));
    world.damage("UPDATE orders SET data = jsonb_set(data, '{n}', '30000') WHERE _key = 'order-30000'").await;
    assert_eq!(world.report(0)["blocks_read"], 0, "as it was before");

    world.damage("UPDATE orders SET _event_id = 'e1' WHERE _key = 'order-30000'").await;
    assert_eq!(world.only(), ("differing".to_owned(), "order-30000".to_owned()));
    world.damage("UPDATE orders SET _event_id = 'e30000' WHERE _key = 'order-30000'").await;

    // To the state before its last one, complete with version and id.
    let (partition, offset) = world.place("e500");
    let older = format!(
        "UPDATE orders SET _version = {}, _event_id = 'e500', data = '{{\"n\":500,\"name\":\"ü\"}}' WHERE _key = 'order-500'",
        offset + 1
    );
    let (_, last) = world.place("e40500");
    assert!(last > offset, "{partition}");
    world.damage(&older).await;
    assert_eq!(world.only(), ("stale".to_owned(), "order-500".to_owned()));
    let newer = older.replace("e500", "e40500").replace(":500,", ":40500,");
    world.damage(&newer.replace(&format!("= {},", offset + 1), &format!("= {},", last + 1))).await;
    assert_eq!(world.report(0)["blocks_read"], 0, "as it was before");

    world
        .damage("INSERT INTO orders SELECT 'order-x', _version, _deleted, 'ex', _time, _alpha, _lambda, _k, data FROM orders WHERE _key = 'order-30000'")
        .await;
    assert_eq!(world.only(), ("extra".to_owned(), "order-x".to_owned()));
    world.damage("DELETE FROM orders WHERE _key = 'order-x'").await;

    world.damage("DELETE FROM orders WHERE _key = 'order-30000'").await;
    assert_eq!(world.only(), ("missing".to_owned(), "order-30000".to_owned()));

    // All blocks at once.
    world.damage("UPDATE orders SET data = '{}' WHERE NOT _deleted").await;
    let all = world.report(3);
    assert_eq!(all["missing"]["count"], 1);
    let last = |n: usize| if n + KEYS < EVENTS { n + KEYS } else { n };
    let deleted = (0..KEYS).filter(|n| last(*n).is_multiple_of(97)).count();
    assert_eq!(all["differing"]["count"], KEYS - 1 - deleted, "{all:#}");
}

impl World {
    fn place(&self, id: &str) -> (i64, i64) {
        let found = self.hub.succeed("primalcore", &["audit", "event", id, "--format", "json"]);
        let found: Value = serde_json::from_str(&found).unwrap();
        (found[0]["partition"].as_i64().unwrap(), found[0]["offset"].as_i64().unwrap())
    }
}

/// The value of a metric of orders in a sink; of all partitions together.
async fn metric(port: u16, name: &str) -> Option<f64> {
    let url = format!("http://127.0.0.1:{port}/metrics");
    let text = primal_tests::http().get(url).send().await.ok()?.text().await.ok()?;
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains("sink=\"pg\""));
    let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

async fn until(port: u16, name: &str, value: f64) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let found = metric(port, name).await;
        if found == Some(value) {
            return;
        }
        assert!(Instant::now() < until, "{name} is {found:?}, not {value}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_in_the_background_and_moves_no_mark() {
    let port = free_port();
    let more = format!("audit: {{ verify_every_s: 1 }}\ngateway: {{ listen: \"127.0.0.1:{port}\" }}\n");
    let mut world = World::new("embedded: { path: log.db }", "background", &more).await;
    world.hub.start();
    assert_eq!(world.hub.publish(&lines(0, 3_000))["sent"], 3_000);
    until(port, "primalcore_sink_verified_offset", 3_000.0).await;
    until(port, "primalcore_sink_differences", 0.0).await;
    world.damage("UPDATE orders SET data = '{}' WHERE _key = 'order-2'").await;
    until(port, "primalcore_sink_differences", 1.0).await;
    assert_eq!(world.hub.publish(&lines(3_000, 3_500))["sent"], 500);
    world.hub.caught_up();
    // Some more rounds: each finds it, none moves the mark.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(metric(port, "primalcore_sink_verified_offset").await, Some(3_000.0));
    let row = world.hub.status().remove(0);
    assert_eq!((&row["verified"], &row["differences"], &row["position"]), (&json!(3_000), &json!(1), &json!(3_500)));
    let told = world.hub.log();
    assert!(told.contains("`primalcore audit verify --sink pg --collection orders` shows what"), "{told}");

    // What was found is still known after a restart, and what is mended is found clean.
    world.hub.terminate();
    world.hub.start();
    until(port, "primalcore_sink_verified_offset", 3_000.0).await;
    world.hub.succeed(
        "replay",
        &["--sink", "pg", "--collection", "orders", "--from", "earliest", "--mode", "repair", "--execute"],
    );
    until(port, "primalcore_sink_verified_offset", 3_500.0).await;
    until(port, "primalcore_sink_differences", 0.0).await;
}
