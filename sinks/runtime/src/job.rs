//! Delivery without a place in the group: what replay uses to fill a build beside the live one, to write a range again,
//! and to redrive dead letters. The same batches, retries and dead letters as a worker's.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;
use primal_core::batch::{Batch, Mode};
use primal_core::error::{LogError, Rejected};
use primal_core::event::EventRef;
use primal_core::log::{EventLog, Limits, TopicPartition};
use primal_core::{Env, Epochs, Offset, Partition, Position, Records, Sink, SinkSpec, Target};
use tokio_util::sync::CancellationToken;

use crate::breaker::Breaker;
use crate::deliver::{Delivery, Ended, Shared, Verdict};
use crate::options::Options;
use crate::pace::{Gate, Pace};
use crate::parked::Parked;
use crate::receipting::Receipts;
use crate::seen::Seen;
use crate::status::{State, Status};

/// Why a job ended early.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Another job writes to the same build, or the build is not what it was.
    #[error("another process writes to the same place, or it was swapped meanwhile; look with `primalcore status`")]
    Fenced,
    /// Asked to stop. What was done is kept.
    #[error("interrupted; the same command goes on from here")]
    Cancelled,
    /// A reason that does not pass by itself.
    #[error("{0}")]
    Failed(String),
}

/// What of one partition a build holds.
#[derive(Debug, Default)]
pub struct Filled {
    /// How far it is, by the store.
    pub position: Option<Position>,
    /// The identities, where this job has written all of them.
    pub seen: Option<Seen>,
}

/// What writing a range again did.
#[derive(Clone, Debug, Default)]
pub struct Rewritten {
    /// Records written.
    pub applied: u64,
    /// Events below what the store holds.
    pub stale: u64,
    /// Events that the store refuses.
    pub rejected: Vec<Rejected>,
}

/// Writes to one sink on behalf of a job.
#[derive(Clone)]
pub struct Job {
    shared: Arc<Shared>,
    cancel: CancellationToken,
}

impl Job {
    /// Reads from the log which keys are parked.
    ///
    /// # Errors
    /// The log's.
    #[expect(clippy::too_many_arguments, reason = "each is a part that a test replaces")]
    pub async fn new(
        name: &str,
        spec: &SinkSpec,
        sink: Arc<dyn Sink>,
        log: Arc<dyn EventLog>,
        options: Options,
        pace: Pace,
        env: Env,
        cancel: CancellationToken,
    ) -> Result<Self, LogError> {
        let shared = Shared {
            name: name.to_owned(),
            sink,
            capability: spec.capability,
            parked: Parked::load(&*log, name).await?,
            receipts: Receipts::new(name, "job", &log, &env, options.receipts),
            log,
            options,
            parks: false,
            breaker: Breaker::new(env.clone()),
            gate: Gate::new(pace),
            env,
            status: Status::new(name, "job"),
        };
        Ok(Job { shared: Arc::new(shared), cancel })
    }

    /// How much to fetch for one batch when `partitions` are worked on at once.
    pub fn limits(&self, partitions: usize) -> Limits {
        Limits {
            records: self.shared.gate.batch_limit(self.shared.options.batch_limit(&self.shared.capability)),
            // One batch of a partition at a time, where a worker holds two.
            bytes: self.shared.options.byte_limit(&self.shared.capability, partitions.div_ceil(2)),
        }
    }

    /// How hard it may push.
    pub fn pace(&self) -> Pace {
        self.shared.gate.pace()
    }

    /// Lets the rate and the share of the store's time not count, or count again; pauses do in any case.
    pub fn lift(&self, lifted: bool) {
        self.shared.gate.lift(lifted);
    }

    /// Stops before the next batch, or goes on.
    pub fn pause(&self, paused: bool) {
        self.shared.gate.pause(paused);
    }

    /// How long it has stood still by now: paused, or because the store or the log failed.
    pub fn stood(&self) -> Duration {
        self.shared.gate.stood() + self.shared.status.retried()
    }

    /// What it waits for, while the store or the log fails and it tries again.
    pub fn trouble(&self) -> Option<String> {
        self.shared.status.trouble()
    }

    /// Something failed that may pass: waits for a while before it is tried again, and says meanwhile what it was.
    ///
    /// # Errors
    /// It was cancelled.
    pub async fn wait(&self, error: String, pause: Duration) -> Result<(), JobError> {
        tracing::warn!(sink = self.shared.name, error, retry_in_ms = pause.as_millis() as u64, "trying again");
        self.shared.status.set(State::Retrying, Some(error));
        self.cancel.run_until_cancelled(tokio::time::sleep(pause)).await.ok_or(JobError::Cancelled)
    }

