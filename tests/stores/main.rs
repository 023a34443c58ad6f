//! The week of real events into all stores at once, through the real program: the weather as points, flights as graph, rows
//! and documents to search, airports as documents and, by where they are, as vectors. On the way the program is killed, and
//! so are two of the stores.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use primal_tests::{Hub, Server, shared, week};
use serde_json::Value;

/// What each store gets: its server, the rest of its settings, its projection, and its collections.
const STORES: &[(&str, &str, &str, &str, &str)] = &[
    ("clickhouse", "clickhouse_engine", "database: week", "table", "[flights, weather]"),
    ("elasticsearch", "elasticsearch", "replicas: 0", "table", "[flights, planes]"),
    ("influxdb", "influxdb", "database: week", "series", "[weather]"),
    ("mongodb", "ferretdb", "database: week, delivery: { batch_events: 40 }", "document", "[airports, airlines]"),
    ("neo4j", "neo4j", "delivery: { batch_events: 2000 }", "graph", "[flights, airports, airlines]"),
    ("opensearch", "opensearch", "replicas: 0", "document", "[flights, airports]"),
    ("postgres", "postgres", "schema: week", "table", "[flights, weather, airports, planes, airlines]"),
    ("prometheus", "prometheus", "prefix: week_", "series", "[weather]"),
    ("qdrant", "qdrant", "prefix: week-, api_key: primalcore", "vector", "[places]"),
    ("redis", "redis", "prefix: \"week:\"", "document", "[flights, weather, airports, planes, airlines]"),
    ("timescaledb", "postgres", "schema: week_series", "series", "[weather]"),
];

/// Stores that are killed and started again; they have servers of their own.
const KILLED: [&str; 2] = ["redis", "elasticsearch"];

fn is_chosen(store: &str) -> bool {
    std::env::var("PRIMALCORE_TEST_STORES").map_or(true, |names| names.split(',').any(|name| name == store))
}

fn config(bootstrap: &str, urls: &[(&str, String)]) -> String {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/schemas");
    let mut text = format!(
        "log: {{ kafka: {{ bootstrap: \"{bootstrap}\", topic_prefix: \"stores.\", session_timeout_ms: 6000 }} }}\n\
         collections:\n"
    );
    for name in ["flights", "weather", "airports", "planes", "airlines"] {
        let more = match name {
            "weather" => ", series: { time: time, tags: [origin] }",
            "flights" => {
                ", graph: { edges: [{ field: origin, to: airports, type: DEPARTS_FROM }, \
                 { field: dest, to: airports, type: ARRIVES_AT }, { field: carrier, to: airlines, type: FLOWN_BY }] }"
            }
            _ => "",
        };
        writeln!(text, "  {name}: {{ partitions: 3, schema: \"{}/{name}.json\"{more} }}", schemas.display()).unwrap();
    }
    text += "  places: { partitions: 3, vector: { field: place, size: 3, distance: euclid } }\n";
    text += "sinks:\n  file: { type: sqlite, path: hub.sqlite }\n";
    for (store, _, settings, projection, collections) in STORES {
        if let Some((_, url)) = urls.iter().find(|(name, _)| name == store) {
            let sink = format!("type: {store}, url: \"{url}\", projection: {projection}, collections: {collections}");
            writeln!(text, "  {store}: {{ {sink}, {settings} }}").unwrap();
        }
    }
    text
}

/// Airports as events whose vector is where they are: latitude, longitude and thousands of feet.
fn places(week: &[String]) -> Vec<String> {
    let place = |line: &String| {
        let mut event: Value = serde_json::from_str(line).unwrap();
        let data = event.get("data")?;
        let number = |name: &str| data.get(name).and_then(Value::as_f64);
        let place = [number("lat")?, number("lon")?, number("alt")? / 1_000.0];
        event["data"]["place"] = place.as_slice().into();
        event["collection"] = "places".into();
        Some(event.to_string())
    };
    week.iter().filter_map(place).collect()
}

#[test]
fn a_week_reaches_every_store_through_kills_of_the_hub_and_of_stores() {
    let chosen: Vec<_> = STORES.iter().filter(|(store, ..)| is_chosen(store)).collect();
    let killed: Vec<_> = KILLED.into_iter().filter(|store| is_chosen(store)).map(|s| (s, Server::start(s))).collect();
    let url = |store: &str, server: &str| match killed.iter().find(|(name, _)| *name == store) {
        Some((_, server)) => server.url(),
        None => shared(server),
    };
    let urls: Vec<_> = chosen.iter().map(|(store, server, ..)| (*store, url(store, server))).collect();
    let mut hub = Hub::new(&config(&shared("kafka"), &urls));
    let check = hub.command("primalcore", &["check"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let mut week = week();
    assert_eq!(week.len(), 23_094);
    let places = places(&week);
    assert_eq!(places.len(), 1_458);
    week.extend(places);
    hub.start();
    for (round, part) in week.chunks(week.len().div_ceil(3)).enumerate() {
        assert_eq!(hub.publish(part).get("sent").and_then(Value::as_u64), Some(part.len() as u64));
        match round {
            0 => {
                std::thread::sleep(Duration::from_millis(500));
                hub.kill();
                hub.start();
            }
            1 => killed.iter().for_each(|(_, server)| server.kill()),
            _ => killed.iter().for_each(|(_, server)| server.restart()),
        }
    }
    hub.wait("every store catching up", Duration::from_secs(300), |rows| rows.iter().all(|row| row["lag_events"] == 0));
    let mut sinks = vec!["file"];
    sinks.extend(chosen.iter().map(|(store, ..)| *store));
    hub.verified(&sinks);
    for row in hub.status() {
        assert_eq!(row["rejected"], 0, "{row:#}");
    }
    hub.terminate();
}
