//! Seals: an event is proved to somebody who has nothing but the proof and the public key, and whatever a forger changes in
//! the log's file is named by its offset.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use primal_tests::Hub;
use serde_json::{Value, json};
use sqlx::{Connection, Row, SqliteConnection};

use crate::kafka::kafka;

const EVENTS: usize = 6_000;

fn hub(log: &str) -> Hub {
    let hub = Hub::new(&format!(
        "log: {{ {log} }}\naudit: {{ key: hub.key, seal_every_s: 1 }}\ncollections:\n  orders: {{ partitions: 2 }}\n"
    ));
    let public = hub.succeed("primalcore", &["audit", "keygen", "--out", "hub.key", "--name", "hub.example/audit"]);
    std::fs::write(hub.folder.path().join("public"), public).unwrap();
    hub
}

fn embedded() -> Hub {
    hub("embedded: { path: log.db }")
}

fn lines(from: usize, to: usize) -> Vec<String> {
    let event = |n: usize| {
        let (key, id) = (format!("order-{}", n % 500), format!("e{n}"));
        json!({ "collection": "orders", "key": key, "id": id, "data": { "mark": format!("m{n:06}") } }).to_string()
    };
    (from..to).map(event).collect()
}

/// Where an event stands.
fn place(hub: &Hub, id: &str) -> (i64, i64) {
    let found = hub.succeed("primalcore", &["audit", "event", id, "--format", "json"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    (found[0]["partition"].as_i64().unwrap(), found[0]["offset"].as_i64().unwrap())
}

fn ends(hub: &Hub, code: i32, arguments: &[&str]) -> (String, String) {
    let output = hub.command("primalcore", arguments);
    let told = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (data, remarks) = (told(&output.stdout), told(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {data}{remarks}");
    (data, remarks)
}

const CONSISTENCY: &[&str] = &["audit", "consistency", "--collection", "orders"];

/// What `audit consistency` finds, by partition: offset and what is wrong.
fn found(hub: &Hub, code: i32, more: &[&str]) -> Vec<Vec<(Option<i64>, String)>> {
    let (data, _) = ends(hub, code, &[CONSISTENCY, &["--json"], more].concat());
    let reports: Vec<Value> = serde_json::from_str(&data).unwrap();
    let finding = |finding: &Value| (finding["offset"].as_i64(), finding["what"].as_str().unwrap().to_owned());
    reports.iter().map(|r| r["findings"].as_array().unwrap().iter().map(finding).collect()).collect()
}

/// What a forger does who knows the log's file: changes batches of a topic, checksums included.
async fn forge(hub: &Hub, topic: &str, mut change: impl FnMut(&mut Vec<u8>) -> bool) {
    let path = hub.folder.path().join("log.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let rows = "SELECT b.rowid, b.body FROM batches b JOIN topics t ON t.id = b.topic WHERE t.name = ?";
    let mut changed = 0;
    for row in sqlx::query(rows).bind(topic).fetch_all(&mut connection).await.unwrap() {
        let mut body: Vec<u8> = row.get(1);
        if change(&mut body) {
            changed += sqlx::query("UPDATE batches SET body = ?, checksum = ? WHERE rowid = ?")
                .bind(&body)
                .bind(i64::from(crc32fast::hash(&body)))
                .bind(row.get::<i64, _>(0))
                .execute(&mut connection)
                .await
                .unwrap()
                .rows_affected();
        }
    }
    assert!(changed > 0, "nothing was changed");
    connection.close().await.unwrap();
}

/// Replaces bytes by as many others.
fn replace(body: &mut [u8], old: &str, new: &str) -> bool {
    assert_eq!(old.len(), new.len());
    let Some(at) = body.windows(old.len()).position(|window| window == old.as_bytes()) else { return false };
    body[at..at + new.len()].copy_from_slice(new.as_bytes());
    true
}

#[test]
fn an_event_is_proved_to_a_stranger_embedded() {
    an_event_is_proved_to_a_stranger(&embedded());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_proved_to_a_stranger_kafka() {
    let bootstrap = kafka().await.bootstrap;
    let prefix = format!("seals-{}-", std::process::id());
    let hub = hub(&format!("kafka: {{ bootstrap: \"{bootstrap}\", topic_prefix: \"{prefix}\" }}"));
    an_event_is_proved_to_a_stranger(&hub);
}

fn an_event_is_proved_to_a_stranger(hub: &Hub) {
    hub.publish(&lines(0, EVENTS));
    let (_, told) = ends(hub, 2, &["audit", "prove", "e77"]);
    assert!(told.contains("is not sealed as far as offset") && told.contains("`primalcore audit seal`"), "{told}");
    let table = hub.succeed("primalcore", &["audit", "seal"]);
    assert!(table.contains("orders/0/0") && table.contains("orders/1/0"), "{table}");
    assert!(ends(hub, 0, &["audit", "seal"]).1.contains("everything is sealed already"));
    hub.succeed("primalcore", &["audit", "prove", "e77", "--out", "proof.json"]);

    // The stranger has a folder of their own with two files in it.
    let stranger = Hub::new("");
    std::fs::remove_file(stranger.folder.path().join("primalcore.yaml")).unwrap();
    for file in ["proof.json", "public"] {
        std::fs::copy(hub.folder.path().join(file), stranger.folder.path().join(file)).unwrap();
    }
    let line = stranger.succeed("primalcore", &["audit", "check", "proof.json", "--key", "public"]);
    let (partition, offset) = place(hub, "e77");
    assert!(line.starts_with(&format!("event e77 at offset {offset} is leaf {offset} of ")), "{line}");
    assert!(line.contains(&format!("orders/{partition}/0, signed by hub.example/audit+")), "{line}");
    assert_eq!(line.lines().count(), 1);
    let public = std::fs::read_to_string(stranger.folder.path().join("public")).unwrap();
    stranger.succeed("primalcore", &["audit", "check", "proof.json", "--key", public.trim()]);

    // Another key, another payload, no proof at all.
    let other =
        stranger.succeed("primalcore", &["audit", "keygen", "--out", "other.key", "--name", "hub.example/audit"]);
    let (_, told) = ends(&stranger, 3, &["audit", "check", "proof.json", "--key", other.trim()]);
    assert!(told.contains("proof.json proves nothing: the checkpoint is not signed by hub.example/audit+"), "{told}");
    let proof = std::fs::read_to_string(stranger.folder.path().join("proof.json")).unwrap();
    let forged = proof.replace("\"text\": \"e77\"", "\"text\": \"e78\"");
    assert_ne!(forged, proof);
    for (forged, says) in [(forged, "lead to the root"), ("{}".to_owned(), "this is no proof")] {
        std::fs::write(stranger.folder.path().join("forged.json"), forged).unwrap();
        let (data, told) = ends(&stranger, 3, &["audit", "check", "forged.json", "--key", "public"]);
        assert!(data.is_empty() && told.contains(says), "{told}");
    }
    ends(&stranger, 2, &["audit", "check", "proof.json", "--key", "other.key"]);
    ends(&stranger, 2, &["audit", "check", "absent.json", "--key", "public"]);

    // More events, more checkpoints; what was given away stays true.
    hub.publish(&lines(EVENTS, EVENTS + 50));
    assert!(hub.succeed("primalcore", CONSISTENCY).contains("as sealed"));
    hub.succeed("primalcore", &["audit", "seal"]);
    assert_eq!(found(hub, 0, &["--kept", "proof.json"]), [vec![], vec![]]);
    hub.succeed("primalcore", &["audit", "prove", &format!("e{}", EVENTS + 49)]);
    hub.succeed("primalcore", &["audit", "prove", "--since", "proof.json", "--out", "growth.json"]);
    std::fs::copy(hub.folder.path().join("growth.json"), stranger.folder.path().join("growth.json")).unwrap();
    let line = stranger.succeed("primalcore", &["audit", "check", "growth.json", "--key", "public"]);
    assert!(line.contains(" has only grown from "), "{line}");
    ends(&stranger, 3, &["audit", "check", "growth.json", "--key", other.trim()]);
    let (_, told) = ends(hub, 3, &[CONSISTENCY, &["--key", other.trim()]].concat());
    assert!(told.contains("orders is not as it was sealed"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_record_is_named_by_its_offset() {
    let hub = embedded();
    hub.publish(&lines(0, EVENTS));
    hub.succeed("primalcore", &["audit", "seal"]);
    assert_eq!(found(&hub, 0, &[]), [vec![], vec![]]);
    let altered: Vec<_> = ["e123", "e124", "e5123"].map(|id| place(&hub, id)).into();
    forge(&hub, "orders", |body| {
        // A digit of a payload, one of an id, and one of a key beside a payload's.
        let done = [
            replace(body, "m000123", "m000923"),
            replace(body, "\u{4}\0\0\0e124", "\u{4}\0\0\0e924"),
            replace(body, "order-123", "order-723") && replace(body, "m005123", "m005124"),
        ];
        done.contains(&true)
    })
    .await;
    let differences = found(&hub, 3, &[]);
    let mut named = Vec::new();
    for (partition, findings) in differences.iter().enumerate() {
        for (offset, what) in findings {
            assert_eq!(what, "the record is not the one that was sealed");
            named.push((partition as i64, offset.unwrap()));
        }
    }
    for place in &altered {
        assert!(named.contains(place), "{place:?} is not among {named:?}");
    }
    assert!(named.len() <= 5, "{named:?}");
    let (data, told) = ends(&hub, 3, CONSISTENCY);
    let (partition, offset) = altered[0];
    let line = format!("primalcore/orders/{partition}/0: offset {offset} (block ");
    assert!(data.contains(&line) && told.contains("orders is not as it was sealed"), "{data}{told}");

    // The altered event is not proved any more, all others are.
    let (_, told) = ends(&hub, 3, &["audit", "prove", "e123"]);
    assert!(
        told.contains(&format!("the record at offset {offset} of orders/{partition} is not the sealed one")),
        "{told}"
    );
    hub.succeed("primalcore", &["audit", "prove", "e2000", "--out", "proof.json"]);
    hub.succeed("primalcore", &["audit", "check", "proof.json", "--key", "public"]);
    // What is sealed from now on does not make it good.
    hub.publish(&lines(EVENTS, EVENTS + 10));
    hub.succeed("primalcore", &["audit", "seal"]);
    assert_eq!(found(&hub, 3, &[]), differences);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_byte_in_the_file_is_named() {
    let hub = embedded();
    for part in 0..6 {
        hub.publish(&lines(part * 1_000, (part + 1) * 1_000));
    }
    hub.succeed("primalcore", &["audit", "seal"]);
    // Whoever flips it does not mend the checksum.
    let path = hub.folder.path().join("log.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let mut file = std::fs::read(&path).unwrap();
    // One that does not lie across two pages.
    let whole = |n: &usize| file.windows(7).any(|window| window == format!("m{n:06}").as_bytes());
    let n = (3_500..3_510).find(whole).unwrap();
    let (partition, offset) = place(&hub, &format!("e{n}"));
    assert!(replace(&mut file, &format!("m{n:06}"), &format!("m{:06}", n + 1)));
    std::fs::write(&path, file).unwrap();

    let (data, _) = ends(&hub, 3, &[CONSISTENCY, &["--json"]].concat());
    let reports: Vec<Value> = serde_json::from_str(&data).unwrap();
    for (number, report) in (0..).zip(&reports) {
        let findings = report["findings"].as_array().unwrap();
        let ranges = findings.iter().map(|finding| {
            assert!(finding["what"].as_str().unwrap().contains("cannot be read: the batch at offset"), "{finding}");
            finding["block"][0].as_i64().unwrap()..finding["block"][1].as_i64().unwrap()
        });
        let ranges: Vec<_> = ranges.collect();
        assert_eq!(ranges.iter().any(|range| range.contains(&offset)), number == partition, "{report:#}");
        // A batch of a thousand events over two partitions, and what its blocks have beside it.
        let unreadable: i64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert!(unreadable < 2_500, "{report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_bit_in_a_segment_of_kafka_is_named() {
    let bootstrap = kafka().await.bootstrap;
    let prefix = format!("flipped-{}-", std::process::id());
    let hub = hub(&format!("kafka: {{ bootstrap: \"{bootstrap}\", topic_prefix: \"{prefix}\" }}"));
    for part in 0..6 {
        hub.publish(&lines(part * 1_000, (part + 1) * 1_000));
    }
    hub.succeed("primalcore", &["audit", "seal"]);
    assert_eq!(found(&hub, 0, &[]), [vec![], vec![]]);
    let servers = std::fs::read_dir(std::env::temp_dir().join("primalcore-tests")).unwrap();
    let segment = format!("logs/{prefix}orders-0/00000000000000000000.log");
    let path = servers.map(|server| server.unwrap().path().join(&segment)).find(|path| path.exists()).unwrap();
    let mut file = std::fs::read(&path).unwrap();
    // The last byte of a batch in the middle: base offset (8 bytes), length of what follows (4 bytes), and that.
    let mut at = 0;
    while at <= file.len() / 2 {
        at += 12 + u32::from_be_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    file[at - 1] ^= 1;
    let disk = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&disk, &file[at - 1..at], at as u64 - 1).unwrap();
    let findings = found(&hub, 3, &[]);
    let is_named = |(_, what): &(Option<i64>, String)| what.contains("cannot be read: the batch at offset");
    assert!(!findings[0].is_empty() && findings[0].iter().all(is_named) && findings[1].is_empty(), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_seals_that_were_taken_away_or_made_anew_are_noticed() {
    let hub = embedded();
    hub.publish(&lines(0, 100));
    hub.publish(&lines(100, 200));
    hub.succeed("primalcore", &["audit", "seal"]);
    hub.succeed("primalcore", &["audit", "prove", "e150", "--out", "proof.json"]);
    hub.publish(&lines(200, 300));
    hub.succeed("primalcore", &["audit", "seal"]);
    let path = hub.folder.path().join("log.db");
    let keep = hub.folder.path().join("keep.db");
    let sql = async |statement: &str| {
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        assert!(
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap().rows_affected() > 0
        );
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    };
    sql("UPDATE ends SET recorded = recorded").await;
    std::fs::copy(&path, &keep).unwrap();
    let again = || {
        for rest in ["log.db-wal", "log.db-shm"] {
            let _ = std::fs::remove_file(hub.folder.path().join(rest));
        }
        std::fs::copy(&keep, &path).map(drop).unwrap();
    };

    // A batch of records.
    let of = |name: &str| format!("topic = (SELECT id FROM topics WHERE name = '{name}')");
    let middle = "base > 0 AND base = (SELECT min(base) FROM batches b WHERE b.topic = batches.topic AND base > 0 AND \
                  b.partition = batches.partition)";
    sql(&format!("DELETE FROM batches WHERE {} AND partition = 0 AND {middle}", of("orders"))).await;
    let findings = found(&hub, 3, &[]);
    assert!(
        findings[0].len() > 5 && findings[0].iter().all(|(_, what)| what == "the record is missing"),
        "{findings:?}"
    );
    assert!(findings[1].is_empty());

    // A hash in a block: the records are still as they were signed.
    again();
    forge(&hub, "primal.checkpoints", |body| {
        let last = body.len() - 1;
        body[last] ^= 1;
        true
    })
    .await;
    let findings = found(&hub, 3, &[]).concat();
    let says = |what: &str| findings.iter().any(|(offset, found)| offset.is_none() && found.contains(what));
    assert!(says("but the hashes in the block are not"), "{findings:?}");

    // The last checkpoints, and the state that knows of them.
    again();
    sql(&format!("DELETE FROM batches WHERE {} AND base >= 2", of("primal.checkpoints"))).await;
    let findings = found(&hub, 3, &[]);
    assert!(findings.iter().all(|of| of[0].1.contains("records were sealed, the blocks have")), "{findings:?}");

    // All seals, and sealed anew over altered records: only what somebody kept shows it.
    again();
    sql(&format!("DELETE FROM batches WHERE {}", of("primal.checkpoints"))).await;
    sql(&format!("DELETE FROM batches WHERE {}", of("primal.seals"))).await;
    forge(&hub, "orders", |body| replace(body, "m000150", "m000950")).await;
    hub.succeed("primalcore", &["audit", "seal"]);
    assert_eq!(found(&hub, 0, &[]), [vec![], vec![]]);
    let findings = found(&hub, 3, &["--kept", "proof.json"]).concat();
    assert!(findings.len() == 1 && findings[0].1.contains("has the root"), "{findings:?}");
}

#[test]
fn a_running_hub_seals_by_itself() {
    let mut hub = embedded();
    hub.start();
    hub.publish(&lines(0, 2_500));
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let (data, _) = ends(&hub, 0, &[CONSISTENCY, &["--json"]].concat());
        let reports: Vec<Value> = serde_json::from_str(&data).unwrap();
        if reports.iter().map(|report| report["sealed"].as_u64().unwrap()).sum::<u64>() == 2_500 {
            break;
        }
        assert!(Instant::now() < until, "{data}\n{}", hub.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    hub.succeed("primalcore", &["audit", "prove", "e2499"]);
    hub.kill();
    let key: PathBuf = hub.folder.path().join("hub.key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let (_, told) = ends(&hub, 1, &["audit", "keygen", "--out", "hub.key"]);
    assert!(told.contains("exists"), "{told}");
    std::fs::remove_file(key).unwrap();
    let (_, told) = ends(&hub, 2, &["audit", "seal"]);
    assert!(told.contains("`primalcore audit keygen --out hub.key` makes one"), "{told}");
}
