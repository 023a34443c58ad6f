//! How receipts come into the log: whoever delivers only adds to the open block in memory; a task of its own writes what
//! changed, once a second. What cannot be written is tried again; beyond [`WAITING`] rows the oldest are dropped and counted. A
//! crash loses the last second of receipts. A worker that goes on in the middle of a block takes up the row that the log
//! has of it; where a store fell back behind the newest block, the rows of what is delivered again are replaced.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use primal_core::blocks::BLOCK;
use primal_core::error::LogError;
use primal_core::keyed::{self, Keyed};
use primal_core::log::EventLog;
use primal_core::sink::{Outcome, Target};
use primal_core::{Env, Offset, Partition, RecordRef, Timestamp, Topic};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::receipts::{GATHERED, Receipt, Span, generation_of};

/// Rows that wait for the log, at most.
const WAITING: usize = 1_000;
/// How long the last rows of one that ends may take.
const CLOSING: Duration = Duration::from_secs(2);

/// One delivery, as the one who delivered tells it.
pub(crate) struct Done {
    pub epoch: u64,
    pub offsets: Range<Offset>,
    pub outcome: Outcome,
    pub folded: u64,
    pub left_out: u64,
    pub digest: u64,
    /// When the store had it.
    pub at: Instant,
}

/// The receipts of one worker or job.
pub(crate) struct Receipts {
    inner: Option<Arc<Inner>>,
    env: Env,
    ended: CancellationToken,
}

impl Drop for Receipts {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

struct Inner {
    sink: String,
    instance: String,
    log: Arc<dyn EventLog>,
    /// By place name and partition.
    slots: Mutex<HashMap<(String, Partition), Arc<Slot>>>,
    waiting: Mutex<Waiting>,
    changed: Notify,
    /// One writes at a time: the task of its own, or whoever closes.
    writing: tokio::sync::Mutex<Written>,
}

/// Blocks that are full and not written yet.
#[derive(Default)]
struct Waiting {
    full: VecDeque<Open>,
    dropped: u64,
}

impl Waiting {
    fn push(&mut self, full: Open) {
        self.full.push_back(full);
        if self.full.len() > WAITING {
            self.full.pop_front();
            self.dropped += 1;
        }
    }
}

/// Where one partition of one build leaves its receipts: the block that is open.
pub(crate) struct Slot {
    collection: String,
    generation: String,
    partition: Partition,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// When the clock was last asked: that is a system call on some machines, and there may be a batch every few
    /// microseconds.
    asked: Option<(Instant, Timestamp)>,
}

impl State {
    fn moment(&mut self, at: Instant, env: &Env) -> Timestamp {
        let since = self.asked.map(|(asked, then)| (at.saturating_duration_since(asked), then));
        if let Some((since, then)) = since.filter(|(since, _)| *since < GATHERED) {
            return Timestamp(then.0 + since.as_micros() as i64);
        }
        let now = env.now();
        self.asked = Some((at, now));
        now
    }
}

struct Open {
    receipt: Receipt,
    is_changed: bool,
    /// Whether the log may have a row of it that was not looked at.
    is_continued: bool,
}

/// What the writing half knows of the log's rows.
#[derive(Default)]
struct Written {
    table: Option<Keyed>,
    /// Where to read on.
    next: Offset,
    /// Of this sink's rows the newest of each build, partition and epoch: all that can be gone on with.
    newest: HashMap<String, Receipt>,
}

impl Written {
    async fn read_on(&mut self, log: &dyn EventLog, sink: &str) -> Result<(), LogError> {
        let newest = &mut self.newest;
        let take = |record: RecordRef<'_>| {
            let key = record.key.and_then(|key| std::str::from_utf8(key).ok());
            let is_ours = key.and_then(|key| key.strip_prefix(sink)).is_some_and(|rest| rest.starts_with('/'));
            let Some(value) = record.value.filter(|_| is_ours) else { return };
            let Ok(receipt) = serde_json::from_slice::<Receipt>(value) else { return };
            let build = receipt.build();
            if newest.get(&build).is_none_or(|newest| newest.block <= receipt.block) {
                newest.insert(build, receipt);
            }
        };
        let end = keyed::follow(log, &Topic::receipts(), self.next, take).await?;
        self.next = end.unwrap_or(self.next);
        Ok(())
    }
}

impl Receipts {
    /// Writes nothing where they are not wanted.
    pub(crate) fn new(sink: &str, instance: &str, log: &Arc<dyn EventLog>, env: &Env, is_wanted: bool) -> Self {
        let inner = is_wanted.then(|| {
            Arc::new(Inner {
                sink: sink.to_owned(),
                instance: instance.to_owned(),
                log: log.clone(),
                slots: Mutex::default(),
                waiting: Mutex::default(),
                changed: Notify::new(),
                writing: tokio::sync::Mutex::default(),
            })
        });
        let ended = CancellationToken::new();
        if let Some(inner) = &inner {
            tokio::spawn(keep_written(inner.clone(), ended.clone()));
        }
        Receipts { inner, env: env.clone(), ended }
    }

    /// Where a partition of a build leaves its receipts; `None` where they are not wanted.
    pub(crate) fn slot(&self, target: &Target, partition: Partition) -> Option<Arc<Slot>> {
        let slot = || Slot {
            collection: target.collection.to_string(),
            generation: generation_of(target),
            partition,
            state: Mutex::default(),
        };
        let mut slots = locked(&self.inner.as_ref()?.slots);
        Some(slots.entry((target.position_name(), partition)).or_insert_with(|| Arc::new(slot())).clone())
    }

