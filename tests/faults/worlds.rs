//! A log that is not what it was: cut by retention, made anew, with more partitions, full of garbage, away for a while.
//! Each ends in a state that says what is wrong and which command helps, and that command does.

use std::time::{Duration, Instant};

use primal_core::event::{Event, Op};
use primal_core::{Collection, Primal, header};
use primal_tests::load::{self, Load, Pace};
use primal_tests::{Hub, checks};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::scene::{FILE, FILE_EVENTS, KAFKA, PG, PG_EVENTS, Scene, servers};

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", servers().kafka.url()).create().unwrap()
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)))
}

/// Waits until a sink has stopped; what it says.
fn stopped(hub: &Hub, sink: &str) -> String {
    let failed = |rows: &[Value]| rows.iter().any(|row| row["sink"] == sink && row["state"] == "failed");
    hub.wait("stopping", Duration::from_secs(30), failed);
    let rows = hub.status();
    let error = rows.iter().find(|row| row["sink"] == sink).map(|row| row["error"].clone());
    error.unwrap().as_str().unwrap().to_owned()
}

/// A hub that has brought some events to all stores and was killed then.
async fn level_and_killed(scene: &Scene) -> Hub {
    let mut hub = scene.hub("one");
    hub.start();
    load::publish(&scene.ledger, &scene.direct, 400).await;
    checks::caught_up(&scene.inside, Duration::from_secs(60)).await.unwrap();
    hub.kill();
    hub
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_from_a_stopped_sink_is_named() {
    let scene = Scene::set(KAFKA, 1, &[PG, FILE]).await;
    let mut hub = level_and_killed(&scene).await;
    // The table falls behind, and the log is cut under it.
    hub.start_with(&["--sinks", "file"]);
    load::publish(&scene.ledger, &scene.direct, 400).await;
    let file = scene.inside.config.sink("file").unwrap();
    let ends = checks::ends(&scene.inside, file).await.unwrap();
    checks::reached(&scene.inside, file, &ends, Duration::from_secs(30)).await.unwrap();
    hub.kill();
    let behind = checks::sum(&checks::places(&scene.inside, scene.inside.config.sink("pg").unwrap()).await.unwrap());
    let start = behind + 100;
    let mut cut = TopicPartitionList::new();
    cut.add_partition_offset(&format!("{}.orders", scene.id), 0, Offset::Offset(start)).unwrap();
    admin().delete_records(&cut, &options()).await.unwrap();
    hub.start();
    let told = tokio::task::block_in_place(|| stopped(&hub, "pg"));
    let range = format!("offsets [{behind}, {start}) of orders/0 are no longer in the log");
    let command = "replay --sink pg --collection orders --from earliest --mode shadow --execute";
    assert!(told.contains(&range) && told.contains(command), "{told}");
    // The other one goes on.
    load::publish(&scene.ledger, &scene.direct, 200).await;
    let ends = checks::ends(&scene.inside, file).await.unwrap();
    checks::reached(&scene.inside, file, &ends, Duration::from_secs(30)).await.unwrap();
    // What the message says helps.
    hub.kill();
    let words: Vec<_> = command.split(' ').skip(1).collect();
    tokio::task::block_in_place(|| hub.succeed("replay", &words));
    hub.start();
    checks::caught_up(&scene.inside, Duration::from_secs(60)).await.unwrap();
    let pg = scene.inside.config.sink("pg").unwrap();
    let feed = scene.inside.feeds(pg, None).unwrap().remove(0);
    let report = scene.inside.verify(pg, &feed, |_| {}).await.unwrap();
    assert!(report.is_clean() && report.unverifiable == 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_stops_its_sinks_until_it_is_renewed() {
    let scene = Scene::set(KAFKA, 2, &[PG, FILE]).await;
    let mut hub = level_and_killed(&scene).await;
    admin().delete_topics(&[&format!("{}.orders", scene.id)], &options()).await.unwrap();
    // Started again, the hub makes the topic that is missing, and takes events; no sink passes over the difference.
    tokio::time::sleep(Duration::from_millis(500)).await;
    hub.start();
    for sink in ["pg", "file"] {
        let told = tokio::task::block_in_place(|| stopped(&hub, sink));
        assert!(
            told.contains("but the log ends at 0") && told.contains("`primalcore topics --renew orders`"),
            "{told}"
        );
    }
    hub.kill();
    tokio::task::block_in_place(|| hub.succeed("primalcore", &["topics", "--renew", "orders"]));
    goes_on(&scene, hub).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_partitions_stop_the_sinks_until_the_topic_is_renewed() {
    let scene = Scene::set(KAFKA, 2, &[PG, FILE]).await;
    let mut hub = level_and_killed(&scene).await;
    admin().create_partitions(&[NewPartitions::new(&format!("{}.orders", scene.id), 4)], &options()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    hub.start();
    for sink in ["pg", "file"] {
        let told = tokio::task::block_in_place(|| stopped_or_absent(&hub, sink));
        assert!(told.contains("2 partitions") && told.contains("`primalcore topics --renew orders`"), "{told}");
    }
    hub.kill();
    tokio::task::block_in_place(|| hub.succeed("primalcore", &["topics", "--renew", "orders"]));
    goes_on(&scene, hub).await;
}

/// What the hub says of a sink that it did not even start.
fn stopped_or_absent(hub: &Hub, sink: &str) -> String {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        let log = hub.log();
        if let Some(line) = log.lines().find(|line| line.contains("not started") && line.contains(sink)) {
            return line.to_owned();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{sink} was started all the same: {}", hub.log());
}

/// After `topics --renew`: the same keys are written again, and the stores have the newest of each.
async fn goes_on(scene: &Scene, mut hub: Hub) {
    let inside = scene.again().await;
    let direct = load::Way::Direct(std::sync::Arc::new(inside.producer()));
    hub.start();
    load::publish(&scene.ledger, &direct, 600).await;
    checks::caught_up(&inside, Duration::from_secs(60)).await.unwrap();
    let mut stale = Vec::new();
    for sink in &inside.config.sinks {
        for feed in inside.feeds(sink, None).unwrap() {
            let report = inside.verify(sink, &feed, |_| {}).await.unwrap();
            assert!(report.records > 0);
            if report.missing.count + report.stale.count + report.differing.count > 0 {
                stale.push(report);
            }
        }
    }
    assert!(stale.is_empty(), "{stale:#?}");
    let well = |rows: &[Value]| rows.iter().all(|row| row["state"] == "running" && row["error"] == Value::Null);
    tokio::task::block_in_place(|| hub.wait("being well", Duration::from_secs(10), well));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_becomes_dead_letters_and_nothing_else_waits_for_it() {
    let scene = Scene::set(KAFKA, 2, &[PG, FILE_EVENTS]).await;
    let mut hub = scene.hub("one");
    hub.start();
    let topic = Collection::new("orders").unwrap().topic();
    let good = |n: u64| Event {
        collection: Collection::new("orders").unwrap(),
        key: format!("g{}", n % 50),
        op: Op::Put,
        id: format!("garbage-{n}"),
        source: "/test".into(),
        kind: "order.put".into(),
        time: "2013-01-01T10:15:00Z".into(),
        data: Some(format!("{{\"n\":{n}}}")),
        data_schema: None,
        primal: Primal::STANDARD,
        extensions: Vec::new(),
    };
    let mut bad = 0;
    let records = (0..3_000).map(|n| {
        let mut record = good(n).into_record();
        if n % 100 == 7 {
            bad += 1;
            // Keys of their own: what comes later for a parked key would wait behind it.
            record.key = Some(format!("bad{n}").into_bytes());
            match bad % 6 {
                0 => record.value = Some(b"{\"n\": 1".to_vec()),
                1 => record.value = Some(vec![0xff, 0xfe, 0x00, 0x41]),
                2 => record.headers.clear(),
                3 => record.key = None,
                4 => record.key = Some(vec![0xc3, 0x28]),
                _ => record.value = Some(b"[1, 2, 3]".to_vec()),
            }
            if bad % 6 == 5 {
                header::push(&mut record.headers, "ce_op", Some(b"explode"));
            }
        }
        record.topic = topic.clone();
        record
    });
    let records: Vec<_> = records.collect();
    scene.inside.log.append(records).await.unwrap();
    checks::caught_up(&scene.inside, Duration::from_secs(60)).await.unwrap();
    assert_eq!(checks::differences(&scene.inside).await.unwrap(), Vec::<String>::new());
    for sink in ["pg", "file-events"] {
        let listed =
            tokio::task::block_in_place(|| hub.succeed("primalcore", &["dlq", "list", "--sink", sink, "--json"]));
        let letters: Vec<Value> = serde_json::from_str(&listed).unwrap();
        assert_eq!(letters.len(), 30, "{sink}: {letters:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_for_a_while_is_waited_for() {
    let away: u64 = std::env::var("PRIMALCORE_BROKER_AWAY_S").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let scene = Scene::set(KAFKA, 2, &[PG, PG_EVENTS]).await;
    let (mut hub, gateway) = scene.gateway();
    hub.start();
    let pace = Pace { batch: 20, pause: Duration::from_millis(20), most: 2_000 };
    let load = Load::start(&scene.ledger, [gateway, scene.direct.clone()], pace);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let back = tokio::task::spawn_blocking(move || {
        let kafka = &servers().kafka;
        kafka.kill();
        std::thread::sleep(Duration::from_secs(away));
        kafka.restart();
        Instant::now()
    });
    tokio::time::sleep(Duration::from_secs(away)).await;
    // A hub that is started meanwhile waits too.
    let mut second = scene.hub("two");
    second.start();
    let back = back.await.unwrap();
    load.finish().await;
    scene.is_well(&[&hub, &second]).await;
    println!("figure: well {:.1} s after the broker was back", back.elapsed().as_secs_f64());
    assert!(hub.is_running() && second.is_running(), "{}\n{}", hub.log(), second.log());
}
