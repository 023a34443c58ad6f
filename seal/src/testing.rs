//! What the tests here share: a log in a file, events in it, and a sealer.

use std::sync::Arc;

use primal_core::event::{Event, Op};
use primal_core::log::{EventLog, TopicSpec};
use primal_core::{Collection, Env, Epochs, Offset, Primal};
use primal_log_embedded::{Config, EmbeddedLog};

use crate::{Checkpoint, Report, Sealer, Signer, Tree, Verifier, consistency};

pub(crate) struct World {
    pub log: Arc<dyn EventLog>,
    pub collection: Collection,
    pub epochs: Epochs,
    secret: String,
    published: usize,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(partitions: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { path: folder.path().join("log.db") };
        let log = Arc::new(EmbeddedLog::open(config, Env::system()).await.unwrap());
        let collection = Collection::new("things").unwrap();
        log.create(&collection.topic(), TopicSpec { partitions, compacted: false }).await.unwrap();
        let epochs = Epochs::first(partitions as usize);
        let secret = Signer::generate("test").unwrap().secret();
        World { log, collection, epochs, secret, published: 0, _folder: folder }
    }

    pub(crate) fn signer(&self) -> Signer {
        self.secret.parse().unwrap()
    }

    pub(crate) fn keys(&self) -> Vec<Verifier> {
        vec![self.signer().verifier().clone()]
    }

    pub(crate) async fn sealer(&self) -> Sealer {
        Sealer::open(self.log.clone(), "p-", self.signer(), Vec::new()).await.unwrap()
    }

    /// Appends events to partition 0, ids `e<number>`.
    pub(crate) async fn publish(&mut self, count: usize) {
        let event = |number: usize| {
            let event = Event {
                collection: self.collection.clone(),
                key: format!("k{}", number % 7),
                op: Op::Put,
                id: format!("e{number}"),
                source: "test".to_owned(),
                kind: "thing.changed".to_owned(),
                time: "2013-01-01T00:00:00Z".to_owned(),
                data: Some(format!("{{\"n\":{number}}}")),
                data_schema: None,
                primal: Primal::STANDARD,
                extensions: vec![("actor".to_owned(), "me".to_owned())],
            };
            let mut record = event.into_record();
            record.partition = Some(0);
            record
        };
        self.log.append((self.published..self.published + count).map(event).collect()).await.unwrap();
        self.published += count;
    }

    pub(crate) fn tree(&self, offset: Offset) -> Tree {
        Tree::at(&self.collection, &self.epochs, 0, offset)
    }

    pub(crate) async fn compare(&self, kept: &[Checkpoint]) -> Vec<Report> {
        consistency(&*self.log, "p-", &self.collection, &self.epochs, &self.keys(), kept, |_| {}).await.unwrap()
    }
}
