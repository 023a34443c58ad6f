//! The archive through the real program: everything is answered as before when the log has lost what was archived, and
//! whatever is missing is named.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use primal_tests::{Hub, program};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use crate::kafka::kafka;
use crate::told::refused;

/// Events before there is an archive.
const EVENTS: usize = 3_000;

/// A hub whose archive is the folder `archive` beside its config; `more` goes into its settings.
fn hub(log: &str, more: &str) -> Hub {
    let hub = Hub::new("");
    let url = format!("file://{}/archive", hub.folder.path().display());
    write(&hub, &config(log, &format!("archive: {{ url: \"{url}\"{more} }}\n"), ""));
    hub
}

fn config(log: &str, archive: &str, sinks: &str) -> String {
    format!(
        "log: {{ {log} }}\n{archive}audit: {{ key: hub.key, seal_every_s: 3600 }}\n\
         collections:\n  orders: {{ partitions: 2, schema: orders.json }}\n\
         sinks:\n  file: {{ type: sqlite, path: file.sqlite, projection: table }}\n{sinks}"
    )
}

fn write(hub: &Hub, config: &str) {
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer"},"note":{"type":"string"}}}"#;
    std::fs::write(hub.folder.path().join("orders.json"), schema).unwrap();
    std::fs::write(hub.folder.path().join("primalcore.yaml"), config).unwrap();
}

fn read_config(hub: &Hub) -> String {
    std::fs::read_to_string(hub.folder.path().join("primalcore.yaml")).unwrap()
}

const EMBEDDED: &str = "embedded: { path: log.db }";

fn lines(from: usize, to: usize) -> Vec<String> {
    let event = |n: usize| {
        let (key, id) = (format!("order-{}", n % 300), format!("e{n}"));
        let mut event = json!({ "collection": "orders", "key": key, "id": id, "type": "order.changed",
            "data": { "n": n, "note": format!("note {n} é") }, "extensions": { "actor": format!("a{}", n % 7) } });
        if n % 19 == 5 {
            event["op"] = "delete".into();
            event.as_object_mut().unwrap().remove("data");
        }
        event.to_string()
    };
    (from..to).map(event).collect()
}

