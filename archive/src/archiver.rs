//! Moving old ranges of the log to the archive: file first, manifest last, then the next file. Whatever is interrupted in
//! between is done again, and whoever comes second to a manifest goes on from what the first one wrote.

use std::ops::Range;
use std::sync::Arc;

use metrics::counter;
use primal_core::error::LogError;
use primal_core::log::{EventLog, Extent, Limits};
use primal_core::{Collection, Epochs, Offset, Records, Timestamp};
use serde::Serialize;

use crate::archive::{Archive, Life};
use crate::file::{Built, Writer};
use crate::index::{file_name, manifest_name};
use crate::manifest::{Manifest, Place};

/// How much one fetch from the log brings.
pub(crate) const FETCH: Limits = Limits { records: 5_000, bytes: 1 << 20 };

/// What is to be archived: a collection up to a moment.
#[derive(Clone)]
pub struct Request {
    /// The log itself, without its archive.
    pub log: Arc<dyn EventLog>,
    /// The collection.
    pub collection: Collection,
    /// Its lives.
    pub epochs: Arc<Epochs>,
}

/// What was archived of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The collection.
    pub collection: String,
    /// The partition.
    pub partition: i32,
    /// Which life of its topic.
    pub epoch: u64,
    /// The first offset.
    pub from: Offset,
    /// The offset after the last.
    pub to: Offset,
    /// Files that were written.
    pub files: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of keys, values and headers were so many in Parquet.
    pub bytes: u64,
}

/// One step of the chain.
enum Step {
    /// A file was added.
    Written(Manifest),
    /// Another archiver was faster.
    Overtaken,
}

impl Archive {
    /// Archives what was taken before a moment, and is not archived yet; what that was, by partition.
    ///
    /// # Errors
    /// The log's, or the store cannot be reached. What was written by then is written.
    pub async fn archive(&self, request: &Request, before: Timestamp) -> Result<Vec<Moved>, LogError> {
        let topic = request.collection.topic();
        let ends = request.log.offsets_at(&topic, before).await?;
        let extents = request.log.recent(&topic).await?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
        let mut all = Vec::new();
        for (partition, (extent, end)) in (0..).zip(extents.into_iter().zip(ends)) {
            for life in Life::all(&topic, &request.epochs, partition) {
                let end = end.min(extent.end).min(life.end);
                if end > life.start {
                    all.extend(self.archive_life(request, &life, extent, end).await?);
                }
            }
        }
        Ok(all)
    }

    async fn archive_life(
        &self,
        request: &Request,
        life: &Life,
        extent: Extent,
        end: Offset,
    ) -> Result<Option<Moved>, LogError> {
        let mut moved: Option<Moved> = None;
        self.inner.store.make()?;
        self.inner.index.names(self, life).await?;
        for stray in self.inner.index.strays(self, life).await? {
            tracing::info!(stray, "a file without manifest is removed");
            self.inner.store.delete(&stray).await?;
        }
        loop {
            let (after, until) = self.inner.index.end(self, life).await?;
            let from = after.max(extent.start);
            if from >= end {
                return Ok(moved);
            }
            if from > after && after > life.start {
                tracing::warn!(
                    topic = %life.topic,
                    partition = life.partition,
                    "offsets [{after}, {from}) left the log before they were archived"
                );
            }
            match self.step(request, life, after, from..end, until).await? {
                Step::Overtaken => self.inner.index.refresh(self, life).await?,
                Step::Written(manifest) => {
                    let collection = request.collection.to_string();
                    counter!("primalcore_archived_records_total", "collection" => collection.clone())
                        .increment(manifest.records);
                    let one = moved.get_or_insert(Moved {
                        collection,
                        partition: life.partition,
                        epoch: life.epoch,
                        from: manifest.from,
                        to: manifest.to,
                        files: 0,
                        records: 0,
                        bytes: 0,
                    });
                    one.to = manifest.to;
                    one.files += 1;
                    one.records += manifest.records;
                    one.bytes += manifest.bytes;
                    self.inner.index.add(self, life, manifest);
                }
            }
        }
    }

    /// Writes one file, and its manifest.
    async fn step(
        &self,
        request: &Request,
        life: &Life,
        after: Offset,
        range: Range<Offset>,
        until: Timestamp,
    ) -> Result<Step, LogError> {
        let (from, end) = (range.start, range.end);
        let (built, to) = build(request, life, from..end, until).await?;
        let folder = self.folder(life);
        let file = file_name(after, &built.sha256);
        let name = format!("{folder}/{file}");
        self.inner.store.put(&name, built.bytes.clone()).await?;
        let (topic, partition, epoch) = (self.topic(&life.topic), life.partition, life.epoch);
        let place = Place { topic, partition, epoch, after, from, to, recorded_until: until };
        let manifest = Manifest::new(place, file, &built);
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| LogError::Internal(e.to_string()))?;
        if self.inner.store.create(&format!("{folder}/{}", manifest_name(after)), text.into()).await? {
            return Ok(Step::Written(manifest));
        }
        // The file of the other one may be this one; else nobody will ever look at this one.
        self.inner.index.refresh(self, life).await?;
        let first = self.inner.index.manifest(self, life, after).await?;
        if first.file != manifest.file {
            self.inner.store.delete(&name).await?;
        }
        Ok(Step::Overtaken)
    }
}

/// Reads a range of the log into a file, as far as one goes; the file, and where it ends.
async fn build(
    request: &Request,
    life: &Life,
    range: Range<Offset>,
    until: Timestamp,
) -> Result<(Built, Offset), LogError> {
    let mut writer = Writer::new(range.start, until)?;
    let mut reader = request.log.read(&life.topic, life.partition, range.clone()).await?;
    let mut records = Records::new();
    while reader.fetch(&mut records, FETCH).await? {
        for record in records.iter() {
            writer.push(record)?;
            if writer.is_full() {
                let to = writer.end();
                return Ok((writer.finish(to)?, to));
            }
        }
        records.clear();
    }
    Ok((writer.finish(range.end)?, range.end))
}
