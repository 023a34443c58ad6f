//! Replays as jobs: listed, paused, resumed and cancelled from another shell, killed and taken up again; on both logs.

use std::time::{Duration, Instant};

use primal_tests::Hub;
use primal_tests::job::{Replay, at_work, done, list, status};
use serde_json::{Value, json};

use crate::told::{embedded, on_kafka, publish, put, refused};

const ALL: &[&str] = &["--sink", "all", "--from", "earliest", "--collection", "orders", "--execute"];
/// Slow enough to be met at work: 6 s for all events.
const SLOW: &[&str] = &["--rate", "300/s"];

fn filled(mut hub: Hub) -> Hub {
    let events: Vec<Value> =
        (0..1_800).map(|i| put("orders", &format!("o{i}"), &format!("e{i}"), json!({ "total": i }))).collect();
    publish(&hub, &events);
    hub.start();
    hub.caught_up();
    hub.terminate();
    hub
}

#[test]
fn a_job_obeys_and_survives_a_kill_embedded() {
    a_job_obeys_and_survives_a_kill(filled(embedded()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_obeys_and_survives_a_kill_kafka() {
    a_job_obeys_and_survives_a_kill(filled(on_kafka("jobs", "").await));
}

fn a_job_obeys_and_survives_a_kill(hub: Hub) {
    assert!(list(&hub).is_empty());
    // 18 s for all events: several commands fit in, also on a busy machine.
    let first = Replay::start(&hub, &[ALL, &["--rate", "100/s"]]);
    let id = at_work(&hub);
    let part = &status(&hub, &id)["parts"][0];
    assert_eq!(
        (&part["place"], &part["phase"], &part["total"]),
        (&json!("orders__g2"), &json!("rebuild"), &json!(1_800))
    );
    assert!(part["rate"].as_f64().unwrap() > 0.0 && part["eta_s"].as_u64().unwrap() > 0, "{part}");
    // Another one of the same target is refused by name; of another target it is not.
    refused(&hub, 1, &[&["replay"], ALL].concat(), &format!("orders into all is being replayed by {id}"));
    refused(&hub, 1, &["replay", "--sink", "all", "--rollback", "--collection", "orders"], &id);
    hub.succeed("replay", &["--sink", "each", "--from", "earliest", "--collection", "orders", "--execute"]);

    let asked = Instant::now();
    hub.succeed("replay", &["pause", &id[..6]]);
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    // A write that was begun before may end after the answer.
    std::thread::sleep(Duration::from_millis(500));
    let stood = done(&status(&hub, &id));
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(done(&status(&hub, &id)), stood);
    hub.succeed("replay", &["resume", &id]);
    std::thread::sleep(Duration::from_millis(1_000));
    hub.succeed("replay", &["pause", &id]);
    std::thread::sleep(Duration::from_millis(500));
    let stood = done(&status(&hub, &id));
    assert!((200..1_600).contains(&stood), "too early or too late to tell: {stood}");
    first.kill();
    let job = status(&hub, &id);
    assert_eq!((&job["state"], &job["said"]), (&json!("dead"), &json!("paused")), "known at once on the same machine");
    assert_eq!(done(&job), stood);
    refused(&hub, 1, &["replay", "pause", &id], "has no process any more");

    // It is taken up where it was: what was done then is there at once.
    let again = Replay::start(&hub, &[&["resume", &id]]);
    let until = Instant::now() + Duration::from_secs(20);
    let first_heard = loop {
        let job = status(&hub, &id);
        if job["state"] == "running" && job["parts"][0]["state"] == "running" && done(&job) != stood {
            break done(&job);
        }
        assert!(Instant::now() < until, "{job:#?}");
    };
    assert!(first_heard >= stood, "{first_heard} of {stood}");
    assert!(again.ended().success());
    let job = status(&hub, &id);
    assert_eq!((&job["state"], &job["parts"][0]["state"]), (&json!("done"), &json!("done")));
    refused(&hub, 2, &["replay", "resume", &id], "is done");
    refused(&hub, 2, &["replay", "status", "nothing"], "there is no replay");
    hub.verified(&["all"]);
    assert_eq!(hub.status().iter().find(|row| row["sink"] == "all").unwrap()["generation"], 2);
}

#[test]
fn a_job_is_cancelled_and_its_build_collected_embedded() {
    a_job_is_cancelled_and_its_build_collected(filled(embedded()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_and_its_build_collected_kafka() {
    a_job_is_cancelled_and_its_build_collected(filled(on_kafka("cancel", "").await));
}

fn a_job_is_cancelled_and_its_build_collected(hub: Hub) {
    let gc = |more: &[&str]| -> Vec<Value> {
        serde_json::from_str(&hub.succeed("replay", &[&["gc", "--sink", "all", "--json"], more].concat())).unwrap()
    };
    let running = Replay::start(&hub, &[ALL, SLOW]);
    let id = at_work(&hub);
    assert!(gc(&["--older-than", "0"]).is_empty(), "somebody is at it");
    let asked = Instant::now();
    hub.succeed("replay", &["cancel", &id]);
    assert_eq!(running.ended().code(), Some(4));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert_eq!(status(&hub, &id)["state"], "cancelled");
    refused(&hub, 2, &["replay", "resume", &id], "was cancelled");
    let left = gc(&["--older-than", "0"]);
    assert_eq!((left.len(), &left[0]["why"], &left[0]["place"]), (1, &json!("abandoned"), &json!("orders__g2")));
    assert!(!gc(&[])[0]["old"].as_bool().unwrap());
    gc(&["--older-than", "0", "--execute"]);
    assert!(gc(&["--older-than", "0"]).is_empty());
    assert!(list(&hub).is_empty(), "the record of the cancelled job goes with it");
    hub.verified(&["all"]);
}

#[test]
fn a_repair_goes_on_where_it_was_embedded() {
    a_repair_goes_on_where_it_was(filled(embedded()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_goes_on_where_it_was_kafka() {
    a_repair_goes_on_where_it_was(filled(on_kafka("mend", "").await));
}

fn a_repair_goes_on_where_it_was(hub: Hub) {
    let repair = &["--mode", "repair"];
    let running = Replay::start(&hub, &[ALL, SLOW, repair]);
    let id = at_work(&hub);
    std::thread::sleep(Duration::from_millis(2_500));
    running.kill();
    let written = |job: &Value| -> i64 {
        job["parts"][0]["reached"].as_object().unwrap().values().map(|offset| offset.as_i64().unwrap()).sum()
    };
    let before = written(&status(&hub, &id));
    assert!(before > 300, "{before}");
    // What comes meanwhile is not part of it.
    publish(&hub, &[put("orders", "late", "late", json!({}))]);
    // The same command, at another pace.
    let printed = hub.succeed("replay", &[ALL, repair, &["--json"]].concat());
    let done: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(done["applied"].as_i64().unwrap() + before, 1_800, "each record is written once: {done}");
    let job = status(&hub, &id);
    assert_eq!((&job["state"], list(&hub).len()), (&json!("done"), 1));
    assert_eq!(written(&job), 1_800);
}

#[test]
fn sinks_that_are_done_are_left_alone_when_the_others_go_on() {
    let hub = filled(embedded());
    let with = ["--sink", "all", "--from", "earliest", "--collection", "parcels,orders", "--execute"];
    let running = Replay::start(&hub, &[&with, SLOW]);
    let until = Instant::now() + Duration::from_secs(20);
    while !list(&hub).first().is_some_and(|job| job["parts"][0]["state"] == "done" && job["parts"][1]["done"] != 0) {
        assert!(Instant::now() < until, "{:#?}", list(&hub));
        std::thread::sleep(Duration::from_millis(100));
    }
    running.kill();
    let told = hub.succeed("replay", &with);
    assert!(!told.contains("parcels: generation") && told.contains("orders: generation 2 is live"), "{told}");
    let generations: Vec<Value> =
        hub.status().into_iter().filter(|row| row["sink"] == "all").map(|row| row["generation"].clone()).collect();
    assert_eq!(generations, [json!(2), json!(2)]);
    // The next time it is all of it again.
    let told = hub.succeed("replay", &with);
    assert_eq!(told.matches("generation 3 is live").count(), 2, "{told}");
}
