//! Replays of a part: what would change and what is changed, how fast, and what is left over; on both logs.

use std::time::{Duration, Instant};

use primal_tests::Hub;
use serde_json::{Value, json};
use sqlx::SqlitePool;

use crate::told::{embedded, on_kafka, publish, put, refused};

/// The store of the sink `all`, to be damaged.
async fn store(hub: &Hub) -> SqlitePool {
    SqlitePool::connect(&format!("sqlite:{}", hub.folder.path().join("all.sqlite").display())).await.unwrap()
}

async fn damage(hub: &Hub, statement: &'static str) {
    let pool = store(hub).await;
    assert_eq!(sqlx::query(statement).execute(&pool).await.unwrap().rows_affected(), 1, "{statement}");
    pool.close().await;
}

/// Brings everything to the stores, and ends the workers.
fn deliver(hub: &mut Hub) {
    hub.start();
    hub.caught_up();
    hub.terminate();
}

fn of(kind: &str, correlation: &str, mut event: Value) -> Value {
    event["type"] = kind.into();
    event["extensions"] = json!({ "correlationid": correlation });
    event
}

/// What `replay --diff` finds of `orders` in the sink `all`: missing, extra, differing and stale keys.
fn diff(hub: &Hub, more: &[&str]) -> [Vec<String>; 4] {
    let arguments =
        [&["--sink", "all", "--from", "earliest", "--collection", "orders", "--diff", "--json"], more].concat();
    let output = hub.command("replay", &arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{more:?}: {e} {told}"));
    let keys = |sort: &str| -> Vec<String> {
        let found = &found[0][sort];
        let first = found["first"].as_array().unwrap();
        assert_eq!(found["count"], first.len());
        first.iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect()
    };
    let all = ["missing", "extra", "differing", "stale"].map(keys);
    let clean = all.iter().all(Vec::is_empty);
    assert_eq!(output.status.code(), Some(if clean { 0 } else { 3 }), "{told}");
    all
}

fn lists(all: [&[&str]; 4]) -> [Vec<String>; 4] {
    all.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect())
}