    /// What had failed is done.
    pub fn well(&self) {
        self.shared.status.set(State::Running, None);
    }

    /// Waits until so many events may be taken: while it is paused, and as the rate has it.
    ///
    /// # Errors
    /// It was cancelled meanwhile.
    pub async fn admit(&self, events: usize) -> Result<(), JobError> {
        self.cancel.run_until_cancelled(self.shared.gate.admit(events)).await.ok_or(JobError::Cancelled)
    }

    /// Waits until it is paused: what only reads is dropped then, and begun anew.
    ///
    /// # Errors
    /// It was cancelled.
    pub async fn held_up(&self) -> Result<(), JobError> {
        self.cancel.run_until_cancelled(self.shared.gate.closed()).await.ok_or(JobError::Cancelled)
    }

    /// A part of it, which ends with it or when the token is cancelled, whichever comes first.
    pub fn part(&self) -> (Self, CancellationToken) {
        let cancel = self.cancel.child_token();
        (Job { shared: self.shared.clone(), cancel: cancel.clone() }, cancel)
    }

    /// The sink's parked keys.
    pub fn parked(&self) -> &Parked {
        &self.shared.parked
    }

    /// Applies records of a partition and moves the build's position behind them. Those at offsets in `left_out` (they
    /// have a dead letter) are not applied.
    ///
    /// # Errors
    /// The position is where the store says.
    pub async fn apply(
        &self,
        target: &Target,
        epochs: &Epochs,
        partition: Partition,
        records: &Records,
        filled: &mut Filled,
        left_out: &mut HashSet<Offset>,
    ) -> Result<(), JobError> {
        let place = TopicPartition { topic: target.collection.topic(), partition };
        let slot = self.shared.receipts.slot(target, partition);
        let delivery = Delivery { shared: &self.shared, target, epochs, place: &place, cancel: &self.cancel, slot };
        delivery
            .run(records, &mut filled.position, left_out, filled.seen.as_mut())
            .await
            .map_err(|ended| self.error(&ended))
    }

    /// Writes the receipts of what was applied by now, as well as it can.
    pub async fn settle(&self) {
        self.shared.receipts.close().await;
    }

    /// Writes events again without moving any position: equal versions too in [`Mode::Repair`]. Refused events are
    /// reported, the rest is written.
    ///
    /// # Errors
    /// What was written stays.
    pub async fn rewrite(
        &self,
        target: &Target,
        epochs: &Epochs,
        partition: Partition,
        mode: Mode,
        events: Vec<EventRef<'_>>,
    ) -> Result<Rewritten, JobError> {
        let place = TopicPartition { topic: target.collection.topic(), partition };
        let slot = None;
        let delivery = Delivery { shared: &self.shared, target, epochs, place: &place, cancel: &self.cancel, slot };
        let mut done = Rewritten::default();
        let mut pending = vec![events];
        while let Some(mut events) = pending.pop() {
            let batch = Batch::fold(partition, epochs, target.projection, events.iter().copied());
            let rejected = match batch {
                Err(rejected) => rejected,
                Ok(batch) if batch.events.is_empty() => continue,
                Ok(mut batch) => {
                    batch.mode = mode;
                    match delivery.write(&batch).await {
                        Ok((outcome, _)) => {
                            done.applied += outcome.applied;
                            done.stale += outcome.stale;
                            continue;
                        }
                        Err(Verdict::Ended(ended)) => return Err(self.error(&ended)),
                        Err(Verdict::Rejected(list)) => list,
                    }
                }
            };
            if rejected.is_empty() {
                // The store did not say which: look in each half, the first half first.
                let second = events.split_off(events.len() / 2);
                pending.push(second);
                pending.push(events);
            } else {
                let refused: HashSet<Offset> = rejected.iter().map(|r| r.offset).collect();
                events.retain(|event| !refused.contains(&event.record.offset));
                done.rejected.extend(rejected);
                pending.push(events);
            }
        }
        Ok(done)
    }

    fn error(&self, ended: &Ended) -> JobError {
        match ended {
            Ended::Reestablish => JobError::Fenced,
            Ended::Cancelled => JobError::Cancelled,
            Ended::Failed(reason) => JobError::Failed(format!("sink {}: {reason}", self.shared.name)),
        }
    }
}
