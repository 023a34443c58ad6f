//! Every sink under the real worker: poison is found and set aside with its key, the rest goes on, a wiped store heals, and
//! verification and replay agree with the log.

use std::sync::Arc;
use std::time::Duration;

use primal_audit::{Scope, verify};
use primal_core::event::Event;
use primal_core::event::Op;
use primal_core::lives;
use primal_core::log::EventLog;
use primal_core::sink::{Build, Positions, Projection};
use primal_core::{Collection, Env, Primal};
use primal_log_embedded::{Config, EmbeddedLog};
use primal_runtime::{Feed, Options, Worker, dead_letter, status};
use tokio_util::sync::CancellationToken;

use crate::case::{Verdict, cases};
use crate::stores::{Store, table};

pub struct Bench {
    store: Store,
    pub log: Arc<dyn EventLog>,
    feed: Feed,
    count: std::sync::atomic::AtomicU32,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub async fn new(store: Store, projection: Projection) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { path: folder.path().join("log.db") };
        let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(config, Env::system()).await.unwrap());
        let collection = Collection::new("things").unwrap();
        let epochs =
            lives::open(&*log, &[(collection.clone(), 2)]).await.unwrap().remove(&collection).unwrap().unwrap();
        let table = (projection == Projection::Table).then(|| Arc::new(table()));
        let mapping = store.mapping(projection);
        let feed = Feed { collection, epochs: Arc::new(epochs), projection, table, mapping };
        Bench { store, log, feed, count: 0.into(), _folder: folder }
    }

    pub async fn publish(&self, events: &[(&str, Option<&str>)]) {
        let event = |(key, data): &(&str, Option<&str>)| {
            let number = self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let event = Event {
                collection: self.feed.collection.clone(),
                key: (*key).to_owned(),
                op: if data.is_some() { Op::Put } else { Op::Delete },
                id: format!("e{number}"),
                source: "/test".into(),
                kind: "thing".into(),
                time: "2013-01-01T00:00:00Z".into(),
                data: data.map(str::to_owned),
                data_schema: None,
                primal: Primal::STANDARD,
                extensions: Vec::new(),
            };
            event.into_record()
        };
        self.log.append(events.iter().map(event).collect()).await.unwrap();
    }

    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// Runs a worker until the store is as far as the log.
    pub async fn run(&self, options: Options) {
        let (sink, log) = (self.store.again(), self.log.clone());
        let worker =
            Worker::new("sink", "test", self.store.spec, sink, log, vec![self.feed.clone()], options, Env::system());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(worker.await.unwrap().run(shutdown.clone()));
        let caught_up = async {
            while !self.is_level().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(self.store.patience, caught_up).await;
        shutdown.cancel();
        running.await.unwrap().unwrap();
        waited.expect("the worker catches up in time");
    }

    /// Runs workers in small batches, each cut off in the middle of its work.
    pub async fn cut_off(&self, times: usize) {
        for _ in 0..times {
            let (sink, log, before) = (self.store.again(), self.log.clone(), self.positions().await);
            let options = Options { batch_events: Some(7), ..Options::default() };
            let feeds = vec![self.feed.clone()];
            let worker = Worker::new("sink", "test", self.store.spec, sink, log, feeds, options, Env::system());
            // With a runtime of its own everything that it does ends at once, as with its process.
            let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            process.spawn(worker.await.unwrap().run(CancellationToken::new()));
            // In the middle of its work: it has written something and is writing the next.
            let working = async {
                while self.positions().await == before && !self.is_level().await {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let waited = tokio::time::timeout(self.store.patience, working).await;
            waited.expect("the worker writes something in time");
            tokio::task::spawn_blocking(|| drop(process)).await.unwrap();
        }
    }

    async fn positions(&self) -> Positions {
        let builds = self.store.sink.builds("sink", &self.feed.collection).await.unwrap();
        let target = self.feed.target("sink", Build::Live(builds.live));
        self.store.sink.positions(&target).await.unwrap()
    }

    async fn is_level(&self) -> bool {
        let positions = self.positions().await;
        let extents = self.log.extents(&self.feed.collection.topic()).await.unwrap().unwrap();
        (0..).zip(extents).all(|(p, extent)| extent.end == positions.get(&p).map_or(0, |at| at.offset()))
    }

    pub async fn verify(&self) -> primal_audit::Report {
        let builds = self.store.sink.builds("sink", &self.feed.collection).await.unwrap();
        let target = self.feed.target("sink", Build::Live(builds.live));
        let scope = Scope::default();
        verify(&*self.store.sink, &*self.log, &target, &self.feed.epochs, &scope, None, |_| {}).await.unwrap()
    }
}

/// A payload that is good JSON and that this store cannot hold.
fn poison(store: &Store) -> (Projection, String) {
    match store.spec.name {
        // PostgreSQL itself refuses it and does not say which row it was: bisection has to find it.
        "postgres" | "timescaledb" => (Projection::Document, r#"{"s":"a\u0000b"}"#.to_owned()),
        _ if store.spec.capability.projections.contains(&Projection::Table) => {
            (Projection::Table, r#"{"n":"not a number"}"#.to_owned())
        }
        _ => (Projection::Document, format!("{{\"s\":\"{}\"}}", "x".repeat(store.spec.capability.max_payload))),
    }
}

async fn poison_is_set_aside_with_its_key_and_all_else_is_applied(store: Store) -> Verdict {
    store.states()?;
    let (projection, poison) = poison(&store);
    let bench = Bench::new(store, projection).await;
    let good = r#"{"n":1}"#;
    let mut events: Vec<(String, Option<String>)> =
        (0..300).map(|i| (format!("k{}", i % 40), Some(format!("{{\"n\":{i}}}")))).collect();
    events.insert(77, ("bad".into(), Some(good.into())));
    events.insert(150, ("bad".into(), Some(poison)));
    let events: Vec<_> = events.iter().map(|(key, data)| (key.as_str(), data.as_deref())).collect();
    bench.publish(&events).await;
    bench.run(Options::default()).await;
    // What comes later waits behind it, also when another worker delivers it.
    bench.publish(&[("bad", Some(r#"{"n":2}"#)), ("k0", Some(good)), ("bad", None)]).await;
    bench.run(Options::default()).await;
    let letters = dead_letter::read_all(&*bench.log, "sink").await.unwrap();
    let kinds: Vec<_> = letters.values().map(|letter| (letter.key.as_str(), letter.kind)).collect();
    use dead_letter::Kind::{Parked, Rejected};
    assert_eq!(kinds, [("bad", Rejected), ("bad", Parked), ("bad", Parked)]);
    let report = bench.verify().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.verified, report.dead_letters), (41, 3));
    let heartbeats = status::heartbeats(&*bench.log).await.unwrap();
    assert_eq!(heartbeats["sink"][0].collections["things"].parked_keys, 1);
    Ok(())
}

async fn records_that_are_no_events_become_dead_letters_and_the_sink_goes_on(store: Store) -> Verdict {
    store.document()?;
    let bench = Bench::new(store, Projection::Document).await;
    let topic = bench.feed.collection.topic();
    bench.publish(&[("a", Some("{}"))]).await;
    let raw = |key: Option<&[u8]>, value: &[u8]| primal_core::record::NewRecord {
        topic: topic.clone(),
        partition: Some(0),
        key: key.map(<[u8]>::to_vec),
        value: Some(value.to_vec()),
        headers: Vec::new(),
    };
    bench.log.append(vec![raw(None, b"x"), raw(Some(b"\xff\xfe"), b"{}"), raw(Some(b"k"), b"{}")]).await.unwrap();
    bench.publish(&[("a", Some("[1]")), ("b", Some("{\"x\":")), ("c", Some("{}"))]).await;
    bench.run(Options::default()).await;
    let letters = dead_letter::read_all(&*bench.log, "sink").await.unwrap();
    let undecodable = letters.values().filter(|l| l.kind == dead_letter::Kind::Undecodable).count();
    assert_eq!((letters.len(), undecodable), (5, 3));
    let report = bench.verify().await;
    assert!(report.is_clean() && report.verified == 2, "{report:?}");
    Ok(())
}

async fn small_batches_and_a_worker_cut_off_at_any_time_leave_the_same_store(store: Store) -> Verdict {
    for projection in &store.keyed()? {
        let bench = Bench::new(store.fresh().await, *projection).await;
        let events: Vec<_> = (0..600).map(|i| (format!("k{}", i % 37), format!("{{\"n\":{i}}}"))).collect();
        let events: Vec<_> = events
            .iter()
            .enumerate()
            .map(|(i, (key, data))| (key.as_str(), (i % 11 != 10).then_some(data.as_str())))
            .collect();
        bench.publish(&events).await;
        bench.cut_off(5).await;
        bench.run(Options { batch_events: Some(7), ..Options::default() }).await;
        let report = bench.verify().await;
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.events, report.verified), (600, if projection.keeps_every_event() { 600 } else { 37 }));
    }
    Ok(())
}

async fn verification_names_what_was_tampered_with(store: Store) -> Verdict {
    store.document()?;
    let bench = Bench::new(store, Projection::Document).await;
    bench.publish(&[("a", Some("{\"n\":1}")), ("b", Some("{\"n\":2}")), ("c", Some("{\"n\":3}"))]).await;
    bench.run(Options::default()).await;
    assert!(bench.verify().await.is_clean());
    let target = bench.feed.target("sink", Build::Live(1));
    // Written past the log: an unknown key, and an old key with a version that the log has for something else.
    let mut forged = crate::script::Script::default();
    forged.push("a", Some("{\"n\":7}"), &[]);
    forged.push("x", Some("{\"n\":8}"), &[]);
    for _ in 0..20 {
        forged.push("b", Some("{\"n\":9}"), &[]);
    }
    let sink = &bench.store.sink;
    sink.write(&target, &forged.batch(Projection::Document, 0..forged.len()).repairing()).await.unwrap();
    let report = bench.verify().await;
    assert!(!report.is_clean(), "{report:?}");
    assert_eq!(report.extra.first[0].key, "x");
    let differing: Vec<_> = report.differing.first.iter().map(|d| d.key.as_str()).collect();
    assert!(differing.contains(&"b"), "{report:?}");
    Ok(())
}

cases![
    poison_is_set_aside_with_its_key_and_all_else_is_applied,
    records_that_are_no_events_become_dead_letters_and_the_sink_goes_on,
    small_batches_and_a_worker_cut_off_at_any_time_leave_the_same_store,
    verification_names_what_was_tampered_with,
];
