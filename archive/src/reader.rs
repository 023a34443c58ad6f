//! Reading a partition that begins in the archive: group of rows after group of rows, then the log. What is under way is
//! kept, so that a call that is dropped costs nothing but itself.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use primal_core::error::LogError;
use primal_core::log::{Limits, PartitionReader};
use primal_core::{Offset, Partition, RecordRef, Records, Topic};

use crate::archive::Life;
use crate::file::Opened;
use crate::log::ArchivedLog;
use crate::manifest::Manifest;

/// What comes next.
enum Next {
    /// The records of a group, and the offset to go on from; and where the log begins by now.
    Group { records: Records, next: Offset, opened: Opened, start: Offset },
    /// The archive is done with.
    Log(Box<dyn PartitionReader>),
    /// The range is.
    End,
}

pub(crate) struct Reader {
    way: Way,
    /// The group at hand, and which of its records comes next.
    group: Option<(Records, usize)>,
    /// Where the group after it begins.
    next: Offset,
    opened: Option<Opened>,
    /// A reader of the log that waits at `way.start`.
    waiting: Option<Box<dyn PartitionReader>>,
    log: Option<Box<dyn PartitionReader>>,
    under_way: Option<BoxFuture<'static, Result<Next, LogError>>>,
    is_done: bool,
}

/// What is read, and where the log took over when that was last looked at.
#[derive(Clone)]
struct Way {
    log: ArchivedLog,
    topic: Topic,
    partition: Partition,
    range: Range<Offset>,
    start: Offset,
}

impl Reader {
    /// A range that begins before the log does, which begins at `start`; `waiting` reads the log from there, otherwise one is
    /// opened when it is needed. That the archive has the range's beginning is looked at here.
    pub(crate) async fn open(
        log: ArchivedLog,
        topic: Topic,
        partition: Partition,
        range: Range<Offset>,
        start: Offset,
        waiting: Option<Box<dyn PartitionReader>>,
    ) -> Result<Box<dyn PartitionReader>, LogError> {
        let next = range.start;
        let way = Way { log, topic, partition, range, start };
        if next < way.range.end {
            way.find(next).await?;
        }
        let (group, opened, log, under_way) = (None, None, None, None);
        Ok(Box::new(Reader { way, group, next, opened, waiting, log, under_way, is_done: false }))
    }

    /// Takes what is left of the group at hand. Nothing in here waits, so nothing can be half taken.
    fn drain(&mut self, into: &mut Records, limits: Limits) {
        let Some((records, at)) = &mut self.group else { return };
        while let Some(record) = records.get(*at) {
            if limits.reached(into) {
                return;
            }
            *at += 1;
            copy(record, into);
        }
        into.advance_to(self.next);
        self.group = None;
    }
}

fn copy(record: RecordRef<'_>, into: &mut Records) {
    let block = record.headers.block();
    into.push(record.offset, record.recorded, record.key, record.value, |b| b.extend_from_slice(block));
}

impl Way {
    /// The file and the group that hold an offset.
    async fn find(&self, offset: Offset) -> Result<(Life, Arc<Manifest>, usize), LogError> {
        let gap = |to| LogError::Gap { topic: self.topic.clone(), partition: self.partition, from: offset, to };
        let Some(life) = self.log.life(&self.topic, self.partition, offset) else { return Err(gap(self.start)) };
        match self.log.archive().find(&life, offset).await? {
            Some((manifest, group)) => Ok((life, manifest, group)),
            None => Err(gap(self.start.min(life.end))),
        }
    }

    /// Reads on from an offset.
    async fn read(
        mut self,
        next: Offset,
        opened: Option<Opened>,
        waiting: Option<Box<dyn PartitionReader>>,
    ) -> Result<Next, LogError> {
        if next >= self.range.end {
            return Ok(Next::End);
        }
        if next >= self.start {
            if let Some(waiting) = waiting {
                return Ok(Next::Log(waiting));
            }
            match self.log.inner().read(&self.topic, self.partition, next..self.range.end).await {
                // Retention has gone on.
                Err(LogError::OutOfRange { start, .. }) if next < start => self.start = start,
                other => return other.map(Next::Log),
            }
        }
        let (life, manifest, group) = self.find(next).await?;
        let opened = match opened.filter(|opened| *opened.manifest == *manifest) {
            Some(opened) => opened,
            None => self.log.archive().open_file(&life, manifest).await?,
        };
        let start = self.start;
        let Some(range) = opened.manifest.groups.get(group).map(|group| group.from..group.to) else {
            // Offsets without records.
            return Ok(Next::Group { records: Records::new(), next: opened.manifest.to, opened, start });
        };
        let mut records = opened.group(&self.log.archive().inner.store, group).await?;
        let to = range.end.min(start).min(self.range.end);
        if range.start < next || to < range.end {
            let mut part = Records::new();
            records.iter().filter(|record| (next..to).contains(&record.offset)).for_each(|r| copy(r, &mut part));
            records = part;
        }
        Ok(Next::Group { records, next: to, opened, start })
    }
}

#[async_trait]
impl PartitionReader for Reader {
    async fn fetch(&mut self, into: &mut Records, limits: Limits) -> Result<bool, LogError> {
        let had = into.len();
        loop {
            if let Some(log) = &mut self.log {
                return log.fetch(into, limits).await;
            }
            self.drain(into, limits);
            if into.len() > had || self.group.is_some() {
                return Ok(true);
            }
            if self.is_done {
                return Ok(false);
            }
            let under_way = match &mut self.under_way {
                Some(under_way) => under_way,
                None => {
                    let waiting = if self.next >= self.way.start { self.waiting.take() } else { None };
                    let reading = self.way.clone().read(self.next, self.opened.take(), waiting);
                    self.under_way.insert(Box::pin(reading))
                }
            };
            let read = under_way.await;
            self.under_way = None;
            match read? {
                Next::Group { records, next, opened, start } => {
                    self.group = Some((records, 0));
                    self.next = next;
                    self.opened = Some(opened);
                    self.way.start = start;
                }
                Next::Log(log) => self.log = Some(log),
                Next::End => self.is_done = true,
            }
        }
    }
}
