//! Repair in place: the keys of a range are written again with their newest state, also where the store holds that
//! version already. Newer records stay; the position does not move; live traffic goes on.

use hashbrown::HashSet;
use primal_core::batch::Mode as WriteMode;
use primal_core::event::EventRef;
use primal_core::sink::Target;
use primal_core::{Offset, Partition, Records, Version};

use crate::plan::{Plan, Range};
use crate::shadow::Rebuilt;
use crate::{Mode, Progress, Replay, ReplayError, Request};

impl Replay {
    pub(crate) async fn repair(
        &self,
        request: &Request,
        plan: &Plan,
        target: &Target,
        progress: &dyn Progress,
    ) -> Result<Rebuilt, ReplayError> {
        self.sink.prepare(target).await?;
        let positions = self.sink.positions(target).await?;
        let letters = self.letters(target).await?;
        progress.begin("repair", plan.events);
        let mut done = self.nothing(request, Mode::Repair);
        for range in &plan.ranges {
            // Beyond its position the store is not wrong, only not there yet; the worker brings the rest.
            let applied = request.feed.epochs.resume(positions.get(&range.partition).copied());
            self.repair_partition(request, target, *range, applied, &letters, progress, &mut done).await?;
        }
        Ok(done)
    }

    #[expect(clippy::too_many_arguments, reason = "one partition of a repair; the parts belong to the whole of it")]
    async fn repair_partition(
        &self,
        request: &Request,
        target: &Target,
        range: Range,
        applied: Offset,
        letters: &HashSet<(Partition, Version)>,
        progress: &dyn Progress,
        done: &mut Rebuilt,
    ) -> Result<(), ReplayError> {
        let topic = target.collection.topic();
        let selected_to = range.to.min(applied);
        // A key of the range may have a newer event behind it, which is what the store has to hold.
        let read_to = if target.projection.keeps_every_event() { selected_to } else { applied };
        if range.from >= read_to {
            return Ok(());
        }
        let mut touched: HashSet<String> = HashSet::new();
        let mut reader = self.log.read(&topic, range.partition, range.from..read_to).await?;
        let mut records = Records::new();
        while reader.fetch(&mut records, self.job.limits(1)).await? {
            let mut events = Vec::new();
            for record in records.iter() {
                let Ok(event) = EventRef::decode(record) else { continue };
                let chosen = request.keys.is_empty() || request.keys.contains(event.key);
                let inside = record.offset < selected_to;
                let version = request.feed.epochs.version(range.partition, record.offset);
                if !chosen || letters.contains(&(range.partition, version)) {
                    continue;
                }
                if inside && selected_to < read_to && !touched.contains(event.key) {
                    touched.insert(event.key.to_owned());
                }
                if inside || touched.contains(event.key) {
                    events.push(event);
                }
            }
            let rewritten =
                self.job.rewrite(target, &request.feed.epochs, range.partition, WriteMode::Repair, events).await?;
            done.applied += rewritten.applied;
            done.rejected += rewritten.rejected.len() as u64;
            done.events += records.len() as u64;
            progress.advance(records.len() as u64);
            records.clear();
        }
        Ok(())
    }
}
