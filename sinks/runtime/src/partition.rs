//! One partition of a worker: learn from the store where it stands, read from there, and deliver batch after batch; the
//! next batch is fetched while the one before is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hashbrown::HashSet;
use primal_core::error::LogError;
use primal_core::log::{Extent, Limits, PartitionReader, TopicPartition};
use primal_core::sink::Build;
use primal_core::{Epochs, Fault, Offset, Position, Records, Retry, SinkError, Target};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::deliver::{Delivery, Ended, Shared};
use crate::status::State;

/// How long no event comes before the store is asked whether it is still as it was, and the log whether it has none.
const IDLE: Duration = Duration::from_secs(10);

/// A request to the worker, which owns the place in the group.
pub(crate) struct Start {
    pub place: TopicPartition,
    pub at: Offset,
    pub reply: oneshot::Sender<Result<Box<dyn PartitionReader>, LogError>>,
}

pub(crate) struct PartitionTask {
    pub shared: Arc<Shared>,
    pub place: TopicPartition,
    pub target: Target,
    pub epochs: Arc<Epochs>,
    pub starts: mpsc::Sender<Start>,
    pub cancel: CancellationToken,
    pub limits: Limits,
    /// Where the log ended when reading was last begun anew because nothing had come.
    pub reread: AtomicI64,
}

impl PartitionTask {
    /// Delivers until cancelled. The error is a reason for the whole sink to stop.
    pub(crate) async fn run(self) -> Result<(), String> {
        loop {
            match self.session().await {
                Err(Ended::Reestablish) => {}
                Err(Ended::Failed(reason)) => return Err(reason),
                Err(Ended::Cancelled) | Ok(()) => return Ok(()),
            }
        }
    }

    async fn session(&self) -> Result<(), Ended> {
        let (target, position, offset) = self.establish().await?;
        let reader = self.start(offset).await?;
        self.pump(target, position, reader).await
    }

    /// Asks the store which generation is live and how far it is, until it answers.
    async fn establish(&self) -> Result<(Target, Option<Position>, Offset), Ended> {
        loop {
            let Some(permit) = self.cancel.run_until_cancelled(self.shared.breaker.permit()).await else {
                return Err(Ended::Cancelled);
            };
            let error = match self.store_position().await {
                Ok((target, position)) => {
                    permit.answered();
                    self.learn_parked().await?;
                    let offset = self.resume_at(position).await?;
                    self.shared.status.set(State::Running, None);
                    return Ok((target, position, offset));
                }
                Err(error) => error,
            };
            if error.retry == Retry::No && error.fault != Fault::Fenced {
                permit.answered();
                return Err(Ended::Failed(error.to_string()));
            }
            let retry = if error.retry == Retry::No { Retry::Backoff } else { error.retry };
            self.shared.pause(permit, retry, &error.to_string());
        }
    }

    async fn store_position(&self) -> Result<(Target, Option<Position>), SinkError> {
        let sink = &self.shared.sink;
        let builds = sink.builds(&self.shared.name, &self.target.collection).await?;
        let target = self.target.with_build(Build::Live(builds.live));
        sink.prepare(&target).await?;
        let position = sink.positions(&target).await?.get(&self.place.partition).copied();
        Ok((target, position))
    }