/// What a command prints on both outputs, with its exit code.
fn ends(hub: &Hub, code: i32, arguments: &[&str]) -> (String, String) {
    let output = hub.command("primalcore", arguments);
    let told = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (data, remarks) = (told(&output.stdout), told(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {data}{remarks}");
    (data, remarks)
}

fn json_of(hub: &Hub, arguments: &[&str]) -> Value {
    serde_json::from_str(&hub.succeed("primalcore", arguments)).unwrap()
}

/// Questions about the past, of every kind that reads the log.
fn answers(hub: &Hub, middle: &str) -> Vec<String> {
    let of = ["state", "--collection", "orders", "--key", "order-7", "--format", "json"];
    let sql = "SELECT count(*), sum(n), max(note) FROM orders";
    let asked: [Vec<&str>; 8] = [
        [&of[..], &["--history"]].concat(),
        [&of[..], &["--as-of", middle]].concat(),
        [&of[..], &["--as-of", "earliest"]].concat(),
        vec!["query", sql, "--as-of", middle, "--format", "json"],
        vec!["query", sql, "--format", "csv"],
        vec!["audit", "log", "--from", "earliest", "--to", middle, "--format", "json", "--limit", "100000"],
        vec!["audit", "event", "e5", "--format", "json"],
        vec!["audit", "consistency", "--collection", "orders", "--json"],
    ];
    asked.iter().map(|arguments| hub.succeed("primalcore", arguments)).collect()
}

/// Whether the log alone holds nothing.
fn is_emptied(hub: &Hub) -> bool {
    let table = hub.succeed("primalcore", &["topics"]);
    let row = table.lines().find(|line| line.contains("orders")).unwrap();
    row.split_whitespace().filter(|cell| *cell == "3,000").count() == 3
}

fn records(reports: &Value) -> u64 {
    reports.as_array().unwrap().iter().map(|report| report["records"].as_u64().unwrap()).sum()
}

#[test]
fn everything_is_answered_from_the_archive_embedded() {
    let hub = hub(EMBEDDED, "");
    everything_is_answered_from_the_archive(hub);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_answered_from_the_archive_kafka() {
    let bootstrap = kafka().await.bootstrap;
    let log = format!(
        "kafka: {{ bootstrap: \"{bootstrap}\", topic_prefix: \"archive-{}-\", session_timeout_ms: 6000 }}",
        std::process::id()
    );
    let hub = hub(&log, "");
    tokio::task::block_in_place(|| everything_is_answered_from_the_archive(hub));
}

/// The same with the archive in a bucket; run by `cargo xtask test --all`.
mod seaweedfs {
    use super::*;

    #[test]
    fn everything_is_answered_from_a_bucket() {
        let endpoint = primal_tests::shared("seaweedfs");
        let hub = Hub::new("");
        let s3 = format!("endpoint: \"{endpoint}\", access_key: primalcore, secret_key: primalcore-secret, region: a");
        let archive = format!("archive: {{ url: \"s3://primalcore/cold/{}\", s3: {{ {s3} }} }}\n", std::process::id());
        write(&hub, &config(EMBEDDED, &archive, ""));
        everything_is_answered_from_the_archive(hub);
        let hub = Hub::new("");
        write(&hub, &config(EMBEDDED, &archive.replace("cold", "two"), ""));
        archivers_at_a_time(&hub);
        let wrong = Hub::new("");
        write(&wrong, &config(EMBEDDED, &archive.replace("-secret", "-other"), ""));
        wrong.succeed("primalcore", &["audit", "keygen", "--out", "hub.key", "--name", "hub.example/audit"]);
        wrong.publish(&lines(0, 10));
        refused(&wrong, 1, &["archive", "--after", "0s"], "the archive's s3://primalcore/cold/");
    }
}

fn everything_is_answered_from_the_archive(mut hub: Hub) {
    hub.succeed("primalcore", &["audit", "keygen", "--out", "hub.key", "--name", "hub.example/audit"]);
    hub.start();
    for part in 0..6 {
        hub.publish(&lines(part * 500, (part + 1) * 500));
    }
    hub.caught_up();
    hub.kill();
    hub.succeed("primalcore", &["audit", "seal"]);
    let event = json_of(&hub, &["audit", "event", "e1500", "--format", "json"]);
    let middle = event[0]["recorded"].as_str().unwrap().to_owned();
    let before = answers(&hub, &middle);

    let done = json_of(&hub, &["archive", "--after", "0s", "--keep", "0s", "--json"]);
    assert_eq!((records(&done["archived"]), done["dropped"].as_array().unwrap().len()), (3_000, 2), "{done:#}");
    assert!(is_emptied(&hub), "{}", hub.succeed("primalcore", &["topics"]));
    assert_eq!(records(&json_of(&hub, &["archive", "list", "--json"])), 3_000);
    let (_, told) = ends(&hub, 0, &["archive", "--after", "0s"]);
    assert!(told.contains("is archived already"), "{told}");

    // Without the archive nothing of it is left; with it, all is as it was.
    let whole = read_config(&hub);
    let line = whole.lines().find(|line| line.starts_with("archive:")).unwrap();
    write(&hub, &whole.replace(line, ""));
    assert_eq!(hub.succeed("primalcore", &["audit", "log", "--from", "earliest", "--format", "json"]), "");
    write(&hub, &whole);
    for (now, before) in answers(&hub, &middle).iter().zip(&before) {
        assert_eq!(now, before);
    }
    hub.succeed("primalcore", &["audit", "prove", "e5", "--out", "proof.json"]);
    hub.verified(&["file"]);

    // A rebuild, a repair, and a sink that was not there before, while events go on.
    hub.succeed("replay", &["--sink", "file", "--from", "earliest", "--mode", "shadow", "--execute"]);
    hub.succeed("replay", &["--sink", "file", "--from", &middle, "--key", "order-9", "--mode", "repair", "--execute"]);
    hub.verified(&["file"]);
    write(&hub, &format!("{whole}  fresh: {{ type: sqlite, path: fresh.sqlite, projection: events }}\n"));
    hub.start();
    hub.publish(&lines(EVENTS, EVENTS + 500));
    hub.caught_up();
    hub.kill();
    hub.verified(&["file", "fresh"]);
    let rows = hub.status();
    let fresh = rows.iter().find(|row| row["sink"] == "fresh").unwrap();
    assert_eq!((&fresh["position"], &fresh["rejected"]), (&json!(3_500), &json!(0)));

    // What came since goes on behind the first files.
    hub.succeed("primalcore", &["archive", "--after", "0s"]);
    let reports = json_of(&hub, &["archive", "verify", "--json"]);
    let in_log: u64 = reports.as_array().unwrap().iter().map(|report| report["in_log"].as_u64().unwrap()).sum();
    assert_eq!((records(&reports), in_log), (3_500, 500), "{reports:#}");
    // What is only in the archive is sealed all the same.
    hub.publish(&lines(EVENTS + 500, EVENTS + 600));
    hub.succeed("primalcore", &["archive", "--after", "0s", "--keep", "0s"]);
    let table = hub.succeed("primalcore", &["audit", "seal"]);
    assert!(table.contains("orders/0/0") && table.contains("orders/1/0"), "{table}");
    let table = hub.succeed("primalcore", &["audit", "consistency", "--collection", "orders"]);
    assert_eq!(table.matches("as sealed").count(), 2, "{table}");
}

/// The files of the archive whose names end so.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path, end)),
            false if path.to_string_lossy().ends_with(end) => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

fn archived(more: &str) -> Hub {
    let hub = hub(EMBEDDED, more);
    hub.succeed("primalcore", &["audit", "keygen", "--out", "hub.key", "--name", "hub.example/audit"]);
    hub.publish(&lines(0, 400));
    hub.succeed("primalcore", &["archive", "--after", "0s", "--keep", "0s"]);
    hub
}

const LOG: &[&str] = &["audit", "log", "--from", "earliest"];
const QUERY: &[&str] = &["query", "SELECT count(*) FROM orders"];
const STATE: &[&str] = &["state", "--collection", "orders", "--key", "order-1"];

#[test]
fn what_is_missing_or_altered_is_named_and_ends_with_3() {
    let hub = archived("");
    let archive = hub.folder.path().join("archive");
    for end in [".parquet", ".json"] {
        let path = files(&archive, end).remove(0);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        for bytes in [Some(&bad), None] {
            match bytes {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            // What a changed manifest says may be found to be wrong of its file.
            let named = if end == ".json" && bytes.is_some() { path.parent().unwrap() } else { &*path };
            let named = named.to_str().unwrap();
            let (data, told) = ends(&hub, 3, &["archive", "verify"]);
            assert!(data.contains(named) && told.contains("is not as it was written"), "{data}{told}");
            for command in [LOG, QUERY] {
                let (_, told) = ends(&hub, 3, command);
                assert!(told.contains(named), "{told}");
            }
            std::fs::write(&path, &good).unwrap();
        }
    }
    hub.succeed("primalcore", &["archive", "verify"]);
    std::fs::rename(&archive, archive.with_extension("away")).unwrap();
    let folder = format!("the archive's folder {} is not there", archive.display());
    refused(&hub, 1, LOG, &folder);
    refused(&hub, 1, STATE, &folder);
    refused(&hub, 1, QUERY, &folder);
    // Nothing that only goes on needs it.
    hub.publish(&lines(400, 410));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_between_archive_and_log_is_named() {
    let hub = archived("");
    hub.publish(&lines(400, 600));
    hub.publish(&lines(600, 800));
    // Retention that the archive did not keep up with.
    let path = hub.folder.path().join("log.db");
    let mut log = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let first = "DELETE FROM batches WHERE topic = (SELECT id FROM topics WHERE name = 'orders') AND base = \
                 (SELECT min(base) FROM batches b WHERE b.topic = batches.topic AND b.partition = batches.partition)";
    assert_eq!(sqlx::query(first).execute(&mut log).await.unwrap().rows_affected(), 2);
    log.close().await.unwrap();
    for command in [LOG, QUERY] {
        let (_, told) = ends(&hub, 3, command);
        assert!(told.contains("offsets [") && told.contains("are neither in the log nor in its archive"), "{told}");
    }
    let (_, told) = ends(&hub, 0, &["topics"]);
    assert!(told.contains("left the log before they were archived"), "{told}");
    let output = hub.command("replay", &["--sink", "file", "--from", "earliest", "--mode", "shadow", "--execute"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && told.contains("are neither in the log nor in its archive"), "{told}");
    // What comes is archived all the same, and the gap stays one.
    hub.succeed("primalcore", &["archive", "--after", "0s", "--keep", "0s"]);
    ends(&hub, 3, LOG);
    let (data, _) = ends(&hub, 3, &["archive", "verify"]);
    assert!(data.contains("left the log before they were archived"), "{data}");
}

fn start(hub: &Hub) -> Child {
    let mut command = Command::new(program("primalcore"));
    command.args(["archive", "--after", "0s"]).current_dir(&hub.folder).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn archivers_at_a_time_and_archivers_that_are_killed_do_no_harm() {
    let hub = hub(EMBEDDED, "");
    archivers_at_a_time(&hub);
    let folder = hub.folder.path().join("archive");
    let (data, manifests) = (files(&folder, ".parquet"), files(&folder, ".json"));
    assert_eq!(data.len(), manifests.len(), "{data:#?}");
}

fn archivers_at_a_time(hub: &Hub) {
    hub.succeed("primalcore", &["audit", "keygen", "--out", "hub.key", "--name", "hub.example/audit"]);
    for round in 0..5 {
        hub.publish(&lines(round * 400, (round + 1) * 400));
        let mut two = [start(hub), start(hub)];
        std::thread::sleep(Duration::from_millis(40 * round as u64));
        // The first one dies wherever it is.
        two[0].kill().unwrap();
        for child in &mut two {
            child.wait().unwrap();
        }
    }
    hub.succeed("primalcore", &["archive", "--after", "0s"]);
    let reports = json_of(hub, &["archive", "verify", "--json"]);
    assert_eq!(records(&reports), 2_000, "{reports:#}");
    let before = hub.succeed("primalcore", &[LOG, &["--format", "json", "--limit", "100000"]].concat());
    hub.succeed("primalcore", &["archive", "--after", "0s", "--keep", "0s"]);
    assert_eq!(hub.succeed("primalcore", &[LOG, &["--format", "json", "--limit", "100000"]].concat()), before);
}

#[test]
fn a_running_hub_archives_by_itself_and_the_log_keeps_what_it_is_told_to() {
    let mut hub = hub(EMBEDDED, ", after: 1s, every: 1s, keep: 1s");
    hub.succeed("primalcore", &["audit", "keygen", "--out", "hub.key", "--name", "hub.example/audit"]);
    hub.start();
    hub.publish(&lines(0, 3_000));
    let until = Instant::now() + Duration::from_secs(30);
    while !is_emptied(&hub) {
        assert!(Instant::now() < until, "{}", hub.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    hub.caught_up();
    hub.publish(&lines(3_000, 3_100));
    hub.caught_up();
    hub.terminate();
    hub.verified(&["file"]);
    hub.succeed("primalcore", &["archive", "verify"]);
}

#[test]
fn an_archive_that_cannot_be_reached_says_so() {
    let hub = Hub::new("");
    let archive = |text: &str| write(&hub, &config(EMBEDDED, text, ""));
    archive("");
    hub.succeed("primalcore", &["audit", "keygen", "--out", "hub.key", "--name", "hub.example/audit"]);
    hub.publish(&lines(0, 10));
    refused(&hub, 2, &["archive"], "the config names no archive");
    let port = primal_tests::free_port();
    let s3 = format!("endpoint: \"http://127.0.0.1:{port}\", access_key: a, secret_key: hidden, region: a");
    archive(&format!("archive: {{ url: \"s3://bucket/cold\", s3: {{ {s3} }} }}\n"));
    let started = Instant::now();
    refused(&hub, 1, &["archive", "--after", "0s"], "the archive's s3://bucket/cold/orders/partition=0/epoch=0");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    // What the log still has is answered without it.
    hub.succeed("primalcore", STATE);
    archive("archive: { url: \"gopher://bucket\" }\n");
    refused(&hub, 2, STATE, "has the unknown scheme \"gopher\"; expected file:///folder or s3://bucket/prefix");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_warn_of_retention_that_outruns_the_archive() {
    let bootstrap = kafka().await.bootstrap;
    let prefix = format!("retention-{}-", std::process::id());
    let log = format!("kafka: {{ bootstrap: \"{bootstrap}\", topic_prefix: \"{prefix}\" }}");
    let hub = Hub::new("");
    write(&hub, &config(&log, "", ""));
    let told = |archive: &str| {
        write(&hub, &config(&log, archive, ""));
        ends(&hub, 0, &["topics"])
    };
    assert_eq!(tokio::task::block_in_place(|| told("")).1, "");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &bootstrap).create().unwrap();
    let topic = format!("{prefix}orders");
    let keep = async |name: &str, value: &str| {
        let change = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set(name, value);
        admin.alter_configs([&change], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    };
    let url = format!("file://{}/archive", hub.folder.path().display());
    std::fs::create_dir(hub.folder.path().join("archive")).unwrap();
    let archive = format!("archive: {{ url: \"{url}\" }}\n");
    keep("retention.ms", "86400000").await;
    let (table, warning) = tokio::task::block_in_place(|| told(""));
    assert!(table.contains("1d"), "{table}");
    assert!(
        warning.contains("orders drops events after 1d (retention.ms) and the config names no archive"),
        "{warning}"
    );
    let (_, warning) = tokio::task::block_in_place(|| told(&archive));
    assert!(warning.contains("archives them only when they are 7d old, every 1h: events would be lost"), "{warning}");
    let soon = format!("archive: {{ url: \"{url}\", after: 1s, every: 1s }}\n");
    assert_eq!(tokio::task::block_in_place(|| told(&soon)).1, "");
    // Too late even for that: an event has waited longer than retention allows.
    keep("retention.ms", "2500").await;
    hub.succeed("primalcore", &["audit", "keygen", "--out", "hub.key", "--name", "hub.example/audit"]);
    hub.publish(&lines(0, 10));
    tokio::time::sleep(Duration::from_millis(2_600)).await;
    let (_, warning) = tokio::task::block_in_place(|| told(&soon));
    assert!(warning.contains("and the oldest event that is not archived was taken"), "{warning}");
    keep("retention.bytes", "1000000").await;
    let (_, warning) = tokio::task::block_in_place(|| told(&soon));
    assert!(warning.contains("beyond 1000000 bytes a partition (retention.bytes)"), "{warning}");
}