fn repair(hub: &Hub, more: &[&str]) -> Value {
    let arguments =
        [&["--sink", "all", "--from", "earliest", "--collection", "orders", "--execute", "--json"], more].concat();
    serde_json::from_str(&hub.succeed("replay", &arguments)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_is_compared_and_mended_embedded() {
    a_selection_is_compared_and_mended(embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_is_compared_and_mended_kafka() {
    a_selection_is_compared_and_mended(on_kafka("part", "").await).await;
}

async fn a_selection_is_compared_and_mended(mut hub: Hub) {
    let mut events: Vec<Value> = (0..30)
        .map(|i| {
            of(
                "order.placed",
                &format!("c{i}"),
                put("orders", &format!("o{i}"), &format!("e{i}"), json!({ "total": i })),
            )
        })
        .collect();
    events.push(of("order.paid", "c4", put("orders", "o4", "paid", json!({ "total": 40 }))));
    events.push(of("order.packed", "c4", put("orders", "o4", "packed", json!({ "total": 41 }))));
    events.push(put("parcels", "p1", "parcel", json!({})));
    publish(&hub, &events);
    deliver(&mut hub);
    assert_eq!(diff(&hub, &[]), lists([&[], &[], &[], &[]]));
    damage(&hub, "DELETE FROM orders WHERE _key = 'o1'").await;
    damage(&hub, "UPDATE orders SET data = '{\"total\":99}' WHERE _key = 'o2'").await;
    damage(&hub, "UPDATE orders SET _version = 0 WHERE _key = 'o3'").await;
    damage(&hub, "UPDATE orders SET data = '{\"total\":0}' WHERE _key = 'o4'").await;
    damage(&hub, "INSERT INTO orders (_key, _version, _event_id, _time, _alpha, _lambda, _k, _deleted, data) \
         SELECT 'ghost', _version + 9000, _event_id, _time, _alpha, _lambda, _k, _deleted, data FROM orders WHERE _key = 'o5'").await;

    let all = lists([&["o1"], &["ghost"], &["o2", "o4"], &["o3"]]);
    assert_eq!(diff(&hub, &[]), all);
    assert_eq!(diff(&hub, &["--mode", "repair"]), lists([&["o1"], &[], &["o2", "o4"], &["o3"]]));
    assert_eq!(diff(&hub, &["--key", "o1", "--key", "o2", "--key", "o7"]), lists([&["o1"], &[], &["o2"], &[]]));
    assert_eq!(diff(&hub, &["--type", "order.paid"]), lists([&[], &[], &["o4"], &[]]));
    assert_eq!(diff(&hub, &["--correlation", "c3", "--correlation", "c6"]), lists([&[], &[], &[], &["o3"]]));
    assert_eq!(diff(&hub, &["--type", "order.paid", "--correlation", "c3"]), lists([&[], &[], &[], &[]]));
    let with = ["--sink", "all", "--from", "earliest", "--collection", "orders,parcels", "--diff"];
    let table = String::from_utf8(hub.command("replay", &with).stdout).unwrap();
    assert!(table.contains("4 records would be mended, 1 dropped; nothing was written"), "{table}");
    assert_eq!(diff(&hub, &[]), all, "nothing was written");

    // The type selects the entity, and what is written is its newest state, whatever its type.
    let done = repair(&hub, &["--type", "order.paid"]);
    assert_eq!((&done["mode"], &done["applied"]), (&json!("repair"), &json!(1)));
    assert_eq!(diff(&hub, &[]), lists([&["o1"], &["ghost"], &["o2"], &["o3"]]));
    repair(&hub, &["--correlation", "c3"]);
    assert_eq!(diff(&hub, &[]), lists([&["o1"], &["ghost"], &["o2"], &[]]));
    std::fs::write(hub.folder.path().join("keys.txt"), "o1\n\no2\r\no9\n").unwrap();
    let done = repair(&hub, &["--key-file", "keys.txt"]);
    assert_eq!(done["applied"], 3);
    assert_eq!(diff(&hub, &[]), lists([&[], &["ghost"], &[], &[]]));
    let events = hub.succeed("primalcore", &["state", "--collection", "orders", "--key", "o4", "--format", "json"]);
    assert!(events.contains("\"packed\""), "{events}");

    // Only a rebuild leaves out what has no event, and it takes whole collections.
    let with = ["--sink", "all", "--from", "earliest", "--collection", "orders,parcels", "--execute"];
    let told = hub.succeed("replay", &with);
    assert_eq!(told.matches("generation 2 is live").count(), 2, "{told}");
    assert_eq!(diff(&hub, &[]), lists([&[], &[], &[], &[]]));
    hub.verified(&["all"]);
}

#[test]
fn what_makes_no_sense_is_refused_embedded() {
    what_makes_no_sense_is_refused(&embedded());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_kafka() {
    what_makes_no_sense_is_refused(&on_kafka("sense", "").await);
}

fn what_makes_no_sense_is_refused(hub: &Hub) {
    publish(hub, &[of("order.placed", "c1", put("orders", "order-1", "e1", json!({ "total": 1 })))]);
    let file = hub.folder.path().join("primalcore.yaml");
    let down = "  down: { type: redis, url: \"redis://127.0.0.1:1\" }\n";
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + down).unwrap();
    std::fs::write(hub.folder.path().join("none.txt"), "\n").unwrap();
    let of = ["replay", "--sink", "all", "--collection", "orders"];
    let cases: [(&[&str], &str); 16] = [
        (&["--from", "1h", "--to", "2h"], "is after --to"),
        (&["--from", "now", "--to", "1h"], "is after --to"),
        (&["--from", "2999-01-01"], "--from 2999-01-01T00:00:00Z is in the future; it is "),
        (&["--from", "earliest", "--to", "2999-01-01T00:00"], "--to 2999-01-01T00:00:00Z is in the future; it is "),
        (
            &["--from", "earliest", "--to", "2013-01-07"],
            "is before the log's start: the first event of orders was recorded at",
        ),
        (&["--from", "earliest", "--key", "ordre-1"], "has the key \"ordre-1\", did you mean `order-1`?"),
        (&["--from", "earliest", "--type", "order.palced"], "did you mean `order.placed`?"),
        (&["--from", "earliest", "--correlation", "c2"], "has the correlation id \"c2\""),
        (&["--from", "earliest", "--key-file", "missing.txt"], "--key-file missing.txt cannot be read"),
        (&["--from", "earliest", "--key-file", "none.txt"], "has no key; expected one a line"),
        (&["--from", "earliest", "--mode", "shadow", "--type", "order.placed"], "go with --mode repair"),
        (&["--from", "earliest", "--into", "copy", "--type", "order.placed"], "name them with --key"),
        (&["--from", "earliest", "--rate", "fast"], "expected events per second, such as 500/s"),
        (&["--from", "earliest", "--budget", "200%"], "expected 0.1% to 100%"),
        (&["--from", "earliest", "--collection", "ordesr"], "did you mean `orders`?"),
        (&["--from", "earliest", "--into", "copy", "--diff"], "leave one out"),
    ];
    for (more, says) in cases {
        refused(hub, 2, &[&of[..], more].concat(), says);
    }
    refused(hub, 2, &["replay", "--sink", "all,fiel", "--from", "earliest"], "unknown sink \"fiel\"");
    refused(
        hub,
        1,
        &["replay", "--sink", "down", "--from", "earliest"],
        "sink down cannot be asked what it holds: unavailable",
    );
    // All that there is lies after it, so this is only told; and times without a zone are UTC.
    let told = hub.succeed("replay", &["--sink", "all", "--collection", "orders", "--from", "2013-01-07T12:00"]);
    assert!(told.contains("from 2013-01-07T12:00:00Z to the present end, by recorded time, UTC"), "{told}");
    assert!(told.contains("is before the log's start"), "{told}");
}

#[test]
fn a_replay_keeps_to_its_pace() {
    let mut hub = embedded();
    let events: Vec<Value> =
        (0..1_500).map(|i| put("orders", &format!("o{i}"), &format!("e{i}"), json!({ "total": i }))).collect();
    publish(&hub, &events);
    deliver(&mut hub);
    let took = |more: &[&str]| {
        let started = Instant::now();
        let with = ["--sink", "all", "--collection", "orders", "--from", "earliest", "--execute"];
        hub.succeed("replay", &[&with[..], more].concat());
        started.elapsed()
    };
    let plain = took(&[]);
    let rated = took(&["--rate", "500/s"]);
    assert!(rated >= Duration::from_millis(2_700) && rated < Duration::from_secs(8) + plain, "{rated:?}, {plain:?}");
    let rated = took(&["--rate", "500/s", "--mode", "repair"]);
    assert!(rated >= Duration::from_millis(2_700), "{rated:?}");
    // At least one write of a millisecond for each of three partitions.
    let sharing = took(&["--budget", "0.5%"]);
    assert!(sharing > plain + Duration::from_millis(500), "{sharing:?}, {plain:?}");
    hub.verified(&["all"]);
}

#[test]
fn several_sinks_are_rebuilt_side_by_side_embedded() {
    several_sinks_are_rebuilt_side_by_side(embedded());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_sinks_are_rebuilt_side_by_side_kafka() {
    several_sinks_are_rebuilt_side_by_side(on_kafka("side", "").await);
}

fn several_sinks_are_rebuilt_side_by_side(mut hub: Hub) {
    let events: Vec<Value> =
        (0..900).map(|i| put("orders", &format!("o{i}"), &format!("e{i}"), json!({ "total": i }))).collect();
    publish(&hub, &events);
    publish(&hub, &[put("parcels", "p", "parcel", json!({}))]);
    deliver(&mut hub);
    let started = Instant::now();
    let with =
        ["--sink", "all,each", "--sink", "rows", "--from", "earliest", "--collection", "orders", "--rate", "300/s"];
    let told = hub.succeed("replay", &[&with[..], &["--execute"]].concat());
    assert_eq!(told.matches("generation 2 is live").count(), 3, "{told}");
    // One after the other it would be nine seconds.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    hub.verified(&["all", "each", "rows"]);
    refused(
        &hub,
        2,
        &["replay", "--sink", "all,rows", "--from", "earliest", "--collection", "parcels"],
        "takes no collection",
    );
}

#[test]
fn what_is_left_over_is_listed_and_dropped_embedded() {
    what_is_left_over_is_listed_and_dropped(embedded());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_over_is_listed_and_dropped_kafka() {
    what_is_left_over_is_listed_and_dropped(on_kafka("left", "").await);
}

fn what_is_left_over_is_listed_and_dropped(mut hub: Hub) {
    publish(&hub, &[put("orders", "o1", "e1", json!({ "total": 1 })), put("parcels", "p", "parcel", json!({}))]);
    deliver(&mut hub);
    let gc = |more: &[&str]| -> Vec<Value> {
        serde_json::from_str(&hub.succeed("replay", &[&["gc", "--sink", "all", "--json"], more].concat())).unwrap()
    };
    assert!(gc(&["--older-than", "0"]).is_empty());
    hub.succeed("replay", &["--sink", "all", "--from", "earliest", "--execute"]);
    let listed = gc(&[]);
    let said = |left: &Value| [&left["collection"], &left["place"], &left["why"], &left["old"]].map(Value::clone);
    assert_eq!(
        listed.iter().map(said).collect::<Vec<_>>(),
        [
            [json!("orders"), json!("orders__g1"), json!("previous"), json!(false)],
            [json!("parcels"), json!("parcels__g1"), json!("previous"), json!(false)]
        ]
    );
    assert!(listed[0]["since"].is_string());
    // What is not old stays, also with --execute; and what is only listed stays.
    gc(&["--execute"]);
    assert_eq!(gc(&["--older-than", "0"]).len(), 2);
    hub.succeed("replay", &["--sink", "all", "--rollback", "--collection", "orders"]);
    let dropped = gc(&["--older-than", "0", "--execute"]);
    assert_eq!(dropped.iter().map(|left| left["place"].clone()).collect::<Vec<_>>(), ["orders__g2", "parcels__g1"]);
    assert!(gc(&["--older-than", "0"]).is_empty());
    refused(
        &hub,
        2,
        &["replay", "--sink", "all", "--rollback", "--collection", "orders"],
        "keeps no previous generation",
    );
    refused(&hub, 2, &["replay", "gc", "--older-than", "soon"], "is no span of time");
    hub.verified(&["all"]);
}

#[test]
fn a_stopped_worker_says_why_embedded() {
    a_stopped_worker_says_why(embedded());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_says_why_kafka() {
    a_stopped_worker_says_why(on_kafka("stopped", "").await);
}

fn a_stopped_worker_says_why(mut hub: Hub) {
    publish(&hub, &[put("orders", "o1", "e1", json!({ "total": 1 }))]);
    deliver(&mut hub);
    let replay = |hub: &Hub, sink: &str, more: &[&str]| {
        let of = ["--sink", sink, "--collection", "orders"];
        let output = hub.command("replay", &[&of[..], more].concat());
        let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success(), "{texts:?}");
        texts
    };
    let plan = |hub: &Hub, sink: &str| replay(hub, sink, &["--from", "earliest"])[0].clone();
    // It ended in good order, and there is nothing to say.
    assert!(!plan(&hub, "rows").contains("the worker of"), "{}", plan(&hub, "rows"));

    let schema = r#"{"type":"object","properties":{"total":{"type":"number"}}}"#;
    std::fs::write(hub.folder.path().join("orders.json"), schema).unwrap();
    hub.start();
    let row = |rows: &[Value]| rows.iter().find(|row| row["sink"] == "rows").unwrap().clone();
    hub.wait("stopping", Duration::from_secs(30), |rows| row(rows)["state"] == "failed");
    let why = row(&hub.status())["error"].as_str().unwrap().to_owned();
    let told = plan(&hub, "rows");
    assert!(told.contains("note: the worker of rows stopped at 20") && told.contains(&why), "{why}: {told}");
    let [printed, _] = replay(&hub, "rows", &["--from", "earliest", "--json"]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let is_told = |note: &Value| note.as_str().unwrap().contains(&why);
    assert!(printed["notes"].as_array().unwrap().iter().any(is_told), "{printed}");
    assert!(!plan(&hub, "all").contains("the worker of"));

    // The rebuild is what mends it; that the worker has to be started again is said at the end.
    let [done, told] = replay(&hub, "rows", &["--from", "earliest", "--execute", "--json"]);
    assert!(done.contains("\"generation\":2") || done.contains("\"generation\": 2"), "{done}");
    assert!(told.contains("note: the worker of rows stopped at 20") && told.contains(&why), "{why}: {told}");
    let [_, told] = replay(&hub, "rows", &["--rollback"]);
    assert!(told.contains(&why), "{told}");
    replay(&hub, "rows", &["--rollback"]);
    hub.kill();
    publish(&hub, &[put("orders", "o2", "e2", json!({ "total": 2.5 }))]);
    hub.start();
    hub.caught_up();
    assert!(!plan(&hub, "rows").contains("the worker of"));
    let [_, told] = replay(&hub, "rows", &["--from", "earliest", "--execute"]);
    assert!(!told.contains("the worker of"), "{told}");
    hub.terminate();
    hub.verified(&["rows"]);
}
