//! A clock that jumps both ways, by hours, under a whole hub in this process: the log's recorded times never go back, and
//! nothing that is delivered depends on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use primal_core::log::Limits;
use primal_core::{Clock, Env, Records, Timestamp};
use primal_hub::{Hub, Running};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_both_ways_changes_nothing() {
    const HOUR: i64 = 3_600_000_000;
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
