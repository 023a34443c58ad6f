//! The life of a dead letter: refused and parked, then the cause is mended, redriven in order, and from then on part of every
//! rebuild.

use std::path::Path;

use serde_json::Value;

use primal_tests::Hub;

/// JSON Schema calls this an integer; no 64-bit column can hold it.
const TOO_LARGE: &str = "9223372036854775808";

fn schema(folder: &Path, kind: &str) {
    let text = format!(r#"{{"type":"object","properties":{{"n":{{"type":"{kind}"}}}}}}"#);
    std::fs::write(folder.join("things.json"), text).unwrap();
}

fn publish(hub: &Hub, events: &[(&str, &str)]) {
    let line =
        |(key, n): &(&str, &str)| format!("{{\"collection\":\"things\",\"key\":\"{key}\",\"data\":{{\"n\":{n}}}}}\n");
    std::fs::write(hub.folder.path().join("events.ndjson"), events.iter().map(line).collect::<String>()).unwrap();
    hub.succeed("primalcore", &["publish", "events.ndjson"]);
}

/// Lets the workers bring everything to the store.
fn deliver(hub: &mut Hub) {
    hub.start();
    hub.caught_up();
    hub.terminate();
}

fn rebuild(hub: &Hub) {
    hub.succeed("replay", &["--sink", "file", "--from", "earliest", "--execute"]);
}

/// What verification says: records, and dead letters left out.
fn verified(hub: &Hub) -> (u64, u64) {
    hub.verified(&["file"]);
    let printed = hub.succeed("primalcore", &["audit", "verify", "--sink", "file", "--json"]);
    let reports: Value = serde_json::from_str(&printed).unwrap();
    (reports[0]["verified"].as_u64().unwrap(), reports[0]["dead_letters"].as_u64().unwrap())
}

fn letters(hub: &Hub) -> Vec<(String, String)> {
    let printed = hub.succeed("primalcore", &["dlq", "list", "--sink", "file", "--json"]);
    let letters: Vec<Value> = serde_json::from_str(&printed).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    letters.iter().map(|letter| (text(&letter["key"]), text(&letter["kind"]))).collect()
}

#[test]
fn a_redriven_event_is_a_dead_letter_no_more() {
    let mut hub = Hub::new(
        "log: { embedded: { path: log.db } }\n\
         collections: { things: { partitions: 2, schema: things.json } }\n\
         sinks: { file: { type: sqlite, path: hub.sqlite, projection: table } }\n",
    );
    let folder = hub.folder.path().to_owned();
    schema(&folder, "integer");
    publish(&hub, &[("a", "1"), ("bad", "1"), ("bad", TOO_LARGE), ("b", "2")]);
    deliver(&mut hub);
    publish(&hub, &[("bad", "5"), ("bad", "6")]);
    deliver(&mut hub);
    let named = |kind: &str| ("bad".to_owned(), kind.to_owned());
    assert_eq!(letters(&hub), [named("rejected"), named("parked"), named("parked")]);
    assert_eq!(verified(&hub).1, 3);

    // While the cause is there, it stays refused.
    let refused = hub.command("primalcore", &["dlq", "redrive", "--sink", "file"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("\"bad\" is refused still"));
    assert_eq!(letters(&hub).len(), 3);

    // The column's type is changed: a new generation is built, and it leaves the letters out as the old one did.
    schema(&folder, "number");
    rebuild(&hub);
    assert_eq!(verified(&hub).1, 3);
    let done = hub.succeed("primalcore", &["dlq", "redrive", "--sink", "file"]);
    assert!(done.contains("1 keys released") && done.contains("3 records written"), "{done}");
    assert!(letters(&hub).is_empty());
    assert_eq!(verified(&hub), (3, 0));

    // What comes now is applied, and a rebuild holds all of it.
    publish(&hub, &[("bad", "7")]);
    deliver(&mut hub);
    assert_eq!(verified(&hub), (3, 0));
    rebuild(&hub);
    assert_eq!(verified(&hub), (3, 0));
    hub.succeed("replay", &["--sink", "file", "--rollback"]);
    assert_eq!(verified(&hub), (3, 0));
}
