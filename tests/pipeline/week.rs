//! The week of real events through the real programs into all stores, with kills, restarts and a replay on the way.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use primal_tests::{Hub, Server, free_port, program, shared, week};
use serde_json::Value;

use crate::kafka::kafka;

const SINKS: &[&str] = &["pg", "cache", "file"];

/// A config over Kafka and three stores, as the README has it.
fn config(bootstrap: &str, postgres: &str, redis: &str, port: u16) -> String {
    named(&format!("w{}{port}", std::process::id()), bootstrap, postgres, redis, port)
}

/// The same with given names for topics and tables.
fn named(id: &str, bootstrap: &str, postgres: &str, redis: &str, port: u16) -> String {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/schemas");
    let mut text = format!(
        "log: {{ kafka: {{ bootstrap: \"{bootstrap}\", topic_prefix: \"{id}.\", session_timeout_ms: 6000 }} }}\n\
         gateway: {{ listen: \"127.0.0.1:{port}\" }}\ncollections:\n"
    );
    for name in ["flights", "weather", "airports", "planes", "airlines"] {
        text += &format!("  {name}: {{ partitions: 3, schema: \"{}/{name}.json\" }}\n", schemas.display());
    }
    text + &format!(
        "sinks:\n  pg: {{ type: postgres, url: \"{postgres}\", schema: {id}, projection: table }}\n  \
         cache: {{ type: redis, url: \"{redis}\", prefix: \"{id}:\" }}\n  file: {{ type: sqlite, path: hub.sqlite }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_week_survives_kills_and_a_replay_under_traffic() {
    let bootstrap = kafka().await.bootstrap;
    let servers = tokio::task::spawn_blocking(|| (shared("postgres"), shared("redis"))).await.unwrap();
    let port = free_port();
    let mut hub = Hub::new(&config(&bootstrap, &servers.0, &servers.1, port));
    let week = week();
    assert_eq!(week.len(), 23_094);
    hub.succeed("primalcore", &["check"]);
    hub.start();
    let quarter = week.len() / 4;
    for (round, part) in week[..3 * quarter].chunks(quarter).enumerate() {
        assert_eq!(hub.publish(part)["sent"], part.len());
        // Sooner each time: in the middle of the work, not after it.
        std::thread::sleep(Duration::from_millis([700, 300, 100][round]));
        hub.kill();
        hub.start();
    }
    // The last quarter goes through the gateway.
    let client = primal_tests::http();
    let events = format!("http://127.0.0.1:{port}/v1/events");
    until_ready(&client, port).await;
    let body = week[3 * quarter..].join("\n");
    let answer = client.post(&events).header("content-type", "application/x-ndjson").body(body).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.json::<Value>().await.unwrap()["sent"], week.len() - 3 * quarter);
    hub.caught_up();
    hub.verified(SINKS);

    // A rebuild of one store while publishing goes on.
    let plan = hub
        .succeed("replay", &["-c", "primalcore.yaml", "--sink", "pg", "--from", "earliest", "--collection", "flights"]);
    assert!(plan.contains("17,815 events"), "{plan}");
    let publishing = tokio::spawn({
        let (client, port) = (client.clone(), port);
        async move {
            let mut sent = 0;
            for i in 0..400 {
                let url = format!("http://127.0.0.1:{port}/v1/collections/airlines/entities/T{}", i % 20);
                let body = serde_json::json!({ "carrier": format!("T{}", i % 20), "name": format!("test {i}") });
                let answer = client.put(url).json(&body).send().await.unwrap();
                assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
                sent += 1;
            }
            sent
        }
    });
    let done =
        hub.succeed("replay", &["-c", "primalcore.yaml", "--sink", "pg", "--from", "earliest", "--execute", "--json"]);
    assert_eq!(done.matches("\"generation\": 2").count(), 5, "{done}");
    assert_eq!(publishing.await.unwrap(), 400);
    hub.caught_up();
    hub.verified(SINKS);
    hub.succeed("replay", &["-c", "primalcore.yaml", "--sink", "pg", "--rollback", "--collection", "airlines"]);
    hub.caught_up();
    hub.verified(SINKS);
    let ended = hub.terminate();
    assert!(ended < Duration::from_secs(5), "{ended:?}");
    assert!(hub.status().iter().all(|row| row["state"] == "stopped"));
}