    /// Reads which keys are parked, after the position was: what was parked by then was parked before the position moved
    /// over it, and whoever moves it further fences this task, which then comes here again.
    async fn learn_parked(&self) -> Result<(), Ended> {
        loop {
            match self.shared.parked.refresh(&*self.shared.log).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_passing() => self.wait_for_log(&error).await?,
                Err(error) => return Err(Ended::Failed(error.to_string())),
            }
        }
    }

    /// What there is to read. The log's archive is looked at only where the log itself begins too late.
    async fn extent(&self, offset: Offset) -> Result<Option<Extent>, LogError> {
        let (log, topic) = (&self.shared.log, &self.place.topic);
        let ours = |extents: Vec<Extent>| extents.get(self.place.partition as usize).copied();
        match log.recent(topic).await?.and_then(ours) {
            Some(extent) if offset < extent.start => Ok(log.extents(topic).await?.and_then(ours)),
            found => Ok(found),
        }
    }

    /// Where to read from, or why the log cannot serve that.
    async fn resume_at(&self, position: Option<Position>) -> Result<Offset, Ended> {
        let offset = self.epochs.resume(position);
        let extent = loop {
            match self.extent(offset).await {
                Ok(extent) => break extent,
                Err(error) if error.is_passing() => self.wait_for_log(&error).await?,
                Err(error) => return Err(Ended::Failed(error.to_string())),
            }
        };
        let (name, topic, partition) = (&self.shared.name, &self.place.topic, self.place.partition);
        let Some(extent) = extent else {
            return Err(Ended::Failed(format!("{topic}/{partition} is not in the log any more")));
        };
        if usize::try_from(partition).is_ok_and(|p| p >= self.epochs.partitions()) {
            return Err(Ended::Failed(format!(
                "{topic} has more partitions than the {} on record; `primalcore topics --renew {topic}` begins a new epoch",
                self.epochs.partitions()
            )));
        }
        let rebuild = format!("`replay --sink {name} --collection {topic} --from earliest --mode shadow --execute`");
        if offset < extent.start {
            return Err(Ended::Failed(format!(
                "offsets [{offset}, {}) of {topic}/{partition} are no longer in the log (retention), but {name} has not \
                 applied them; {rebuild} builds it anew from what is left",
                extent.start
            )));
        }
        if offset > extent.end {
            return Err(Ended::Failed(format!(
                "{name} has applied {topic}/{partition} up to offset {offset}, but the log ends at {}: offsets [{}, {offset}) \
                 are missing. Was the topic re-created? then `primalcore topics --renew {topic}` begins a new epoch, or \
                 {rebuild} builds the store anew from what the log has",
                extent.end, extent.end
            )));
        }
        Ok(offset)
    }

    async fn start(&self, at: Offset) -> Result<Box<dyn PartitionReader>, Ended> {
        loop {
            let (reply, answer) = oneshot::channel();
            let request = Start { place: self.place.clone(), at, reply };
            let asked = async {
                self.starts.send(request).await.ok()?;
                answer.await.ok()
            };
            match self.cancel.run_until_cancelled(asked).await.flatten() {
                None => return Err(Ended::Cancelled),
                Some(Ok(reader)) => return Ok(reader),
                Some(Err(error)) if error.is_passing() => self.wait_for_log(&error).await?,
                Some(Err(error)) => return Err(Ended::Failed(error.to_string())),
            }
        }
    }

    async fn pump(
        &self,
        target: Target,
        mut position: Option<Position>,
        mut reader: Box<dyn PartitionReader>,
    ) -> Result<(), Ended> {
        let delivery = Delivery {
            shared: &self.shared,
            target: &target,
            epochs: &self.epochs,
            place: &self.place,
            cancel: &self.cancel,
            slot: self.shared.receipts.slot(&target, self.place.partition),
        };
        let (mut current, mut next) = (Records::new(), Records::new());
        loop {
            while current.is_empty() {
                let gathered = tokio::time::timeout(IDLE, self.gather(&mut *reader, &mut current));
                match self.cancel.run_until_cancelled(gathered).await {
                    None => return Err(Ended::Cancelled),
                    Some(Ok(fetched)) => self.fetched(fetched).await?,
                    Some(Err(_)) => self.look(&target, position).await?,
                }
            }
            let mut broken = Ok(true);
            {
                let mut letters = HashSet::new();
                let write = delivery.run(&current, &mut position, &mut letters, None);
                tokio::pin!(write);
                loop {
                    let room = broken.is_ok() && !self.limits.reached(&next);
                    tokio::select! {
                        biased;
                        done = &mut write => break done?,
                        more = reader.fetch(&mut next, self.limits), if room => broken = more,
                    }
                }
            }
            current.clear();
            std::mem::swap(&mut current, &mut next);
            // An idle partition holds no memory.
            if current.is_empty() {
                (current, next) = (Records::new(), Records::new());
            }
            if self.cancel.is_cancelled() {
                return Err(Ended::Cancelled);
            }
            self.fetched(broken).await?;
        }
    }

    /// Whether the store still says what this task goes by. A write would be fenced otherwise; without one, a generation
    /// that was rolled back to, or a store that was restored, would stay behind for as long as no event comes.
    async fn look(&self, target: &Target, position: Option<Position>) -> Result<(), Ended> {
        let sink = &self.shared.sink;
        let asked = async {
            let builds = sink.builds(&self.shared.name, &target.collection).await?;
            let found = sink.positions(target).await?.get(&self.place.partition).copied();
            Ok::<_, SinkError>(target.build == Build::Live(builds.live) && found == position)
        };
        match self.cancel.run_until_cancelled(asked).await {
            None => Err(Ended::Cancelled),
            Some(Ok(false)) => Err(Ended::Reestablish),
            Some(Ok(true)) => self.listen(position).await,
            // There is nothing to write, so nothing is wrong yet; the next write or look will tell.
            Some(Err(_)) => Ok(()),
        }
    }

    /// Whether the log has events that were not delivered in all that time: then reading begins anew. What lies at the end
    /// may be no events at all (marks of transactions), so that is done once for each end.
    async fn listen(&self, position: Option<Position>) -> Result<(), Ended> {
        let asked = self.shared.log.recent(&self.place.topic);
        let Some(Ok(Some(extents))) = self.cancel.run_until_cancelled(asked).await else { return Ok(()) };
        let end = extents.get(self.place.partition as usize).map_or(0, |extent| extent.end);
        if end > self.epochs.resume(position) && self.reread.swap(end, Ordering::Relaxed) != end {
            tracing::info!(sink = self.shared.name, place = ?self.place, end, "nothing came; reading anew");
            return Err(Ended::Reestablish);
        }
        Ok(())
    }

    /// At least one record, then as many as come within the linger.
    async fn gather(&self, reader: &mut dyn PartitionReader, into: &mut Records) -> Result<bool, LogError> {
        let more = reader.fetch(into, self.limits).await?;
        let linger = self.shared.options.linger();
        if !linger.is_zero() {
            let until = tokio::time::Instant::now() + linger;
            while !self.limits.reached(into) {
                match tokio::time::timeout_at(until, reader.fetch(into, self.limits)).await {
                    Ok(result) => result?,
                    Err(_) => break,
                };
            }
        }
        Ok(more)
    }

    async fn fetched(&self, fetched: Result<bool, LogError>) -> Result<(), Ended> {
        match fetched {
            Ok(_) => Ok(()),
            Err(error) if error.is_passing() => {
                self.wait_for_log(&error).await?;
                Err(Ended::Reestablish)
            }
            // The range may have been cut under us; the check on the way back in says so in full.
            Err(LogError::OutOfRange { .. }) => Err(Ended::Reestablish),
            Err(error) => Err(Ended::Failed(error.to_string())),
        }
    }

    async fn wait_for_log(&self, error: &LogError) -> Result<(), Ended> {
        let pause = tokio::time::sleep(self.shared.log_failed(error));
        self.cancel.run_until_cancelled(pause).await.ok_or(Ended::Cancelled)
    }
}
