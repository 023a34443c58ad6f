//! Filling a build from the log: partitions side by side, each from where the build's own position is.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashSet;
use primal_audit::Tally;
use primal_core::sink::{Positions, Target};
use primal_core::{Epochs, Offset, Partition, Records};
use primal_runtime::dead_letter::{self, Letters};
use primal_runtime::{Filled, Job, JobError, Seen};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::plan::Range;
use crate::scan::Scan;
use crate::{Progress, Replay, ReplayError, Request};

/// How often a fill is begun again that was fenced and has not come any further.
const FENCED: u32 = 3;

/// What all partitions of one fill share.
#[derive(Clone)]
pub(crate) struct Fill {
    job: Job,
    scan: Scan,
    target: Target,
    epochs: Arc<Epochs>,
    keys: Arc<BTreeSet<String>>,
    letters: Arc<Letters>,
    /// Told of all that is read, where verification goes by it.
    tally: Option<Arc<Tally>>,
    progress: Arc<dyn Progress>,
    /// Ends it between two writes.
    pub(crate) stop: CancellationToken,
}

impl Replay {
    /// Brings a build up to the end of the given ranges, from where its positions are. While the store or the log fails
    /// it waits, and goes on from there.
    pub(crate) async fn fill(
        &self,
        request: &Request,
        target: &Target,
        ranges: &[Range],
        scan: &Scan,
        tally: Option<&Arc<Tally>>,
        progress: &Arc<dyn Progress>,
    ) -> Result<(), ReplayError> {
        let (mut from, mut attempt, mut fenced) = (None, 0, 0);
        loop {
            let positions = self.patiently(|| async { Ok(self.sink.positions(target).await?) }).await?;
            if from.as_ref() != Some(&positions) {
                (attempt, fenced) = (0, 0);
            }
            let fill = self.patiently(|| self.filling(request, target, scan, tally, progress)).await?;
            match fill.run(ranges, &positions).await {
                Err(error) if error.is_outage() => self.wait(&error, attempt).await?,
                // A write whose answer was lost is fenced when it is tried again: the store is further than was known.
                Err(error) if error.is_passing() && fenced < FENCED => {
                    self.wait(&error, attempt).await?;
                    fenced += 1;
                }
                done => {
                    if from.is_some() {
                        self.job.well();
                    }
                    return done;
                }
            }
            (from, attempt) = (Some(positions), attempt + 1);
        }
    }

    pub(crate) async fn filling(
        &self,
        request: &Request,
        target: &Target,
        scan: &Scan,
        tally: Option<&Arc<Tally>>,
        progress: &Arc<dyn Progress>,
    ) -> Result<Fill, ReplayError> {
        let (job, stop) = self.job.part();
        Ok(Fill {
            job,
            scan: scan.clone(),
            target: target.clone(),
            epochs: request.feed.epochs.clone(),
            keys: Arc::new(request.selection.keys.clone()),
            letters: Arc::new(dead_letter::of_target(&*self.log, target).await?),
            tally: tally.cloned(),
            progress: progress.clone(),
            stop,
        })
    }
}

impl Fill {
    /// All ranges, side by side, from where the build is.
    pub(crate) async fn run(&self, ranges: &[Range], positions: &Positions) -> Result<(), ReplayError> {
        let mut running = JoinSet::new();
        for range in ranges {
            running.spawn(self.clone().partition(*range, positions.clone(), ranges.len()));
        }
        // When one ends early the others do so too, but none is cut off: where nothing is compared, a write that lands
        // after those of the next attempt would undo them.
        let mut result = Ok(());
        while let Some(ended) = running.join_next().await {
            let ended = ended.unwrap_or_else(|e| Err(ReplayError::Failed(format!("a task of the replay ended: {e}"))));
            if ended.is_err() {
                self.stop.cancel();
            }
            result = result.and(ended);
        }
        self.job.settle().await;
        result
    }

    async fn partition(self, range: Range, positions: Positions, partitions: usize) -> Result<(), ReplayError> {
        let partition = range.partition;
        let position = positions.get(&partition).copied();
        let start = self.epochs.resume(position).max(range.from);
        // Where no partition has a position, nothing has been written.
        let mut filled = Filled { position, seen: positions.is_empty().then(Seen::default) };
        let mut records = Records::new();
        if let Some(mut reader) = self.scan.read(&self.target.collection.topic(), partition, start..range.to).await? {
            loop {
                let limits = self.job.limits(partitions);
                let fetched = self.stop.run_until_cancelled(reader.fetch(&mut records, limits)).await;
                if !fetched.ok_or(JobError::Cancelled)?? {
                    break;
                }
                let mut left_out: HashSet<Offset> =
                    records.iter().filter(|r| !self.takes(partition, r)).map(|r| r.offset).collect();
                self.job.admit(records.len() - left_out.len()).await?;
                let written =
                    self.job.apply(&self.target, &self.epochs, partition, &records, &mut filled, &mut left_out);
                // The store is at work already when what it will be compared with is worked out.
                tokio::try_join!(written, async {
                    self.tally.iter().for_each(|tally| tally.take(partition, &records));
                    Ok(())
                })?;
                self.progress.advance(records.len() as u64);
                records.clear();
            }
        }
        // What lies before the end and is no record counts as read, and an empty partition too: the live generation may
        // say so, and this one never counts as caught up while it says less.
        if range.to > 0 && filled.position.is_none_or(|position| position.offset() < range.to) {
            records.clear();
            records.advance_to(range.to);
            let (target, mut none) = (&self.target, HashSet::new());
            self.job.apply(target, &self.epochs, partition, &records, &mut filled, &mut none).await?;
        }
        Ok(())
    }

    fn takes(&self, partition: Partition, record: &primal_core::RecordRef<'_>) -> bool {
        let version = self.epochs.version(partition, record.offset);
        let wanted = |key: &[u8]| std::str::from_utf8(key).is_ok_and(|key| self.keys.contains(key));
        (self.keys.is_empty() || record.key.is_some_and(wanted)) && !self.letters.contains(&(partition, version))
    }
}
