//! What the log tells: the state of an entity at any moment, who wrote what, what led to what, and where an event stands in
//! the stores; each on both logs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use primal_core::Timestamp;
use primal_tests::{Hub, program, shared};
use serde_json::{Value, json};

use crate::kafka::kafka;

/// JSON Schema calls this an integer; no 64-bit column can hold it.
const TOO_LARGE: &str = "9223372036854775808";

pub fn embedded() -> Hub {
    hub("embedded: { path: log.db }", "")
}

pub async fn on_kafka(name: &str, sinks: &str) -> Hub {
    let bootstrap = kafka().await.bootstrap;
    let prefix = format!("{name}-{}-", std::process::id());
    let log = format!("kafka: {{ bootstrap: \"{bootstrap}\", topic_prefix: \"{prefix}\", session_timeout_ms: 6000 }}");
    hub(&log, sinks)
}

fn hub(log: &str, sinks: &str) -> Hub {
    let hub = Hub::new(&format!(
        "log: {{ {log} }}\n\
         collections:\n  orders: {{ partitions: 3, schema: orders.json }}\n  parcels: {{ partitions: 2 }}\n\
         sinks:\n  rows: {{ type: sqlite, path: rows.sqlite, projection: table, collections: [orders] }}\n  \
         all: {{ type: sqlite, path: all.sqlite }}\n  \
         each: {{ type: sqlite, path: each.sqlite, projection: events }}\n{sinks}"
    ));
    let schema = r#"{"type":"object","properties":{"total":{"type":"integer"}}}"#;
    std::fs::write(hub.folder.path().join("orders.json"), schema).unwrap();
    hub
}

pub fn publish(hub: &Hub, events: &[Value]) {
    let lines: Vec<String> = events.iter().map(|event| event.to_string() + "\n").collect();
    std::fs::write(hub.folder.path().join("events.ndjson"), lines.concat()).unwrap();
    hub.succeed("primalcore", &["publish", "events.ndjson"]);
}

/// Publishes one event in a millisecond of its own, since Kafka counts no finer.
fn alone(hub: &Hub, event: Value) {
    std::thread::sleep(Duration::from_millis(5));
    publish(hub, &[event]);
    std::thread::sleep(Duration::from_millis(5));
}

pub fn put(collection: &str, key: &str, id: &str, data: Value) -> Value {
    json!({ "collection": collection, "key": key, "id": id, "type": "order.changed", "data": data })
}

pub fn delete(collection: &str, key: &str, id: &str) -> Value {
    json!({ "collection": collection, "key": key, "id": id, "op": "delete" })
}

/// An event that somebody did because of another one.
fn done(id: &str, actor: &str, cause: Option<&str>) -> Value {
    let mut event = put("parcels", id, id, json!({ "by": actor }));
    event["extensions"] = json!({ "actor": actor, "correlationid": "c1" });
    if let Some(cause) = cause {
        event["extensions"]["causationid"] = cause.into();
    }
    event
}

