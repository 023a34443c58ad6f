//! Receipts: what each sink did with which offsets, and when, after kills, redeliveries and rebuilds.

use std::time::Duration;

use primal_core::Timestamp;
use primal_tests::Hub;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use crate::told::{embedded, on_kafka, publish, put, refused};

fn receipts(hub: &Hub, more: &[&str]) -> Vec<Value> {
    let arguments = [&["audit", "receipts", "--json", "--collection", "parcels"], more].concat();
    serde_json::from_str(&hub.succeed("primalcore", &arguments)).unwrap()
}

fn events(from: usize, to: usize) -> Vec<Value> {
    (from..to).map(|n| put("parcels", &format!("p{}", n % 400), &format!("e{n}"), json!({ "n": n }))).collect()
}

/// A figure of all spans of a sink's rows added up.
fn total(rows: &[Value], sink: &str, field: &str) -> u64 {
    let rows = rows.iter().filter(|row| row["sink"] == sink);
    let spans = rows.flat_map(|row| row["spans"].as_array().unwrap());
    spans.map(|span| span[field].as_u64().unwrap()).sum()
}

/// How many offsets of a sink's partitions are covered by any span.
fn covered(rows: &[Value], sink: &str) -> usize {
    let mut places = std::collections::BTreeSet::new();
    for row in rows.iter().filter(|row| row["sink"] == sink) {
        for span in row["spans"].as_array().unwrap() {
            let (from, to) = (span["from"].as_i64().unwrap(), span["to"].as_i64().unwrap());
            places.extend((from..to).map(|offset| (row["partition"].as_i64().unwrap(), offset)));
        }
    }
    places.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_stays_on_record_embedded() {
    what_was_done_stays_on_record(embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_stays_on_record_kafka() {
    what_was_done_stays_on_record(on_kafka("receipts", "").await).await;
}

async fn what_was_done_stays_on_record(mut hub: Hub) {
    refused(&hub, 1, &["audit", "receipts"], "`primalcore run` leaves them");
    let before = Timestamp::parse_rfc3339(&now()).unwrap();
    publish(&hub, &events(0, 1_000));
    hub.start();
    hub.caught_up();
    // Receipts are written a second later; then nothing of them is lost by a kill.
    std::thread::sleep(Duration::from_millis(2_500));
    hub.kill();
    let rows = receipts(&hub, &[]);
    for sink in ["all", "each"] {
        assert_eq!(covered(&rows, sink), 1_000, "{rows:#?}");
        let done = ["applied", "stale", "folded"].map(|field| total(&rows, sink, field)).iter().sum::<u64>();
        assert_eq!((done, total(&rows, sink, "left_out")), (1_000, 0), "{rows:#?}");
    }
    // One row for each partition of each sink: a block has room for 10,000 offsets.
    assert_eq!(rows.len(), 4, "{rows:#?}");
    assert!(rows.iter().all(|row| row["generation"] == "1" && row["block"] == 0 && row["epoch"] == 0));

    // Another process goes on in the middle of the block, and with its row.
    publish(&hub, &events(1_000, 2_000));
    hub.start();
    hub.caught_up();
    hub.terminate();
    let rows = receipts(&hub, &[]);
    assert_eq!(rows.len(), 4, "{rows:#?}");
    for sink in ["all", "each"] {
        assert_eq!(covered(&rows, sink), 2_000, "{rows:#?}");
    }

    // When an event was applied, and by whom: the time of its range.
    for id in ["e3", "e1999"] {
        let found = hub.succeed("primalcore", &["audit", "event", id, "--collection", "parcels", "--format", "json"]);
        let found: Vec<Value> = serde_json::from_str(&found).unwrap();
        let recorded = Timestamp::parse_rfc3339(found[0]["recorded"].as_str().unwrap()).unwrap();
        for standing in found[0]["sinks"].as_array().unwrap() {
            let moment = |name: &str| Timestamp::parse_rfc3339(standing["applied_at"][name].as_str().unwrap()).unwrap();
            let (from, to) = (moment("from"), moment("to"));
            assert!(before <= from && from <= to && to.since(from) < Duration::from_secs(60), "{standing}");
            // Kafka's clock counts milliseconds.
            assert!(to.0 + 1_000 >= recorded.0, "{standing}, recorded {recorded}");
        }
    }

    // A store that has forgotten where it was is given everything again, and the receipts say both times.
    let file = format!("sqlite://{}", hub.folder.path().join("all.sqlite").display());
    let mut store = SqliteConnection::connect(&file).await.unwrap();
    let forget = "DELETE FROM _primal_positions WHERE place = 'parcels__g1'";
    assert_eq!(sqlx::raw_sql(forget).execute(&mut store).await.unwrap().rows_affected(), 2);
    store.close().await.unwrap();
    hub.start();
    hub.caught_up();
    hub.terminate();
    let rows = receipts(&hub, &["--sink", "all"]);
    let stale_or_folded = ["stale", "folded"].map(|field| total(&rows, "all", field)).iter().sum::<u64>();
    assert_eq!((rows.len(), covered(&rows, "all")), (2, 2_000), "{rows:#?}");
    assert!(stale_or_folded >= 2_000 && total(&rows, "all", "stale") >= 400, "{rows:#?}");
    let found = hub.succeed("primalcore", &["audit", "event", "e3", "--collection", "parcels", "--format", "json"]);
    let found: Vec<Value> = serde_json::from_str(&found).unwrap();
    let standings = found[0]["sinks"].as_array().unwrap();
    let again = |sink: &str| standings.iter().find(|s| s["sink"] == sink).unwrap()["applied_at"]["again"].clone();
    assert_eq!((again("all"), again("each")), (json!(1), json!(0)), "{standings:#?}");

    // A rebuild leaves receipts of the generation that it filled, and those are the ones that count then.
    hub.succeed("replay", &["--sink", "all", "--collection", "parcels", "--from", "earliest", "--execute"]);
    let rows = receipts(&hub, &["--sink", "all"]);
    let second: Vec<Value> = rows.iter().filter(|row| row["generation"] == "2").cloned().collect();
    assert_eq!(covered(&second, "all"), 2_000, "{rows:#?}");
    assert!(second.iter().all(|row| row["instance"] == "job"));
    let digests = |generation: &str| -> Vec<(i64, u64)> {
        let rows = rows.iter().filter(|row| row["generation"] == generation);
        let sum = |row: &Value| {
            let digest = |span: &Value| u64::from_str_radix(span["digest"].as_str().unwrap(), 16).unwrap();
            row["spans"].as_array().unwrap().iter().map(digest).fold(0, u64::wrapping_add)
        };
        rows.map(|row| (row["partition"].as_i64().unwrap(), sum(row))).collect()
    };
    let twice = |sums: Vec<(i64, u64)>| -> Vec<(i64, u64)> {
        sums.into_iter().map(|(partition, sum)| (partition, sum.wrapping_mul(2))).collect()
    };
    assert_eq!(digests("1"), twice(digests("2")), "the same events twice, in other batches");
    let checked = hub.succeed("primalcore", &["audit", "receipts", "--collection", "parcels", "--check", "--json"]);
    let checked: Value = serde_json::from_str(&checked).unwrap();
    // Two generations of one sink, the first of them twice, and one of the other.
    assert_eq!(checked, json!({ "events": 8_000, "untold": 0, "differing": [] }));
    assert!(receipts_refused(&hub, &["--to", "2013-01-01"]) && !receipts(&hub, &["--from", "1h"]).is_empty());
    let table = hub.succeed("primalcore", &["audit", "receipts", "--sink", "each"]);
    assert!(table.contains("left out") && table.contains("each") && !table.contains("rows"), "{table}");
}

fn receipts_refused(hub: &Hub, more: &[&str]) -> bool {
    refused(hub, 1, &[&["audit", "receipts"], more].concat(), "no receipt is like that");
    true
}

fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_micros()).unwrap()).to_string()
}

#[test]
fn without_receipts_the_log_has_none() {
    let mut hub = Hub::new(
        "log: { embedded: { path: log.db } }\ncollections:\n  parcels: { partitions: 2 }\n\
         sinks:\n  all: { type: sqlite, path: all.sqlite, delivery: { receipts: false } }\n",
    );
    publish(&hub, &events(0, 10));
    hub.start();
    hub.caught_up();
    hub.terminate();
    refused(&hub, 1, &["audit", "receipts"], "`primalcore run` leaves them");
}
