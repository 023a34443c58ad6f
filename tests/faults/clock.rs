//! A clock that jumps both ways, by hours, under a whole hub in this process: the log's recorded times never go back, and
//! nothing that is delivered depends on them. A replay that has a time of day for itself keeps to it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use primal_core::log::Limits;
use primal_core::{Clock, Env, Records, Timestamp};
use primal_hub::{Hub, Running};
use primal_replay::{Audience, Ended, Lane, Part, Progress, Request, Spec, Window};
use primal_runtime::Pace;
use primal_tests::checks;
use primal_tests::load::{self, Way};
use tokio_util::sync::CancellationToken;

use crate::scene::{EMBEDDED, FILE, FILE_EVENTS, Scene};

struct Jumping(AtomicI64);

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        Timestamp(Env::system().now().0 + self.0.load(Ordering::Relaxed))
    }
}

const HOUR: i64 = 3_600_000_000;

/// Counts the events that a replay has seen, and what it says.
#[derive(Default)]
struct Listener {
    seen: Arc<AtomicU64>,
    said: Mutex<Vec<String>>,
}

struct Counter(Arc<AtomicU64>);

impl Progress for Counter {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, events: u64) {
        self.0.fetch_add(events, Ordering::Relaxed);
    }
    fn skip(&self, _: u64) {}
}

impl Audience for Listener {
    fn progress(&self, _: &Part) -> Arc<dyn Progress> {
        Arc::new(Counter(self.seen.clone()))
    }
    fn ended(&self, _: &Part, _: &Ended) {}
    fn say(&self, text: &str) {
        self.said.lock().unwrap().push(text.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_with_a_window_writes_only_in_it() {
    let scene = Scene::set(EMBEDDED, 2, &[FILE]).await;
    load::publish(&scene.ledger, &scene.direct, 300).await;
    let clock = Arc::new(Jumping(AtomicI64::new(0)));
    let hub = Hub::open(scene.parsed(), Env::seeded(clock.clone(), 7)).await.unwrap();
    // An hour that begins in two hours, whatever the time is.
    let minute = |hours: i64| (Env::system().now().0 + hours * HOUR).div_euclid(60_000_000).rem_euclid(24 * 60);
    let text = |minute: i64| format!("{:02}:{:02}", minute / 60, minute % 60);
    let window: Window = format!("{}-{}", text(minute(2)), text(minute(3))).parse().unwrap();
    let sink = hub.config.sink("file").unwrap();
    let feed = hub.feeds(sink, Some("orders")).unwrap().pop().unwrap();
    let cancel = CancellationToken::new();
    let replay = Arc::new(hub.replay(sink, Pace::default(), cancel.clone()).await.unwrap());
    let part = Part { sink: "file".to_owned(), collection: "orders".to_owned(), ..Part::default() };
    let spec = Spec { sinks: vec!["file".to_owned()], window: Some(window), ..Spec::default() };
    let claim = hub.replays().await.unwrap().claim(&spec, vec![part], false).await.unwrap();
    let listener = Arc::new(Listener::default());
    let lanes = vec![Lane { replay, requests: vec![(0, Request::whole(feed))] }];
    let (env, told) = (hub.env.clone(), listener.clone());
    let running = tokio::spawn(async move { primal_replay::run(claim, lanes, &env, &cancel, told).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(listener.seen.load(Ordering::Relaxed), 0);
    assert!(!running.is_finished());
    clock.0.store(2 * HOUR + HOUR / 2, Ordering::Relaxed);
    tokio::time::timeout(Duration::from_secs(20), running).await.unwrap().unwrap().unwrap();
    assert!(listener.seen.load(Ordering::Relaxed) > 0);
    let said = listener.said.lock().unwrap();
    assert!(said.iter().any(|text| text.contains("nothing is written until")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_both_ways_changes_nothing() {
    let scene = Scene::set(EMBEDDED, 2, &[FILE, FILE_EVENTS]).await;
    let clock = Arc::new(Jumping(AtomicI64::new(0)));
    let hub = Arc::new(Hub::open(scene.parsed(), Env::seeded(clock.clone(), 7)).await.unwrap());
    let shutdown = CancellationToken::new();
    let running = Running::start(hub.clone(), &[], shutdown.clone()).await.unwrap();
    let way = Way::Direct(running.producer.clone());
    for jump in [0, -26, 3, -1, 50, -49, 0] {
        clock.0.store(jump * HOUR, Ordering::Relaxed);
        load::publish(&scene.ledger, &way, 300).await;
        checks::caught_up(&hub, Duration::from_secs(10)).await.unwrap();
        for row in primal_hub::rows(&hub).await.unwrap() {
            assert_eq!((row.lag_events, row.lag_seconds, row.error), (Some(0), Some(0.0), None));
        }
    }
    for collection in hub.config.collections.keys() {
        let topic = collection.topic();
        for (partition, extent) in (0..).zip(hub.log.extents(&topic).await.unwrap().unwrap()) {
            let mut reader = hub.log.read(&topic, partition, 0..extent.end).await.unwrap();
            let mut records = Records::new();
            while reader.fetch(&mut records, Limits { records: 100_000, bytes: 64 << 20 }).await.unwrap() {}
            let times: Vec<_> = records.iter().map(|record| record.recorded).collect();
            assert!(times.len() > 100 && times.is_sorted(), "recorded times go back");
        }
    }
    shutdown.cancel();
    assert!(running.finish().await.is_empty());
    scene.is_well(&[]).await;
}