async fn until_ready(client: &reqwest::Client, port: u16) {
    for _ in 0..200 {
        let answer = client.get(format!("http://127.0.0.1:{port}/health/ready")).send().await;
        if answer.is_ok_and(|answer| answer.status() == 200) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the gateway is not ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_holds_back_no_other_and_catches_up() {
    let bootstrap = kafka().await.bootstrap;
    let (postgres, redis) = tokio::task::spawn_blocking(|| (shared("postgres"), Server::start("redis"))).await.unwrap();
    let mut hub = Hub::new(&config(&bootstrap, &postgres, &redis.url(), free_port()));
    let week = week();
    hub.start();
    hub.publish(&week[..2_000]);
    hub.caught_up();
    redis.kill();
    hub.publish(&week[2_000..8_000]);
    let others = |rows: &[Value]| rows.iter().filter(|row| row["sink"] != "cache").all(|row| row["lag_events"] == 0);
    hub.wait("the others going on", Duration::from_secs(60), others);
    let broken = |rows: &[Value]| {
        rows.iter().any(|row| row["sink"] == "cache" && row["state"] == "retrying" && row["error"] != Value::Null)
    };
    hub.wait("saying what is wrong", Duration::from_secs(30), broken);
    redis.restart();
    hub.caught_up();
    hub.verified(SINKS);
    assert!(hub.terminate() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_is_replaced_and_harmless_when_it_wakes() {
    let bootstrap = kafka().await.bootstrap;
    let servers = tokio::task::spawn_blocking(|| (shared("postgres"), shared("redis"))).await.unwrap();
    let id = format!("z{}", std::process::id());
    let hub = |instance: &str| {
        let config = named(&id, &bootstrap, &servers.0, &servers.1, free_port());
        // A file cannot be shared by two machines, so these two have no SQLite sink.
        let shared: Vec<_> = config.lines().filter(|line| !line.contains("type: sqlite")).collect();
        Hub::new(&format!("{}\ninstance: {instance}\n", shared.join("\n")))
    };
    let (mut first, mut second) = (hub("one"), hub("two"));
    let week = week();
    first.start();
    first.publish(&week[..3_000]);
    first.caught_up();
    first.publish(&week[3_000..9_000]);
    first.freeze(true);
    second.start();
    second.publish(&week[9_000..12_000]);
    second.caught_up();
    second.verified(&["pg", "cache"]);
    first.freeze(false);
    second.publish(&week[12_000..15_000]);
    second.caught_up();
    std::thread::sleep(Duration::from_secs(3));
    second.verified(&["pg", "cache"]);
    assert!(first.terminate() < Duration::from_secs(6));
    second.publish(&week[15_000..16_000]);
    second.caught_up();
    second.verified(&["pg", "cache"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn quickstart_dies_and_goes_on_without_doubling() {
    let hub = Hub::new("");
    let mut child = Command::new(program("primalcore"))
        .args(["quickstart", "--data", "data", "--exit"])
        .current_dir(&hub.folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(400));
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..2 {
        let printed = hub.succeed("primalcore", &["quickstart", "--data", "data", "--exit"]);
        assert_eq!(printed.matches("verified │").count(), 5, "{printed}");
        assert!(printed.contains("17,815"), "nothing was lost or doubled: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_takes_events_at_once_and_keeps_its_collections() {
    let hub = Hub::new("");
    let client = primal_tests::http();
    for (collections, used) in [("orders,customers", "orders"), ("customers", "orders")] {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let mut child = Command::new(program("primalcore"))
            .args(["dev", "--data", "data", "--listen", &listen, "--collections", collections])
            .current_dir(&hub.folder)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until_ready(&client, port).await;
        let url = format!("http://{listen}/v1/collections/{used}/entities/1");
        let answer = client.put(url).body("{\"total\":12}").send().await.unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(answer.status(), 201, "{:?}", answer.text().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named_with_their_way_out() {
    let hub = Hub::new(
        "log: { embedded: { path: log.db } }\ncollections: { flights: { partitions: 1 } }\nsinks: { file: { type: sqlite, path: hub.sqlite } }\n",
    );
    let lines = "{\"collection\":\"flights\",\"key\":\"a\",\"data\":{}}\n{\"collection\":\"flights\",\"key\":\"b\",\"data\":{]}\n{\"collection\":\"flights\",\"key\":\"c\",\"data\":{}}\n";
    std::fs::write(hub.folder.path().join("bad.ndjson"), lines).unwrap();
    let published = hub.command("primalcore", &["publish", "bad.ndjson"]);
    let told = String::from_utf8_lossy(&published.stderr);
    assert_eq!(published.status.code(), Some(1));
    assert!(told.contains("line 2, column 43"), "{told}");
    assert!(String::from_utf8_lossy(&published.stdout).contains("1 events"));
    let skipped = hub.succeed("primalcore", &["publish", "--skip-bad", "--json", "bad.ndjson"]);
    assert_eq!(serde_json::from_str::<Value>(&skipped).unwrap()["sent"], 2);
    let cases: [(&[&str], &str); 6] = [
        (&["audit", "verify", "--sink", "fiel"], "did you mean `file`?"),
        (&["replay", "--sink", "file", "--from", "yesterday"], "is no moment"),
        (
            &["replay", "--sink", "file", "--from", "2013-02-01", "--to", "2013-01-01", "--collection", "fligths"],
            "did you mean `flights`?",
        ),
        (&["replay", "--sink", "file", "--from", "offset:0:99"], "which holds [0, 3)"),
        (&["replay", "--sink", "file", "--from", "earliest", "--into", "flights"], "collection's own name"),
        (&["run", "-c", "missing.yaml"], "missing.yaml: cannot be read"),
    ];
    for (arguments, says) in cases {
        let output = hub.command("primalcore", arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains(says), "{arguments:?}: {} {told}", output.status);
    }
}
