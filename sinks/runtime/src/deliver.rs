//! One run of records into the store: sort out dead letters, fold, write, advance; find what poisons a batch by halving
//! it. The dead letter is in the log before the position moves over its event.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;
use metrics::{gauge, histogram};
use primal_core::batch::Batch;
use primal_core::error::{AppendError, Fault, LogError, Rejected};
use primal_core::log::{EventLog, TopicPartition};
use primal_core::record::NewRecord;
use primal_core::sink::{Capability, Outcome, Projection};
use primal_core::{Collection, Env, Epochs, Offset, Position, Records, Retry, Sink, SinkError, Target};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::breaker::Breaker;
use crate::dead_letter::{self, Kind};
use crate::options::Options;
use crate::pace::Gate;
use crate::parked::Parked;
use crate::receipting::{Done, Receipts, Slot};
use crate::seen::Seen;
use crate::status::{Counts, State, Status};
use crate::triage::{Rules, Triage};

/// What all partitions of one worker share.
pub(crate) struct Shared {
    pub name: String,
    pub sink: Arc<dyn Sink>,
    pub capability: Capability,
    pub log: Arc<dyn EventLog>,
    pub options: Options,
    /// Whether rejected events park their keys. Only a worker does that: what a job that builds another generation finds
    /// rejected, the live one may have found superseded, and gone on.
    pub parks: bool,
    pub env: Env,
    pub breaker: Breaker,
    pub gate: Gate,
    pub parked: Parked,
    pub status: Status,
    pub receipts: Receipts,
}

/// Why delivery of a partition ended.
pub(crate) enum Ended {
    /// Somebody else writes, or the live generation changed: read the store's position and go on from there.
    Reestablish,
    /// Asked to end; what was begun is done.
    Cancelled,
    /// The sink has to stop.
    Failed(String),
}

/// How an attempt to call the store ended for good.
pub(crate) enum Verdict {
    Rejected(Vec<Rejected>),
    Ended(Ended),
}

/// One partition of one target.
pub(crate) struct Delivery<'a> {
    pub shared: &'a Shared,
    pub target: &'a Target,
    pub epochs: &'a Epochs,
    pub place: &'a TopicPartition,
    pub cancel: &'a CancellationToken,
    /// Where receipts are left, if they are.
    pub slot: Option<Arc<Slot>>,
}

