//! What the tests here share: a log in a file on a clock of their own, and entries without a log.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use primal_core::event::{Event, Op};
use primal_core::log::{EventLog, TopicSpec};
use primal_core::{Clock, Collection, Env, Epochs, Primal, Timestamp, Version};
use primal_log_embedded::{Config, EmbeddedLog};

use crate::scan::{Entry, Source};

/// An entry of which nothing but the id matters.
pub(crate) fn entry(id: &str) -> Entry {
    Entry {
        recorded: Timestamp(0),
        time: None,
        collection: "things".to_owned(),
        partition: 0,
        offset: 0,
        version: Version(1),
        key: "k".to_owned(),
        op: Some(Op::Put),
        kind: String::new(),
        source: String::new(),
        id: id.to_owned(),
        actor: None,
        correlation: None,
        causation: None,
        problem: None,
        headers: Vec::new(),
        data: None,
    }
}

struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// A log whose clock stands still until it is set.
pub(crate) struct World {
    pub log: Arc<dyn EventLog>,
    clock: Arc<Hand>,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hand(AtomicI64::new(0)));
        let config = Config { path: folder.path().join("log.db") };
        let log = Arc::new(EmbeddedLog::open(config, Env::seeded(clock.clone(), 1)).await.unwrap());
        World { log, clock, _folder: folder }
    }

    pub(crate) async fn source(&self, name: &str, partitions: u32) -> Source {
        let collection = Collection::new(name).unwrap();
        self.log.create(&collection.topic(), TopicSpec { partitions, compacted: false }).await.unwrap();
        Source { collection, epochs: Arc::new(Epochs::first(partitions as usize)) }
    }

    /// Appends a put at a moment, or a delete where there is no payload; its id is `<key>@<moment>`.
    pub(crate) async fn put(&self, source: &Source, at: i64, key: &str, data: Option<&str>) {
        let op = if data.is_some() { Op::Put } else { Op::Delete };
        self.append(source, at, key, op, data, None).await;
    }

    pub(crate) async fn append(
        &self,
        source: &Source,
        at: i64,
        key: &str,
        op: Op,
        data: Option<&str>,
        partition: Option<i32>,
    ) {
        self.clock.0.store(at, Ordering::Relaxed);
        let event = Event {
            collection: source.collection.clone(),
            key: key.to_owned(),
            op,
            id: format!("{key}@{at}"),
            source: "test".to_owned(),
            kind: format!("thing.{}", op.as_str()),
            time: "2013-01-01T00:00:00Z".to_owned(),
            data: data.map(str::to_owned),
            data_schema: None,
            primal: Primal::STANDARD,
            extensions: Vec::new(),
        };
        let mut record = event.into_record();
        record.partition = partition;
        self.log.append(vec![record]).await.unwrap();
    }
}
