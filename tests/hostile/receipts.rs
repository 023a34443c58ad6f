//! What a 201 means: the embedded log is killed in the midst of writing, and every event that had a receipt is there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use primal_core::event::EventRef;
use primal_core::log::{EventLog, Limits};
use primal_core::{Collection, Env, Records};
use primal_log_embedded::{Config, EmbeddedLog};
use tokio::task::JoinSet;

use crate::hub::Hub;

const ROUNDS: u32 = 10;
const WRITERS: u32 = 16;

#[tokio::test(flavor = "multi_thread")]
async fn every_event_with_a_receipt_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut receipts = BTreeSet::new();
    for round in 0..ROUNDS {
        let hub = Hub::start_in(folder.path()).await;
        let (mut writers, confirmed) = (JoinSet::new(), Arc::new(AtomicU32::new(0)));
        for writer in 0..WRITERS {
            writers.spawn(write(hub.address, format!("{round}-{writer}"), confirmed.clone()));
        }
        let until = Instant::now() + Duration::from_secs(20);
        while confirmed.load(Ordering::Relaxed) < WRITERS {
            assert!(Instant::now() < until, "round {round}: nothing is confirmed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 37)).await;
        hub.kill();
        receipts.extend(writers.join_all().await.into_iter().flatten());
        let found = ids(folder.path()).await;
        let lost: Vec<_> = receipts.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}: {} of {} events with a receipt are lost", lost.len(), receipts.len());
    }
    println!("figure: receipts: {ROUNDS} kills, {} events with a receipt, none lost", receipts.len());
    assert!(receipts.len() > 100);
}

/// Writes until the hub is gone; the ids of all that it has confirmed.
async fn write(hub: std::net::SocketAddr, name: String, total: Arc<AtomicU32>) -> Vec<String> {
    let client = primal_tests::http();
    let mut confirmed = Vec::new();
    for number in 0.. {
        let id = format!("{name}-{number}");
        let url = format!("http://{hub}/v1/collections/things/entities/{name}");
        match client.put(url).header("idempotency-key", &id).body("{\"n\":1}").send().await {
            Ok(answer) if answer.status() == 201 => {
                confirmed.push(id);
                total.fetch_add(1, Ordering::Relaxed);
            }
            _ => break,
        }
    }
    confirmed
}

/// The ids of all events in the log.
async fn ids(folder: &Path) -> BTreeSet<String> {
    let config = Config { path: folder.join("primalcore-data/log.db") };
    let log = EmbeddedLog::open(config, Env::system()).await.unwrap();
    let topic = Collection::new("things").unwrap().topic();
    let mut ids = BTreeSet::new();
    for (partition, extent) in (0..).zip(log.extents(&topic).await.unwrap().unwrap()) {
        let mut reader = log.read(&topic, partition, extent.start..extent.end).await.unwrap();
        let mut records = Records::new();
        while reader.fetch(&mut records, Limits { records: 1_000, bytes: 4 << 20 }).await.unwrap() {
            ids.extend(records.iter().map(|record| EventRef::decode(record).unwrap().id.to_owned()));
            records.clear();
        }
    }
    ids
}
