//! The window of recent event ids: a request that is repeated with the same id is one event, answered with the first
//! receipt. Kept in memory, bounded, and read from the log's tail when the first id of a collection is claimed, and again
//! after a request whose end is unknown: the log may have its events although the answer was lost.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use primal_core::error::LogError;
use primal_core::log::{Appended, EventLog, Limits};
use primal_core::{Collection, Offset, Records, header};
use tokio::sync::watch;

/// How long the log may give nothing of a tail that it holds. Everybody who claims an id waits for it, so rather an error, and
/// a reader of its own for the next one.
const STALL: Duration = Duration::from_secs(15);

type Id = (Collection, String);
type Outcome = watch::Receiver<Option<Appended>>;

pub(crate) struct Window {
    size: usize,
    inner: Arc<Mutex<Inner>>,
    /// How far each collection was read; one reads at a time.
    tails: tokio::sync::Mutex<HashMap<Collection, Tail>>,
}

/// How far a collection was read.
#[derive(Default)]
struct Tail {
    /// The next offset per partition.
    next: Vec<Offset>,
    /// How many requests had ended unknown by then.
    lost: u64,
}

#[derive(Default)]
struct Inner {
    known: HashMap<Id, Entry>,
    order: VecDeque<Id>,
    /// Per collection, how many claims were given up without knowing whether the log has the event.
    lost: HashMap<Collection, u64>,
}

enum Entry {
    Published(Appended),
    Pending(Outcome),
}

/// What the window says of an id.
pub(crate) enum Claim {
    /// It was published before.
    Published(Appended),
    /// Somebody is publishing it.
    Pending(Pending),
    /// It is new, and ours to publish.
    Ours(Ours),
}

/// Somebody else's event on its way.
pub(crate) struct Pending(Outcome);

impl Pending {
    pub(crate) async fn wait(&mut self) -> Result<Appended, LogError> {
        let lost = || LogError::Unavailable("the first request with this id failed; send it again".to_owned());
        let outcome = self.0.wait_for(Option::is_some).await.map_err(|_| lost())?;
        outcome.ok_or_else(lost)
    }
}

/// A claimed id. Dropped before it is published, the id is free again, and the log is asked before it is next claimed.
pub(crate) struct Ours {
    inner: Arc<Mutex<Inner>>,
    id: Option<Id>,
    size: usize,
    tell: watch::Sender<Option<Appended>>,
}

impl Ours {
    pub(crate) fn published(mut self, appended: Appended) {
        if let Some(id) = self.id.take() {
            lock(&self.inner).insert(id, appended, self.size);
        }
        let _ = self.tell.send(Some(appended));
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let mut inner = lock(&self.inner);
            *inner.lost.entry(id.0.clone()).or_default() += 1;
            if matches!(inner.known.get(&id), Some(Entry::Pending(_))) {
                inner.known.remove(&id);
            }
        }
    }
}

impl Inner {
    fn insert(&mut self, id: Id, appended: Appended, size: usize) {
        if !matches!(self.known.insert(id.clone(), Entry::Published(appended)), Some(Entry::Published(_))) {
            self.order.push_back(id);
        }
        while self.order.len() > size {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Window {
    pub(crate) fn new(size: usize) -> Self {
        Window { size, inner: Arc::default(), tails: tokio::sync::Mutex::default() }
    }

    /// Claims an id for publishing, unless it is known.
    pub(crate) async fn claim(&self, log: &dyn EventLog, collection: &Collection, id: &str) -> Result<Claim, LogError> {
        self.read_tail(log, collection).await?;
        let id = (collection.clone(), id.to_owned());
        let mut inner = lock(&self.inner);
        Ok(match inner.known.get(&id) {
            Some(Entry::Published(appended)) => Claim::Published(*appended),
            Some(Entry::Pending(outcome)) => Claim::Pending(Pending(outcome.clone())),
            None => {
                let (tell, outcome) = watch::channel(None);
                inner.known.insert(id.clone(), Entry::Pending(outcome));
                Claim::Ours(Ours { inner: self.inner.clone(), id: Some(id), size: self.size, tell })
            }
        })
    }

    /// Reads the last ids of a collection from the log: once, and what came since after a request whose end is unknown.
    async fn read_tail(&self, log: &dyn EventLog, collection: &Collection) -> Result<(), LogError> {
        let mut tails = self.tails.lock().await;
        // Looked at before the log is, so that what is lost meanwhile is looked for next time.
        let lost = lock(&self.inner).lost.get(collection).copied().unwrap_or_default();
        if tails.get(collection).is_some_and(|tail| tail.lost == lost) {
            return Ok(());
        }
        let topic = collection.topic();
        let extents = log.recent(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        let each = (self.size / extents.len().max(1)) as i64;
        let known = tails.get(collection).map_or(&[][..], |tail| &tail.next);
        for (partition, extent) in (0..).zip(&extents) {
            let start = extent.start.max(extent.end - each);
            let start = known.get(partition as usize).map_or(start, |next| start.max(*next));
            if start >= extent.end {
                continue;
            }
            let stalled = |_| LogError::Unavailable(format!("{topic}/{partition} gives nothing of what it holds"));
            let mut reader = log.read(&topic, partition, start..extent.end).await?;
            let mut records = Records::new();
            let limits = Limits { records: 10_000, bytes: 4 << 20 };
            while tokio::time::timeout(STALL, reader.fetch(&mut records, limits)).await.map_err(stalled)?? {
                let mut inner = lock(&self.inner);
                for record in records.iter() {
                    if let Some(id) = record.headers.text(header::ID) {
                        let appended = Appended { partition, offset: record.offset };
                        inner.insert((collection.clone(), id.to_owned()), appended, self.size);
                    }
                }
                records.clear();
            }
        }
        tails.insert(collection.clone(), Tail { next: extents.iter().map(|extent| extent.end).collect(), lost });
        Ok(())
    }
}
