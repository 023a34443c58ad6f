//! Repair in place: the entities of a selection are written again with their newest state, also where the store holds
//! that version already. Newer records stay; the position does not move; live traffic goes on.
//!
//! The store keeps no position of a repair, so its progress says how far each partition is, and a repair that is taken up
//! again writes nothing before that.

use hashbrown::HashSet;
use primal_audit::Within;
use primal_core::batch::Mode as WriteMode;
use primal_core::event::EventRef;
use primal_core::sink::Target;
use primal_core::{Offset, Records};
use primal_runtime::dead_letter::{self, Letters};

use crate::plan::{Plan, Range};
use crate::scan::Scan;
use crate::shadow::Rebuilt;
use crate::{Mode, Progress, Replay, ReplayError, Request};

/// What all partitions of one repair share.
struct Repair<'a> {
    scan: &'a Scan,
    request: &'a Request,
    target: &'a Target,
    within: Within,
    letters: Letters,
    progress: &'a dyn Progress,
}

/// How far one partition is.
struct At {
    /// All before was written.
    written: Offset,
    /// All before was read at least once; it may be read again to learn which entities are meant.
    read: Offset,
}

impl Replay {
    pub(crate) async fn repair(
        &self,
        scan: &Scan,
        request: &Request,
        plan: &Plan,
        target: &Target,
        progress: &dyn Progress,
    ) -> Result<Rebuilt, ReplayError> {
        self.patiently(|| async { Ok(self.sink.prepare(target).await?) }).await?;
        let positions = self.patiently(|| async { Ok(self.sink.positions(target).await?) }).await?;
        let letters = self.patiently(|| async { Ok(dead_letter::of_target(&*self.log, target).await?) }).await?;
        progress.begin("repair", plan.events);
        let repair = Repair { scan, request, target, within: plan.within(request), letters, progress };
        let mut done = self.nothing(request, Mode::Repair);
        for range in &plan.ranges {
            // Beyond its position the store is not wrong, only not there yet; the worker brings the rest.
            let applied = request.feed.epochs.resume(positions.get(&range.partition).copied());
            let written = plan.reached.get(&range.partition).copied().unwrap_or(range.from);
            let mut at = At { written, read: range.from };
            let mut attempt = 0;
            loop {
                let before = at.written;
                match self.repair_partition(&repair, *range, applied, &mut at, &mut done).await {
                    Err(error) if error.is_outage() => {
                        attempt = if at.written > before { 0 } else { attempt + 1 };
                        self.wait(&error, attempt).await?;
                    }
                    ended => break ended?,
                }
            }
            self.job.well();
        }
        Ok(done)
    }

    async fn repair_partition(
        &self,
        repair: &Repair<'_>,
        range: Range,
        applied: Offset,
        at: &mut At,
        done: &mut Rebuilt,
    ) -> Result<(), ReplayError> {
        let Repair { scan, request, target, within, letters, progress } = repair;
        let partition = range.partition;
        let selected_to = range.to.min(applied);
        let every = target.projection.keeps_every_event();
        // An entity of the range may have a newer event behind it, which is what the store has to hold.
        let read_to = if every { selected_to } else { applied };
        // Which entities are meant is known only from what is before; where all are, nothing before is needed.
        let by_event = !every && (selected_to < read_to || !request.selection.has_only_keys());
        let read_from = if by_event { range.from } else { at.written.max(range.from) };
        let topic = target.collection.topic();
        let Some(mut reader) = scan.read(&topic, partition, read_from..read_to).await? else { return Ok(()) };
        progress.skip((read_from - at.read).max(0) as u64);
        at.read = at.read.max(read_from);
        let epochs = &request.feed.epochs;
        let mut touched: HashSet<String> = HashSet::new();
        let mut records = Records::new();
        loop {
            self.job.admit(0).await?;
            if !reader.fetch(&mut records, self.job.limits(1)).await? {
                return Ok(());
            }
            let mut events = Vec::new();
            for record in records.iter() {
                let Ok(event) = EventRef::decode(record) else { continue };
                let meant = within.takes(partition, &record) && record.offset < selected_to;
                if letters.contains(&(partition, epochs.version(partition, record.offset))) {
                    continue;
                }
                if meant && by_event && !touched.contains(event.key) {
                    touched.insert(event.key.to_owned());
                }
                if (meant || touched.contains(event.key)) && record.offset >= at.written {
                    events.push(event);
                }
            }
            if !events.is_empty() {
                self.job.admit(events.len()).await?;
                let rewritten = self.job.rewrite(target, epochs, partition, WriteMode::Repair, events).await?;
                done.applied += rewritten.applied;
                done.rejected += rewritten.rejected.len() as u64;
            }
            let read = records.iter().filter(|record| record.offset >= at.read).count() as u64;
            done.events += read;
            progress.advance(read);
            if let Some(next) = records.next_offset() {
                at.read = at.read.max(next);
                if next > at.written {
                    at.written = next;
                    progress.reached(partition, next);
                }
            }
            records.clear();
        }
    }
}