fn printed(hub: &Hub, arguments: &[&str]) -> Value {
    let text = hub.succeed("primalcore", &[arguments, &["--format", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{text}"))
}

/// The same of a command that prints an object a line.
fn lines(hub: &Hub, arguments: &[&str]) -> Vec<Value> {
    let text = hub.succeed("primalcore", &[arguments, &["--format", "json"]].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["id"].as_str().unwrap()).collect()
}

pub fn refused(hub: &Hub, code: i32, arguments: &[&str], says: &str) {
    let output: Output = hub.command("primalcore", arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && told.contains(says), "{arguments:?}: {}, {told}", output.status);
}

#[test]
fn the_state_at_any_moment_embedded() {
    the_state_at_any_moment(&embedded());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_at_any_moment_kafka() {
    the_state_at_any_moment(&on_kafka("state", "").await);
}

fn the_state_at_any_moment(hub: &Hub) {
    let of = ["state", "--collection", "orders", "--key", "order-1"];
    let state = |more: &[&str]| printed(hub, &[&of, more].concat());
    alone(
        hub,
        put("orders", "order-1", "e1", json!({ "status": "new", "total": 1, "lines": [{ "sku": "a", "n": 1 }] })),
    );
    let first = state(&[]);
    alone(hub, put("orders", "order-2", "other", json!({ "total": 9 })));
    alone(
        hub,
        put("orders", "order-1", "e2", json!({ "status": "paid", "total": 1, "lines": [{ "sku": "a", "n": 2 }] })),
    );
    let second = state(&[]);
    alone(hub, delete("orders", "order-1", "e3"));
    let third = state(&[]);
    let recorded = |state: &Value| state["recorded"].as_str().unwrap().to_owned();
    let (at_first, at_second, at_third) = (recorded(&first), recorded(&second), recorded(&third));

    assert_eq!((&first["id"], &first["data"]["status"]), (&json!("e1"), &json!("new")));
    assert_eq!((&third["id"], &third["exists"], &third["data"]), (&json!("e3"), &json!(false), &Value::Null));
    // A moment belongs to what was recorded in it; the one before does not.
    assert_eq!(state(&["--as-of", &at_first])["id"], "e1");
    assert_eq!(state(&["--as-of", &at_second])["id"], "e2");
    let before = |at: &str| Timestamp(Timestamp::parse_rfc3339(at).unwrap().0 - 1).to_string();
    assert_eq!(state(&["--as-of", &before(&at_second)])["id"], "e1");
    assert_eq!(state(&["--as-of", &before(&at_third)])["id"], "e2");
    assert_eq!(state(&["--as-of", "earliest"])["id"], "e1");
    assert_eq!(state(&["--version", &first["version"].to_string()])["data"], first["data"]);
    let table = hub.succeed("primalcore", &[&of[..], &["--as-of", at_first.trim_end_matches('Z')]].concat());
    assert!(table.contains(&format!("as of {at_first} (recorded time, UTC)")), "{table}");
    assert!(table.contains("\n  \"status\": \"new\",\n"), "{table}");

    let history = lines(hub, &[&of[..], &["--history"]].concat());
    let said = |row: &Value| (row["event"]["id"].clone(), row["changes"].as_array().unwrap().len());
    assert_eq!(history.iter().map(said).collect::<Vec<_>>(), [(json!("e1"), 3), (json!("e2"), 2), (json!("e3"), 3)]);
    assert_eq!(lines(hub, &[&of[..], &["--history", "--as-of", &at_second]].concat()).len(), 2);
    let table = hub.succeed("primalcore", &[&of[..], &["--history"]].concat());
    assert!(table.contains("/lines/0/n /status\n"), "{table}");

    let diff = state(&["--diff", &at_first, &at_second]);
    let expected = json!([
        { "member": "/lines/0/n", "before": 1, "after": 2 },
        { "member": "/status", "before": "new", "after": "paid" },
    ]);
    assert_eq!(diff["changes"], expected);
    let gone = state(&["--diff", "2h", "latest"]);
    assert_eq!((&gone["before"]["event"], &gone["after"]["event"]["op"]), (&Value::Null, &json!("delete")));
    assert_eq!(state(&["--diff", "earliest", "latest"])["changes"][0]["member"], "/lines");

    let with = |more: &[&'static str]| [&of[..], more].concat();
    refused(hub, 1, &with(&["--as-of", "2h"]), &format!("recorded at {at_first}"));
    refused(hub, 2, &with(&["--as-of", "2999-01-01"]), "is in the future");
    refused(hub, 2, &with(&["--as-of", "yesterday"]), "is no moment");
    refused(hub, 2, &with(&["--version", "99"]), "no version 99; the nearest are");
    refused(hub, 2, &["state", "--collection", "ordres", "--key", "order-1"], "did you mean `orders`?");
    refused(hub, 2, &["state", "--collection", "orders", "--key", "order-3"], "did you mean `order-");
}

#[test]
fn who_wrote_what_and_why_embedded() {
    who_wrote_what_and_why(&embedded());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wrote_what_and_why_kafka() {
    who_wrote_what_and_why(&on_kafka("who", "").await);
}

fn who_wrote_what_and_why(hub: &Hub) {
    alone(hub, put("orders", "o1", "c1", json!({ "total": 1 })));
    alone(hub, done("pick", "ann", Some("c1")));
    alone(hub, done("pack", "ben", Some("pick")));
    alone(hub, done("bill", "ann", Some("c1")));
    alone(hub, done("stray", "ben", Some("lost")));
    alone(hub, put("orders", "o2", "x,1", json!({ "total": 2 })));

    let all = ["c1", "pick", "pack", "bill", "stray", "x,1"];
    let log = |more: &[&str]| lines(hub, &[&["audit", "log"], more].concat());
    let rows = log(&[]);
    assert_eq!(ids(&rows), all, "in the order of time over collections and partitions");
    let at = |row: usize| rows[row]["recorded"].as_str().unwrap();
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--collection", "orders"], &["c1", "x,1"]),
        (&["--collection", "orders,parcels", "--limit", "2"], &all[..2]),
        (&["--key", "pack"], &["pack"]),
        (&["--type", "order.changed", "--actor", "ben"], &["pack", "stray"]),
        (&["--correlation", "c1"], &all[1..5]),
        (&["--from", at(2)], &all[2..]),
        (&["--to", at(2)], &all[..2]),
        (&["--from", at(1), "--to", at(3)], &all[1..3]),
        (&["--from", "2h"], &all),
    ];
    for (filters, expected) in cases {
        assert_eq!(ids(&log(filters)), expected, "{filters:?}");
    }
    assert_eq!((&rows[1]["actor"], &rows[1]["causation"]), (&json!("ann"), &json!("c1")));
    let csv = hub.succeed("primalcore", &["audit", "log", "--format", "csv", "--collection", "orders"]);
    let csv: Vec<_> = csv.lines().collect();
    assert!(csv.len() == 3 && csv[0].starts_with("recorded,time,") && csv[2].contains(",\"x,1\","), "{csv:?}");
    let table = hub.succeed("primalcore", &["audit", "log", "--actor", "ann"]);
    assert!(table.lines().count() == 3 && table.contains("parcels     pick  put  order.changed  ann"), "{table}");

    refused(hub, 2, &["audit", "log", "--collection", "parcles"], "did you mean `parcels`?");
    refused(hub, 2, &["audit", "log", "--type", "order.chnaged"], "did you mean `order.changed`?");
    refused(hub, 2, &["audit", "log", "--actor", "anne"], "did you mean `ann`?");
    refused(hub, 2, &["audit", "log", "--key", "pakc"], "did you mean `pack`?");
    refused(hub, 2, &["audit", "log", "--from", "1h", "--to", "2h"], "is after --to");
    refused(hub, 2, &["audit", "log", "--from", "2999-01-01"], "is in the future");
    // A value that some event has is no mistake, even if none is left.
    assert!(log(&["--actor", "ann", "--collection", "parcels", "--from", "latest"]).is_empty());

    let tree = hub.succeed("primalcore", &["audit", "trace", "--correlation", "c1"]);
    let shape = |line: &str| {
        let branch: String = line.chars().take_while(|c| !c.is_ascii_digit()).collect();
        branch + all.iter().find(|id| line.contains(&format!("  {id}"))).unwrap()
    };
    let expected = ["c1", "├─ pick", "│  └─ pack", "└─ bill", "stray"];
    assert_eq!(tree.lines().map(shape).collect::<Vec<_>>(), expected, "{tree}");
    assert!(tree.contains("caused by lost, which is none of these"), "{tree}");
    let steps = printed(hub, &["audit", "trace", "--correlation", "c1"]);
    let depths: Vec<_> = steps.as_array().unwrap().iter().map(|step| step["depth"].as_u64().unwrap()).collect();
    assert_eq!(depths, [0, 1, 2, 1, 0]);
    refused(hub, 1, &["audit", "trace", "--correlation", "c2"], "no event in orders, parcels");
}

#[test]
fn a_followed_log_goes_on_until_nobody_reads_it_embedded() {
    a_followed_log_goes_on_until_nobody_reads_it(&embedded());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_goes_on_until_nobody_reads_it_kafka() {
    a_followed_log_goes_on_until_nobody_reads_it(&on_kafka("follow", "").await);
}

fn a_followed_log_goes_on_until_nobody_reads_it(hub: &Hub) {
    publish(hub, &[put("orders", "o1", "before", json!({}))]);
    let mut child = Command::new(program("primalcore"))
        .args(["audit", "log", "--follow", "--format", "json", "--collection", "orders"])
        .current_dir(&hub.folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["id"].clone()
    };
    assert_eq!(next(), "before");
    publish(hub, &[put("orders", "o1", "one", json!({})), put("parcels", "p", "not wanted", json!({}))]);
    assert_eq!(next(), "one");
    publish(hub, &[put("orders", "o2", "two", json!({}))]);
    assert_eq!(next(), "two");
    // Nothing more comes, and still it notices.
    drop(reader);
    let until = Instant::now() + Duration::from_secs(10);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("it goes on though nobody reads");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut told = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut told).unwrap();
    assert!(status.success() && told.is_empty(), "{status} {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_event_stands_embedded() {
    where_an_event_stands(embedded(), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_event_stands_kafka() {
    let (postgres, redis) = tokio::task::spawn_blocking(|| (shared("postgres"), shared("redis"))).await.unwrap();
    let id = format!("told{}", std::process::id());
    let sinks = format!(
        "  pg: {{ type: postgres, url: \"{postgres}\", schema: {id} }}\n  \
         cache: {{ type: redis, url: \"{redis}\", prefix: \"{id}:\" }}\n"
    );
    where_an_event_stands(on_kafka("stands", &sinks).await, &["pg", "cache"]).await;
}

/// `others` are further sinks of documents that take everything, and of which nothing is lost.
async fn where_an_event_stands(mut hub: Hub, others: &[&str]) {
    let large =
        format!("{{\"collection\":\"orders\",\"key\":\"bad\",\"id\":\"large\",\"data\":{{\"total\":{TOO_LARGE}}}}}");
    publish(
        &hub,
        &[
            put("orders", "o1", "old", json!({ "total": 1 })),
            put("orders", "o1", "new", json!({ "total": 2 })),
            put("orders", "o2", "brief", json!({ "total": 3 })),
            delete("orders", "o2", "end"),
            put("orders", "o3", "lost", json!({ "total": 4 })),
        ],
    );
    std::fs::write(hub.folder.path().join("large.ndjson"), large + "\n").unwrap();
    hub.succeed("primalcore", &["publish", "large.ndjson"]);
    hub.start();
    hub.caught_up();
    // In one batch the later event would stand for both.
    publish(&hub, &[put("orders", "bad", "behind", json!({ "total": 5 }))]);
    hub.caught_up();
    hub.terminate();
    publish(&hub, &[put("orders", "o1", "late", json!({ "total": 6 })), put("parcels", "p", "parcel", json!({}))]);
    let url = format!("sqlite:{}", hub.folder.path().join("all.sqlite").display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    let deleted = sqlx::query("DELETE FROM orders WHERE _key = 'o3'").execute(&pool).await.unwrap();
    assert_eq!(deleted.rows_affected(), 1);
    pool.close().await;

    let fates = |id: &str| -> BTreeMap<String, String> {
        let found = printed(&hub, &["audit", "event", id]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        found[0]["sinks"].as_array().unwrap().iter().map(|sink| (text(&sink["sink"]), text(&sink["fate"]))).collect()
    };
    // In a store of documents, in one of rows that refuses a number, and in one that keeps every event.
    let cases = [
        ("old", "superseded", "superseded", "applied"),
        ("new", "applied", "applied", "applied"),
        ("brief", "superseded", "superseded", "applied"),
        ("end", "applied", "applied", "applied"),
        ("large", "superseded", "rejected", "applied"),
        ("behind", "applied", "parked", "applied"),
        ("late", "ahead", "ahead", "ahead"),
        ("lost", "different", "applied", "applied"),
    ];
    for (id, all, rows, each) in cases {
        let found = fates(id);
        assert_eq!([&found["all"], &found["rows"], &found["each"]], [all, rows, each], "{id}");
        for other in others {
            assert_eq!(found[*other], if id == "lost" { "applied" } else { all }, "{id} in {other}");
        }
    }
    assert!(!fates("parcel").contains_key("rows"), "a sink that does not want the collection is not asked");
    let event = &printed(&hub, &["audit", "event", "large"])[0];
    assert_eq!((&event["collection"], &event["key"], &event["op"]), (&json!("orders"), &json!("bad"), &json!("put")));
    let table = hub.succeed("primalcore", &["audit", "event", "large"]);
    assert!(table.contains("ce_id") && table.contains(TOO_LARGE) && table.contains("dead letter since"), "{table}");
    refused(&hub, 1, &["audit", "event", "nobody"], "no event in orders, parcels has the id \"nobody\"");

    let file = hub.folder.path().join("primalcore.yaml");
    let nowhere = "  nowhere: { type: redis, url: \"redis://127.0.0.1:1\" }\n";
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + nowhere).unwrap();
    let found = fates("new");
    assert_eq!([&found["nowhere"], &found["all"]], ["unknown", "applied"]);
}