impl Delivery<'_> {
    /// Applies all records and moves the position behind them. Records whose offset is among `written` have a dead letter
    /// already and are left out; new ones are added to it. `seen` is what the build holds, where that is known.
    pub(crate) async fn run(
        &self,
        records: &Records,
        position: &mut Option<Position>,
        written: &mut HashSet<Offset>,
        mut seen: Option<&mut Seen>,
    ) -> Result<(), Ended> {
        let mut ranges = Vec::new();
        ranges.push(0..records.len());
        while let Some(range) = ranges.pop() {
            if let Some(middle) = self.apply(records, range.clone(), position, written, seen.as_deref_mut()).await? {
                ranges.push(middle..range.end);
                ranges.push(range.start..middle);
            }
        }
        Ok(())
    }

    /// Applies a range. `Some(middle)` when something in it poisons it and it has to be tried in two halves.
    async fn apply(
        &self,
        records: &Records,
        range: Range<usize>,
        position: &mut Option<Position>,
        written: &mut HashSet<Offset>,
        mut seen: Option<&mut Seen>,
    ) -> Result<Option<usize>, Ended> {
        let behind = if range.end == records.len() { None } else { records.get(range.end) };
        let Some(next) = behind.map(|r| r.offset).or(records.next_offset()) else { return Ok(None) };
        let rules = Rules {
            collection: &self.target.collection,
            partition: self.place.partition,
            epochs: self.epochs,
            parked: &self.shared.parked,
            on_reject: self.shared.options.on_reject,
            // Points do not build on each other.
            parks: self.shared.parks && self.target.projection != Projection::Series,
            max_payload: self.shared.capability.max_payload,
            with_digest: self.slot.is_some(),
        };
        let mut triage = Triage::new(&rules, records, range.clone(), written);
        let next_position = self.epochs.position(self.place.partition, next);
        loop {
            self.write_letters(&mut triage, written).await?;
            let decoded = triage.events.iter().copied();
            let rejected = match Batch::fold(self.place.partition, self.epochs, self.target.projection, decoded) {
                Err(rejected) => rejected,
                Ok(batch) => {
                    let mut batch = batch.advancing(*position, next_position);
                    if let Some(seen) = &mut seen {
                        seen.mark(&mut batch, self.target.projection);
                    }
                    match self.write(&batch).await {
                        Ok((outcome, at)) => {
                            let folded = triage.events.len() - batch.events.len();
                            self.applied(outcome, folded, next);
                            let first = records.get(range.start).map(|record| record.offset);
                            let offsets = first.map(|first| first..next);
                            self.receipt(offsets, range.len(), &triage, outcome, folded, at);
                            *position = Some(next_position);
                            return Ok(None);
                        }
                        Err(Verdict::Ended(ended)) => return Err(ended),
                        Err(Verdict::Rejected(list)) if !list.is_empty() => list,
                        Err(Verdict::Rejected(_)) if batch.events.len() > 1 => {
                            return Ok(Some(range.start + range.len() / 2));
                        }
                        Err(Verdict::Rejected(_)) => batch
                            .events
                            .iter()
                            .map(|event| Rejected {
                                offset: event.record().offset,
                                reason: "refused by the store".to_owned(),
                            })
                            .collect(),
                    }
                }
            };
            if !triage.reject(rejected) {
                let (name, place) = (&self.shared.name, self.place);
                return Err(Ended::Failed(format!("{name} rejected an event that was not in the batch of {place:?}")));
            }
        }
    }

    /// Calls the store until it gives an answer that counts; and when that was.
    pub(crate) async fn write(&self, batch: &Batch<'_>) -> Result<(Outcome, Instant), Verdict> {
        loop {
            let Some(turn) = self.cancel.run_until_cancelled(self.shared.gate.turn()).await else {
                return Err(Verdict::Ended(Ended::Cancelled));
            };
            let Some(permit) = self.cancel.run_until_cancelled(self.shared.breaker.permit()).await else {
                return Err(Verdict::Ended(Ended::Cancelled));
            };
            let started = Instant::now();
            let limit = self.shared.options.write_timeout();
            let result = match tokio::time::timeout(limit, self.shared.sink.write(self.target, batch)).await {
                Ok(result) => result,
                Err(_) => Err(SinkError::new(Fault::Unavailable, format!("no answer within {} s", limit.as_secs()))),
            };
            let took = started.elapsed();
            histogram!("primalcore_sink_write_seconds", "sink" => self.shared.name.clone()).record(took.as_secs_f64());
            let error = match result {
                Ok(outcome) => {
                    permit.answered();
                    self.shared.status.set(State::Running, None);
                    // It is done, so it counts, also when the rest after it is cut short.
                    self.cancel.run_until_cancelled(self.shared.gate.rest(turn, took, batch.events.len())).await;
                    return Ok((outcome, started + took));
                }
                Err(error) => error,
            };
            let message = error.to_string();
            match error.fault {
                Fault::Rejected(list) if list.is_empty() && batch.events.len() == 1 => {
                    permit.answered();
                    let only = |event: &primal_core::BatchEvent<'_>| Rejected {
                        offset: event.record().offset,
                        reason: message.clone(),
                    };
                    return Err(Verdict::Rejected(batch.events.iter().map(only).collect()));
                }
                Fault::Rejected(list) => {
                    permit.answered();
                    return Err(Verdict::Rejected(list));
                }
                Fault::Fenced => {
                    permit.answered();
                    tracing::info!(sink = self.shared.name, place = ?self.place, message, "fenced; going on from the store's position");
                    return Err(Verdict::Ended(Ended::Reestablish));
                }
                fault => {
                    if error.retry == Retry::No {
                        permit.answered();
                        return Err(Verdict::Ended(Ended::Failed(message)));
                    }
                    self.shared.pause(permit, error.retry, &message);
                    // Something is not as prepared (a dropped table, for instance): prepare again.
                    if fault == Fault::Internal {
                        return Err(Verdict::Ended(Ended::Reestablish));
                    }
                }
            }
        }
    }

    /// Puts the letters into the log and parks their keys; both before the position can move.
    async fn write_letters(&self, triage: &mut Triage<'_>, written: &mut HashSet<Offset>) -> Result<(), Ended> {
        if triage.letters.is_empty() {
            return Ok(());
        }
        let shared = self.shared;
        let letters: Vec<NewRecord> = triage
            .letters
            .iter()
            .map(|l| {
                let (topic, partition) = (&self.place.topic, self.place.partition);
                dead_letter::letter(&shared.name, topic, partition, l.record, l.version, l.kind, &l.reason)
            })
            .collect();
        self.until_logged(|| shared.log.append(letters.clone())).await?;
        let collection = &self.target.collection;
        if !triage.park.is_empty() {
            self.until_logged(|| shared.parked.set(&*shared.log, collection, &triage.park)).await?;
        }
        let parked = triage.letters.iter().filter(|l| l.kind == Kind::Parked).count() as u64;
        let rejected = triage.letters.len() as u64 - parked;
        for letter in triage.letters.iter().filter(|l| l.kind != Kind::Parked) {
            tracing::warn!(sink = shared.name, place = ?self.place, offset = letter.record.offset, reason = letter.reason, "dead letter");
        }
        shared.status.count(collection, Counts { rejected, waiting: parked, ..Counts::default() });
        shared.status.parked(collection, shared.parked.count(collection));
        written.extend(triage.letters.drain(..).map(|l| l.record.offset));
        triage.park.clear();
        Ok(())
    }

    async fn until_logged<T, F>(&self, mut call: impl FnMut() -> F) -> Result<(), Ended>
    where
        F: Future<Output = Result<T, AppendError>>,
    {
        for attempt in 0.. {
            match call().await {
                Ok(_) => return Ok(()),
                Err(failed) if failed.error.is_passing() => {
                    self.shared.status.set(State::Retrying, Some(failed.error.to_string()));
                    let (base, limit) = (Duration::from_millis(100), Duration::from_secs(10));
                    let pause = self.shared.env.backoff(base, limit, attempt);
                    if self.cancel.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return Err(Ended::Cancelled);
                    }
                }
                Err(failed) => return Err(Ended::Failed(format!("a dead letter cannot be written: {failed}"))),
            }
        }
        Ok(())
    }

    fn applied(&self, outcome: Outcome, folded: usize, next: Offset) {
        let Outcome { applied, stale } = outcome;
        let counts = Counts { applied, stale, folded: folded as u64, ..Counts::default() };
        self.shared.status.count(&self.target.collection, counts);
        self.shared.status.advanced(self.place, next);
    }

    /// Leaves a receipt of records that are done.
    fn receipt(
        &self,
        offsets: Option<Range<Offset>>,
        records: usize,
        triage: &Triage<'_>,
        outcome: Outcome,
        folded: usize,
        at: Instant,
    ) {
        let (Some(offsets), Some(slot)) = (offsets, &self.slot) else { return };
        let done = Done {
            epoch: self.epochs.at(self.place.partition, offsets.start),
            offsets,
            outcome,
            folded: folded as u64,
            left_out: (records - triage.events.len()) as u64,
            digest: triage.digest,
            at,
        };
        self.shared.receipts.add(slot, done);
    }
}

impl Shared {
    /// Notes a failure that may pass, and makes all partitions wait before the next attempt.
    pub(crate) fn pause(&self, permit: crate::breaker::Permit<'_>, retry: Retry, message: &str) {
        let pause = permit.failed(retry);
        gauge!("primalcore_breaker_state", "sink" => self.name.clone()).set(self.breaker.gauge());
        tracing::warn!(sink = self.name, error = message, retry_in_ms = pause.as_millis() as u64, "the store failed");
        self.status.set(State::Retrying, Some(message.to_owned()));
    }

    /// Notes a failure of the log that may pass; the pause before it is asked again is returned.
    pub(crate) fn log_failed(&self, error: &LogError) -> Duration {
        tracing::warn!(sink = self.name, %error, "the log failed");
        self.status.set(State::Retrying, Some(error.to_string()));
        self.env.backoff(Duration::from_millis(200), Duration::from_secs(2), 3)
    }
}

/// The collection that a topic holds, if it holds one.
pub(crate) fn collection_of(place: &TopicPartition) -> Option<Collection> {
    Collection::new(place.topic.as_str()).ok()
}
