//! A replay whose store goes away, or is full, in the midst of it: it waits and says so, readers and workers are left alone,
//! and when the store is back it goes on, is verified, and is swapped in.

use std::time::{Duration, Instant};

use primal_tests::checks::{self, Places};
use primal_tests::job::{self, Replay};
use primal_tests::{Hub, load};
use serde_json::{Value, json};

use crate::disk::Disk;
use crate::scene::{EMBEDDED, FILE, PATIENCE, PG, Scene, servers};

/// Of them three quarters are orders: 10 s at the pace below.
const EVENTS: u64 = 4_000;
const PACE: &[&str] = &["--rate", "300/s"];

/// Which generation of the orders readers see, and how far the worker is in it.
async fn live<T>(scene: &Scene<T>, sink: &str) -> (u64, Places) {
    let sink = scene.inside.config.sink(sink).unwrap();
    let builds = sink.sink.builds(&sink.name, &sink.collections[0]).await.unwrap();
    (builds.live, checks::places(&scene.inside, sink).await.unwrap())
}

/// Whether what readers see is what the log says.
async fn is_clean<T>(scene: &Scene<T>, sink: &str) -> bool {
    let sink = scene.inside.config.sink(sink).unwrap();
    let feed = scene.inside.feeds(sink, None).unwrap().remove(0);
    let report = scene.inside.verify(sink, &feed, |_| {}).await.unwrap();
    report.is_clean() && report.records > 0 && report.verified == report.records
}

/// A hub that has brought everything to all stores and goes on, and a replay into one at work.
async fn replaying<T>(scene: &Scene<T>, sink: &str, mode: &str) -> (Hub, Replay, String) {
    let mut hub = scene.hub("one");
    hub.start();
    load::publish(&scene.ledger, &scene.direct, EVENTS).await;
    checks::caught_up(&scene.inside, PATIENCE).await.unwrap();
    let command = ["--sink", sink, "--from", "earliest", "--collection", "orders", "--mode", mode, "--execute"];
    tokio::task::block_in_place(|| {
        let replay = Replay::start(&hub, &[&command, PACE]);
        let id = job::at_work(&hub);
        (hub, replay, id)
    })
}

/// Waits until a job says that it waits for its store; how far it is.
fn waits(hub: &Hub, id: &str, phase: &str, why: &str) -> u64 {
    let until = Instant::now() + Duration::from_secs(30);
    let is_so = |job: &Value| job["parts"][0]["error"].as_str().is_some_and(|error| error.contains(why));
    let job = loop {
        let job = job::status(hub, id);
        if is_so(&job) {
            break job;
        }
        assert!(Instant::now() < until && job["state"] == "running", "{job:#?} {}", job::said(hub));
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((&job["state"], &job["parts"][0]["phase"]), (&json!("running"), &json!(phase)));
    let listed = hub.succeed("replay", &["list"]);
    assert!(listed.contains("retrying"), "{listed}");
    job::done(&job)
}

/// Waits until a job has gone on since it was `stood` far; readers see the old generation then.
fn goes_on(hub: &Hub, id: &str, phase: &str, stood: u64) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let job = job::status(hub, id);
        let (part, now) = (&job["parts"][0], job::done(&job));
        assert!(now >= stood, "it began anew: {job:#?}");
        if now > stood && part["error"].is_null() {
            assert_eq!((&job["state"], &part["phase"]), (&json!("running"), &json!(phase)), "{job:#?}");
            return;
        }
        assert!(Instant::now() < until, "{job:#?} {}", job::said(hub));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The rebuild comes to its end beside live traffic, and all is well.
async fn ends_well<T>(scene: &Scene<T>, hub: &Hub, sink: &str, replay: Replay, id: &str) {
    load::publish(&scene.ledger, &scene.direct, 200).await;
    tokio::task::block_in_place(|| {
        assert!(replay.ended().success(), "{}", job::said(hub));
        let job = job::status(hub, id);
        assert_eq!((&job["state"], &job["parts"][0]["error"]), (&json!("done"), &Value::Null));
    });
    assert_eq!(live(scene, sink).await.0, 2);
    scene.is_well(&[hub]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_waits_for_a_store_that_is_away() {
    let scene = Scene::set(EMBEDDED, 2, &[PG, FILE]).await;
    let (hub, replay, id) = replaying(&scene, "pg", "shadow").await;
    let before = live(&scene, "pg").await;
    tokio::task::block_in_place(|| {
        servers().postgres.kill();
        let stood = waits(&hub, &id, "rebuild", "unavailable");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(job::done(&job::status(&hub, &id)), stood);
        servers().postgres.restart();
        goes_on(&hub, &id, "rebuild", stood);
    });
    assert_eq!((before.0, live(&scene, "pg").await), (1, before));
    assert!(is_clean(&scene, "pg").await);
    ends_well(&scene, &hub, "pg", replay, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_waits_for_a_store_that_is_away() {
    let scene = Scene::set(EMBEDDED, 2, &[PG, FILE]).await;
    let (hub, replay, id) = replaying(&scene, "pg", "repair").await;
    tokio::task::block_in_place(|| {
        servers().postgres.kill();
        let stood = waits(&hub, &id, "repair", "unavailable");
        servers().postgres.restart();
        goes_on(&hub, &id, "repair", stood);
        assert!(replay.ended().success(), "{}", job::said(&hub));
        assert_eq!(job::status(&hub, &id)["state"], "done");
    });
    scene.is_well(&[&hub]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_waits_for_room() {
    let full = FILE.replace("file:", "full:").replace("file.sqlite", "disk/full.sqlite");
    let scene = Scene::set_with(EMBEDDED, 2, &[FILE, &full], |folder| Disk::mount(&folder.join("disk"), 16)).await;
    let (hub, replay, id) = replaying(&scene, "full", "shadow").await;
    let before = live(&scene, "full").await;
    scene.held.fill(50_000);
    let stood = tokio::task::block_in_place(|| waits(&hub, &id, "rebuild", "full"));
    assert_eq!((before.0, live(&scene, "full").await), (1, before.clone()));
    assert!(is_clean(&scene, "full").await);
    scene.held.make_room();
    tokio::task::block_in_place(|| goes_on(&hub, &id, "rebuild", stood));
    assert_eq!(live(&scene, "full").await, before);
    ends_well(&scene, &hub, "full", replay, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_whose_store_is_away_is_left_behind_by_the_others_of_its_job() {
    let scene = Scene::set(EMBEDDED, 2, &[PG, FILE]).await;
    let (hub, replay, id) = replaying(&scene, "pg,file", "shadow").await;
    let part = |job: &Value, sink: &str| {
        let parts = job["parts"].as_array().unwrap();
        parts.iter().find(|part| part["sink"] == sink).unwrap().clone()
    };
    tokio::task::block_in_place(|| {
        servers().postgres.kill();
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let job = job::status(&hub, &id);
            let (away, other) = (part(&job, "pg"), part(&job, "file"));
            if other["state"] == "done" {
                assert_eq!((&job["state"], &away["phase"]), (&json!("running"), &json!("rebuild")), "{job:#?}");
                assert!(away["error"].as_str().unwrap().contains("unavailable"), "{job:#?}");
                break;
            }
            assert!(Instant::now() < until, "{job:#?} {}", job::said(&hub));
            std::thread::sleep(Duration::from_millis(200));
        }
        servers().postgres.restart();
    });
    ends_well(&scene, &hub, "pg", replay, &id).await;
    assert_eq!(live(&scene, "file").await.0, 2);
}
