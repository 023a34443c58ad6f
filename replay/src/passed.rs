//! What the live generation holds although it has a dead letter. A worker that was frozen between reading a batch and writing
//! its dead letters writes them when it wakes, though another has got past it meanwhile. A rebuild leaves out what has a
//! dead letter; so before it is swapped in, it is given what readers have seen.

use std::time::Duration;

use primal_core::batch::Mode;
use primal_core::event::EventRef;
use primal_core::sink::{Build, Stored, Target};
use primal_core::{Fault, Reader, Retry, SinkError};
use primal_runtime::dead_letter::{self, DeadLetter, Kind};

use crate::plan::Range;
use crate::{Replay, ReplayError, Request};

/// How often a record is asked for again.
const AGAIN: u32 = 4;

impl Replay {
    /// Applies those events to a build that have a dead letter, that the live generation holds, and the build does not.
    pub(crate) async fn take_in_passed(
        &self,
        request: &Request,
        target: &Target,
        ranges: &[Range],
    ) -> Result<(), ReplayError> {
        let Some(reader) = self.sink.reader() else { return Ok(()) };
        let collection = &target.collection;
        let covered = |letter: &DeadLetter| {
            let here = |range: &Range| {
                range.partition == letter.origin.partition && (range.from..range.to).contains(&letter.origin.offset)
            };
            letter.origin.topic == collection.as_str()
                && letter.origin.epoch >= request.feed.epochs.oldest()
                && letter.kind != Kind::Undecodable
                && (request.selection.keys.is_empty() || request.selection.keys.contains(&letter.key))
                && ranges.iter().any(here)
        };
        let letters: Vec<DeadLetter> =
            dead_letter::read_all(&*self.log, &self.name).await?.into_values().filter(covered).collect();
        if letters.is_empty() {
            return Ok(());
        }
        let live = self.sink.builds(&self.name, collection).await?.live;
        let live = target.with_build(Build::Live(live));
        match self.sink.prepare(&live).await {
            Ok(()) => {}
            // It was built for another schema, and cannot be read by this one.
            Err(error) if error.fault == Fault::Incompatible => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for letter in letters {
            // A letter of a point does not tell which one it is.
            let Some(identity) = live.identity(&letter.key, &letter.id, None, letter.at) else { continue };
            let holds = |stored: Stored| stored.version == letter.version && stored.event_id == letter.id;
            // Not every store compares versions: what the build has of a newer event, read before it had a letter, stays.
            let is_past = |stored: Stored| !target.replaces(Mode::Apply, letter.version, stored.version);
            if !self.stored(reader, &live, &identity).await?.is_some_and(holds)
                || self.stored(reader, target, &identity).await?.is_some_and(is_past)
            {
                continue;
            }
            let records = self.record_at(request, &letter).await?;
            let events = records.iter().filter_map(|record| EventRef::decode(record).ok());
            let partition = letter.origin.partition;
            self.job.rewrite(target, &request.feed.epochs, partition, Mode::Apply, events.collect()).await?;
        }
        Ok(())
    }

    /// One record. What may pass is tried again here: from the beginning, all letters would be asked for again.
    async fn stored(&self, reader: &dyn Reader, target: &Target, identity: &str) -> Result<Option<Stored>, SinkError> {
        for attempt in 0..AGAIN {
            match reader.get(target, identity).await {
                Err(error) if error.retry != Retry::No => {
                    let pause = self.env.backoff(Duration::from_millis(50), Duration::from_secs(1), attempt);
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
        reader.get(target, identity).await
    }
}
