//! Reading one partition: short fetches, errors, and waiting at the end.

use std::ops::Range;

use async_trait::async_trait;
use primal_core::error::LogError;
use primal_core::log::{Limits, PartitionReader};
use primal_core::{Offset, Partition, Records, Topic};

use crate::group::unavailable;
use crate::process::Process;

pub(crate) struct Reader {
    process: Process,
    topic: Topic,
    partition: Partition,
    next: Offset,
    end: Offset,
}

impl Reader {
    pub(crate) fn new(process: &Process, topic: &Topic, partition: Partition, range: Range<Offset>) -> Self {
        Reader { process: process.clone(), topic: topic.clone(), partition, next: range.start, end: range.end }
    }
}

#[async_trait]
impl PartitionReader for Reader {
    async fn fetch(&mut self, into: &mut Records, limits: Limits) -> Result<bool, LogError> {
        let world = self.process.world.clone();
        loop {
            let rung = world.appended.notified();
            let (has, known) = match world.log().partition(&self.topic, self.partition) {
                Some(log) => (log.has(self.next, self.end), log.next.min(self.end)),
                None => return Err(LogError::NoTopic(self.topic.clone())),
            };
            if has {
                let drawn = self.process.draw();
                self.process.step("fetch").await.map_err(unavailable)?;
                let most = if drawn.is_multiple_of(3) { 1 + (drawn >> 8) as usize % 3 } else { usize::MAX };
                if let Some(log) = world.log().partition(&self.topic, self.partition) {
                    self.next = log.take(self.next, self.end, into, limits, most);
                }
                return Ok(true);
            }
            // What lies before the end and is no record was a marker, or was compacted away.
            if self.next < known {
                self.next = known;
                into.advance_to(known);
            }
            if self.next >= self.end {
                return Ok(false);
            }
            rung.await;
        }
    }
}