    /// Adds a delivery. Touches nothing but memory.
    pub(crate) fn add(&self, slot: &Slot, done: Done) {
        let Some(inner) = &self.inner else { return };
        let mut state = locked(&slot.state);
        let now = state.moment(done.at, &self.env);
        let span = Span {
            from: done.offsets.start,
            to: done.offsets.end,
            first: now,
            last: now,
            batches: 1,
            applied: done.outcome.applied,
            stale: done.outcome.stale,
            folded: done.folded,
            left_out: done.left_out,
            digest: done.digest,
        };
        let block = span.from / BLOCK * BLOCK;
        let place = &mut state.open;
        let is_other = |open: &mut Open| (open.receipt.epoch, open.receipt.block) != (done.epoch, block);
        if let Some(full) = place.take_if(is_other).filter(|full| full.is_changed) {
            locked(&inner.waiting).push(full);
        }
        let open = place.get_or_insert_with(|| Open {
            receipt: Receipt {
                sink: inner.sink.clone(),
                collection: slot.collection.clone(),
                generation: slot.generation.clone(),
                partition: slot.partition,
                epoch: done.epoch,
                block,
                instance: inner.instance.clone(),
                spans: Vec::new(),
            },
            is_changed: false,
            is_continued: true,
        });
        open.receipt.push(span);
        // Whoever writes is told once.
        if !std::mem::replace(&mut open.is_changed, true) {
            inner.changed.notify_one();
        }
    }

    /// Writes what is left; gives up after a moment.
    pub(crate) async fn close(&self) {
        if let Some(inner) = &self.inner {
            let _ = tokio::time::timeout(CLOSING, inner.write()).await;
        }
    }
}

/// Writes what changed, until nobody adds any more.
async fn keep_written(inner: Arc<Inner>, ended: CancellationToken) {
    while ended.run_until_cancelled(inner.changed.notified()).await.is_some() {
        ended.run_until_cancelled(tokio::time::sleep(GATHERED)).await;
        if let Err(error) = inner.write().await {
            tracing::debug!(sink = inner.sink, %error, "receipts could not be written; trying again");
            inner.changed.notify_one();
        }
    }
    let _ = tokio::time::timeout(CLOSING, inner.write()).await;
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Writes all rows that changed. Those that could not be written have changed still.
    async fn write(&self) -> Result<(), LogError> {
        let mut written = self.writing.lock().await;
        let written = &mut *written;
        if written.table.is_none() {
            written.table = Some(Keyed::open(&*self.log, Topic::receipts()).await?);
        }
        self.take_up(written).await?;
        let Some(table) = &written.table else { return Ok(()) };
        let full = {
            let mut waiting = locked(&self.waiting);
            let dropped = std::mem::take(&mut waiting.dropped);
            counter!("primalcore_receipts_dropped_total", "sink" => self.sink.clone()).increment(dropped);
            std::mem::take(&mut waiting.full)
        };
        let mut rows: BTreeMap<String, Receipt> =
            full.iter().map(|full| (full.receipt.row(), full.receipt.clone())).collect();
        self.each_open(|open| {
            if std::mem::take(&mut open.is_changed) {
                rows.insert(open.receipt.row(), open.receipt.clone());
            }
        });
        if rows.is_empty() {
            return Ok(());
        }
        let values = rows.into_iter().map(|(row, receipt)| (row, serde_json::to_vec(&receipt).ok()));
        let Err(failed) = table.put(&*self.log, values.collect::<Vec<_>>()).await else { return Ok(()) };
        let mut waiting = locked(&self.waiting);
        let since = std::mem::replace(&mut waiting.full, full);
        since.into_iter().for_each(|full| waiting.push(full));
        drop(waiting);
        self.each_open(|open| open.is_changed = true);
        Err(failed.error)
    }

    fn each_open(&self, mut each: impl FnMut(&mut Open)) {
        let slots: Vec<Arc<Slot>> = locked(&self.slots).values().cloned().collect();
        slots.iter().for_each(|slot| {
            if let Some(open) = &mut locked(&slot.state).open {
                each(open);
            }
        });
    }

    fn each_unread(&self, mut each: impl FnMut(&mut Open)) {
        let mut unread = |open: &mut Open| {
            if open.is_continued {
                each(open);
            }
        };
        locked(&self.waiting).full.iter_mut().for_each(&mut unread);
        self.each_open(unread);
    }

    /// Rows of blocks that somebody else, or this sink before it was restarted, began: their spans come first.
    async fn take_up(&self, written: &mut Written) -> Result<(), LogError> {
        let mut is_due = false;
        self.each_unread(|open| {
            // What begins where the block does was not begun before, unless the store had some of it already.
            let starts = open.receipt.spans.first().map_or(0, |span| span.from);
            open.is_continued = starts > open.receipt.block || open.receipt.total().stale > 0;
            is_due |= open.is_continued;
        });
        if !is_due {
            return Ok(());
        }
        written.read_on(&*self.log, &self.sink).await?;
        self.each_unread(|open| {
            open.is_continued = false;
            let row = written.newest.get(&open.receipt.build()).filter(|row| row.block == open.receipt.block);
            if let Some(before) = row {
                let since = std::mem::replace(&mut open.receipt.spans, before.spans.clone());
                since.into_iter().for_each(|span| open.receipt.push(span));
            }
        });
        Ok(())
    }
}
